"""Write best model, metrics and checkpoint, in that order; failed writes are repeated at the next checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn

from resnetlab.errors import DiskTrouble, LabError, NonFinite
from resnetlab.runs.build import Training
from resnetlab.runs.config import CheckpointConfig
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.history import History
from resnetlab.runs.log import RunLog
from resnetlab.training.checkpoint import save_checkpoint
from resnetlab.training.loop import EpochReport, require_finite

ATTEMPTS = 3  # in a row; a disk that is full now may have been cleared by the next checkpoint
SaveBest = Callable[[Any, EpochReport], object]


class MemoryWriter:
    """Records epochs in memory only, for a training without a folder."""

    def __init__(self, history: History) -> None:
        self.history = history

    def keep_epoch(self, report: EpochReport, *, is_best: bool) -> None:  # noqa: ARG002 - of the writer on disk
        self.history.add(report)

    def commit(self, *, last: bool = False) -> None: ...

    def settle(self) -> None: ...

    def is_due(self) -> bool:
        return False

    def attempt(self, write: Callable[[], object]) -> None: ...

    def last_checkpoint(self) -> str:
        return "there is no checkpoint: the training has no folder"


class CheckpointWriter(MemoryWriter):
    """Writes the best model, then the epochs' records, then a checkpoint, which commits the other two.

    If a write fails, its content is pending (the best model as a copy) and is written first the next time.
    """

    def __init__(  # noqa: PLR0917 - what is written, where, and how
        self,
        training: Training,
        run: RunFolder,
        history: History,
        log: RunLog,
        save_best: SaveBest,
        when: CheckpointConfig,
        facts: Mapping[str, Any],
    ) -> None:
        super().__init__(history)
        self.training, self.run, self.log = training, run, log
        self.save_best, self.when, self.facts = save_best, when, facts
        # Values that are not finite from the beginning, such as an attention mask, are intended.
        self.watched = finite_values(training.state.model)
        self.failures = 0
        self.pending_best: tuple[nn.Module, EpochReport] | None = None

    def keep_epoch(self, report: EpochReport, *, is_best: bool) -> None:
        """Write the record of an epoch, its weights if they are the best so far, and a checkpoint."""
        if is_best:
            self.pending_best = (self.training.state.average.model, report)
        self.history.add(report)
        self.commit()

    def commit(self, *, last: bool = False) -> None:
        """Write pending content, then a checkpoint.

        A failure is logged and the next commit tries again. The third failure in a row, or one of the `last` commit,
        raises DiskTrouble. Raises NonFinite, and writes nothing, if a weight or a running statistic is not finite.
        """
        try:
            self.write()
        except OSError as failure:  # DiskTrouble, too
            error = self.sentence(failure)
            self.failures += 1
            if last or self.failures == ATTEMPTS:
                raise DiskTrouble(f"{error}; {self.last_checkpoint()}") from failure
            if self.pending_best is not None:
                network, report = self.pending_best
                self.pending_best = (copy.deepcopy(network), report)  # training goes on and changes the original
            attempt = f"attempt {self.failures} of {ATTEMPTS}"
            self.log.warning(f"{error}; nothing was saved ({attempt}), trying again at the next checkpoint")
        else:
            self.failures = 0

    def write(self) -> None:
        """Write best model, records and checkpoint; the checkpoint is the commit."""
        state = self.training.state
        require_finite(state, self.training.batches, self.training.plan)
        for model in {state.model, state.average.model}:
            require_finite_weights(model, self.watched, state.step)
        if self.pending_best is not None:
            self.save_best(*self.pending_best)
            self.pending_best = None
        self.history.write()
        save_checkpoint(self.run.checkpoint_path(state.step), state, self.facts)
        self.run.retain(self.when.keep, state.step)

    def settle(self) -> None:
        """At the end of training, write pending content, or raise DiskTrouble."""
        if self.failures:
            self.commit(last=True)

    def attempt(self, write: Callable[[], object]) -> None:
        """Write a file that can be derived from the others; a failure is only logged."""
        try:
            write()
        except DiskTrouble as error:
            self.log.warning(str(error))

    def is_due(self) -> bool:
        """True if it is time for a checkpoint within an epoch."""
        state, when = self.training.state, self.when
        if not state.batch:
            return False  # the end of an epoch has its own
        if when.every_steps is not None and state.step % when.every_steps == 0:
            return True
        return when.every_minutes is not None and self.run.seconds_since("checkpoints") > 60 * when.every_minutes

    def sentence(self, failure: OSError) -> str:
        """A failure as a sentence."""
        if isinstance(failure, LabError):
            return str(failure)
        return f"could not write into {self.run.path}: {failure.strerror or failure}"

    def last_checkpoint(self) -> str:
        """The newest checkpoint, for an error message."""
        try:
            checkpoints = self.run.all_checkpoints()
        except OSError:
            return "the checkpoints cannot be reached"
        return f"the last checkpoint is {checkpoints[0]}" if checkpoints else "there is no checkpoint yet"


def finite_values(model: nn.Module) -> set[str]:
    """The names of weights and buffers that are floating-point and finite. Waits for the device once."""
    numbers = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    if not numbers:
        return set()
    finite = torch.stack([value.isfinite().all() for value in numbers.values()]).tolist()
    return {name for name, is_finite in zip(numbers, finite, strict=True) if is_finite}


def require_finite_weights(model: nn.Module, watched: Collection[str], step: int) -> None:
    """Raise NonFinite, naming them, if `watched` weights or running statistics are NaN or infinite."""
    finite = finite_values(model)
    names = [name for name in model.state_dict() if name in watched and name not in finite]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise NonFinite(
            f"{', '.join(names[:3])}{more} became NaN or infinite by step {step}: try a smaller `lr`, a warm-up, or a "
            "`clip_norm` of 1"
        )
