"""Every choice of a run, as frozen typed models: validated at once, written to the run, read back equal.

Imports no torch, so that the command line can parse, refuse and print in an instant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from tyro.conf import Suppress, arg

from resnetlab.errors import BadInput, unknown
from resnetlab.models.zoo import ARCHITECTURES
from resnetlab.runs.section import Section

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class DataConfig(Section):
    """What the network sees."""

    prefix: ClassVar[str] = "data."
    name: Annotated[str, arg(aliases=["--data"])] = "digits"
    """digits, cifar10, cifar100, or a folder of images with one sub-folder per class"""
    image_size: Annotated[int, Field(ge=4, le=4096)] | None = None
    """side of the square the network sees, in pixels; default: chosen from the data"""
    fit: Literal["crop", "squash", "pad"] = "crop"
    """how an image becomes square"""
    normalize: Literal["dataset", "imagenet"] = "dataset"
    """whose mean and standard deviation to use; imagenet for networks pretrained there"""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """share held out for validation where the data has no validation split"""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """share held out for the test where the data has no test split"""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """seed of drawn splits; apart from --seed, so that runs with other seeds share one test set"""
    bad_images: Literal["error", "skip"] = "error"
    """what to do with a file that cannot be read as an image"""
    root: str | None = None
    """folder for downloaded data sets"""
    download: bool = True
    """whether a named data set may be downloaded"""


class ModelConfig(Section):
    """The network."""

    prefix: ClassVar[str] = "model."
    name: Annotated[str, arg(aliases=["--model"])] = "resnet18"
    """an architecture of `resnetlab models`"""
    stem: Annotated[Literal["auto", "imagenet", "cifar"], arg(aliases=["--stem"])] = "auto"
    """imagenet: 7x7/2 and max pool; cifar: 3x3/1; auto: cifar up to 64 px"""
    shortcut: Literal["A", "B", "C"] | None = None
    """the paper's shortcut options; default: the architecture's own"""
    zero_init: bool = False
    """begin with every residual branch switched off (last norm at zero)"""
    pretrained: Annotated[str | None, arg(aliases=["--pretrained"])] = None
    """weights to begin with: torchvision, a file, or a URL whose file name carries its digest"""
    freeze: Annotated[bool, arg(aliases=["--freeze"])] = False
    """train the head alone"""

    @model_validator(mode="after")
    def known(self) -> Self:
        if self.name not in ARCHITECTURES:
            raise unknown("model", self.name, ARCHITECTURES)
        if self.freeze and not self.pretrained:
            raise BadInput("model.freeze trains the head alone, on frozen weights that must come from --pretrained")
        return self


class AugmentConfig(Section):
    """How training images are varied; each sample has its own draws."""

    prefix: ClassVar[str] = "augment."
    crop: Annotated[int, Field(ge=0, le=512)] = 0
    """pixels of padding before a random crop to the old size; 0 is off"""
    crop_padding: Literal["constant", "reflect"] = "constant"
    """black or mirrored padding"""
    flip: bool = False
    """mirror half of the images"""
    alternate: bool = False
    """flip: mirror an image in every second epoch, instead of at random"""
    cutout: Annotated[int, Field(ge=0, le=4096)] = 0
    """side of a blackened square; 0 is off"""
    resized_crop: Annotated[float, Field(ge=0, le=1)] = 0.0
    """smallest share of the area for a random resized crop (ImageNet: 0.08); 0 is off"""
    sizes: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """image sizes of the run's parts, of equal length, as shares of the full size, e.g. 0.75 0.875 1; default: 1"""


class OptimConfig(Section):
    """How the weights move."""

    prefix: ClassVar[str] = "optim."
    name: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
    """optimiser; muon is for convolution kernels, and Adam with decoupled decay for the rest"""
    lr: Annotated[Positive, arg(aliases=["--lr"])] = 0.1
    """peak learning rate"""
    momentum: Share = 0.9
    """of SGD and Muon"""
    nesterov: bool = True
    """of SGD"""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """of Adam, AdamW and the Adam beside Muon"""
    lr_share: Positive = 0.05
    """muon: the learning rate of what is not a kernel, as a share of --lr"""
    weight_decay: NotNegative = 0.0
    """pull towards zero"""
    decay_norms: bool = True
    """whether norms and biases decay too"""


