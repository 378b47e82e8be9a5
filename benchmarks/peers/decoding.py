"""Batches for ImageNet without training: ours by store, in a process that is tuned as by `resnetlab train`, and
torchvision's in a DataLoader."""

from __future__ import annotations

from benchmarks.peers.common import Clock, Job, main


def ours(job: Job, clock: Clock, store: str) -> None:
    from resnetlab.cli.process import tune
    from resnetlab.data.pixels import in_turn
    from resnetlab.runs.build import make_batches, open_data
    from resnetlab.runs.recipes import RECIPES
    from resnetlab.runtime import start

    tune()
    config = RECIPES["imagenet-resnet50"]().changed(
        {"data": {"name": job.folder, "store": store}, "batch_size": job.batch}
    )
    runtime = start("auto")
    data = open_data(config.data)
    batches = make_batches(config, data, runtime).train
    clock.start()
    for epoch in range(10**6):
        if job.normalized:
            counts = (len(batch.labels) for batch in batches.epoch(epoch))
        else:
            rows = data.train.labels.new_tensor(range(len(data.train)))
            counts = map(len, in_turn(data.train.images, rows.split(job.batch)))
        for count in counts:
            if clock.step(count):
                return


def stream(job: Job, clock: Clock) -> None:
    ours(job, clock, "stream")


def cache(job: Job, clock: Clock) -> None:
    """Images that were decoded before, which is not timed."""
    ours(job, clock, "cache")


def plain(job: Job, clock: Clock) -> None:
    """As in torchvision's reference: Pillow decodes, and its images are cropped."""
    from torchvision import datasets, transforms

    cut = [transforms.RandomResizedCrop(job.image_size), transforms.RandomHorizontalFlip()]
    end = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)] if job.normalized else [transforms.PILToTensor()]
    torchvision(job, clock, datasets.ImageFolder(f"{job.folder}/train", transforms.Compose([*cut, *end])))


def tensors(job: Job, clock: Clock) -> None:
    """torchvision's fastest way: decoded to tensors, and cropped with its own resize of bytes."""
    import torch
    from torchvision import datasets
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms import v2

    cut = [v2.RandomResizedCrop(job.image_size, antialias=True), v2.RandomHorizontalFlip()]
    end = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)] if job.normalized else []
    torchvision(
        job,
        clock,
        datasets.ImageFolder(
            f"{job.folder}/train",
            v2.Compose([*cut, *end]),
            loader=lambda path: decode_jpeg(read_file(path), mode=ImageReadMode.RGB),
        ),
    )


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def torchvision(job: Job, clock: Clock, images) -> None:
    from torch.utils.data import DataLoader

    loader = DataLoader(
        images, job.batch, shuffle=True, num_workers=job.workers, drop_last=True, persistent_workers=True
    )
    clock.start()
    while True:
        for _, labels in loader:
            if clock.step(len(labels)):
                return


if __name__ == "__main__":
    main({"stream": stream, "cache": cache, "plain": plain, "tensors": tensors})
