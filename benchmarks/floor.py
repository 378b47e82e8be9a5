"""The floor: what a training step would cost if it were made of its convolutions alone, and the share we reach.

For every convolution of a network, its forward pass and its gradients are timed alone, as torch gives them, in the
precision that `auto` chooses and in both memory formats; the floor is the sum of the best of each. The step that is
timed beside it, in the same process and interleaved, is ours whole: augmentation, forward, loss, backward, optimiser,
metrics and an average of the weights.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from resnetlab.config import AugmentConfig, ModelConfig, OptimConfig, RunConfig
from resnetlab.models import build_model
from resnetlab.models.zoo import ARCHITECTURES
from resnetlab.runtime import Runtime, start

FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


class Convolution(NamedTuple):
    """What decides how long a convolution takes."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    padding: int
    groups: int
    size: int  # of the map it reads
    is_first: bool  # its input needs no gradient


def convolutions(network: nn.Module, image_size: int) -> Counter[Convolution]:
    """The convolutions of a network, each with how often it occurs."""
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


def seconds(work: Callable[[], object], runtime: Runtime) -> float:
    runtime.synchronize()
    began = time.perf_counter()
    work()
    runtime.synchronize()
    return time.perf_counter() - began


def best_of(shape: Convolution, batch: int, runtime: Runtime, repeats: int) -> float:
    """Seconds of one convolution, forward and backward, each in the memory format it is fastest in."""
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


def trainer(name: str, batch: int, image_size: int, stem: str) -> tuple[Callable[[], None], nn.Module]:
    """Our training step on random images, and its network."""
    from resnetlab.assembly import make_augmentations, make_plan, make_state
    from resnetlab.data.loaders import TrainBatches
    from resnetlab.data.preprocess import Preprocessing
    from resnetlab.data.splits import Split
    from resnetlab.training.loop import train_step

    config = RunConfig(
        model=ModelConfig(name=name, stem=stem),
        augment=AugmentConfig(crop=4, flip=True),
        optim=OptimConfig(lr=0.01, weight_decay=5e-4, decay_norms=False),
        batch_size=batch,
        ema=0.999,
        steps=10**6,
    )
    runtime = start()
    network = build_model(name, 10, stem=stem, image_size=image_size)
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8 * batch, image_size, image_size, 3), generator=draw, dtype=torch.uint8)
    split = Split(images, torch.randint(0, 10, (8 * batch,), generator=draw), tuple(map(str, range(8 * batch))))
    see = Preprocessing(image_size, image_size, 3, mean=(0.5,) * 3, std=(0.25,) * 3)
    batches = TrainBatches(split, see, make_augmentations(config.augment, image_size), batch, 0, runtime)
    state, plan = make_state(config, network, runtime), make_plan(config, 10**6)
    state.model.train()

    def endless() -> Any:
        epoch = 0
        while True:
            yield from batches.epoch(epoch)
            epoch += 1

    stream = endless()
    return lambda: train_step(state, next(stream), plan, runtime), state.model


def share(
    name: str, batch: int, image_size: int = 32, stem: str = "auto", rounds: int = 3, steps: int = 3
) -> dict[str, Any]:
    """Floor and step of one network, interleaved: the best single convolutions of a round, then some whole steps."""
    step, network = trainer(name, batch, image_size, stem)
    shapes = convolutions(build_model(name, 10, stem=stem, image_size=image_size), image_size)
    runtime = start()
    for _ in range(2):
        step()
    floors, ours = [], []
    for _ in range(rounds):
        floors.append(sum(best_of(shape, batch, runtime, 3) * times for shape, times in shapes.items()))
        ours += [seconds(step, runtime) for _ in range(steps)]
    floor, mine = statistics.median(floors), statistics.median(ours)
    return {
        "batch": batch,
        "image_size": image_size,
        "stem": stem,
        "floor_images_per_second": batch / floor,
        "images_per_second": batch / mine,
        "share": floor / mine,
        "floors": floors,
        "steps": ours,
    }


def measure(options: Any) -> dict[str, Any]:
    """The share of the floor for ResNet-18 at batch 256, then for every network of the zoo."""
    if options.quick:
        return {"nets": {"resnet20": share("resnet20", 16, rounds=2, steps=2)}}
    nets = {"resnet18": share("resnet18", 256, rounds=5, steps=8)}
    for name in ARCHITECTURES:
        if name != "resnet18":
            small = ARCHITECTURES[name].stem == "cifar"
            nets[name] = share(name, 128 if small else 64, rounds=2, steps=2)
    return {"nets": nets}
