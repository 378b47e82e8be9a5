"""The C kernels for tensors, compiled once per machine; without a compiler, torch's implementation is used.

They are compiled for the installed version of torch, with whose OpenMP they run. Compiling takes about two seconds.
"""

from __future__ import annotations

import ctypes
from functools import cache

import torch

from resnetlab.kernels.compiler import Sources, built, refusal

SOURCES = ("norms.c", "pools.c", "winograd.c", "blocks.c", "floats.c", "tiles.c", "stems.c", "images.c", "vectors.h")
# No -ffast-math: NaN must stay NaN. Contraction into fused multiply-adds is the compiler's default here.
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC")


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None if they are unavailable (see `unavailable_reason`)."""
    return _library()[0]


def unavailable_reason() -> str:
    """Return the reason why there are no compiled kernels; an empty string if there are."""
    return _library()[1]


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    if not refusal() and not hasattr(ctypes.CDLL(None), "GOMP_parallel"):
        return None, "this torch brings no GNU OpenMP"  # a second OpenMP would compete for the cores
    return built(Sources("kernels", SOURCES, FLAGS, declared, torch.__version__))


def declared(kernels: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the C functions' argument types; AttributeError if one of the functions is missing."""
    pointer, count, number, yes = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
    kernels.norm_forward.argtypes = [*[pointer] * 3, count, count, *[pointer] * 4, number, number, yes, pointer]
    kernels.norm_backward.argtypes = [*[pointer] * 4, count, count, pointer, yes, *[pointer] * 4]
    kernels.pool_forward.argtypes = [pointer, pointer, *[count] * 4]
    kernels.pool_backward.argtypes = [*[pointer] * 3, *[count] * 4]
    kernels.winograd_input.argtypes = [pointer, pointer, *[count] * 3]
    kernels.winograd_spread.argtypes = [pointer, pointer, *[count] * 3]
    kernels.winograd_kernels_back.argtypes = [pointer, pointer, count, count]
    kernels.stem_convolve.argtypes = [*[pointer] * 3, *[count] * 5]
    kernels.crop_sample.argtypes = [*[pointer] * 4, *[count] * 5]
    kernels.mirror_images.argtypes = [*[pointer] * 3, *[count] * 4]
    kernels.normalize_images.argtypes = [*[pointer] * 4, *[count] * 5]
    if kernels.blocks_there():
        kernels.blocks_pack.argtypes = [pointer, pointer, count, count, yes]
        kernels.blocks_convolve.argtypes = [*[pointer] * 5, *[count] * 4, yes]
        kernels.blocks_weights.argtypes = [*[pointer] * 3, *[count] * 4]
    if kernels.floats_there():
        kernels.floats_pack.argtypes = [pointer, pointer, count, count]
        kernels.floats_convolve.argtypes = [*[pointer] * 5, *[count] * 4, yes, count]
    if kernels.tiles_there():
        kernels.tiles_packed.argtypes, kernels.tiles_packed.restype = [count, count], count
        kernels.tiles_pack.argtypes = [pointer, pointer, count, count, yes]
        kernels.tiles_convolve.argtypes = [*[pointer] * 5, *[count] * 4]
        kernels.tiles_weights.argtypes = [*[pointer] * 4, *[count] * 5]
    return kernels
