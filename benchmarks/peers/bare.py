"""A bare training loop: forward, loss, backward and SGD on one batch in memory, without a loader or augmentation.

It shows how fast a network trains when the data cost nothing. Fast: with bf16 autocast and channels_last; compiled:
with torch.compile too.
"""

from __future__ import annotations

from benchmarks.peers.common import Clock, Job, device, main

CLASSES = 10


def training(job: Job, clock: Clock) -> None:
    import torch
    from torch import nn

    from benchmarks.peers.networks import plain_network

    where = device()
    model = plain_network(job.model, job.stem, CLASSES).to(where).train()
    images = torch.randn(job.batch, 3, job.image_size, job.image_size, device=where)
    labels = torch.arange(job.batch, device=where) % CLASSES
    if job.fast:
        model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    if job.compiled:
        model.compile()
    if job.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loss_fn = nn.CrossEntropyLoss()
    clock.note("no loader and no augmentation: one batch in memory")
    clock.start()
    while True:
        optimizer.zero_grad()
        with torch.autocast(where, torch.bfloat16, enabled=job.fast):
            loss = loss_fn(model(images), labels)
        loss.backward()
        optimizer.step()
        if clock.step(job.batch):
            return


if __name__ == "__main__":
    main({"training": training})
