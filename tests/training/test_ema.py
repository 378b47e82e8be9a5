"""The moving average equals torch's for everything that is a real number; counters are copied."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from resnetlab.models.build import build_model
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import Architecture
from resnetlab.training.ema import WeightAverage

TINY = Architecture("basic", (1, 1), width=8, stem="cifar")


def step(model: nn.Module, optimizer: optim.Optimizer, seed: int) -> None:
    """One step that moves every weight and every batch-norm statistic."""
    generator = torch.Generator().manual_seed(seed)
    loss = model(torch.randn(6, 3, 8, 8, generator=generator)).square().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def trained(decay: float, steps: int) -> tuple[ResNet, WeightAverage, AveragedModel]:
    model = build_model(TINY, 3)
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    average = WeightAverage(model, decay)
    oracle = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    oracle.update_parameters(model)  # its first update only copies; ours begins with a copy
    for number in range(steps):
        step(model, optimizer, number)
        average.update()
        oracle.update_parameters(model)
    return model, average, oracle


@pytest.mark.parametrize("decay", [0.1, 0.9, 0.999])
def test_the_average_equals_torchs(decay: float) -> None:
    model, average, oracle = trained(decay, steps=7)
    ours, theirs, last = average.model.state_dict(), oracle.module.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    floats = [name for name, value in ours.items() if value.is_floating_point()]
    assert any("running_var" in name for name in floats)
    for name in floats:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-7)
        assert torch.isfinite(ours[name]).all()
        assert not torch.equal(ours[name], last[name])


def test_counters_are_copied_not_averaged() -> None:
    model, average, _ = trained(0.9, steps=7)
    counters = {name: value for name, value in average.model.state_dict().items() if not value.is_floating_point()}
    assert counters
    for name, value in counters.items():
        assert value.item() == model.state_dict()[name].item() == 7, name


def test_a_decay_of_zero_is_the_very_same_network() -> None:
    model = build_model(TINY, 3)
    average = WeightAverage(model, 0.0)
    before = copy.deepcopy(model.state_dict())
    average.update()
    assert average.model is model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_average_is_no_part_of_the_network_it_follows() -> None:
    model, average, _ = trained(0.9, steps=1)
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    mine = {parameter.data_ptr() for parameter in average.model.parameters()}
    assert mine.isdisjoint(parameter.data_ptr() for parameter in model.parameters())


def test_the_average_keeps_its_memory_layout() -> None:
    model = build_model(TINY, 3).to(memory_format=torch.channels_last)
    average = WeightAverage(model, 0.5)
    average.update()
    for mine, theirs in zip(average.model.parameters(), model.parameters(), strict=True):
        assert mine.stride() == theirs.stride()
