"""The data sets with a name: scikit-learn's digits, and CIFAR-10 and CIFAR-100 through torchvision."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnetlab.download import download, has_digest
from resnetlab.errors import BadInput, printable
from resnetlab.files import cache_folder


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images uint8 (N, H, W, C), labels int64 (N,), and a name for each image."""

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def subset(self, indices: np.ndarray) -> Arrays:
        """Copy the images at `indices`, in that order."""
        return Arrays(self.images[indices], self.labels[indices], tuple(self.names[i] for i in indices.tolist()))


@dataclass(frozen=True, eq=False)
class NamedDataset:
    """A data set as it is published; `test` is None if there is no published test split."""

    classes: tuple[str, ...]
    train: Arrays
    test: Arrays | None


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
