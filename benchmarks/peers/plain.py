"""The tutorial script of `plain_script.py`, step by step; fast: with bf16 autocast and channels_last."""

from __future__ import annotations

from benchmarks.peers.common import Clock, Job, device, main


def training(job: Job, clock: Clock) -> None:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from torchvision import datasets

    from benchmarks.peers.networks import plain_network

    images = datasets.ImageFolder(f"{job.folder}/train", transform(job))
    loader = DataLoader(images, job.batch, shuffle=True, num_workers=2, drop_last=True)
    where = device()
    model = plain_network(job.model, job.stem, len(images.classes)).to(where)
    if job.fast:
        model.to(memory_format=torch.channels_last)
    autocast = torch.autocast(where, torch.bfloat16, enabled=job.fast)
    if job.optimizer == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loss_fn = nn.CrossEntropyLoss()
    model.train()
    clock.note("fp32" if not job.fast else "bf16 autocast, channels_last")
    clock.start()
    while True:
        for inputs, labels in loader:
            inputs, labels = inputs.to(where), labels.to(where)  # noqa: PLW2901
            optimizer.zero_grad()
            with autocast:
                loss = loss_fn(model(inputs), labels)
            loss.backward()
            optimizer.step()
            if clock.step(len(labels)):
                return


def transform(job: Job):
    """The tutorials' transform for images of this size."""
    from torchvision import transforms

    if job.image_size > 64:
        cut = [transforms.RandomResizedCrop(job.image_size), transforms.RandomHorizontalFlip()]
    elif job.augment:
        cut = [transforms.RandomCrop(job.image_size, padding=4), transforms.RandomHorizontalFlip()]
    else:
        cut = []
    normalize = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    return transforms.Compose([*cut, transforms.ToTensor(), normalize])


if __name__ == "__main__":
    main({"training": training})
