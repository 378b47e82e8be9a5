"""The wiring of a run: from a config to a trained, scored and plotted run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from resnetlab.assembly import make_batches, make_network, make_plan, make_state, open_data, resolved
from resnetlab.config import RunConfig
from resnetlab.console import Voice
from resnetlab.data.datasets import ImageData
from resnetlab.errors import Stopped
from resnetlab.evaluation.metrics import Score
from resnetlab.facts import environment, epoch_line, introduction, provenance, score_line, split_facts
from resnetlab.model_file import read_model, save_model
from resnetlab.models.resnet import ResNet
from resnetlab.run_folder import RunFolder, next_folder
from resnetlab.runtime import Runtime, start
from resnetlab.scoring import SplitName, score_split
from resnetlab.stopping import StopRequest
from resnetlab.training.checkpoint import save_checkpoint
from resnetlab.training.loop import Batches, EpochReport, Plan, StepDone, TrainState, fit
from resnetlab.training.selection import best_epoch

DRAW_EVERY = 20  # seconds between two drawings of curves.png; it takes about half a second


@dataclass(frozen=True)
class Experiment:
    """The objects of a run, made from its config."""

    config: RunConfig
    runtime: Runtime
    data: ImageData
    network: ResNet
    batches: Batches
    plan: Plan
    state: TrainState
    notes: list[str]  # what a person should know about data and weights

    @classmethod
    def of(cls, config: RunConfig) -> Experiment:
        runtime = start(config.device, config.precision)
        data = open_data(config.data)
        network, notes = make_network(config, data)
        batches = make_batches(config, data, runtime)
        plan = make_plan(config, len(batches.train))
        state = make_state(config, network, runtime)
        return cls(config, runtime, data, network, batches, plan, state, [*data.notes, *notes])


def train(
    config: RunConfig, folder: Path | str | None = None, *, voice: Voice | None = None, max_minutes: float | None = None
) -> RunFolder:
    """Train, score and plot a run in a new or empty folder (default: `runs/<recipe>-NNN`).

    Raises BadInput before anything is written, NonFinite, or Stopped (it can be resumed).
    """
    voice, stop = voice or Voice(), StopRequest(max_minutes)
    path = Path(folder) if folder is not None else next_folder(config.recipe)
    RunFolder.require_free(path)
    experiment = Experiment.of(resolved(config))
    run = RunFolder.create(path)
    run.write("config.json", experiment.config.to_json())
    run.write("split.json", split_facts(experiment.data, config.data.split_seed))
    return carry_out(experiment, run, voice, stop)


def carry_out(experiment: Experiment, run: RunFolder, voice: Voice, stop: StopRequest) -> RunFolder:
    """From wherever the experiment is to the end: train, then score."""
    voice.keep(run.log)
    run.write("environment.json", environment(experiment.runtime))
    for line in introduction(experiment.config, experiment.data, experiment.network, experiment.runtime):
        voice.say(line)
    for note in experiment.notes:
        voice.say(f"note     {note}")
    with stop.listening(), voice.bar() as bar:
        for event in fit(experiment.state, experiment.batches, experiment.plan, experiment.runtime):
            if isinstance(event, StepDone):
                bar.show(f"epoch {event.epoch + 1}", event.batch, event.batches)
            else:
                is_best = keep_epoch(experiment, run, event)
                epochs = -(-experiment.plan.steps // len(experiment.batches.train))
                voice.say(epoch_line(event, epochs, is_best=is_best))
            reason = stop.reason
            if reason or is_due(experiment, run):
                save(experiment, run)
            if reason:
                raise Stopped(
                    f"stopped by {reason} at step {experiment.state.step} of {experiment.plan.steps}; "
                    f"go on with: resnetlab resume {run.path}"
                )
    try:
        finish(experiment, run, voice)
    except KeyboardInterrupt:
        raise Stopped(f"interrupted while scoring; go on with: resnetlab resume {run.path}") from None
    return run


def keep_epoch(experiment: Experiment, run: RunFolder, report: EpochReport) -> bool:
    """Write what an epoch brought, and say whether it is the best so far.

    The order matters: the checkpoint comes last and commits the rest.
    """
    state, data = experiment.state, experiment.data
    is_best = best_epoch(state.scores, experiment.config.best_by) == report.epoch - 1
    if is_best:
        facts = provenance(experiment.config, data, report)
        save_model(run.best, state.average.model, data.classes, data.preprocessing, facts)
    run.record(report)
    save(experiment, run)
    if run.seconds_since("curves.png") > DRAW_EVERY:
        draw_curves(experiment.config, run)
    return is_best


def is_due(experiment: Experiment, run: RunFolder) -> bool:
    """Whether it is time for a checkpoint within an epoch."""
    state, when = experiment.state, experiment.config.checkpoint
    if not state.batch:
        return False  # an epoch has just been kept
    by_steps = when.every_steps is not None and state.step % when.every_steps == 0
    return by_steps or (when.every_minutes is not None and run.seconds_since("checkpoints") > 60 * when.every_minutes)


def save(experiment: Experiment, run: RunFolder) -> None:
    """Write a checkpoint, and let go of the oldest."""
    facts = {"config": experiment.config.to_json(), "environment": experiment.runtime.facts()}
    save_checkpoint(run.checkpoint_path(experiment.state.step), experiment.state, facts)
    run.retain(experiment.config.checkpoint.keep)


def finish(experiment: Experiment, run: RunFolder, voice: Voice) -> None:
    """Score the best weights on validation and, once, on the test split; what is there already is kept."""
    model = read_model(run.best)
    splits: list[SplitName] = ["val", "test"] if experiment.config.final_test == "once" else ["val"]
    for split in splits:
        scores = run.final_metrics(split)
        if scores is None or scores["weights_digest"] != model.weights_digest:
            scores = score_split(model, experiment.data, split, experiment.runtime.device, run.evaluation(split))
        voice.say(score_line(scores))
    draw_curves(experiment.config, run)
    voice.say(f"the run is in {run.path}: curves.png, best.safetensors, evaluation/")


def draw_curves(config: RunConfig, run: RunFolder) -> None:
    from resnetlab.evaluation import plots  # matplotlib takes its time to import

    rows = run.rows
    scores = [Score(row["val_loss"], row["val_accuracy"], row["val_macro_f1"]) for row in rows]
    title = f"{config.model.name} on {Path(config.data.name).name}"
    best = best_epoch(scores, config.best_by) + 1
    plots.save(plots.curves(rows, run.final_metrics("test"), title, best_epoch=best), run.path / "curves.png")
