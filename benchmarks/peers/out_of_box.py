"""Train a peer from scratch with its defaults, and print its accuracy on test/ as a line of JSON.

Usage: python -m benchmarks.peers.out_of_box fastai|ultralytics FOLDER SIDE EPOCHS SEED SCRATCH

fastai: a ResNet-18 without weights, images at their own size, `aug_transforms()`, and `fit_one_cycle`. ultralytics:
yolov8n-cls from its .yaml, and its own augmentation; its images have 32 pixels or more. It refuses files of less than
10 pixels, so these are enlarged for it first.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

SMALLEST_FILE = 10  # pixels, for ultralytics


def enlarged(folder: Path, target: Path, side: int) -> Path:
    from PIL import Image

    for file in folder.rglob("*.png"):
        place = target / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            image.resize((side, side), Image.Resampling.BILINEAR).save(place)
    return target


def fastai(folder: Path, side: int, epochs: int, seed: int, scratch: Path) -> float:
    from fastai.vision import all as vision

    vision.set_seed(seed)
    loaders = vision.ImageDataLoaders.from_folder(
        folder, train="train", valid="val", item_tfms=vision.Resize(side), batch_tfms=vision.aug_transforms()
    )
    learner = vision.vision_learner(loaders, vision.resnet18, pretrained=False, metrics=vision.accuracy, path=scratch)
    learner.fit_one_cycle(epochs)
    files = vision.get_image_files(folder / "test")
    scores, _ = learner.get_preds(dl=learner.dls.test_dl(files))
    names = [loaders.vocab[int(index)] for index in scores.argmax(1)]
    return sum(file.parent.name == name for file, name in zip(files, names, strict=True)) / len(files)


def ultralytics(folder: Path, side: int, epochs: int, seed: int, scratch: Path) -> float:
    os.environ["YOLO_CONFIG_DIR"] = str(scratch)
    os.environ["YOLO_OFFLINE"] = "true"
    from ultralytics import YOLO

    size = max(32, side)
    if side < SMALLEST_FILE:
        folder = enlarged(folder, scratch / "enlarged", size)
    model = YOLO("yolov8n-cls.yaml")
    model.train(data=str(folder), epochs=epochs, imgsz=size, seed=seed, project=str(scratch), pretrained=False)
    return float(model.val(data=str(folder), split="test", imgsz=size, project=str(scratch)).top1)


if __name__ == "__main__":
    peer, folder, side, epochs, seed, scratch = sys.argv[1:]
    train = {"fastai": fastai, "ultralytics": ultralytics}[peer]
    accuracy = train(Path(folder), int(side), int(epochs), int(seed), Path(scratch))
    print("\n" + json.dumps({"accuracy": accuracy}))  # on a line of its own, below a progress bar
