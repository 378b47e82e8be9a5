"""What every call of a kernel has in common: which tensors and modules they take, and how these are handed over."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor, nn

from resnetlab.kernels.library import library

LANES = 16  # the kernels take channels in vectors of so many


def kernels() -> ctypes.CDLL:
    """The library, where `takes` has said that there is one."""
    found = library()
    assert found is not None
    return found


def takes(maps: Tensor) -> bool:
    """Whether there are kernels for these maps: bfloat16, on the CPU, (N, C, H, W) with C a multiple of 16."""
    return (
        isinstance(maps, Tensor)  # and not what stands for one while a graph is traced
        and maps.dtype == torch.bfloat16
        and maps.device.type == "cpu"
        and maps.ndim == 4
        and maps.shape[1] % LANES == 0
        and not torch.compiler.is_compiling()
        and library() is not None
    )


@cache
def multiply_pairs() -> bool:
    """Whether the kernels that multiply pairs of bfloat16 are there, and no tiles (AMX), which are faster."""
    return bool(kernels().blocks_there()) and not torch.cpu.get_capabilities().get("amx_bf16", False)


@cache
def multiply_tiles() -> bool:
    """Whether the kernels that multiply whole tiles of bfloat16 matrices (AMX) are there."""
    return bool(kernels().tiles_there())


def is_bare(module: nn.Module) -> bool:
    """Nobody listens to this module's inputs and outputs."""
    return not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def laid_out(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def check(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for the sums of a kernel")
