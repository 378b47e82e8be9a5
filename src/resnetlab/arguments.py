"""What each command takes: positional words and flags, with the help that is shown for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from resnetlab.config import RunConfig


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
    print_config: bool = False
    """print what would be run, as JSON, and stop"""


@dataclass(frozen=True)
class ResumeArguments:
    """Go on with a run from its newest checkpoint; a finished run is scored if need be, or made longer by --epochs."""

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
    """which split; every look at the test split makes it a little less of one"""
    json: bool = False
    """print metrics.json instead of a table"""
    out: Path | None = None
    """where tables and pictures go; default: evaluation/SPLIT in the run"""
    all_probabilities: bool = False
    """write the probability of every class to predictions.csv"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """where to compute"""


@dataclass(frozen=True)
class RunsArguments:
    """The runs in a folder, best first."""

    folder: Positional[Path] = Path("runs")
    """where to look"""


@dataclass(frozen=True)
class ModelsArguments:
    """The networks there are, or one of them stage by stage."""

    name: Positional[str | None] = None
    """one network, to be shown stage by stage"""
    image_size: int | None = None
    """side of the image in pixels; default: 224, and 32 for the CIFAR nets"""
    stem: Literal["auto", "imagenet", "cifar"] = "auto"
    """auto: cifar up to 64 px, if an image size is given"""
    classes: int | None = None
    """classes of the head; default: 1000, and 10 for the CIFAR nets"""
