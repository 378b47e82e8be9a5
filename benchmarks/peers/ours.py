"""resnetlab's training loop, as `resnetlab train` runs it: the process tuned, then `fit` over an `Experiment`."""

from __future__ import annotations

from benchmarks.peers.common import Clock, Job, main


def training(job: Job, clock: Clock) -> None:
    from resnetlab.cli.process import tune
    from resnetlab.runs.build import Experiment
    from resnetlab.runs.config import AugmentConfig, DataConfig, ModelConfig, OptimConfig, RunConfig
    from resnetlab.training.loop import StepDone, fit

    tune()
    if not job.augment:
        augment = AugmentConfig()
    elif job.image_size > 64:
        augment = AugmentConfig(resized_crop=0.08, flip=True)
    else:
        augment = AugmentConfig(crop=4, flip=True)
    steps = job.warmup + job.steps
    config = RunConfig(
        data=DataConfig(name=job.folder, image_size=job.image_size),
        model=ModelConfig(name=job.model, stem=job.stem),
        augment=augment,
        optim=OptimConfig(name=job.optimizer, lr=0.01 if job.optimizer == "sgd" else 1e-3),
        batch_size=job.batch,
        steps=steps + 8,  # spare steps: prefetching continues to the end of the timed ones
    )
    experiment = Experiment.of(config)
    if len(experiment.batches.train) < steps:
        raise SystemExit(f"{job.folder} has too few images for {steps} steps of {job.batch}")
    clock.note(experiment.runtime.describe())
    clock.start()
    for event in fit(experiment.state, experiment.batches, experiment.plan, experiment.runtime):
        if isinstance(event, StepDone) and clock.step(job.batch):
            break


if __name__ == "__main__":
    main({"training": training})
