"""The settings of a run as frozen, validated, typed models. They are stored as JSON in the run's folder.

This module does not import torch, so that the command line starts at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from resnetlab.errors import BadInput, printable, unknown
from resnetlab.models.zoo import ARCHITECTURES

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]

SHORT_FLAGS = {
    "data.name": "data",
    "model.name": "model",
    "model.stem": "stem",
    "model.pretrained": "pretrained",
    "model.freeze": "freeze",
    "optim.lr": "lr",
}
"""Settings that the command line also knows by a short name: `--lr` is `--optim.lr`."""


MAIN = (
    "data.name",
    "model.name",
    "epochs",
    "steps",
    "batch_size",
    "optim.lr",
    "seed",
    "device",
    "precision",
)
"""The settings that are changed most often; help lists them first."""

LENGTH = {"epochs", "steps"}
HARMLESS = {
    "checkpoint.keep",
    "checkpoint.every_steps",
    "checkpoint.every_minutes",
    "final_test",
    "track",
    "license",
}
HARMLESS |= {"data.root", "data.download"}  # the folder in which the same images are found
HARMLESS |= {"data.store", "data.memory"}  # the place where the same pixels are held
"""Settings that change no weight of a run."""

MOST_CLAUSES = 5  # wrong settings that one message names


class Section(BaseModel):
    """A group of settings. Raises BadInput, one sentence with the path to the setting, for a value that is not allowed.

    The docstring below a field is its help on the command line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    prefix: ClassVar[str] = ""

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise BadInput(self._sentence(error)) from error

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise BadInput(cls._sentence(error)) from error

    @classmethod
    def path_to(cls, *names: str | int) -> str:
        """The name of a setting as error messages show it: `optim.lr`."""
        return cls.prefix + ".".join(map(str, names))

    @classmethod
    def _sentence(cls, errors: ValidationError) -> str:
        clauses = [cls._clause(error) for error in errors.errors(include_url=False)[:MOST_CLAUSES]]
        more = errors.error_count() - len(clauses)  # a damaged file can have thousands
        return "; ".join([*clauses, f"and {more:,} more"] if more else clauses)

    @classmethod
    def _clause(cls, error: Any) -> str:
        kind, names, given = error["type"], error["loc"], error["input"]
        reason = error.get("ctx", {}).get("error")
        if isinstance(reason, BadInput):  # from a section inside this one, or from a rule between settings
            return str(reason)
        path = printable(cls.path_to(*names))[:100] if names else cls.prefix.rstrip(".") or "config"
        match kind:
            case "missing":
                return f"{path} is missing"
            case "extra_forbidden":
                inside = [f"{section}.{names[0]}" for section in sections_with(cls, str(names[0]))]
                near = inside or [
                    cls.path_to(n) for n in difflib.get_close_matches(str(names[0]), cls.model_fields, n=1)
                ]
                hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(cls.model_fields)}"
                return f"unknown setting {path}; {hint}"
            case "literal_error":
                return str(unknown(path, printable(given)[:100], choices(cls.model_fields[names[0]].annotation)))
        shown = given if isinstance(given, str) and "than" in kind else repr(given)  # -1 from the command line is text
        rule = RULES.get(kind.split("_")[0]) or error["msg"].replace("Input should", "must", 1)
        return f"{path} is {printable(shown)[:100]}, but {rule}"


RULES = {
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "model": "must be a table of settings",
}
"""Replacements for pydantic's messages, by the first word of its error type."""


def sections_with(kind: type[Section], name: str) -> list[str]:
    """The sections inside a section that have a setting of this name.

    >>> sections_with(RunConfig, "lr")
    ['optim']
    """
    inner = ((section, info.annotation) for section, info in kind.model_fields.items())
    return [s for s, inside in inner if isinstance(inside, type) and name in getattr(inside, "model_fields", {})]


