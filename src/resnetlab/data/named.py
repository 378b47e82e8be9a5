"""The data sets with a name: scikit-learn's digits, and CIFAR-10 and CIFAR-100 through torchvision."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from resnetlab.data.classes import ClassChoice, require_two
from resnetlab.data.groups import named_groups, require_apart
from resnetlab.download import download, has_digest
from resnetlab.errors import BadInput, printable
from resnetlab.files import cache_folder


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images uint8 (N, H, W, C), labels int64 (N,), and a name and perhaps a group for each image."""

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    groups: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: np.ndarray) -> Arrays:
        """Copy the images at `indices`, in that order."""
        places = indices.tolist()
        groups = None if self.groups is None else tuple(self.groups[i] for i in places)
        return Arrays(self.images[indices], self.labels[indices], tuple(self.names[i] for i in places), groups)

    def chosen(self, labels: np.ndarray) -> Arrays:
        """Copy the images under new labels, without those whose label is -1."""
        return replace(self, labels=labels).subset(np.flatnonzero(labels >= 0))


@dataclass(frozen=True, eq=False)
class NamedDataset:
    """A data set as it is published; `test` is None if there is no published test split."""

    classes: tuple[str, ...]
    train: Arrays
    test: Arrays | None

    def chosen(self, choice: ClassChoice) -> NamedDataset:
        """Keep and merge classes; those that are left stay in the published order."""
        names = choice.names_of(self.classes)
        classes = tuple(dict.fromkeys(names[name] for name in self.classes if name in names))
        if choice.order == "natural":
            classes = choice.ordered(classes)
        require_two(classes)
        new = np.array([classes.index(names[name]) if name in names else -1 for name in self.classes])
        parts = (None if part is None else part.chosen(new[part.labels]) for part in (self.train, self.test))
        train, test = parts
        assert train is not None
        return NamedDataset(classes, train, test)

    def grouped(self, pattern: str) -> NamedDataset:
        """Give every image the group that a regular expression finds in its name."""
        parts = [part for part in (self.train, self.test) if part is not None]
        groups = named_groups([name for part in parts for name in part.names], pattern)
        with_groups = [replace(part, groups=tuple(groups[name] for name in part.names)) for part in parts]
        require_apart({name: part.groups or () for name, part in zip(("train", "test"), with_groups, strict=False)})
        return NamedDataset(self.classes, with_groups[0], with_groups[1] if len(with_groups) > 1 else None)


def open_named(name: str, *, root: str | Path | None = None, may_download: bool = True) -> NamedDataset:
    """Return one of `resnetlab.data.DATASETS`, complete and in the published order.

    `root` is the folder of the CIFAR archives (default: $RESNETLAB_DATA, else the user's cache folder). Raises
    BadInput if the data set is missing and cannot or must not be downloaded.

    >>> open_named("digits").train.images.shape
    (1797, 8, 8, 1)
    """
    return _digits() if name == "digits" else _cifar(name, root, may_download)


def _digits() -> NamedDataset:
    """Return 1,797 handwritten digits of 8×8 pixels from UCI, which are a part of scikit-learn."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]  # published as counts 0..16
    names = tuple(f"digits/{i:04d}" for i in range(len(images)))
    return NamedDataset(tuple("0123456789"), Arrays(images, bunch.target.astype(np.int64), names), None)


def _cifar(name: str, given_root: str | Path | None, may_download: bool) -> NamedDataset:
    """Read CIFAR-10 or CIFAR-100 with torchvision, which checks the digest of every batch before it unpickles it."""
    kind = _torchvision_class(name)
    chosen = given_root if given_root is not None else os.environ.get("RESNETLAB_DATA")
    try:
        root = Path(chosen).expanduser() if chosen else cache_folder()
    except RuntimeError as error:
        raise BadInput(
            f"{printable(chosen)} begins with ~, and this user has no home folder; give a full path"
        ) from error
    archive = root / kind.filename
    try:
        train = kind(root, train=True)
    except RuntimeError as missing:
        if not may_download and not has_digest(archive, "md5", kind.tgz_md5):
            raise BadInput(
                f"{name} is not in {printable(root)}, and downloading is off. By hand: download {kind.url} "
                f"(MD5 {kind.tgz_md5}), put it at {printable(archive)}, and try again"
            ) from missing
        download(kind.url, archive, algorithm="md5", digest=kind.tgz_md5)
        try:
            train = kind(root, train=True, download=True)  # finds the archive, and only unpacks it
        except (RuntimeError, OSError) as error:
            raise BadInput(f"could not unpack {printable(archive)}: {printable(error)}") from error
    return NamedDataset(tuple(train.classes), _arrays("train", train), _arrays("test", kind(root, train=False)))


def _arrays(prefix: str, data: Any) -> Arrays:
    names = tuple(f"{prefix}/{i:05d}" for i in range(len(data.targets)))
    return Arrays(np.ascontiguousarray(data.data), np.asarray(data.targets, dtype=np.int64), names)


def _torchvision_class(name: str) -> Any:
    """Import torchvision's class when it is needed: it takes 1.4 s, and fails with a torch from another index."""
    try:
        from torchvision import datasets
    except Exception as error:  # ImportError if it is missing, RuntimeError if it does not fit torch
        raise BadInput(
            f"{name} is read by torchvision, which cannot be imported ({printable(error)}); install torch and "
            "torchvision together from one index, for a machine without a GPU: "
            "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cpu"
        ) from error
    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
