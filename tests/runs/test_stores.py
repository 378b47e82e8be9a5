"""A run has the same bits wherever its decoded images are held; so have its resumption and its scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab import recipes
from resnetlab.data.pixels import CachedPixels, StreamedPixels
from resnetlab.errors import Stopped
from resnetlab.files import read_sealed
from resnetlab.inference.predict import load
from resnetlab.runs import experiment
from resnetlab.runs.config import RunConfig
from resnetlab.runs.experiment import train
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.label_issues import examine_labels
from resnetlab.runs.resume import resume
from resnetlab.runs.saved_data import open_saved
from resnetlab.runs.score import evaluate
from resnetlab.runs.stop import StopRequest

KINDS = {"memory": torch.Tensor, "cache": CachedPixels, "stream": StreamedPixels}


@pytest.fixture(scope="module", autouse=True)
def with_own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(experiment, "draw_curves", lambda _, run, __: (run.path / "curves.png").touch())
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for label, name in enumerate("ab"):
        (folder / name).mkdir()
        for i in range(40):
            pixels = random.integers(0, 200, (20, 24, 3)).astype(np.uint8)
            pixels[..., label] += 50
            Image.fromarray(pixels).save(folder / name / f"{i}.jpg")
    return folder


def config(root: Path, store: str) -> RunConfig:
    return recipes.folder().changed(
        {
            "model": {"name": "tiny", "stem": "cifar"},
            "data": {"name": str(root), "store": store, "image_size": 16},
            "augment": {"mixup": 0.2, "cutmix": 1.0},
            **{"steps": 9, "batch_size": 16, "precision": "fp32", "device": "cpu"},
        }
    )


def bits(run: RunFolder) -> tuple[dict[str, Any], Any]:
    tensors, facts = read_sealed(run.all_checkpoints()[0])
    scores = {split: run.final_metrics(split) for split in ("val", "test")}
    return tensors, (facts["scores"], scores, run.read_json("split.json")["splits"])


def require_same(run: RunFolder, twin: RunFolder) -> None:
    (tensors, facts), (others, other_facts) = bits(run), bits(twin)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())
    assert facts == other_facts


@pytest.fixture(scope="module")
def reference(root: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(config(root, "memory"), tmp_path_factory.mktemp("runs") / "memory")


@pytest.mark.slow
@pytest.mark.parametrize("store", ["cache", "stream"])
def test_a_run_has_the_same_bits_in_every_store(root: Path, tmp_path: Path, reference: RunFolder, store: str) -> None:
    run = train(config(root, store), tmp_path / "whole")
    require_same(run, reference)
    said = {"cache": "are in a file in", "stream": "are not held: images are decoded for each batch"}[store]
    assert f"note     80 decoded images (0.00 GB) {said}" in run.log.read_text()
    assert isinstance(open_saved(run, run.config.data).splits["val"].images, KINDS[store])
    for split in ("val", "test"):
        scored = evaluate(run, split=split, out=tmp_path / split, device="cpu")
        assert scored["loss"] == reference.final_metrics(split)["loss"]  # type: ignore[index]
    examined, twin = (examine_labels(one, device="cpu") for one in (run, reference))
    assert all(np.array_equal(examined.image(i), twin.image(i)) for i in range(len(twin.names)))
    data = open_saved(run, run.config.data).all_splits()
    predictor = load(run.path, device="cpu")
    for row, name in enumerate(data.test.names):  # what `predict` decodes
        decoded = predictor.model.preprocessing.read(root / name)
        assert np.array_equal(decoded, data.test.images[row : row + 1][0])


@pytest.mark.parametrize("store", ["cache", pytest.param("stream", marks=pytest.mark.slow)])
def test_a_run_is_resumed_to_the_bit_from_any_store(
    root: Path, tmp_path: Path, reference: RunFolder, store: str
) -> None:
    seen = []

    def stop_after_five(event: object) -> None:
        seen.append(event)
        if len(seen) == 5:
            request.request()

    request = StopRequest()
    with pytest.raises(Stopped):
        train(config(root, "memory"), tmp_path / "run", stop=request, on_event=stop_after_five)
    run = resume(tmp_path / "run", changes={"data": {"store": store}})
    assert RunFolder(run.path).config.data.store == store
    require_same(run, reference)
