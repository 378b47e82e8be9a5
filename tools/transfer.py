"""Transfer with few images: a ResNet-34 trained on six classes of CIFAR-10 learns the other four from 5 to 100 images.

    python tools/transfer.py --data cifar10        (or a folder of its images; about an hour on one CPU core)

Three ways are compared: from scratch (new weights), frozen (only a new head is trained) and fine-tuned (all weights are
trained). Each is repeated with other draws of the few images. The settings of each way are chosen on validation images,
with a draw that is not used again; then the test images are scored. It can be stopped and restarted with the same
command. Everything is kept in runs/transfer, the scores and the record of the first training also in results/transfer.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import resnetlab
from resnetlab.data.datasets import ImageData
from resnetlab.data.splits import Split
from resnetlab.files import write_text
from resnetlab.models.resnet import ResNet
from resnetlab.runtime import start

RESULTS = Path(__file__).parents[1] / "results" / "transfer"
KNOWN = 6  # classes of the first training: the first in alphabetical order
COUNTS = (5, 20, 100)  # images of each of the other classes
DRAWS = 5  # of the few images, with seeds 0 to 4
FOR_CHOICE = DRAWS  # the seed of the draw that chooses settings
STEPS, BATCH = 200, 32  # of a training on few images
SETTINGS = {  # the learning rate of Adam, or the regularisation C of a logistic regression
    "from scratch": (1e-3, 1e-4),
    "frozen": (1e-3, 1e-2, 1e-1, 1.0),
    "fine-tuned": (1e-3, 1e-4),
}
AUGMENT = {"crop": 4, "flip": True}

Weights = Mapping[str, Tensor]
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="cifar10", help="cifar10, or a folder of its images")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the first training (default: 10)")
    parser.add_argument("--run", type=Path, default=Path("runs/transfer"), help="folder (default: runs/transfer)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the stored result")
    given = parser.parse_args()

    data = resnetlab.open_dataset(given.data, image_size=32)
    known, new = only(data, 0, KNOWN), only(data, KNOWN, len(data.classes))
    given.run.mkdir(parents=True, exist_ok=True)
    weights = pretrained(known, given.epochs, given.run / "pretrained")
    scores = Scores(given.run / "scores.json", new, weights)
    for row in all_rows(scores):
        print(json.dumps(row), flush=True)

    network = new_network(known, weights)
    network.fc.load_state_dict({name: weights[f"fc.{name}"] for name in ("weight", "bias")})
    right = correct(outputs(network, known.test.images, known).argmax(1), known.test.labels)
    facts = {
        "data": data.name,
        "known": list(known.classes),
        "new": list(new.classes),
        "epochs": given.epochs,
        "test_of_known": {"right": right, "images": len(known.test)},
        "steps": STEPS,
        "batch_size": BATCH,
        "settings": SETTINGS,
        "machine": {**start().facts(), "torch": torch.__version__},
        "rows": scores.rows,
    }
    given.results.mkdir(parents=True, exist_ok=True)
    write_text(given.results / "scores.json", json.dumps(facts, indent=1) + "\n")
    shutil.copyfile(given.run / "pretrained" / "metrics.csv", given.results / "first_training.csv")


def only(data: ImageData, first: int, last: int) -> ImageData:
    """The images of classes number `first` up to, not including, `last`; their labels begin at 0."""

    def chosen(split: Split) -> Split:
        part = split.subset(((split.labels >= first) & (split.labels < last)).nonzero().flatten())
        return replace(part, labels=part.labels - first)

    splits = {name: chosen(getattr(data, name)) for name in ("train", "val", "test")}
    return replace(data, classes=data.classes[first:last], **splits)


def draw(split: Split, count: int, seed: int) -> Split:
    """`count` random images of each class. Larger counts contain the images of smaller ones."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    of_class = [order[split.labels[order] == label][:count] for label in split.labels.unique()]
    return split.subset(torch.cat(of_class))


