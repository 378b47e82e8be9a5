"""Training and prediction preprocessing the same pixels, with torchvision's transforms as the oracle."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab.data.preprocess import LARGEST_SIZE, Preprocessing
from resnetlab.errors import BadInput

RGB = {"channels": 3, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
GREY = {"channels": 1, "mean": (0.3,), "std": (0.4,)}


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (31, 33), (32, 32), (47, 40), (640, 479), (33, 32)])
@pytest.mark.parametrize("kind", [RGB, GREY])
def test_any_size_becomes_the_stored_size(fit, size, kind):
    preprocessing = Preprocessing(image_size=28, resize_to=32, fit=fit, **kind)
    pixels = preprocessing.resize(noise(*size))
    assert pixels.shape == (32, 32, preprocessing.channels)
    assert pixels.dtype == np.uint8
    assert preprocessing.normalize(torch.from_numpy(pixels)[None]).shape == (1, preprocessing.channels, 28, 28)


@pytest.mark.parametrize("size", [(300, 256), (256, 301), (512, 512)])
def test_crop_equals_torchvision(size):
    """Both crop the same square; only torchvision's filter reaches beyond its border."""
    transforms = pytest.importorskip("torchvision.transforms")
    image = noise(*size)
    preprocessing = Preprocessing(image_size=224, resize_to=256, **RGB)
    ours = preprocessing.normalize(torch.from_numpy(preprocessing.resize(image))[None])[0]
    oracle = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(RGB["mean"], RGB["std"]),
        ]
    )(image)
    assert torch.equal(ours, oracle)


def test_an_image_that_fits_is_not_resampled():
    for fit in ("crop", "squash", "pad"):
        preprocessing = Preprocessing(image_size=32, resize_to=32, fit=fit, **RGB)
        assert np.array_equal(preprocessing.resize(noise(32, 32)), np.asarray(noise(32, 32)))
    preprocessing = Preprocessing(image_size=32, resize_to=32, **RGB)
    assert np.array_equal(preprocessing.resize(noise(41, 32)), np.asarray(noise(41, 32))[:, 4:36])


def test_pad_keeps_the_whole_image_on_black():
    preprocessing = Preprocessing(image_size=32, resize_to=32, fit="pad", **RGB)
    pixels = preprocessing.resize(Image.new("RGB", (64, 32), "white"))
    assert (pixels[8:24] == 255).all()
    assert not pixels[:8].any()
    assert not pixels[24:].any()


def test_normalize_is_the_formula_and_channels_last():
    preprocessing = Preprocessing(image_size=4, resize_to=6, **RGB)
    images = torch.randint(0, 256, (5, 6, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = preprocessing.normalize(images)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for c in range(3):
        expected = (images[:, 1:5, 1:5, c].double() / 255 - RGB["mean"][c]) / RGB["std"][c]
        assert torch.allclose(batch[:, c].double(), expected, atol=1e-6)
    assert torch.equal(preprocessing.denormalize(batch), images[:, 1:5, 1:5])


def test_every_pixel_value_survives_the_round_trip():
    images = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    preprocessing = Preprocessing(image_size=16, resize_to=16, **GREY)
    assert torch.equal(preprocessing.denormalize(preprocessing.normalize(images)), images)
    assert preprocessing.denormalize(torch.full((1, 1, 2, 2), 99.0)).unique().tolist() == [255]


def test_normalize_refuses_other_types_and_shapes():
    preprocessing = Preprocessing(image_size=16, resize_to=16, **GREY)
    for wrong in (
        torch.zeros(1, 16, 16, 3, dtype=torch.uint8),
        torch.zeros(1, 15, 16, 1, dtype=torch.uint8),
        torch.zeros(1, 16, 16, 1),
    ):
        with pytest.raises(ValueError, match="is needed"):
            preprocessing.normalize(wrong)


def test_constants_created_in_inference_mode_work_in_training():
    preprocessing = Preprocessing(image_size=2, resize_to=2, channels=1, mean=(0.123,), std=(0.456,))
    with torch.inference_mode():
        preprocessing.normalize(torch.zeros(1, 2, 2, 1, dtype=torch.uint8))
    weight = torch.ones(1, requires_grad=True)
    (preprocessing.normalize(torch.zeros(1, 2, 2, 1, dtype=torch.uint8)) * weight).sum().backward()
    assert weight.grad is not None


def test_read_accepts_paths_images_and_arrays(tmp_path):
    path = tmp_path / "a.png"
    noise(50, 40).save(path)
    preprocessing = Preprocessing(image_size=32, resize_to=32, **RGB)
    for source in (path, str(path), noise(50, 40), np.asarray(noise(50, 40))):
        assert np.array_equal(preprocessing.read(source), preprocessing.resize(noise(50, 40)))


def test_preprocessing_is_the_same_after_a_round_trip_through_json():
    preprocessing = Preprocessing(image_size=224, resize_to=256, fit="pad", **RGB)
    assert Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json()))) == preprocessing


