"""Explain predictions: evidence for the top classes in each image, and the most similar training images."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, overload

from resnetlab.data.image_paths import find_images
from resnetlab.errors import BadInput, printable
from resnetlab.files import as_text
from resnetlab.inference.explain import Evidence, ImageEvidence, find_evidence
from resnetlab.inference.model_file import Model, read_model
from resnetlab.inference.predict import Classifier, ImageLike, is_one_image, readable
from resnetlab.inference.sources import Run, model_path
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.log import LOGGER
from resnetlab.runs.scoring_data import run_of
from resnetlab.runs.similar_images import ComparedImages, Progress, SimilarImage, compared_images
from resnetlab.runtime import isolated, start

Source = str | os.PathLike[str] | Run | Classifier
TOP_K, SIMILAR = 3, 5  # classes and similar images of each image, where nothing else is asked for
MOST = 100  # similar images


@dataclass(frozen=True, eq=False)
class Explanation(ImageEvidence):
    """The explanation of one image.

    `pixels` (S, S, C), uint8, is the image as the network gets it, after resizing and cropping. `visible` are the
    shares of the width and the height of the image that are left, always the central ones. `classes` has the evidence
    for each of the top classes. `similar` are the most similar images, the most similar first; it is empty where there
    are none to compare with.
    """

    visible: tuple[float, float]
    similar: tuple[SimilarImage, ...]

    @property
    def predicted(self) -> str:
        """The most probable class."""
        return self.classes[0].name

    @property
    def probability(self) -> float:
        """The probability of the most probable class."""
        return self.classes[0].probability

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON values: maps as means in the patches of the occlusion, names made printable."""
        return {
            "predicted": self.predicted,
            "probability": self.probability,
            "image_size": self.patches.image_size,
            "visible": {"width": self.visible[0], "height": self.visible[1]},
            "grad_cam": {"stage": self.stage.name, "size": self.stage.size, "last_size": self.stage.last_size},
            "occlusion": {
                "patch": self.patches.side,
                "stride": self.patches.stride,
                "starts": list(self.patches.starts),
            },
            "classes": [self._of_class(evidence) for evidence in self.classes],
            "similar": [
                {"file": printable(one.name), "label": one.label or None, "similarity": one.similarity}
                for one in self.similar
            ],
        }

    def _of_class(self, evidence: Evidence) -> dict[str, Any]:
        return {
            "name": evidence.name,
            "probability": evidence.probability,
            "grad_cam": self.patches.means(evidence.grad_cam).tolist(),
            "drops": evidence.drops.tolist(),
            "rank_correlation": evidence.agreement,
        }


class Explainer:
    """Explains images with one model; the arguments are those of `explain`.

    `compared` are the images that similar ones are looked for in; None if there are none, for the reason in `notes`.
    """

    def __init__(
        self,
        source: Source,
        *,
        top_k: int | None = None,
        data: str | os.PathLike[str] | None = None,
        similar: int = SIMILAR,
        device: str = "auto",
        progress: Progress = lambda _done, _total: None,
    ) -> None:
        """Read the model, and read or compute the features of the images to compare with. Raises BadInput.

        `progress` is called while features are computed, with the numbers of images that are done and of all images.
        """
        model, run = opened(source)
        data = None if data is None else as_text(data, "data")
        classes = len(model.classes)
        top_k = min(TOP_K, classes) if top_k is None else top_k
        if type(top_k) is not int or not 1 <= top_k <= classes:
            raise BadInput(
                f"`top_k` is {printable(top_k)}, but must be 1 to {classes}, the number of the model's classes"
            )
        if type(similar) is not int or not 0 <= similar <= MOST:
            raise BadInput(f"`similar` is {printable(similar)}, but must be a whole number, 0 to {MOST}")
        runtime = start(source.runtime.device if isinstance(source, Classifier) else device, "fp32")
        self.model = replace(model, network=runtime.place(copy.deepcopy(model.network)).eval())
        self.top_k, self.similar = top_k, similar
        self.compared: ComparedImages | None = None
        self.notes: tuple[str, ...] = ()
        if not similar:
            return
        try:
            self.compared = compared_images(self.model, run, data, progress)
            self.notes = self.compared.notes
        except BadInput as error:
            if data is not None:
                raise
            self.notes = (f"similar images are left out: {error}",)

    def __call__(self, image: ImageLike) -> Explanation:
        """Explain one image. Raises BadInput if it cannot be read, NonFinite if the output is not finite."""
        preprocessing = self.model.preprocessing
        decoded = preprocessing.decode(readable(image, preprocessing.channels))
        size = decoded.shape[1::-1] if hasattr(decoded, "shape") else decoded.size
        found = find_evidence(self.model, preprocessing.resize(decoded), self.top_k)
        similar = self.compared.most_similar(found.features, self.similar) if self.compared else ()
        return Explanation(**vars(found), visible=preprocessing.visible_share(*size), similar=similar)


