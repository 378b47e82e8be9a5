"""Examine a machine and a data set before training: what they can do, and what is wrong."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import __version__ as pillow_version
from PIL import features

from resnetlab.data.classes import ClassChoice
from resnetlab.data.doctor import Finding, findings, size_range
from resnetlab.data.reading import available_memory
from resnetlab.data.splits import HoldOut
from resnetlab.data.survey import Survey, survey
from resnetlab.errors import BadInput, LabError, printable
from resnetlab.models.build import build_model
from resnetlab.runs.build import Experiment, resolved
from resnetlab.runs.config import DataConfig, RunConfig
from resnetlab.runs.timing import seconds_per_step, sizes_of_files, times
from resnetlab.runtime import Runtime, choose_precision, cpu_quota, native_bf16, processor, start

LARGEST_DIFFERENCE = 0.05  # between logits of an accelerator and of the CPU; TF32 gives about 0.005
FORMATS = {"webp": "WEBP", "avif": "AVIF", "jpg_2000": "JPEG 2000"}


@dataclass(frozen=True)
class Estimate:
    """Time and space that a training needs, from real steps on this machine."""

    steps: int
    seconds_per_step: float
    seconds_per_epoch: float
    seconds: float  # of the whole run
    memory: int  # bytes: the peak of this process, or of the accelerator
    disk: int  # bytes

    def to_json(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return dict(self.__dict__)


@dataclass
class Diagnosis:
    """The result of an examination: facts by name, findings, and an estimate if the training can begin."""

    machine: dict[str, str]
    data: dict[str, str] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # by class and split
    findings: list[Finding] = field(default_factory=list)
    training: dict[str, str] = field(default_factory=dict)
    estimate: Estimate | None = None
    survey: Survey | None = None

    @property
    def errors(self) -> list[Finding]:
        """The findings with which training would fail."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "machine": self.machine,
            "data": self.data,
            "counts": self.counts,
            "findings": [finding.to_json() for finding in self.findings],
            "training": self.training,
            "estimate": None if self.estimate is None else self.estimate.to_json(),
            "can_train": not self.errors,
        }


def diagnose(config: RunConfig, *, with_data: bool = True) -> Diagnosis:
    """Examine this machine and, unless `with_data` is off, the data of a config, and train for a few steps.

    Nothing is written. What would make the training fail becomes a finding with severity "error".
    """
    try:
        runtime = start(config.device, config.precision, deterministic=config.deterministic)
    except BadInput as error:
        return Diagnosis(machine_facts(start("auto"), config), findings=[failure(error)])
    found = Diagnosis(machine_facts(runtime, config), findings=list(machine_findings(runtime)))
    if not with_data:
        return found
    config = resolved(config)
    try:
        seen = open_survey(config.data)
    except LabError as error:
        found.findings.insert(0, failure(error))
        return found
    skips = config.data.bad_images == "skip"
    found.survey, found.counts, found.data = seen, seen.counts(), data_facts(seen)
    found.findings += findings(seen, most_skipped=config.data.max_skipped if skips else 0.0)
    if seen.broken and not skips:  # already a finding; the rest can still be tried
        config = config.changed({"data": {"bad_images": "skip"}})
    try:
        try_training(config, found)
    except LabError as error:
        if not found.errors:
            found.findings.append(failure(error))
    order = ("error", "warning", "note")
    found.findings.sort(key=lambda finding: order.index(finding.severity))
    return found


def failure(error: LabError) -> Finding:
    return Finding("training would fail", "error", str(error))


def open_survey(config: DataConfig) -> Survey:
    """Read the images of a config."""
    return survey(
        config.name,
        choice=ClassChoice(config.classes, config.merge, config.class_order),
        hold_out=HoldOut(
            config.val_fraction,
            config.test_fraction,
            config.split_seed,
            config.folds,
            config.fold,
            config.val_is_test,
        ),
        group_by=config.group_by,
        root=config.root,
        download=config.download,
        channels=config.channels,
        max_pixels=config.max_pixels,
    )


