"""Decoded images in memory, in a file, or decoded for each batch: the same images, within the same promises."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab.data import contents, datasets, decoded, open_dataset, reading, stores
from resnetlab.data.datasets import ImageData
from resnetlab.data.loaders import EvalBatches, TrainBatches
from resnetlab.data.pixels import CachedPixels, StreamedPixels
from resnetlab.data.stores import Storage
from resnetlab.data.workers import Workers
from resnetlab.errors import BadInput, ProcessLost
from resnetlab.runtime import start

OUTSIDE = ("cache", "stream")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Workers, "__init__", with_one_process(Workers.__init__))
    return tmp_path / "cache" / "resnetlab" / "decoded"


def with_one_process(begin: Callable[..., None]) -> Callable[..., None]:
    return lambda self, count=None: begin(self, count or 1)


def colour(random: np.random.Generator, name: str) -> np.ndarray:
    pixels = random.integers(0, 200, (12, 14, 3)).astype(np.uint8)
    pixels[..., "ab".index(name)] += 50
    return pixels


def grey(random: np.random.Generator, _: str) -> np.ndarray:
    return random.integers(0, 256, (12, 14)).astype(np.uint8)


def grey_as_colour(random: np.random.Generator, name: str) -> np.ndarray:
    return np.repeat(grey(random, name)[..., None], 3, axis=2)


def deep(random: np.random.Generator, _: str) -> np.ndarray:
    return random.integers(100, 4000, (12, 14)).astype(np.uint16)


def mixed(random: np.random.Generator, name: str) -> np.ndarray:
    return (deep if random.random() < 0.5 else grey)(random, name)


def write(root: Path, make: Callable[[np.random.Generator, str], np.ndarray], count: int = 20) -> Path:
    random = np.random.default_rng(0)
    for name in "ab":
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(make(random, name)).save(root / name / f"{i}.png")
    return root


def splits(data: ImageData) -> list[Any]:
    return [data.train, data.val, data.test]


def require_same(data: ImageData, other: ImageData) -> None:
    assert data.preprocessing == other.preprocessing
    assert data.notes == other.notes
    assert data.unread == other.unread
    for split, twin in zip(splits(data), splits(other), strict=True):
        assert (split.names, split.contents) == (twin.names, twin.contents)
        assert torch.equal(split.labels, twin.labels)
        assert torch.equal(split.images[:], twin.images)
        assert split.images.shape == twin.images.shape
        assert split.images.dtype == twin.images.dtype


@pytest.mark.parametrize("make", [colour, grey, grey_as_colour, deep, mixed])
def test_images_are_the_same_wherever_they_are_held(tmp_path: Path, make: Any) -> None:
    root = write(tmp_path / "f", make)
    shutil.copy(root / "a/0.png", root / "b/again.png")
    (root / "a/broken.png").write_bytes((root / "a/1.png").read_bytes()[:90])
    (root / "b/empty.png").touch()
    settings: Any = {"bad_images": "skip", "max_skipped": 0.5}
    reference = open_dataset(root, store="memory", **settings)
    for store in (*OUTSIDE, *OUTSIDE):
        require_same(open_dataset(root, store=store, **settings), reference)
    fixed = open_dataset(root, store="memory", preprocessing=reference.preprocessing, **settings)
    for store in OUTSIDE:
        require_same(open_dataset(root, store=store, preprocessing=reference.preprocessing, **settings), fixed)


@pytest.mark.parametrize("store", OUTSIDE)
def test_images_of_integers_and_floats_are_skipped_alike(tmp_path: Path, store: Any) -> None:
    root = write(tmp_path / "f", deep)
    Image.fromarray(np.random.default_rng(1).random((12, 14), np.float32)).save(root / "a/float.tif")
    settings: Any = {"bad_images": "skip", "max_skipped": 0.5}
    require_same(open_dataset(root, store=store, **settings), open_dataset(root, store="memory", **settings))


@pytest.mark.parametrize("store", OUTSIDE)
def test_a_bad_image_is_refused_with_the_same_sentence(tmp_path: Path, cache: Path, store: Any) -> None:
    root = write(tmp_path / "f", colour)
    (root / "a/broken.png").write_bytes(b"no image")
    said = []
    for kind in ("memory", store, store):
        with pytest.raises(BadInput) as error:
            open_dataset(root, store=kind)
        said.append(str(error.value))
    assert "not an image" in said[0]
    assert said == said[:1] * 3
    assert not [*cache.glob("*.decoded"), *cache.glob("*.part")]


@pytest.mark.parametrize("store", OUTSIDE)
def test_a_folder_that_was_opened_before_is_not_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    root = write(tmp_path / "f", colour)
    first = open_dataset(root, store=store)

    def refuse(*_: object) -> None:
        raise AssertionError("an image is decoded")

    with monkeypatch.context() as patch:
        patch.setattr(Workers, "submit", refuse)
        again = open_dataset(root, store=store)
        assert again.preprocessing == first.preprocessing
        # the same images under another name, and a part of them
        renamed = root.rename(tmp_path / "g")
        open_dataset(renamed, store=store, preprocessing=first.preprocessing, split_seed=1)
        for name in "ab":
            (renamed / name / "0.png").unlink()
        open_dataset(renamed, store=store, preprocessing=first.preprocessing)
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(renamed / "a" / "new.png")
        with pytest.raises(AssertionError):
            open_dataset(renamed, store=store, preprocessing=first.preprocessing)
    require_same(open_dataset(renamed, store=store), open_dataset(renamed, store="memory"))


@pytest.mark.parametrize("store", OUTSIDE)
def test_opening_again_reads_no_image_and_asks_for_the_times_of_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    """The time to open 120,000 images again is that of these questions, and of sorting their names."""
    monkeypatch.setattr(contents, "LEAST_FILES", 1)
    monkeypatch.setattr(contents, "SETTLED", -(10**15))  # as if all files were old
    monkeypatch.setattr(datasets, "sample_headers", partial(reading.sample_headers, most=4))
    root = write(tmp_path / "f", colour)
    first = open_dataset(root, store=store)
    asked: list[str] = []
    opened: list[str] = []

    def counted(log: list[str], function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if not isinstance(path, int) and os.fspath(path).endswith(".png"):
                log.append(os.fspath(path))
            return function(path, *arguments, **options)

        return call

    for owner, name, log in ((os, "stat", asked), (os, "lstat", asked), (os, "open", opened), (io, "open", opened)):
        monkeypatch.setattr(owner, name, counted(log, getattr(owner, name)))
    again = open_dataset(root, store=store, preprocessing=first.preprocessing)
    assert sorted(asked) == sorted(str(path) for path in root.rglob("*.png"))
    assert len(asked) == 40
    assert not opened
    assert again.train.contents == first.train.contents
    open_dataset(root, store=store)
    assert 0 < len(opened) <= 4  # the headers from which an image size is chosen, of 500 images at most
    assert len(asked) <= 2 * 40 + 4


def test_other_settings_have_other_files(tmp_path: Path, cache: Path) -> None:
    root = write(tmp_path / "f", colour)
    for settings in ({}, {"image_size": 8}, {"fit": "pad"}, {"channels": 1}):
        require_same(open_dataset(root, store="cache", **settings), open_dataset(root, store="memory", **settings))
    assert len(list(cache.glob("*.decoded"))) == 4


def test_the_key_of_a_file_has_all_modules_that_decode() -> None:
    here = Path(decoded.__file__).parent
    known, rest = set(), {"decode", "bands", "preprocess"}
    while rest:
        name = rest.pop()
        known.add(name)
        found = re.findall(r"^ *from resnetlab\.data\.(\w+) import", (here / f"{name}.py").read_text(), re.MULTILINE)
        rest |= set(found) - known - {"classes", "contents", "shards", "tree"}  # these decode nothing
    assert known <= set(decoded.CODE)
    assert {*decoded.CODE, "resize", "resize.c"} <= decoded.versions().keys()


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "folder"])
def test_a_damaged_file_is_not_used(tmp_path: Path, cache: Path, damage: str) -> None:
    root = write(tmp_path / "f", colour)
    open_dataset(root, store="cache")
    (file,) = cache.glob("*.decoded")
    content = file.read_bytes()
    for finding in cache.glob("*.json"):
        finding.write_text(finding.read_text().replace("0.", "1."))
    if damage == "folder":
        shutil.rmtree(cache)
        cache.write_text("no folder")
        with pytest.raises(OSError, match="could not create"):
            open_dataset(root, store="cache")
        return
    changed = content[:-60] + bytes([content[-60] ^ 1]) + content[-59:]
    file.write_bytes({"cut": content[:500], "changed": changed, "empty": b""}[damage])
    require_same(open_dataset(root, store="cache"), open_dataset(root, store="memory"))
    assert file.read_bytes() == content


BUILD = """
import sys, time
from resnetlab.data import open_dataset, workers
ask, asked = workers.Workers._ask, []
def slowly(self, decoder, names):
    asked.extend(names)
    time.sleep(float(sys.argv[2]))
    return ask(self, decoder, names)
