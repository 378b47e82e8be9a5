"""The network that `fit` is given: can it be trained, for how many classes, and in which memory layout?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from resnetlab.data.loaders import Batch
from resnetlab.errors import BadInput, printable
from resnetlab.evaluation.evaluate import evaluating
from resnetlab.kernels.accelerate import count_accelerated, restore
from resnetlab.kernels.units import fast_classes
from resnetlab.models.resnet import ResNet
from resnetlab.models.stems import is_whitened, whiten
from resnetlab.runs.build import images_for_stem
from resnetlab.runs.fit_data import LAYOUTS, Images
from resnetlab.runtime import Runtime
from resnetlab.training.loop import Batches


def prefers_channels_last(model: nn.Module) -> bool:
    """True for the networks of resnetlab and torchvision, and for weights that are in channels_last.

    Other networks may contain a `view`, which needs torch's default layout.
    """
    fast = fast_classes()
    return type(model) in {*fast, *fast.values()} or any(
        weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        for weight in model.parameters()
    )


@contextmanager
def as_given(model: nn.Module) -> Iterator[None]:
    """Clear the gradients, and restore the modes, the classes and the layout of the weights afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    was_accelerated = count_accelerated(model) > 0
    contiguous = [weight for weight in model.parameters() if weight.is_contiguous()]
    model.zero_grad(set_to_none=True)  # of the caller's own training
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training
        for weight in contiguous:
            weight.data = weight.data.contiguous()
        if not was_accelerated:
            restore(model)


def require_trainable(model: object) -> None:
    """Raise BadInput unless this is a module with float32 weights, some of them not frozen."""
    if not isinstance(model, nn.Module):
        raise BadInput(f"model is a {type(model).__name__}, but must be a torch.nn.Module")
    for name, weight in model.named_parameters():
        if isinstance(weight, nn.parameter.UninitializedParameter):
            raise BadInput(f"the weights {name} have no shape yet; call the model once on a batch of images")
        if weight.is_meta:
            raise BadInput(f"the weights {name} are on the meta device and have no values; load them first")
        if weight.is_inference():
            raise BadInput(
                "the model was made under torch.inference_mode, where nothing can be trained; make it outside"
            )
        if weight.requires_grad and weight.dtype != torch.float32:
            raise BadInput(
                f"the weights {name} are {weight.dtype}, but must be torch.float32: call model.float(); "
                'precision="bf16" computes in bfloat16 and keeps float32 weights'
            )
    if not any(weight.requires_grad for weight in model.parameters()):
        raise BadInput("the model has nothing to train: it has no parameters, or all of them are frozen")


def number_of_classes(model: nn.Module, batch: Batch, images: list[Images], runtime: Runtime) -> int:
    """The number of logits that the model gives for an image. Raises BadInput unless they can be trained.

    The model is called in evaluation mode and in training mode. Its buffers are restored.
    """
    given, labels = batch.images[:2], [*batch.labels.tolist(), *(one.largest_label for one in images)]
    shape = f"images (N, C, H, W) = {tuple(given.shape)}"
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with evaluating(model), runtime.autocast():
            logits = model(given)
            in_training = output_in_training(model, given)
    except (RuntimeError, ValueError, TypeError) as error:
        raise BadInput(
            f"the model cannot process {shape}: {printable(error)}; images are given as {LAYOUTS}"
        ) from error
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
    classes = 1 + max(labels)
    if (
        not isinstance(logits, Tensor)
        or logits.ndim != 2
        or len(logits) != len(given)
        or logits.shape[1] < max(2, classes)
        or not logits.is_floating_point()
    ):
        found = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise BadInput(
            f"the model maps {shape} to {found}; floating-point logits (N, classes) with {max(2, classes)} classes or "
            "more are needed"
        )
    if not isinstance(in_training, Tensor):
        raise BadInput(
            f"the model returns a {type(in_training).__name__} in training mode, but must return logits, as in "
            "evaluation mode: turn auxiliary outputs off (torchvision: aux_logits=False)"
        )
    if not logits.requires_grad:
        raise BadInput("the logits do not depend on the weights that are trained: is there a detach() or no_grad()?")
    return logits.shape[1]


def whiten_stem(model: nn.Module, batches: Batches) -> None:
    """Compute the filters of a whitened stem from training images, as `train` does, unless they have been computed."""
    if not isinstance(model, ResNet) or model.architecture.stem != "whitened":
        return
    is_new = model.conv1.kernel_size == (3, 3) and not model.conv1.weight.requires_grad
    if is_new and not is_whitened(model.conv1):
        images = next(iter(batches.train_sample)).images
        whiten(model.conv1, images[: images_for_stem(images[0].numel())])


def output_in_training(model: nn.Module, images: Tensor) -> object:
    """The output of a model in training mode; an empty tensor if it needs larger batches there, as a batch norm can."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        return model(images)
    except (RuntimeError, ValueError):
        return images.new_empty(0)
    finally:
        for module, was_training in modes:
            module.training = was_training
