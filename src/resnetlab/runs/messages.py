"""The messages of a run: its introduction, each epoch, each score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resnetlab.data import SPLITS
from resnetlab.data.classes import shortened
from resnetlab.runs.augmentation_words import augmentation_words
from resnetlab.runs.config import RunConfig

if TYPE_CHECKING:
    from torch import nn

    from resnetlab.data.datasets import ImageData
    from resnetlab.inference.validation import Validation
    from resnetlab.models.resnet import ResNet
    from resnetlab.runtime import Runtime
    from resnetlab.training.loop import EpochReport


def introduction(config: RunConfig, data: ImageData, network: ResNet, runtime: Runtime) -> list[str]:
    """Data, classes, network, training and machine, a line each."""
    preprocessing = data.preprocessing
    channels = {1: "grey", 3: "RGB"}.get(preprocessing.channels, f"{preprocessing.channels} channels")
    counts = ", ".join(f"{len(getattr(data, split)):,} {split}" for split in SPLITS)
    return [
        f"data     {data.name}: {counts}; {len(data.classes)} classes, "
        f"{preprocessing.image_size}x{preprocessing.image_size} px, {channels}",
        f"classes  {shortened(data.classes)}",
        f"network  {network.name}, {network.architecture.stem} stem, {trained_parameters(network)}",
        f"training {config.recipe}: {settings_line(config)}",
        images_line(config),
        f"machine  {runtime.describe()}",
    ]


def fit_introduction(config: RunConfig, counts: Sequence[int], model: nn.Module, runtime: Runtime) -> list[str]:
    """Data, network, training and machine of `fit`, a line each. `counts` are of training and validation images."""
    from resnetlab.kernels.swap import Fast

    kind = model.plain if isinstance(model, Fast) else type(model)
    return [
        f"data     {counts[0]:,} train, {counts[1]:,} val",
        f"network  {kind.__name__}, {trained_parameters(model)}",
        f"training {settings_line(config)}",
        *(
            [images_line(config)] if config.augment.model_dump(exclude_defaults=True) else []
        ),  # a data set may have transforms of its own
        f"machine  {runtime.describe()}",
    ]


def length_line(config: RunConfig) -> str:
    """The length of a run in words.

    >>> length_line(RunConfig(epochs=1)), length_line(RunConfig(epochs=None, steps=64_000))
    ('1 epoch', '64,000 steps')
    """
    if config.epochs:
        return f"{config.epochs} epoch{'s' * (config.epochs > 1)}"
    return f"{config.steps:,} steps"


def settings_line(config: RunConfig) -> str:
    return (
        f"{length_line(config)} of batch {config.batch_size}, {config.optim.name} at {config.optim.lr:g}, "
        f"{config.schedule.name} schedule, seed {config.seed}"
    )


def images_line(config: RunConfig) -> str:
    """The changes of the training images and, if they are mixed, the meaning of their running accuracy."""
    is_mixed = config.augment.mixup or config.augment.cutmix
    counted = " (the running accuracy counts a prediction by the share of its class)" if is_mixed else ""
    return f"images   {augmentation_words(config.augment)}{counted}"


def trained_parameters(model: nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6:.2f} M trained parameters"


def epoch_line(report: EpochReport, epochs: int, *, is_best: bool) -> str:
    """An epoch on one line. The training score is that of a fixed sample in evaluation mode."""
    width = len(str(epochs))
    skipped = f"  {report.left_out} steps skipped so far" if report.left_out else ""
    return (
        f"epoch {report.epoch:{width}d}/{epochs}  "
        f"train loss {report.train.loss:.4f} accuracy {report.train.accuracy:7.2%}  "
        f"val loss {report.val.loss:.4f} accuracy {report.val.accuracy:7.2%}{' *' if is_best else '  '}  "
        f"lr {report.lr:.2e}  {report.images_per_second:,.0f} images/s  {report.train_seconds:.1f} s{skipped}"
    )


def score_line(scores: Mapping[str, Any]) -> str:
    """The headline numbers of a split."""
    f1, spread = scores["macro"]["f1"], scores.get("intervals", {}).get("accuracy")  # older files have none
    tta, folds, skipped = scores.get("tta", "none"), scores.get("folds"), scores.get("skipped_images", 0)
    weights = "best weights in fp32" if folds is None else f"each scored once, in one of {folds} folds"
    return (
        f"{scores['split']:<5} accuracy {scores['accuracy']:.2%}{between(spread)}, loss {scores['loss']:.4f}, "
        f"macro-F1 {'undefined' if f1 is None else f'{f1:.2%}'}, {scores['images']:,} images"
        f"{f' ({skipped:,} more could not be read)' if skipped else ''}, {weights}"
        f"{'' if tta == 'none' else f', test-time augmentation: {tta}'}"
    )


def validation_line(validation: Validation) -> str:
    """The values that the model file stores of its validation.

    >>> from resnetlab.evaluation.selective import Rejection
    >>> from resnetlab.inference.validation import Validation
    >>> validation_line(Validation(1.25, 500, "", (Rejection(0.05, 0.91, 0.8),), agreement={"bf16": 0.998}))
    'temperature 1.25, bf16 agrees with fp32 on 99.80%, rejection thresholds for a risk of 5% (80% accepted)'
    """
    agreement = [f"{name} agrees with fp32 on {share:.2%}" for name, share in validation.agreement.items()]
    rejections = ", ".join(f"{100 * one.risk:g}% ({one.coverage:.0%} accepted)" for one in validation.rejections)
    words = (
        f"rejection thresholds for a risk of {rejections}"
        if rejections
        else "no rejection thresholds: no risk is certain enough"
    )
    return ", ".join([f"temperature {validation.temperature:.3g}", *agreement, words])


def between(spread: Sequence[float] | None) -> str:
    """A 95 % interval in brackets, or nothing.

    >>> between([0.8193, 0.8404])
    ' (95% interval 81.93% to 84.04%)'
    """
    return "" if spread is None else f" (95% interval {spread[0]:.2%} to {spread[1]:.2%})"
