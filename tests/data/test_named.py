"""The named data sets: digits against scikit-learn's facts, CIFAR through torchvision against a small fake archive."""

import functools
import hashlib
import http.server
import io
import pickle
import sys
import tarfile
import threading

import numpy as np
import pytest
from sklearn.datasets import load_digits

from resnetlab.data import named, open_dataset
from resnetlab.data.preprocess import STATISTICS, channel_statistics
from resnetlab.errors import BadInput


def test_digits_facts():
    opened = open_dataset("digits")
    assert opened.classes == tuple("0123456789")
    assert [len(part) for part in (opened.train, opened.val, opened.test)] == [1294, 144, 359]
    see = opened.preprocessing
    assert (see.image_size, see.resize_to, see.channels) == (8, 8, 1)
    published = load_digits()
    seen = set()
    for part in (opened.train, opened.val, opened.test):
        assert part.images.shape[1:] == (8, 8, 1)
        for pixels, label, name in zip(part.images.numpy(), part.labels.tolist(), part.names, strict=True):
            index = int(name.removeprefix("digits/"))
            seen.add(index)
            assert published.target[index] == label
            assert np.abs(pixels[:, :, 0] / 255 * 16 - published.images[index]).max() < 0.04
        assert np.abs(np.bincount(part.labels.numpy()) / len(part) - 0.1).max() < 0.015
    assert seen == set(range(1797))
    assert opened.test.digest[:16] == "3fa6c3a952860c92"


def test_digits_statistics_recomputed():
    mean, std = channel_statistics(named.open_named("digits").train.images)
    assert mean == pytest.approx(STATISTICS["digits"][0], abs=5e-5)
    assert std == pytest.approx(STATISTICS["digits"][1], abs=5e-5)


def test_digits_at_another_size():
    opened = open_dataset("digits", image_size=32, normalize="imagenet")
    assert opened.test.images.shape == (359, 32, 32, 1)
    assert opened.preprocessing.mean == pytest.approx((0.449,))
    assert open_dataset("digits").test.digest == opened.test.digest


def batch(count: int, seed: int, classes: int, key: str) -> bytes:
    """A CIFAR batch as the archives have it: rows of 3,072 bytes, channel by channel."""
    draw = np.random.default_rng(seed)
    rows = draw.integers(0, 256, (count, 3072), dtype=np.uint8)
    return pickle.dumps({"data": rows, key: (np.arange(count) % classes).tolist()}, protocol=2)


