"""From a folder of image files to a table of classes, in plain torchvision: one by one, and in batches."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

CLASSES = tuple(f"class{number}" for number in range(10))
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def prepare(job: dict[str, Any]) -> None:
    """Write a network that is not trained but gives all classes, as a model file and as weights for torchvision."""
    import torch
    from safetensors.torch import save_file

    from resnetlab.data.preprocess import Preprocessing
    from resnetlab.inference.model_file import save_model
    from resnetlab.models import build_model

    size, scratch = job["image_size"], Path(job["scratch"])
    network = build_model("resnet18", len(CLASSES), stem=job["stem"])
    preprocessing = Preprocessing(size, stored_size(size), 3, MEAN, STD)
    files = sorted(Path(job["folder"]).iterdir())[:64]
    images = preprocessing.normalize(torch.stack([torch.from_numpy(preprocessing.read(file)) for file in files]))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the statistics of one batch
        network(images)
        logits = network.eval()(images)
        network.fc.weight /= logits.std(0)[:, None]
        network.fc.bias.copy_((network.fc.bias - logits.mean(0)) / logits.std(0))
    save_model(scratch / "model.safetensors", network, CLASSES, preprocessing, {})
    save_file(network.state_dict(), scratch / "weights.safetensors")


def stored_size(size: int) -> int:
    return size if size <= 64 else size * 256 // 224


def network_and_transform(job: dict[str, Any]) -> tuple[Any, Any]:
    from safetensors.torch import load_file
    from torchvision import transforms

    from benchmarks.peers.networks import plain_network

    model = plain_network("resnet18", job["stem"], len(CLASSES))
    model.load_state_dict(load_file(Path(job["scratch"]) / "weights.safetensors"))
    steps = [transforms.Resize(stored_size(job["image_size"])), transforms.CenterCrop(job["image_size"])]
    return model.eval(), transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def one_by_one(job: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    import torch
    from PIL import Image

    model, transform = network_and_transform(job)
    with torch.inference_mode():
        for file in sorted(Path(job["folder"]).iterdir()):
            image = transform(Image.open(file).convert("RGB"))
            yield file, CLASSES[int(model(image[None]).softmax(1).argmax())]


def batched(job: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    import torch
    from torch.utils.data import DataLoader

    model, transform = network_and_transform(job)
    is_fast = job["precision"] == "bf16"
    layout = torch.channels_last if is_fast else torch.contiguous_format
    model.to(memory_format=layout)
    files = sorted(Path(job["folder"]).iterdir())
    loader = DataLoader(Files(files, transform), batch_size=64, num_workers=2)
    found: list[str] = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=is_fast):
        for images in loader:
            probabilities = model(images.to(memory_format=layout)).float().softmax(1)
            found += [CLASSES[index] for index in probabilities.argmax(1).tolist()]
    yield from zip(files, found, strict=True)


class Files:
    """A data set of image files, for a DataLoader."""

    def __init__(self, files: list[Path], transform: Any) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        return self.transform(Image.open(self.files[index]).convert("RGB"))


def write(table: Path, rows: Iterable[tuple[Path, str]]) -> None:
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "predicted"])
        writer.writerows((path.name, name) for path, name in rows)


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    if job["task"] == "prepare":
        prepare(job)
    else:
        way = {"one_by_one": one_by_one, "batched": batched}[job["task"]]
        write(Path(job["scratch"], f"{job['task']}-{job['precision']}.csv"), way(job))
