"""Norm, addition and ReLU in one go: as exact as the modules, beside float64, and never where it must not be."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from resnetlab.kernels import library as native
from resnetlab.kernels.batch_norm import is_fusible, norm_add_relu, norm_alone, norm_relu, twin
from resnetlab.models import build_model

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
    """One pass forward and back; a kind that ends in "twice" has a second gradient come back through the twin."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    shortcut = None if shortcut is None else shortcut.detach().clone().requires_grad_()
    if kind == "alone":
        y = norm_alone(norm, x)
    elif shortcut is None:
        y = norm_relu(norm, nn.ReLU(), x)
    else:
        y = norm_add_relu(norm, nn.ReLU(), x, shortcut)
    if kind.endswith("twice"):
        torch.autograd.backward([y, twin(y)], [grad.to(y.dtype), grad.flip(0).to(y.dtype)])
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
def test_a_large_mean_does_not_eat_the_variance() -> None:
    norm, x = a_norm(16), (maps((64, 16, 8, 8), 1).float() + 200).bfloat16().to(memory_format=torch.channels_last)
    norm_relu(norm, nn.ReLU(), x)
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
def test_a_twin_is_the_same_memory_with_a_gradient_of_its_own() -> None:
    x = maps((4, 16, 4, 4), 1).requires_grad_()
    y = norm_relu(a_norm(16), nn.ReLU(), x)
    assert twin(y) is not y
    assert twin(y).data_ptr() == y.data_ptr()
    (through_twin,) = torch.autograd.grad(twin(y), x, torch.ones_like(y), retain_graph=True)
    (through_y,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert torch.equal(through_twin, through_y)
    assert twin(x) is x
    y.mul_(2)
    assert twin(y) is y
    with torch.inference_mode():
        y = norm_relu(a_norm(16), nn.ReLU(), x)
    assert twin(y) is y


@needs_kernels
def test_a_change_in_place_is_part_of_both_uses_gradient() -> None:
    def gradient(halve: Callable[[nn.Module, object, Tensor], Tensor]) -> Tensor:
        model = build_model("resnet20", 10).to(memory_format=torch.channels_last).train()
        model.maxpool.register_forward_hook(halve)  # between the stem and the first unit
        images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images.to(memory_format=torch.channels_last))
        nn.functional.cross_entropy(logits.float(), torch.arange(8)).backward()
        assert model.conv1.weight.grad is not None
        return model.conv1.weight.grad.flatten()

    new_maps, same_maps = gradient(lambda _, __, maps: maps * 0.5), gradient(lambda _, __, maps: maps.mul_(0.5))
    assert float((new_maps - same_maps).norm()) < 0.01 * float(new_maps.norm())


@needs_kernels
def test_nan_and_infinity_come_through() -> None:
    for bad in (float("nan"), float("inf")):
        x = maps((4, 16, 2, 2), 1)
        x[0, 3, 0, 0] = bad
        y = norm_relu(a_norm(16), nn.ReLU(), x)
        assert y[:, 3].isnan().any()
        assert y[:, :3].isfinite().all()
        assert y[:, 4:].isfinite().all()


@needs_kernels
def test_the_count_of_batches_goes_on() -> None:
    norm = a_norm(16)
    norm_relu(norm, nn.ReLU(), maps((4, 16, 2, 2), 1))
    assert norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == 1


@needs_kernels
def test_what_the_kernels_do_not_take_goes_through_the_modules() -> None:
    x = maps((4, 16, 4, 4), 1)
    assert is_fusible(a_norm(16), x)
    assert not is_fusible(a_norm(16).eval(), x)
    assert not is_fusible(a_norm(16), x.float())
    assert not is_fusible(a_norm(24), maps((4, 24, 4, 4), 1))
    assert not is_fusible(nn.BatchNorm2d(16, affine=False), x)
    assert not is_fusible(nn.BatchNorm2d(16, momentum=None), x)
    assert not is_fusible(nn.Identity(), x)
    hooked = a_norm(16)
    hooked.register_forward_hook(lambda *_: None)
    assert not is_fusible(hooked, x)


@needs_kernels
@pytest.mark.parametrize("name", ["resnet20", "plain20", "preact_resnet20", "resnet18"])
def test_networks_learn_the_same_with_and_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of a whole network beside float64: the kernels' gradient is as good as torch's."""

    def gradient(model: nn.Module, *, dtype: torch.dtype, half: bool) -> Tensor:
        model = copy.deepcopy(model).to(dtype=dtype, memory_format=torch.channels_last).train()
        images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model(images.to(memory_format=torch.channels_last))
        nn.functional.cross_entropy(logits.to(dtype), torch.arange(16) % 10).backward()
        return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])

    model = build_model(name, 10, image_size=32)
    truth = gradient(model, dtype=torch.float64, half=False)
    ours = gradient(model, dtype=torch.float32, half=True)
    monkeypatch.setattr("resnetlab.kernels.calls.library", lambda: None)
    theirs = gradient(model, dtype=torch.float32, half=True)
    assert float((ours - truth).norm()) <= 1.15 * float((theirs - truth).norm())


def test_without_a_compiler_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    native._library.cache_clear()
    native.library.cache_clear()
    try:
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.delenv("CC", raising=False)
        assert native.library() is None
        assert native.unavailable_reason()
        y = norm_relu(a_norm(16), nn.ReLU(), maps((4, 16, 2, 2), 1))
        assert y.dtype == torch.bfloat16
    finally:
        native._library.cache_clear()
        native.library.cache_clear()


@needs_kernels
def test_a_home_that_cannot_be_written_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    native._library.cache_clear()
    native.library.cache_clear()
    try:
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
        assert native.library() is not None
    finally:
        native._library.cache_clear()
        native.library.cache_clear()
