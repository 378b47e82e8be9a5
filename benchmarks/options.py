"""The options of the command, which every benchmark receives."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.environments import DEFAULT, PACKAGES
from benchmarks.images import given_folder, make_folder
from benchmarks.nets import NETS
from benchmarks.results import machine_of
from resnetlab.errors import BadInput, unknown

PEERS = ("plain", "bare", *PACKAGES)
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Options:
    """The command's options. `keep` stores the results so far in the middle of a long benchmark; `stored` has those of
    earlier ones, an entry for each machine, and `environment` is this machine with the commit of the code."""

    rounds: int
    scratch: Path  # deleted when the command ends
    steps: int | None = None
    data: Path | None = None
    nets: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    minutes: float | None = None  # out_of_box: the time of each contender's process
    environments: Path = DEFAULT
    peer_path: Mapping[str, Path] = field(default_factory=dict)
    fast_only: bool = False  # packages only with their fast options
    resume: bool = False  # skip what is stored from this machine and commit with as many rounds
    stored: Sequence[Mapping[str, Any]] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = False
    say: Callable[[str], None] = print
    keep: Callable[[dict[str, Any]], None] = lambda _: None

    def wants(self, peer: str) -> bool:
        """True if a peer takes part; a quick run skips peers that need an environment, unless named with --only."""
        if self.only:
            return peer in self.only
        return peer not in PACKAGES or not self.quick

    def left(self, subjects: Iterable[str]) -> list[str]:
        """The subjects to measure: all, or with --resume those that are not stored from this machine and commit."""
        return [subject for subject in subjects if not (self.resume and self.is_stored(subject))]

    def is_stored(self, subject: str) -> bool:
        """True if a subject is stored from this machine and commit with as many rounds or more."""
        stored = [group for entry in self.stored for group in entry.get("groups", ()) if group["subject"] == subject]
        return any(
            machine_of(group["environment"]) == machine_of(self.environment)
            and group["environment"].get("commit") == self.environment["commit"]
            and len(group["contenders"][0]["values"]) >= self.rounds
            for group in stored
        )

    def small_images(self, at_least: int) -> Path:
        """Folder of 32x32 JPEG files: the given one, or a generated one; a quick run ignores environment variables."""
        given = given_folder(self.data)
        if given is not None and (self.data or not self.quick):
            return given
        return self._made("small", at_least, (32, 32))

    def large_images(self, at_least: int) -> Path:
        """Folder of generated JPEG files for networks with 224-pixel input."""
        return self._made("large", at_least, (256, 320))

    def photos(self, at_least: int) -> Path:
        """Folder of generated JPEG files with the sides of ImageNet's photos."""
        return self._made("photos", at_least, (375, 500), grain=48, noise=8)

    def imagenet(self, at_least: int) -> Path:
        """Folder of generated JPEG files with the sides, the quality and the bytes of ImageNet's photos."""
        return self._made("imagenet", at_least, (375, 500), grain=48, noise=18, quality=90)

    def _made(self, name: str, images: int, sides: tuple[int, int], **kind: Any) -> Path:
        images = 1000 * math.ceil(images / 1000) if images > 1000 else images  # rounded, so that few folders are needed
        folder = self.scratch / f"{name}-{images}"
        if not folder.exists():
            self.say(f"creating {images:,} images in {folder}")
            make_folder(folder, images, sides, **kind)
        return folder


def parse(words: Sequence[str] | None, about: str, benchmarks: Mapping[str, str]) -> argparse.Namespace:
    """Parse the command line; argparse exits with code 2 for unknown options."""
    listed = "\n".join(f"  {name:<12} {text}" for name, text in benchmarks.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=about,
        epilog=f"benchmarks:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run, one after the other; default: all")
    parser.add_argument("--rounds", type=int, help="runs of each contender (default: 3; quick: 1)")
    parser.add_argument("--steps", type=int, help="timed steps per round (default: depends on the benchmark)")
    parser.add_argument("--data", type=Path, help="folder with train/<class>/* of 32x32 images")
    parser.add_argument(
        "--nets", type=words_of, default=(), help=f"comma-separated tasks of the training benchmark: {', '.join(NETS)}"
    )
    parser.add_argument(
        "--only", type=words_of, default=(), help=f"comma-separated contenders to compare with: {', '.join(PEERS)}"
    )
    parser.add_argument(
        "--fast-only", action="store_true", help="training: run the packages with their fast options only"
    )
    parser.add_argument("--minutes", type=float, help="out_of_box: give each contender this time in place of 30 epochs")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="training, floor, accelerate, rounding, out_of_box: skip what is stored from this machine and commit, "
        "with as many rounds or more",
    )
    parser.add_argument(
        "--environments", type=Path, default=DEFAULT, help="folder of the packages' virtual environments"
    )
    parser.add_argument(
        "--peer-path",
        action="append",
        default=[],
        metavar="PEER=FOLDER",
        help="folder of a package that is not on PyPI",
    )
    parser.add_argument(
        "--quick", action="store_true", help="check that everything runs, with tiny sizes; store nothing"
    )
    parser.add_argument("--dry", action="store_true", help="store nothing")
    parser.add_argument(
        "--machine", metavar="TEXT", help="with forget: remove rows of machines whose name contains TEXT"
    )
    parser.add_argument("--before", metavar="DATE", help="with forget: remove rows measured before YYYY-MM-DD")
    parser.add_argument("--check", action="store_true", help="with table: fail if a page is out of date")
    return parser.parse_args(words)


def words_of(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def checked(given: argparse.Namespace, scratch: Path, say: Callable[[str], None]) -> Options:
    """Check the options. Raises BadInput."""
    rounds = given.rounds if given.rounds is not None else (1 if given.quick else 3)
    for what, number in (("--rounds", rounds), ("--steps", given.steps)):
        if number is not None and number < 1:
            raise BadInput(f"{what} is {number}; give a whole number of at least 1")
    for kind, words, allowed in (("net", given.nets, NETS), ("peer", given.only, PEERS)):
        for word in words:
            if word not in allowed:
                raise unknown(kind, word, allowed)
    if given.minutes is not None and not 0 < given.minutes < math.inf:
        raise BadInput(f"--minutes is {given.minutes:g}; give a number above 0")
    paths = {}
    for text in given.peer_path:
        peer, equals, folder = text.partition("=")
        if not equals or not Path(folder).is_dir():
            raise BadInput(
                f"--peer-path {text!r} has no existing folder; give it as PEER=FOLDER, such as airbench=/tmp/airbench"
            )
        paths[peer] = Path(folder).resolve()
    given_folder(given.data)
    return Options(
        rounds=rounds,
        steps=given.steps,
        data=given.data,
        nets=given.nets,
        only=given.only,
        minutes=given.minutes,
        environments=given.environments.expanduser().resolve(),
        peer_path=paths,
        fast_only=given.fast_only,
        resume=given.resume,
        quick=given.quick,
        scratch=scratch,
        say=say,
    )