workers.Workers._ask = slowly
workers.CHUNK_BYTES = 1
print("begins", flush=True)
open_dataset(sys.argv[1], store="cache")
print(len(asked), flush=True)
"""


def building(root: Path, seconds: float) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", BUILD, str(root), str(seconds)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_process_that_is_killed_leaves_nothing_that_is_used(tmp_path: Path, cache: Path) -> None:
    root = write(tmp_path / "f", colour)
    with building(root, 0.2) as process:
        until(lambda: [*cache.glob("*.part")])
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    assert len(list(cache.glob("*.part"))) == 1
    assert not list(cache.glob("*.decoded"))
    require_same(open_dataset(root, store="cache"), open_dataset(root, store="memory"))
    assert not list(cache.glob("*.part"))
    assert len(list(cache.glob("*.decoded"))) == 1


@pytest.mark.slow
def test_the_part_of_another_data_set_is_removed_unless_it_is_being_written(tmp_path: Path, cache: Path) -> None:
    root, other = write(tmp_path / "f", colour), write(tmp_path / "g", grey)
    with building(root, 0.2) as process:
        until(lambda: [*cache.glob("*.part")])
        open_dataset(other, store="cache")
        assert list(cache.glob("*.part"))
        process.kill()
    for name in "ab":
        (other / name / "0.png").unlink()
    open_dataset(other, store="cache", image_size=8)
    assert not list(cache.glob("*.part"))


@pytest.mark.slow
def test_two_processes_that_open_at_once_build_once(tmp_path: Path, cache: Path) -> None:
    root = write(tmp_path / "f", colour)
    processes = [building(root, 0.05) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].split() for process in processes]
    assert sorted(said) == [["begins", "0"], ["begins", "40"]]
    assert len(list(cache.glob("*.decoded"))) == 1


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


OPEN = """
import sys
from resnetlab.data import open_dataset
data = open_dataset(sys.argv[1], store="cache")
print("open", flush=True)
sys.stdin.read()
"""
DAY = 86_400


def built(root: Path, cache: Path, size: int) -> Path:
    """The file of images of this size, which is written and closed."""
    before = set(cache.glob("*.decoded"))
    open_dataset(root, store="cache", image_size=size)
    (file,) = set(cache.glob("*.decoded")) - before
    return file


def aged(file: Path, days: float) -> None:
    os.utime(file, (time.time() - days * DAY,) * 2)


def test_a_file_that_was_not_used_for_a_month_is_removed_when_another_is_written(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "resnetlab")
    root = write(tmp_path / "f", colour)
    old, young, used = (built(root, cache, size) for size in (8, 9, 10))
    opened, other = built(root, cache, 12), cache / "somebody-elses.txt"
    held = open_dataset(root, store="cache", image_size=12)
    other.touch()
    for file, days in ((old, 31), (young, 29), (used, 31), (opened, 99), (other, 99)):
        aged(file, days)
    open_dataset(root, store="cache", image_size=10)  # which is its use
    assert old.exists()  # nothing was written
    open_dataset(root, store="cache", image_size=11)
    assert not old.exists()
    assert all(file.exists() for file in (young, used, opened, other))
    assert len(held.train.images[:3]) == 3
    (line,) = [record.getMessage() for record in caplog.records if "removed" in record.getMessage()]
    assert line == f"removed decoded images that were not used for 31 days: {old} (0.0 GB)"


@pytest.mark.slow
def test_a_file_that_another_process_has_open_is_kept(tmp_path: Path, cache: Path) -> None:
    root = write(tmp_path / "f", colour)
    words = [sys.executable, "-c", OPEN, str(root)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, env=environment, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        (file,) = cache.glob("*.decoded")
        aged(file, 99)
        open_dataset(root, store="cache", image_size=8)
        assert file.exists()
        process.communicate("")
    open_dataset(root, store="cache", image_size=9)
    assert not file.exists()


def test_the_files_unused_for_longest_make_room(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "f", colour)
    files = []
    for size, days in ((20, 3), (21, 2), (22, 1), (23, 0)):
        files.append(built(root, cache, size))
        aged(files[-1], days)

    def disk(_: Path) -> Disk:
        return Disk(0, 0, 105_000 - sum(file.stat().st_size for file in files[:2] if file.exists()))

    monkeypatch.setattr(decoded.shutil, "disk_usage", disk)
    open_dataset(root, store="cache", image_size=24)  # 72 kB; the first two files have 51 and 55 kB
    assert [file.exists() for file in files] == [False, False, True, True]
    with pytest.raises(BadInput, match="choose a smaller `image_size`"):
        open_dataset(root, store="cache", image_size=99)
    assert files[2].exists()  # its bytes would not have been enough


Disk = namedtuple("Disk", "total used free")


def test_a_disk_is_not_filled(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "f", colour)
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda _: Disk(1_000_000, 940_000, 60_000))
    with pytest.raises(BadInput, match=r"need 0.0 GB in .*5% of the disk stays free.*`store='stream'`"):
        open_dataset(root, store="cache", image_size=32)
    assert not list(cache.glob("*.decoded"))
    monkeypatch.setattr(stores, "available_memory", lambda: 1000)
    data = open_dataset(root, image_size=32)
    assert isinstance(data.train.images, StreamedPixels)
    require_same(data, open_dataset(root, image_size=32, store="memory"))


def test_the_store_is_chosen_by_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "f", colour)
    needed = 40 * 12 * 12 * 3
    assert isinstance(open_dataset(root).train.images, torch.Tensor)
    for available, kind in ((2 * needed, torch.Tensor), (2 * needed - 1, CachedPixels)):
        monkeypatch.setattr(stores, "available_memory", lambda free=available: free)
        assert isinstance(open_dataset(root, image_size=12).train.images, kind)
    assert isinstance(open_dataset(root, image_size=12, memory=1).train.images, torch.Tensor)
    assert isinstance(open_dataset(root, image_size=12, memory=needed / 1e9).train.images, torch.Tensor)
    assert isinstance(open_dataset(root, image_size=12, memory=0).train.images, CachedPixels)
    monkeypatch.setattr(stores, "available_memory", lambda: needed - 1)
    assert isinstance(open_dataset(root, image_size=12, memory=1).train.images, CachedPixels)
    monkeypatch.setattr(reading, "available_memory", lambda: needed - 1)
    with pytest.raises(BadInput, match=r"needs 0.0 GB of memory.*or leave them on the disk \(`store='auto'`\)"):
        open_dataset(root, image_size=12, store="memory")
    with pytest.raises(BadInput, match=r"unknown store 'disk'"):
        open_dataset(root, store="disk")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="memory is -1"):
        Storage("auto", -1)


@pytest.mark.parametrize("store", OUTSIDE)
def test_batches_are_the_same(tmp_path: Path, store: Any) -> None:
    root, runtime = write(tmp_path / "f", colour), start("cpu", "fp32")
    found = []
    for kind in ("memory", store):
        data = open_dataset(root, store=kind)
        train = TrainBatches(data.train, data.preprocessing, (), 5, 0, runtime)
        parts = [
            train.epoch(0),
            train.epoch(1, 2),
            train.epoch(3, 1, 3),
            EvalBatches(data.val, data.preprocessing, 4, runtime),
        ]
        found.append([batch for part in parts for batch in part])
        subset = data.train.subset([3, 1])
        found[-1] += list(EvalBatches(subset.subset([1, 0]), data.preprocessing, 4, runtime))
    for batch, twin in zip(*found, strict=True):
        assert torch.equal(batch.images, twin.images)
        assert torch.equal(batch.labels, twin.labels)
        assert torch.equal(batch.indices, twin.indices)


def test_an_image_that_changes_while_it_is_streamed_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "f", colour)
    data = open_dataset(root, store="stream")
    name = data.train.names[0]
    (root / name).write_bytes((root / data.train.names[1]).read_bytes())
    assert len(data.train.images[1:3]) == 2
    with pytest.raises(BadInput, match=f"has changed since the data set was opened: {name} has other contents"):
        data.train.images[:3]
    (root / name).unlink()
    with pytest.raises(BadInput, match="has changed since the data set was opened: file not found"):
        data.train.images[:3]


def test_a_process_that_dies_ends_with_a_sentence(tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path / "f", colour), store="stream")
    data.train.images[:3]
    workers: Workers = data.train.images._workers  # type: ignore[union-attr]
    for process in workers._processes:
        process.kill()
    with pytest.raises(ProcessLost, match="a process that decodes images ended"):
        data.train.images[:3]


def test_signals_that_stop_a_run_are_not_for_the_processes_that_decode(tmp_path: Path) -> None:
    """Slurm, systemd and a terminal send them to all processes of a group; the run still needs its next images."""
    data = open_dataset(write(tmp_path / "f", colour), store="stream")
    data.train.images[:3]
    for process in data.train.images._workers._processes:  # type: ignore[union-attr]
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            process.send_signal(number)
    time.sleep(0.1)
    assert len(data.train.images[:3]) == 3


def test_while_others_wait_a_process_decodes_on_all_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the three processes of a machine, one decodes what all of them read; then each has its share of the cores."""
    begun: list[Workers] = []

    class Noted(Workers):
        def __init__(self, count: int | None = None) -> None:
            super().__init__(count)
            begun.append(self)

    monkeypatch.setattr(stores, "Workers", Noted)
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    data = open_dataset(write(tmp_path / "f", colour), store="stream")
    assert [workers.count for workers in begun] == [1, 3]
    until(lambda: all(process.poll() is not None for process in begun[1]._processes))
    assert data.train.images._workers is begun[0]  # type: ignore[union-attr]


