"""The reference is torchvision: same keys, same weights in, the same bits out, forward and backward."""

from copy import deepcopy
from functools import cache

import pytest
import torch
import torchvision
from torch.nn.functional import cross_entropy

from resnetlab.models.resnet import ResNet
from resnetlab.models.summary import count_macs
from resnetlab.models.zoo import ARCHITECTURES

NAMES = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
)


@cache
def reference(name):
    """torchvision's network without numbers; to be left as it is, for it is shared."""
    with torch.device("meta"):
        return torchvision.models.get_model(name)


@cache
def ours(name):
    with torch.device("meta"):
        return ResNet(ARCHITECTURES[name])


@pytest.mark.parametrize("name", NAMES)
def test_keys_their_order_and_shapes_equal_torchvisions(name):
    mine, theirs = ours(name).state_dict(), reference(name).state_dict()
    assert [(key, value.shape, value.dtype) for key, value in mine.items()] == [
        (key, value.shape, value.dtype) for key, value in theirs.items()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_macs_equal_torchvisions_metadata(name):
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    model = ours(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == published["num_params"]
    assert round(count_macs(model, 224) / 1e9, 3) == published["_ops"]  # its "GFLOPS" are multiply-adds


LARGE = (
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)  # their siblings are quick enough


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in NAMES])
def test_same_weights_give_the_same_bits(name):
    generator = torch.Generator().manual_seed(7)
    mine, theirs = deepcopy(ours(name)).to_empty(device="cpu"), deepcopy(reference(name))
    noise = torch.randn(2**18 + 1, generator=generator)  # repeated: drawing a hundred million numbers takes seconds
    for key, value in mine.state_dict().items():
        if "bn" in key or "downsample.1" in key:  # fresh norms are all alike: a swapped pair would not show
            value.copy_(torch.empty(value.shape).uniform_(0.5, 1.0, generator=generator))
        else:
            scale = (2 / value[0].numel()) ** 0.5 if value.ndim == 4 else 0.01
            repeated = noise.expand(-(-value.numel() // len(noise)), -1).reshape(-1)[: value.numel()]
            value.copy_(repeated.reshape(value.shape)).mul_(scale)
    shared = dict(mine.named_parameters())  # buffers are written in training mode, and each network needs its own
    state = {key: value if key in shared else value.clone() for key, value in mine.state_dict().items()}
    theirs.load_state_dict(state, assign=True)
    images = torch.randn(2, 3, 33, 33, generator=generator)  # the last maps are 2x2

    with torch.no_grad():
        assert torch.equal(mine.eval()(images), theirs.eval()(images))

    logits = [model.train()(images) for model in (mine, theirs)]
    assert torch.equal(*logits)
    for scores in logits:
        cross_entropy(scores, torch.tensor([3, 8])).backward()
    for (key, parameter), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, other.grad), key
        assert torch.isfinite(parameter.grad.sum()), key
        assert parameter.grad.any(), key
    for (key, buffer), other in zip(mine.named_buffers(), theirs.buffers(), strict=True):
        assert torch.equal(buffer, other), key
