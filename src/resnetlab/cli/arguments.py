"""The arguments of each command and their help."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from resnetlab.cli.config_file import read_settings
from resnetlab.cli.options import Arguments, Metavar, Positional, Short
from resnetlab.errors import BadInput, BadSettings, printable
from resnetlab.runs import recipes
from resnetlab.runs.config import AugmentConfig, DataConfig, RunConfig
from resnetlab.runs.recipes import RECIPES

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
File = Metavar("FILE")
Folder = Metavar("FOLDER")

RECIPE_FOR = {
    "digits": "quickstart",
    **dict.fromkeys(("cifar10", "cifar100"), "cifar10-resnet18"),
    **dict.fromkeys(("mnist", "fashion-mnist", "svhn"), "mnist"),
}


class RecipeArguments(Arguments):
    """Arguments that describe a run: options override a config file, which overrides the recipe."""

    settings: ClassVar[type[RunConfig] | None] = RunConfig
    recipe: Annotated[str | None, Positional("[RECIPE]")] = None
    """recipe to start from; --help after its name describes it and shows its defaults; default: depends on --data:
    quickstart for digits, cifar10-resnet18 for cifar10 and cifar100, mnist for mnist, fashion-mnist and svhn, folder
    for a folder and other data sets"""
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
    minutes: Annotated[float | None, Metavar("MINUTES")] = None
    """length of the run in minutes, from the start of the command to its end: 20 steps are measured, and the number of
    steps that fits is stored in the run's config, so that it can be repeated; instead of --epochs or --steps; default:
    the recipe's length"""
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
    process_timeout: Annotated[float | None, Metavar("SECONDS")] = None
    """with several processes (torchrun): time after which one that does not answer is given up, and all end; default:
    300"""
    print_config: bool = False
    """print all settings as JSON and exit without training"""


class SweepArguments(RecipeArguments):
    """Search for good settings: train many configurations of a search space, stop the poor ones early, and choose the
    best on the validation images. Needs pip install 'resnetlab[sweep]'.

    Repeat the command to continue, or run it several times at once, on one machine or on several that share the folder.
    A trial whose process was killed is continued by another one. The result is a page, sweep.html, and the best
    configuration as a file for `resnetlab train --config`, best.json.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "resnetlab sweep cifar10-fast --space space.toml --trials 50",
        "resnetlab sweep --data FOLDER --epochs 10 --space space.toml --trials 20 --pruner hyperband --final",
        "resnetlab sweep --space space.toml --trials 50 --out /shared/sweep --storage /shared/sweep.journal",
    )
    space: Annotated[Path, File]
    """a .toml or .json file: for each setting to vary a list of values, as in "model.name" = ["resnet20", "resnet32"],
    or a range, as in "optim.lr" = {low = 0.01, high = 1, log = true}"""
    trials: Annotated[int, Metavar("N")]
    """number of configurations to try, by all processes and sessions together"""
    out: Annotated[Path | None, Folder] = None
    """folder of the sweep, with a sub-folder for each trial; default: runs/sweep-RECIPE"""
    storage: Annotated[str | None, Metavar("URL|FILE")] = None
    """where the trials are recorded: the address of a data base, such as sqlite:///FILE or postgresql://HOST/NAME, or a
    journal file, for disks that several machines share; default: SQLite in --out"""
    study: Annotated[str | None, Metavar("NAME")] = None
    """name of the study in --storage; default: the name of the folder"""
    pruner: Literal["median", "hyperband", "none"] = "median"
    """which trials are stopped at the end of an epoch; median: those below the median of the earlier ones; hyperband:
    all but the best third, at epochs 1, 3, 9, …; none: none"""
    final: bool = False
    """score the chosen configuration on the test split at the end, once; default: the test split is not used"""
    max_minutes: Annotated[float | None, Metavar("MINUTES")] = None
    """stop after this many minutes, with exit code 6; default: no limit"""


class DoctorArguments(RecipeArguments):
    """Examine this machine and, with --data or a recipe, a data set: read every image once, find faults that make
    scores wrong (copies in several splits, one image with two labels, broken files), train for 20 steps, and estimate
    the time, memory and disk space of the run. Exit code 2 if training would fail.

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


