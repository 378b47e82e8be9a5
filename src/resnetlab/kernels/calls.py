"""Conditions under which a kernel may be called, and helpers to call one.

A kernel reads memory through pointers, so the conditions are checked at every call. If a tensor or module does not
satisfy them, torch's implementation is used.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from operator import is_

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module

from resnetlab.kernels.library import library

LANES = 16  # channels in one vector register
GLOBAL_HOOKS = (
    torch_module._global_forward_hooks,
    torch_module._global_forward_pre_hooks,
    torch_module._global_backward_hooks,
    torch_module._global_backward_pre_hooks,
)
# Torch's own functions, as they are at import. If one of them is replaced later, the replacement is called, and no
# kernel is used in its place.
REPLACED_KINDS = (nn.BatchNorm2d, nn.Conv2d, nn.Identity, nn.MaxPool2d, nn.ReLU, nn.Sequential)
REPLACED: tuple[tuple[object, str], ...] = (
    *((nn.Module, name) for name in ("__call__", "_call_impl", "_wrapped_call_impl")),
    *((kind, name) for kind in REPLACED_KINDS for name in ("__call__", "forward")),
    (nn.Conv2d, "_conv_forward"),
    *((F, name) for name in ("batch_norm", "conv2d", "max_pool2d", "relu")),
)
OWNERS, NAMES = zip(*REPLACED, strict=True)
ORIGINALS = tuple(map(getattr, OWNERS, NAMES))
PLAIN_TENSORS = (Tensor, nn.Parameter)
KERNEL_TYPES = (torch.bfloat16, torch.float32, torch.uint8)


def kernels() -> ctypes.CDLL:
    """The compiled library, after `is_supported` has found one."""
    found = library()
    assert found is not None
    return found


def has_kernels() -> bool:
    """True where the compiled library exists."""
    return library() is not None


def is_eager() -> bool:
    """True where operations run as they are called: no compiler, tracer, functorch transform or mode is active."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
    )


def is_original() -> bool:
    """True where none of torch's functions that a kernel takes the place of has been replaced."""
    return all(map(is_, map(getattr, OWNERS, NAMES), ORIGINALS))


def is_autocast() -> bool:
    """True where torch would compute a convolution on the CPU in bfloat16."""
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def is_bfloat16(maps: Tensor) -> bool:
    """True for maps (N, C, H, W) that are not empty, in bfloat16, in the CPU's memory, outside of any tracing."""
    return (
        type(maps) is Tensor  # not a proxy, a fake tensor or a subclass
        and maps.dtype is torch.bfloat16
        and maps.is_cpu
        and maps.layout is torch.strided
        and maps.ndim == 4
        and maps.numel() > 0
        and is_eager()
        and torch._C._has_storage(maps)  # a batch of torch.vmap has none
    )


def is_supported(maps: Tensor) -> bool:
    """True if the compiled kernels support these maps: bfloat16, and a multiple of 16 channels."""
    return is_bfloat16(maps) and maps.shape[1] % LANES == 0 and has_kernels()


def are_float32(tensors: Sequence[Tensor | None], length: int) -> bool:
    """True for contiguous float32 vectors of this length in the CPU's memory, which kernels read as `float *`."""
    for t in tensors:  # a loop, as below: these functions run a hundred times per step, and a generator takes longer
        if not (
            t is not None
            and type(t) in PLAIN_TENSORS
            and t.dtype is torch.float32
            and t.is_cpu
            and t.shape == (length,)
            and t.is_contiguous()
        ):
            return False
    return True


def has_no_hooks(*modules: nn.Module) -> bool:
    """True if no hook observes or replaces the inputs and outputs of these modules, and `forward` is their class's."""
    for module in modules:
        if (
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
            or "forward" in module.__dict__
            or module._compiled_call_impl is not None
        ):
            return False
    return not any(GLOBAL_HOOKS) and is_original()


