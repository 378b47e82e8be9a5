"""Recognise files that are not model files, by their first bytes, and name the next step. Nothing in them is run."""

from __future__ import annotations

import contextlib
import io
import pickletools
import re
import shlex
import zipfile
from collections.abc import Iterator
from pathlib import Path

from resnetlab.errors import BadInput, printable
from resnetlab.files import open_regular

HEAD = 2**16  # bytes of a file that are examined
MOST_PICKLE = 2**22  # bytes of a pickle within an archive that are examined
MOST_NAMED = 3

# Protocols 2 to 5, 0, 1; the bracket after a name begins the arguments in pickles that were written by hand.
PICKLE = re.compile(rb"\x80[\x02-\x05]|c[\w.]+\n[\w.]+\n(?:p0\n|q\0|\()|\([dl]p\d+\n|[}\]]q\0")
GIVE = "give the file that `resnetlab train` or `resnetlab import` wrote"
OTHERS = {
    rb"\xff\xd8\xff|\x89PNG|GIF8|BM|II\*\0|MM\0\*|RIFF....WEBP": (
        "a picture; the model comes first: `resnetlab predict MODEL IMAGE`"
    ),
    rb"\x08[\x01-\x20](?:[\x12\x1a\x22\x2a].|[\x3a\x42])": (  # the version of the format, then another field
        "an ONNX file, which onnxruntime runs; give the model file that it was exported from"
    ),
    rb"\x89HDF": "an HDF5 file, as Keras writes it, whose weights are not read here",
    rb"GGUF": "a GGUF file, whose weights are not read here",
    rb"\x93NUMPY": f"a NumPy array; {GIVE}",
    rb"\x1f\x8b|\xfd7zXZ|7z\xbc\xaf|Rar!|BZh|.{257}ustar": "a compressed file or an archive; unpack it first",
    rb"version https://git-lfs": "a Git LFS pointer, not the file itself; download that with git lfs pull",
    rb"\s*<(?:!doctype|html)": "a web page, probably that of a failed download; download the file itself",
}
PLAIN = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_(?:tensor|tensor_v2|parameter)|torch\.\w*Storage|torch\.Size"
    r"|torch\.storage\.\w*Storage|torch\.serialization\._get_layout|torch\.(?:b?float|u?int|bool|complex|double|half)\w*"
    r"|(?:__builtin__|builtins)\.(?:set|frozenset|bytearray|complex)"
)
FUNCTION = re.compile(r"<lambda>|(?:_make|_create|_fill)_\w*function|_create_code")


def explain(path: Path) -> str | None:
    """Return a sentence that says what a file is instead of a model file, with the next step.

    None for a file of resnetlab, which is damaged then, and for an unknown kind.
    """
    try:
        with open_regular(path) as file:
            head = file.read(HEAD) or b""
    except (BadInput, OSError):
        return None
    shown = printable(path)
    what = kind(path, head)
    return None if what is None else f"{shown} is not a model file: it is {what}"


def kind(path: Path, head: bytes) -> str | None:
    """Return what a file is, with the next step; None for an unknown kind, and for our own files."""
    name = printable(path)
    import_it = f"`resnetlab import {shlex.quote(name)} --model NAME --classes FILE` makes a model file of it"
    if not head:
        return "empty or damaged, perhaps by an interrupted copy; use another copy"
    if is_safetensors(head):
        return (
            None
            if is_ours(head)
            else f"a safetensors file of another program, without class names and preprocessing; {import_it}"
        )
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return of_archive(path, import_it)
    if PICKLE.match(head):
        return of_pickle(head, import_it)
    flags = re.DOTALL | re.IGNORECASE
    return next((what for start, what in OTHERS.items() if re.match(start, head, flags)), None) or of_json(path, head)


def is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40


def is_ours(head: bytes) -> bool:
    """Return True for the beginning of a file that resnetlab wrote, even if it is damaged."""
    return is_safetensors(head) and b"resnetlab" in head[:500]


def of_archive(path: Path, import_it: str) -> str:
    """Return what a zip archive is: a file of torch.save, a TorchScript program, arrays, or another one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            inner = [one.partition("/")[2] for one in names if one.count("/")]
            if "constants.pkl" in inner or any(one.startswith(("models/", "data/weights/")) for one in inner):
                return (
                    "an exported program of torch (TorchScript or PT2), and no program in a file is run here; give "
                    "the model file that it was exported from"
                )
            pickled = next((one for one in names if one.count("/") == 1 and one.endswith("/data.pkl")), None)
            if pickled is not None:
                with archive.open(pickled) as file:
                    return of_pickle(file.read(MOST_PICKLE), import_it)
    except Exception:  # zipfile and its decompressors raise errors of many kinds for a damaged archive
        return "a damaged zip archive or a damaged file of torch.save; use another copy"
    if names and all(one.endswith(".npy") for one in names):
        return f"an archive of NumPy arrays; {GIVE}"
    models = [one for one in names if one.endswith((".safetensors", ".pth", ".pt"))]
    inside = f", for example {printable(models[0])}" if models else ""
    return f"a zip archive; unpack it, and give the model file in it{inside}"


def of_pickle(content: bytes, import_it: str) -> str:
    """Return what a pickle is: plain weights, or Python objects, which are named. It is read, but not run."""
    others = list(dict.fromkeys(name for name in objects_in(content) if not PLAIN.fullmatch(name)))
    if not others:
        return f"a file of torch.save (a pickle), without class names and preprocessing; {import_it}"
    found = ", ".join(map(printable, others[:MOST_NAMED])) + (" and others" if len(others) > MOST_NAMED else "")
    what = "Python functions" if any(map(FUNCTION.search, others)) else "Python objects"
    return (
        f"a pickle with {what} ({found[:200]}), which can run any code when they are loaded, so nothing was loaded; "
        "somebody who trusts the file can save its weights alone with torch.save(model.state_dict(), 'weights.pth'), "
        "and `resnetlab import weights.pth --model NAME --classes FILE` makes a model file of them"
    )


def objects_in(content: bytes) -> Iterator[str]:
    """Yield the names of the classes and functions that pickles load, one after another, as far as they can be read."""
    stream = io.BytesIO(content)
    with contextlib.suppress(Exception):  # damaged, or it goes on beyond the bytes that were read
        while stream.tell() < len(content):
            yield from objects_in_one(stream)


def objects_in_one(pickle: io.BytesIO) -> Iterator[str]:
    """Yield the names of the classes and functions that one pickle loads. Raises many errors for a damaged one."""
    texts: list[str] = []
    memo: dict[int, str] = {}
    stored = 0
    for operation, argument, _ in pickletools.genops(pickle):
        match operation.name:
            case "GLOBAL" | "INST":
                yield str(argument).replace(" ", ".", 1)
            case "STACK_GLOBAL":
                yield ".".join(texts[-2:])
            case "MEMOIZE" | "PUT" | "BINPUT" | "LONG_BINPUT":
                place = stored if argument is None else int(argument)
                stored += 1
                if texts:
                    memo[place] = texts[-1]
            case "GET" | "BINGET" | "LONG_BINGET" if int(argument or 0) in memo:
                texts.append(memo[int(argument or 0)])
            case _ if isinstance(argument, str):
                texts.append(argument)
        del texts[:-8]


def of_json(path: Path, head: bytes) -> str | None:
    """Return what a JSON file is; None for another kind of file."""
    if path.suffix.lower() != ".json" or head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"{", b"["):
        return None
    best = path.parent / "best.safetensors"
    return f"a JSON file; give {printable(best) if best.exists() else 'the model file or the folder of the run'}"
