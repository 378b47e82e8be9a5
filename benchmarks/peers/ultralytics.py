"""ultralytics' classification trainer, its data set and its optimiser, around torchvision's networks.

Fast: `compile`. Its `amp` and `channels_last` are for CUDA only: on the CPU, `amp` raises an error for bf16 and is
switched off for fp16, and `channels_last` is ignored with a warning.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.peers.common import Clock, Job, device, main


def training(job: Job, clock: Clock) -> None:
    os.environ["YOLO_CONFIG_DIR"] = job.scratch
    os.environ["YOLO_OFFLINE"] = "true"
    import torch
    from ultralytics.models.yolo.classify import ClassificationTrainer
    from ultralytics.nn.tasks import ClassificationModel

    from benchmarks.peers.networks import plain_network

    class Network(ClassificationModel):
        """Their model with another network."""

        def __init__(self, classes: int) -> None:
            super().__init__("yolov8n-cls.yaml", nc=classes, verbose=False)
            self.model = torch.nn.Sequential(plain_network(job.model, job.stem, classes))

        def predict(self, x, *_: object, **__: object):
            return self.model(x)

    class Timed(ClassificationTrainer):
        def get_model(self, *_: object, **__: object) -> Network:
            return Network(self.data["nc"])

        def setup_model(self) -> None:
            self.model = self.get_model()

    settings = {
        "model": "yolov8n-cls.yaml",
        "data": str(folder_with_validation(Path(job.folder), Path(job.scratch))),
        "epochs": 100,
        "imgsz": job.image_size,
        "batch": job.batch,
        "optimizer": "SGD" if job.optimizer == "sgd" else "Adam",
        "lr0": 0.01,
        "device": "0" if device() == "cuda" else "cpu",
        "project": job.scratch,
        "pretrained": False,
        "plots": False,
        "val": False,
        "save": False,
        "auto_augment": None,  # as for the others: only random resized crop and flip
        "erasing": 0.0,
        "hsv_h": 0.0,
        "hsv_s": 0.0,
        "hsv_v": 0.0,
        "scale": 0.92 if job.augment else 0.0,
        "fliplr": 0.5 if job.augment else 0.0,
        "compile": job.fast,
    }
    if device() == "cuda" and job.fast:
        settings |= {"amp": "bf16", "channels_last": True}
    elif job.fast:
        clock.note("amp and channels_last work on CUDA alone: fp32 and NCHW, compiled")
    trainer = Timed(overrides=settings)
    trainer.add_callback("on_train_epoch_start", lambda _: clock.done or clock.start())
    trainer.add_callback("on_train_batch_end", lambda _: leave_after(clock, job))
    try:
        trainer.train()
    except Done:
        clock.note(f"{trainer.args.workers} loader workers, average of the weights on")


class Done(Exception):
    """The last step is done; this skips the validation and saving at the end of their loop."""


def leave_after(clock: Clock, job: Job) -> None:
    if clock.step(job.batch):
        raise Done


def folder_with_validation(folder: Path, scratch: Path) -> Path:
    """Folder of links with the `val` that they require but do not use here."""
    linked = scratch / "images"
    linked.mkdir()
    (linked / "train").symlink_to((folder / "train").resolve())
    (linked / "val").symlink_to((folder / ("test" if (folder / "test").is_dir() else "train")).resolve())
    return linked


if __name__ == "__main__":
    main({"training": training})
