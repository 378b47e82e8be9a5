"""Weights of other programs become a model file with the same logits, or are refused with nothing written."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from resnetlab import load
from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput
from resnetlab.files import read_sealed, write_sealed
from resnetlab.inference import importing
from resnetlab.inference.importing import Imported, import_model
from resnetlab.inference.model_file import save_model
from resnetlab.models import build_model
from resnetlab.models.pretrained import load_pretrained

NAMES = ["cat", "dog", "bird, blue"]
PIXELS: dict[str, Any] = {"image_size": 32, "mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.3), "fit": "squash"}


class TheirBlock(nn.Module):
    """The unit of akamaster/pytorch_resnet_cifar10 (option A) and of kuangliu/pytorch-cifar (option B)."""

    def __init__(self, before: int, channels: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.pad = channels // 4 if before != channels and option == "A" else 0
        self.shortcut = nn.Sequential()
        if before != channels and option == "B":
            self.shortcut = nn.Sequential(nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        same = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad)) if self.pad else self.shortcut(x)
        return F.relu(out + same)


class TheirResNet20(nn.Module):
    def __init__(self, option: str, classes: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = (16, 16, 32, 64)
        for stage in (1, 2, 3):
            first = TheirBlock(widths[stage - 1], widths[stage], 1 if stage == 1 else 2, option)
            rest = [TheirBlock(widths[stage], widths[stage], 1, option) for _ in range(2)]
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(out, out.size()[3]).flatten(1))


def randomized(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with random weights and random running statistics, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight.data, 0.5), (module.running_var, 0.5), (module.running_mean, -0.5)):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
            module.bias.data.copy_(torch.rand(module.bias.shape, generator=generator) - 0.5)
    return network.eval()


@pytest.fixture(scope="module")
def theirs() -> dict[str, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return {option: randomized(TheirResNet20(option)) for option in "AB"}


def logits_agree(imported: Imported, network: nn.Module, size: int = 32) -> None:
    """The logits of the model file are those of their network, from the same pixels."""
    classifier = load(imported.path, "cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    mean, std = (torch.tensor(PIXELS[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        expected = network((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std)
    assert expected.std() > 0.01
    torch.testing.assert_close(classifier.logits(pixels), expected, rtol=1e-4, atol=1e-4)


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def prefixed(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in weights.items()}


Weights = dict[str, Tensor]
SHAPES: dict[str, Callable[[Weights], object]] = {
    "plain.pth": lambda weights: weights,
    "old.pth.tar": lambda weights: {"epoch": 3, "arch": "resnet20", "state_dict": prefixed(weights, "module.")},
    "best.th": lambda weights: {"state_dict": prefixed(weights, "module."), "best_prec1": 91.7},
    "kuangliu.pth": lambda weights: {"net": prefixed(weights, "module."), "acc": 95.0, "epoch": 199},
    "lightning.ckpt": lambda weights: {
        "state_dict": prefixed(weights, "model."),
        "pytorch-lightning_version": "2.4.0",
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1}]}],
    },
    "nested.ckpt": lambda weights: {"state_dict": prefixed(weights, "model._orig_mod.net.")},
    "backbone.pt": lambda weights: {
        "model_state_dict": {
            (f"head.{key.removeprefix('linear.')}" if key.startswith("linear.") else f"backbone.{key}"): value
            for key, value in weights.items()
        }
    },
    "dropout.pth": lambda weights: {key.replace("linear.", "fc.1."): value for key, value in weights.items()},
    "pytorch_model.bin": lambda weights: {key.replace("shortcut", "downsample"): v for key, v in weights.items()},
    "unknown-wrapper.pt": lambda weights: {"generator": weights, "options": {"size": 3}},
    "compiled.pt": lambda weights: {"model": {"state_dict": prefixed(weights, "_orig_mod.module.")}},
}


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_that_people_publish_gives_the_same_logits(name, theirs, tmp_path):
    path = saved(SHAPES[name](theirs["B"].state_dict()), tmp_path / name)
    imported = import_model(path, tmp_path / "out.safetensors", classes=NAMES, **PIXELS)
    assert imported.model.network.name == "resnet20"
    assert imported.model.network.architecture.shortcut == "B"
    assert imported.model.classes == tuple(NAMES)
    logits_agree(imported, theirs["B"])


@pytest.mark.parametrize("old", [False, True])
def test_pickles_of_both_formats_and_safetensors_are_read_whatever_their_ending(theirs, tmp_path, old):
    weights = theirs["B"].state_dict()
    torch.save(weights, tmp_path / "a.weights", _use_new_zipfile_serialization=not old)
    save_file(weights, tmp_path / "a.bin")
    for name in ("a.weights", "a.bin"):
        out = tmp_path / f"{name}.safetensors"
        logits_agree(import_model(tmp_path / name, out, classes=NAMES, **PIXELS), theirs["B"])


def test_shortcuts_that_pad_on_both_sides_compute_the_same_function(theirs, tmp_path):
    path = saved({"state_dict": prefixed(theirs["A"].state_dict(), "module.")}, tmp_path / "resnet20.th")
    imported = import_model(path, tmp_path / "out.safetensors", classes=NAMES, model="resnet20", **PIXELS)
    assert any("add zeros on both sides" in note for note in imported.notes)
    logits_agree(imported, theirs["A"])
    network = build_model("resnet20", 3).eval()
    load_pretrained(network, path)
    assert torch.equal(network.fc.weight, imported.model.network.fc.weight)


def test_our_own_weights_keep_their_order_of_channels(tmp_path):
    network = randomized(build_model("resnet20", 3))
    path = saved(network.state_dict(), tmp_path / "ours.pth")
    imported = import_model(path, tmp_path / "out.safetensors", classes=NAMES, model="resnet20", **PIXELS)
    logits_agree(imported, network)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("resnet18", lambda: torchvision.models.resnet18(num_classes=3)),
        pytest.param(
            "resnext50_32x4d",
            lambda: torchvision.models.resnext50_32x4d(num_classes=3),
            marks=pytest.mark.slow,
        ),
        pytest.param("resnet50", lambda: timm.create_model("resnet50", num_classes=3), marks=pytest.mark.slow),
    ],
)
def test_networks_of_torchvision_and_timm_are_recognised_and_give_the_same_logits(name, build, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = randomized(build())
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    imported = import_model(tmp_path / "model.safetensors", tmp_path / "out.safetensors", classes=NAMES, **PIXELS)
    assert imported.model.network.name == name
    assert imported.model.network.architecture.stem == "imagenet"
    logits_agree(imported, network)


def in_words_of_transformers(key: str) -> str:
    """A key of torchvision's basic networks as transformers has it."""
    first, *rest = key.split(".")
    if first in ("conv1", "bn1"):
        return ".".join(
            ["resnet.embedder.embedder", "convolution" if first == "conv1" else "normalization", *rest],
        )
    if first == "fc":
        return ".".join(["classifier.1", *rest])
    unit, part, *rest = rest
    begin = f"resnet.encoder.stages.{int(first[-1]) - 1}.layers.{unit}"
    if part == "downsample":
        return ".".join([begin, "shortcut", ("convolution", "normalization")[int(rest[0])], *rest[1:]])
    kind = "convolution" if part.startswith("conv") else "normalization"
    return ".".join([begin, "layer", str(int(part[-1]) - 1), kind, *rest])


