"""A run from its config to a trained, scored and plotted run folder."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from pathlib import Path

from resnetlab.errors import NonFinite, Stopped
from resnetlab.evaluation.metrics import Score
from resnetlab.inference.model_file import read_model
from resnetlab.runs.build import Experiment, resolved
from resnetlab.runs.config import RunConfig
from resnetlab.runs.console import Voice
from resnetlab.runs.facts import environment, epoch_line, introduction, score_line, split_facts
from resnetlab.runs.folder import RunFolder, next_folder
from resnetlab.runs.score import SplitName, fitted_temperature, looks_line, score_split
from resnetlab.runs.stopping import StopAsked, StopRequest, Watched
from resnetlab.runs.tensorboard import TensorBoardWriter, boards
from resnetlab.runs.writer import CheckpointWriter
from resnetlab.training.loop import Batches, StepDone, fit
from resnetlab.training.selection import best_epoch

DRAW_EVERY = 20  # seconds between two drawings of curves.png; it takes about half a second


def train(
    config: RunConfig,
    folder: Path | str | None = None,
    *,
    voice: Voice | None = None,
    max_minutes: float | None = None,
) -> RunFolder:
    """Train, score and plot a run in a new or empty folder (default: `runs/<recipe>-NNN`).

    Raises BadInput before anything is written, NonFinite, or Stopped (it can be resumed).
    """
    voice, stop = voice or Voice(), StopRequest(max_minutes)
    path = Path(folder) if folder is not None else next_folder(config.recipe)
    RunFolder.require_free(path)
    boards(config, path)  # a package that is missing is missed before anything is written
    experiment = Experiment.of(resolved(config))
    with stop.listening():
        run = RunFolder.create(path)
        with run.claimed():
            run.write("split.json", split_facts(experiment.data, config.data.split_seed))
            run.write("config.json", experiment.config.to_json())  # last: where it is, there is a run to go on with
            carry_out(experiment, run, voice, stop)
    return run


def carry_out(experiment: Experiment, run: RunFolder, voice: Voice, stop: StopRequest) -> None:
    """From wherever the experiment is to the end, while `stop` is listening: train, then score."""
    voice.keep(run.log)
    run.write("environment.json", environment(experiment.runtime))
    for line in introduction(experiment.config, experiment.data, experiment.network, experiment.runtime):
        voice.say(line)
    for note in experiment.notes:
        voice.say(f"note     {note}")
    learn(experiment, run, voice, stop)
    try:
        finish(experiment, run, voice, stop)
    except StopAsked:
        raise Stopped(f"stopped by {stop.reason} while scoring; {go_on(run)}") from None


def learn(experiment: Experiment, run: RunFolder, voice: Voice, stop: StopRequest) -> None:
    """Train to the end of the plan, keeping what each epoch brings. Raises Stopped, with a checkpoint written."""
    state, keeper = experiment.state, CheckpointWriter(experiment, run, voice)
    epochs = math.ceil(experiment.plan.steps / len(experiment.batches.train))
    events = fit(state, watched(experiment.batches, stop), experiment.plan, experiment.runtime)
    writers = [TensorBoardWriter(path, purge_step=state.step + 1) for path in boards(experiment.config, run.path)]
    with voice.bar() as bar:
        try:
            for event in events:
                if isinstance(event, StepDone):
                    bar.show(f"epoch {event.epoch + 1}", event.batch, event.batches)
                else:
                    is_best = keeper.keep_epoch(event)
                    for board in writers:
                        keeper.attempt(partial(board.write, event))
                    voice.say(epoch_line(event, epochs, is_best=is_best))
                    if run.seconds_since("curves.png") > DRAW_EVERY:
                        keeper.attempt(lambda: draw_curves(experiment.config, run))
                if stop.reason:
                    raise StopAsked
                if keeper.is_due():
                    keeper.commit()
        except StopAsked:
            keeper.commit(last=True)
            told = f"stopped by {stop.reason} at step {state.step} of {experiment.plan.steps}"
            raise Stopped(f"{told}; {go_on(run)}") from None
        except NonFinite as error:
            raise NonFinite(f"{error}; {keeper.kept()}") from error
    keeper.settle()
    for board in writers:
        board.close()


def watched(batches: Batches, stop: StopRequest) -> Batches:
    """The same batches; evaluation between two epochs stops when it is asked to."""
    return dataclasses.replace(
        batches, train_sample=Watched(batches.train_sample, stop), val=Watched(batches.val, stop)
    )


def go_on(run: RunFolder) -> str:
    return f"go on with: resnetlab resume {run.path}"


def finish(experiment: Experiment, run: RunFolder, voice: Voice, stop: StopRequest) -> None:
    """Score the best weights on validation and, once, on the test split; what is there already is kept."""
    model = read_model(run.best)
    splits: list[SplitName] = ["val", "test"] if experiment.config.final_test == "once" else ["val"]
    for split in splits:
        scores = run.final_metrics(split)
        if scores is None or scores["weights_digest"] != model.weights_digest:
            scores = score_split(
                model,
                experiment.data,
                split,
                experiment.runtime.device,
                run.ledger,
                folder=run.evaluation(split),
                temperature=fitted_temperature(run, model),
                stop=stop,
                tell=voice.say,
            )
        voice.say(score_line(scores))
        if split == "test":
            voice.say(looks_line(run.ledger, scores))
    draw_curves(experiment.config, run)
    voice.say(f"the run is in {run.path}: curves.png, best.safetensors, evaluation/")


def draw_curves(config: RunConfig, run: RunFolder) -> None:
    from resnetlab.plots.curves import curves  # matplotlib takes its time to import
    from resnetlab.plots.style import save

    rows = run.rows
    scores = [Score(row["val_loss"], row["val_accuracy"], row["val_macro_f1"]) for row in rows]
    title = f"{config.model.name} on {Path(config.data.name).name}"
    best = best_epoch(scores, config.best_by) + 1
    save(curves(rows, run.final_metrics("test"), title, best_epoch=best), run.path / "curves.png")
