"""timm's network, loader, transforms and optimiser, in the loop of its `train.py` (which the package does not contain).

Fast: `--amp --amp-dtype bfloat16 --channels-last --torchcompile`, and as many loader workers as cores.
"""

from __future__ import annotations

import os
from contextlib import nullcontext

from benchmarks.peers.common import Clock, Job, device, main


def training(job: Job, clock: Clock) -> None:
    import timm
    import torch
    from timm.data import create_dataset
    from timm.optim import create_optimizer_v2

    from benchmarks.peers.networks import UNITS, plain_network, with_small_stem

    where = torch.device(device())
    images = create_dataset("", root=job.folder, split="train", is_training=True)
    classes = len(images.reader.class_to_idx)
    loader = make_loader(job, images, where)
    if job.model in UNITS:
        model = plain_network(job.model, job.stem, classes)
        clock.note("the network is the plain one: timm has no CIFAR nets")
    else:
        model = timm.create_model(job.model, num_classes=classes)
        if job.stem == "cifar":
            with_small_stem(model)
    model.to(where)
    if job.fast:
        model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt=job.optimizer, lr=0.01, momentum=0.9)
    if job.fast:
        model = torch.compile(model, backend="inductor")
    autocast = torch.autocast(where.type, torch.bfloat16) if job.fast else nullcontext()
    loss_fn = torch.nn.CrossEntropyLoss()
    model.train()
    clock.start()
    while True:
        for inputs, labels in loader:
            if job.fast:
                inputs = inputs.contiguous(memory_format=torch.channels_last)  # noqa: PLW2901
            with autocast:
                loss = loss_fn(model(inputs), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if clock.step(len(labels)):
                return


def make_loader(job: Job, images, where):
    """timm's loader as in its `train.py`: 4 workers by default, pixels normalised by the prefetcher."""
    from timm.data import create_loader

    return create_loader(
        images,
        input_size=(3, job.image_size, job.image_size),
        batch_size=job.batch,
        is_training=True,
        no_aug=not job.augment,
        color_jitter=None,  # as for the others: only random resized crop and flip
        num_workers=os.cpu_count() if job.fast else 4,
        device=where,
    )


def data(job: Job, clock: Clock) -> None:
    """The loader alone."""
    import torch
    from timm.data import create_dataset

    where = torch.device(device())
    loader = make_loader(job, create_dataset("", root=job.folder, split="train", is_training=True), where)
    if not job.normalized:
        loader = loader.loader  # without the prefetcher, which normalises
    clock.start()
    while True:
        for _, labels in loader:
            if clock.step(len(labels)):
                return


if __name__ == "__main__":
    main({"training": training, "data": data})