def in_words_of_weiaicunzai(key: str) -> str:
    first, *rest = key.split(".")
    if first in ("conv1", "bn1"):
        return ".".join(["conv1", "0" if first == "conv1" else "1", *rest])
    if first == "fc":
        return key
    unit, part, *rest = rest
    begin = f"conv{int(first[-1]) + 1}_x.{unit}"
    if part == "downsample":
        return ".".join([begin, "shortcut", *rest])
    place = 3 * (int(part[-1]) - 1) + (part[:2] == "bn")
    return ".".join([begin, "residual_function", str(place), *rest])


@pytest.mark.parametrize("words", [in_words_of_transformers, in_words_of_weiaicunzai])
def test_names_of_other_families_are_translated(words, theirs, tmp_path):
    weights = {
        words(key.replace("shortcut", "downsample").replace("linear", "fc")): value
        for key, value in theirs["B"].state_dict().items()
    }
    imported = import_model(saved(weights, tmp_path / "a.bin"), tmp_path / "o.safetensors", classes=NAMES, **PIXELS)
    logits_agree(imported, theirs["B"])


def test_averaged_weights_are_preferred_and_the_choice_is_reported(theirs, tmp_path):
    other = {key: torch.zeros_like(value) for key, value in theirs["B"].state_dict().items()}
    path = saved({"state_dict": other, "state_dict_ema": theirs["B"].state_dict()}, tmp_path / "last.pth.tar")
    imported = import_model(path, tmp_path / "out.safetensors", classes=NAMES, **PIXELS)
    assert "took the weights in 'state_dict_ema'; the file also has state_dict" in imported.notes
    logits_agree(imported, theirs["B"])