class PackArguments(Arguments):
    """Pack a folder of images into shards for training: tar files in WebDataset's layout, with an index beside each.

    Images are copied as they are; splits and classes stay. Each shard is a random sample of its split, and is written
    whole or not at all. The same command continues where it was stopped. Train with --data and the folder of the
    shards, or a pattern such as 'shards/train-*.tar'.
    """

    examples: ClassVar[tuple[str, ...]] = ("resnetlab pack FOLDER --out shards",)
    source: Annotated[str, Positional("FOLDER")]
    """a folder of images with one sub-folder per class, or a .csv, .tsv or .parquet file, as in `train --data`"""
    out: Annotated[Path, Folder] = Path("shards")
    """folder for the shards, a new one or that of the same command before"""
    images_per_shard: int = 1000
    """most images in a shard"""


class InfoArguments(Arguments):
    """Show everything that a model file contains besides the weights: network, classes, preprocessing, temperature,
    rejection thresholds, the agreement of other precisions with fp32, scores, recipe, data, versions and licence.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "resnetlab info runs/quickstart-001",
        "resnetlab info best.safetensors --json",
    )
    source: Annotated[str, Positional("MODEL")]
    """a model file, the folder of a run, the name of a run in ./runs, or hf:OWNER/NAME on the Hugging Face Hub"""
    json_: bool = False
    """print everything, with all class names and digests, as JSON"""


class LabelIssuesArguments(Arguments):
    """List the images of a run whose labels are probably wrong, the most suspect first: validation images that the
    network, which was not trained on them, is sure to be of another class.

    Correct the column label of labels.csv, delete the rows of useless images, and train on the file. It lists all
    images of the run with their splits. For a series of folds (train --folds), all training images are examined.
    """

    examples: ClassVar[tuple[str, ...]] = ("resnetlab label-issues runs/folder-001 --out labels",)
    run: Annotated[Path, Positional("RUN")]
    """folder of a run or of a series of folds, or its name in ./runs"""
    data: Annotated[str | None, Metavar("FOLDER|FILE")] = None
    """new place of the run's data, if it was moved: a folder or a .csv file; default: where it was"""
    out: Annotated[Path | None, Folder] = None
    """folder for labels.csv and label-issues.html; default: label-issues in RUN"""
    json_: bool = False
    """print the suspected images as JSON"""
    device: Device = "auto"
    """device to compute on; auto: CUDA, else MPS, else CPU"""


class ImportArguments(Arguments):
    """Make a model file of weights that another program saved: torchvision, timm, a training script, a published
    network of CIFAR.

    The command reads files of torch.save (.pth, .pt, .th, .pth.tar, .ckpt, .bin) and .safetensors that contain weights
    alone, and runs no code in them. It prints what it renamed and assumed, and refuses weights that do not fit.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "resnetlab import resnet18-f37072fd.pth --classes imagenet",
        "resnetlab import resnet20.th --model resnet20 --classes names.txt --image-size 32 "
        "--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225",
    )
    file: Annotated[Path, Positional("FILE")]
    """file with the weights"""
    classes: Annotated[str | None, Metavar("FILE|imagenet")] = None
    """names of the classes in the order of the outputs, which must be given: a file with one per line, a JSON list, or
    a JSON object from index to name or from name to index; imagenet: the 1,000 names of torchvision; default: none"""
    model: Annotated[str, Metavar("NAME|auto")] = "auto"
    """network of the weights, as in `resnetlab models`; auto: the one with these shapes, if there is only one"""
    out: Annotated[Path | None, File] = None
    """model file to write, a new one; default: NAME.safetensors"""
    image_size: int | None = None
    """side of the network's input in pixels; default: what is known about the file, else it must be given"""
    resize_to: int | None = None
    """side in pixels to which images are resized before the centre is taken; default: what is known about the file,
    else --image-size up to 64, above it 256/224 of it"""
    mean: Annotated[tuple[float, ...] | None, Metavar("X")] = None
    """mean of each channel in training, of pixels in [0, 1]; default: what is known about the file, else it must be
    given"""
    std: Annotated[tuple[float, ...] | None, Metavar("X")] = None
    """standard deviation of each channel in training; default: as --mean"""
    fit: Literal["crop", "squash", "pad"] | None = None
    """how images become square; crop: resize the short side, take the centre; squash: ignore the aspect ratio; pad:
    resize the long side, fill with black; default: what is known about the file, else crop"""
    stem: Literal["auto", "imagenet", "cifar"] = "auto"
    """first layers; auto: by the kernel of the first convolution, 7x7 is imagenet, 3x3 is cifar"""