@overload
def explain(
    source: Source,
    images: str | os.PathLike[str],
    *,
    top_k: int | None = ...,
    data: str | os.PathLike[str] | None = ...,
    similar: int = ...,
    device: str = ...,
) -> Any: ...  # of a folder, a list
@overload
def explain(  # type: ignore[overload-overlap]  # bytes are iterable
    source: Source,
    images: ImageLike,
    *,
    top_k: int | None = ...,
    data: str | os.PathLike[str] | None = ...,
    similar: int = ...,
    device: str = ...,
) -> Explanation: ...
@overload
def explain(
    source: Source,
    images: Iterable[ImageLike],
    *,
    top_k: int | None = ...,
    data: str | os.PathLike[str] | None = ...,
    similar: int = ...,
    device: str = ...,
) -> list[Explanation]: ...
@isolated(gradients=True)
def explain(
    source: Source,
    images: ImageLike | Iterable[ImageLike],
    *,
    top_k: int | None = None,
    data: str | os.PathLike[str] | None = None,
    similar: int = SIMILAR,
    device: str = "auto",
) -> Explanation | list[Explanation]:
    """Explain the predictions of a model for one image, or for each image of an iterable, in its order.

    `source` is a run, its folder or name, a model file, or a `Classifier`. Images have the forms that a `Classifier`
    accepts; of a folder, all images in it and below it are explained, as a list. For the `top_k` most probable classes
    (default: 3, or all if there are fewer) an `Explanation` has two maps of the evidence: Grad-CAM, and the drop of the
    probability when a patch is covered, with their rank correlation. It also has the `similar` most similar training
    images of the run by the cosine similarity of their features, with their labels; 0 leaves them out. If `data` is
    given, a folder, a manifest or a named data set, the images are compared with all of its images instead.

    The network computes in fp32. The features of the training images are computed once and kept in the folder of the
    run. Where the training images cannot be used, as for a model file alone, `similar` is empty and the reason is
    logged.

    Raises BadInput if the model, an image or `data` cannot be read; NonFinite if the network's output is not finite.

    >>> explanation = explain("runs/folder-001", "cat.jpg")  # doctest: +SKIP
    >>> explanation.classes[0].grad_cam.shape  # doctest: +SKIP
    (224, 224)
    """
    explainer = Explainer(source, top_k=top_k, data=data, similar=similar, device=device)
    for note in explainer.notes:
        LOGGER.warning(note)
    if isinstance(images, str | os.PathLike) and os.path.isdir(images):  # noqa: PTH112 - Path raises for "\0"
        images = find_images(os.fspath(images)).files
    several: Iterable[Any] = [images] if (is_one := is_one_image(images)) else images  # type: ignore[assignment]
    if not isinstance(several, Iterable) or isinstance(several, Mapping):
        raise BadInput(f"{type(images).__name__} is not an image; give an image, or several of them in a list")
    found = [explainer(image) for image in several]
    return found[0] if is_one else found


def opened(source: Source) -> tuple[Model, RunFolder | None]:
    """The model of a source, and its run if it has one."""
    if isinstance(source, Classifier):
        return source.model, None
    path = model_path(source)
    return read_model(path), run_of(path)
