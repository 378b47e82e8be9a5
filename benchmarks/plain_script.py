"""The classic tutorial as people write it, to measure against: torchvision's network, DataLoader, PIL, Adam, fp32.

    python benchmarks/plain_script.py FOLDER --epochs 2

FOLDER has train/<class>/*; a tenth of it is held out for validation. Prints the seconds of each epoch, training and
validation together, as JSON. Deliberately does nothing clever: it is the other side of a comparison.

`--stem cifar` is the usual change for small images (3x3 convolution, no pooling), `--augment` crops and flips, and
`--checkpoint FILE` makes a long run one that can be killed and started again. `--bf16` (autocast and channels_last)
is not the tutorial's: it is there to learn in reasonable time how accurate the script becomes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, random_split
from torchvision import datasets, models, transforms

NORMALIZE = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def accuracy(model: nn.Module, loader: DataLoader, autocast: torch.autocast) -> float:
    model.eval()
    correct = images = 0
    with torch.no_grad(), autocast:
        for inputs, labels in loader:
            correct += int((model(inputs).argmax(1) == labels).sum())
            images += len(labels)
    return correct / images


def main() -> None:  # noqa: PLR0915 - one long function, as such scripts are
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--model", default="resnet34")
    parser.add_argument("--stem", choices=("imagenet", "cifar"), default="imagenet")
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=None, help="use only so many training images")
    options = parser.parse_args()

    torch.manual_seed(0)
    plain = transforms.Compose([transforms.ToTensor(), NORMALIZE])
    varied = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), plain])
    images = datasets.ImageFolder(options.folder / "train", plain)
    held_out = len(images) // 10
    train, val = random_split(images, [len(images) - held_out, held_out])
    if options.augment:
        train = Subset(datasets.ImageFolder(options.folder / "train", varied), train.indices)
    if options.images:
        train = Subset(train, range(options.images))
    loader = DataLoader(train, options.batch_size, shuffle=True, num_workers=options.workers)
    val_loader = DataLoader(val, options.batch_size, num_workers=options.workers)

    model = models.get_model(options.model, num_classes=len(images.classes))
    if options.stem == "cifar":
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    if options.bf16:
        model.to(memory_format=torch.channels_last)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=options.bf16)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_fn = nn.CrossEntropyLoss()
    reports: list[dict[str, float]] = []
    if options.checkpoint and options.checkpoint.exists():
        saved = torch.load(options.checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        reports = saved["reports"]
    for epoch in range(len(reports), options.epochs):
        began = time.perf_counter()
        model.train()
        for inputs, labels in loader:
            optimizer.zero_grad()
            with autocast:
                loss = loss_fn(model(inputs), labels)
            loss.backward()
            optimizer.step()
        train_seconds = time.perf_counter() - began
        report = {
            "epoch": epoch + 1,
            "images": len(train),
            "train_seconds": round(train_seconds, 2),
            "val_accuracy": accuracy(model, val_loader, autocast),
            "seconds": round(time.perf_counter() - began, 2),
        }
        reports.append(report)
        print(json.dumps(report), flush=True)
        if options.checkpoint:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "rng": torch.get_rng_state(), "reports": reports}, options.checkpoint)
    if (options.folder / "test").is_dir():
        test = DataLoader(datasets.ImageFolder(options.folder / "test", plain), options.batch_size)
        print(json.dumps({"test_accuracy": accuracy(model, test, autocast)}), flush=True)


if __name__ == "__main__":
    main()