class CardArguments(Arguments):
    """Write the card of a model, README.md with the metadata that the Hugging Face Hub reads, into a folder with the
    model file, its settings and figures. Everything in it comes from the model file and its run.
    """

    examples: ClassVar[tuple[str, ...]] = ("resnetlab card runs/quickstart-001 --out digits --license mit",)
    source: Annotated[str, Positional("RUN|MODEL")]
    """a model file, the folder of a run, the name of a run in ./runs, or hf:OWNER/NAME on the Hugging Face Hub"""
    out: Annotated[Path | None, Folder] = None
    """folder to write, new or empty; default: card in the run, or beside the model file"""
    license: str | None = None
    """licence of the weights: an SPDX name such as apache-2.0, or an address; default: that of the model file"""


class PushArguments(Arguments):
    """Upload a model with its card to the Hugging Face Hub, in one commit. The repository is created if there is none.

    Log in first: hf auth login. `resnetlab.load("hf:OWNER/NAME")` and `resnetlab predict hf:OWNER/NAME IMAGE` use the
    model again.
    """

    examples: ClassVar[tuple[str, ...]] = ("resnetlab push runs/quickstart-001 me/digits --private --license mit",)
    source: Annotated[str, Positional("RUN|MODEL")]
    """a model file, the folder of a run, the name of a run in ./runs, or hf:OWNER/NAME on the Hugging Face Hub"""
    repository: Annotated[str, Positional("OWNER/NAME")]
    """name of the repository on the Hub"""
    private: bool = False
    """create a private repository, and refuse an existing public one; default: create a public one"""
    license: str | None = None
    """licence of the weights: an SPDX name such as apache-2.0, or an address; default: that of the model file"""


