"""Measure the floor: the time of a network's convolutions alone, compared with our training step.

For every convolution of a network, forward pass and gradients are timed alone, as torch computes them, in the precision
that `auto` chooses and in both memory formats. The floor is the sum of the best times. 3x3 layers from 32 channels up
use our kernels (kernels/winograd.py, kernels/tiles.py), so a step may take less: a share above 1. The step is timed in
the same process, interleaved, and is complete: augmentation, forward, loss, backward, optimiser, metrics and a running
average of the weights.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import floor_page
from benchmarks.options import Options
from benchmarks.rounds import ratio, seconds, spread
from resnetlab.cli.process import keep_freed_memory
from resnetlab.data.loaders import Batch, TrainBatches
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.splits import Split
from resnetlab.models import build_model
from resnetlab.models.zoo import ARCHITECTURES
from resnetlab.runs.build import make_augmentations, make_plan, make_state
from resnetlab.runs.config import AugmentConfig, ModelConfig, OptimConfig, RunConfig
from resnetlab.runtime import Runtime, start
from resnetlab.training.loop import train_step

FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


class Convolution(NamedTuple):
    """Properties that determine the time of a convolution."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    padding: int
    groups: int
    size: int  # of its input map
    is_first: bool  # its input needs no gradient


def convolutions(network: nn.Module, image_size: int) -> Counter[Convolution]:
    """Count the convolutions of a network by their properties."""
    found: list[Convolution] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        shape = (module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0])
        found.append(Convolution(*shape, int(module.padding[0]), module.groups, inputs[0].shape[2], is_first=not found))

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, nn.Conv2d)]
    network.eval()(torch.zeros(1, 3, image_size, image_size))
    for hook in hooks:
        hook.remove()
    return Counter(found)


def best_of(shape: Convolution, batch: int, runtime: Runtime, repeats: int) -> float:
    """Seconds of one convolution, forward plus backward, each in its faster memory format."""
    forward, backward = [], []
    for memory in FORMATS.values():
        options: dict[str, Any] = {"device": runtime.device, "dtype": runtime.precision}
        x = torch.randn(batch, shape.in_channels, shape.size, shape.size, **options).to(memory_format=memory)
        weight = torch.randn(shape.out_channels, shape.in_channels // shape.groups, *[shape.kernel] * 2, **options)
        weight = weight.to(memory_format=memory)
        settings = ([shape.stride] * 2, [shape.padding] * 2, [1, 1])

        def go(x: Tensor = x, weight: Tensor = weight, settings: tuple[list[int], ...] = settings) -> Tensor:
            return torch.conv2d(x, weight, None, *settings, shape.groups)

        grad = torch.randn_like(go())

        def back(
            x: Tensor = x, weight: Tensor = weight, settings: tuple[list[int], ...] = settings, grad: Tensor = grad
        ) -> object:
            wanted = [not shape.is_first, True, False]
            return torch.ops.aten.convolution_backward(
                grad, x, weight, None, *settings, False, [0, 0], shape.groups, wanted
            )

        for work, kept in ((go, forward), (back, backward)):
            work()
            kept.append(statistics.median(seconds(work, runtime) for _ in range(repeats)))
    return min(forward) + min(backward)


@dataclass(frozen=True)
class Setting:
    """A network, its batch size, and the image size for its stem."""

    name: str
    batch: int
    image_size: int

    @property
    def title(self) -> str:
        return f"{self.name}, {self.image_size} px, batch {self.batch}"


def trainer(setting: Setting) -> Callable[[], None]:
    """Our training step on random images."""
    batch, image_size = setting.batch, setting.image_size
    config = RunConfig(
        model=ModelConfig(name=setting.name),
        augment=AugmentConfig(crop=4, flip=True),
        optim=OptimConfig(lr=0.01, weight_decay=5e-4, decay_norms=False),
        batch_size=batch,
        ema=0.999,
        steps=10**6,
    )
    keep_freed_memory()  # as `resnetlab train` does
    runtime = start()
    network = build_model(setting.name, 10, image_size=image_size)
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8 * batch, image_size, image_size, 3), generator=draw, dtype=torch.uint8)
    split = Split(images, torch.randint(0, 10, (8 * batch,), generator=draw), tuple(map(str, range(8 * batch))))
    see = Preprocessing(image_size, image_size, 3, mean=(0.5,) * 3, std=(0.25,) * 3)
    batches = TrainBatches(split, see, make_augmentations(config.augment, image_size), batch, 0, runtime)
    state, plan = make_state(config, network, runtime), make_plan(config, 10**6)
    state.model.train()

    def endless() -> Iterator[Batch]:
        epoch = 0
        while True:
            yield from batches.epoch(epoch)
            epoch += 1

    stream = endless()
    return lambda: train_step(state, next(stream), plan, runtime)


def shares(setting: Setting, rounds: int, steps: int, repeats: int = 3) -> dict[str, Any]:
    """Measure floor and step of one network; each round times every convolution alone, then some complete steps."""
    step = trainer(setting)
    shapes = convolutions(build_model(setting.name, 10, image_size=setting.image_size), setting.image_size)
    runtime = start()
    for _ in range(2):
        step()
    floor, ours = [], []
    for _ in range(rounds):
        alone = sum(best_of(shape, setting.batch, runtime, repeats) * times for shape, times in shapes.items())
        floor.append(setting.batch / alone)
        ours.append(setting.batch / statistics.median(seconds(step, runtime) for _ in range(steps)))
    first = {"name": "resnetlab", "values": ours, **spread(ours)}
    alone = {"name": "its convolutions alone", "values": floor, **spread(floor), "first_against_it": ratio(ours, floor)}
    return {
        "subject": setting.name,
        "title": setting.title,
        "unit": "images/s",
        "more_is_better": True,
        "contenders": [first, alone],
    }


def measure(options: Options) -> dict[str, Any]:
    """Measure ResNet-18 at batch 256, then every other network of the zoo."""
    result: dict[str, Any] = {"page": "docs/floor.md"}
    if options.quick:
        return result | {"groups": [shares(Setting("resnet20", 16, 32), rounds=2, steps=2, repeats=1)]}
    result["groups"] = []
    for name in options.left(dict.fromkeys(("resnet18", *ARCHITECTURES))):
        options.say(name)
        setting, steps = Setting(name, 128, 32), 2
        if name == "resnet18":
            setting, steps = Setting(name, 256, 32), 10
        elif ARCHITECTURES[name].stem == "imagenet":
            setting = Setting(name, 16, 224)
        result["groups"].append(shares(setting, options.rounds, options.steps or steps))
        options.keep(result)
    return result


draw = floor_page.draw
write = floor_page.page
