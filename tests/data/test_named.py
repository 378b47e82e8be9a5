"""The named data sets: digits against scikit-learn, CIFAR through torchvision against a small archive made here."""

import functools
import hashlib
import http.server
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from resnetlab.data import named, open_dataset, sources
from resnetlab.data.preprocess import STATISTICS, channel_statistics
from resnetlab.errors import BadInput


def test_digits_are_those_of_scikit_learn():
    opened = open_dataset("digits")
    assert opened.classes == tuple("0123456789")
    assert [len(part) for part in (opened.train, opened.val, opened.test)] == [1294, 144, 359]
    preprocessing = opened.preprocessing
    assert (preprocessing.image_size, preprocessing.resize_to, preprocessing.channels) == (8, 8, 1)
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


def test_the_statistics_of_digits_equal_those_of_its_images():
    mean, std = channel_statistics(named.open_named("digits").train.images)
    assert mean == pytest.approx(STATISTICS["digits"][0], abs=5e-5)
    assert std == pytest.approx(STATISTICS["digits"][1], abs=5e-5)


def test_digits_can_be_resized():
    opened = open_dataset("digits", image_size=32, normalize="imagenet")
    assert opened.test.images.shape == (359, 32, 32, 1)
    assert opened.preprocessing.mean == pytest.approx((0.449,))
    assert open_dataset("digits").test.digest == opened.test.digest


def batch(count: int, seed: int, classes: int, key: str) -> bytes:
    """A CIFAR batch as in the archives: rows of 3,072 bytes, channel by channel."""
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
        serve(monkeypatch, name, kind, kind.url)
        yield kind, parts, served / kind.filename
        server.shutdown()
        thread.join()


def serve(monkeypatch, name, kind, *addresses):
    """Let the data set have one archive, that of the patched class, at these addresses."""
    resource = sources.Resource(kind.filename, kind.tgz_md5, addresses)
    monkeypatch.setitem(sources.SOURCES, name, replace(sources.SOURCES[name], resources=(resource,)))


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


