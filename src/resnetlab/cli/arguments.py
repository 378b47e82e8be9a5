"""What each command takes: positional words and flags, with the help that is shown for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from resnetlab.runs.config import AugmentConfig, DataConfig, RunConfig


@dataclass(frozen=True)
class TrainArguments:
    """Train, score and plot a run. RECIPE is a starting point; every setting of it can be changed by a flag."""

    config: Annotated[RunConfig, arg(name="")]
    out: Path | None = None
    """the run's folder, new or empty; default: runs/RECIPE-NNN"""
    max_minutes: float | None = None
    """stop after this time, as a signal would: with a checkpoint, exit code 6"""
    resume: Literal["auto"] | None = None
    """auto: go on with the run in --out if there is one"""
    seeds: int | None = None
    """train so many runs, under --seed and the seeds after it, in folders of --out, with a summary of their scores"""
    print_config: bool = False
    """print what would be run, as JSON, and stop"""


@dataclass(frozen=True)
class FindLrArguments:
    """The learning-rate range test: train with a rate that grows at every step, see where the loss falls and where it
    goes up, and suggest a peak learning rate. No run is left behind. RECIPE and its flags are those of `train`.
    """

    config: Annotated[RunConfig, arg(name="")]
    lowest: float = 1e-6
    """the first learning rate"""
    highest: float = 10.0
    """the last one, if the loss allows"""
    tries: int = 100
    """how many there are, one step each"""
    out: Path | None = None
    """where the picture goes, a file that ends in .png"""
    json: bool = False
    """print the suggestion, the learning rates and the losses as JSON"""


@dataclass(frozen=True)
class ResumeArguments:
    """Go on with a run from its newest checkpoint; a finished run is scored if need be, or made longer by --epochs.
    The folder of a series (train --seeds) goes on with the runs that are not finished.
    """

    config: Annotated[RunConfig, arg(name="")]
    allow_change: tuple[str, ...] = ()
    """settings that may change, by their path (optim.lr); epochs: the length of an unfinished run"""
    strict_resume: bool = False
    """refuse where the result could differ from an uninterrupted run's: another torch, thread count, precision …"""
    max_minutes: float | None = None
    """stop after this time, as a signal would"""


@dataclass(frozen=True)
class EvaluateArguments:
    """Score a run's best weights, or a model file, on a split."""

    source: Annotated[Positional[Path], arg(metavar="RUN|MODEL")]
    """a run's folder, or a model file"""
    data: str | None = None
    """other data to score on: a name or a folder"""
    split: Literal["val", "test"] = "val"
    """which split; every look at the test split makes it a little less of one, and is written into its ledger"""
    tta: Literal["none", "flip", "flip-shift"] = "none"
    """test-time augmentation: mean over the image and its mirror image, or also over both moved by a pixel"""
    json: bool = False
    """print metrics.json instead of a table"""
    out: Path | None = None
    """where tables and pictures go; default: evaluation/SPLIT in the run, with --tta evaluation/SPLIT-TTA"""
    all_probabilities: bool = False
    """write the probability of every class to predictions.csv"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """where to compute"""


@dataclass(frozen=True)
class CompareArguments:
    """Compare two runs or more on the images that all of them were scored on: which is better, and can one tell?"""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN RUN …")]
    """folders of runs"""
    split: Literal["val", "test"] = "test"
    """which scores; the best epoch of each run was chosen on val, which flatters all of them there"""
    out: Path | None = None
    """a folder for a page with everything on it, the curves as a picture, and the numbers as JSON"""
    json: bool = False
    """print the numbers as JSON instead of tables"""


@dataclass(frozen=True)
class BaselineArguments:
    """Train one network from scratch, with ImageNet's weights frozen, and with them fine-tuned, and compare the three.

    The same command again skips what is finished and goes on with the rest.
    """

    data: DataConfig
    augment: AugmentConfig
    weights: str = "torchvision"
    """torchvision, a file, or a URL whose file name carries its digest"""
    model: str = "resnet34"
    """a network that the weights are for"""
    epochs: int | None = None
    """length of each of the three in epochs; default: 10"""
    steps: int | None = None
    """length of each of the three in optimiser steps"""
    batch_size: int = 32
    """images per optimiser step"""
    seed: int = 0
    """seed of initialisation, order and augmentation"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """where to compute"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware multiplies it"""
    out: Path | None = None
    """a folder for the three runs and the page that compares them; default: runs/baseline-DATA"""
    max_minutes: float | None = None
    """stop after this time, as a signal would: with a checkpoint, exit code 6"""


@dataclass(frozen=True)
class ReportArguments:
    """Write a run as one HTML page that holds everything it shows, from what lies in the run's folder."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """a run's folder"""
    out: Path | None = None
    """where the page goes; default: report.html in the run"""


@dataclass(frozen=True)
class RunsArguments:
    """The runs in a folder, best first."""

    folder: Positional[Path] = Path("runs")
    """where to look"""


@dataclass(frozen=True)
class ModelsArguments:
    """The networks there are, or one of them stage by stage, in numbers and as a picture."""

    name: Positional[str | None] = None
    """one network, to be shown stage by stage; or a model file or a run's folder, with the weights it holds"""
    image: Path | None = None
    """a picture to send through the network: mean and standard deviation of what leaves each stage"""
    save_figure: Path | None = None
    """draw the network, with --image also the feature maps of each stage; a file that ends in .png, .svg or .pdf"""
    image_size: int | None = None
    """side of the image in pixels; default: 224, and 32 for the CIFAR nets"""
    stem: Literal["auto", "imagenet", "cifar"] = "auto"
    """auto: cifar up to 64 px, if an image size is given"""
    classes: int | None = None
    """classes of the head; default: 1000, and 10 for the CIFAR nets"""
