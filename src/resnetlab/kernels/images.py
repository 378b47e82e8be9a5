"""Bilinear samples, mirroring and normalisation of images of bytes, each by a C kernel in one pass over memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.kernels.calls import address, has_kernels, is_eager, kernels

LARGEST = 4096  # pixels and samples in a row, and 4 channels: two rows are held on the stack


def are_bytes(images: Tensor) -> bool:
    """True for images uint8 (N, H, W, C) that are not empty, in the CPU's memory, where there are kernels."""
    return (
        type(images) is Tensor  # not a proxy, a fake tensor or a subclass
        and images.dtype is torch.uint8
        and images.is_cpu
        and images.layout is torch.strided
        and images.ndim == 4
        and images.numel() > 0
        and is_eager()
        and has_kernels()
    )


def sample(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sample images uint8 (N, H, W, C) at columns `x` and rows `y`, float32 (N, size); uint8 (N, size, size, C).

    The places are those of `torch.nn.functional.grid_sample`, with padding "border" and without aligned corners: -1 and
    1 are the outer edges of an image.
    """
    size, channels = x.shape[1], images.shape[-1]
    is_small = max(images.shape[2], size) <= LARGEST and channels <= 4
    are_places = all(type(t) is Tensor and t.is_cpu and t.dtype is torch.float32 for t in (x, y))
    if not (is_small and are_places and are_bytes(images)) or x.requires_grad or y.requires_grad:
        return sample_by_torch(images, x, y)
    images, x, y = images.contiguous(), x.contiguous(), y.contiguous()
    out = images.new_empty((len(images), size, size, channels))
    kernels().crop_sample(*map(address, (images, x, y, out)), *images.shape, size)
    return out


def sample_by_torch(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sample images as `sample` does, by torch's operations."""
    size = x.shape[1]
    grid = torch.stack([x[:, None, :].expand(-1, size, size), y[:, :, None].expand(-1, size, size)], 3)
    pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)  # which is faster
    sampled = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.round_().to(torch.uint8).permute(0, 2, 3, 1)


def mirror(images: Tensor, chosen: Tensor) -> Tensor:
    """Return images uint8 (N, H, W, C), those left to right for which `chosen`, bool (N,), is true."""
    if not (are_bytes(images) and chosen.is_cpu):
        mask = chosen.to(torch.uint8).mul_(255)[:, None, None, None]
        return images ^ ((images ^ images.flip(2)) & mask)  # of bytes only: `torch.where` takes three times as long
    images, chosen = images.contiguous(), chosen.to(torch.uint8).contiguous()
    out = torch.empty_like(images)
    kernels().mirror_images(*map(address, (images, chosen, out)), *images.shape)
    return out


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Divide images uint8 (N, H, W, C) by 255, subtract `mean`, divide by `std`; float32 (N, C, H, W), channels_last.

    `mean` and `std` are float32 (W * C), on the device of the images: constants of the channels, repeated for each
    pixel of a row.
    """
    count, height, width, channels = images.shape
    if not (are_bytes(images) and images.stride()[2:] == (channels, 1) and mean.is_cpu):
        batch = images.to(torch.float32, memory_format=torch.contiguous_format)
        # Whole rows at a time: a loop over the three channels of each pixel takes five times as long.
        batch.flatten(2).div_(255).sub_(mean).div_(std)
        return batch.permute(0, 3, 1, 2)
    out = images.new_empty((count, height, width, channels), dtype=torch.float32)
    where = map(address, (images, mean, std, out))
    kernels().normalize_images(*where, count, height, width * channels, *images.stride()[:2])
    return out.permute(0, 3, 1, 2)
