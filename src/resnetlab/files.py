"""Files: opening without waiting, atomic writes, and sealed files.

A sealed file has tensors and JSON in one safetensors file, with a digest over every byte of it.

Neither `torch.save` nor safetensors detects a changed byte in a weight. In a sealed file the header contains the
SHA-256 of the whole file, computed with the digest's own 64 characters set to zero.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import reprlib
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from resnetlab.errors import BadInput, Damaged, DiskTrouble, printable

try:
    import fcntl
except ImportError:  # Windows: there nothing is locked
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

KEY = "resnetlab"  # the only metadata key, because safetensors writes several in random order
UNSEALED = "0" * 64
READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)  # as io.FileIO opens a file
NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
MAX_HEADER = 64 * 2**20  # bytes; a damaged length must not lead to a huge allocation


def open_regular(path: str | os.PathLike[str], *, name: str | None = None) -> io.FileIO:
    """Open a regular file for reading, unbuffered; anything else is refused without waiting for it.

    A pipe, a device or a socket is not even opened. If a file is replaced by one of them in the meantime, opening does
    not block, and the kind of what was opened is checked again. `name` is used in error messages (default: the path).

    Raises BadInput for a path that is missing, not a regular file, or not readable.
    """
    descriptor, _ = _descriptor(path, name)
    return io.FileIO(path, opener=lambda *_: descriptor)


def read_whole(path: str | os.PathLike[str], *, name: str | None = None) -> bytes:
    """Return the bytes of a regular file, opened as by `open_regular`.

    Without a file object this takes two thirds of the time, which counts for 55,000 small images.

    Raises BadInput as `open_regular` does, and OSError if the file cannot be read to its end.
    """
    descriptor, size = _descriptor(path, name)
    try:
        parts = []
        while part := os.read(descriptor, size + 1):
            parts.append(part)
    finally:
        os.close(descriptor)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _descriptor(path: str | os.PathLike[str], name: str | None) -> tuple[int, int]:
    """Open a regular file and return its descriptor and its size, bytes; raise BadInput for anything else."""
    try:
        if stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - a Path for each of 55,000 images takes longer
            descriptor = _without_waiting(path, READ)
            if stat.S_ISREG((opened := os.fstat(descriptor)).st_mode):
                return descriptor, opened.st_size
            os.close(descriptor)
        reason = _kind(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null character in the path
        if os.path.islink(path):  # noqa: PTH114 - Path.is_link raises for a null character
            reason = "is a link to a file that does not exist"
        else:
            raise BadInput(f"file not found: {printable(path if name is None else name)}") from None
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
    raise BadInput(f"{printable(path if name is None else name)} {reason}")


def read_regular(path: Path) -> bytes:
    """Return the bytes of a regular file. Raises OSError for anything else, as for a file that cannot be read.

    A pipe or a device is not opened, as reading it might never end.
    """
    if stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode):  # a folder has an error of its own
        with io.FileIO(path, opener=_without_waiting) as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.readall()
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def read_from_start(file: IO[bytes]) -> bytes:
    """Return all bytes of an open file, wherever it was read to; of a stream, those that are left."""
    with suppress(AttributeError, io.UnsupportedOperation):
        file.seek(0)
    return file.read()


def _without_waiting(path: str | os.PathLike[str], flags: int) -> int:
    return os.open(path, flags | NO_WAIT)


def _kind(path: str | os.PathLike[str]) -> str:
    mode = os.stat(path).st_mode  # noqa: PTH116
    if stat.S_ISDIR(mode):
        return "is a folder, not a file"
    return "is a socket, not a file" if stat.S_ISSOCK(mode) else "is a pipe or a device, not a file"


@contextmanager
def replacing(path: Path, size: int, suffix: str = ".tmp") -> Iterator[BinaryIO]:
    """Write a file whole or not at all: to a temporary file beside it, flushed to disk and renamed to `path`.

    The name of the temporary file is a dot, that of `path`, some letters, and `suffix`.

    Raises DiskTrouble, with the reason and the bytes needed and free, and leaves an older file of that name unchanged.
    """
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=suffix)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if os.name == "posix":
                os.fchmod(file.fileno(), 0o644)  # mkstemp creates private files
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        sync_folder(path.parent)
    except DiskTrouble:
        raise
    except OSError as error:
        raise DiskTrouble(f"could not write {printable(path)}: {error.strerror or error}{room(path, size)}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # already renamed, or the folder is gone
                Path(temporary).unlink()


def room(path: Path, size: int) -> str:
    """Return " (N bytes needed, M free)" for the folder of `path`, or "" if the folder does not exist."""
    with suppress(OSError):  # the folder is gone
        return f" ({size:,} bytes needed, {shutil.disk_usage(path.parent).free:,} free)"
    return ""


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk, so that a rename survives a power cut. Does nothing on Windows."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, waiting: str = "") -> Iterator[None]:
    """Hold a file that one process at a time can hold. The system releases that of a process that was killed.

    If another process holds it, log the sentence `waiting`, and wait. Raises DiskTrouble if it cannot be opened.
    """
    try:
        file = path.open("a")
    except OSError as error:
        raise DiskTrouble(f"could not write to {printable(path.parent)}: {error.strerror or error}") from error
    with file:
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks: several processes may hold it
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if waiting:
                        log.info("%s", waiting)
                    fcntl.flock(file, fcntl.LOCK_EX)
        yield


def as_text(value: object, name: str) -> str:
    """Return an argument that is a path or a name, as text. Raises BadInput, with its name, for anything else."""
    as_path(value, name)
    return os.fsdecode(value)  # type: ignore[arg-type]


def as_path(value: object, name: str) -> Path:
    """Return an argument as a path. Raises BadInput, with the name of the argument, for anything else."""
    if not isinstance(value, str | os.PathLike) or value == "":
        raise BadInput(f"{name} is {printable(reprlib.repr(value))}, but must be the path of a file or folder")
    return Path(value)


def write_text(path: Path, text: str) -> None:
    """Replace a text file whole or not at all."""
    content = text.encode("utf-8", "surrogateescape")  # a file name on Linux need not be UTF-8
    with replacing(path, len(content)) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    # A name that is not UTF-8 holds lone surrogates; with backslashes they are what JSON itself would write.
    write_text(path, text.encode("utf-8", "backslashreplace").decode() + "\n")


def cache_folder() -> Path:
    """Create and return the folder for files that can be downloaded or compiled again.

    `resnetlab` in $XDG_CACHE_HOME or in ~/.cache. If neither exists nor can be created (no home folder, a read-only
    disk), a private folder of this user in the temporary folder.

    Raises DiskTrouble if that cannot be created or belongs to another user, because compiled code is loaded from it.

    >>> cache_folder().is_dir()
    True
    """
    bases = [Path(os.environ.get("XDG_CACHE_HOME", ""))]
    with suppress(RuntimeError):  # no HOME, and the user is in no list of users
        bases.append(Path.home() / ".cache")
    for folder in (base / "resnetlab" for base in bases if base.is_absolute()):
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.access(folder, os.R_OK | os.X_OK):
                return folder
    user = f"-{os.getuid()}" if os.name == "posix" else ""  # elsewhere the temporary folder is the user's own
    folder = Path(tempfile.gettempdir(), f"resnetlab{user}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise DiskTrouble(f"could not create {printable(folder)}: {error.strerror or error}") from error
    if user and (status.st_uid != os.getuid() or status.st_mode & 0o022 or not stat.S_ISDIR(status.st_mode)):
        raise DiskTrouble(
            f"{printable(folder)} is not a private folder of this user; remove it, or set XDG_CACHE_HOME to a folder "
            "that you can write to"
        )
    return folder


def write_sealed(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """Write `tensors` and JSON-able `facts` to `path`; return the digest (64 hex digits). Raises DiskTrouble."""
    from safetensors.torch import save

    head = json.dumps({"digest": UNSEALED, **facts})
    content = bytearray(save(apart(tensors), {KEY: head}))
    place = content.find(UNSEALED.encode())
    digest = hashlib.sha256(content).hexdigest()
    content[place : place + 64] = digest.encode()
    with replacing(path, len(content)) as file:
        file.write(content)
    return digest


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU, contiguous, those that share memory (tied weights) as copies."""
    found: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        here = tensor.detach().cpu().contiguous()
        storage = here.untyped_storage().data_ptr()
        found[name] = here.clone() if storage in storages and here.numel() else here
        storages.add(storage)
    return found


