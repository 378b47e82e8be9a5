"""The classic tutorial as people write it, to measure against: torchvision's ResNet-34, a DataLoader with PIL, fp32.

    python benchmarks/plain_script.py FOLDER --epochs 2

FOLDER has train/<class>/*; a tenth of it is held out for validation. Prints the seconds of each epoch, training and
validation together, as JSON. Deliberately does nothing clever: it is the other side of a comparison.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--model", default="resnet34")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=None, help="use only so many training images")
    options = parser.parse_args()

    torch.manual_seed(0)
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))]
    )
    images = datasets.ImageFolder(options.folder / "train", transform)
    held_out = len(images) // 10
    train, val = random_split(images, [len(images) - held_out, held_out])
    if options.images:
        train = Subset(train, range(options.images))
    loader = DataLoader(train, options.batch_size, shuffle=True, num_workers=options.workers)
    val_loader = DataLoader(val, options.batch_size, num_workers=options.workers)

    model = models.get_model(options.model, num_classes=len(images.classes))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_fn = nn.CrossEntropyLoss()
    for epoch in range(options.epochs):
        began = time.perf_counter()
        model.train()
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), labels)
            loss.backward()
            optimizer.step()
        train_seconds = time.perf_counter() - began
        model.eval()
        correct = 0
        with torch.no_grad():
            for inputs, labels in val_loader:
                correct += int((model(inputs).argmax(1) == labels).sum())
        report = {
            "epoch": epoch + 1,
            "images": len(train),
            "train_seconds": round(train_seconds, 2),
            "seconds": round(time.perf_counter() - began, 2),
            "val_accuracy": correct / len(val),
        }
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