def choices(annotation: Any) -> list[str]:
    """The values that a Literal allows, also inside `| None`; empty for any other type.

    >>> choices(Literal["A", "B"] | None)
    ['A', 'B']
    """
    options = [option for part in (annotation, *get_args(annotation)) for option in get_args(part)]
    return list(dict.fromkeys(option for option in options if isinstance(option, str)))


class DataConfig(Section):
    """Images, their size and their splits."""

    prefix: ClassVar[str] = "data."
    name: str = "digits"
    """digits, cifar10, cifar100, mnist, fashion-mnist, svhn, stl10, eurosat, flowers102, oxford-pets, food101,
    imagenette, torchvision:NAME for other sets of torchvision, such as torchvision:DTD; the path of a folder of images
    with one sub-folder per class; a .csv, .tsv or .parquet file with the columns file, label and, if there are any,
    split and group; or tar shards in WebDataset's layout: their folder, or a pattern, 'shards/{000..099}.tar'"""
    classes: tuple[str, ...] = ()
    """use these classes only, such as cat,dog; default: all"""
    merge: tuple[str, ...] = ()
    """classes to treat as one, as NEW=A,B; default: none"""
    class_order: Literal["plain", "natural"] = "plain"
    """order of the classes of a folder or file, and of the network's outputs; plain: by character; natural: class2
    before class10"""
    image_size: Annotated[int, Field(ge=4, le=4096)] | None = None
    """side of the square input image, in pixels; default: chosen from the data"""
    fit: Literal["crop", "squash", "pad"] = "crop"
    """how to make an image square; crop: take the centre; squash: change the aspect ratio; pad: add black borders"""
    normalize: Literal["dataset", "imagenet"] = "dataset"
    """mean and standard deviation for normalisation; imagenet for networks pretrained on ImageNet"""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """share of the images held out for validation, if the data has no validation split"""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """share of the images held out for the test, if the data has no test split"""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """seed of random splits; separate from --seed, so that runs with different seeds share one test set"""
    val_is_test: bool = False
    """test on the validation split of data that has one but no test split, as ImageNet; a part of the training images
    is then held out for validation"""
    group_by: str | None = None
    """keep images of one group, such as a patient, in one split: a regular expression whose first group (or whole
    match) in the image's path is its name, or a column of the file in --data; default: a column named group"""
    folds: Annotated[int, Field(ge=2)] | None = None
    """cross-validation: divide the images into this many folds; --folds trains a run for each; default: off"""
    fold: Annotated[int, Field(ge=1)] | None = None
    """the fold that is the test split, from 1; default: none"""
    balance: Literal["none", "sampler", "weights"] = "none"
    """for classes of different size; sampler: draw the images of all classes equally often in an epoch; weights: weight
    the loss of an image by the rarity of its class; none: as they are"""
    bad_images: Literal["error", "skip"] = "error"
    """what to do with a file that cannot be read as an image: stop with an error, or leave it out"""
    max_skipped: Share = 0.05
    """with bad_images skip: largest share of the images that may be left out"""
    max_pixels: Annotated[int, Field(ge=1, le=2_000_000_000)] = 64_000_000
    """largest number of pixels that are decoded for an image; of a large JPEG only a part is decoded; 64 megapixels may
    take up to 1.5 GB of memory while they are decoded"""
    channels: Annotated[int, Field(ge=1, le=64)] | None = None
    """1: grey; 3: colour; another number: bands of TIFF files; default: grey if all training images are, else colour"""
    range: tuple[FiniteFloat, FiniteFloat] | None = None
    """LOW HIGH: pixel values that become black and white, for images of more than 8 bits; default: from the images"""
    root: str | None = None
    """folder for downloaded data sets; or the archive of one, if it has only one and is here already; or the folder to
    which the paths in a .csv file are relative; default: $RESNETLAB_DATA or resnetlab's cache folder, or the folder of
    the .csv file"""
    download: bool = True
    """download a named data set if it is missing"""
    store: Literal["auto", "memory", "cache", "stream"] = "auto"
    """where the decoded images of a folder or table are held, which changes no result; memory: all in memory; cache:
    decoded once, into a file in resnetlab's cache folder; stream: decoded for each batch, in other processes; auto: the
    first of them for which there is room"""
    memory: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """with store auto: largest size of the decoded images in memory of a process, in GB; default: half of the available
    memory, divided by the processes of the machine"""
    shuffle_window: Annotated[int, Field(ge=1)] = 16_384
    """images among which an epoch over shards is shuffled; more mix shards better, and read more of them at a time"""