def is_exactly(kind: type[nn.Module], *modules: nn.Module) -> bool:
    """True for unchanged modules of exactly this class without hooks, which a kernel may compute in their place."""
    for module in modules:
        if type(module) is not kind:
            return False
    return has_no_hooks(*modules)


@cache
def has_pair_products() -> bool:
    """True if the kernels that multiply pairs of bfloat16 exist, and those for AMX tiles, which are faster, do not."""
    return has_kernels() and bool(kernels().blocks_there()) and not torch.cpu.get_capabilities().get("amx_bf16", False)


@cache
def has_float_products() -> bool:
    """True if the kernels for inference in float32 exist."""
    return has_kernels() and bool(kernels().floats_there())


@cache
def has_tiles() -> bool:
    """True if the kernels that multiply tiles of bfloat16 matrices (AMX) exist."""
    return has_kernels() and bool(kernels().tiles_there())


def channels_last(maps: Tensor) -> Tensor:
    """The maps (N, C, H, W) in channels_last memory format; copied only if they have another one."""
    return maps.contiguous(memory_format=torch.channels_last)


def empty_maps(like: Tensor, images: int, channels: int, height: int, width: int) -> Tensor:
    """Uninitialised maps (images, channels, height, width) in channels_last, in the dtype of `like`.

    They are no view of another tensor: torch refuses operations in place, such as a ReLU's, on a view that an autograd
    function returns.
    """
    shape = (images, channels, height, width)
    return torch.empty(shape, dtype=like.dtype, device="cpu", memory_format=torch.channels_last)


def address(tensor: Tensor | None) -> int | None:
    """The pointer to a tensor's memory."""
    return None if tensor is None else tensor.data_ptr()


def check(failed: int) -> None:
    """Raise MemoryError if a kernel reports that it could not allocate memory."""
    if failed:
        raise MemoryError("no memory for the sums of a kernel")


def convolution_gradients_by_torch(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, is_needed: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of maps x (N, C, H, W) and of the kernels of a 3x3 convolution with padding 1, where needed."""
    settings = ([stride] * 2, [1, 1], [1, 1], False, [0, 0], 1)  # stride, padding, dilation, ..., groups
    kernel, needed = weight.to(x.dtype), [is_needed[0], is_needed[1], False]
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(grad, x, kernel, None, *settings, needed)
    return [grad_x, None if grad_weight is None else grad_weight.to(weight.dtype)]


def convolve_by_torch(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """A 3x3 convolution with padding 1 by torch, in the dtype of x."""
    return F.conv2d(x, weight.to(x.dtype), stride=stride, padding=1)


def can_run_backward(*tensors: Tensor | None) -> bool:
    """True where a kernel may read these gradients and saved tensors, and no gradient of its result is wanted.

    The backward pass can run under another mode than the forward pass, and hooks can change what was saved.
    """
    if torch.is_grad_enabled() or not is_eager():
        return False
    for t in tensors:
        if t is not None and not (
            type(t) in PLAIN_TENSORS
            and t.dtype in KERNEL_TYPES
            and t.is_cpu
            and t.layout is torch.strided
            and torch._C._has_storage(t)
        ):
            return False
    return True


def gradients_by_torch(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    is_needed: Sequence[bool],
    grad: Tensor,
) -> list[Tensor | None]:
    """The gradients of `function(*inputs)` from torch's operations, which can be differentiated again and traced.

    None for an input that needs no gradient.
    """
    if not any(needed and given is not None for given, needed in zip(inputs, is_needed, strict=True)):
        return [None for _ in inputs]
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, because one input may depend on another: only the direct dependence is wanted.
        views = [None if given is None else given.view_as(given) for given in inputs]
        wanted = [view for view, needed in zip(views, is_needed, strict=True) if needed and view is not None]
        found = iter(torch.autograd.grad(function(*views), wanted, grad, create_graph=again))
    return [next(found) if needed and view is not None else None for view, needed in zip(views, is_needed, strict=True)]
