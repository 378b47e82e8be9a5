"""Suspected wrong labels of a run's images, as a list to work through and a manifest to train on."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnetlab.data.datasets import ImageData
from resnetlab.data.pixels import Cropped
from resnetlab.data.tree import require_outside
from resnetlab.errors import BadInput, printable
from resnetlab.evaluation.label_issues import LabelIssues, find_label_issues
from resnetlab.inference.model_file import read_model
from resnetlab.inference.sources import Run, run_source
from resnetlab.runs.config import DataConfig
from resnetlab.runs.csv_files import write_csv
from resnetlab.runs.evaluation_files import make_folder
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.log import RunLog
from resnetlab.runs.saved_data import groups_of, open_saved, own_config, root_of
from resnetlab.runs.score import record_access, score_split
from resnetlab.runs.scoring_data import ScoringData, SplitName
from resnetlab.runs.series import is_series
from resnetlab.runtime import isolated, start

TABLE = "labels.csv"
UNDO = "undo that; labels are looked for in the images that were scored"


@dataclass(frozen=True, eq=False)
class Suspect:
    """An image whose label is probably wrong."""

    index: int  # among the examined images
    name: str
    label: str
    suggested: str
    quality: float  # probability of the label
    probability: float  # of the suggested class

    def to_json(self) -> dict[str, Any]:
        """Return the values under the names of the table's columns."""
        return {
            "file": printable(self.name),
            "label": self.label,
            "suggested": self.suggested,
            "label_probability": self.quality,
            "suggested_probability": self.probability,
        }


@dataclass(frozen=True, eq=False)
class Examined:
    """Images that a network was not trained on, with its probabilities, and all images of the run by split."""

    title: str
    source: str  # what was examined, in words
    data: str  # the folder, table or name of the data set
    root: Path | None  # of the files; None for a named data set
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: np.ndarray  # (N,)
    probabilities: np.ndarray  # (N, K)
    images: Sequence[Cropped]  # of one run after another
    everything: dict[str, tuple[str, str | None]]  # label and split of each image of the run
    issues: LabelIssues
    groups: Mapping[str, str] | None = None  # of each image, if the run kept groups in one split

    def suspects(self) -> list[Suspect]:
        """Return the suspected images, the most suspect first. The suggestion is never the label itself."""
        found = []
        for i in self.issues.ranked.tolist():
            label, row = int(self.labels[i]), self.probabilities[i].copy()
            row[label] = -1.0
            best = int(row.argmax())
            quality, name = float(self.probabilities[i, label]), self.names[i]
            found.append(Suspect(i, name, self.classes[label], self.classes[best], quality, float(row[best])))
        return found

    def image(self, index: int) -> np.ndarray:
        """Return one of the examined images, uint8 (H, W, C)."""
        for part in self.images:
            if index < len(part):
                break
            index -= len(part)
        return np.asarray(part[np.array([index])][0])

    def pairs(self) -> list[list[str]]:
        """Return how often each class is suspected to be another, the most frequent first."""
        counts = Counter((suspect.label, suspect.suggested) for suspect in self.suspects())
        return [[label, suggested, f"{count:,}"] for (label, suggested), count in counts.most_common()]

    def write_table(self, path: Path) -> None:
        """Write all images of the run, the suspects first, as a manifest. Raises DiskTrouble.

        An existing file is never replaced, because it may hold corrections: raises BadInput.
        """
        if path.exists():
            raise BadInput(f"{printable(path)} exists and may hold corrections; give another folder with `out`")
        split = ["split"] if self.has_splits else []
        group = [] if self.groups is None else ["group"]
        write_csv(path, ["file", "label", *split, *group, "rank", "suggested", "label_probability"], self._rows())

    @property
    def has_splits(self) -> bool:
        """True for the images of one run; in a cross-validation each image is in several splits."""
        return all(split is not None for _, split in self.everything.values())

    def _rows(self) -> Iterator[list[object]]:
        quality = dict(zip(self.names, self.probabilities[np.arange(len(self.labels)), self.labels], strict=True))
        first = self.suspects()
        for rank, suspect in enumerate(first, start=1):
            places = self._split_and_group(suspect.name)
            yield [_file_cell(suspect.name), suspect.label, *places, rank, suspect.suggested, round(suspect.quality, 6)]
        rest = self.everything.keys() - {suspect.name for suspect in first}
        for name in sorted(rest):
            label, _ = self.everything[name]
            known = round(float(quality[name]), 6) if name in quality else None
            yield [_file_cell(name), label, *self._split_and_group(name), None, None, known]

    def _split_and_group(self, name: str) -> list[str | None]:
        split = [self.everything[name][1]] if self.has_splits else []
        return [*split, *([] if self.groups is None else [self.groups[name]])]

    def next_command(self, table: Path) -> str | None:
        """Return the command that trains on the corrected table; None for a named data set, which has no files."""
        if self.root is None:
            return None
        words = ["resnetlab", "train", "--data", str(table), "--data.root", str(self.root)]
        return printable(shlex.join(words))


