"""A model file brings back the very same network, and one that is not whole or not a model is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput
from resnetlab.files import read_sealed, write_sealed
from resnetlab.inference.model_file import read_model, save_model, weights_digest
from resnetlab.models.build import build_model
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import Architecture
from resnetlab.runtime import Runtime
from resnetlab.training.checkpoint import save_checkpoint
from resnetlab.training.loop import TrainState
from resnetlab.training.optim import make_optimizer

TINY = Architecture("basic", (1, 1), width=4, stem="cifar", source="a test")
SEE = Preprocessing(image_size=8, resize_to=10, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), fit="pad")
CLASSES = ("猫, tabby", 'the "dog"', "\x1b[2J\n")
PROVENANCE = {"run": "quickstart-001", "epoch": 3, "scores": {"val": 0.1 + 0.2}, "none": None}


def network(architecture: Architecture = TINY, in_channels: int = 3, classes: int = 3) -> ResNet:
    """Its running statistics and counters are not those of a new one."""
    model = build_model(architecture, classes, in_channels=in_channels, seed=4)
    model(torch.randn(8, in_channels, 8, 8, generator=torch.Generator().manual_seed(1)))
    return model.eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "best.safetensors"


ARCHITECTURES = [
    TINY,
    replace(TINY, shortcut="A"),
    replace(TINY, shortcut="C", stem="imagenet"),
    replace(TINY, unit="plain"),
    replace(TINY, unit="preact"),
    Architecture("bottleneck", (1, 2), width=8, groups=2, group_width=32),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: f"{a.unit} {a.shortcut} {a.stem}")
@pytest.mark.parametrize("in_channels", [1, 3])
def test_logits_are_equal_to_the_last_bit(architecture: Architecture, in_channels: int, path: Path) -> None:
    model = network(architecture, in_channels)
    see = replace(SEE, channels=in_channels, mean=(0.5,) * in_channels, std=(0.2,) * in_channels)
    save_model(path, model, CLASSES, see, {})
    read = read_model(path)
    images = torch.randn(3, in_channels, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(read.network(images), model(images))
    assert not any(module.training for module in read.network.modules())
    assert read.network.architecture == architecture
    assert read.network.in_channels == in_channels


def test_everything_around_the_weights_comes_back(path: Path) -> None:
    model = network()
    model.name = "resnet20"
    digest = save_model(path, model, CLASSES, SEE, PROVENANCE)
    read = read_model(path)
    assert read.classes == CLASSES
    assert read.preprocessing == SEE
    assert read.provenance == PROVENANCE
    assert read.weights_digest == digest == weights_digest(read.network.state_dict())
    assert read.network.name == "resnet20"
    assert read.network.architecture.source == "a test"


def test_a_network_that_was_read_can_be_trained_on(path: Path) -> None:
    save_model(path, network(), CLASSES, SEE, {})
    model = read_model(path).network.train()
    optimizer = make_optimizer(model, "sgd", lr=0.1)
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_is_saved_from_any_memory_layout_and_mode_alike(tmp_path: Path) -> None:
    model, other = network(), network().to(memory_format=torch.channels_last).train()
    save_model(tmp_path / "a", model, CLASSES, SEE, {})
    save_model(tmp_path / "b", other, CLASSES, SEE, {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_digest_of_weights_ignores_layout_and_order_and_nothing_else() -> None:
    weights = network().state_dict()
    digest = weights_digest(weights)
    assert weights_digest(dict(reversed(weights.items()))) == digest
    last = {n: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for n, v in weights.items()}
    assert any(not value.is_contiguous() for value in last.values())
    assert weights_digest(last) == digest

    def changed(name: str, value: Tensor) -> str:
        return weights_digest({**weights, name: value})

    others = [
        changed("fc.bias", weights["fc.bias"].nextafter(torch.tensor(9.0))),
        changed("fc.bias", weights["fc.bias"].double()),
        changed("fc.bias", weights["fc.bias"][None]),
        changed("bn1.num_batches_tracked", torch.tensor(2)),
        changed("more", torch.zeros(0)),
        weights_digest({name: value for name, value in weights.items() if name != "fc.bias"}),
        weights_digest({name.replace("fc.bias", "fc.bios"): value for name, value in weights.items()}),
    ]
    assert len({digest, *others}) == 1 + len(others)


def refused(path: Path) -> str:
    with pytest.raises(BadInput) as error:
        read_model(path)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)
    return str(error.value)


def altered(path: Path, **changes: Any) -> None:
    """The file with other facts, sealed again: what only a program can make. None takes a fact away."""
    weights, facts = read_sealed(path)
    facts = {name: value for name, value in {**facts, **changes}.items() if value is not None}
    write_sealed(path, weights, facts)


FIELDS = ("model", "architecture", "in_channels", "classes", "preprocessing", "provenance", "weights_digest")


@pytest.mark.parametrize("field", [*FIELDS, "format", "format_version"])
def test_a_missing_field_is_named_or_explained(field: str, path: Path) -> None:
    save_model(path, network(), CLASSES, SEE, {})
    altered(path, **{field: None})
    told = refused(path)
    assert ("is incomplete: 'm" if field == "model" else field if field in FIELDS else "this version") in told or (
        field == "format" and "is not a model file" in told
    )


SHAPE = TINY.to_json()
WRONG: list[tuple[str, Any]] = [
    ("format", "resnetlab-checkpoint"),
    ("format", "\x1b[2J\n"),
    ("format", ["resnetlab-model"]),
    ("format_version", 2),
    ("format_version", "1"),
    ("format_version", True),
    ("format_version", 1.0),
    ("model", 18),
    ("architecture", "resnet18"),
    ("architecture", {}),
    ("architecture", [SHAPE]),
    ("architecture", {**SHAPE, "unit": "\x1b[2J\n"}),
    ("architecture", {**SHAPE, "unit": "plain"}),
    ("architecture", {**SHAPE, "width": 8}),
    ("architecture", {**SHAPE, "width": 10**30}),
    ("architecture", {**SHAPE, "width": 8192, "units_per_stage": [9] * 8}),
    ("architecture", {**SHAPE, "units_per_stage": [1, 2]}),
    ("architecture", {**SHAPE, "units_per_stage": [10**9]}),
    ("architecture", {**SHAPE, "more": 1}),
    ("in_channels", 1),
    ("in_channels", 0),
    ("in_channels", -3),
    ("in_channels", 10**12),
    ("in_channels", "three"),
    ("in_channels", [3]),
    ("in_channels", {}),
    ("in_channels", float("inf")),
    ("classes", []),
    ("classes", ["a", "b"]),
    ("classes", ["a", "b", "b"]),
    ("classes", ["a", "b", 3]),
    ("classes", ["a", "b", ["c"]]),
    ("classes", "abc"),
    ("classes", {"a": 0, "b": 1, "c": 2}),
    ("classes", 3),
    ("preprocessing", {}),
    ("preprocessing", [1, 2]),
    ("preprocessing", {**SEE.to_json(), "mean": [0.5]}),
    ("preprocessing", {**SEE.to_json(), "image_size": 10**9, "resize_to": 10**9}),
    ("preprocessing", {**SEE.to_json(), "channels": 1, "mean": [0.5], "std": [0.5]}),
    ("provenance", 5),
    ("provenance", "a run"),
    ("weights_digest", "0" * 64),
    ("weights_digest", 5),
    ("weights_digest", []),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=[f"{field} {str(value)[:30]!r}" for field, value in WRONG])
def test_a_wrong_field_is_refused_in_a_sentence(field: str, value: Any, path: Path) -> None:
    save_model(path, network(), CLASSES, SEE, {})
    altered(path, **{field: value})
    assert len(refused(path).removeprefix(str(path))) < 300


@pytest.mark.parametrize(
    "change",
    [
        {"fc.weight": torch.zeros(4, 8)},
        {"fc.weight": torch.zeros(3, 8, dtype=torch.bfloat16)},
        {"fc.weight": None},
        {"fc.more": torch.zeros(1)},
        {"bn1.num_batches_tracked": torch.zeros(1, dtype=torch.int64)},
    ],
    ids=["another shape", "another type", "missing", "one more", "another rank"],
)
def test_weights_that_do_not_fit_the_architecture_are_refused(change: dict[str, Tensor | None], path: Path) -> None:
    save_model(path, network(), CLASSES, SEE, {})
    weights, facts = read_sealed(path)
    weights = {name: value for name, value in {**weights, **change}.items() if value is not None}
    write_sealed(path, weights, facts)
    assert "has weights that do not fit its architecture" in refused(path)


def test_other_weights_under_the_same_digest_are_refused(path: Path) -> None:
    save_model(path, network(), CLASSES, SEE, {})
    weights, facts = read_sealed(path)
    weights["fc.bias"][0] += 1
    write_sealed(path, weights, facts)
    assert "holds other weights than those of its digest" in refused(path)


def test_a_checkpoint_is_no_model(path: Path) -> None:
    model = network()
    state = TrainState.begin(model, make_optimizer(model, "sgd", lr=0.1), Runtime(torch.device("cpu")))
    save_checkpoint(path, state, {})
    assert "is a checkpoint, from which training continues" in refused(path)


@pytest.mark.parametrize("place", [0, 50, 0.1, 0.5, 0.9, -1])
def test_a_damaged_file_is_refused(place: float, path: Path) -> None:
    save_model(path, network(), CLASSES, SEE, {})
    content = bytearray(path.read_bytes())
    content[int(place * len(content)) if isinstance(place, float) else place] ^= 4
    path.write_bytes(content)
    assert "damaged" in refused(path)


def test_a_missing_file_is_explained(path: Path) -> None:
    assert "could not read" in refused(path)