@pytest.fixture
def archive(request, tmp_path, monkeypatch):
    """torchvision's class patched to a small archive, which is returned with its bytes and its web address."""
    torchvision = pytest.importorskip("torchvision")
    name = getattr(request, "param", "cifar10")
    if name == "cifar10":
        kind, key, meta, classes = torchvision.datasets.CIFAR10, "labels", "label_names", 10
        parts = {f"data_batch_{i}": batch(40, i, classes, key) for i in range(1, 6)}
        parts["test_batch"] = batch(20, 9, classes, key)
    else:
        kind, key, meta, classes = torchvision.datasets.CIFAR100, "fine_labels", "fine_label_names", 100
        parts = {"train": batch(1000, 1, classes, key), "test": batch(200, 2, classes, key)}
    names = [f"class {i}" for i in range(classes)]
    parts[kind.meta["filename"]] = pickle.dumps({meta: names}, protocol=2)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for file, content in parts.items():
            info = tarfile.TarInfo(f"{kind.base_folder}/{file}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    digests = {file: hashlib.md5(content, usedforsecurity=False).hexdigest() for file, content in parts.items()}
    monkeypatch.setattr(kind, "train_list", [[file, digests[file]] for file, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [[file, digests[file]] for file, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": digests[kind.meta["filename"]]})
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(packed.getvalue(), usedforsecurity=False).hexdigest())
    served = tmp_path / "served"
    served.mkdir()
    (served / kind.filename).write_bytes(packed.getvalue())
    handler = functools.partial(QuietHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        monkeypatch.setattr(kind, "url", f"http://127.0.0.1:{server.server_port}/{kind.filename}")
        yield kind, parts, served / kind.filename
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.parametrize("archive", ["cifar10", "cifar100"], indirect=True)
def test_cifar_is_downloaded_checked_and_split(archive, tmp_path, request):
    kind, parts, _ = archive
    name = request.node.callspec.params["archive"]
    root = tmp_path / "new" / "root"
    opened = open_dataset(name, root=root)
    total = 200 if name == "cifar10" else 1000
    assert opened.classes == tuple(f"class {i}" for i in range(10 if name == "cifar10" else 100))
    assert [len(part) for part in (opened.train, opened.val)] == [total * 9 // 10, total // 10]
    assert (opened.preprocessing.mean, opened.preprocessing.std) == STATISTICS[name]
    assert opened.preprocessing.image_size == opened.preprocessing.resize_to == 32
    first = pickle.loads(parts[kind.train_list[0][0]])
    for part, prefix in ((opened.train, "train/"), (opened.val, "train/")):
        for pixels, name_ in zip(part.images, part.names, strict=True):
            index = int(name_.removeprefix(prefix))
            if index < len(first["data"]):
                assert np.array_equal(pixels.permute(2, 0, 1).flatten(), first["data"][index])
    assert opened.test.names[:2] == ("test/00000", "test/00001")
    assert sorted(file.name for file in root.iterdir()) == sorted([kind.base_folder, kind.filename])
    again = open_dataset(name, root=root, download=False)
    assert again.val.digest == opened.val.digest


def test_an_archive_put_there_by_hand_is_enough(archive, tmp_path):
    kind, _, served = archive
    (tmp_path / kind.filename).write_bytes(served.read_bytes())
    assert len(open_dataset("cifar10", root=tmp_path, download=False).test) == 20


def test_a_batch_that_was_changed_is_never_unpickled(archive, tmp_path, monkeypatch):
    kind, _, _ = archive
    open_dataset("cifar10", root=tmp_path)

    class Evil:
        def __reduce__(self):
            return (sys.exit, (99,))

    (tmp_path / kind.base_folder / "data_batch_2").write_bytes(pickle.dumps(Evil()))
    (tmp_path / kind.filename).unlink()
    with pytest.raises(BadInput, match="downloading is off"):
        open_dataset("cifar10", root=tmp_path, download=False)
    assert len(open_dataset("cifar10", root=tmp_path).test) == 20  # fetched and unpacked again


def test_a_wrong_download_leaves_nothing(archive, tmp_path):
    _, _, served = archive
    served.write_bytes(served.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"sent a file with MD5 .* By hand: download http"):
        open_dataset("cifar10", root=tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("download", [True, False])
def test_offline_says_what_to_do_by_hand(archive, tmp_path, download, monkeypatch):
    kind, _, _ = archive
    monkeypatch.setattr(kind, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")  # nobody listens there
    with pytest.raises(BadInput) as caught:
        open_dataset("cifar10", root=tmp_path / "root", download=download)
    sentence = str(caught.value)
    assert ("cannot reach" in sentence) == download
    for part in (kind.url, kind.tgz_md5, str(tmp_path / "root"), "cifar-10-python.tar.gz", "By hand"):
        assert part in sentence


def test_a_broken_torchvision_says_how_to_repair_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(BadInput, match=r"cannot be imported .* pip install .*--index-url"):
        open_dataset("cifar10", root=tmp_path)


def test_a_root_below_a_home_that_does_not_exist_is_refused(monkeypatch):
    def no_home(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(named.Path, "expanduser", no_home)
    with pytest.raises(BadInput, match="~/data begins with ~, and this user has no home folder; give a full path"):
        open_dataset("cifar10", root="~/data", download=False)