class FindLrArguments(RecipeArguments):
    """Run a learning-rate range test: train with a learning rate that grows at every step, find where the loss falls
    fastest and where it starts to rise, and suggest a peak learning rate.

    Nothing is saved except the plot that --out asks for. The settings are those of `resnetlab train`.
    """

    unused: ClassVar[tuple[str, ...]] = (
        *("epochs", "steps", "optim.lr", "patience", "ema", "best_by", "final_test", "on_nonfinite", "track"),
        *("schedule.", "checkpoint.", "license"),
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
    """folder of a run or of a series, or its name in ./runs"""
    allow_change: Annotated[tuple[str, ...], Metavar("SETTING")] = ()
    """settings that may change, by path, such as optim.lr; epochs: the length of an unfinished run; default: none"""
    strict_resume: bool = False
    """refuse to continue if the result could differ from that of an uninterrupted run, for example because of another
    torch version, thread count, precision or number of processes"""
    max_minutes: Annotated[float | None, Metavar("MINUTES")] = None
    """save a checkpoint and stop after this many minutes, with exit code 6; default: no limit"""
    process_timeout: Annotated[float | None, Metavar("SECONDS")] = None
    """with several processes (torchrun): time after which one that does not answer is given up, and all end; default:
    300"""


class EvaluateArguments(Arguments):
    """Score the best weights of a run, or a model file, on the validation or test split: accuracy with its 95 %
    interval, precision, recall and F1 of every class, calibration, and the confusion matrix.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "resnetlab evaluate runs/quickstart-001",
        "resnetlab evaluate best.safetensors --data FOLDER",
    )
    source: Annotated[str, Positional("RUN|MODEL")]
    """a model file, the folder of a run, the name of a run in ./runs, or hf:OWNER/NAME on the Hugging Face Hub"""
    data: Annotated[str | None, Metavar("NAME|FOLDER|FILE")] = None
    """other data to score on: the name of a data set, such as cifar10; a folder with one sub-folder per class, or a
    .csv file that lists images, all of it; one with a test or val split; or the new place of the run's own data;
    default: the data of the run"""
    split: Literal["val", "test"] = "val"
    """split to score on; each use of the test split is recorded in the run's access log"""
    tta: Literal["none", "flip", "flip-shift"] = "none"
    """test-time augmentation; flip: average over the image and its mirror image; flip-shift: also over both shifted by
    one pixel; for networks that were trained on mirrored images"""
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


class PredictArguments(Arguments):
    """Predict the classes of images of any size and format: a table on a terminal, a line per image in a pipe.

    A folder stands for all images in it and below it, in natural order. Hidden files, and files that are not named like
    an image, are skipped and counted. A line has the file, the class, its probability, and further classes, separated
    by tabs. The model file's temperature is applied to all probabilities.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "resnetlab predict runs/folder-001 cat.jpg",
        "resnetlab predict model.safetensors photos --csv photos.csv --resume",
        "resnetlab predict model.safetensors photos --sort-into sorted --reject 0.05",
        "resnetlab predict runs/folder-001 - --jsonl < list.txt",
    )
    model: Annotated[str, Positional("MODEL")]
    """a model file, the folder of a run, the name of a run in ./runs, or hf:OWNER/NAME on the Hugging Face Hub"""
    paths: Annotated[tuple[str, ...], Positional("PATH ...")]
    """images, folders of images, patterns in quotes such as 'photos/**/*.jpg', or - for a list of paths on stdin, one a
    line"""
    null: Annotated[bool, Short("-0")] = False
    """the paths on stdin are separated by null characters, as by find -print0; default: by line feeds"""
    top_k: Annotated[int | None, Metavar("K")] = None
    """number of classes for each image, the most probable first, 1 to the number of classes; default: 3, and 1 in a CSV
    file"""
    all_probabilities: bool = False
    """list every class; in a CSV file, add a column for the probability of each class"""
    json_: bool = False
    """print one JSON list: file, predicted, probability and top for each image"""
    jsonl: bool = False
    """print one JSON object a line"""
    csv: Annotated[Path | None, File] = None
    """write file, predicted and probability into a .csv file, which must not exist without --resume; a second file,
    FILE.json, names the model"""
    resume: bool = False
    """continue the file of --csv with the images that are not in it yet, if it is of the same model and options"""
    reject: Annotated[float | None, Metavar("RISK")] = None
    """answer "none of these" if the highest probability is too low: at most the share RISK of the other answers is
    wrong, on images like the validation images; the model file lists the risks that it has thresholds for; default: off
    """
    bad_images: Literal["error", "skip"] = "error"
    """error: stop at a file that cannot be read as an image; skip: name and count it, and continue"""
    save_figure: Annotated[Path | None, File] = None
    """draw a contact sheet with up to 48 images, drawn at random, into a .png, .svg or .pdf file"""
    sort_into: Annotated[Path | None, Folder] = None
    """put a link to each image into a sub-folder named after its class, or "none of these", of a new, empty, or already
    sorted folder; nothing is replaced"""
    link: bool = False
    """with --sort-into: symbolic links; default: on, without --copy"""
    copy_: bool = False
    """with --sort-into: copies instead of links"""
    device: Device = "auto"
    """device to compute on; auto: CUDA, else MPS, else CPU"""
    precision: Precision = "auto"
    """precision to compute in; auto: the fastest of the device, if its class was that of fp32 on 99.9 % of the
    validation images at the end of the training, else fp32"""


class ExplainArguments(Arguments):
    """Explain the predictions for images: for the most probable classes, the places that are evidence for them, by
    Grad-CAM and by occlusion, and how well the two agree; and the most similar training images.

    The command writes a picture for each image, NAME.explain.png, and one page of all of them, explanations.html. Files
    of an earlier call in the same folder are replaced, others never. A folder stands for all images in it and below it.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "resnetlab explain runs/folder-001 cat.jpg dog.jpg",
        "resnetlab explain model.safetensors photos --data FOLDER --out explained",
    )
    model: Annotated[str, Positional("MODEL")]
    """a model file, the folder of a run, the name of a run in ./runs, or hf:OWNER/NAME on the Hugging Face Hub"""
    images: Annotated[tuple[str, ...], Positional("IMAGE ...")]
    """images, folders of images, or patterns in quotes such as 'photos/**/*.jpg'"""
    out: Annotated[Path | None, Folder] = None
    """folder for the pictures and the page; default: explanations, with --json none"""
    top_k: Annotated[int | None, Metavar("K")] = None
    """number of classes to explain, the most probable first, 1 to the number of classes; default: 3"""
    similar: Annotated[int, Metavar("N")] = 5
    """number of similar images, 0 to 100; default: 5. The features of the training images are computed once, and kept
    in the folder of the run"""
    data: Annotated[str | None, Metavar("NAME|FOLDER|FILE")] = None
    """images to compare with: a folder, a .csv file that lists images, or the name of a data set, such as cifar10;
    default: the training images of the run"""
    bad_images: Literal["error", "skip"] = "error"
    """error: stop at a file that cannot be read as an image; skip: name and count it, and continue"""
    json_: bool = False
    """print the numbers as JSON"""
    device: Device = "auto"
    """device to compute on; auto: CUDA, else MPS, else CPU"""