def test_the_limit_of_pixels_is_that_of_training():
    limited = Preprocessing(image_size=8, resize_to=8, max_pixels=300, **RGB)
    for source in (noise(20, 16), np.asarray(noise(20, 16))):
        with pytest.raises(BadInput, match=r"at most 300 pixels"):
            limited.read(source)
        assert limited.read(source[:10, :10] if isinstance(source, np.ndarray) else source.crop((0, 0, 9, 9))).size
    assert Preprocessing.from_json(limited.to_json()).max_pixels == 300
    assert "max_pixels" not in Preprocessing(image_size=8, resize_to=8, **RGB).to_json()  # as in older files


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image_size": 0}, "image_size is 0; it must be a whole number 1..4096"),
        ({"image_size": True}, "image_size is True"),
        ({"image_size": 32.0}, "image_size is 32.0"),
        ({"resize_to": LARGEST_SIZE + 1}, "resize_to is 4097"),
        ({"resize_to": 31}, "smaller than image_size"),
        ({"channels": 65}, "channels is 65"),
        ({"channels": True}, "channels is True"),
        ({"range": [3, 3]}, r"range is \(3, 3\); it must be two numbers, LOW below HIGH"),
        ({"range": [0, 10**400]}, "range is"),
        ({"range": [0, math.nan]}, "range is"),
        ({"range": 3}, "range is 3"),
        ({"max_pixels": 0}, r"max_pixels is 0; it must be a whole number 1\.\.2,000,000,000"),
        ({"max_pixels": 1e9}, "max_pixels is 1000000000.0"),
        ({"mean": [0.5]}, "one number for each of the 3 channels"),
        ({"mean": "abc"}, "mean is 'abc'"),
        ({"mean": [0.5, 0.5, None]}, "mean is"),
        ({"std": [0.5, 0.5, 0]}, "std is"),
        ({"std": [0.5, 0.5, math.nan]}, "std is"),
        ({"std": [0.5, 0.5, math.inf]}, "std is"),
        ({"mean": [0.5, 0.5, 10**400]}, "mean is"),
        ({"fit": "stretch"}, "choose from crop, squash, pad"),
        ({"fit": ["crop"]}, "fit is"),
        ({"colour": 1, "a\x1b": 2}, r"unknown a\\x1b, colour"),
    ],
)
def test_json_with_invalid_values_is_refused(change, sentence):
    good = Preprocessing(image_size=32, resize_to=32, **RGB).to_json()
    with pytest.raises(BadInput, match=sentence):
        Preprocessing.from_json(good | change)


def test_json_of_another_type_is_refused():
    for wrong in (None, [], "x", 3):
        with pytest.raises(BadInput, match="an object with named values"):
            Preprocessing.from_json(wrong)
    with pytest.raises(BadInput, match="channels, image_size, mean, resize_to, std missing"):
        Preprocessing.from_json({})
    with pytest.raises(BadInput, match="unknown"):
        Preprocessing.from_json({1: 2})
