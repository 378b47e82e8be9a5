"""Colour jitter of whole batches: brightness, contrast, saturation and hue, each with a random number for each image.

The formulas are those of torchvision's `adjust_brightness`, `adjust_contrast`, `adjust_saturation` and `adjust_hue`.
Values are rounded, where torchvision cuts off the fraction. Images are uint8 (N, H, W, C); each function needs 1 random
number per image. Sums are taken over integers, so that they do not depend on the order of addition.
"""

from __future__ import annotations

import torch
from torch import Tensor

GREY = (0.2989, 0.587, 0.114)  # weights of red, green and blue


def brightness(images: Tensor, uniform: Tensor, strength: float) -> Tensor:
    """Multiply the pixels by a factor between 1 - `strength` (at least 0) and 1 + `strength`.

    >>> brightness(torch.full((1, 1, 1, 1), 100, dtype=torch.uint8), torch.tensor([[0.75]]), strength=0.4).item()
    120
    """
    return to_bytes(images.float().mul_(factors(uniform, strength)))


def contrast(images: Tensor, uniform: Tensor, strength: float) -> Tensor:
    """Scale the distance of the pixels from the mean grey of their image."""
    return blend(images, mean_greys(images), factors(uniform, strength))


def saturation(images: Tensor, uniform: Tensor, strength: float) -> Tensor:
    """Scale the distance of the colours from their grey. Images must be RGB."""
    return blend(images, greys(images), factors(uniform, strength))


def hue(images: Tensor, uniform: Tensor, strength: float) -> Tensor:
    """Turn the hue by up to `strength` of the colour circle in either direction. Images must be RGB.

    Saturation and value of the HSV model stay.
    """
    turn = ((uniform * 2 - 1) * strength * 6).view(-1, 1, 1)
    red, green, blue = images.float().permute(3, 0, 1, 2).contiguous()  # every third number in turn takes twice as long
    value = torch.maximum(red, green).maximum(blue)
    chroma = value - torch.minimum(red, green).minimum(blue)
    divisor = chroma.clamp(min=1)  # a grey pixel has no hue, and its chroma of 0 removes whatever is computed here
    sector = torch.where(green == value, (blue - red).div_(divisor).add_(2), (red - green).div_(divisor).add_(4))
    sector = torch.where(red == value, (green - blue).div_(divisor), sector).add_(turn)
    sector.sub_((sector / 6).floor_(), alpha=6)  # modulo 6, in a third of the time of `remainder`
    less = [  # of the chroma that red, green and blue lack: the hue is 0 for red, 2 for green and 4 for blue
        2 - (sector - 3).abs_(),
        (sector - 2).abs_().sub_(1),
        (sector - 4).abs_().sub_(1),
    ]
    turned = torch.empty_like(images)
    for channel, part in enumerate(less):
        turned[..., channel] = to_bytes(torch.addcmul(value, chroma, part.clamp_(0, 1), value=-1))
    return turned


JITTER = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
"""The functions by their setting, in the order in which they are applied."""


def factors(uniform: Tensor, strength: float) -> Tensor:
    """Turn random numbers (N, 1) into factors (N, 1, 1, 1) between 1 - `strength`, at least 0, and 1 + `strength`."""
    least = max(0.0, 1 - strength)
    return (least + (1 + strength - least) * uniform).view(-1, 1, 1, 1)


def greys(images: Tensor) -> Tensor:
    """Return the grey of each pixel of RGB images, uint8 (N, H, W, 1); other images are returned as they are."""
    if images.shape[3] != 3:
        return images
    red, green, blue = (images[..., channel : channel + 1] * weight for channel, weight in enumerate(GREY))
    return red.add_(green).add_(blue).to(torch.int16).to(torch.uint8)


def mean_greys(images: Tensor) -> Tensor:
    """Return the mean grey of each image, float32 (N, 1, 1, 1)."""
    grey = greys(images)
    return (grey.flatten(1).sum(1).float() / grey[0].numel()).view(-1, 1, 1, 1)


def blend(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    """Mix images with others: a factor of 1 gives the images, 0 the others, more than 1 the opposite of the others."""
    return to_bytes(images.float().mul_(factor).add_(others * (1 - factor)))


def to_bytes(values: Tensor) -> Tensor:
    """Round values, which are overwritten: new memory for each step takes longer than the step.

    On a CPU, int16 on the way takes a third of the time.
    """
    return values.clamp_(0, 255).round_().to(torch.int16).to(torch.uint8)