class ExportArguments(Arguments):
    """Write a model for other programs, and verify it on real images before it gets its name: same classes, same
    probabilities, size, and time for a batch of 1 and of 64. An export that gives other answers is not written.

    Everything after decoding is inside onnx, int8 and pt2: they take uint8 pixels of any size. The facts are in a .json
    file beside the export.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "resnetlab export runs/quickstart-001 --format onnx",
        "resnetlab export runs/quickstart-001 --format int8 --out small.onnx",
        "resnetlab export best.safetensors --format onnx --images photos --triton models",
    )
    source: Annotated[str, Positional("RUN|MODEL")]
    """a model file, the folder of a run, the name of a run in ./runs, or hf:OWNER/NAME on the Hugging Face Hub"""
    format: Literal["onnx", "int8", "torchvision", "timm", "pt2"] = "onnx"
    """onnx: in fp32; int8: ONNX with 8-bit integers, calibrated on training images; torchvision: state dict; timm:
    folder for timm.create_model; pt2: program of torch.export"""
    out: Annotated[Path | None, File] = None
    """file to write, for timm a new folder; only an earlier export is replaced; default: beside the model file, such as
    best.onnx"""
    images: Annotated[tuple[Path, ...], Metavar("FILE|FOLDER")] = ()
    """images to verify the export with; needed for a model file without its run; default: validation images of the
    run"""
    data: Annotated[str | None, Metavar("FOLDER|FILE")] = None
    """new place of the run's data, if it was moved: a folder or a .csv file; default: where it was"""
    triton: Annotated[Path | None, Folder] = None
    """write onnx or int8 into this model repository of Triton Inference Server, with its configuration; default: off"""
    max_drop: Annotated[float, Metavar("POINTS")] = 0.5
    """largest loss of validation accuracy of int8, in percentage points"""
    json_: bool = False
    """print what was measured as JSON"""


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
    """folders of runs or series, or their names in ./runs, two or more"""
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
    precision: Precision = "auto"
    """number format for training; auto: bf16 where supported, else fp32"""
    out: Annotated[Path | None, Folder] = None
    """folder for the three runs and the page that compares them; default: runs/baseline-DATA"""
    max_minutes: Annotated[float | None, Metavar("MINUTES")] = None
    """save a checkpoint and stop after this many minutes, with exit code 6; default: no limit"""


