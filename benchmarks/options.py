"""What the command takes, and what every benchmark is given."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.environments import DEFAULT, PACKAGES
from benchmarks.images import given_folder, make_folder
from benchmarks.nets import NETS
from resnetlab.errors import BadInput, unknown

PEERS = ("plain", *PACKAGES)
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Options:
    """The command's options. `keep` stores what has been measured so far, in the middle of a long benchmark."""

    rounds: int
    scratch: Path  # for as long as the command runs
    steps: int | None = None
    data: Path | None = None
    nets: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    environments: Path = DEFAULT
    peer_path: Mapping[str, Path] = field(default_factory=dict)
    quick: bool = False
    say: Callable[[str], None] = print
    keep: Callable[[dict[str, Any]], None] = lambda _: None

    def wants(self, peer: str) -> bool:
        """Whether a peer takes part; in a quick run only those that need no environment, unless it is named."""
        if self.only:
            return peer in self.only
        return peer not in PACKAGES or not self.quick

    def small_images(self, at_least: int) -> Path:
        """A folder of 32x32 JPEG files: the one that was given, or a made one; a quick run looks into no variable."""
        given = given_folder(self.data)
        if given is not None and (self.data or not self.quick):
            return given
        return self._made("small", at_least, (32, 32))

    def large_images(self, at_least: int) -> Path:
        """A folder of JPEG files for a network that sees 224 pixels."""
        return self._made("large", at_least, (256, 320))

    def _made(self, name: str, images: int, sides: tuple[int, int]) -> Path:
        images = 1000 * math.ceil(images / 1000) if images > 1000 else images  # few different ones: each is made once
        folder = self.scratch / f"{name}-{images}"
        if not folder.exists():
            self.say(f"making {images:,} images in {folder}")
            make_folder(folder, images, sides)
        return folder


def parse(words: Sequence[str] | None, about: str, benchmarks: Mapping[str, str]) -> argparse.Namespace:
    """The command line; argparse refuses what is not there with a sentence and exit code 2."""
    listed = "\n".join(f"  {name:<12} {text}" for name, text in benchmarks.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=about,
        epilog=f"benchmarks:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run, one after the other; default: all")
    parser.add_argument("--rounds", type=int, help="times that each contender runs (default: 5; quick: 1)")
    parser.add_argument("--steps", type=int, help="timed steps a round, instead of each benchmark's own number")
    parser.add_argument("--data", type=Path, help="folder with train/<class>/* of 32x32 images")
    parser.add_argument("--nets", type=words_of, default=(), help=f"of training: {', '.join(NETS)}")
    parser.add_argument("--only", type=words_of, default=(), help=f"beside ours: {', '.join(PEERS)}")
    parser.add_argument("--environments", type=Path, default=DEFAULT, help="where the peers' environments are kept")
    parser.add_argument("--peer-path", action="append", default=[], metavar="PEER=FOLDER", help="a peer not on PyPI")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works, and stores nothing")
    parser.add_argument("--dry", action="store_true", help="store nothing")
    parser.add_argument("--check", action="store_true", help="of table: fail where the page is not up to date")
    return parser.parse_args(words)


def words_of(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def checked(given: argparse.Namespace, scratch: Path, say: Callable[[str], None]) -> Options:
    """The options, if they make sense; BadInput otherwise."""
    rounds = given.rounds if given.rounds is not None else (1 if given.quick else 5)
    for what, number in (("--rounds", rounds), ("--steps", given.steps)):
        if number is not None and number < 1:
            raise BadInput(f"{what} is {number}; give a whole number from 1 up")
    for kind, words, allowed in (("net", given.nets, NETS), ("peer", given.only, PEERS)):
        for word in words:
            if word not in allowed:
                raise unknown(kind, word, allowed)
    paths = {}
    for text in given.peer_path:
        peer, equals, folder = text.partition("=")
        if not equals or not Path(folder).is_dir():
            raise BadInput(
                f"--peer-path {text!r} names no folder; give it as PEER=FOLDER, such as airbench=/tmp/airbench"
            )
        paths[peer] = Path(folder).resolve()
    given_folder(given.data)
    return Options(
        rounds=rounds,
        steps=given.steps,
        data=given.data,
        nets=given.nets,
        only=given.only,
        environments=given.environments.expanduser().resolve(),
        peer_path=paths,
        quick=given.quick,
        scratch=scratch,
        say=say,
    )
