"""The page of a sweep: the chosen settings, parallel coordinates, importances and all trials."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetlab.errors import as_typed
from resnetlab.files import write_text
from resnetlab.report.command import commands
from resnetlab.report.comparison import Cells
from resnetlab.runs.config import value_text
from resnetlab.runs.sweeps.space import Choice
from resnetlab.runs.sweeps.sweep import BEST, Sweep, TrialRecord, score_in

if TYPE_CHECKING:
    from resnetlab.report.render import Picture

PAGE = "sweep.html"
STATES = ("complete", "pruned", "failed", "running", "waiting")


def write_sweep(found: Sweep) -> Path:
    """Write sweep.html into the folder of a sweep, and return its path. Raises DiskTrouble."""
    from resnetlab.report.render import render

    path = found.folder / PAGE
    best = found.best
    titles = {"coordinates": "Settings and scores", "importances": "Importance", "history": "History"}
    pictures = dict(drawn(found))
    sections = {"best": "Best"} | {name: titles[name] for name in titles if name in pictures}
    page = render(
        "sweep.html.j2",
        title=f"Sweep of {len(found.space.dimensions)} settings of {found.config.recipe}",
        kicker="resnetlab sweep",
        about=f"{counts(found)}. Data: {Path(found.config.data.name).name}. {pruner_words(found)}",
        sections=sections | {"trials": "Trials", "space": "Space"},
        best=best,
        score_name=found.score_name.replace("_", "-"),
        form=form(found),
        chosen=[] if best is None else [(name, text(value)) for name, value in best.values.items()],
        command="" if best is None else commands(found.config_of(best))[0],
        recipe=as_typed(found.folder / BEST),
        test=found.test_scores,
        test_score=test_score(found),
        pictures=pictures,
        dimensions=found.space.paths,
        trials=found.trials,
        text=text,
        space=Cells(("setting", "values", "recipe's"), list(space_rows(found))),
        few="Importances need four complete trials with different scores.",
    )
    write_text(path, page)
    return path


def counts(found: Sweep) -> str:
    """The number of trials in each state; a state without any is omitted."""
    number = {state: sum(trial.state == state for trial in found.trials) for state in STATES}
    listed = ", ".join(f"{count:,} {state}" for state, count in number.items() if count)
    return f"{len(found.trials):,} trials: {listed}" if listed else "no trials yet"


def pruner_words(found: Sweep) -> str:
    words = {
        "median": "Trials below the median of the earlier ones were stopped at the end of an epoch.",
        "hyperband": "Hyperband stopped all but the best third at each of its levels.",
        "none": "No trial was stopped early.",
    }
    return f"{words[found.pruner]} The trials are compared on validation only."


def form(found: Sweep) -> str:
    return "plain" if found.score_name == "loss" else "percent"


def test_score(found: Sweep) -> float | None:
    if found.test_scores is None:
        return None
    return score_in(found.test_scores, found.score_name)


def text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value_text(value)


def space_rows(found: Sweep) -> Iterator[list[str]]:
    for dimension in found.space.dimensions:
        section, _, name = dimension.path.rpartition(".")
        holder = getattr(found.config, section) if section else found.config
        yield [dimension.path, str(dimension), text(getattr(holder, name))]


def drawn(found: Sweep) -> Iterator[tuple[str, Picture]]:
    """Yield the figures that there are trials for."""
    from resnetlab.plots.sweep import Axis, importance_bars, parallel_coordinates, score_history
    from resnetlab.report.render import picture

    trials = [trial for trial in found.trials if has_score(trial)]
    if not trials:
        return
    scores = [float(trial.score or 0.0) for trial in trials]
    complete, lower = [trial.state == "complete" for trial in trials], found.score_name == "loss"
    axes = [
        Axis(
            dimension.path,
            [trial.values[dimension.path] for trial in trials],
            log=getattr(dimension, "log", False),
            choices=dimension.values if isinstance(dimension, Choice) else None,
        )
        for dimension in found.space.dimensions
    ]
    score = Axis(f"val {found.score_name.replace('_', '-')}", scores)
    figure = parallel_coordinates([*axes, score], scores, complete, "Settings and scores", lower_is_better=lower)
    words = "A line for each trial, through the values of its settings to its validation score"
    wide = len(axes) > 5
    yield (
        "coordinates",
        picture(figure, words, is_wide=wide, note="The thick line is the best trial. The colours follow the ranks."),
    )
    if found.importances:
        figure = importance_bars(found.importances, "Share in the variance of the scores", sum(complete))
        yield "importances", picture(figure, "The importance of each setting", note=IMPORTANCE)
    numbers = [trial.number for trial in trials]
    figure = score_history(numbers, scores, complete, "History", found.score_name, lower_is_better=lower)
    yield "history", picture(figure, "The validation score of each trial, and the best so far")


IMPORTANCE = (
    "Functional ANOVA (Hutter et al., 2014) over the complete trials. Pruned trials are not counted, and a share "
    "depends on the limits of the space."
)


def has_score(trial: TrialRecord) -> bool:
    return trial.state in ("complete", "pruned") and trial.score is not None and math.isfinite(trial.score)
