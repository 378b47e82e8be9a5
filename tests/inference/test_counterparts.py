"""torchvision and timm load the exported weights, and compute the same logits; other networks are refused."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput
from resnetlab.inference.counterparts import SHARED, crop_share, difference, shared_name, to_timm, to_torchvision
from resnetlab.inference.model_file import Model
from resnetlab.inference.predict import Classifier
from resnetlab.models.build import build_model
from resnetlab.models.zoo import ARCHITECTURES


def model(name: str, channels: int = 3, classes: int = 3) -> Model:
    network = build_model(name, classes, in_channels=channels, seed=1)
    with torch.no_grad():  # running statistics like those of a trained network
        network.train()(torch.randn(8, channels, 64, 64, generator=torch.Generator().manual_seed(0)))
    preprocessing = Preprocessing(56, 64, channels, (0.4,) * channels, (0.2,) * channels)
    return Model(network.eval(), tuple("abcdefgh"[:classes]), preprocessing, {}, "")


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - set(SHARED)))
def test_networks_without_a_counterpart_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(BadInput, match=r"timm has no such network: its (units|stem)"):
        shared_name(ARCHITECTURES[name], "timm")


def test_the_reason_names_the_difference() -> None:
    resnet18 = ARCHITECTURES["resnet18"]
    assert difference(replace(resnet18, stem="cifar")) == "its stem is cifar"
    assert difference(replace(resnet18, shortcut="A")) == "its shortcuts are those of option A"
    assert difference(replace(resnet18, width=32)) == "the number or the width of its units is another"
    assert difference(ARCHITECTURES["preact_resnet18"]) == "its units are preact"


def test_torchvision_reads_three_channels_only() -> None:
    grey = Model(build_model("resnet18", 2, in_channels=1), ("a", "b"), Preprocessing(8, 8, 1, (0.5,), (0.5,)), {}, "")
    with pytest.raises(BadInput, match="torchvision's resnet18 reads 3 channels, and this model 1"):
        to_torchvision(grey)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_torchvision_computes_the_same_logits(name: str, tmp_path: Path) -> None:
    import torchvision

    ours = model(name)
    content, facts, predict = to_torchvision(ours)
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    theirs = torchvision.models.get_model(facts["torchvision_model"], weights=None, **facts["arguments"]).eval()
    theirs.load_state_dict(torch.load(file, weights_only=True))
    images = torch.randn(2, 3, 56, 56)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images), ours.network(images), atol=1e-4, rtol=1e-4)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    np.testing.assert_allclose(predict(pixels), Classifier(ours).probabilities(pixels), atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of timm
@pytest.mark.parametrize(("name", "channels"), [("resnet18", 3), ("resnet18", 1), ("resnet34", 5), ("resnet50", 3)])
def test_timm_loads_the_folder_and_computes_the_same_logits(name: str, channels: int, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    ours = model(name, channels)
    files, _, predict = to_timm(ours)
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(2, channels, 56, 56)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images), ours.network(images), atol=1e-4, rtol=1e-4)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, channels), dtype=np.uint8)
    np.testing.assert_allclose(predict(pixels), Classifier(ours).probabilities(pixels), atol=1e-5)

    config = timm.data.resolve_data_config({}, model=theirs)
    assert config["input_size"] == (channels, 56, 56)
    assert config["interpolation"] == "bilinear"
    assert config["mean"] == pytest.approx(ours.preprocessing.mean)
    assert json.loads(files["config.json"])["label_names"] == ["a", "b", "c"]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_timms_own_transform_is_that_of_the_model(tmp_path: Path) -> None:
    """For sizes that divide; for others, timm rounds the long side and crops after the resize: a part of a pixel."""
    timm = pytest.importorskip("timm")
    from PIL import Image

    ours = model("resnet18")
    for file, content in to_timm(ours)[0].items():
        (tmp_path / file).write_bytes(content)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=theirs))
    smooth = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    image = Image.fromarray(smooth).resize((192, 128), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(ours.preprocessing.read(image))[None]
    difference = transform(image) - ours.preprocessing.normalize(pixels)[0]
    assert difference.abs().max() * 0.2 * 255 < 1.01


def test_the_state_dict_is_plain(tmp_path: Path) -> None:
    content, _, _ = to_torchvision(model("resnet18"))
    assert "fc.weight" in torch.load(io.BytesIO(content), weights_only=True)


def test_timm_resizes_to_the_same_size_from_the_share() -> None:
    for size in range(1, 600):
        for resize_to in range(size, 2 * size):
            assert math.floor(size / crop_share(size, resize_to)) == resize_to, (size, resize_to)
