"""Muon: a step is equally long in every direction of a kernel; other parameters are updated as by torch's AdamW."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn, optim

from resnetlab.training.muon import Muon, orthogonalized
from resnetlab.training.optim import make_optimizer


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (16, 16), (1, 9)])
def test_singular_values_become_one_and_vectors_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = u.t() @ orthogonalized(matrix, 6) @ vh.t()
    values = found.diagonal()
    assert (values > 0.6).all()
    assert (values < 1.25).all()
    torch.testing.assert_close(found, values.diag(), atol=1e-4, rtol=0)


def a_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.LazyLinear(4))


def learn(net: nn.Module, optimizer: optim.Optimizer, steps: int) -> None:
    images = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), torch.arange(16) % 4).backward()
        optimizer.step()


def test_a_kernel_keeps_its_norm_but_for_the_last_step() -> None:
    net = a_net()
    net(torch.zeros(2, 3, 6, 6))
    learn(net, Muon(net.parameters(), lr=0.01), 5)
    assert float(net[0].weight.detach().norm()) == pytest.approx(8**0.5, rel=0.05)


def test_other_parameters_are_updated_as_by_adamw() -> None:
    net = a_net()
    net(torch.zeros(2, 3, 6, 6))
    other = copy.deepcopy(net)
    learn(net, Muon(net[3].parameters(), lr=0.1, lr_share=0.1, weight_decay=0.1), 4)
    learn(other, optim.AdamW(other[3].parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.1), 4)
    torch.testing.assert_close(net[3].weight, other[3].weight)


def test_it_learns() -> None:
    net = a_net()
    net(torch.zeros(2, 3, 6, 6))
    learn(net, make_optimizer(net, "muon", lr=0.05), 30)
    images = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    assert float(nn.functional.cross_entropy(net(images), torch.arange(16) % 4).detach()) < 0.1


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    net = a_net()
    net(torch.zeros(2, 3, 6, 6))
    optimizer = Muon(net.parameters(), lr=0.05)
    learn(net, optimizer, 2)
    before, memory = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
    optimizer.found_inf = torch.ones(())
    net[0].weight.grad = torch.full_like(net[0].weight, float("nan"))
    optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    for key, values in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, memory["state"][key][name]) for name, value in values.items())


def test_weight_decay_leaves_kernels_alone_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    plain = a_net()
    plain(torch.zeros(2, 3, 6, 6))
    decayed = copy.deepcopy(plain)
    learn(plain, make_optimizer(plain, "muon", lr=0.05), 1)
    assert not caplog.messages
    learn(decayed, make_optimizer(decayed, "muon", lr=0.05, weight_decay=0.5), 1)
    assert caplog.messages == ["weight decay is not applied to convolution kernels: Muon keeps their norm fixed"]
    assert torch.equal(plain[0].weight, decayed[0].weight)
    assert not torch.equal(plain[3].weight, decayed[3].weight)


def test_a_kernel_of_zeros_moves_and_stays_finite() -> None:
    """As the last convolution of a pre-activation unit starts with `zero_init`."""
    net = a_net()
    net(torch.zeros(2, 3, 6, 6))
    nn.init.zeros_(net[0].weight)
    learn(net, Muon(net.parameters(), lr=0.01), 3)
    assert net[0].weight.isfinite().all()
    assert net[0].weight.any()
