"""The arguments of each command and their help."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from resnetlab.cli.parsing import Arguments, Metavar, Positional, read_settings
from resnetlab.errors import BadInput, BadSettings, printable
from resnetlab.runs import recipes
from resnetlab.runs.config import AugmentConfig, DataConfig, RunConfig
from resnetlab.runs.recipes import RECIPES

Device = Literal["auto", "cpu", "cuda", "mps"]
File = Metavar("FILE")
Folder = Metavar("FOLDER")

RECIPE_FOR = {"digits": "quickstart", "cifar10": "cifar10-resnet18", "cifar100": "cifar10-resnet18"}


class RecipeArguments(Arguments):
    """Arguments that describe a run: options override a config file, which overrides the recipe."""

    settings: ClassVar[type[RunConfig] | None] = RunConfig
    recipe: Annotated[str | None, Positional("[RECIPE]")] = None
    """recipe to start from; default: depends on --data: quickstart for digits, cifar10-resnet18 for cifar10 and
    cifar100, folder for a folder"""
    config: Annotated[Path | None, File] = None
    """a .json or .toml file with settings of the run, such as the config.json of another run"""

    @classmethod
    def lists(cls) -> dict[str, Mapping[str, str]]:
        return {"recipes:": {name: recipes.summary(name) for name in recipes.RECIPES}}

    @classmethod
    def about(cls, given: Mapping[str, Any]) -> list[str]:
        """Return the description of the recipe, if one is named."""
        recipe = given.get("recipe")
        return [f"{recipe}: {recipes.summary(recipe)}.", *recipes.description(recipe)[1:]] if recipe in RECIPES else []

    def defaults(self) -> RunConfig:
        """The recipe with the settings of the config file; without a recipe, the data selects one."""
        settings = {} if self.config is None else read_settings(self.config)
        recipe = self.recipe
        if recipe is None and settings.get("recipe") in list(recipes.RECIPES):
            recipe = settings["recipe"]
        if recipe is None:
            sections = (self.changes.get("data"), settings.get("data"))  # a file's may be anything
            names = [section.get("name") for section in sections if isinstance(section, dict)]
            data = next((str(name) for name in names if name), "digits")
            recipe = RECIPE_FOR.get(data, "folder")
        base = recipes.get(recipe)
        try:
            return base.changed({key: value for key, value in settings.items() if value is not None})
        except BadInput as error:
            raise BadSettings(f"config file {printable(self.config)}: {error}") from error

    def run_config(self) -> RunConfig:
        """The settings of the run, complete and checked."""
        return self.defaults().changed(self.changes)


class TrainArguments(RecipeArguments):
    """Train a network: validate it after every epoch, score the best weights on the test split, draw the curves, and
    write everything into the folder of the run.

    A recipe is a complete set of settings. Every setting can be changed by an option.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "resnetlab train",
        "resnetlab train --data FOLDER --epochs 20",
        "resnetlab train cifar10-resnet18 --lr 0.05 --augment.cutout 8 --out runs/cutout",
        "resnetlab train --config runs/cutout/config.json --seed 1",
    )
    out: Annotated[Path | None, Folder] = None
    """folder of the run, new or empty; default: runs/RECIPE-NNN"""
    max_minutes: Annotated[float | None, Metavar("MINUTES")] = None
    """save a checkpoint and stop after this many minutes, with exit code 6; default: no limit"""
    resume: Literal["auto"] | None = None
    """auto: continue the run in --out if there is one, else start it; default: start a new run"""
    seeds: int | None = None
    """number of runs, with consecutive seeds from --seed, in sub-folders of --out, with a summary of their scores;
    default: one run, no summary"""
    folds: int | None = None
    """cross-validation: number of folds, each the test split of one run in a sub-folder of --out; all predictions are
    then scored as one set; default: off"""
    print_config: bool = False
    """print all settings as JSON and exit without training"""


