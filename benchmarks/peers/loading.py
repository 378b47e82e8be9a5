"""Training batches without training: ours from memory, and the tutorial's DataLoader with PIL.

Our process is tuned as by `resnetlab train`.

In the tasks "…_in_memory", both have the same pixels in memory, as torchvision's CIFAR10 has them, and crop, flip, cut
out a square of 8 pixels and normalise.
"""

from __future__ import annotations

from functools import partial

from benchmarks.peers.common import Clock, Job, main


def ours(job: Job, clock: Clock) -> None:
    from resnetlab.cli.process import tune
    from resnetlab.data.loaders import TrainBatches
    from resnetlab.runs.build import make_augmentations, open_data
    from resnetlab.runs.config import AugmentConfig, DataConfig
    from resnetlab.runtime import start

    tune()
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


def ours_in_memory(job: Job, clock: Clock) -> None:
    import torch

    from resnetlab.cli.process import tune
    from resnetlab.data.loaders import TrainBatches
    from resnetlab.data.preprocess import STATISTICS, for_size, with_statistics
    from resnetlab.data.splits import Split
    from resnetlab.runs.build import make_augmentations
    from resnetlab.runs.config import AugmentConfig
    from resnetlab.runtime import start

    tune()
    runtime = start()
    pixels, labels = images_in_memory(job)
    split = Split(torch.from_numpy(pixels), torch.tensor(labels), tuple(map(str, range(len(labels)))))
    steps = make_augmentations(AugmentConfig(crop=4, flip=True, cutout=8), 32)
    see = with_statistics(for_size(32, 3, "crop"), STATISTICS["cifar10"])
    batches = TrainBatches(split, see, steps, job.batch, 0, runtime)
    clock.start()
    for epoch in range(10**6):
        for batch in batches.epoch(epoch):
            if clock.step(len(batch.labels)):
                return


def torchvision_in_memory(job: Job, clock: Clock, *, v2: bool = False) -> None:
    import torch
    from torch.utils.data import DataLoader, Dataset

    if v2:
        from torchvision.transforms import v2 as transforms

        to_tensor = [transforms.ToImage(), transforms.ToDtype(torch.float32, scale=True)]
    else:
        from torchvision import transforms

        to_tensor = [transforms.ToTensor()]
    pixels, labels = images_in_memory(job)
    square = (8 / 32) ** 2
    change = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            *to_tensor,
            transforms.RandomErasing(p=1, scale=(square, square), ratio=(1, 1)),
            transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ]
    )

    class Images(Dataset):
        """As torchvision.datasets.CIFAR10: an array, of which each image becomes one of PIL."""

        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, index: int):
            from PIL import Image

            return change(Image.fromarray(pixels[index])), labels[index]

    loader = DataLoader(Images(), job.batch, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True)
    clock.start()
    while True:
        for _, found in loader:
            if clock.step(len(found)):
                return


def images_in_memory(job: Job):
    """Random images, uint8 (N, 32, 32, 3), and their labels."""
    import numpy as np

    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (job.images, 32, 32, 3), np.uint8), draw.integers(0, 10, job.images).tolist()


if __name__ == "__main__":
    main(
        {
            "ours": ours,
            "plain": plain,
            "ours_in_memory": ours_in_memory,
            "torchvision_in_memory": torchvision_in_memory,
            "torchvision_v2_in_memory": partial(torchvision_in_memory, v2=True),
        }
    )