def test_processes_end_with_the_data_set(tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path / "f", colour), store="stream")
    data.train.images[:3]
    processes = data.train.images._workers._processes  # type: ignore[union-attr]
    assert [process.poll() for process in processes] == [None]
    del data
    until(lambda: all(process.poll() is not None for process in processes))


FLAT = """
import sys, numpy as np, torch
from pathlib import Path
from resnetlab.data.pixels import CachedPixels, StreamedPixels
from resnetlab.data.preprocess import for_size
from resnetlab.data.reading import Decoder
from resnetlab.data.workers import Workers
path, kind, count, side = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
shape = side, side, 3
if kind == "cache":
    images = CachedPixels(path, shape, np.arange(count))
else:
    decoder = Decoder(str(path.parent), for_size(side, 3, "crop"), 10**6)
    digest = decoder.read("a.png", None)[0]
    images = StreamedPixels(decoder, ["a.png"] * count, [digest] * count, Workers(1))
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) // 1024
def go(rows):
    for batch in images.in_turn(rows.split(128)):
        batch.float().mean()
order = torch.randperm(count)
go(order[: count // 50])
before = peak()
go(order)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
@pytest.mark.parametrize(("kind", "side"), [("cache", 16), ("stream", 8)])
def test_resident_memory_does_not_grow_over_500_000_images(tmp_path: Path, kind: str, side: int) -> None:
    count, size = 500_000, side * side * 3
    if kind == "cache":
        with (tmp_path / "images").open("wb") as file:
            for number in range(count // 1000):
                file.write(np.random.default_rng(number).bytes(1000 * size))
            file.write(b"index")
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(tmp_path / "a.png")
    words = [sys.executable, "-c", FLAT, str(tmp_path / "images"), kind, str(count), str(side)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    grown = int(subprocess.run(words, check=True, capture_output=True, env=environment).stdout)
    assert grown < 12, f"MB, of {count * size // 2**20}"


def test_named_data_is_held_in_memory() -> None:
    data = open_dataset("digits", store="cache")
    assert isinstance(data.train.images, torch.Tensor)
    assert data.notes[0] == "the images of digits are published as arrays, which are held in memory"
    assert "held" not in " ".join(open_dataset("digits").notes)
