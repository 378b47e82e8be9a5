"""Every architecture is a function with a signature of its own."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

import resnetlab
from resnetlab.errors import BadInput
from resnetlab.models import architectures, build_model
from resnetlab.models.zoo import ARCHITECTURES


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_a_function(name: str) -> None:
    function = getattr(resnetlab, name)
    assert function is getattr(architectures, name)
    assert function.__name__ == name
    assert name in function.__doc__
    parameters = inspect.signature(function).parameters
    assert list(parameters) == [
        *("num_classes", "weights", "in_channels", "stem", "image_size", "shortcut", "zero_init", "seed"),
    ]
    assert parameters["num_classes"].default == (1000 if ARCHITECTURES[name].stem == "imagenet" else 10)
    assert dir(resnetlab).count(name) == 1


def test_it_builds_what_build_model_builds() -> None:
    mine = resnetlab.resnet18(10, image_size=32, seed=3, in_channels=1)
    other = build_model("resnet18", 10, image_size=32, seed=3, in_channels=1)
    assert mine.name == "resnet18"
    assert all(torch.equal(*pair) for pair in zip(mine.parameters(), other.parameters(), strict=True))
    assert resnetlab.list_models() == list(ARCHITECTURES)


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(build_model("resnet20", 10, seed=7).state_dict(), file)
    assert torch.equal(resnetlab.resnet20(weights=file).fc.weight, build_model("resnet20", 10, seed=7).fc.weight)
    with pytest.raises(BadInput):
        resnetlab.resnet32(weights=file)
    with pytest.raises(BadInput, match="resnet20"):
        resnetlab.resnet20(weights="imagenet")  # torchvision has none


def test_imagenet_weights_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnetlab.models.pretrained.torchvision_address", lambda name: f"http://address/{name}.pth")
    for source in ("imagenet", "torchvision"):
        with pytest.raises(BadInput, match=r"http://address/resnet18\.pth contains no digest"):
            resnetlab.resnet18(weights=source)
