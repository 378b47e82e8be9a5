"""Training batches without training: ours from memory, and the tutorial's DataLoader with PIL."""

from __future__ import annotations

from benchmarks.peers.common import Clock, Job, main


def ours(job: Job, clock: Clock) -> None:
    from resnetlab.data.loaders import TrainBatches
    from resnetlab.runs.build import make_augmentations, open_data
    from resnetlab.runs.config import AugmentConfig, DataConfig
    from resnetlab.runtime import start

    runtime = start()
    data = open_data(DataConfig(name=job.folder, image_size=32))
    steps = make_augmentations(AugmentConfig(crop=4, flip=True), 32)
    batches = TrainBatches(data.train, data.preprocessing, steps, job.batch, 0, runtime)
    clock.note("made by the process that trains, without workers")
    clock.start()
    for epoch in range(10**6):
        for batch in batches.epoch(epoch):
            if clock.step(len(batch.labels)):
                return


def plain(job: Job, clock: Clock) -> None:
    from torch.utils.data import DataLoader
    from torchvision import datasets

    from benchmarks.peers.plain import transform

    images = datasets.ImageFolder(f"{job.folder}/train", transform(job))
    loader = DataLoader(images, job.batch, shuffle=True, num_workers=2, drop_last=True)
    clock.start()
    while True:
        for _, labels in loader:
            if clock.step(len(labels)):
                return


if __name__ == "__main__":
    main({"ours": ours, "plain": plain})
