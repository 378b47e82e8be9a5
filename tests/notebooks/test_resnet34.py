"""The network written in notebooks/resnet34.py is the library's and torchvision's; its pretrained path works."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.nn.functional as F
import torchvision
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from resnetlab.models.build import build_model

NOTEBOOK = "resnet34"


def varied(state):
    """Norms that differ from each other: fresh ones are all alike, and a swapped pair would not show."""
    generator = torch.Generator().manual_seed(7)
    for key, value in state.items():
        if "bn" in key or "downsample.1" in key:
            value.copy_(torch.empty(value.shape).uniform_(0.5, 1.0, generator=generator))
    return state


@pytest.fixture(scope="module")
def network(executed):
    """The notebook's class, taken from its cells."""
    return executed(NOTEBOOK, "network", nn=nn, F=F)["ResNet34"]


@pytest.fixture
def three(network):
    """The notebook's, the library's and torchvision's, with the same weights."""
    library = build_model("resnet34", num_classes=10, stem="imagenet", image_size=32, seed=1)
    state = varied(library.state_dict())
    ours, theirs = network(classes=10), torchvision.models.resnet34(num_classes=10)
    ours.load_state_dict(state)
    theirs.load_state_dict(state)
    return ours, library, theirs


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_it_has_the_keys_and_shapes_of_torchvisions_in_their_order(three):
    ours, _, theirs = ([(key, value.shape) for key, value in model.state_dict().items()] for model in three)
    assert ours == theirs


def test_it_has_as_many_parameters_as_torchvisions(network):
    model = network(classes=1000)
    model(torch.zeros(2, 3, 32, 32))  # the lazy head takes its shape
    published = torchvision.models.ResNet34_Weights.DEFAULT.meta["num_params"]
    assert sum(weight.numel() for weight in model.parameters()) == published


def test_same_weights_give_the_same_bits_in_evaluation_mode(three, images):
    with torch.no_grad():
        ours, library, theirs = (model.eval()(images) for model in three)
    assert torch.equal(ours, library)
    assert torch.equal(ours, theirs)


def test_same_weights_give_the_same_bits_in_training_mode_and_the_same_gradients(three, images):
    ours, *others = three
    for model in three:
        F.cross_entropy(model.train()(images), torch.tensor([0, 3, 5, 9])).backward()
    for other in others:
        for (key, parameter), expected in zip(ours.named_parameters(), other.parameters(), strict=True):
            assert torch.equal(parameter.grad, expected.grad), key
        for (key, buffer), expected in zip(ours.named_buffers(), other.buffers(), strict=True):
            assert torch.equal(buffer, expected), key
    with torch.no_grad():
        after, *same = (model.train()(images) for model in three)
    assert all(torch.equal(after, logits) for logits in same)


@pytest.fixture
def pretrained(executed, monkeypatch, tmp_path):
    """The names of the pretrained cell; torch.hub's folder is empty, and no weights are named."""
    monkeypatch.delenv("RESNETLAB_RESNET34_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    given = {
        **{"nn": nn, "F": F, "torch": torch, "socket": socket, "device": torch.device("cpu")},
        **{"LogisticRegression": LogisticRegression, "make_pipeline": make_pipeline, "StandardScaler": StandardScaler},
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16, enabled=False),
    }
    exec("import os\nfrom http.client import HTTPException\nfrom pathlib import Path", given)
    return executed(NOTEBOOK, "network", "pretrained", **given)


@pytest.fixture(scope="module")
def made_weights(tmp_path_factory):
    """A file as torchvision's, with weights that nothing was learned with."""
    file = tmp_path_factory.mktemp("weights") / "resnet34-b627a593.pth"
    torch.manual_seed(0)
    torch.save(varied(torchvision.models.resnet34().state_dict()), file)
    return file


@pytest.mark.parametrize("channels", [3, 1])
def test_the_pretrained_path_learns_a_head_on_frozen_features(pretrained, made_weights, monkeypatch, channels):
    monkeypatch.setenv("RESNETLAB_RESNET34_WEIGHTS", str(made_weights))
    labels = torch.arange(24) % 2
    noise = torch.randint(0, 80, (24, 32, 32, channels), generator=torch.Generator().manual_seed(5))
    images = (noise + 150 * labels.view(-1, 1, 1, 1)).to(torch.uint8)  # dark ones and bright ones
    file = pretrained["find_weights"](download=False)
    said = pretrained["pretrained_predictions"](file, (images[:16], labels[:16]), images[16:], pixels=48)
    assert torch.equal(said, labels[16:])


def test_the_frozen_features_are_torchvisions(pretrained, made_weights):
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    theirs = torchvision.models.resnet34()
    theirs.load_state_dict(torch.load(made_weights, weights_only=True))
    theirs.fc = nn.Identity()
    transform = torchvision.models.ResNet34_Weights.DEFAULT.transforms(crop_size=64, resize_size=64)
    with torch.no_grad():
        expected = theirs.eval()(transform(images.permute(0, 3, 1, 2)))
    ours = pretrained["ResNet34"](classes=1000)
    ours.load_state_dict(torch.load(made_weights, weights_only=True))
    ours.fc = nn.Identity()
    found = pretrained["frozen_features"](ours.eval(), images, pixels=64)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)  # torchvision rounds resized pixels to bytes


def test_weights_are_found_where_torch_hub_keeps_them(pretrained, tmp_path):
    assert pretrained["find_weights"](download=False) is None
    kept = tmp_path / "hub" / "checkpoints" / "resnet34-b627a593.pth"
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert pretrained["find_weights"](download=False) == kept


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("invalid hash value"), TimeoutError()])
def test_a_download_that_fails_is_no_error_and_cannot_hang(pretrained, monkeypatch, error):
    def fail(address, target, **options):
        assert address == torchvision.models.ResNet34_Weights.DEFAULT.url
        assert options["hash_prefix"] == "b627a593"
        assert socket.getdefaulttimeout() == 10
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    before = socket.getdefaulttimeout()
    assert pretrained["find_weights"](download=True) is None
    assert socket.getdefaulttimeout() == before


def test_weights_that_are_named_and_not_there_are_no_error(pretrained, monkeypatch, tmp_path):
    monkeypatch.setenv("RESNETLAB_RESNET34_WEIGHTS", str(tmp_path / "missing.pth"))
    assert pretrained["find_weights"](download=True) is None
