"""Our training, or its data pipeline alone, on images generated in memory."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.peers.common import Clock, Job, main

CLASSES = 10


def made_images(images: int, side: int) -> Any:
    """Data set of noise with this many training images, filled in place; the other splits have two images each."""
    import torch

    from resnetlab.data.datasets import ImageData
    from resnetlab.data.preprocess import Preprocessing
    from resnetlab.data.reading import require_memory
    from resnetlab.data.splits import Split

    require_memory(images * side * side * 3, f"{images:,} images of {side}×{side} pixels")
    draw = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        pixels = torch.empty(count, side, side, 3, dtype=torch.uint8).random_(0, 256, generator=draw)
        labels = torch.randint(0, CLASSES, (count,), generator=draw)
        return Split(pixels, labels, tuple(f"{number:07d}" for number in range(count)))

    see = Preprocessing(image_size=side, resize_to=side, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    names = tuple(map(str, range(CLASSES)))
    return ImageData("noise", names, split(images), split(2), split(2), see)


def config_of(job: Job) -> Any:
    """Return the settings of a training for all steps of a job, two of which are spare."""
    from resnetlab.runs.config import AugmentConfig, ModelConfig, OptimConfig, RunConfig

    return RunConfig(
        model=ModelConfig(name=job.model, stem=job.stem),
        augment=AugmentConfig(crop=4, flip=True),
        optim=OptimConfig(lr=0.01),
        batch_size=job.batch,
        steps=job.warmup + job.steps + 2,
    )


def training(job: Job, clock: Clock) -> None:
    from resnetlab.cli.process import keep_freed_memory
    from resnetlab.models.summary import count_macs
    from resnetlab.runs import build
    from resnetlab.runtime import start
    from resnetlab.training.loop import StepDone, fit

    keep_freed_memory()  # as `resnetlab train` does
    runtime, config = start(), config_of(job)
    data = made_images(config.steps * job.batch, job.image_size)
    network, _ = build.make_network(config, data)
    work = count_macs(network, job.image_size) * job.batch
    clock.result |= {"work": work, "images_of_work": job.batch, "batch": job.batch}
    batches = build.make_batches(config, data, runtime)
    plan, state = build.make_plan(config, len(batches.train)), build.make_state(config, network, runtime)
    clock.start()
    for event in fit(state, batches, plan, runtime):
        if isinstance(event, StepDone) and clock.step(job.batch):
            break


def pipeline(job: Job, clock: Clock) -> None:
    """Time the data pipeline; work is the images of an epoch, `epoch_seconds` the time to its first batch."""
    from resnetlab.data.loaders import TrainBatches
    from resnetlab.runs.build import make_augmentations
    from resnetlab.runs.config import AugmentConfig
    from resnetlab.runtime import start

    data = made_images(job.images, job.image_size)
    steps = make_augmentations(AugmentConfig(crop=4, flip=True), job.image_size)
    batches = TrainBatches(data.train, data.preprocessing, steps, job.batch, 0, start())
    clock.result |= {"work": job.images, "images_of_work": job.images, "batch": job.batch}
    next(batches.epoch(0))  # one-time work
    clock.start()
    for epoch in range(1, 10**6):
        began = time.perf_counter()
        for number, batch in enumerate(batches.epoch(epoch)):
            if epoch == 1 and number == 0:
                clock.result["epoch_seconds"] = time.perf_counter() - began
            if clock.step(len(batch.labels)):
                return


if __name__ == "__main__":
    main({"training": training, "pipeline": pipeline})