def test_half_precision_is_converted_and_reported(theirs, tmp_path):
    weights = {k: v.half() if v.is_floating_point() else v for k, v in theirs["B"].state_dict().items()}
    imported = import_model(saved(weights, tmp_path / "h.pth"), tmp_path / "o.safetensors", classes=NAMES, **PIXELS)
    assert "converted torch.float16 to torch.float32" in imported.notes
    assert {p.dtype for p in imported.model.network.parameters()} == {torch.float32}


def refused(path: Path, *parts: str, **options: Any) -> None:
    """The import is refused in one sentence that contains the parts, and writes nothing."""
    out = path.with_name("refused.safetensors")
    with pytest.raises(BadInput) as refusal:
        import_model(path, out, **{"classes": NAMES, **PIXELS, **options})
    for part in parts:
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not out.exists()


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("old", [False, True])
def test_a_file_with_python_objects_is_refused_by_their_class_and_nothing_runs(old, theirs, tmp_path):
    weights = theirs["B"].state_dict()
    objects = {
        "Namespace of argparse": {"args": argparse.Namespace(lr=0.1), "state_dict": weights},
        "TheirResNet20 of": theirs["B"],
        "system of posix": {"state_dict": weights, "hook": Payload(tmp_path / "marker")},
        "SGD of torch.optim.sgd": {"optimizer": torch.optim.SGD([torch.zeros(1)]), "state_dict": weights},
    }
    for name, content in objects.items():
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
        refused(tmp_path / "a.pth", f"which are never run: {name}", "torch.save(model.state_dict(), 'weights.pth')")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pickles_that_torch_does_not_read_are_refused_with_the_reason_and_no_warning(
    protocol, theirs, tmp_path, recwarn
):
    weights, path = theirs["B"].state_dict(), tmp_path / "a.pth"
    torch.save(weights, path, pickle_protocol=protocol)
    if protocol == 3:
        import_model(path, tmp_path / "a.safetensors", classes=NAMES, **PIXELS)
    else:
        refused(path, "it has protocol 4 or 5", "torch.save(model.state_dict(), 'weights.pth')")
    torch.save({"state_dict": weights, "hook": Payload(tmp_path / "marker")}, path, pickle_protocol=protocol)
    refused(path, "Python objects beside tensors, which are never run")
    assert not (tmp_path / "marker").exists()
    assert not recwarn.list


