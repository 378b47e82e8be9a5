"""fastai's Learner, loaders and optimiser.

Fast: its ChannelsLast callback, torch.compile, and bf16. Its own `to_bf16` uses CUDA's autocast on every device and has
no effect on the CPU; there the same callback gets the CPU's autocast.
"""

from __future__ import annotations

from benchmarks.peers.common import Clock, Job, device, main


def training(job: Job, clock: Clock) -> None:
    import torch
    from fastai.callback.channelslast import ChannelsLast
    from fastai.callback.fp16 import AMPMode, MixedPrecision
    from fastai.vision import all as vision

    from benchmarks.peers.networks import plain_network

    class Timed(vision.Callback):
        def before_fit(self) -> None:
            clock.start()

        def after_batch(self) -> None:
            if clock.step(len(self.y)):
                raise vision.CancelFitException

    class MixedPrecisionHere(MixedPrecision):
        def before_fit(self) -> None:
            super().before_fit()
            self.autocast = torch.autocast(device(), torch.bfloat16)

    loaders = vision.ImageDataLoaders.from_folder(
        job.folder, train="train", valid_pct=0.1, bs=job.batch, **transforms(job, vision)
    )
    model = plain_network(job.model, job.stem, loaders.c)
    optimizer = vision.SGD if job.optimizer == "sgd" else vision.Adam
    callbacks = [Timed()]
    if job.fast:
        model = torch.compile(model)
        callbacks += [ChannelsLast(), MixedPrecisionHere(AMPMode.BF16)]
        clock.note("to_bf16 does nothing on the CPU (autocast('cuda')); its callback was given autocast('cpu')")
    learner = vision.Learner(
        loaders, model, vision.CrossEntropyLossFlat(), opt_func=optimizer, cbs=callbacks, train_bn=True
    )
    learner.fit(100, lr=0.01)


def transforms(job: Job, vision):
    """fastai's closest equivalent of the other contenders' augmentation."""
    if job.image_size > 64:
        item, batch = [vision.RandomResizedCrop(job.image_size, min_scale=0.08)], [vision.Flip()]
    elif job.augment:
        item, batch = [vision.CropPad(job.image_size + 8), vision.RandomCrop(job.image_size)], [vision.Flip()]
    else:
        item, batch = [], []
    return {"item_tfms": item, "batch_tfms": [*batch, vision.Normalize.from_stats(*vision.cifar_stats)]}


if __name__ == "__main__":
    main({"training": training})
