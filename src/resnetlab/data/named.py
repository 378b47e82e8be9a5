"""The data sets that have a name: scikit-learn's digits, and CIFAR-10 and CIFAR-100 through torchvision."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnetlab.data.decode import SILENCE
from resnetlab.download import fetch
from resnetlab.errors import BadInput, printable

# Mean and standard deviation per channel, of all pixels of the training images, in [0, 1]. Beware of the popular
# CIFAR-10 std 0.2023 0.1994 0.2010: it is the mean of the images' own deviations, and too small.
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "digits": ((0.3053,), (0.3759,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


@dataclass(frozen=True, eq=False)
class Part:
    """Images uint8 (N, H, W, C), labels int64 (N,), and their names."""

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def subset(self, indices: np.ndarray) -> Part:
        """The images at `indices`, in that order."""
        return Part(self.images[indices], self.labels[indices], tuple(self.names[i] for i in indices.tolist()))


@dataclass(frozen=True, eq=False)
class Named:
    """A named data set as it is published; without a test part of its own, `test` is None."""

    classes: tuple[str, ...]
    train: Part
    test: Part | None


def open_named(name: str, *, root: str | Path | None = None, download: bool = True) -> Named:
    """One of `resnetlab.data.DATASETS`, whole and in the published order.

    `root` is where the CIFAR archives are, or go (default: $RESNETLAB_DATA, else ~/.cache/resnetlab).

    >>> open_named("digits").train.images.shape
    (1797, 8, 8, 1)
    """
    if name == "digits":
        return _digits()
    default = os.environ.get("RESNETLAB_DATA") or Path.home() / ".cache" / "resnetlab"
    return _cifar(name, Path(default if root is None else root).expanduser(), download)


def _digits() -> Named:
    """1,797 handwritten digits, 8×8, from UCI; they come with scikit-learn and need no network."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]  # published as counts 0..16
    names = tuple(f"digits/{i:04d}" for i in range(len(images)))
    return Named(tuple("0123456789"), Part(images, bunch.target.astype(np.int64), names), None)


def _cifar(name: str, root: Path, download: bool) -> Named:
    kind = _torchvision_class(name)
    archive = root / kind.filename
    by_hand = (
        f"By hand: download {kind.url} (MD5 {kind.tgz_md5}), put it into {printable(root)} under its name, "
        f"{kind.filename}, and run this again"
    )
    from torchvision.datasets.utils import check_integrity

    with SILENCE:  # the batches were pickled in 2009, and tarfile and numpy have views on that
        try:
            train = kind(root, train=True)  # checks the digest of every batch before it unpickles one
        except RuntimeError as missing:
            if not check_integrity(archive, kind.tgz_md5):
                if not download:
                    raise BadInput(
                        f"{name} is not in {printable(root)}, and downloading is off. {by_hand}"
                    ) from missing
                fetch(kind.url, archive, md5=kind.tgz_md5, help_by_hand=by_hand)
            try:
                train = kind(root, train=True, download=True)  # finds the archive, and only unpacks it
            except (RuntimeError, OSError) as error:
                raise BadInput(f"{name} could not be unpacked in {printable(root)}: {error}. {by_hand}") from error
        test = kind(root, train=False)
    return Named(tuple(train.classes), _part("train", train), _part("test", test))


def _part(prefix: str, data: Any) -> Part:
    names = tuple(f"{prefix}/{i:05d}" for i in range(len(data.targets)))
    return Part(np.ascontiguousarray(data.data), np.asarray(data.targets, dtype=np.int64), names)


def _torchvision_class(name: str) -> Any:
    """torchvision's class; imported here only, because it costs 1.4 s and breaks beside another index's torch."""
    try:
        from torchvision import datasets
    except Exception as error:  # ImportError where it is missing, RuntimeError where it does not fit torch
        raise BadInput(
            f"{name} is read by torchvision, which cannot be imported ({printable(error)}); install torch and "
            "torchvision together from one index, for a machine without a GPU: "
            "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cpu"
        ) from error
    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
