"""Export a model for other programs: verified on real images against the classifier before the file gets its name."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from resnetlab.data.classes import counted
from resnetlab.data.image_paths import find_images
from resnetlab.errors import BadInput, DiskTrouble, printable, unknown
from resnetlab.files import as_path, room, sync_folder, write_json
from resnetlab.inference.counterparts import to_timm, to_torchvision
from resnetlab.inference.graph import graph_of, metadata_of
from resnetlab.inference.hub import is_on_hub
from resnetlab.inference.model_file import Model, read_model
from resnetlab.inference.onnx_file import OPSET, Predict, onnx_predictor, quantized, require_packages, to_onnx
from resnetlab.inference.predict import BATCH, Classifier
from resnetlab.inference.pt2_file import to_pt2
from resnetlab.inference.sources import Run, model_path
from resnetlab.inference.triton import repository_files
from resnetlab.inference.verification import Verification, decoded_pixels, in_batches, of_other_sizes, verify
from resnetlab.interpret.embedding import spread
from resnetlab.runs.config import DataConfig
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.provenance import now
from resnetlab.runs.saved_data import NO_EXPORT, open_sample, own_config, root_of
from resnetlab.runs.scoring_data import run_of
from resnetlab.runtime import Runtime, isolated

Format = Literal["onnx", "int8", "torchvision", "timm", "pt2"]
SUFFIXES: dict[Format, str] = {
    "onnx": ".onnx",
    "int8": ".int8.onnx",
    "torchvision": ".torchvision.pth",
    "timm": ".timm",
    "pt2": ".pt2",
}
log = logging.getLogger(__name__)
OwnData = tuple[RunFolder, DataConfig]  # a run, and the settings of its data where that is now
FACTS = "export.json"
MOST_RESIZED, MOST_DECODED, MOST_CALIBRATION = 1000, 100, 256  # images that an export is verified with


@dataclass(frozen=True)
class Exported:
    """A written export: its path, and the facts that are stored beside it (in it, for a folder)."""

    path: Path
    facts: Mapping[str, Any]

    def lines(self) -> list[str]:
        """Return what was written and measured, in sentences."""
        found, sizes = self.facts["verification"], self.facts["bytes"]
        lines = [f"{self.path}: {sizes['export'] / 1e6:.2f} MB (the model file has {sizes['model_file'] / 1e6:.2f} MB)"]
        for what, agreement in (("resized", found["resized"]), ("decoded", found["decoded"])):
            if agreement is not None:
                lines.append(
                    f"{agreement['images']:,} {what} images: same top-1 class for {agreement['same_top1']:.2%}, "
                    f"probabilities differ by at most {agreement['largest_difference']:.1e}"
                )
        if found["accuracy"] is not None:
            int8, fp32, drop = (found["accuracy"][name] for name in ("int8", "fp32", "drop"))
            lines.append(f"validation accuracy {int8:.2%}, fp32 {fp32:.2%}: a drop of {drop:.2f} points")
        for size, times in found["milliseconds"].items():
            lines.append(f"batch of {size}: {times['export']:g} ms, resnetlab {times['resnetlab']:g} ms")
        return [*lines, f"not in the file: {self.facts['not_inside']}"]


@dataclass(frozen=True, eq=False)
class Images:
    """The images that an export is verified with: resized (N, H, W, C), decoded in other sizes, and labels if known."""

    source: str
    resized: np.ndarray
    decoded: list[np.ndarray]
    labels: np.ndarray | None = None


@isolated()
def export(
    source: str | os.PathLike[str] | Run,
    format: Format = "onnx",
    out: Path | str | None = None,
    *,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    triton: Path | str | None = None,
    max_drop: float = 0.5,
    data: str | os.PathLike[str] | None = None,
) -> Exported:
    """Write a model for other programs, and return the path with what was measured.

    - `onnx`, `int8` and `pt2` have everything after decoding inside: resize, crop, normalisation, temperature and
      softmax. They map `pixels` (N, H, W, C), uint8, of any N, H and W, to `probabilities` and `logits`.
    - `int8` is ONNX with 8-bit integers, calibrated on training images. It is refused if its validation accuracy is
      more than `max_drop` percentage points below that in fp32.
    - `torchvision` is a state dict, `timm` a folder, for the networks that these libraries have, too.

    `out` is the file, or the folder of `timm`; default: beside the model file, for one on the Hub in the working
    directory. Only a file that is an earlier export is replaced. `triton` writes ONNX into a model repository of Triton
    Inference Server instead. The export is compared with the classifier on `images` (files or folders; default: the
    validation images of the run) before it gets its name. `data` is the new place of the run's data, if it was moved.

    Raises BadInput if the model cannot be exported or the export gives other answers; nothing is written then. Raises
    DiskTrouble if it cannot be written.

    >>> export("runs/quickstart-001", "onnx").path  # doctest: +SKIP
    PosixPath('runs/quickstart-001/best.onnx')
    """
    if format not in tuple(SUFFIXES):
        raise unknown("format", format, get_args(Format))
    if isinstance(max_drop, bool) or not isinstance(max_drop, int | float) or not 0 <= max_drop <= 100:
        raise BadInput(f"max_drop is {printable(repr(max_drop))}, but must be a number of percentage points, 0 to 100")
    if data is not None:
        as_path(data, "data")
    file = model_path(source)
    model = read_model(file)
    is_of_hub = isinstance(source, str | os.PathLike) and is_on_hub(os.fspath(source))
    beside = Path(file.name) if is_of_hub else file  # nothing is written into huggingface_hub's cache
    target = place(beside, format, out, triton)
    if format in ("onnx", "int8"):
        require_packages()
    run = run_of(file)
    if run is None and data is not None:
        raise BadInput("data is the new place of a run's data, but a model file has no run; give `images`")
    own = None if run is None else (run, own_config(run, data))
    seen = given_images(images, model) if images is not None else validation_images(own, model)
    classifier = Classifier(model, Runtime(torch.device("cpu")))
    log.info("exporting to %s, and comparing on %s with the model", format, counted(len(seen.resized), "image"))
    with disk_errors(target):
        files, facts, predict = build(format, model, own)
        decoded = seen.decoded if format in ("onnx", "int8", "pt2") else None
        found = verify(classifier, predict, seen.resized, decoded)
        if format == "int8":
            labelled = seen if images is None else validation_images(own, model)
            found = with_accuracy(found, classifier, predict, labelled, max_drop)
        else:
            found.require_same()
    if triton is not None:
        files = repository_files(model, target.name, files[""])
    facts = {
        "format": format,
        "written": now(),
        "model": model.network.name,
        "weights_digest": model.weights_digest,
        "classes": list(model.classes),
        "preprocessing": model.preprocessing.to_json(),
        "temperature": model.temperature,
        **facts,
        "bytes": {"export": sum(map(len, files.values())), "model_file": file.stat().st_size},
        "sha256": {name or target.name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "verified_with": seen.source,
        "verification": found.to_json(),
    }
    write(target, files, facts)
    return Exported(target, facts)


def place(file: Path, kind: Format, out: Path | str | None, triton: Path | str | None) -> Path:
    """Return the path to write. Raises BadInput if it cannot be used, or a file there is not an earlier export."""
    if triton is not None:
        repository = as_path(triton, "triton")
        if kind not in ("onnx", "int8"):
            raise BadInput(f"triton is for onnx and int8, not {kind}; omit `triton`, or choose another `format`")
        if out is not None:
            raise BadInput("triton has its own names of files; give either `triton` or `out`")
        if repository.exists() and not repository.is_dir():
            raise BadInput(f"triton is {printable(repository)}, but must be a folder")
        name = file.parent.resolve().name if run_of(file) else file.stem
        target = repository / re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)
    else:
        suffix = SUFFIXES[kind]
        target = file.with_name(file.stem + suffix) if out is None else as_path(out, "out")
        needed = Path(f"model{suffix}").suffix
        if kind != "timm" and (target.suffix != needed or not target.parent.is_dir() or target.is_dir()):
            raise BadInput(f"out is {printable(target)}, but must be a {needed} file in an existing folder")
        if kind == "timm" and not target.parent.is_dir():
            raise BadInput(f"out is {printable(target)}, but must be a new folder in an existing one")
    if kind == "timm" or triton is not None:
        if os.path.lexists(target):
            raise BadInput(f"{printable(target)} exists; remove it, or give another folder")
    else:
        require_replaceable(target)
    return target


def require_replaceable(target: Path) -> None:
    """Raise BadInput if the file, or the facts beside it, exists and was not written by an export."""
    beside = target.with_name(f"{target.name}.json")
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
        digest = str(found["sha256"][target.name])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        digest = ""
    if os.path.lexists(beside) and not digest:
        raise BadInput(
            f"{printable(beside)}, where the facts of the export would be, is another file; give another `out`"
        )
    if os.path.lexists(target) and (not target.is_file() or digest != digest_of(target)):
        raise BadInput(
            f"{printable(target)} exists, and is no export as it was written; remove it, or give another `out`"
        )


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a file. Raises BadInput if it cannot be read."""
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"could not read {printable(file)}: {error.strerror or error}") from error


