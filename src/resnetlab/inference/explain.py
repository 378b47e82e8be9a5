"""Explain the predictions of a model file: the places in an image that are evidence for a class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnetlab.errors import NonFinite
from resnetlab.inference.model_file import Model
from resnetlab.interpret.grad_cam import CamStage, cam_stage, grad_cam
from resnetlab.interpret.occlusion import Patches, occlusion, rank_correlation
from resnetlab.runtime import isolated

SAME = 6  # decimals; drops that differ less are rounding errors of fp32, and have the same rank


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence for one class in one image, by two methods.

    `grad_cam` (S, S) is the map of Grad-CAM, in [0, 1], zero everywhere if there is no evidence for the class. `drops`
    (G, G) are the drops of the class's probability when a patch of the image is covered, in the rows and columns of
    `Patches.starts`. `agreement` is Spearman's rank correlation of the drops and the means of the map in the same
    patches; None if either has equal values only.
    """

    name: str
    index: int
    probability: float
    grad_cam: NDArray[np.float32]
    drops: NDArray[np.float64]
    agreement: float | None


@dataclass(frozen=True, eq=False)
class ImageEvidence:
    """One image as the network gets it, uint8 (S, S, C), and the evidence for its top classes.

    `stage` is the stage whose output Grad-CAM uses, `patches` are those of the occlusion, and `features` (C,) is the
    input of the network's last layer.
    """

    pixels: NDArray[np.uint8]
    classes: tuple[Evidence, ...]
    stage: CamStage
    patches: Patches
    features: NDArray[np.float32]


def grad_cam_map(model: Model, pixels: NDArray[np.uint8], class_index: int) -> NDArray[np.float32]:
    """Compute the Grad-CAM map (image_size, image_size), in [0, 1], of one class and one image.

    `pixels` (H, W, C), uint8, are as `Classifier.pixels` returns them. The map belongs to the central `image_size` ×
    `image_size` of them, which is what the network gets: `model.preprocessing.center_crop`. It is zero everywhere if
    there is no evidence for the class. `cam_stage` names the stage that the map is from.

    Several threads may call it with one model at once.
    """
    device = model.network.fc.weight.device
    with isolated(device):
        images = model.preprocessing.normalize(torch.from_numpy(pixels)[None].to(device))
        return np.asarray(grad_cam(model.network, images, torch.tensor([class_index], device=device))[0])


def find_evidence(model: Model, pixels: NDArray[np.uint8], top_k: int = 3) -> ImageEvidence:
    """Find the evidence for the `top_k` most probable classes in one image, in fp32 on the device of the network.

    `pixels` (H, W, C), uint8, are as `Classifier.pixels` returns them. Several threads may call it with one model at
    once. Raises NonFinite if the network's output is not finite.
    """
    device, size = model.network.fc.weight.device, model.preprocessing.image_size
    with isolated(device):
        stored = torch.from_numpy(pixels)[None]
        images = model.preprocessing.normalize(stored.to(device))
        with torch.inference_mode():
            features = model.network.features(images)
        probabilities = class_probabilities(model, images)[0]
        top = probabilities.argsort(descending=True, stable=True)[:top_k]
        maps = grad_cam(model.network, images, top[None].to(device))[0]
        patches = Patches.for_size(size)
        drops = occlusion(partial(class_probabilities, model), images[0], patches)
    found = []
    for index, heat in zip(top.tolist(), maps, strict=True):
        agreement = rank_correlation(patches.means(heat), drops[..., index].round(SAME))
        name, probability = model.classes[index], float(probabilities[index])
        found.append(Evidence(name, index, probability, heat, drops[..., index], agreement))
    seen = model.preprocessing.center_crop(stored)[0].numpy()
    stage = cam_stage(model.network, size)
    return ImageEvidence(seen, tuple(found), stage, patches, features[0].float().cpu().numpy())


@torch.inference_mode()
def class_probabilities(model: Model, images: Tensor) -> Tensor:
    """Compute the probabilities (N, classes), float64 on the CPU, of normalised images (N, C, H, W).

    They are those of a `Classifier` in fp32. Raises NonFinite if the network's output is not finite.
    """
    logits: Tensor = model.network(images).float().cpu()
    if not logits.isfinite().all():
        raise NonFinite("the output of the network is NaN or infinite, so there is no prediction")
    temperature = 1.0 if model.validation is None else model.validation.temperature
    return (logits.double() / temperature).softmax(1)
