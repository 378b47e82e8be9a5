"""MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019): each training image is mixed with another one.

The partner of an image is the next one in the order of the epoch; the partner of the last one is the first. Weights and
boxes are drawn for each image. So a mixed image depends on seed, epoch and order only, not on the size of the batches,
and not on the batch in which training was resumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.data.augment import to_integers
from resnetlab.data.random import RandomTables


@dataclass(frozen=True)
class Mixing:
    """Mix images by MixUp, by CutMix, or, if both are on, each image in one of the two ways with probability 1/2.

    `mixup` and `cutmix` are the alpha of the distribution Beta(alpha, alpha), from which the weight of an image is
    drawn; 0 is off. One of them must be on. `classes` is the number of classes.
    """

    classes: int
    mixup: float = 0.0
    cutmix: float = 0.0

    def draw(self, tables: RandomTables) -> Tensor:
        """Return random numbers for each sample, float32 (samples, 4).

        They are 1 for MixUp and 0 for CutMix, the weight of the image, and the centre of the box, down and across.
        """
        weights = {name: tables.beta(name, alpha) for name in ("mixup", "cutmix") if (alpha := getattr(self, name))}
        if len(weights) == 2:
            by_mixup = tables.uniform("mixup or cutmix", 1) < 0.5
        else:
            by_mixup = torch.full((tables.samples, 1), bool(self.mixup))
        weight = torch.where(by_mixup, weights.get("mixup", 0.0), weights.get("cutmix", 0.0))
        return torch.cat([by_mixup.float(), weight, tables.uniform("cutmix box", 2)], 1)

    def apply(self, images: Tensor, labels: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Mix each image but the last with the one after it.

        Images are (N + 1, C, H, W), labels (N + 1,), `numbers` the rows (N, 4) of `draw`. Returns images (N, C, H, W)
        and the share of each class in them, float32 (N, classes), whose rows have the sum 1.
        """
        by_mixup, weight = numbers[:, 0] == 1, numbers[:, 1]
        box = boxes(weight, numbers[:, 2:], images.shape[2], images.shape[3])
        kept = torch.where(by_mixup[:, None, None], weight[:, None, None], 1 - box.float())  # of each pixel
        share = torch.where(by_mixup, weight, 1 - box.flatten(1).sum(1).float() / box[0].numel())[:, None]
        own, other = F.one_hot(labels, self.classes).float().unfold(0, 2, 1).unbind(2)
        return torch.lerp(images[1:], images[:-1], kept[:, None]), torch.lerp(other, own, share)


def boxes(weight: Tensor, centre: Tensor, height: int, width: int) -> Tensor:
    """Return the pixels that CutMix takes from the other image, bool (N, H, W).

    A box has the shape of the image and 1 - `weight` (N,) of its area, less what lies outside. `centre` (N, 2) are
    uniform random numbers, down and across. As in torchvision, half a side is rounded down to whole pixels.
    """
    half = 0.5 * (1 - weight).sqrt()
    inside = []
    for column, length in enumerate((height, width)):
        middle, reach = to_integers(centre[:, column], length), (half * length).long()
        place = torch.arange(length, device=weight.device)
        inside.append((place >= (middle - reach)[:, None]) & (place < (middle + reach)[:, None]))
    return inside[0][:, :, None] & inside[1][:, None, :]
