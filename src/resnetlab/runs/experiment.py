"""Train a run: from a config to a folder with a trained and scored network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch.nn.functional as F

from resnetlab.data.splits import Split
from resnetlab.data.tree import require_outside
from resnetlab.distributed import ALONE, Processes
from resnetlab.errors import Stopped
from resnetlab.evaluation.metrics import Score
from resnetlab.files import as_path
from resnetlab.host import one_thread_at_a_time
from resnetlab.inference.model_file import Model, read_model, save_model
from resnetlab.models.resnet import ResNet
from resnetlab.runs.arguments import require_arguments
from resnetlab.runs.augmentation_words import augmentation_words
from resnetlab.runs.build import Experiment, resolved
from resnetlab.runs.completion import complete, measure, with_score
from resnetlab.runs.config import RunConfig
from resnetlab.runs.effects import alone, chosen, long_warm_up, without_effect
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.history import History
from resnetlab.runs.log import RunLog, SilentLog
from resnetlab.runs.messages import introduction, score_line, validation_line
from resnetlab.runs.probes import with_chosen_policy
from resnetlab.runs.provenance import provenance, session_record, split_record
from resnetlab.runs.score import ScoredSplit, record_access, score_split, test_set_line
from resnetlab.runs.scoring_data import ScoringData, SplitName
from resnetlab.runs.session import OnEvent, Session
from resnetlab.runs.stop import StopRequest, StopRequested
from resnetlab.runs.timing import planned, require_minutes
from resnetlab.runs.trackers.tracker import TrackedRun
from resnetlab.runs.trackers.tracking import Tracking
from resnetlab.runs.writer import CheckpointWriter, MemoryWriter
from resnetlab.runtime import isolated
from resnetlab.training.loop import EpochReport, fit
from resnetlab.training.optim import MUON_DECAY
from resnetlab.training.selection import best_epoch

DRAW_EVERY = 20  # seconds between two drawings of curves.png; one takes about half a second


@isolated(gradients=True)
def train(
    config: RunConfig,
    folder: Path | str | None = None,
    *,
    minutes: float | None = None,
    began: float | None = None,
    max_minutes: float | None = None,
    stop: StopRequest | None = None,
    on_event: OnEvent | None = None,
    processes: Processes = ALONE,
) -> RunFolder:
    """Train and score a network as `config` describes it, in a new or empty folder (default: `runs/<recipe>-NNN`).

    May be called in any thread and prints nothing. Messages are logged under "resnetlab.runs" and written to log.txt in
    the folder. `on_event` is called with a `StepDone` after each optimiser step and with an `EpochReport` after each
    epoch. With `minutes`, the length in `config` is replaced by the number of steps with which the run, its final
    scores included, ends after about that time: it is planned once, from 20 measured steps, and stored in the config of
    the run. They are counted from `began`, a time of `time.perf_counter`, by default that of the call. The run stops
    after `max_minutes`, or when another thread calls `stop.request()`. In a process that was forked after resnetlab was
    imported, the CPU computes with one thread.

    `processes` that were joined (`resnetlab.distributed.joined`) train together, each a part of every batch. The main
    process alone plans `minutes`, writes, and scores the network at the end, when the exchange with the others is
    closed.

    Raises BadInput before anything is written; NonFinite if a loss, gradient or weight becomes NaN or infinite;
    DiskTrouble if a file cannot be written; Stopped, after which `resume` continues the run.

    >>> import tempfile
    >>> from resnetlab import recipes
    >>> config = recipes.quickstart().changed({"model": {"name": "resnet20"}, "steps": 2, "final_test": "never"})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = train(config, folder)
    ...     [row["step"] for row in run.rows]
    [2]
    """
    began = time.perf_counter() if began is None else began
    require_arguments(began=began, max_minutes=max_minutes, stop=stop, on_event=on_event)
    stop = StopRequest.within(max_minutes, stop)
    with processes.together():
        if minutes is not None:
            require_minutes(minutes)
        path = None if folder is None else as_path(folder, "folder")
        config = resolved(config)
        require_outside(path, config.data.name)
        if path is not None and processes.is_main:
            RunFolder.require_free(path)
        experiment = Experiment.of(config, processes=processes)
    experiment.require_same(minutes=minutes)
    if minutes is not None:
        experiment = planned(experiment, minutes, began)
    if config.augment.policy == "auto":
        experiment = with_chosen_policy(experiment)
        if minutes is not None:  # the probes have taken some of them
            experiment = planned(experiment, minutes, began)
    config = experiment.config
    stop.watch()
    experiment.replicate()
    run = processes.from_main(lambda: RunFolder.create(path, config.recipe))
    with ExitStack() as claim:
        with processes.together():
            if processes.is_main:
                claim.enter_context(run.claimed())
                run.write("split.json", split_record(experiment.data, config.data))
                run.write_config(experiment.config)
                run.add_session(session_record(experiment.runtime))
            session = begin(experiment, run, stop, on_event)
            for sentence in (
                *without_effect(config, chosen(config)),
                *alone(config, processes),
                *long_warm_up(config, experiment.plan.steps),
            ):
                session.log.warning(sentence)
        train_and_score(experiment, run, session)
    return run


def train_and_score(experiment: Experiment, run: RunFolder, session: Session) -> None:
    """Train from the experiment's state to the end of its plan, and score the best weights in the main process."""
    processes = experiment.runtime.processes
    with session.tracking:
        with session.running() as batches:
            for event in fit(experiment.state, batches, experiment.plan, experiment.runtime):
                session.keep(event)
        processes.close()
        if processes.is_main:
            finish(experiment, run, session)


