"""The random changes of training images in words, for the log and the report."""

from __future__ import annotations

from resnetlab.runs.config import AugmentConfig


def augmentation_words(config: AugmentConfig) -> str:
    """Return what is done to the training images, in the order in which it is done.

    >>> augmentation_words(AugmentConfig(flip=True, resized_crop=0.35))
    'crops from 35 % of the area; mirrored at random'
    >>> augmentation_words(AugmentConfig(sizes=(160 / 224,))), augmentation_words(AugmentConfig())
    ('resized to 71.4 %', 'not changed')
    """
    jitter = {name: getattr(config, name) for name in ("brightness", "contrast", "saturation")}
    mixed = {"MixUp": config.mixup, "CutMix": config.cutmix}
    ways = " or ".join(f"{name} (alpha {alpha:g})" for name, alpha in mixed.items() if alpha)
    sizes = ", ".join(f"{100 * share:.3g}" for share in config.sizes)
    in_turn = " in turn" * (len(config.sizes) > 1)
    phrases: list[tuple[object, str]] = [
        (config.resized_crop, f"crops from {100 * config.resized_crop:g} % of the area"),
        (config.crop, f"shifted by up to {config.crop} px{BORDERS[config.crop_padding]}"),
        (config.flip, "mirrored in every second epoch" if config.alternate else "mirrored at random"),
        (config.policy == "trivial", "one random operation of random strength (TrivialAugment)"),
        (
            config.policy == "rand",
            f"{config.rand_ops} random operations of strength {config.rand_magnitude} of 30 (RandAugment)",
        ),
        (config.rotation, f"turned by up to {config.rotation:g} degrees"),
        *((strength, f"{name} changed by up to {100 * strength:g} %") for name, strength in jitter.items()),
        (config.hue, f"hue turned by up to {100 * config.hue:g} % of the colour circle"),
        (config.cutout, f"a square of {config.cutout} px blackened"),
        (config.erasing, f"a rectangle blackened in {100 * config.erasing:g} % of the images"),
        (ways, f"mixed in pairs by {ways}"),
        (any(share != 1 for share in config.sizes), f"resized to {sizes} %{in_turn}"),
    ]
    return "; ".join(phrase for is_on, phrase in phrases if is_on) or "not changed"


BORDERS = {"constant": "", "reflect": ", with mirrored borders"}
"""Phrases by the padding of a crop."""