def _file_cell(name: str) -> str:
    """Return a name as a table keeps it: spaces at the beginning of a cell would be removed when it is read."""
    return f"./{name}" if name != name.lstrip() else name


@isolated()
def examine_labels(
    path: str | os.PathLike[str] | Run, device: str = "auto", *, data: str | os.PathLike[str] | None = None
) -> Examined:
    """Examine the labels of a run's validation images or, for a series of folds, of the images of all its folds.

    `data` is the new place of the run's data, if it was moved. The notes about the data are logged, as in training.
    Raises BadInput if there is no run, if its data has changed, or without cleanlab.
    """
    folder = run_source(path)
    if is_series(folder) or not (folder / "config.json").exists():
        runs = [RunFolder(config.parent) for config in sorted(folder.glob("*/config.json"))]
        runs = [run for run in runs if run.config.data.fold is not None]
        if not runs:
            raise BadInput(
                f"{printable(folder)} is neither a run nor a series of folds (train --folds); "
                "give the folder of one run"
            )
        parts = [_scored(run, own_config(run, data), "test", device) for run in runs]
        source = f"the images of {len(runs)} folds, each examined by a network that was not trained on it"
    else:
        runs = [RunFolder.open(folder)]
        parts = [_scored(runs[0], own_config(runs[0], data), "val", device)]
        source = "validation images, on which the network was not trained"
    log = RunLog()
    for note in dict.fromkeys(note for opened, _, _ in parts for note in opened.notes):  # folds share most of them
        log.info(f"note     {note}")
    classes = parts[0][0].classes
    names = tuple(name for _, split, _ in parts for name in split.names)
    labels = np.concatenate([split.labels.numpy() for _, split, _ in parts])
    probabilities = np.concatenate([scores for _, _, scores in parts])
    images = [Cropped(split.images, opened.preprocessing) for opened, split, _ in parts]
    everything: dict[str, tuple[str, str | None]] = {}
    first = parts[0][0]
    for part in ("train", "val", "test"):
        split = getattr(first, part)
        for name, label in zip(split.names, split.labels.tolist(), strict=True):
            everything[name] = (classes[label], part if len(runs) == 1 else None)
    issues = find_label_issues(probabilities, labels)
    title = f"{runs[0].config.model.name} on {first.name}"
    config = own_config(runs[0], data)
    place, root = config.name, root_of(config)
    groups = groups_of(config)
    return Examined(
        title, source, place, root, classes, names, labels, probabilities, images, everything, issues, groups
    )


def _scored(run: RunFolder, config: DataConfig, split: SplitName, device: str) -> tuple[ImageData, Any, np.ndarray]:
    """The data of a run, one of its splits, and the probabilities of the run's best weights on it."""
    model = read_model(run.best)
    data = open_saved(run, config, preprocessing=model.preprocessing, advice=UNDO).all_splits()
    evaluation = score_split(model, ScoringData.own(data, split), start(device, "fp32").device).evaluation
    if split == "test":
        record_access(run.access_log, evaluation, RunLog())
    return data, getattr(data, split), np.asarray(evaluation.probabilities)


def write_labels(folder: Path, examined: Examined) -> Path:
    """Write the table into a folder and return its path. Raises BadInput and DiskTrouble."""
    require_outside(folder, examined.data)  # what is beside a table is not data
    make_folder(folder)
    examined.write_table(folder / TABLE)
    return folder / TABLE
