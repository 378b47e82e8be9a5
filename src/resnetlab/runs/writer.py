"""Keeping what training brings: best model, metrics, checkpoint, in that order, also when the disk refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from resnetlab.errors import DiskTrouble
from resnetlab.inference.model_file import save_model
from resnetlab.models.resnet import ResNet
from resnetlab.runs.build import Experiment
from resnetlab.runs.console import Voice
from resnetlab.runs.facts import provenance
from resnetlab.runs.folder import RunFolder
from resnetlab.training.checkpoint import save_checkpoint
from resnetlab.training.loop import EpochReport, require_finite
from resnetlab.training.selection import best_epoch

ATTEMPTS = 3  # in a row; a disk that is full now may have been cleared by the next checkpoint


class CheckpointWriter:
    """Writes an epoch's results so that the checkpoint commits the rest: none is written that others should precede.

    What a full disk refuses stays owed, the best weights as a copy, and is written first the next time.
    """

    def __init__(self, experiment: Experiment, run: RunFolder, voice: Voice) -> None:
        self.experiment, self.run, self.voice = experiment, run, voice
        self.failures = 0
        self.owed_model: tuple[ResNet, Mapping[str, Any]] | None = None
        self.owed_reports: list[EpochReport] = []

    def keep_epoch(self, report: EpochReport) -> bool:
        """Write what an epoch brought, and say whether it is the best so far."""
        experiment = self.experiment
        is_best = best_epoch(experiment.state.scores, experiment.config.best_by) == report.epoch - 1
        if is_best:
            facts = provenance(experiment.config, experiment.data, report)
            self.owed_model = (experiment.state.average.model, facts)
        self.owed_reports.append(report)
        self.commit()
        return is_best

    def commit(self, *, last: bool = False) -> None:
        """Write what is owed, and then a checkpoint.

        A refusal is said and waited out, the third in a row, or one of the `last` commit, is raised as DiskTrouble.
        """
        try:
            self.write()
        except OSError as refusal:
            error = self.told(refusal)
            self.failures += 1
            if last or self.failures == ATTEMPTS:
                raise DiskTrouble(f"{error}; {self.kept()}") from refusal
            if self.owed_model is not None:
                network, facts = self.owed_model
                self.owed_model = (copy.deepcopy(network), facts)  # training goes on and changes the original
            left = f"attempt {self.failures} of {ATTEMPTS}"
            self.voice.say(f"warning  {error}; nothing was saved ({left}), trying again at the next checkpoint")
        else:
            self.failures = 0

    def write(self) -> None:
        """Best model, metrics, checkpoint; the checkpoint is the commit."""
        experiment, run = self.experiment, self.run
        require_finite(experiment.state, experiment.batches, experiment.plan)
        if self.owed_model is not None:
            network, facts = self.owed_model
            save_model(run.best, network, experiment.data.classes, experiment.data.preprocessing, facts)
            self.owed_model = None
        while self.owed_reports:
            run.record(self.owed_reports[0])
            del self.owed_reports[0]
        facts = {"config": experiment.config.to_json(), "environment": experiment.runtime.facts()}
        save_checkpoint(run.checkpoint_path(experiment.state.step), experiment.state, facts)
        run.retain(experiment.config.checkpoint.keep, experiment.state.step)

    def settle(self) -> None:
        """At the end of training, write what is still owed, or raise DiskTrouble."""
        if self.failures:
            self.commit(last=True)

    def attempt(self, write: Callable[[], None]) -> None:
        """Write something that can be made again from the rest; a refusal is only said."""
        try:
            write()
        except DiskTrouble as error:
            self.voice.say(f"warning  {error}")

    def is_due(self) -> bool:
        """Whether it is time for a checkpoint within an epoch."""
        state, when = self.experiment.state, self.experiment.config.checkpoint
        if not state.batch:
            return False  # an epoch has just been kept
        if when.every_steps is not None and state.step % when.every_steps == 0:
            return True
        return when.every_minutes is not None and self.run.seconds_since("checkpoints") > 60 * when.every_minutes

    def told(self, refusal: OSError) -> str:
        """A refusal as a sentence, also where it was the folder that could not be looked into."""
        if not isinstance(refusal, DiskTrouble):
            return f"could not write into {self.run.path}: {refusal.strerror or refusal}"
        return str(refusal)

    def kept(self) -> str:
        """The checkpoint that is still there."""
        try:
            checkpoints = self.run.all_checkpoints()
        except OSError:
            return "the checkpoints cannot be reached"
        return f"the last checkpoint is {checkpoints[0]}" if checkpoints else "there is no checkpoint yet"
