"""The costs of a network: rows that sum up, the paper's shapes, and a warning where an image is too small."""

import pytest
import torch
from torch import nn

from resnetlab.models.build import build_model
from resnetlab.models.summary import count_macs, describe, idle_weights, table, warnings_for
from resnetlab.models.zoo import ARCHITECTURES


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "resnet20", "preact_resnet18", "plain34"])
def test_rows_sum_up_to_the_totals(name):
    model = build_model(name, 10, image_size=32)
    rows = describe(name, 32, num_classes=10)
    assert sum(row.params for row in rows) == sum(parameter.numel() for parameter in model.parameters())
    assert sum(row.macs for row in rows) == count_macs(model, 32)
    assert [row.stage for row in rows] == ["stem", *(f"layer{i + 1}" for i in range(len(model.stages))), "head"]


def test_shapes_are_those_of_table_1():
    shapes = [row.shape for row in describe("resnet50", 224)]
    assert shapes == [(64, 56, 56), (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7), (1000,)]


def test_shapes_are_those_that_really_come_out():
    model, shapes = build_model("preact_resnet18", 5, in_channels=1, image_size=48).eval(), []
    for module in (model.maxpool, *model.stages, model.fc):
        module.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    model(torch.zeros(1, 1, 48, 48))
    assert [row.shape for row in describe("preact_resnet18", 48, num_classes=5, in_channels=1)] == shapes


def test_counting_changes_nothing():
    model = build_model("resnet20", 10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    count_macs(model, 32)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.slow
def test_the_table_has_every_net_at_its_papers_size():
    rows = {row.name: row for row in table()}
    assert list(rows) == list(ARCHITECTURES)
    assert (rows["resnet20"].image_size, rows["resnet20"].num_classes, rows["resnet20"].params) == (32, 10, 269722)
    assert (rows["resnet34"].image_size, rows["resnet34"].num_classes, rows["resnet34"].depth) == (224, 1000, 34)
    assert rows["resnet34"].macs == pytest.approx(3.6e9, rel=0.02)  # Table 1


def test_the_table_can_be_had_at_one_size(monkeypatch):
    zoo = {name: ARCHITECTURES[name] for name in ("resnet34", "resnet20", "preact_resnet18")}
    monkeypatch.setattr("resnetlab.models.summary.ARCHITECTURES", zoo)
    rows = {row.name: row for row in table(32)}
    assert list(rows) == list(zoo)
    assert {row.image_size for row in rows.values()} == {32}
    assert rows["resnet34"].macs == sum(row.macs for row in describe("resnet34", 32))


def test_idle_weights_are_those_without_any_gradient():
    for side in (1, 2, 3):
        for stride in (1, 2):
            conv = nn.Conv2d(2, 3, 3, stride, padding=1, bias=False)
            conv(torch.ones(1, 2, side, side)).sum().backward()
            assert idle_weights(conv, side, side) == (conv.weight.grad == 0).sum().item()


def test_idle_weights_of_the_notebook_net_get_no_gradient():
    """A ResNet-34 with the 7x7 stem at 32 px, as the classic tutorial has it."""
    model = build_model("resnet34", 10, stem="imagenet")
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(model(images), torch.arange(16) % 10).backward()
    row = describe("resnet34", 32, stem="imagenet")[-2]
    kernels = [p.grad for p in model.layer4.parameters() if p.shape[2:] == (3, 3)]
    dead = sum((kernel == 0).all(dim=0).all(dim=0).sum().item() * kernel[:, :, 0, 0].numel() for kernel in kernels)
    assert row.shape == (512, 1, 1)
    assert row.idle == dead == 11141120


def test_small_images_get_a_sentence():
    (warning,) = warnings_for("resnet34", 32, stem="imagenet")
    assert "the maps in layer4 of resnet34 are 1×1" in warning
    assert "11.1 of the network's 21.8 million weights (51%) are never used; use the cifar stem" in warning
    assert "4×4 maps" in warning
    (warning,) = warnings_for("resnet18", 8)
    assert "use images of 16 px or more and the cifar stem" in warning


@pytest.mark.parametrize(("name", "size", "stem"), [("resnet34", 224, "auto"), ("resnet34", 32, "auto")])
def test_fitting_images_get_none(name, size, stem):
    assert warnings_for(name, size, stem=stem) == []
