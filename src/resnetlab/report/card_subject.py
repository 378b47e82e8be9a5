"""The subject of a card: a model file, and the run that it is of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnetlab.errors import BadInput
from resnetlab.inference.counterparts import shared_name
from resnetlab.inference.model_file import Model, read_model
from resnetlab.inference.sources import Run, model_path
from resnetlab.inference.validation import SplitScore
from resnetlab.report.collect import SPLITS, Facts, Scored, of_other_weights, read_facts
from resnetlab.runs.scoring_data import run_of

UNSTATED = "unstated"


@dataclass(frozen=True)
class Subject:
    """The model that a card is about: its file, its content and, if it is that of a run, the files of the run."""

    path: Path
    model: Model
    facts: Facts | None
    license: str

    @classmethod
    def of(cls, source: str | os.PathLike[str] | Run, license: str | None) -> Subject:
        """Read a model. Raises BadInput."""
        path = model_path(source)
        model, run = read_model(path), run_of(path)
        stated = license or model.provenance.get("license")
        return cls(path, model, None if run is None else read_facts(run.path), str(stated or UNSTATED))

    @property
    def scored(self) -> Scored | None:
        """The scores of exactly these weights, of the test split if it was scored."""
        found = [] if self.facts is None else [self.facts.scored.get(split) for split in SPLITS]
        return next((one for one in found if one is not None and not of_other_weights(one, self.model)), None)

    @property
    def scores(self) -> list[SplitScore]:
        """The scores by split, the test split first: those of the run, or else those in the model file."""
        found = {score.split: score for score in (self.model.validation.scores if self.model.validation else ())}
        if (one := self.scored) is not None:
            found[one.split] = SplitScore(
                one.split,
                one.metrics["split_digest"],
                one.metrics["images"],
                one.metrics["accuracy"],
                pair(one.at("intervals", "accuracy")),
                one.at("macro", "f1"),
                pair(one.at("intervals", "macro_f1")),
                one.metrics["loss"],
            )
        return [found[split] for split in SPLITS if split in found]

    @property
    def data(self) -> str:
        """The name of the data that the model was trained on; empty if it is not known."""
        return str(self.model.provenance.get("data") or "")

    @property
    def name(self) -> str:
        return self.model.network.name or "residual network"


def pair(value: object) -> tuple[float, float] | None:
    return (value[0], value[1]) if isinstance(value, Sequence) and len(value) == 2 else None


def timm_name(model: Model) -> str | None:
    """Return the name of the network in timm, which reads the keys of our model files; None if it has no such one."""
    try:
        return shared_name(model.network.architecture, "timm")
    except BadInput:
        return None