def begin(experiment: Experiment, run: RunFolder, stop: StopRequest, on_event: OnEvent | None) -> Session:
    """Log the introduction of a run and return its session, which continues from the experiment's state.

    Of several processes, only the session of the main one logs and writes.
    """
    if not experiment.runtime.processes.is_main:
        return Session(experiment, MemoryWriter(History(None)), SilentLog(), stop, on_event)
    log = RunLog(run.log)
    for line in introduction(experiment.config, experiment.data, experiment.network, experiment.runtime):
        log.info(line)
    for note in experiment.notes:
        log.info(f"note     {note}")
    if experiment.config.optim.name == "muon" and experiment.config.optim.weight_decay:
        log.append(f"warning  {MUON_DECAY}")  # `make_optimizer` has logged it, before there was a log.txt
    history = History.reopened(run.path, experiment.state.epoch)
    if len(history.rows) < experiment.state.epoch:
        log.info(f"note     metrics.jsonl has {len(history.rows)} of {experiment.state.epoch} epochs; the curves too")
    facts = {
        "config": experiment.config.to_json(),
        "extended_at": list(experiment.extended_at),
        "environment": experiment.runtime.facts(),
    }
    tracked = TrackedRun(run.path, experiment.config, tuple(history.rows), experiment.state.step)

    def save_best(network: ResNet, report: EpochReport) -> None:
        origin = provenance(experiment.config, experiment.data, report)
        save_model(run.best, network, experiment.data.classes, experiment.data.preprocessing, origin)

    def draw_seldom() -> None:
        if run.seconds_since("curves.png") > DRAW_EVERY:
            draw_curves(experiment.config, run, history)

    writer = CheckpointWriter(experiment, run, history, log, save_best, experiment.config.checkpoint, facts)
    if not (run.path / "augmented.png").exists():
        writer.attempt(partial(draw_batch, experiment, run))
    return Session(
        experiment,
        writer,
        log,
        stop,
        on_event,
        resume_hint=resume_hint(run, experiment.runtime.processes),
        draw=draw_seldom,
        tracking=Tracking.of(experiment.config.track, tracked, log),
    )