def read_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and facts of a sealed file.

    Raises BadInput if it cannot be read, Damaged if it was not written by `write_sealed` or a single bit has changed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        if path.exists() and not path.is_file():  # reading a pipe might never end
            raise BadInput(f"could not read {printable(path)}: it {_kind(path)}")
        with path.open("rb") as file:
            content = bytearray(file.read(8))
            length = min(int.from_bytes(content, "little"), MAX_HEADER)
            content += file.read(length)
            facts = _facts(content, path)  # the rest of another program's file need not be read
            content += file.read()
    except OSError as error:
        kind = Damaged if error.errno == errno.EIO else BadInput  # the disk itself cannot read it any more
        raise kind(f"could not read {printable(path)}: {error.strerror or error}") from error
    digest = facts.pop("digest")
    place = content.find(digest.encode())
    content[place : place + 64] = UNSEALED.encode()
    if hashlib.sha256(content).hexdigest() != digest:
        raise Damaged(f"{printable(path)} is damaged: its content does not match its digest; use another copy")
    try:
        return load(bytes(content)), facts
    except (
        SafetensorError,
        KeyError,
        ValueError,
        RuntimeError,
    ) as error:  # a right digest of wrong content
        raise _foreign(path) from error


def _facts(content: bytearray, path: Path) -> dict[str, Any]:
    length = int.from_bytes(content[:8], "little")
    if not 0 < length <= min(MAX_HEADER, len(content) - 8):
        raise _foreign(path)
    try:
        facts = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][KEY])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _foreign(path) from error
    digest = facts.get("digest") if isinstance(facts, dict) else None
    if not isinstance(digest, str) or len(digest) != 64 or not digest.isascii() or digest.encode() not in content:
        raise _foreign(path)
    return dict(facts)


def _foreign(path: Path) -> Damaged:
    shown = printable(path)
    return Damaged(f"{shown} is not a file that resnetlab wrote, or it is damaged at its beginning; use another copy")
