"""Test-time augmentation: the views of an image over which its probabilities are averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch.nn.functional as F
from torch import Tensor

from resnetlab.errors import BadInput

Views = Literal["none", "flip", "flip-shift"]
View: TypeAlias = Callable[[Tensor], Tensor]  # normalised images (N, C, H, W) to others of the same shape


def unchanged(images: Tensor) -> Tensor:
    return images


def mirrored(images: Tensor) -> Tensor:
    """Mirror left and right."""
    return images.flip(3)


def shifted(step: int) -> View:
    """Return a view that shifts images by `step` pixels (1 or -1) down and right, and mirrors at the border."""

    def shift(images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if min(height, width) < 2:
            raise BadInput(
                f"images of {width}x{height} px cannot be shifted by a pixel; use `tta='none'` or `tta='flip'`"
            )
        padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
        return padded[:, :, 1 - step : 1 - step + height, 1 - step : 1 - step + width]

    return shift


def both(view: View) -> tuple[View, View]:
    """A view and its mirror image."""
    return view, lambda images: mirrored(view(images))


VIEWS: dict[Views, tuple[View, ...]] = {
    "none": (unchanged,),
    "flip": both(unchanged),
    # The six of Keller Jordan's airbench (2024), which averages logits and lets the two centred views count twice.
    "flip-shift": (*both(unchanged), *both(shifted(-1)), *both(shifted(1))),
}
"""The views by name: the image; also its mirror image; also both, shifted by a pixel up left and down right."""