def resume_hint(run: RunFolder, processes: Processes = ALONE) -> str:
    under = "" if processes.is_alone else f", under torchrun with {processes.world_size} processes"
    return f"resume with: `resnetlab.resume({str(run.path)!r})`{under}"


def finish(experiment: Experiment, run: RunFolder, session: Session) -> None:
    """Score the best weights on validation and, if configured, on the test split; keep existing scores.

    The model file is completed with each score before the files of the score are written. The last of these,
    metrics.json, is the commit: a run that has it has a complete model file. The model file of a run of an older
    version, which is not complete, is completed here.
    """
    log, stop = session.log, session.stop
    model, device = read_model(run.best), experiment.runtime.device
    validation, fitted = model.validation, None
    splits: list[SplitName] = ["val", "test"] if experiment.config.final_test == "once" else ["val"]
    found: dict[str, Mapping[str, Any]] = {}

    def score(split: SplitName) -> ScoredSplit:
        return score_split(model, ScoringData.own(experiment.data, split), device, fitted=fitted, stop=stop)

    for split in splits:
        scores, scored = run.final_metrics(split), None
        try:
            if scores is None or is_of_others(scores, model, getattr(experiment.data, split)):
                scored = score(split)
                scores = scored.evaluation.metrics
            if validation is None:  # the split is val
                validation = measure(model, (scored or score(split)).evaluation, device, stop)
        except StopRequested:
            raise Stopped(f"stopped by {stop.reason} while scoring; {session.resume_hint}") from None
        if split == "test" and scored is not None:
            record_access(run.access_log, scored.evaluation, log)
        validation = with_score(validation, scores)
        complete(run, model, validation, experiment.config.license)
        if scored is not None:
            is_fold = experiment.config.data.fold is not None  # `pooling` needs the probability of every class
            scored.write(run.evaluation(split), all_probabilities=is_fold)
        fitted = scores if split == "val" else fitted
        found[split] = scores
        log.info(score_line(scores))
        if split == "val":
            log.info(f"model    {validation_line(validation)}")
        else:
            log.info(test_set_line(run.access_log, scores))
    draw_curves(experiment.config, run, session.writer.history)
    session.tracking.results(run.path, found, run.best)
    log.info(f"the run is in {run.path}: curves.png, augmented.png, best.safetensors, evaluation/")


def is_of_others(scores: Mapping[str, Any], model: Model, split: Split) -> bool:
    """True if scores are of other weights or of other images."""
    return (scores["weights_digest"], scores["split_digest"]) != (model.weights_digest, split.digest)


@one_thread_at_a_time()
def draw_batch(experiment: Experiment, run: RunFolder) -> None:
    """Draw augmented.png: the first images of the first batch, as the network sees them."""
    from resnetlab.plots.batch import MOST, batch  # matplotlib takes its time to import
    from resnetlab.plots.style import save

    data, config = experiment.data, experiment.config
    first = next(iter(experiment.batches.train.epoch(0, 0, 1)))
    labels = F.one_hot(first.labels, len(data.classes)).float() if first.shares is None else first.shares
    figure = batch(
        data.preprocessing.denormalize(first.images[:MOST].cpu()).numpy(),
        labels[:MOST].cpu().numpy(),
        classes=data.classes,
        subtitle=augmentation_words(config.augment),
        total=min(config.batch_size, len(data.train)),  # of all processes
    )
    save(figure, run.path / "augmented.png")


@one_thread_at_a_time()
def draw_curves(config: RunConfig, run: RunFolder, history: History) -> None:
    from resnetlab.plots.curves import curves  # matplotlib takes its time to import
    from resnetlab.plots.style import save

    rows = history.rows
    scores = [Score(row["val_loss"], row["val_accuracy"], row["val_macro_f1"]) for row in rows]
    title = f"{config.model.name} on {Path(config.data.name).name}"
    best = best_epoch(scores, config.best_by) + 1
    save(curves(rows, run.final_metrics("test"), title, best_epoch=best), run.path / "curves.png")