class ScheduleConfig(Section):
    """How the learning rate moves."""

    prefix: ClassVar[str] = "schedule."
    name: Literal["constant", "linear", "step", "multistep", "cosine", "one_cycle", "plateau"] = "constant"
    """shape"""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """steps before the shape begins"""
    warmup_from: Annotated[float, Field(ge=0, le=1)] = 0.0
    """where warm-up begins, as a share of the peak"""
    warmup_shape: Literal["linear", "constant"] = "linear"
    """rise evenly, or stay and then jump"""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    """multistep: when to decay, as shares of the run"""
    every_epochs: Count = 10
    """step: epochs between decays"""
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """step, multistep, plateau: factor of a decay"""
    patience: Annotated[int, Field(ge=0)] = 3
    """plateau: epochs without a lower validation loss before a decay"""
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """one_cycle: share of the run before the peak"""
    final: Share = 0.0
    """linear, cosine: where it ends, as a share of the peak"""


class CheckpointConfig(Section):
    """When the training state is written; always at the end of an epoch, too."""

    prefix: ClassVar[str] = "checkpoint."
    keep: Count = 2
    """how many stay, the newest ones"""
    every_steps: Count | None = None
    """also after so many optimiser steps"""
    every_minutes: Positive | None = None
    """also after so many minutes"""


class RunConfig(Section):
    """Everything that decides a run, besides the code and the machine.

    >>> RunConfig(epochs=3, optim=OptimConfig(lr=0.05)).optim.lr
    0.05
    """

    recipe: Suppress[str] = "custom"
    """the recipe it began as"""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    epochs: Count | None = None
    """length of the run in epochs"""
    steps: Count | None = None
    """length of the run in optimiser steps"""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """images per optimiser step; at least 2, for a norm cannot train on one"""
    accumulate: Count = 1
    """parts a batch is split into, to save memory"""
    label_smoothing: Share = 0.0
    """share of the target spread over all classes"""
    clip_norm: Positive | None = None
    """largest norm of the gradient"""
    ema: Share = 0.0
    """decay of an average of the weights, which is then what is scored and kept; 0 is off"""
    best_by: Literal["accuracy", "macro_f1", "loss"] = "accuracy"
    """validation score that chooses the best epoch"""
    patience: Annotated[int, Field(ge=0)] = 0
    """epochs without a better one before training stops early; 0 is never"""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """a step whose loss or gradient is NaN or infinite: end the run, or leave the step out (10 of them at most)"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """seed of initialisation, order and augmentation"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: CUDA, then MPS, then CPU"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware multiplies it"""
    deterministic: bool = False
    """on CUDA, only operations that give the same bits every time; on the CPU all do"""
    final_test: Literal["once", "never"] = "once"
    """whether the best weights are scored on the test split at the end"""
    tensorboard: bool = False
    """also write what TensorBoard reads; needs pip install 'resnetlab[tensorboard]'"""
    extended_at: Suppress[tuple[int, ...]] = ()
    """steps at which the run was over and then extended"""

    @model_validator(mode="after")
    def one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise BadInput("a run needs a length: give --epochs or --steps, and not both")
        if self.accumulate > self.batch_size // 2:
            raise BadInput(f"accumulate is {self.accumulate}: a batch of {self.batch_size} has too few images for it")
        if self.model.zero_init and self.model.name.startswith("plain"):
            raise BadInput("model.zero_init needs shortcuts, which plain nets have not")
        return self

    def changed(self, changes: Mapping[str, Any]) -> RunConfig:
        """A copy with some settings changed, given as a nested mapping; a new length replaces the old one."""
        merged = self.model_dump()
        if "epochs" in changes or "steps" in changes:
            merged["epochs"] = merged["steps"] = None
        for key, value in changes.items():
            nested = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
            merged[key] = merged[key] | dict(value) if nested else value
        return RunConfig.model_validate(merged)

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")
