"""The network and the augmentation of notebooks/resnet18, as its cells define them, against oracles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from resnetlab.data import augment
from resnetlab.models import build_model

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([3, 1, 4, 1])


@pytest.fixture(scope="module")
def notebook(executed: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return executed("resnet18", "network", "augmentation", torch=torch, nn=nn, F=F)


def pair(notebook: dict[str, Any], units: tuple[int, ...], stem: str, oracle: str) -> tuple[nn.Module, nn.Module]:
    """The notebook's network and another one with the same weights."""
    torch.manual_seed(0)
    ours = notebook["ResNet"](units, stem=stem)
    if oracle == "torchvision":
        other = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, list(units), num_classes=10)
    else:
        other = build_model("resnet18", 10, stem=stem)
    other.load_state_dict(ours.state_dict())
    return ours, other


def same_network(ours: nn.Module, other: nn.Module) -> None:
    """Keys, logits in both modes, gradients and running statistics, to the bit."""
    assert list(ours.state_dict()) == list(other.state_dict())
    for network in (ours, other):
        F.cross_entropy(network.train()(IMAGES), LABELS).backward()
    gradients = zip(ours.named_parameters(), other.named_parameters(), strict=True)
    assert [name for (name, a), (_, b) in gradients if not torch.equal(a.grad, b.grad)] == []
    for a, b in zip(ours.buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        assert torch.equal(ours.train()(IMAGES), other.train()(IMAGES))
        assert torch.equal(ours.eval()(IMAGES), other.eval()(IMAGES))


@pytest.mark.parametrize("oracle", ["torchvision", "resnetlab"])
def test_the_network_is_resnet18_to_the_bit(notebook: dict[str, Any], oracle: str) -> None:
    same_network(*pair(notebook, (2, 2, 2, 2), "imagenet", oracle))


def test_with_the_3x3_stem_it_is_the_librarys_to_the_bit(notebook: dict[str, Any]) -> None:
    same_network(*pair(notebook, (2, 2, 2, 2), "cifar", "resnetlab"))


def test_with_other_units_it_is_resnet34(notebook: dict[str, Any]) -> None:
    same_network(*pair(notebook, (3, 4, 6, 3), "imagenet", "torchvision"))


def test_the_networks_size_follows_the_data(notebook: dict[str, Any]) -> None:
    assert notebook["resnet18"](num_classes=7, in_channels=1)(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


def test_an_unknown_stem_is_refused(notebook: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="choose imagenet or cifar"):
        notebook["ResNet"]((2, 2, 2, 2), stem="vgg")


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(256, (16, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def draws() -> Tensor:
    """Random ones, and both ends of what can be drawn."""
    drawn = torch.rand(16, 3, generator=torch.Generator().manual_seed(3))
    drawn[0], drawn[1] = 0, torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    return drawn


def test_the_same_draws_give_the_librarys_pixels(notebook: dict[str, Any], pixels: Tensor, draws: Tensor) -> None:
    cropped = augment.crop(pixels, draws[:, :2], 4)
    assert torch.equal(notebook["crop"](pixels, draws[:, :2]), cropped)
    assert torch.equal(notebook["flip"](pixels, draws[:, 2]), augment.flip(pixels, draws[:, 2:]))
    assert torch.equal(notebook["augmented"](pixels, draws), augment.flip(cropped, draws[:, 2:]))


def test_augmentation_is_padding_cutting_and_mirroring(notebook: dict[str, Any], pixels: Tensor, draws: Tensor) -> None:
    for image, (y, x, mirror), found in zip(pixels, draws.tolist(), notebook["augmented"](pixels, draws), strict=True):
        padded = torch.zeros(40, 40, 3, dtype=torch.uint8)
        padded[4:36, 4:36] = image
        cut = padded[int(y * 9) : int(y * 9) + 32, int(x * 9) : int(x * 9) + 32]
        assert torch.equal(found, cut.flip(1) if mirror < 0.5 else cut)
