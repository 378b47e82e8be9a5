"""Our max pooling beside torch's, forward and backward, to the bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.kernels.pooling import max_pool2x2


def pooled(x: Tensor, *, ours: bool) -> tuple[Tensor, Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = max_pool2x2(x) if ours else F.max_pool2d(x, 2)
    y.backward(torch.arange(y.numel(), dtype=y.dtype).view_as(y))
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize("shape", [(3, 16, 2, 2), (2, 32, 7, 5), (5, 64, 8, 9), (1, 16, 3, 2), (4, 48, 31, 31)])
@pytest.mark.parametrize("levels", [3, 1000])  # few levels: many ties
def test_equals_torch(shape: tuple[int, ...], levels: int) -> None:
    x = torch.randint(levels, shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = x.to(memory_format=torch.channels_last)
    for mine, theirs in zip(pooled(x, ours=True), pooled(x, ours=False), strict=True):
        assert torch.equal(mine, theirs)


def test_nan_propagates() -> None:
    x = torch.zeros(1, 16, 2, 2).bfloat16()
    x[0, :, 1, 0] = float("nan")
    assert max_pool2x2(x).isnan().all()


def test_other_maps_are_left_to_torch() -> None:
    x = torch.randn(2, 5, 6, 6)
    assert torch.equal(max_pool2x2(x), F.max_pool2d(x, 2))