def new_network(data: ImageData, weights: Weights | None = None, seed: int = 0) -> ResNet:
    """ResNet-34 with the 7x7 stem and a new head; all other weights from `weights` if there are any."""
    channels = data.preprocessing.channels
    network = resnetlab.build_model(
        "resnet34", len(data.classes), in_channels=channels, stem="imagenet", image_size=32, seed=seed
    )
    body = {name: value for name, value in (weights or {}).items() if not name.startswith("fc.")}
    network.load_state_dict({**network.state_dict(), **body})
    return network


def pretrained(known: ImageData, epochs: int, folder: Path) -> Weights:
    """Weights of the first training, of the epoch with the best validation accuracy; resumed if it was begun."""
    fitted = resnetlab.fit(
        new_network(known),
        known,
        epochs=epochs,
        optim="adam",
        lr=1e-3,
        schedule="cosine",
        augment=AUGMENT,
        folder=folder,
        resume="auto",
    )
    return fitted.best_weights


def trained(network: nn.Module, new: ImageData, few: Split, rate: float, seed: int) -> nn.Module:
    """Train every weight on the few images: STEPS batches with crop and flip, Adam, a cosine schedule."""
    repeated = few.subset(torch.arange(STEPS * BATCH) % len(few))
    resnetlab.fit(
        network,
        replace(new, train=repeated),
        steps=STEPS,
        batch_size=BATCH,
        optim="adam",
        lr=rate,
        schedule="cosine",
        augment=AUGMENT,
        seed=seed,
    )
    return network


@torch.inference_mode()
def outputs(network: nn.Module, images: Tensor, data: ImageData) -> Tensor:
    """Outputs of a network in evaluation mode, for uint8 images (N, H, W, C)."""
    network.eval().to("cpu", memory_format=torch.channels_last)  # a training may have left it on a GPU
    return torch.cat([network(data.preprocessing.normalize(part)) for part in images.split(500)])


def correct(predicted: Tensor, labels: Tensor) -> int:
    return int((predicted == labels).sum())


@dataclass
class Scores:
    """The scores so far, in a file; those that are there are not computed again."""

    file: Path
    new: ImageData
    weights: Weights

    def __post_init__(self) -> None:
        self.rows: list[Row] = json.loads(self.file.read_text()) if self.file.exists() else []

    def of(self, way: str, count: int, seed: int, setting: float, split: str) -> Row:
        """The score on `split` of a training on `count` images of each new class."""
        key = {"way": way, "count": count, "draw": seed, "setting": setting, "split": split}
        for row in self.rows:
            if key.items() <= row.items():
                return row
        few, scored = draw(self.new.train, count, seed), getattr(self.new, split)
        right = correct(self.predictions(way, few, scored.images, setting, seed), scored.labels)
        self.rows.append(key | {"right": right, "images": len(scored)})
        write_text(self.file, json.dumps(self.rows, indent=1) + "\n")
        return self.rows[-1]

    def predictions(self, way: str, few: Split, images: Tensor, setting: float, seed: int) -> Tensor:
        """Predicted classes of the images, after training on the few images in one of the three ways."""
        network = new_network(self.new, None if way == "from scratch" else self.weights, seed)
        if way == "frozen":
            network.fc = nn.Identity()
            head = make_pipeline(StandardScaler(), LogisticRegression(C=setting, max_iter=1000))
            head.fit(outputs(network, few.images, self.new).numpy(), few.labels.numpy())
            return torch.from_numpy(head.predict(outputs(network, images, self.new).numpy()))
        return outputs(trained(network, self.new, few, setting, seed), images, self.new).argmax(1)


def all_rows(scores: Scores) -> Iterator[Row]:
    """Choose a setting for each way and count on validation images, then score every draw on the test images."""
    for count in COUNTS:
        for way, settings in SETTINGS.items():
            tried = [scores.of(way, count, FOR_CHOICE, setting, "val") for setting in settings]
            yield from tried
            best = max(tried, key=lambda row: row["right"])["setting"]
            for seed in range(DRAWS):
                yield scores.of(way, count, seed, best, "test")


if __name__ == "__main__":
    main()
