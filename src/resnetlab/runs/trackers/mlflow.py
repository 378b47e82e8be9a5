"""MLflow: a run in the store or server of MLFLOW_TRACKING_URI, with settings, numbers, pictures and model file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from resnetlab import __version__
from resnetlab.files import read_regular, write_json
from resnetlab.runs.differences import flat
from resnetlab.runs.history import Row
from resnetlab.runs.trackers.tracker import Ending, TrackedRun, numbers

RECORD = "mlflow.json"  # in the folder of the run: the id of its run in MLflow
EXPERIMENT = "resnetlab"
MOST_PARAMETERS = 100  # of a request
STATUS: dict[Ending, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MlflowTracker:
    """Records a run in MLflow, under the experiment of MLFLOW_EXPERIMENT_NAME or "resnetlab".

    A resumed run goes on in the same run of MLflow. It gets the epochs that it lacks, and none twice.
    """

    def __init__(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient

        self.client: Any = MlflowClient()
        known = known_id(self.client, run.folder)
        self.id: str = known or self.create(run)
        if known is not None:
            self.client.update_run(self.id, status="RUNNING")
        self.steps = {metric.step for metric in self.client.get_metric_history(self.id, "epoch")} if known else set()
        self.step = run.step
        for row in run.rows:
            self.epoch(row)

    def create(self, run: TrackedRun) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        tags = {"resnetlab.version": __version__, "resnetlab.folder": str(run.folder.resolve())}
        made = self.client.create_run(self.experiment(name), run_name=run.folder.resolve().name, tags=tags)
        self.id = str(made.info.run_id)
        write_json(run.folder / RECORD, {"run_id": self.id})
        settings = [Param(path, str(value)) for path, value in flat(run.config.to_json()).items()]
        for first in range(0, len(settings), MOST_PARAMETERS):
            self.client.log_batch(self.id, params=settings[first : first + MOST_PARAMETERS])
        return self.id

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, which is created if there is none; another process may do so meanwhile."""
        found = self.client.get_experiment_by_name(name)
        if found is None:
            with suppress(Exception):
                return str(self.client.create_experiment(name))
            found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id)

    def epoch(self, row: Row) -> None:
        self.step = row["step"]
        if self.step in self.steps:
            return
        self.steps.add(self.step)
        self.log(numbers(row))

    def scores(self, scores: Mapping[str, float]) -> None:
        self.log(scores)

    def log(self, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.id, [Metric(name, value, now, self.step) for name, value in values.items()])

    def picture(self, name: str, file: Path) -> None:
        folder = (Path("pictures") / name).parent.as_posix()
        self.client.log_artifact(self.id, str(file), folder)

    def model(self, file: Path) -> None:
        self.client.log_artifact(self.id, str(file), "model")

    def close(self, ending: Ending) -> None:
        self.client.set_terminated(self.id, STATUS[ending])


def known_id(client: Any, folder: Path) -> str | None:
    """Return the id under which the run is known to MLflow; None for a new run, or another store than before."""
    from mlflow.exceptions import MlflowException

    try:
        found = str(json.loads(read_regular(folder / RECORD))["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        client.get_run(found)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return found
