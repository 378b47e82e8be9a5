"""Pretrained weights load completely, adapted with a note, or are refused with exact lists and nothing changed."""

import os
import re
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from resnetlab.errors import BadInput
from resnetlab.models import pretrained
from resnetlab.models.build import build_model
from resnetlab.models.pretrained import load_pretrained


def weights_of(name="resnet20", num_classes=10, seed=1, **options):
    return build_model(name, num_classes, seed=seed, **options).state_dict()


def saved(content, folder, name="weights.pth"):
    torch.save(content, folder / name)
    return folder / name


def assert_equal(model, expected):
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def assert_refused(model, source, *sentences, **options):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(BadInput) as refusal:
        load_pretrained(model, source, **options)
    for sentence in sentences:
        assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert_equal(model, before)


def test_weights_of_torchvision_load_unchanged(tmp_path):
    with torch.random.fork_rng():
        theirs = torchvision.models.resnet18().state_dict()
    model = build_model("resnet18")
    assert load_pretrained(model, saved(theirs, tmp_path)) == []
    assert_equal(model, theirs)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
@pytest.mark.parametrize("prefixes", [("module.",), ("_orig_mod.",), ("module.", "_orig_mod."), ()])
def test_wrappers_and_prefixes_are_removed(tmp_path, wrapper, prefixes):
    weights, model = weights_of(), build_model("resnet20", 10)
    wrapped = {"epoch": 3, wrapper: {"".join(prefixes) + key: value for key, value in weights.items()}}
    assert load_pretrained(model, str(saved(wrapped, tmp_path))) == [f"stripped '{p}' from the keys" for p in prefixes]
    assert_equal(model, weights)


def test_safetensors_are_read_too(tmp_path):
    weights, model = weights_of(), build_model("resnet20", 10)
    save_file(weights, tmp_path / "a.safetensors")
    assert load_pretrained(model, tmp_path / "a.safetensors") == []
    assert_equal(model, weights)


def test_another_number_of_classes_keeps_the_new_head(tmp_path):
    weights, model = weights_of(num_classes=1000), build_model("resnet20", 10)
    fresh = {key: value.clone() for key, value in model.fc.state_dict(prefix="fc.").items()}
    notes = load_pretrained(model, saved(weights, tmp_path))
    assert notes == ["new head: the weights have 1000 classes, the model has 10"]
    assert_equal(model, weights | fresh)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_adapted_weights_respond_to_grey_images_as_to_rgb(tmp_path, channels):
    weights, model = weights_of(), build_model("resnet20", 10, in_channels=channels)
    (note,) = load_pretrained(model, saved(weights, tmp_path))
    assert note.startswith(f"{channels} input channel")
    rgb, adapted = weights["conv1.weight"], model.conv1.weight
    if channels == 1:
        assert torch.equal(adapted, rgb.sum(1, keepdim=True))
    for channel in range(channels if channels > 1 else 0):
        assert torch.equal(adapted[:, channel], rgb[:, channel % 3] * (3 / channels))
    if channels in (1, 6):
        torch.testing.assert_close(adapted.sum(1), rgb.sum(1))


def test_weights_without_batch_counters_load(tmp_path):
    weights, model = weights_of(), build_model("resnet20", 10)
    model.bn1.num_batches_tracked += 5
    old = {key: value for key, value in weights.items() if "num_batches" not in key}
    assert load_pretrained(model, saved(old, tmp_path)) == [
        "the weights contain no batch counters of the batch norms: they start at 0"
    ]
    assert_equal(model, weights)


def test_weights_that_do_not_fit_are_refused_with_the_exact_lists(tmp_path):
    weights = weights_of()
    del weights["bn1.weight"], weights["fc.bias"]
    weights["layer1.0.conv1.weight"] = torch.zeros(16, 8, 3, 3)
    weights["bn1.bias"] = torch.zeros(16, dtype=torch.int64)
    weights |= {"extra.weight": torch.zeros(1), "extra\nbias": torch.zeros(1)}
    assert_refused(
        build_model("resnet20", 10),
        saved(weights, tmp_path),
        "do not fit this model, and nothing was loaded; 2 missing: bn1.weight, fc.bias; "
        "2 unexpected: extra.weight, extra\\nbias; "
        "1 of another shape: layer1.0.conv1.weight (16, 8, 3, 3) for (16, 16, 3, 3); "
        "1 of another kind: bn1.bias torch.int64 for torch.float32",
    )


