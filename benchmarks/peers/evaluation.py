"""10,000 images through ResNet-18 in evaluation mode: ours, the network alone, and the tutorial's loop."""

from __future__ import annotations

from benchmarks.peers.common import Clock, Job, device, main

WARM = 512  # images seen before the clock starts
BATCH = 256  # resnetlab's own


def ours(job: Job, clock: Clock, precision: str = "auto") -> None:
    from resnetlab.cli.process import keep_freed_memory
    from resnetlab.data.datasets import open_dataset
    from resnetlab.data.loaders import EvalBatches
    from resnetlab.evaluation.evaluate import evaluate
    from resnetlab.models import build_model
    from resnetlab.runtime import start

    keep_freed_memory()  # as `resnetlab evaluate` does
    runtime = start(precision=precision)
    data = open_dataset(job.folder, image_size=32)
    count = min(job.images, len(data.train))
    split = data.train.subset(range(count))
    model = runtime.place(build_model("resnet18", len(data.classes), image_size=32))
    clock.note(runtime.describe())
    clock.start()
    evaluate(model, EvalBatches(split.subset(range(min(WARM, count))), data.preprocessing, BATCH, runtime), runtime)
    while not clock.step(count):
        evaluate(model, EvalBatches(split, data.preprocessing, BATCH, runtime), runtime)


def bare(job: Job, clock: Clock, precision: str = "auto") -> None:
    import torch

    from resnetlab.models import build_model
    from resnetlab.runtime import start

    runtime = start(precision=precision)
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(job.images, 3, 32, 32, generator=draw).contiguous(memory_format=torch.channels_last)
    batches = images.to(runtime.device).split(BATCH)
    model = runtime.place(build_model("resnet18", 10, image_size=32)).eval()
    clock.note(runtime.describe())

    def forward(some) -> None:
        for batch in some:
            with runtime.autocast():
                model(batch)

    with torch.inference_mode():
        clock.start()
        forward(batches[: max(1, WARM // BATCH)])
        while not clock.step(job.images):
            forward(batches)


def plain(job: Job, clock: Clock) -> None:
    import torch
    from torch.utils.data import DataLoader, Subset
    from torchvision import datasets, transforms

    from benchmarks.peers.networks import plain_network
    from benchmarks.plain_script import NORMALIZE, accuracy

    images = datasets.ImageFolder(f"{job.folder}/train", transforms.Compose([transforms.ToTensor(), NORMALIZE]))
    count = min(job.images, len(images))
    chosen = torch.randperm(len(images))[:count].tolist()
    model = plain_network("resnet18", "cifar", len(images.classes)).to(device())
    autocast = torch.autocast(device(), torch.bfloat16, enabled=False)
    clock.start()
    accuracy(model, DataLoader(Subset(images, chosen[:WARM]), 128, num_workers=2), autocast)
    while not clock.step(count):
        accuracy(model, DataLoader(Subset(images, chosen), 128, num_workers=2), autocast)


if __name__ == "__main__":
    main(
        {
            "ours": ours,
            "bare": bare,
            "ours_fp32": lambda job, clock: ours(job, clock, "fp32"),
            "bare_fp32": lambda job, clock: bare(job, clock, "fp32"),
            "plain": plain,
        }
    )
