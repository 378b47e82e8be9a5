"""The compiled library: a damaged cache is rebuilt, an unusable one is bypassed; neither ends the process."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from resnetlab.kernels import compiler
from resnetlab.kernels import library as native

needs_kernels = pytest.mark.skipif(native.library() is None, reason=f"no kernels: {native.unavailable_reason()}")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the loaded library before and after a test."""
    for function in (native._library, native.library):
        function.cache_clear()
    yield
    monkeypatch.undo()
    for function in (native._library, native.library):
        function.cache_clear()


@pytest.fixture(scope="module")
def content() -> bytes:
    """The compiled library of this version, so that the tests need not compile their own."""
    loaded = native.library()
    assert loaded is not None
    return Path(loaded._name).read_bytes()


def load(cache: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> tuple[ctypes.CDLL | None, int]:
    """The library with that cache folder, and the number of compilations it took."""
    compilations = []

    def compiled(_sources: compiler.Sources, program: str) -> bytes:
        compilations.append(program)
        return content

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(compiler, "compiled", compiled)
    for function in (native._library, native.library):
        function.cache_clear()
    return native.library(), len(compilations)


def zlib_library() -> bytes:
    """A sound shared library of somebody else's: the one Python itself has loaded."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "libz.so" in line or "libz-" in line or "libgomp" in line:
            return Path(line.split()[-1]).read_bytes()
    return zlib.compress(b"no library at all")


@needs_kernels
@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:20000],
        lambda content: content[:100],
        lambda _: b"",
        lambda content: content[:-32],  # as older versions wrote it
        lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
        lambda content: bytes(len(content)),
        lambda _: zlib_library(),
    ],
    ids=["truncated", "beginning only", "empty", "without digest", "flipped bit", "zeros", "another library"],
)
def test_a_damaged_library_is_compiled_again_once(
    damage: object, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(tmp_path, monkeypatch, content)[1] == 1
    (kept,) = (tmp_path / "resnetlab").glob("*.so")
    kept.unlink()  # this process has mapped the sound file: changing that one in place would end it
    kept.write_bytes(damage(content))  # type: ignore[operator]
    found, compilations = load(tmp_path, monkeypatch, content)
    assert found is not None
    assert compilations == 1
    assert kept.read_bytes() == content
    assert load(tmp_path, monkeypatch, content)[1] == 0
    assert [file.name for file in (tmp_path / "resnetlab").iterdir()] == [kept.name]


@needs_kernels
@pytest.mark.usefixtures("fresh")
def test_a_cache_that_cannot_hold_or_execute_the_library_is_bypassed(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(tmp_path / "a", monkeypatch, content)
    (kept,) = (tmp_path / "a" / "resnetlab").glob("*.so")
    kept.unlink()
    kept.mkdir()  # nothing can be written under that name
    assert load(tmp_path / "a", monkeypatch, content)[0] is not None

    class NoExec(ctypes.CDLL):
        """What dlopen does on a mount without execution."""

        def __init__(self, name: str | None) -> None:
            if name and name.startswith(str(tmp_path / "b")):
                raise OSError(f"{name}: failed to map segment from shared object")
            super().__init__(name)

    with monkeypatch.context() as patch:
        patch.setattr("ctypes.CDLL", NoExec)
        found, compilations = load(tmp_path / "b", patch, content)
        assert found is not None
        assert compilations == 2  # for the cache, and for this process


@needs_kernels
@pytest.mark.usefixtures("fresh")
def test_a_compiler_that_fails_and_a_library_without_our_functions_give_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = zlib_library()
    assert load(tmp_path, monkeypatch, foreign + hashlib.sha256(foreign).digest())[0] is None
    assert "could not be compiled and loaded" in native.unavailable_reason()
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    for function in (native._library, native.library):
        function.cache_clear()
    assert native.library() is None
    assert "CalledProcessError" in native.unavailable_reason()


TWO = """
import os, sys
from resnetlab.kernels import compiler
from resnetlab.kernels import library as native
native.FLAGS = ("-O0", *native.FLAGS[1:])  # compiled sooner
children = []
for _ in range(2):
    children.append(os.fork())
    if not children[-1]:
        os._exit(native.library() is None)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


@pytest.mark.slow
@needs_kernels
def test_two_processes_compile_at_once_and_both_load_it(tmp_path: Path) -> None:
    surroundings = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", TWO], env=surroundings, check=True, timeout=120)
    (kept,) = (tmp_path / "resnetlab").iterdir()
    assert compiler.is_sound(kept)


@pytest.mark.usefixtures("fresh")
def test_without_a_compiler_or_when_switched_off_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNETLAB_KERNELS", "off")
    assert native.library() is None
    assert native.unavailable_reason() == "switched off by RESNETLAB_KERNELS"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_in_the_place_of_the_library_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kernels.so")
    assert not compiler.is_sound(tmp_path / "kernels.so")