def test_processes_that_open_at_once_fetch_once(archive, tmp_path, monkeypatch, caplog):
    """Threads: each opens the lock on its own, so it is as with the processes of torchrun."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fetched, found, at_once = [], [], threading.Barrier(3)
    fetch, splits = named._fetch, named._splits

    def slowly(*arguments):
        fetched.append(arguments)
        time.sleep(0.2)
        fetch(*arguments)

    def missing_for_all(*arguments):
        if not hasattr(mine, "begun"):
            mine.begun = at_once.wait(20)
        return splits(*arguments)

    mine = threading.local()
    monkeypatch.setattr(named, "_fetch", slowly)
    monkeypatch.setattr(named, "_splits", missing_for_all)
    caplog.set_level("INFO", "resnetlab")
    threads = [
        threading.Thread(target=lambda: found.append(len(named.open_named("cifar10", root=tmp_path / "root").train)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200, 200, 200]
    assert len(fetched) == 1
    assert caplog.messages.count("waiting for another process that fetches cifar10") == 2


def test_an_archive_downloaded_by_hand_is_used(archive, tmp_path):
    kind, _, served = archive
    (tmp_path / kind.filename).write_bytes(served.read_bytes())
    assert len(open_dataset("cifar10", root=tmp_path, download=False).test) == 20


def test_the_path_of_an_archive_is_enough(archive, tmp_path, monkeypatch):
    _, _, served = archive
    monkeypatch.setenv("RESNETLAB_DATA", str(tmp_path / "root"))
    mine = served.rename(tmp_path / "mine.tgz")
    assert len(open_dataset("cifar10", root=mine, download=False).test) == 20
    assert len(open_dataset("cifar10", download=False).test) == 20  # unpacked to $RESNETLAB_DATA
    mine.write_bytes(mine.read_bytes()[:-1])
    with pytest.raises(
        BadInput, match=r"mine\.tgz is a file, but not the archive of cifar10, whose MD5 is .* or a folder"
    ):
        open_dataset("cifar10", root=mine)


def test_mirrors_are_tried_before_the_original(archive, tmp_path, monkeypatch):
    kind, _, _ = archive
    serve(monkeypatch, "cifar10", kind, "http://127.0.0.1:9/a", kind.url, "http://127.0.0.1:9/b")
    assert len(open_dataset("cifar10", root=tmp_path / "root").test) == 20
    with pytest.raises(
        BadInput, match=r"By hand: download http://127\.0\.0\.1:9/a or http://.* or http://127.*:9/b, check"
    ):
        open_dataset("cifar10", root=tmp_path / "empty", download=False)


def test_a_changed_batch_is_never_unpickled(archive, tmp_path, monkeypatch):
    kind, _, _ = archive
    open_dataset("cifar10", root=tmp_path)

    class Evil:
        def __reduce__(self):
            return (sys.exit, (99,))

    (tmp_path / kind.base_folder / "data_batch_2").write_bytes(pickle.dumps(Evil()))
    (tmp_path / kind.filename).unlink()
    with pytest.raises(BadInput, match="downloading is off"):
        open_dataset("cifar10", root=tmp_path, download=False)
    assert len(open_dataset("cifar10", root=tmp_path).test) == 20  # downloaded and unpacked again


def test_a_download_with_another_digest_leaves_no_file(archive, tmp_path):
    _, _, served = archive
    served.write_bytes(served.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"sent a file with MD5 .* By hand: download http"):
        open_dataset("cifar10", root=tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("download", [True, False])
def test_without_a_network_the_error_gives_the_manual_steps(archive, tmp_path, download, monkeypatch):
    kind, _, _ = archive
    address = "http://127.0.0.1:9/cifar-10-python.tar.gz"  # connections are refused there
    serve(monkeypatch, "cifar10", kind, address)
    with pytest.raises(BadInput) as caught:
        open_dataset("cifar10", root=tmp_path / "root", download=download)
    sentence = str(caught.value)
    assert ("cannot reach" in sentence) == download
    for part in (address, kind.tgz_md5, str(tmp_path / "root"), "cifar-10-python.tar.gz", "By hand"):
        assert part in sentence


def test_the_error_for_a_broken_torchvision_has_the_repair_command(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(BadInput, match=r"cannot be imported .* pip install .*--index-url"):
        open_dataset("cifar10", root=tmp_path)


def test_a_root_below_a_home_that_does_not_exist_is_refused(monkeypatch):
    def no_home(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(named.Path, "expanduser", no_home)
    with pytest.raises(BadInput, match="~/data begins with ~, and this user has no home folder; give a full path"):
        open_dataset("cifar10", root="~/data", download=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("train --data cifar10 --data.no-download", "cifar10 is not in {tmp}/resnetlab-54321, and downloading is off"),
        ("train --data cifar10 --data.root {tmp}/D --data.no-download", "cifar10 is not in {tmp}/D, and downloading"),
        (
            "train finetune --data {tmp}/images --model.pretrained http://127.0.0.1:9/a-0123abcd.pth",
            "cannot reach http",
        ),
    ],
)
def test_a_user_without_name_and_home_gets_the_same_errors(words, sentence, as_nobody):
    """And no folder called ~ is created, where torch would put its weights."""
    if not as_nobody:
        pytest.skip("a user without a name cannot be had here, or cannot read this installation")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a", "b"):
            (Path(folder) / "images" / name).mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (32, 32), (i, 0, 0)).save(f"{folder}/images/{name}/{i}.png")
        subprocess.run(["chmod", "-R", "a+rwX", folder], check=True)
        environment = {"PATH": os.environ["PATH"], "TMPDIR": folder, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [*as_nobody, sys.executable, "-m", "resnetlab", *words.format(tmp=folder).split()]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        assert sentence.format(tmp=folder) in done.stderr
        assert done.returncode == 2
        assert not (Path(folder) / "~").exists()
