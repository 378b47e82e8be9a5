"""Weights & Biases: a run of the project WANDB_PROJECT, with settings, numbers, pictures and model file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnetlab.errors import BadInput
from resnetlab.files import read_regular, write_json
from resnetlab.runs.history import Row
from resnetlab.runs.trackers.tracker import Ending, TrackedRun, numbers

RECORD = "wandb.json"  # in the folder of the run: the id of its run in W&B
PROJECT = "resnetlab"
CODES: dict[Ending, int] = {"finished": 0, "stopped": 6, "failed": 1}


class WandbTracker:
    """Records a run in Weights & Biases; with WANDB_MODE=offline in `<run>/wandb`, for `wandb sync` later.

    A resumed run goes on under the same id. It gets the epochs that it lacks. Offline, each session has all of them:
    the file of one that was killed lacks what W&B's own process had not written yet.
    """

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        require_login(wandb)
        self.wandb: Any = wandb
        known = known_id(run.folder)
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.folder.resolve().name,
            id=known,
            resume="allow",
            dir=str(run.folder),
            config=run.config.to_json(),
            settings=wandb.Settings(console="off", silent=True),  # what is printed is the business of the command line
        )
        self.step = run.step
        if known is None:
            write_json(run.folder / RECORD, {"id": self.run.id})
        for row in run.rows:
            if row["step"] >= self.run.step:  # the next step that W&B knows of
                self.epoch(row)

    def epoch(self, row: Row) -> None:
        self.step = row["step"]
        self.run.log(numbers(row), step=self.step)

    def picture(self, name: str, file: Path) -> None:
        self.run.log({f"pictures/{name}": self.wandb.Image(str(file))}, step=self.step)

    def scores(self, scores: Mapping[str, float]) -> None:
        self.run.summary.update(dict(scores))

    def model(self, file: Path) -> None:
        artifact = self.wandb.Artifact(f"model-{self.run.id}", type="model")
        artifact.add_file(str(file))
        self.run.log_artifact(artifact)

    def close(self, ending: Ending) -> None:
        self.run.finish(exit_code=CODES[ending])


def require_login(wandb: Any) -> None:
    """Raise BadInput where W&B would ask on the terminal for a key."""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode in ("online", "run") and not wandb.api.api_key:
        raise BadInput("there is no API key: run `wandb login` first, or set WANDB_MODE=offline")


def known_id(folder: Path) -> str | None:
    """Return the id under which the run is known to W&B; None for a new run."""
    try:
        return str(json.loads(read_regular(folder / RECORD))["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