def build(kind: Format, model: Model, own: OwnData | None) -> tuple[dict[str, bytes], dict[str, Any], Predict]:
    """Return the files of an export by name ("" for a single file), facts about it, and a function that runs it."""
    metadata = metadata_of(model)
    if kind == "torchvision":
        content, facts, predict = to_torchvision(model)
        return {"": content}, facts | {"not_inside": "resizing, normalisation, temperature, class names"}, predict
    if kind == "timm":
        files, facts, predict = to_timm(model)
        borders = ", black borders (those of timm have the mean colour)" if model.preprocessing.fit == "pad" else ""
        return files, facts | {"not_inside": f"temperature{borders}"}, predict
    outside = {"not_inside": "decoding the file, turning it upright, transparency, grey or RGB"}
    if model.preprocessing.range is not None:
        low, high = model.preprocessing.range
        outside["not_inside"] += f", and scaling more than 8 bits to 0..255 ({low:g} to {high:g} become black to white)"
    if kind == "pt2":
        content, predict = to_pt2(graph_of(model), metadata)
        return {"": content}, {"torch": torch.__version__, **outside}, predict
    batches = calibration(own, model) if kind == "int8" else None  # refused before the graph is built
    content = to_onnx(graph_of(model), metadata)
    if batches is not None:
        content = quantized(content, batches)
    import onnxruntime

    return {"": content}, {"opset": OPSET, "onnxruntime": onnxruntime.__version__, **outside}, onnx_predictor(content)