def test_a_file_of_ours_is_refused_with_the_sentence_of_its_kind(tmp_path):
    """Imported, a damaged model file or one of a later version would lose what its digest and version protect."""
    own = tmp_path / "own.safetensors"
    save_model(own, build_model("resnet20", 3), NAMES, Preprocessing(**PIXELS, resize_to=32, channels=3), {})
    content = own.read_bytes()
    for place in (0, 60, len(content) // 2, len(content) - 1):
        own.write_bytes(bytes([*content[:place], content[place] ^ 1]) + content[place + 1 :])
        refused(own, "use another copy")
    own.write_bytes(content)
    weights, facts = read_sealed(own)
    for name in ("own.safetensors", "renamed.pth"):
        write_sealed(tmp_path / name, weights, facts | {"format_version": 9})
        refused(tmp_path / name, "was written by a later version")
        write_sealed(tmp_path / name, weights, facts | {"format": "resnetlab-checkpoint"})
        refused(tmp_path / name, "is a checkpoint", "best.safetensors")
    write_sealed(own, weights, {"format": "resnetlab-weights"})  # of a module that `fit` trained
    assert import_model(own, tmp_path / "new", model="resnet20", classes=NAMES, **PIXELS).model.classes == tuple(NAMES)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_a_torchscript_archive_is_refused_as_a_program(tmp_path):
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "is a TorchScript archive, a program")


def test_what_cannot_be_imported_is_refused_by_name(theirs, tmp_path):
    weights = theirs["B"].state_dict()
    path = tmp_path / "a.pth"
    saved({**weights, "criterion.weight": torch.ones(3)}, path)
    refused(path, "nothing was loaded; 1 unexpected: criterion.weight", model="resnet20")
    refused(path, "nothing was loaded (nearest: resnet20); 1 unexpected: criterion.weight")
    refused(saved(weights, path), "do not fit this model", "they fit resnet20", "missing: ", model="resnet18")
    refused(saved({**prefixed(weights, "a."), **prefixed(weights, "b.")}, path), "contains several networks (a., b.)")
    refused(saved({"G": weights, "D": weights}, path), "contains several sets of weights (G, D)")
    refused(saved({"state_dict": weights, "x": 3}, path), "unknown model 'resnet21'", "resnet20", model="resnet21")
    refused(saved(theirs["A"].state_dict(), path), "resnet20 or plain20")
    refused(saved({"a": torch.zeros(3)}, path), "fit no network of `resnetlab models`")
    refused(saved({**weights, "linear.bias": torch.full((3,), torch.nan)}, path), "NaN or infinite: fc.bias")
    refused(saved(weights, path), "conv1.weight (16, 3, 3, 3) for (16, 3, 7, 7)", stem="imagenet")
    refused(saved(weights, path), "has 3 outputs, but there are 2 class names", classes=["a", "b"])
    refused(saved(weights, path), "is not known; give the image size, `mean`", image_size=None, mean=None)
    refused(path, "fit is 'stretch'", fit="stretch")
    refused(path, "mean is (127, 127, 127)", mean=(127, 127, 127))
    refused(path, "mean is 0.5", mean=0.5)
    refused(path, "mean is ('a', 'b', 'c')", mean="abc")
    refused(tmp_path / "none.pth", "file not found: ", "give the path of a file with weights")
    loop: dict[str, object] = {}
    loop["model"] = loop
    refused(saved(loop, path), "more than plain tensors: model (dict)")
    import_model(saved(weights, path), tmp_path / "own.safetensors", classes=NAMES, **PIXELS)
    refused(tmp_path / "own.safetensors", "is a model file of resnetlab already")
    with pytest.raises(BadInput, match=r"own.safetensors exists; give another `out`"):
        import_model(path, tmp_path / "own.safetensors", classes=NAMES, **PIXELS)


