"""Open a data set by name or folder: three splits and their preprocessing."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from resnetlab.data import DATASETS, SPLITS
from resnetlab.data.classes import ClassChoice, Order, quoted
from resnetlab.data.contents import contents_of, remember
from resnetlab.data.decoded import remember_finding, remembered, versions
from resnetlab.data.digests import content_digest
from resnetlab.data.folder import Listing, scan
from resnetlab.data.groups import notes_on_groups
from resnetlab.data.limits import MAX_PIXELS
from resnetlab.data.named import Arrays, NamedDataset, open_named
from resnetlab.data.preprocess import (
    STATISTICS,
    Preprocessing,
    Statistics,
    choose_image_size,
    for_size,
    require_range,
    with_statistics,
)
from resnetlab.data.reading import (
    MOST_SKIPPED,
    BadImages,
    require_memory,
    sample_headers,
)
from resnetlab.data.shard_list import is_shards
from resnetlab.data.sources import is_named, published_side
from resnetlab.data.splits import HoldOut, Split
from resnetlab.data.stores import (
    IN_MEMORY,
    Storage,
    Store,
    bytes_of,
    read_new_splits,
    read_splits,
    statistics_of,
)
from resnetlab.errors import BadInput, printable, unknown

Normalize = Literal["dataset", "imagenet"]

_CHANNELS = {1: "grey", 3: "colour"}

_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "F")


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set: three splits, the class names by label, and the preprocessing of its images.

    `notes` are sentences for the log: the image size and its reason, the splits that were drawn, skipped images.
    `unread` has, for each split, the images that could not be read and were left out, with their content digests.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()
    unread: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def open_dataset(
    name_or_folder: str | Path,
    *,
    image_size: int | None = None,
    fit: str = "crop",
    normalize: Normalize = "dataset",
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    val_is_test: bool = False,
    classes: Sequence[str] = (),
    merge: Sequence[str] = (),
    class_order: Order = "plain",
    group_by: str | None = None,
    folds: int | None = None,
    fold: int | None = None,
    bad_images: Literal["error", "skip"] = "error",
    max_skipped: float = MOST_SKIPPED,
    max_pixels: int = MAX_PIXELS,
    channels: int | None = None,
    range: tuple[float, float] | None = None,
    root: str | Path | None = None,
    download: bool = True,
    store: Store = "auto",
    memory: float | None = None,
    preprocessing: Preprocessing | None = None,
) -> ImageData:
    """Open a data set by name (one of `resnetlab.data.DATASETS`, or another of torchvision, such as "torchvision:DTD")
    a folder with one sub-folder per class, a table of image files (see `resnetlab.data.manifest`), or tar shards in
    WebDataset's layout: their folder, or a pattern or address such as "shards/{000..099}.tar".

    - `image_size`: side of the network's input in pixels; by default it is chosen from the images.
    - `fit`: how images become square; "crop", "squash" or "pad" (see `Preprocessing`).
    - `normalize`: subtract mean and divide by std of the "dataset"'s training images or of "imagenet".
    - `test_fraction`, `val_fraction`, `split_seed`: a missing split is drawn from the training images, stratified by
      class: first test, then val from the rest. It depends only on names, labels and seed.
    - `val_is_test`: the val split of a folder, table or shards without a test split is the test split, as ImageNet's.
    - `classes`, `merge`, `class_order`: see `resnetlab.data.classes.ClassChoice`.
    - `group_by`: a regular expression, or a column of a manifest: images of one group stay in one split. Groups in
      more than one of the splits of a folder are named in `notes`.
    - `folds`, `fold`: make fold number `fold` (from 1) of the training images the test split.
    - `bad_images`: "error" refuses a folder with an image that cannot be read, "skip" leaves out bad images, at most
      the share `max_skipped` of all.
    - `max_pixels`: images of which more pixels would be decoded are bad images, and are refused in prediction, too.
    - `channels`: 1 (grey), 3 (colour), or the number of bands of TIFF files; by default 1 if all training images are
      grey, else 3.
    - `range`: the pixel values that become black and white in images of more than 8 bits; by default it is chosen from
      the training images.
    - `root`: the folder of the files of a named data set (default: $RESNETLAB_DATA, else the user's cache folder), or
      the path of its archive, if it has only one, which is then unpacked to the default folder.
    - `download`: download missing files of a named data set to `root`.
    - `store`, `memory`: where the decoded images of a folder or table are held; see `resnetlab.data.stores.Storage`.
    - `preprocessing`: that of a model file; it replaces `image_size`, `fit`, `channels`, `range` and `normalize`, so
      that images are prepared as in the model's training.

    Raises BadInput if the data set does not exist or cannot be trained on.

    >>> digits = open_dataset("digits")
    >>> len(digits.train), len(digits.val), len(digits.test), digits.preprocessing.image_size
    (1294, 144, 359, 8)
    """
    if normalize not in ("dataset", "imagenet"):
        raise unknown("normalization", str(normalize), ("dataset", "imagenet"))
    if not isinstance(name_or_folder, str | os.PathLike):
        raise BadInput(f"{name_or_folder!r} is not a data set; give {', '.join(DATASETS)}, or the path of a folder")
    if class_order not in ("plain", "natural"):
        raise unknown("class order", str(class_order), ("plain", "natural"))
    if bad_images not in ("error", "skip"):
        raise unknown("bad_images", bad_images, ("error", "skip"))
    name = os.fspath(name_or_folder)
    storage = Storage(store, memory)
    hold_out = HoldOut(val_fraction, test_fraction, split_seed, folds, fold, val_is_test)
    choice = ClassChoice(tuple(classes), tuple(merge), class_order)
    if is_named(name) and (side := published_side(name)) is not None:
        named = open_named(name, root=root, may_download=download)
        found = (*choice.notes(named.classes), *named.notes, *notes_on_folder(name))
        notes = (*storage.notes_on_arrays(name), *found)
        named = named.chosen(choice)
        named = named if group_by is None else named.grouped(group_by)
        if preprocessing is not None:
            return _load_named(name, named, preprocessing, hold_out, notes)
        published = named.train.images.shape[3]
        if channels not in (None, 1, 3):
            raise BadInput(f"{name} has {published} channels; data.channels can be 1 or 3")
        unscaled = for_size(side if image_size is None else image_size, channels or published, fit)
        if image_size is None:
            unscaled = replace(unscaled, resize_to=side)  # the published pixels
        data = _load_named(name, named, unscaled, hold_out, notes)
        known = STATISTICS.get(name if normalize == "dataset" else normalize)
        return _normalized(data, known)
    is_word = isinstance(name_or_folder, str) and not {"/", os.sep} & set(name)
    if not name or (is_word and not is_named(name) and not Path(name).exists() and not is_shards(name)):
        folder = f"there is no folder {printable(name)!r}" if name else "the path is empty"
        raise BadInput(f"{unknown('data set', name, DATASETS)}, or give the path of a folder of images; {folder}")
    listing = scan(name_or_folder, choice, group_by=group_by, root=root, may_download=download)
    if is_named(name):
        listing = replace(listing, notes=(*listing.notes, *notes_on_folder(name)))
    bad = BadImages(bad_images, len(listing), max_skipped, max_pixels)
    if preprocessing is not None:
        return _load_folder(listing, preprocessing, hold_out, bad, storage)
    unscaled, reason = preprocessing_for(listing, image_size, fit, channels, storage)
    unscaled = replace(unscaled, max_pixels=max_pixels)
    if range is not None:
        require_range(range, "data.range")
        unscaled = replace(unscaled, range=range)
    data = _load_folder(listing, unscaled, hold_out, bad, storage, reason=reason, channels=channels)
    return _normalized(data, STATISTICS["imagenet"] if normalize == "imagenet" else None)


def notes_on_folder(name: str) -> tuple[str, ...]:
    """Return a sentence if a folder has the name of a data set, so that it may be the one that was meant."""
    return (f"{name} is the published data set; the folder of this name is ./{name}",) if Path(name).is_dir() else ()


def _normalized(data: ImageData, known: Statistics | None) -> ImageData:
    """Return the data with the mean and standard deviation that are known, or those of its training images."""
    found = known or statistics_of(data.train, data.preprocessing)
    return replace(data, preprocessing=with_statistics(data.preprocessing, found))


def preprocessing_for(
    listing: Listing,
    image_size: int | None,
    fit: str,
    channels: int | None = None,
    storage: Storage = IN_MEMORY,
) -> tuple[Preprocessing, str]:
    """Choose the preprocessing for a folder's training images; return it with a sentence that gives the reason.

    The size comes from the headers of at most 500 images, evenly spaced. Without `channels`, images are read as grey
    (1 channel) only if the modes of all of them are grey, for which all headers are read: a single colour image must
    keep its colours. This is remembered where the images are not held in memory.
    """
    headers = sample_headers(listing.root, listing.train, channels=channels)
    is_grey = bool(headers) and all(mode in _GREY_MODES for _, mode in headers)
    if image_size is not None:
        side, reason = image_size, "as given"
    else:
        side, reason = choose_image_size([size for size, _ in headers])
    if is_grey and channels is None:
        is_grey = _have_grey_headers(listing, for_size(side, 1, fit), storage)
    chosen = for_size(side, channels or (1 if is_grey else 3), fit)
    stored = "" if chosen.resize_to == side else f", stored at {chosen.resize_to}"
    return chosen, f"image size {side}×{side} pixels{stored}: {reason}"


def _have_grey_headers(listing: Listing, preprocessing: Preprocessing, storage: Storage) -> bool:
    """Return True if the modes of all training images are grey."""
    what: list[object] = []
    if storage.choose(bytes_of(len(listing), preprocessing), listing.name) != "memory":
        what = [versions(), sorted(contents_of(listing.root, listing.train.names).values())]
        if (known := remembered("headers", what)) is not None:
            return bool(known)
    headers = sample_headers(listing.root, listing.train, most=None)
    found = all(mode in _GREY_MODES for _, mode in headers)
    if what:
        remember_finding("headers", what, found)
    return found


def _load_named(
    name: str, named: NamedDataset, preprocessing: Preprocessing, hold_out: HoldOut, notes: Sequence[str]
) -> ImageData:
    """Load a set of arrays: a published test split stays the test split, missing ones are drawn."""
    total = len(named.train.names) + (len(named.test.names) if named.test else 0)
    size = preprocessing.resize_to
    require_memory(total * size**2 * preprocessing.channels, f"{name} at {size}×{size} pixels")
    splits, drawn = hold_out.draw(named.classes, named.train, None, named.test)
    notes = (*notes, *notes_on_groups({part: arrays.groups for part, arrays in zip(SPLITS, splits, strict=True)}))
    train, val, test = (_resized(arrays, preprocessing) for arrays in splits)
    return ImageData(name, named.classes, train, val, test, preprocessing, (*notes, *drawn))


def _load_folder(
    listing: Listing,
    preprocessing: Preprocessing,
    hold_out: HoldOut,
    bad: BadImages,
    storage: Storage,
    *,
    reason: str = "",
    channels: int | None = None,
) -> ImageData:
    """Load a folder. Splits are drawn from the names, before reading, so that a bad image does not change them.

    With the `reason` for a new preprocessing, the range of pixel values and, without `channels`, colour or grey are
    chosen from the training images; without one, the preprocessing of a model is used as it is.
    """
    size = preprocessing.resize_to
    what = f"{len(listing):,} images at {size}×{size} pixels"
    store = storage.choose(bytes_of(len(listing), preprocessing), what)
    splits, drawn = hold_out.draw(listing.classes, listing.train, listing.val, listing.test)
    shared = notes_on_groups({part: files.groups for part, files in zip(SPLITS, splits, strict=True)})
    files = dict(zip(SPLITS, splits, strict=True))
    notes, began = listing.notes, time.time_ns()
    if reason:
        read, preprocessing, ranged = read_new_splits(listing.root, files, preprocessing, bad, store, channels=channels)
        count = preprocessing.channels
        notes = (*notes, f"{reason}; {_CHANNELS.get(count, f'{count} channels')}", *ranged)
    else:
        read = read_splits(listing.root, files, preprocessing, bad, store)
    if store == "memory":
        contents = {
            name: content for split in read.values() for name, content in zip(split.names, split.contents, strict=True)
        }
        remember(listing.root, contents, began)
    for part in ("val", "test"):
        if not len(read[part]):
            raise BadInput(f"none of the {part} images in {printable(listing.root)} can be read")
    lost = sorted(set(range(len(listing.classes))) - set(read["train"].labels.tolist()))
    if lost:
        name = printable(listing.classes[lost[0]])
        raise BadInput(f"class {name!r} has no image to train on, after {len(bad.skipped)} bad images were skipped")
    bad_names = {name for name, _ in bad.skipped}
    unread = {
        part: _contents(listing.root, [name for name in given.names if name in bad_names])
        for part, given in files.items()
    }
    notes = (*notes, *drawn, *shared, *bad.notes(), *lacking_classes(read, listing.classes))
    return ImageData(
        listing.name, listing.classes, preprocessing=preprocessing, notes=notes, unread=unread, **read
    )  # fmt: skip


def _contents(root: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the content digests of images that could not be decoded, "" for those that are no files."""
    found = contents_of(root, names) if names else {}  # reading the cache for nothing takes most of a second
    return {name: found.get(name, "") for name in names}


def lacking_classes(splits: Mapping[str, Split], classes: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence for each split that has no image of some class.

    >>> import torch
    >>> split = Split(torch.zeros(1, 8, 8, 1, dtype=torch.uint8), torch.tensor([0]), ("a.png",))
    >>> lacking_classes({"val": split}, ("a", "b"))
    ("val has no image of class 'b': its scores there are undefined, and means leave it out",)
    """
    sentences = []
    for part, split in splits.items():
        if lost := sorted(set(range(len(classes))) - set(split.labels.tolist())):
            names = quoted([classes[label] for label in lost])
            which, its = ("class", "its") if len(lost) == 1 else ("the classes", "their")
            end = "it" if len(lost) == 1 else "them"
            sentences.append(
                f"{part} has no image of {which} {names}: {its} scores there are undefined, and means leave {end} out"
            )
    return tuple(sentences)


def _resized(arrays: Arrays, preprocessing: Preprocessing) -> Split:
    split = resized(arrays.images, arrays.labels, arrays.names, preprocessing)
    return replace(split, groups=arrays.groups or ())


def resized(images: np.ndarray, labels: np.ndarray, names: tuple[str, ...], preprocessing: Preprocessing) -> Split:
    """Return published images as a split at the stored size; the same pixels if that is the published size."""
    import torch
    from PIL import Image

    contents = tuple(map(content_digest, images))
    shape = (len(images), preprocessing.resize_to, preprocessing.resize_to, preprocessing.channels)
    if images.shape != shape:
        at_size = np.empty(shape, dtype=np.uint8)
        for i, pixels in enumerate(images):
            at_size[i] = preprocessing.resize(Image.fromarray(pixels.squeeze()))
        images = at_size
    return Split(torch.from_numpy(images), torch.from_numpy(labels), names, contents)
