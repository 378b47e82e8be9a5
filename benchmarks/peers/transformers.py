"""Hugging Face's Trainer, with its own ResNet where it has one (the 7x7 stem), and torchvision's images.

Fast: `bf16`, `torch_compile` and loader workers (its default is none). It has no option for channels_last, so the model
is converted to that layout here.
"""

from __future__ import annotations

import os

from benchmarks.peers.common import Clock, Job, device, main

LAYERS = {  # depths, layer type, hidden sizes
    "resnet34": ([3, 4, 6, 3], "basic", [64, 128, 256, 512]),
    "resnet50": ([3, 4, 6, 3], "bottleneck", [256, 512, 1024, 2048]),
}


def training(job: Job, clock: Clock) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from torchvision import datasets
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from benchmarks.peers.plain import transform

    class Timed(TrainerCallback):
        def on_train_begin(self, *_: object, **__: object) -> None:
            clock.start()

        def on_step_end(self, _: object, __: object, control, **___: object) -> None:
            control.should_training_stop = clock.step(job.batch)

    images = datasets.ImageFolder(f"{job.folder}/train", transform(job))
    model = network(job, len(images.classes), clock)
    fast = {}
    if job.fast:
        model.to(memory_format=torch.channels_last)
        fast = {"bf16": True, "torch_compile": True, "dataloader_num_workers": os.cpu_count()}
    arguments = TrainingArguments(
        output_dir=job.scratch,
        per_device_train_batch_size=job.batch,
        max_steps=100_000,
        optim="sgd" if job.optimizer == "sgd" else "adamw_torch_fused",
        learning_rate=0.01,
        use_cpu=device() == "cpu",
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        **fast,
    )
    trainer = Trainer(model, arguments, train_dataset=images, data_collator=collate, callbacks=[Timed()])
    trainer.train()


def network(job: Job, classes: int, clock: Clock):
    """Their ResNet, or a plain network with the interface of their Trainer."""
    import torch

    from benchmarks.peers.networks import plain_network

    if job.stem == "imagenet" and job.model in LAYERS:
        from transformers import ResNetConfig, ResNetForImageClassification

        depths, kind, sizes = LAYERS[job.model]
        config = ResNetConfig(depths=depths, layer_type=kind, hidden_sizes=sizes, num_labels=classes)
        return ResNetForImageClassification(config)
    clock.note("the network is the plain one: transformers has no ResNet with a 3x3 stem")

    class WithLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = plain_network(job.model, job.stem, classes)

        def forward(self, pixel_values, labels):
            logits = self.network(pixel_values)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    return WithLoss()


def collate(samples):
    """Make a batch as in their examples."""
    import torch

    return {
        "pixel_values": torch.stack([image for image, _ in samples]),
        "labels": torch.tensor([label for _, label in samples]),
    }


if __name__ == "__main__":
    main({"training": training})
