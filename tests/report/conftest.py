"""Runs on disk, made from numbers instead of training: finished, unfinished, of any number of classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.splits import Split
from resnetlab.evaluation.access_log import Access
from resnetlab.evaluation.calibration import Temperature
from resnetlab.inference.model_file import read_model, save_model
from resnetlab.interpret.embedding import MOST, spread
from resnetlab.models import build_model
from resnetlab.runs import evaluation_files as record
from resnetlab.runs import recipes
from resnetlab.runs.config import RunConfig
from resnetlab.runs.evaluation_files import Evaluation, write_evaluation
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.history import History
from resnetlab.runs.report_samples import ReportSamples
from resnetlab.runtime import Runtime

SIDE = 8
SEE = Preprocessing(SIDE, SIDE, 3, (0.5,) * 3, (0.25,) * 3)
HOSTILE = ["<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "&amp;\x1b[2J\n猫"]


def epoch_row(epoch: int) -> dict[str, Any]:
    scores = {"train_loss": 1.1 / epoch, "train_accuracy": 1 - 0.7 / epoch, "val_macro_f1": 0.91 - 0.77 / epoch}
    scores |= {"val_loss": 1.3 / epoch, "val_accuracy": 0.9 - 0.7 / epoch, "lr": 0.1 / 3 / epoch}
    running = {"running_loss": 1.5 / epoch, "running_accuracy": 0.5, "left_out": 0}
    return {"epoch": epoch, "step": 10 * epoch, **scores, **running, "train_seconds": 61.7, "images_per_second": 123.4}


def evaluation(run: RunFolder, split: str, classes: Sequence[str], images: int, tta: str = "none") -> Evaluation:
    """Made-up probabilities of made-up images, better than chance."""
    numbers = np.random.default_rng([len(classes), images, *split.encode(), *tta.encode()])
    labels = numbers.integers(0, len(classes), images)
    logits = numbers.normal(size=(images, len(classes))) * 1.3
    logits[np.arange(images), labels] += 2.5
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    pixels = torch.from_numpy(numbers.integers(0, 256, (images, SIDE, SIDE, 3), dtype=np.uint8))
    names = tuple(f"{classes[label]}/{split} {number}.png" for number, label in enumerate(labels))
    made = Split(pixels, torch.from_numpy(labels), names)
    facts = {"split": split, "data": "made up", "model": "resnet20", "tta": tta}
    facts |= {"weights_digest": read_model(run.best).weights_digest, "split_digest": made.digest}
    temperature = Temperature.fitted(probabilities, labels, "val", made.digest)
    return Evaluation(probabilities, made, classes, SEE, facts, temperature)


def score(run: RunFolder, split: str, classes: Sequence[str], images: int, tta: str = "none") -> None:
    """What scoring leaves in a run, but for the pictures, which take longer than all the rest."""
    made = evaluation(run, split, classes, images, tta)
    if split == "val" and tta == "none":
        model = read_model(run.best)
        chosen = spread(images, MOST)
        with torch.no_grad():
            features = model.network.features(SEE.normalize(made.split.images[torch.from_numpy(chosen)]))
        folder = run.evaluation("val")
        folder.mkdir(parents=True)
        ReportSamples.of(made, model.network, features, Runtime(torch.device("cpu"))).write(folder)
    if split == "test":
        facts = {name: made.facts[name] for name in ("model", "data", "split_digest", "weights_digest", "tta")}
        run.path.joinpath("evaluation").mkdir(exist_ok=True)
        assert not run.access_log.record(
            Access("2026-01-01", ("resnetlab", "train"), run.path.name, images=images, **facts)
        )
    write_evaluation(run.evaluation(split, tta), made)


@pytest.fixture(scope="session")
def make_run() -> Callable[..., RunFolder]:
    """`make_run(folder, classes=…, epochs=…, splits=…, images=…, **changes to the config)`."""

    def make(
        path: Path,
        *,
        classes: Sequence[str] = ("cat", "dog", "ship"),
        epochs: int = 3,
        splits: Sequence[str] = ("val", "test"),
        images: int = 60,
        **changes: Any,
    ) -> RunFolder:
        nowhere = {"data": {"name": "/nowhere/pets"}, "model": {"name": "resnet20"}}
        config: RunConfig = recipes.quickstart().changed(nowhere | {"epochs": max(epochs, 1)} | changes)
        path.mkdir(parents=True)
        run = RunFolder(path)
        run.write("config.json", config.to_json())
        if epochs:
            machine = {"device": "cpu", "device_name": "a <machine>", "packages": {"torch": "2.10"}, "command": ["x"]}
            run.write("environment.json", machine)
            History(run.path, [epoch_row(epoch) for epoch in range(1, epochs + 1)]).write()
            network = build_model("resnet20", len(classes), image_size=SIDE)
            save_model(run.best, network, list(classes), SEE, {"epoch": epochs})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(record, "draw", lambda *_: None)
            for key in splits:
                split, _, tta = key.partition("-")
                score(run, split, classes, images, tta or "none")
        return run

    return make


@dataclass
class Tag:
    """An element of a page, with what stands in it."""

    name: str
    attributes: dict[str, str | None]
    text: str = ""
    inside: list[Tag] = field(default_factory=list)

    def all(self, name: str) -> list[Tag]:
        """Elements of that name below this one."""
        return [tag for one in self.inside for tag in ([one] if one.name == name else []) + one.all(name)]

    def find(self, identity: str) -> Tag:
        """The element with that id."""
        return next(tag for tag in self.every() if tag.attributes.get("id") == identity)

    def every(self) -> list[Tag]:
        return [tag for one in self.inside for tag in [one, *one.every()]]


class Reader(HTMLParser):
    """A strict reader: what is opened must be closed, in order."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.root = Tag("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute is given twice in {tag}"
        made = Tag(tag, dict(attrs))
        self.open[-1].inside.append(made)
        if tag not in self.VOID:
            self.open.append(made)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"<{self.open[-1].name}> is closed by </{tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for tag in self.open:
            tag.text += data


@pytest.fixture(scope="session")
def read_page() -> Callable[[Path], Tag]:
    """A page as a tree."""

    def read(path: Path) -> Tag:
        reader = Reader()
        reader.feed(path.read_text(encoding="utf-8"))
        reader.close()
        assert len(reader.open) == 1, f"<{reader.open[-1].name}> is never closed"
        return reader.root

    return read