def machine_facts(runtime: Runtime, config: RunConfig) -> dict[str, str]:
    """Software, device, precision, kernels, threads, memory and disk, in words."""
    quota, memory = cpu_quota(), available_memory()
    device = runtime.device.type
    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    others = [other for other, there in accelerators().items() if there and other != device]
    formats = [name for feature, name in FORMATS.items() if features.check(feature)]
    heif = ", HEIF" if importlib.util.find_spec("pillow_heif") else ""
    free = shutil.disk_usage(existing_folder(Path("runs"))).free
    return {
        "software": f"Python {platform.python_version()}, torch {torch.__version__}, {torchvision_state()}",
        "image formats": f"Pillow {pillow_version}: JPEG, PNG, BMP, GIF, TIFF, PPM, {', '.join(formats)}{heif}",
        "device": f"{device} ({name})" + (f"; also {', '.join(others)}" if others else ""),
        "precision": f"{runtime.precision_name}: {precision_reason(runtime, config)}",
        "kernels": kernels_state(runtime),
        "CPUs": f"{os.cpu_count()}, "
        + (f"of which this container may use {quota:.3g}" if quota else "no quota of a container"),
        "threads": f"{torch.get_num_threads()}",
        "memory": "unknown" if memory is None else f"{size(memory)} available",
        "disk": f"{size(free)} free in {printable(existing_folder(Path('runs')).resolve())}",
    }


def accelerators() -> dict[str, bool]:
    """The accelerators that torch knows, and True for those that are there."""
    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


def torchvision_state() -> str:
    """The version of torchvision, or the reason why it cannot be imported."""
    try:
        return f"torchvision {importlib.import_module('torchvision').__version__}"
    except Exception as error:  # ImportError if it is missing, RuntimeError if it does not fit torch
        return f"torchvision cannot be imported ({printable(error)[:200]}): no CIFAR, and no ImageNet weights"


def precision_reason(runtime: Runtime, config: RunConfig) -> str:
    """The reason for the precision, in words."""
    device = runtime.device
    if config.precision != "auto":
        best = runtime.precision == choose_precision("auto", device)
        return "as given" + (
            "" if best else f"; auto would choose {Runtime(device, choose_precision('auto', device)).precision_name}"
        )
    if device.type == "cpu":
        return (
            "this CPU multiplies bfloat16 in hardware"
            if native_bf16()
            else "this CPU has no bfloat16 hardware (AVX512-BF16 or AMX), and emulation is slower"
        )
    if device.type == "mps":
        return "on MPS bf16 gains little and depends on the version of macOS"
    supported = "supported by this GPU"
    return supported if runtime.precision != torch.float32 else "this GPU has neither bf16 nor fast fp16"


def kernels_state(runtime: Runtime) -> str:
    """Use of the C kernels, with the reason if they are not used."""
    if runtime.device.type != "cpu":
        return f"those of {runtime.device.type}; ours are for the CPU"
    if not runtime.uses_kernels:
        return "torch's own: ours are for bf16, which is not used here"
    return runtime.norms if runtime.norms.startswith("by torch") else "ours, compiled for this CPU"


def machine_findings(runtime: Runtime) -> Iterator[Finding]:
    """Findings about the machine: torchvision, threads, kernels, and an accelerator that computes something else."""
    state = torchvision_state()
    if "cannot" in state:
        yield Finding("torchvision", "note", state)
    quota = cpu_quota()
    if quota and torch.get_num_threads() > quota + 1:
        sentence = f"{torch.get_num_threads()} threads share {quota:.3g} CPUs; set OMP_NUM_THREADS={max(1, int(quota))}"
        yield Finding("threads", "warning", sentence)
    if runtime.uses_kernels and runtime.norms.startswith("by torch"):
        yield Finding("kernels", "note", f"training is slower than it could be: norms {runtime.norms}")
    if runtime.device.type != "cpu":
        difference = largest_difference(runtime.device)
        if not difference <= LARGEST_DIFFERENCE:  # this form catches NaN too
            sentence = (
                f"{runtime.device.type} and the CPU compute different logits for one network (by {difference:.3g}); "
                "update the driver or torch, or use `device='cpu'`"
            )
            yield Finding("device", "warning", sentence)


@torch.inference_mode()
def largest_difference(device: torch.device, batches: int = 3) -> float:
    """The largest difference between logits of an accelerator and of the CPU, for random images in fp32."""
    network = build_model("resnet20", 10).eval()
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(16, 3, 32, 32, generator=generator) for _ in range(batches)]
    expected = [network(batch) for batch in images]
    network.to(device)
    pairs = zip(images, expected, strict=True)
    return max(float((network(batch.to(device)).cpu() - logits).abs().max()) for batch, logits in pairs)


