"""From a list of image files to probabilities: our Classifier, and torchvision's network with its usual transforms."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers.common import Clock, Job, device, main


def lists(job: Job) -> Iterator[list[Path]]:
    """Endless lists of `batch` files."""
    files = itertools.cycle(sorted(Path(job.folder, "train").glob("*/*"))[:256])
    while True:
        yield list(itertools.islice(files, job.batch))


def ours(job: Job, clock: Clock) -> None:
    from resnetlab.data.preprocess import Preprocessing
    from resnetlab.inference.model_file import Model
    from resnetlab.inference.predict import Classifier
    from resnetlab.models import build_model
    from resnetlab.runtime import start

    side = job.image_size
    stored = side if side <= 64 else side * 256 // 224
    see = Preprocessing(image_size=side, resize_to=stored, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    network = build_model(job.model, 10, stem=job.stem)
    model = Model(network, tuple("0123456789"), see, {}, "")
    classifier = Classifier(model, start(precision="fp32"))  # what `resnetlab.load` gives
    clock.start()
    for files in lists(job):
        predictions = classifier(files) if len(files) > 1 else [classifier(files[0])]
        if clock.step(len(predictions)):
            return


def plain(job: Job, clock: Clock) -> None:
    import torch
    from PIL import Image
    from torchvision import transforms

    from benchmarks.peers.networks import plain_network

    side = job.image_size
    see = transforms.Compose(
        [
            transforms.Resize(side if side <= 64 else side * 256 // 224),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.25,) * 3),
        ]
    )
    where = device()
    model = plain_network(job.model, job.stem, 10).eval().to(where)
    layout = torch.channels_last if job.fast else torch.contiguous_format
    model.to(memory_format=layout)
    clock.start()
    with torch.inference_mode():
        for files in lists(job):
            images = torch.stack([see(Image.open(file).convert("RGB")) for file in files])
            probabilities = model(images.to(where, memory_format=layout)).softmax(1).cpu()
            if clock.step(len(probabilities)):
                return


def plain_fast(job: Job, clock: Clock) -> None:
    import dataclasses

    plain(dataclasses.replace(job, fast=True), clock)


if __name__ == "__main__":
    main({"ours": ours, "plain": plain, "plain_fast": plain_fast})