class ModelConfig(Section):
    """Network and initial weights."""

    prefix: ClassVar[str] = "model."
    name: str = "resnet18"
    """an architecture; `resnetlab models` lists them; auto: fast_resnet8 for images up to 40 px, which
    are enlarged to 16 px if they are smaller and no image_size is given, else resnet18"""
    stem: Literal["auto", "quick", "imagenet", "cifar"] = "auto"
    """first layers; imagenet: 7x7/2 convolution and max pooling; cifar: 3x3/1; auto: cifar for images up to 64 px;
    quick: cifar for images below 28 px, for networks that are made for imagenet's"""
    shortcut: Literal["A", "B", "C"] | None = None
    """A: zero padding; B: projection where shapes change; C: projection everywhere; default: the architecture's own"""
    zero_init: bool = False
    """initialise the last norm of every residual branch to zero, so that each unit starts as the identity"""
    pretrained: str | None = None
    """initial weights: torchvision, a file, or a URL whose file name contains its digest; default: random"""
    freeze: bool = False
    """train only the last layer; needs --pretrained"""

    @model_validator(mode="after")
    def require_known_name(self) -> Self:
        if self.name not in ("auto", *ARCHITECTURES):
            raise unknown("model", self.name, ("auto", *ARCHITECTURES))
        if self.freeze and not self.pretrained:
            raise BadInput("model.freeze trains the head alone, on frozen weights that must come from model.pretrained")
        return self


class AugmentConfig(Section):
    """Random changes of the training images, drawn for each image separately."""

    prefix: ClassVar[str] = "augment."
    crop: Annotated[int, Field(ge=0, le=512)] = 0
    """padding in pixels before a random crop to the original size; 0: off"""
    crop_padding: Literal["constant", "reflect"] = "constant"
    """padding for the crop: black, or mirrored"""
    flip: bool = False
    """mirror images left to right with probability 0.5"""
    alternate: bool = False
    """with flip: mirror each image in every second epoch instead of at random"""
    cutout: Annotated[int, Field(ge=0, le=4096)] = 0
    """side of a random square that is blackened, in pixels; 0: off"""
    resized_crop: Annotated[float, Field(ge=0, le=1)] = 0.0
    """smallest share of the area for a random resized crop (0.08 is usual for ImageNet); 0: off"""
    policy: Literal["none", "trivial", "rand", "auto"] = "none"
    """random operations on each image, such as a rotation, a shear, more contrast; trivial: TrivialAugment, one
    operation of random strength; rand: RandAugment, as many as rand_ops, all of strength rand_magnitude; auto: none of
    them, but short probes on training images choose whether flip stays on, and whether resized_crop does or small
    shifts take its place, as they always do for images up to 40 px; if mirrored images of a class resemble those of
    another class, flip stays on only where that is clearly better"""
    rand_ops: Annotated[int, Field(ge=1, le=10)] = 2
    """policy rand: operations per image, one after another"""
    rand_magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """policy rand: strength of the operations, from 0 (none) to 30"""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """largest angle of a random rotation in either direction, in degrees; 0: off"""
    brightness: Annotated[float, Field(ge=0, le=10)] = 0.0
    """strength of random changes of brightness: 0.4 is a factor from 0.6 to 1.4; 0: off"""
    contrast: Annotated[float, Field(ge=0, le=10)] = 0.0
    """strength of random changes of contrast, as for brightness; 0: off"""
    saturation: Annotated[float, Field(ge=0, le=10)] = 0.0
    """strength of random changes of saturation, as for brightness; for colour images; 0: off"""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """largest random change of hue in either direction, as a share of the colour circle; for colour images; 0: off"""
    erasing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """probability of blackening a random rectangle of 2 to 33 percent of the area; 0: off"""
    mixup: Annotated[float, Field(ge=0, le=100)] = 0.0
    """MixUp: blend each image and its label with another one, with a weight from Beta(ALPHA, ALPHA); 0.2 is usual, more
    blends more strongly; with cutmix: one of the two for each image, with probability 0.5; 0: off"""
    cutmix: Annotated[float, Field(ge=0, le=100)] = 0.0
    """CutMix: paste a box of another image, whose share of the area, and of the label, is drawn from Beta(ALPHA,
    ALPHA); 1 is usual; 0: off"""
    sizes: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """progressive resizing: image size per phase, as shares of the full size, such as 0.75 0.875 1; default: 1"""