def data_facts(seen: Survey) -> dict[str, str]:
    """Name, number of images, sizes and modes in words."""
    modes = ", ".join(f"{mode} {count:,}" for mode, count in Counter(seen.modes).most_common())
    splits = Counter(seen.splits)
    return {
        "data": f"{printable(seen.name)}: {len(seen.names):,} images in {len(seen.classes)} classes",
        "splits": ", ".join(f"{splits[split]:,} {split}" for split in ("train", "val", "test")),
        "sizes": size_range(seen.sizes),
        "modes": modes,
        **{f"note {number}": note for number, note in enumerate(seen.notes, start=1)},
    }


def try_training(config: RunConfig, found: Diagnosis) -> None:
    """Open the data as a training does, train for a few steps, and note what a whole run needs. Raises LabError."""
    experiment = Experiment.of(config)
    data, runtime = experiment.data, experiment.runtime
    preprocessing, notes = data.preprocessing, data.notes
    numbers = [" ".join(f"{value:.4f}" for value in values) for values in (preprocessing.mean, preprocessing.std)]
    colour = "grey" if preprocessing.channels == 1 else "colour"
    reasons = (note.partition(": ")[2] for note in notes if note.startswith("image size"))
    reason = next(reasons, f"that of the data set; {colour}")
    side = preprocessing.image_size
    ranged = [note for note in notes if "become black to white" in note or "of 256 levels" in note]
    found.data |= {
        "image size": f"{side}×{side}: {reason}",
        **({"pixel values": "; ".join(ranged).removeprefix("pixel values ")} if ranged else {}),
        "mean and std": f"{numbers[0]} and {numbers[1]}",
    }
    weights = sum(p.numel() for p in experiment.network.parameters())
    stem = experiment.network.architecture.stem
    found.training = {
        "network": f"{experiment.network.name}, {stem} stem, {weights / 1e6:.2f} M weights",
        "recipe": f"{config.recipe}, batches of {config.batch_size}, {len(experiment.batches.train):,} steps per epoch",
    }
    seconds = seconds_per_step(experiment)
    estimate = estimated(experiment, seconds)
    found.estimate = estimate
    found.training |= {
        "speed": f"{seconds * 1000:,.0f} ms per step, {config.batch_size / seconds:,.0f} images/s",
        "time": f"{duration(estimate.seconds_per_epoch)} per epoch, about {duration(estimate.seconds)} in all",
        "memory": f"{size(estimate.memory)} at most" + (" on the GPU" if runtime.device.type == "cuda" else ""),
        "disk": f"about {size(estimate.disk)}",
    }
    free = shutil.disk_usage(existing_folder(Path("runs"))).free
    if estimate.disk > free:
        sentence = f"the run needs about {size(estimate.disk)} of disk, and {size(free)} are free"
        found.findings.append(Finding("disk", "error", sentence))


def estimated(experiment: Experiment, seconds: float) -> Estimate:
    """Extrapolate the time of a step to the run, and add up its memory and its files."""
    config, steps, parts = experiment.config, experiment.plan.steps, times(experiment, seconds)
    per_epoch = parts.steps_per_epoch * parts.step + parts.epoch_end
    checkpoint, weights = sizes_of_files(experiment.state)
    # one more checkpoint than is kept, while the next is written; 10 MB for figures, tables and samples
    disk = (config.checkpoint.keep + 1) * checkpoint + 2 * weights + 10_000_000
    return Estimate(steps, seconds, per_epoch, parts.of(steps), peak_memory(experiment.runtime), disk)


def peak_memory(runtime: Runtime) -> int:
    """The most bytes that were in use: on a GPU, or of this process."""
    if runtime.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(runtime.device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def existing_folder(path: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def size(count: int) -> str:
    """A number of bytes in words.

    >>> size(2_500_000), size(12_000_000_000)
    ('2.5 MB', '12.0 GB')
    """
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(0.5), duration(90), duration(7200)
    ('0.5 s', '1.5 minutes', '2.0 hours')
    """
    for length, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= length:
            return f"{seconds / length:,.1f} {name}"
    return f"{seconds:.1f} s"