class DoctorArguments(RecipeArguments):
    """Examine this machine and, with --data or a recipe, a data set: read every image once, look for faults that make
    scores wrong (copies in several splits, one image with two labels, broken files), train for 20 steps, and tell how
    long the run will take and how much memory and disk it needs. Exit code 2 if training would fail.

    Nothing is saved except the page that --out asks for. The settings are those of `resnetlab train`.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "resnetlab doctor",
        "resnetlab doctor --data FOLDER --out doctor.html",
    )
    out: Annotated[Path | None, File] = None
    """write a page with a thumbnail of every finding into an .html file; default: print only"""
    json_: bool = False
    """print everything, with all files of every finding, as JSON"""


class LabelIssuesArguments(Arguments):
    """List the images of a run whose labels are probably wrong, the most suspect first: validation images that the
    network, which was not trained on them, is sure to be of another class.

    Correct the column label of labels.csv, delete the rows of useless images, and train on the file. It lists all
    images of the run with their splits. For a series of folds (train --folds), all training images are examined.
    """

    examples: ClassVar[tuple[str, ...]] = ("resnetlab label-issues runs/folder-001 --out labels",)
    run: Annotated[Path, Positional("RUN")]
    """folder of a run, or of a series of folds"""
    out: Annotated[Path | None, Folder] = None
    """folder for labels.csv and label-issues.html; default: label-issues in RUN"""
    json_: bool = False
    """print the suspected images as JSON"""
    device: Device = "auto"
    """device to compute on; auto: CUDA, else MPS, else CPU"""


class FindLrArguments(RecipeArguments):
    """Run a learning-rate range test: train with a learning rate that grows at every step, find where the loss falls
    fastest and where it starts to rise, and suggest a peak learning rate.

    Nothing is saved except the plot that --out asks for. The settings are those of `resnetlab train`.
    """

    unused: ClassVar[tuple[str, ...]] = (
        *("epochs", "steps", "optim.lr", "patience", "ema", "best_by", "final_test", "on_nonfinite", "tensorboard"),
        *("schedule.", "checkpoint."),
    )
    examples: ClassVar[tuple[str, ...]] = ("resnetlab find-lr cifar10-resnet18 --out rates.png",)
    lowest: float = 1e-6
    """first learning rate"""
    highest: float = 10.0
    """last learning rate; the test ends earlier if the loss diverges"""
    tries: int = 100
    """number of learning rates, one optimiser step each"""
    out: Annotated[Path | None, File] = None
    """plot the loss against the learning rate into a .png file"""
    json_: bool = False
    """print the suggestion, the learning rates and the losses as JSON"""


class ResumeArguments(Arguments):
    """Continue a run from its newest checkpoint. A finished run is scored if that is missing, or trained for longer if
    --epochs or --steps asks for more.

    For the folder of a series (train --seeds), continue the runs that are not finished. Settings keep the values that
    the run has; a new value for one that affects the result must be allowed by --allow-change.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "resnetlab resume runs/quickstart-001",
        "resnetlab resume runs/quickstart-001 --epochs 60",
        "resnetlab resume runs/quickstart-001 --lr 0.01 --allow-change optim.lr",
    )
    settings: ClassVar[type[RunConfig] | None] = RunConfig
    run: Annotated[Path, Positional("RUN")]
    """folder of a run or of a series"""
    allow_change: Annotated[tuple[str, ...], Metavar("SETTING")] = ()
    """settings that may change, by path, such as optim.lr; epochs: the length of an unfinished run; default: none"""
    strict_resume: bool = False
    """refuse to continue if the result could differ from that of an uninterrupted run, for example because of another
    torch version, thread count or precision"""
    max_minutes: Annotated[float | None, Metavar("MINUTES")] = None
    """save a checkpoint and stop after this many minutes, with exit code 6; default: no limit"""


class EvaluateArguments(Arguments):
    """Score the best weights of a run, or a model file, on the validation or test split: accuracy with its 95 %
    interval, precision, recall and F1 of every class, calibration, and the confusion matrix.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "resnetlab evaluate runs/quickstart-001",
        "resnetlab evaluate best.safetensors --data FOLDER",
    )
    source: Annotated[Path, Positional("RUN|MODEL")]
    """folder of a run, or a model file"""
    data: Annotated[str | None, Metavar("NAME|FOLDER|FILE")] = None
    """other data to score on: digits, cifar10 or cifar100; a folder with one sub-folder per class, or a .csv file that
    lists images, all of it; one with a test or val split; or the new place of the run's own data; default: the data of
    the run"""
    split: Literal["val", "test"] = "val"
    """split to score on; each use of the test split is recorded in the run's access log"""
    tta: Literal["none", "flip", "flip-shift"] = "none"
    """test-time augmentation; flip: average over the image and its mirror image; flip-shift: also over both shifted by
    one pixel"""
    json_: bool = False
    """print metrics.json instead of a table"""
    out: Annotated[Path | None, Folder] = None
    """folder for tables and figures; default: evaluation/SPLIT in the run, with --tta evaluation/SPLIT-TTA"""
    allow_changed_data: bool = False
    """if images of the run are new, gone or changed, score the recorded ones that are still the same, into a folder of
    their own (evaluation/changed-SPLIT); default: refuse"""
    all_probabilities: bool = False
    """write the probability of every class to predictions.csv"""
    device: Device = "auto"
    """device to compute on; auto: CUDA, else MPS, else CPU"""