class OptimConfig(Section):
    """Optimiser."""

    prefix: ClassVar[str] = "optim."
    name: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
    """optimiser; muon updates convolution kernels with Muon and everything else with AdamW"""
    lr: Positive = 0.1
    """peak learning rate"""
    momentum: Share = 0.9
    """momentum of sgd and muon"""
    nesterov: bool = True
    """Nesterov momentum, for sgd"""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """decay rates of the two moments, for adam, adamw and the AdamW part of muon"""
    lr_share: Positive = 0.05
    """muon: learning rate of its AdamW part, as a share of the learning rate"""
    weight_decay: NotNegative = 0.0
    """coefficient of weight decay, which shrinks the weights a little in each step; 0: off"""
    decay_norms: bool = True
    """apply weight decay to norms and biases too"""


class ScheduleConfig(Section):
    """Learning-rate schedule."""

    prefix: ClassVar[str] = "schedule."
    name: Literal["constant", "linear", "step", "multistep", "cosine", "one_cycle", "plateau"] = "constant"
    """shape of the schedule after warm-up"""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """length of the warm-up, in optimiser steps"""
    warmup_from: Annotated[float, Field(ge=0, le=1)] = 0.0
    """learning rate at the start of the warm-up, as a share of the peak"""
    warmup_shape: Literal["linear", "constant"] = "linear"
    """linear: rise evenly to the peak; constant: stay at the start value, then jump to the peak"""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    """multistep: times of the decays, as shares of the run"""
    every_epochs: Count = 10
    """step: epochs between two decays"""
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """step, multistep, plateau: factor of each decay"""
    patience: Annotated[int, Field(ge=0)] = 3
    """plateau: epochs without a lower validation loss before a decay"""
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """one_cycle: share of the run before the peak"""
    final: Share = 0.0
    """linear, cosine: learning rate at the end, as a share of the peak"""


class CheckpointConfig(Section):
    """Checkpoints; one is always written at the end of an epoch."""

    prefix: ClassVar[str] = "checkpoint."
    keep: Count = 2
    """number of checkpoints to keep, the newest ones"""
    every_steps: Count | None = None
    """also write one after this number of optimiser steps"""
    every_minutes: Positive | None = None
    """also write one after this number of minutes"""


