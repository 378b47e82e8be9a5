"""Batch norm, addition and ReLU in one kernel: as exact as torch's modules, measured against float64."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from resnetlab.kernels import library as native
from resnetlab.kernels.batch_norm import bn, bn_add_relu, bn_relu, is_fusible

needs_kernels = pytest.mark.skipif(native.library() is None, reason=f"no kernels: {native.unavailable_reason()}")
SHAPES = [(2, 16, 3, 5), (3, 48, 7, 7), (128, 16, 16, 16), (64, 64, 8, 8), (5, 512, 1, 1), (2, 80, 4, 4)]


def maps(shape: tuple[int, ...], seed: int, *, mean: float = 0.0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + mean
    return values.bfloat16().to(memory_format=torch.channels_last)


def a_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    draw = torch.Generator().manual_seed(channels)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2, generator=draw)
        norm.bias.uniform_(-1, 1, generator=draw)
    return norm


def run(norm: nn.BatchNorm2d, x: Tensor, shortcut: Tensor | None, grad: Tensor, kind: str) -> dict[str, Tensor]:
    """Outputs and gradients of one pass; a kind that ends in "twice" gives both tensors of the pair a gradient."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    shortcut = None if shortcut is None else shortcut.detach().clone().requires_grad_()
    if kind == "alone":
        y = second = bn(norm, x)
    elif shortcut is None:
        y, second = bn_relu(norm, nn.ReLU(), x)
    else:
        y, second = bn_add_relu(norm, nn.ReLU(), x, shortcut)
    if kind.endswith("twice"):
        torch.autograd.backward([y, second], [grad.to(y.dtype), grad.flip(0).to(y.dtype)])
    else:
        y.backward(grad.to(y.dtype))
    assert x.grad is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    found = {"y": y.detach(), "x": x.grad, "mean": norm.running_mean, "variance": norm.running_var}
    found |= {name: p.grad for name, p in norm.named_parameters() if p.grad is not None}
    return found if shortcut is None or shortcut.grad is None else found | {"shortcut": shortcut.grad}


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["alone", "relu", "relu, twice", "add", "add, twice"])
def test_as_close_to_float64_as_the_modules(shape: tuple[int, ...], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    norm, x, grad = a_norm(shape[1]), maps(shape, 1, mean=3), maps(shape, 3)
    shortcut = maps(shape, 2) if kind.startswith("add") else None
    ours = run(copy.deepcopy(norm), x, shortcut, grad, kind)
    widened = None if shortcut is None else shortcut.double()
    truth = run(copy.deepcopy(norm).double(), x.double(), widened, grad.double(), kind)
    monkeypatch.setattr("resnetlab.kernels.calls.library", lambda: None)
    modules = run(copy.deepcopy(norm), x, shortcut, grad, kind)
    assert ours.keys() == truth.keys() == modules.keys()
    for name, exact in truth.items():

        def error(values: Tensor, exact: Tensor = exact) -> float:
            return float((values.double() - exact).norm() / exact.norm().clamp_min(1e-12))

        assert error(ours[name]) <= 1.1 * error(modules[name]) + 1e-3, name
    assert ours["y"].is_contiguous(memory_format=torch.channels_last)


@needs_kernels
def test_the_variance_is_exact_for_a_large_mean() -> None:
    norm, x = a_norm(16), (maps((64, 16, 8, 8), 1).float() + 200).bfloat16().to(memory_format=torch.channels_last)
    bn_relu(norm, nn.ReLU(), x)
    assert norm.running_var is not None
    truth = 0.9 + 0.1 * x.double().var((0, 2, 3))
    torch.testing.assert_close(norm.running_var.double(), truth, rtol=1e-5, atol=0)


@needs_kernels
def test_the_bits_do_not_depend_on_the_threads() -> None:
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            shape = (128, 64, 16, 16)
            found.append(run(a_norm(64), maps(shape, 1), maps(shape, 2), maps(shape, 3), "add"))
    finally:
        torch.set_num_threads(before)
    for first, second in itertools.pairwise(found):
        assert all(torch.equal(first[name], second[name]) for name in first)


@needs_kernels
def test_a_pair_is_the_same_memory_with_two_gradients() -> None:
    x = maps((4, 16, 4, 4), 1).requires_grad_()
    y, second = bn_relu(a_norm(16), nn.ReLU(), x)
    assert second is not y
    assert second.data_ptr() == y.data_ptr()
    (through_second,) = torch.autograd.grad(second, x, torch.ones_like(y), retain_graph=True)
    (through_y,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert torch.equal(through_second, through_y)


@needs_kernels
def test_nan_and_infinity_propagate() -> None:
    for bad in (float("nan"), float("inf")):
        x = maps((4, 16, 2, 2), 1)
        x[0, 3, 0, 0] = bad
        y, _ = bn_relu(a_norm(16), nn.ReLU(), x)
        assert y[:, 3].isnan().any()
        assert y[:, :3].isfinite().all()
        assert y[:, 4:].isfinite().all()


@needs_kernels
def test_batches_are_counted() -> None:
    norm = a_norm(16)
    bn_relu(norm, nn.ReLU(), maps((4, 16, 2, 2), 1))
    assert norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == 1


@needs_kernels
def test_only_torchs_own_norm_in_training_is_fusible() -> None:
    x = maps((4, 16, 4, 4), 1)
    assert is_fusible(a_norm(16), x)
    assert not is_fusible(a_norm(16).eval(), x)
    assert not is_fusible(a_norm(16), x.float())
    assert not is_fusible(a_norm(24), maps((4, 24, 4, 4), 1))
    assert not is_fusible(nn.BatchNorm2d(16, affine=False), x)
    assert not is_fusible(nn.BatchNorm2d(16, momentum=None), x)
    assert not is_fusible(nn.Identity(), x)
    assert not is_fusible(a_norm(16).bfloat16(), x)  # the kernel reads its parameters as float32
    assert not is_fusible(a_norm(16), x[:0])
    assert not is_fusible(a_norm(16), x[:1, :, :1, :1])  # one value per channel
    assert not is_fusible(a_norm(32), x)
    assert not is_fusible(type("Norm", (nn.BatchNorm2d,), {})(16), x)
    strided = a_norm(16)
    strided.weight = nn.Parameter(torch.ones(32)[::2])
    assert not is_fusible(strided, x)
    patched = a_norm(16)
    patched.forward = lambda maps: maps  # type: ignore[method-assign]
    assert not is_fusible(patched, x)
    hooked = a_norm(16)
    hooked.register_forward_hook(lambda *_: None)
    assert not is_fusible(hooked, x)
