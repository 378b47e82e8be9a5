"""Images to compare others with by their features: the training images of a run, or those of another data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnetlab.data.classes import counted
from resnetlab.data.digests import names_digest
from resnetlab.data.loaders import EvalBatches
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.reading import BadImages
from resnetlab.data.shard_list import is_shards
from resnetlab.data.sources import is_named
from resnetlab.data.splits import Split
from resnetlab.data.stored import Images, images_of
from resnetlab.data.stores import Storage, bytes_of
from resnetlab.data.tree import walk
from resnetlab.errors import BadInput, Damaged, DiskTrouble, printable
from resnetlab.evaluation.evaluate import evaluating
from resnetlab.files import read_sealed, write_sealed
from resnetlab.inference.model_file import Model
from resnetlab.interpret.similarity import most_similar, unit_vectors
from resnetlab.runs.build import EVAL_BATCH, open_data
from resnetlab.runs.config import DataConfig
from resnetlab.runs.evaluation_files import make_folder
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.log import LOGGER
from resnetlab.runs.saved_data import has_moved_to, images_in, is_elsewhere, moved_to, open_saved, stored_splits
from resnetlab.runs.scoring_data import data_config
from resnetlab.runtime import Runtime

Progress = Callable[[int, int], None]  # the numbers of images that are done and of all images

FOLDER, FORMAT, VERSION = "features", "resnetlab-features", 1
BRING_BACK = "bring them back; similar images are looked for among the images that the run was trained on"


@dataclass(frozen=True, eq=False)
class SimilarImage:
    """A similar image: its name, its label ("" without one), and the cosine similarity of the features.

    `pixels` (S, S, C), uint8, are as the network gets them; None if the image is gone or has changed.
    """

    name: str
    label: str
    similarity: float
    pixels: NDArray[np.uint8] | None


@dataclass(frozen=True, eq=False)
class Features:
    """Features of images: `vectors` (N, C), float32, of length 1, with name, label and content digest of each image.

    `labels` are class names, "" for images without a label. `contents` is empty where they are unknown.
    """

    vectors: NDArray[np.float32]
    names: tuple[str, ...]
    labels: tuple[str, ...]
    contents: tuple[str, ...]

    @classmethod
    def of(cls, model: Model, split: Split, labels: Sequence[str], progress: Progress) -> Features:
        """Compute the features of a split, in fp32 on the device of the network of `model`."""
        LOGGER.info("computing the features of %s", counted(len(split), "image"))
        network, rows = model.network, []
        batches = EvalBatches(split, model.preprocessing, EVAL_BATCH, Runtime(network.fc.weight.device))
        with torch.inference_mode(), evaluating(network):
            for batch in batches:
                progress(int(batch.indices[0]), len(split))
                rows.append(unit_vectors(network.features(batch.images).float().cpu().numpy()))
        return cls(np.concatenate(rows), split.names, tuple(labels), split.contents)

    def write(self, path: Path, key: dict[str, Any]) -> None:
        """Write a sealed file, whole or not at all. Raises DiskTrouble."""
        facts = {"names": self.names, "labels": self.labels, "contents": self.contents}
        write_sealed(
            path,
            {"vectors": torch.from_numpy(self.vectors)},
            {"format": FORMAT, "format_version": VERSION, **key} | facts,
        )

    @classmethod
    def read(cls, path: Path, key: dict[str, Any]) -> Features | None:
        """Read a file; None if there is none, or one of other images, weights or preprocessing. Raises Damaged."""
        if not path.exists():
            return None
        tensors, facts = read_sealed(path)
        wanted = {"format": FORMAT, "format_version": VERSION, **key}
        if any(facts.get(name) != value for name, value in wanted.items()):
            return None
        try:
            vectors = np.asarray(tensors["vectors"].numpy(), np.float32)
            names, labels, contents = (tuple(map(str, facts[name])) for name in ("names", "labels", "contents"))
        except (KeyError, TypeError) as error:
            raise Damaged(f"{printable(path)} is incomplete: {printable(error)}") from error
        if vectors.ndim != 2 or not len(vectors) == len(names) == len(labels) or len(contents) not in (0, len(names)):
            raise Damaged(f"{printable(path)} is incomplete: its names are not those of its features")
        return cls(vectors, names, labels, contents)


@dataclass(frozen=True, eq=False)
class ComparedImages:
    """Images that others are compared with. `images` reads them again; None if their data was not found."""

    title: str  # such as "the 1,294 training images of digits-001"
    features: Features
    images: Images | None
    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()

    def most_similar(self, feature: NDArray[np.floating], count: int) -> tuple[SimilarImage, ...]:
        """Return the `count` most similar images to one with the given `feature` (C,), the most similar first."""
        places, cosines = most_similar(self.features.vectors, feature, count)
        found = self.features
        pixels = self._read(places.tolist())
        return tuple(
            SimilarImage(found.names[i], found.labels[i], float(cosine), pixels.get(found.names[i]))
            for i, cosine in zip(places.tolist(), cosines, strict=True)
        )

    def _read(self, places: Sequence[int]) -> dict[str, NDArray[np.uint8]]:
        """The images at `places`, by name, as far as they are as they were."""
        if self.images is None:
            return {}
        names, recorded = [self.features.names[i] for i in places], self.features.contents
        now = self.images.contents(names)
        same = [
            self.features.names[i]
            for i in places
            if self.features.names[i] in now and (not recorded or now[self.features.names[i]] == recorded[i])
        ]
        if not same:
            return {}
        bad = BadImages("skip", len(same), most=1.0, max_pixels=self.preprocessing.max_pixels)
        split = self.images.read(same, np.zeros(len(same), np.int64), self.preprocessing, bad, "memory")
        cropped = self.preprocessing.center_crop(split.images[:]).numpy()
        return dict(zip(split.names, cropped, strict=True))


def compared_images(
    model: Model, run: RunFolder | None, data: str | None, progress: Progress = lambda _done, _total: None
) -> ComparedImages:
    """Return the training images of a run or, with other `data`, all images of a folder or manifest.

    Of a named data set they are its training images. Features that were computed once are kept in the folder of the
    run. The features are computed by the network of `model`, on its device; `progress` is called with the numbers of
    images that are done and of all images.

    Raises BadInput if the images cannot be read, or if those of the run are not as they were when it began.
    """
    if run is not None:
        own = run.config.data
        config = own if data is None else moved_to(data, own)
        if data is None or is_own(run, config):
            return training_images(model, run, config, progress)
    if data is None:
        raise BadInput("a model file alone has no training images; add `data='FOLDER'` with images to compare with")
    return other_images(model, run, data, progress)


def is_own(run: RunFolder, config: DataConfig) -> bool:
    """True for the data of a run, also at another place; False if the run has no record of its images."""
    if not is_elsewhere(run, config):
        return True
    with suppress(BadInput):
        return has_moved_to(run, config)
    return False


def training_images(model: Model, run: RunFolder, config: DataConfig, progress: Progress) -> ComparedImages:
    """The training images of a run, as its stored splits list them."""
    stored = stored_splits(run)
    record = stored.splits["train"]
    known = record.labels is not None and bool(record.contents)
    digest = names_digest(record.names, record.labels.tolist(), record.contents) if known else record.digest  # type: ignore[union-attr]
    notes: tuple[str, ...] = ()

    def compute() -> Features:
        opened = open_saved(run, config, ("train",), preprocessing=model.preprocessing, advice=BRING_BACK)
        split = opened.splits["train"]
        labels = [stored.classes[label] for label in split.labels.tolist()]
        return Features.of(model, split, labels, progress)

    features = kept_features(run, model, digest) or keep(run, model, digest, compute())
    images: Images | None = None
    try:
        images = images_in(run, config)
    except BadInput as error:
        notes = (f"similar images have no pictures: {error}",)
    title = f"the {counted(len(features.names), 'training image')} of {printable(run.path.resolve().name)}"
    return ComparedImages(title, features, images, model.preprocessing, notes)


def other_images(model: Model, run: RunFolder | None, data: str, progress: Progress) -> ComparedImages:
    """All images of a folder, also those without a class, or of a manifest; of a named data set, its train split."""
    images = images_of(data)
    names, noun = list(images.classes), "image"
    if is_named(data):
        own = data_config(data, model.provenance.get("data_settings"))
        names, noun = list(open_data(own).train.names), "training image"
    elif Path(data).is_dir() and not is_shards(data):  # also those that are in no folder of a class
        names = [name.removeprefix("/") for name in walk(Path(data)).files()]
    if not names:
        raise BadInput(f"{printable(data)} has no images to compare with")
    words = [images.classes.get(name, "") for name in names]
    numbers = {word: number for number, word in enumerate(sorted(set(words)))}
    labels = np.array([numbers[word] for word in words], np.int64)
    size = model.preprocessing.resize_to
    what = f"{len(names):,} images at {size}×{size} pixels"
    store = Storage().choose(bytes_of(len(names), model.preprocessing), what)
    bad = BadImages("skip", len(names), most=1.0, max_pixels=model.preprocessing.max_pixels)

    def compute() -> Features:
        split = images.read(names, labels, model.preprocessing, bad, store)
        if not len(split):
            raise BadInput(f"none of the {len(names):,} images in {printable(data)} can be read")
        of = dict(zip(names, words, strict=True))
        return Features.of(model, split, [of[name] for name in split.names], progress)

    if run is None:
        features = compute()
    else:
        contents = images.contents(names)
        known = [f"{word}\t{contents.get(name, '')}" for name, word in zip(names, words, strict=True)]
        digest = names_digest(names, labels.tolist(), known)
        features = kept_features(run, model, digest) or keep(run, model, digest, compute())
    title = f"the {counted(len(features.names), noun)} of {printable(images.name)}"
    return ComparedImages(title, features, images, model.preprocessing, bad.notes()[:1])


def key_of(model: Model, digest: str) -> dict[str, Any]:
    """The facts that features depend on."""
    return {
        "weights_digest": model.weights_digest,
        "split_digest": digest,
        "preprocessing": model.preprocessing.to_json(),
    }


def features_file(run: RunFolder, model: Model, digest: str) -> Path:
    return run.path / FOLDER / f"{model.weights_digest[:16]}-{digest[:16]}.safetensors"


def kept_features(run: RunFolder, model: Model, digest: str) -> Features | None:
    """The features in the folder of a run; None if they have to be computed, or computed again."""
    path = features_file(run, model, digest)
    try:
        features = Features.read(path, key_of(model, digest))
        if features is not None and features.vectors.shape[1] != model.network.fc.in_features:
            raise Damaged(f"{printable(path)} has features of another network")
        return features
    except BadInput as error:
        LOGGER.warning("%s; the features are computed again", error)
        return None


def keep(run: RunFolder, model: Model, digest: str, features: Features) -> Features:
    """Write features into the folder of a run, in place of those of earlier weights, and return them.

    A folder that cannot be written to is no error: the features are computed again next time.
    """
    path = features_file(run, model, digest)
    try:
        make_folder(path.parent)
        features.write(path, key_of(model, digest))
    except DiskTrouble as error:
        LOGGER.warning("the features are not kept: %s", error)
        return features
    for old in path.parent.glob("*.safetensors"):
        if not old.name.startswith(model.weights_digest[:16]):
            with suppress(OSError):  # one too many does no harm
                old.unlink()
    return features