class ReportArguments(Arguments):
    """Write the report of a run or a cross-validation: one HTML file with its scores, curves, classes, calibration and
    mistakes, and the command that reproduces it.
    """

    examples: ClassVar[tuple[str, ...]] = ("resnetlab report runs/quickstart-001",)
    run: Annotated[Path, Positional("RUN")]
    """folder of a run or of a cross-validation, or its name in ./runs"""
    out: Annotated[Path | None, File] = None
    """.html file to write; default: report.html in the folder"""


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
    """network to show stage by stage: a name from the list, a model file, the folder of a run, or its name in
    ./runs; default: list all"""
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


class ServeArguments(Arguments):
    """Serve models over HTTP: POST /predict with the bytes of an image answers the most probable classes as JSON, and
    the page at / shows them for pictures that you drop, paste or take. Needs pip install 'resnetlab[serve]'.

    Images that arrive at the same time are computed together. SIGTERM, Ctrl-C or, with one worker, a closed terminal
    stops the server after it has answered what it accepted. The access log, one JSON object per request, goes to
    stdout.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "resnetlab serve runs/quickstart-001",
        "resnetlab serve --name birds=birds.safetensors --name fish=fish.safetensors --port 8080",
        "resnetlab serve best.safetensors --host 0.0.0.0 --allow-host birds.example.org --token-file token.txt",
    )
    models: Annotated[tuple[str, ...], Positional("MODEL ...")] = ()
    """model files, run folders, names of runs in ./runs, or hf:OWNER/NAME; the first is the default, others are chosen
    by ?model=NAME, where NAME is the name of the file without its suffix, or of the run folder"""
    name: Annotated[tuple[str, ...], Metavar("NAME=MODEL")] = ()
    """further models with names of your own"""
    host: Annotated[str, Metavar("ADDRESS")] = "127.0.0.1"
    """address to serve at; 0.0.0.0 or :: for all networks of this machine"""
    port: int = 8000
    """port to serve at; 0: any free one"""
    workers: int = 1
    """number of processes, each with its own copy of the models; one that ends is replaced"""
    precision: Precision = "auto"
    """precision to compute in; auto: the fastest of the device, if its class was that of fp32 on 99.9 % of the
    validation images at the end of the training, else fp32"""
    token_file: Annotated[Path | None, File] = None
    """file with a token that requests must have in the header Authorization: Bearer TOKEN; default: none"""
    allow_host: Annotated[tuple[str, ...], Metavar("NAME")] = ()
    """names in the Host header to accept, besides the address and localhost"""
    reject: Annotated[float | None, Metavar("RISK")] = None
    """mark predictions whose probability is below the threshold that was fitted on validation for this risk, as
    `resnetlab predict --reject`; default: off"""
    max_mb: float = 20
    """largest body of a request in MB"""
    max_images: int = 256
    """images that may wait at once; further requests are answered with 503"""
    max_batch: int = 64
    """images that go through the network at once, and most images of one request"""
    timeout: Annotated[float, Metavar("SECONDS")] = 30
    """time in which a client must send the body of a request"""
    no_access_log: bool = False
    """write no access log"""
    device: Device = "auto"
    """device to compute on; auto: CUDA, else MPS, else CPU"""