class CompareArguments(Arguments):
    """Compare two or more runs on the images that all of them were scored on: which settings differ, which run is
    better, and is the difference significant?

    Series (train --seeds) are compared by mean, standard deviation and interval over their seeds.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "resnetlab compare runs/quickstart-001 runs/quickstart-002 --out compared",
        "resnetlab compare runs/sgd-seeds runs/adam-seeds --latex table.tex --csv table.csv",
    )
    runs: Annotated[tuple[Path, ...], Positional("RUN RUN ...")] = ()
    """folders of runs or series, two or more"""
    split: Literal["val", "test"] | None = None
    """split whose scores are compared; scores on val are too good, because the best epoch was selected on it; default:
    test if all runs were scored on it, else val"""
    out: Annotated[Path | None, Folder] = None
    """folder for an HTML page, the curves as a figure, and the numbers as JSON; default: print only"""
    latex: Annotated[Path | None, File] = None
    """write the scores as a LaTeX table into a .tex file: mean ± std, number of runs, intervals"""
    csv: Annotated[Path | None, File] = None
    """write the same scores with all their digits into a .csv file"""
    json_: bool = False
    """print the numbers as JSON instead of tables"""


class BaselineArguments(Arguments):
    """Train a network three times and compare the results: from scratch, on frozen ImageNet weights, and fine-tuned
    from ImageNet weights.

    Repeat the command to continue: finished runs are skipped.
    """

    examples: ClassVar[tuple[str, ...]] = ("resnetlab baseline --data FOLDER --epochs 10",)
    data: DataConfig = DataConfig(normalize="imagenet")
    augment: AugmentConfig = recipes.finetune().augment
    weights: Annotated[str, Metavar("torchvision|FILE|URL")] = "torchvision"
    """ImageNet weights: torchvision's, a file, or a URL whose file name contains its digest"""
    model: str = "resnet34"
    """network that the weights belong to"""
    epochs: int | None = None
    """length of each run in epochs; default: 10"""
    steps: int | None = None
    """length of each run in optimiser steps; default: set by --epochs"""
    batch_size: int = 32
    """images per optimiser step"""
    seed: int = 0
    """seed of initialisation, image order and augmentation"""
    device: Device = "auto"
    """device to train on; auto: CUDA, else MPS, else CPU"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """number format for training; auto: bf16 where supported, else fp32"""
    out: Annotated[Path | None, Folder] = None
    """folder for the three runs and the page that compares them; default: runs/baseline-DATA"""
    max_minutes: Annotated[float | None, Metavar("MINUTES")] = None
    """save a checkpoint and stop after this many minutes, with exit code 6; default: no limit"""


class ReportArguments(Arguments):
    """Write the report of a run: one HTML file with its scores, curves, classes, calibration and mistakes, and the
    command that reproduces it.
    """

    examples: ClassVar[tuple[str, ...]] = ("resnetlab report runs/quickstart-001",)
    run: Annotated[Path, Positional("RUN")]
    """folder of a run"""
    out: Annotated[Path | None, File] = None
    """file to write; default: report.html in the run"""


class RunsArguments(Arguments):
    """List the runs in a folder, the best validation accuracy first."""

    examples: ClassVar[tuple[str, ...]] = ("resnetlab runs",)
    folder: Annotated[Path, Positional("[FOLDER]")] = Path("runs")
    """folder that contains the runs; default: runs"""


class ModelsArguments(Arguments):
    """List the networks with their cost, or show one of them stage by stage: shapes, parameters and
    multiply-accumulates (MACs).
    """

    examples: ClassVar[tuple[str, ...]] = (
        "resnetlab models",
        "resnetlab models resnet34 --image-size 32",
        "resnetlab models resnet34 --image cat.png --save-figure activations.png",
    )
    name: Annotated[str | None, Positional("[NAME|MODEL|RUN]")] = None
    """network to show stage by stage: a name from the list, a model file, or the folder of a run; default: list all"""
    image: Annotated[Path | None, File] = None
    """image to send through the network: print mean and standard deviation of the output of each stage"""
    save_figure: Annotated[Path | None, File] = None
    """draw the network, with --image also the feature maps of each stage, into a .png, .svg or .pdf file"""
    image_size: int | None = None
    """side of the input image in pixels; default: 224, or 32 for the CIFAR networks"""
    stem: Literal["auto", "imagenet", "cifar"] = "auto"
    """first layers; imagenet: 7x7/2 convolution and max pooling; cifar: 3x3/1; auto: cifar up to --image-size 64"""
    classes: int | None = None
    """number of classes; default: 1000, or 10 for the CIFAR networks"""