def calibration(own: OwnData | None, model: Model) -> Iterator[np.ndarray]:
    """Return batches of training images. Raises BadInput without a run."""
    if own is None:
        raise BadInput(
            "int8 is calibrated on training images and its accuracy is measured on validation images, which a model "
            "file does not have; give the folder of its run"
        )
    sample = open_sample(*own, "train", MOST_CALIBRATION, preprocessing=model.preprocessing, advice=NO_EXPORT)
    images = sample.images[:].numpy()
    return iter([images[start : start + BATCH] for start in range(0, len(images), BATCH)])


def validation_images(own: OwnData | None, model: Model) -> Images:
    """Return validation images of a run, as they were recorded. Raises BadInput without a run."""
    if own is None:
        raise BadInput(
            "a model file has no images to verify the export with; give some (`images`), or the folder of its run"
        )
    split = open_sample(*own, "val", MOST_RESIZED, preprocessing=model.preprocessing, advice=NO_EXPORT)
    pixels, root = split.images[:].numpy(), root_of(own[1])
    few = spread(len(split), MOST_DECODED)
    decoded = [pixels[i] if root is None else decoded_pixels(model.preprocessing, root / split.names[i]) for i in few]
    decoded = of_other_sizes(decoded, model.preprocessing.resize_to)
    return Images("validation images of the run", pixels, decoded, split.labels.numpy())


def given_images(images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], model: Model) -> Images:
    """Read images to verify an export with. Raises BadInput for one that cannot be read."""
    if not isinstance(images, str | os.PathLike | Iterable):
        raise BadInput(f"images is {printable(repr(images))[:60]}, but must be files or folders")
    given = [images] if isinstance(images, str | os.PathLike) else list(images)
    files = [Path(file) for path in given for file in find_images(str(as_path(path, "images"))).files]
    if not files:
        raise BadInput("images is empty; give files or folders")
    chosen = [files[i] for i in spread(len(files), MOST_RESIZED)]
    preprocessing = model.preprocessing
    pixels = np.stack([preprocessing.read(file) for file in chosen])
    decoded = [decoded_pixels(preprocessing, chosen[i]) for i in spread(len(chosen), MOST_DECODED)]
    return Images("the given images", pixels, of_other_sizes(decoded, preprocessing.resize_to))


def with_accuracy(
    found: Verification, classifier: Classifier, predict: Predict, images: Images, most: float
) -> Verification:
    """Add the accuracy of an int8 export. Raises BadInput if it is more than `most` points below fp32."""
    labels = images.labels
    assert labels is not None
    shares = {
        name: float((in_batches(function, images.resized).argmax(1) == labels).mean())
        for name, function in (("fp32", lambda batch: np.asarray(classifier.probabilities(batch))), ("int8", predict))
    }
    drop = 100 * (shares["fp32"] - shares["int8"])
    if drop > most:
        raise BadInput(
            f"the export is not written: in int8, {shares['int8']:.2%} of {len(labels):,} validation images are "
            f"right, {drop:.2f} points fewer than in fp32 ({shares['fp32']:.2%}); the limit is {most:g} points "
            "(`max_drop`); raise it, or export to onnx"
        )
    return replace(found, accuracy={**shares, "drop": drop, "images": len(labels)})


def write(target: Path, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    """Write an export and its facts whole or not at all: into a temporary folder beside it, then under its name.

    Raises DiskTrouble.
    """
    parent = target.parent
    with (
        disk_errors(target, sum(map(len, files.values()))),
        made(parent),
        tempfile.TemporaryDirectory(dir=parent, prefix=f".{target.name}.", suffix=".tmp") as temporary,
    ):
        new = Path(temporary, "export")
        if "" in files:
            save(new, files[""])
            write_json(new.with_suffix(".json"), facts)
        else:
            for name, content in files.items():
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                save(new / name, content)
            write_json(new / FACTS, facts)
        new.replace(target)
        if "" in files:
            new.with_suffix(".json").replace(target.with_name(f"{target.name}.json"))
        sync_folder(parent)


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder if it is missing, and remove it again after a failure."""
    is_new = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        if is_new:
            folder.rmdir()
        raise


def save(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def disk_errors(target: Path, size: int = 0) -> Iterator[None]:
    """Turn the errors of the file system into DiskTrouble with a sentence."""
    try:
        yield
    except DiskTrouble:
        raise
    except OSError as error:
        needed = room(target, size) if size else ""
        raise DiskTrouble(f"could not write {printable(target)}: {error.strerror or error}{needed}") from error