class RunConfig(Section):
    """All settings of a run: everything that decides its result, apart from the code and the machine.

    >>> RunConfig(epochs=3, optim=OptimConfig(lr=0.05)).optim.lr
    0.05
    """

    recipe: str = "custom"
    """the recipe that the settings come from"""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    epochs: Count | None = None
    """length of the run in epochs; give this or --steps"""
    steps: Count | None = None
    """length of the run in optimiser steps; give this or --epochs"""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """images per optimiser step, at least 2"""
    accumulate: Count = 1
    """number of parts that a batch is split into, to save memory (gradient accumulation)"""
    label_smoothing: Share = 0.0
    """share of the target probability that is spread over all classes"""
    clip_norm: Positive | None = None
    """largest norm of the gradient; longer gradients are scaled down to it"""
    ema: Share = 0.0
    """decay of a moving average of the weights, which is then validated, scored and saved; 0: off"""
    best_by: Literal["accuracy", "macro_f1", "loss"] = "accuracy"
    """validation score that selects the best epoch"""
    patience: Annotated[int, Field(ge=0)] = 0
    """early stopping: epochs without a better validation score before training ends; 0: off"""
    sync_bn: bool = False
    """with several processes (torchrun): batch norm over the images of all of them, not of each alone"""
    compress_gradients: Literal["none", "bf16"] = "none"
    """with several processes (torchrun): number format in which gradients are exchanged; bf16: half the bytes, 8 bits
    of precision; none: as they are, float32"""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """if the loss or gradient of a step is NaN or infinite: stop the run, or skip the step (at most 10 times)"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """seed of initialisation, image order and augmentation"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """device to train on; auto: CUDA, else MPS, else CPU"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """number format for training; auto: bf16 where supported, else fp32"""
    deterministic: bool = False
    """on CUDA, use only operations that give the same bits every time; on a CPU all of them do"""
    final_test: Literal["once", "never"] = "once"
    """once: score the best weights on the test split at the end of the run; never: leave the test split unused"""
    track: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    """also send numbers, pictures and model file to these trackers, each installed by pip install 'resnetlab[NAME]'; a
    tracker that fails is reported, and the run goes on; default: none"""
    license: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w .,:/()+-]+$")] = "unstated"
    """licence of the trained weights, stored in the model file: an SPDX name such as apache-2.0, or an address"""

    @model_validator(mode="before")
    @classmethod
    def accept_older(cls, given: Any) -> Any:
        """Accept the config.json of an older run: without `extended_at`, `tensorboard` as a tracker.

        `RunFolder.extended_at` reads the former there.
        """
        if not isinstance(given, dict):
            return given
        known = {name: value for name, value in given.items() if name not in ("extended_at", "tensorboard")}
        return known | ({"track": ("tensorboard",)} if given.get("tensorboard") is True else {})

    @model_validator(mode="after")
    def require_consistent(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise BadInput("a run needs one length: give epochs or steps, not both")
        if self.accumulate > self.batch_size // 2:
            raise BadInput(
                f"accumulate is {self.accumulate}, but a batch of {self.batch_size} can be split into at most "
                f"{self.batch_size // 2} parts of 2 images"
            )
        if self.model.zero_init and self.model.name.startswith("plain"):
            raise BadInput("model.zero_init needs shortcuts, and plain networks have none")
        return self

    def changed(self, changes: Mapping[str, Any]) -> RunConfig:
        """Return a copy with some settings changed, given as a nested mapping; a new length replaces the old one.

        >>> RunConfig(epochs=3).changed({"steps": 100, "optim": {"lr": 0.05}}).epochs is None
        True
        """
        merged = self.model_dump()
        if "epochs" in changes or "steps" in changes:
            merged["epochs"] = merged["steps"] = None
        for key, value in changes.items():
            nested = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
            merged[key] = merged[key] | dict(value) if nested else value
        return RunConfig.model_validate(merged)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a nested dictionary of JSON values."""
        return self.model_dump(mode="json")


def value_text(value: Any) -> str:
    """Return the value of a setting in words.

    >>> value_text(None), value_text(True), value_text((0.75, 1.0)), value_text("sgd")
    ('none', 'on', '0.75 1', 'sgd')
    """
    if value is None or isinstance(value, bool):
        return "on" if value else "none" if value is None else "off"
    return " ".join(map(value_text, value)) if isinstance(value, tuple | list) else str(value).removesuffix(".0")
