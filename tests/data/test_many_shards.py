"""An epoch over a set of 1,000,000 images in shards takes no more memory at its end than at its beginning."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetlab.data.shard_index import index_of
from resnetlab.data.shard_layout import Member
from resnetlab.data.shards import write_shard

EPOCH = """
import json, sys, torch
from pathlib import Path
from resnetlab.data.datasets import open_dataset
from resnetlab.data.loaders import TrainBatches
from resnetlab.runtime import Runtime

def resident(process):
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

data = open_dataset(
    sys.argv[1], store="stream", image_size=8, channels=3, normalize="imagenet", val_fraction=0.001, test_fraction=0.5
)
batches = TrainBatches(data.train, data.preprocessing, (), 256, 0, Runtime(torch.device("cpu")))
images, own, decoding = 0, [], []
for number, batch in enumerate(batches.epoch(0)):
    images += len(batch.images)
    if number % 100 == 99:
        own.append(resident("self"))
        decoding.append(max(resident(process.pid) for process in data.train.images._workers._processes))
counts = {part: len(getattr(data, part)) for part in ("train", "val", "test")}
print(json.dumps({"images": images, "counts": counts, "own": own, "decoding": decoding}))
"""


def shards(root: Path, count: int, per_shard: int) -> Path:
    """Write one shard, and give it many names: each has an index, and its images are samples of their own."""
    drawn = np.random.default_rng(0)

    def picture() -> bytes:
        stream = io.BytesIO()
        Image.fromarray(drawn.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(stream, "PNG")
        return stream.getvalue()

    root.mkdir()
    first = root / "0000.tar"
    labels = [f"class {i % 10}" for i in range(per_shard)]
    members = [(Member(f"{label}/{i:06d}.png", label, i % 10), picture()) for i, label in enumerate(labels)]
    write_shard(first, members, 0)
    for number in range(1, count):
        path = root / f"{number:04d}.tar"
        os.link(first, path)
        os.link(index_of(first), index_of(path))
    return root


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of processes from /proc")
def test_memory_stays_flat_over_1_000_000_images_in_shards(tmp_path: Path) -> None:
    count = 1_000_000
    root = shards(tmp_path / "shards", count // 1000, 1000)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = [sys.executable, "-c", EPOCH, str(root)]
    found = json.loads(subprocess.run(words, check=True, capture_output=True, env=environment).stdout)
    assert sum(found["counts"].values()) == count
    assert found["images"] > 0.49 * count  # from all shards; the other half is the test split, which saves a minute
    assert max(found["own"]) - found["own"][0] < 20, "MB"
    # A process that decodes keeps the places of the images of all shards, 40 bytes for each image.
    assert max(found["decoding"]) - found["decoding"][0] < 64, "MB"