def test_another_architecture_is_refused_with_the_first_keys_and_their_number(tmp_path):
    weights, model = weights_of("resnet32"), build_model("resnet20", 10)
    extra = [key for key in weights if key not in model.state_dict()]
    shown = f"{len(extra)} unexpected: {', '.join(extra[:5])} and {len(extra) - 5} more"
    assert_refused(model, saved(weights, tmp_path), shown)


def test_weights_for_the_other_stem_get_a_hint(tmp_path):
    weights = weights_of("resnet18", stem="imagenet")
    shapes = "1 of another shape: conv1.weight (64, 3, 7, 7) for (64, 3, 3, 3)"
    assert_refused(build_model("resnet18", 10, stem="cifar"), saved(weights, tmp_path), "the other stem?", shapes)


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_pickle_is_never_run(tmp_path):
    source = saved(weights_of() | {"fc.bias": Payload(tmp_path / "marker")}, tmp_path)
    assert_refused(build_model("resnet20", 10), source, "contains Python objects beside tensors, which are never run")
    assert not (tmp_path / "marker").exists()
    torch.load(source, weights_only=False)  # the payload works where it is allowed
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("damage", [b"", b"not weights", None])
def test_a_damaged_file_is_refused(tmp_path, ending, damage):
    source = tmp_path / f"weights.{ending}"
    if ending == "pth":
        torch.save(weights_of(), source)
    else:
        save_file(weights_of(), source)
    source.write_bytes(source.read_bytes()[:10_000] if damage is None else damage)
    assert_refused(build_model("resnet20", 10), source, f"{source} cannot be read as weights")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (torch.zeros(3), "contains no state dict but Tensor"),
        ({}, "contains no state dict"),
        ({"model": 3}, "contains no state dict but int"),
        (
            {"fc.bias": torch.zeros(10), "epoch": 3, "note": "x"},
            "contains more than plain tensors: epoch (int), note (str)",
        ),
        ({3: torch.zeros(10)}, "contains more than plain tensors: 3 (Tensor)"),
        ({"fc.bias": torch.zeros(10, device="meta")}, "contains more than plain tensors: fc.bias (Tensor)"),
    ],
)
def test_anything_but_tensors_by_name_is_refused(tmp_path, content, sentence):
    assert_refused(build_model("resnet20", 10), saved(content, tmp_path), sentence)


def test_a_missing_file_or_one_of_another_kind_is_refused(tmp_path):
    assert_refused(build_model("resnet20", 10), tmp_path / "none.pth", "file not found: ", "'torchvision'")
    assert_refused(build_model("resnet20", 10), "torchvison", "file not found: torchvison;")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.pth")
        assert_refused(build_model("resnet20", 10), tmp_path / "pipe.pth", "pipe.pth is a pipe or a device")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert_refused(build_model("resnet20", 10), tmp_path / "photo.png", "not a file that torch.save or safetensors")


def test_a_model_without_torchvision_weights_is_refused_with_those_that_have_them():
    for model in (build_model("resnet20", 10), build_model(build_model("resnet20", 10).architecture, 10)):
        assert_refused(
            model, "torchvision", "torchvision has no weights for", "resnet18, resnet34, resnet50, resnet101"
        )


def test_the_default_weights_of_torchvision_have_digests_in_their_names():
    for name in ("resnet18", "wide_resnet101_2", "resnext101_32x8d"):
        address = pretrained.torchvision_address(name)
        assert re.search(r"-[0-9a-f]{8}\.pth$", address)
        assert address == torchvision.models.get_model_weights(name).DEFAULT.url


def test_the_error_for_a_broken_torchvision_has_the_repair_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision.models", None)
    assert_refused(build_model("resnet18"), "torchvision", "cannot be imported beside torch", "pip install")
