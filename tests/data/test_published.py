"""The published data sets: small files in the format of each, from a server of this machine, beside what is in them."""

import bz2
import functools
import gzip
import hashlib
import http.server
import io
import json
import struct
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat

from resnetlab.cli.arguments import RECIPE_FOR
from resnetlab.data import DATASETS, open_dataset, sources
from resnetlab.data.preprocess import channel_statistics
from resnetlab.data.splits import HoldOut
from resnetlab.data.stored import StoredSplits, images_of, open_stored
from resnetlab.data.survey import survey
from resnetlab.errors import BadInput, Damaged
from resnetlab.runs.baseline import image_size
from resnetlab.runs.config import DataConfig


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def publish(tmp_path, monkeypatch) -> Iterator:
    """Serve other contents for the files of a data set; returns a function of name and contents by file name."""
    served = tmp_path / "served"
    served.mkdir()
    handler = functools.partial(QuietHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()

        def put(name: str, contents: dict[str, bytes]) -> None:
            source = sources.source_of(name)
            assert sorted(contents) == sorted(Path(file.path).name for file in source.resources)
            resources = []
            for file in source.resources:
                content = contents[Path(file.path).name]
                (served / Path(file.path).name).write_bytes(content)
                address = f"http://127.0.0.1:{server.server_port}/{Path(file.path).name}"
                resources.append(replace(file, md5=md5(content), addresses=(address,)))
            key = next(key for key, value in sources.SOURCES.items() if value is source)
            monkeypatch.setitem(sources.SOURCES, key, replace(source, resources=tuple(resources)))

        yield put
        server.shutdown()
        thread.join()


def noise(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def jpeg(seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(1, size[1], size[0], 3, seed=seed)[0]).save(file, "JPEG")
    return file.getvalue()


def tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def idx(array: np.ndarray) -> bytes:
    """The format of MNIST: 0, 0, 8 (bytes), the number of dimensions, their lengths, and the bytes."""
    return gzip.compress(struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def mnist(pixels: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {
        f"{part}-{kind}-idx{array.ndim}-ubyte.gz": idx(array)
        for kind, arrays in (("images", pixels), ("labels", labels))
        for part, array in zip(("train", "t10k"), arrays.values(), strict=True)
    }


def arrays(side: int, channels: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    counts = {"train": 60, "test": 20}
    shape = (side, side) if channels == 1 else (side, side, channels)
    pixels = {part: noise(count, *shape, seed=count) for part, count in counts.items()}
    return pixels, {part: (np.arange(count) % 10).astype(np.uint8) for part, count in counts.items()}


def published(name: str, pixels: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The files of a set of arrays, with these images (N, H, W[, 3]) and labels."""
    if name == "svhn":  # labels from 1, where 10 is the digit 0
        files = {}
        for part, images in pixels.items():
            file = io.BytesIO()
            numbers = np.where(labels[part] == 0, 10, labels[part])[:, None]
            savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": numbers})
            files[f"{part}_32x32.mat"] = file.getvalue()
        return files
    if name == "stl10":  # channel by channel, column by column; labels from 1
        files = {}
        for part, images in pixels.items():
            files[f"{part}_X.bin"] = images.transpose(0, 3, 2, 1).tobytes()
            files[f"{part}_y.bin"] = (labels[part] + 1).tobytes()
        names = "\n".join(f"class {i}" for i in range(10)).encode()
        inside = {**files, "class_names.txt": names, "unlabeled_X.bin": b"not read"}
        return {"stl10_binary.tar.gz": tar({f"stl10_binary/{file}": content for file, content in inside.items()})}
    if name == "torchvision:USPS":  # text: the label from 1, then index:value with values from -1 to 1
        lines = {
            part: "\n".join(
                f"{label + 1} " + " ".join(f"{i}:{value / 255 * 2 - 1:.6f}" for i, value in enumerate(image.flat, 1))
                for image, label in zip(pixels[part], labels[part], strict=True)
            )
            for part in pixels
        }
        return {"usps.bz2": bz2.compress(lines["train"].encode()), "usps.t.bz2": bz2.compress(lines["test"].encode())}
    return mnist(pixels, labels)


SIDES = {"mnist": 28, "fashion-mnist": 28, "svhn": 32, "stl10": 96, "torchvision:USPS": 16, "torchvision:KMNIST": 28}


@pytest.mark.parametrize("name", SIDES)
def test_sets_of_arrays_have_the_published_pixels_labels_and_test_split(name, publish, tmp_path, monkeypatch):
    channels = 3 if name in ("svhn", "stl10") else 1
    pixels, labels = arrays(SIDES[name], channels)
    files = published(name, pixels, labels)
    publish(name, files)
    if name == "stl10":  # torchvision checks the digests of the unpacked files, too
        for lists in ("train_list", "test_list"):
            monkeypatch.setattr(torchvision.datasets.STL10, lists, digests_of(files, lists))
    if name == "svhn":
        own = {part: ["", f"{part}_32x32.mat", md5(files[f"{part}_32x32.mat"])] for part in pixels}
        monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", own)
    opened = open_dataset(name, root=tmp_path / "root")
    assert [len(part) for part in (opened.train, opened.val, opened.test)] == [50, 10, 20]
    assert opened.preprocessing.image_size == opened.preprocessing.resize_to == SIDES[name]
    assert opened.preprocessing.channels == channels
    assert len(opened.classes) == 10
    assert opened.classes == tuple("0123456789") or name not in ("mnist", "svhn", "torchvision:USPS")
    for part in (opened.train, opened.val, opened.test):
        for image, label, place in zip(part.images.numpy(), part.labels.tolist(), part.names, strict=True):
            source, number = place.split("/")
            expected = pixels[source][int(number)].reshape(image.shape).astype(int)
            tolerance = 1 if name == "torchvision:USPS" else 0  # its values are rounded
            assert np.abs(image - expected).max() <= tolerance
            assert labels[source][int(number)] == label
    assert opened.preprocessing.mean == channel_statistics(opened.train.images.numpy())[0]
    again = open_dataset(name, root=tmp_path / "root", download=False)
    assert again.val.contents_digest == opened.val.contents_digest


def digests_of(files: dict[str, bytes], which: str) -> list[list[str]]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(files["stl10_binary.tar.gz"])) as archive:
        for member in archive:
            found[Path(member.name).name] = md5(archive.extractfile(member).read())
    return [[file, "0" * 32 if "unlab" in file else found[file]] for file, _ in STL10_LISTS[which]]


STL10_LISTS = {which: getattr(torchvision.datasets.STL10, which) for which in ("train_list", "test_list")}


def image_set(name: str) -> tuple[dict[str, bytes], dict[str, dict[str, str]]]:
    """The files of a set of image files, and the class of each image by split and by the end of its path."""
    if name == "eurosat":
        photos = {f"{kind}/{kind}_{i}.jpg": kind for kind in ("Forest", "River") for i in range(6)}
        return {"EuroSAT.zip": zipped({f"2750/{path}": jpeg(i) for i, path in enumerate(photos)})}, {"": photos}
    if name == "flowers102":
        labels = np.array([1, 2] * 9)  # of image 1, 2, ...
        ids = {"trnid": np.arange(1, 9), "valid": np.arange(9, 13), "tstid": np.arange(13, 19)}
        photos = {f"jpg/image_{i:05d}.jpg": jpeg(i) for i in range(1, 19)}
        tables = []
        for table in ({"labels": labels}, ids):
            file = io.BytesIO()
            savemat(file, table)
            tables.append(file.getvalue())
        names = {1: "pink primrose", 2: "hard-leaved pocket orchid"}
        parts = {
            part: {f"image_{i:05d}.jpg": names[labels[i - 1]] for i in ids[key]}
            for part, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
        }
        return {"102flowers.tgz": tar(photos), "imagelabels.mat": tables[0], "setid.mat": tables[1]}, parts
    if name == "oxford-pets":
        kinds = {"Abyssinian": 1, "american_bulldog": 2}
        parts, lists, photos = {}, {}, {}
        for part, numbers in (("trainval", range(6)), ("test", range(6, 9))):
            names = [f"{kind}_{i}" for kind in kinds for i in numbers]
            lines = [f"{one} {kinds[one.rsplit('_', 1)[0]]} 1 1" for one in names]
            lists[f"annotations/{part}.txt"] = "\n".join(lines).encode()
            photos |= {f"images/{one}.jpg": jpeg(len(photos) + i) for i, one in enumerate(names)}
            words = {"Abyssinian": "Abyssinian", "american_bulldog": "American Bulldog"}
            parts[part] = {f"images/{one}.jpg"[7:]: words[one.rsplit("_", 1)[0]] for one in names}
        return {"images.tar.gz": tar(photos), "annotations.tar.gz": tar(lists)}, {
            "": parts["trainval"],
            "test": parts["test"],
        }
    if name == "food101":
        kinds = ("apple_pie", "waffles")
        ids = {
            part: {kind: [f"{kind}/{i}" for i in numbers] for kind in kinds}
            for part, numbers in (("train", range(6)), ("test", range(6, 9)))
        }
        files = {f"food-101/meta/{part}.json": json.dumps(table).encode() for part, table in ids.items()}
        parts = {p: {f"{one}.jpg": kind for kind, ones in t.items() for one in ones} for p, t in ids.items()}
        everything = {**parts["train"], **parts["test"]}
        files |= {f"food-101/images/{one}": jpeg(i) for i, one in enumerate(everything)}
        return {"food-101.tar.gz": tar(files)}, {"": parts["train"], "test": parts["test"]}
    if name == "torchvision:GTSRB":
        photos = {part: {} for part in ("", "test")}
        for part, numbers in (("", range(6)), ("test", range(6, 9))):
            for label in range(2):
                for i in numbers:
                    photos[part][f"{label:05d}/{i}.ppm" if part == "" else f"{i + 10 * label}.ppm"] = f"{label:02d}"
        table = "Filename;ClassId\n" + "\n".join(f"{file};{int(label)}" for file, label in photos["test"].items())
        training = {f"GTSRB/Training/{file}": jpeg(i) for i, file in enumerate(photos[""])}
        final = {f"GTSRB/Final_Test/Images/{file}": jpeg(20 + i) for i, file in enumerate(photos["test"])}
        packed = (zipped(training), zipped(final), zipped({"GT-final_test.csv": table.encode()}))
        names = ("GTSRB-Training_fixed.zip", "GTSRB_Final_Test_Images.zip", "GTSRB_Final_Test_GT.zip")
        return dict(zip(names, packed, strict=True)), photos
    assert name == "imagenette"
    words = {"n01440764": "tench", "n03394916": "French horn"}
    parts = {
        part: {
            f"{part}/{kind}/{kind}_{i}.JPEG".replace("JPEG", "jpeg"): word
            for kind, word in words.items()
            for i in numbers
        }
        for part, numbers in (("train", range(6)), ("val", range(6, 9)))
    }
    everything = {**parts["train"], **parts["val"]}
    packed = tar({f"imagenette2-320/{one}": jpeg(i) for i, one in enumerate(everything)})
    return {"imagenette2-320.tgz": packed}, {"": parts["train"], "val": parts["val"]}


FLOWERS = torchvision.datasets.Flowers102._file_dict
IMAGE_SETS = ("eurosat", "flowers102", "oxford-pets", "food101", "imagenette", "torchvision:GTSRB")


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_sets_of_image_files_keep_the_authors_splits(name, publish, tmp_path, monkeypatch):
    """Published val and test splits are used as they are; a missing one is drawn from the rest, which the notes say."""
    files, parts = image_set(name)
    publish(name, files)
    if name == "flowers102":  # torchvision checks these digests, too
        own = {key: (file, md5(files[file])) for key, (file, _) in FLOWERS.items()}
        monkeypatch.setattr(torchvision.datasets.Flowers102, "_file_dict", own)
    root = tmp_path / "root"
    opened = open_dataset(name, root=root, image_size=16, download=True)
    assert opened.name == name
    known = {name: word for part in parts.values() for name, word in part.items()}
    own = {part: getattr(opened, part) for part in ("train", "val", "test")}
    for part, split in own.items():
        for image, label in zip(split.names, split.labels.tolist(), strict=True):
            (end,) = [end for end in known if f"/{image}".endswith(f"/{end}")]
            assert known[end] == opened.classes[label]
            assert end in parts.get(part, parts.get("", {}))
        assert len(split) == len(parts.get(part, split))
    drawn = [note for note in opened.notes if "stratified by class" in note]
    assert [note.partition(":")[0] for note in drawn] == [part for part in ("test", "val") if part not in parts]
    assert sum(map(len, own.values())) == len(known)
    again = open_dataset(name, root=root, image_size=16, download=False)
    assert {part: getattr(again, part).contents_digest for part in own} == {
        p: s.contents_digest for p, s in own.items()
    }


def test_a_run_finds_the_files_of_a_named_set_again(publish, tmp_path):
    files, _ = image_set("food101")
    publish("food101", files)
    opened = open_dataset("food101", root=tmp_path, image_size=16)
    images = images_of("food101", root=str(tmp_path), download=False)
    stored = open_stored(images, StoredSplits.of(opened))
    assert not stored.changes
    assert stored.splits["test"].contents_digest == opened.test.contents_digest
    (tmp_path / "food-101" / "images" / opened.test.names[0]).write_bytes(jpeg(99))
    changed = open_stored(images, StoredSplits.of(opened)).changes
    assert changed.changed == (opened.test.names[0],)
    seen = survey("food101", hold_out=HoldOut(0.1, 0.2, 0), root=tmp_path, download=False)
    assert len(seen.names) == 18
    assert image_size(DataConfig(name="food101", root=str(tmp_path), download=False)) == 64
    assert image_size(DataConfig(name="stl10")) == 96


def test_an_archive_with_another_name_is_enough_and_sets_of_several_files_need_a_folder(publish, tmp_path, monkeypatch):
    monkeypatch.setenv("RESNETLAB_DATA", str(tmp_path / "root"))
    files, _ = image_set("eurosat")
    publish("eurosat", files)
    (tmp_path / "mine.zip").write_bytes(files["EuroSAT.zip"])
    opened = open_dataset("eurosat", root=tmp_path / "mine.zip", image_size=16, download=False)
    assert opened.train.names[0].split("/")[0] in ("Forest", "River")
    assert not (tmp_path / "root" / "eurosat" / "EuroSAT.zip").exists()
    with pytest.raises(BadInput, match=r"is a file, but mnist has 4 files; give the folder .* MNIST/raw/train-images"):
        open_dataset("mnist", root=tmp_path / "mine.zip")


def test_files_that_are_missing_are_named_when_downloading_is_off(publish, tmp_path):
    files, _ = image_set("flowers102")
    publish("flowers102", files)
    with pytest.raises(BadInput, match=r"flowers102 is not in .* By hand: .*102flowers.* By hand: .*setid\.mat"):
        open_dataset("flowers102", root=tmp_path, download=False)
    (tmp_path / "flowers-102").mkdir()
    for name in ("102flowers.tgz", "setid.mat"):
        (tmp_path / "flowers-102" / name).write_bytes(files[name])
    with pytest.raises(BadInput, match="By hand") as caught:
        open_dataset("flowers102", root=tmp_path, download=False)
    assert "imagelabels.mat" in str(caught.value)
    assert "setid.mat" not in str(caught.value)


def test_an_archive_with_other_contents_is_refused_with_a_sentence(publish, tmp_path):
    publish("eurosat", {"EuroSAT.zip": zipped({"photos/a.jpg": jpeg(0)})})
    with pytest.raises(Damaged, match=r"eurosat in .* cannot be read \(Dataset not found.*; remove it there"):
        open_dataset("eurosat", root=tmp_path)


def test_a_file_that_is_larger_than_its_limit_is_refused(publish, tmp_path, monkeypatch):
    files, _ = image_set("eurosat")
    publish("eurosat", files)
    monkeypatch.setitem(sources.SOURCES, "eurosat", replace(sources.SOURCES["eurosat"], most_bytes=1000))
    with pytest.raises(BadInput, match=r"more than the 0\.0 MB allowed"):
        open_dataset("eurosat", root=tmp_path)


def test_other_sets_of_torchvision_have_a_prefix_and_unknown_ones_are_refused():
    assert sources.source_of("torchvision:EuroSAT") is sources.source_of("eurosat")
    with pytest.raises(BadInput, match=r"unknown data set of torchvision 'Food10'; did you mean 'Food101'\?.* DTD"):
        open_dataset("torchvision:Food10")
    for name, source in sources.SOURCES.items():
        assert hasattr(torchvision.datasets, source.kind), name
        assert {"train"} <= set(source.splits) <= {"train", "val", "test"}
        assert all(len(file.md5) == 32 for file in source.resources)


def test_a_folder_with_the_name_of_a_data_set_is_mentioned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert "digits is the published data set; the folder of this name is ./digits" in open_dataset("digits").notes


def test_recipes_without_mirror_images_are_chosen_for_digits():
    assert set(RECIPE_FOR) <= set(DATASETS)
    assert RECIPE_FOR["svhn"] == RECIPE_FOR["mnist"] == "mnist"
