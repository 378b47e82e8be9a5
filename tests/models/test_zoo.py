"""The table of architectures is the papers', is plain data, and refuses what describes no network."""

import json
import re
import subprocess
import sys

import pytest
import torch

from resnetlab.errors import BadInput
from resnetlab.models import blocks, stems, zoo
from resnetlab.models.stems import STEMS, whiten
from resnetlab.models.zoo import ARCHITECTURES, Architecture, resolve


def test_the_table_imports_no_torch():
    code = "import sys, resnetlab.models, resnetlab.models.zoo; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": ":".join(sys.path)}).returncode
        == 0
    )


def test_the_names_in_the_table_are_those_that_are_built():
    assert tuple(blocks.UNITS) == zoo.UNITS
    assert tuple(stems.STEMS) == zoo.STEMS
    assert tuple(blocks.SHORTCUTS) == zoo.SHORTCUTS


def test_the_public_names_are_those_of_their_modules():
    from resnetlab import models

    assert models.ARCHITECTURES is ARCHITECTURES
    assert all(hasattr(models, name) for name in models.__all__)
    assert sorted(name for names in models.HOMES.values() for name in names) == sorted(models.__all__)
    with pytest.raises(AttributeError, match="no attribute 'resnet19'"):
        _ = models.resnet19


def test_the_table_has_every_net_of_the_papers():
    cifar = (20, 32, 44, 56, 110)
    assert set(ARCHITECTURES) == {
        *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152, *cifar)),
        *(f"plain{depth}" for depth in (18, 34, 20, 32, 44, 56)),
        *(f"preact_resnet{depth}" for depth in (18, *cifar)),
        *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
        "fast_resnet8",  # ours
    }
    assert all(architecture.source for architecture in ARCHITECTURES.values())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_survives_json(name):
    architecture = ARCHITECTURES[name]
    again = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
    assert (again, again.source) == (architecture, architecture.source)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"unit": "basik"}, "unknown unit 'basik'; did you mean 'basic'?"),
        ({"stem": ["cifar"]}, "unknown stem"),
        ({"shortcut": "D"}, "unknown shortcut 'D'"),
        ({"width": 0}, "width is 0"),
        ({"width": True}, "width is True"),
        ({"width": "64"}, "width is '64'"),
        ({"width": 1, "group_width": 4, "unit": "bottleneck"}, "leaves no channel"),
        ({"groups": 32}, "belong to the bottleneck"),
        ({"units_per_stage": []}, "1 to 8 stages"),
        ({"units_per_stage": [10**9]}, "2048 units"),
        ({"units_per_stage": [2, 2.5]}, "whole numbers"),
        ({"units_per_stage": "22"}, "whole numbers"),
        ({"source": 3}, "source is 3"),
        ({"widht": 64}, "did you mean 'width'?"),
    ],
)
def test_a_description_of_no_network_is_refused(change, sentence):
    with pytest.raises(BadInput, match=re.escape(sentence)):
        Architecture.from_json(ARCHITECTURES["resnet18"].to_json() | change)


def test_an_incomplete_description_is_refused():
    with pytest.raises(BadInput, match="no 'units_per_stage'"):
        Architecture.from_json({"unit": "basic"})
    with pytest.raises(BadInput, match="an object with named fields"):
        Architecture.from_json([])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "stem", "image_size", "expected"),
    [
        ("resnet18", "auto", None, "imagenet"),
        ("resnet18", "auto", 64, "cifar"),
        ("resnet18", "auto", 65, "imagenet"),
        ("resnet18", "imagenet", 32, "imagenet"),
        ("resnet20", "auto", None, "cifar"),
        ("resnet20", "auto", 224, "imagenet"),
        ("resnet20", "cifar", 224, "cifar"),
    ],
)
def test_the_stem_goes_by_the_images_unless_named(name, stem, image_size, expected):
    assert resolve(name, stem=stem, image_size=image_size).stem == expected


def test_the_shortcut_is_the_papers_unless_named():
    assert resolve("resnet20").shortcut == "A"
    assert resolve("resnet20", shortcut="B").shortcut == "B"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "resnet43"}, "unknown model 'resnet43'; did you mean 'resnet"),
        ({"name": "resnet18", "stem": "cifer"}, "did you mean 'cifar'? Choose from auto, imagenet, cifar"),
        ({"name": "resnet18", "shortcut": "b"}, "unknown shortcut 'b'"),
        ({"name": "resnet18", "image_size": 0}, "image size 0"),
        ({"name": "plain18", "shortcut": "A"}, "plain18 is a plain net"),
        ({"name": "fast_resnet8", "shortcut": "A"}, "fast_resnet8 has shortcuts of its own; remove the shortcut"),
    ],
)
def test_a_wrong_choice_gets_a_sentence(arguments, sentence):
    with pytest.raises(BadInput, match=re.escape(sentence)):
        resolve(**arguments)


def test_a_whitened_stem_leaves_patches_without_correlation():
    draw = torch.Generator().manual_seed(0)
    images = torch.nn.functional.interpolate(torch.randn(64, 3, 9, 9, generator=draw), 20, mode="bilinear")
    conv, _ = STEMS["whitened"](3, 64)
    whiten(conv, images, floor=0.0)
    found = torch.nn.functional.conv2d(images, conv.weight)[:, :16].transpose(0, 1).flatten(1)
    torch.testing.assert_close(found @ found.t() / found.shape[1], torch.eye(16), atol=1e-3, rtol=0)
    assert torch.equal(conv.weight[:16], -conv.weight[16:])
    assert not conv.weight.requires_grad


def test_a_whitened_stem_sees_what_varies_most():
    draw = torch.Generator().manual_seed(0)
    waves = torch.nn.functional.interpolate(torch.randn(64, 1, 5, 5, generator=draw), 20, mode="bilinear")
    images = waves + 0.01 * torch.randn(64, 1, 20, 20, generator=draw)
    conv, _ = STEMS["whitened"](1, 64)
    whiten(conv, images)
    patches = images.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4).flatten(0, 3).double()
    variances = torch.linalg.eigvalsh(patches.t() @ patches / len(patches))
    lengths = conv.weight[:8].flatten(1).double().norm(dim=1)
    torch.testing.assert_close(lengths, (variances[1:] + 5e-4).rsqrt(), atol=0, rtol=1e-4)