def test_the_preprocessing_beside_a_file_of_timm_is_taken_and_reported(theirs, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(theirs["B"].state_dict(), path)
    cfg = {"input_size": [3, 40, 40], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "crop_pct": 0.8}
    config = {"label_names": NAMES, "pretrained_cfg": {**cfg, "interpolation": "bicubic"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    imported = import_model(path, tmp_path / "o.safetensors", classes=tmp_path / "config.json", std=(0.5, 0.5, 0.5))
    pixels = imported.model.preprocessing
    assert (pixels.image_size, pixels.resize_to, pixels.mean, pixels.std) == (40, 50, (0.1, 0.2, 0.3), (0.5,) * 3)
    assert "image_size, resize_to, mean, fit: from config.json beside the file" in imported.notes[-2]
    assert "not bicubic" in imported.notes[-2]
    assert imported.model.classes == tuple(NAMES)
    assert "borders" not in imported.notes[-2]
    config["pretrained_cfg"]["crop_mode"] = "border"
    (tmp_path / "config.json").write_text(json.dumps(config))
    imported = import_model(path, tmp_path / "padded.safetensors", classes=NAMES)
    assert imported.model.preprocessing.fit == "pad"
    assert any("borders are black here, those of timm have the mean colour" in note for note in imported.notes)


@pytest.mark.parametrize(
    "cfg",
    [
        {"input_size": 3},
        {"mean": "abc"},
        {"mean": None},
        {"crop_pct": 0},
        {"crop_pct": 1e-320},
        {"crop_pct": float("nan")},
        {"crop_mode": []},
        [],
    ],
)
def test_a_damaged_config_beside_the_file_tells_nothing(cfg, tmp_path):
    sound = {"input_size": [3, 40, 40], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    written = {**sound, **cfg} if isinstance(cfg, dict) else cfg
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": written}))
    (tmp_path / "model.safetensors").touch()
    assert importing.known_preprocessing(tmp_path / "model.safetensors") == ({}, "")


def test_official_weights_of_torchvision_bring_their_preprocessing(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "sha256", lambda path: "11ad3fa6" + "0" * 56)
    known, source = importing.known_preprocessing(tmp_path / "resnet50-11ad3fa6.pth")
    assert known == {
        "image_size": 224,
        "resize_to": 232,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "fit": "crop",
    }
    assert "ResNet50_Weights.IMAGENET1K_V2" in source
    assert importing.known_preprocessing(tmp_path / "resnet50-22222222.pth") == ({}, "")
    assert len(importing.class_names("imagenet")) == 1000


def test_the_command_lists_what_it_did_and_evaluate_scores_the_file(theirs, command, tmp_path):
    saved({"net": prefixed(theirs["B"].state_dict(), "module.")}, tmp_path / "ckpt.pth")
    (tmp_path / "names.txt").write_text("\ufeffcat\r\ndog\r\nbird, blue\r\n\r\n")
    words = ("import", "ckpt.pth", "--classes", "names.txt", "--image-size", 32)
    assert "give --mean, --std, as in its training" in command.refuse(*words)
    assert "--classes" in command.refuse("import", "ckpt.pth")
    code, out, _ = command(*words, "--mean", 0.5, 0.5, 0.5, "--std", 0.2, 0.2, 0.2)
    assert code == 0
    for line in (
        "stripped 'module.' from the keys",
        "renamed layer2.0.shortcut.0.weight to layer2.0.downsample.0.weight, and 11 more like it",
        "assumed: a 3x3 stem of stride 1, without pooling",
        "network  resnet20: cifar stem, shortcuts B, 272,",
        "score it with: resnetlab evaluate resnet20.safetensors --data FOLDER",
    ):
        assert line in out
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 32, 32, 3), dtype=np.uint8)
    for name, pictures in zip(NAMES, images, strict=True):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number, picture in enumerate(pictures):
            torchvision.transforms.functional.to_pil_image(picture).save(tmp_path / f"photos/{name}/{number}.png")
    code, out, _ = command("evaluate", "resnet20.safetensors", "--data", "photos")
    assert code == 0
    assert "all 6 images of photos are scored" in out
