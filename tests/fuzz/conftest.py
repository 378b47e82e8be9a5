"""Seeded fuzzing of the command line. A case is a pure function of its name, so the name reproduces a failure."""

from __future__ import annotations

import contextlib
import copy
import io
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from resnetlab.cli.main import main
from resnetlab.models.zoo import ARCHITECTURES, Architecture

DOCUMENTED = {0, 2, 3, 4, 5, 6}  # 1 is an internal error
LONGEST = 5.0  # seconds of computing, for others may be busy here too; most cases take a twentieth of one

VALUES: tuple[Callable[[], Any], ...] = (
    lambda: None,
    lambda: True,
    lambda: 0,
    lambda: -1,
    lambda: 2**31,
    lambda: 2**63,
    lambda: 10**30,
    lambda: 10**400,
    lambda: -(10**400),
    lambda: 1e308,
    lambda: -1e308,
    lambda: 5e-324,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: float("-inf"),
    lambda: 0.5,
    lambda: "",
    lambda: "0",
    lambda: "résumé 猫 \u202e",
    lambda: "lone \ud800 surrogate",
    lambda: "\x1b[2J\n\x00\x9b",
    lambda: "[red]markup[/red]",
    lambda: "/" + "x" * 300,
    lambda: "y" * 50_000,
    lambda: "../../etc/passwd",
    lambda: [],
    lambda: {},
    lambda: [[]],
    lambda: [1, "2", None],
    lambda: {"": {"": 0}},
    lambda: {"name": ["digits"]},
    lambda: [0.5] * 10_000,
    lambda: nested(list, 60),
    lambda: nested(dict, 60),
    lambda: nested(list, 300),
)


def nested(kind: type, depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value] if kind is list else {"more": value}
    return value


class Fuzzer(random.Random):
    """A random source of damage; `Fuzzer("a name")` always does the same."""

    def unusual_value(self) -> Any:
        """An unexpected value that JSON can represent."""
        return self.choice(VALUES)()

    def damaged(self, content: bytes) -> bytes:
        """`content` with a few bytes flipped, set, inserted, removed, repeated, zeroed or truncated."""
        data = bytearray(content)
        for _ in range(self.choice((1, 1, 1, 2, 3, 8))):
            near = min(len(data), self.choice((16, 64, 1024, 2**40)))  # mostly where the structure is
            at, length = self.randrange(near + 1), self.choice((1, 2, 4, 8, 100, 4096))
            match self.randrange(9):
                case 0 | 1 if at < len(data):
                    data[at] ^= 1 << self.randrange(8)
                case 2 if at < len(data):
                    data[at] = self.choice((0, 0xFF, 0x7F, 0x80, self.randrange(256)))
                case 3:
                    data[at:at] = self.randbytes(length)
                case 4:
                    del data[at : at + length]
                case 5:
                    data[at:at] = data[at : at + length]
                case 6:
                    data[at : at + length] = bytes(min(length, len(data) - at))
                case 7:
                    del data[at:]
                case 8:
                    other = self.randrange(len(data) + 1)
                    data[at : at + length] = data[other : other + length]
        return bytes(data)

    def changed(self, value: Any) -> Any:
        """A copy of a JSON value, wrong in one to three places."""
        value = copy.deepcopy(value)
        for _ in range(self.choice((1, 1, 2, 3))):
            holders = list(containers(value))
            if not holders:
                return self.unusual_value()
            self.change(self.choice(holders))
        return value

    def change(self, holder: Any) -> None:
        """Change one item of a dictionary or a list."""
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys or self.random() < 0.1:
            if isinstance(holder, dict):
                holder[self.choice(("", "nmae", "more", "epochs", "\x1b[2J\n", "\ud800", "k" * 300))] = (
                    self.unusual_value()
                )
            else:
                holder.append(self.unusual_value())
            return
        key, others = self.choice(keys), list(holder.values()) if isinstance(holder, dict) else list(holder)
        old = holder[key]
        match self.randrange(6):
            case 0:
                del holder[key]
            case 1:
                holder[key] = copy.deepcopy(self.choice(others))
            case 2 if isinstance(old, int | float) and abs(old) < 1e15:
                holder[key] = self.choice((-old, old + 1, old * 2, old + 0.5, str(old), [old], bool(old), old * 10**20))
            case 3 if isinstance(old, str):
                holder[key] = self.choice((old + " ", old.upper(), old[:-1], [old], {old: old}, old * 100))
            case _:
                holder[key] = self.unusual_value()


def containers(value: Any) -> list[Any]:
    """Every dictionary and list in a JSON value."""
    found: list[Any] = []
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, dict | list):
            found.append(one)
            todo += one.values() if isinstance(one, dict) else one
    return found


class CommandCheck:
    """Runs commands in this process, and collects every case in which a promise is broken."""

    def __init__(self) -> None:
        self.codes: Counter[int] = Counter()
        self.slowest = 0.0
        self.problems: list[str] = []

    def __call__(self, case: object, *words: object) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of one command."""
        streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", errors="replace", write_through=True) for _ in range(2)]
        began = time.process_time()
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            try:
                code = main([str(word) for word in words])
            except SystemExit as stop:  # --help
                code = int(stop.code or 0)
        seconds = time.process_time() - began
        out, err = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
        promises = {
            "a documented exit code": code in DOCUMENTED,
            "one message if it fails, and none if not": err.count("\n") == bool(code),
            "a message of ours": not code or err.startswith("resnetlab: "),
            "no traceback": "Traceback" not in out + err,
            "nothing that steers a terminal": not {"\x1b", "\x9b", "\0", "\r"} & set(out + err),
            "a message that can be read": len(err) < 1500 + 6 * sum(map(len, map(str, words))),
            f"less than {LONGEST:g} seconds": seconds < LONGEST,
        }
        broken = [promise for promise, kept in promises.items() if not kept]
        if broken:
            self.problems.append(f"{case}: not {', '.join(broken)}: exit code {code}, {seconds:.1f} s, {err[:1000]!r}")
        self.codes[code] += 1
        self.slowest = max(self.slowest, seconds)
        return code, out, err

    def assert_no_problems(self) -> None:
        """Fail with all problems at once, because one bug causes many."""
        codes = dict(sorted(self.codes.items()))
        summary = f"{self.codes.total()} commands, exit codes {codes}, slowest {self.slowest:.2f} s"
        print(summary)
        assert not self.problems, "\n".join([summary, f"{len(self.problems)} problems", *self.problems[:20]])


@pytest.fixture
def check() -> CommandCheck:
    return CommandCheck()


@pytest.fixture(scope="session")
def fuzzer() -> type[Fuzzer]:
    return Fuzzer


@pytest.fixture(params=[15, pytest.param(1000, marks=pytest.mark.slow)], ids=lambda count: f"{count} cases")
def cases(request: pytest.FixtureRequest) -> range:
    """The numbers of the cases: the first ones, or all where marked slow."""
    return range(request.param)


@pytest.fixture(scope="module")
def tiny() -> Any:
    """A network of a few thousand weights by the name "tiny", so that a case takes milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "tiny", Architecture("basic", (1, 1), width=4, stem="cifar", shortcut="A"))
        yield "tiny"
