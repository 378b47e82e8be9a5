"""The space of a sweep: the settings that it varies, each with its values or its range, checked by their types."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from resnetlab.errors import BadInput, printable, unknown
from resnetlab.models.zoo import ARCHITECTURES
from resnetlab.runs.config import HARMLESS, RunConfig, Section

if TYPE_CHECKING:
    from optuna import Trial

Scalar: TypeAlias = bool | int | float | str | None

COMPARED = "the trials are compared by their scores on the same validation images"
FIXED = {
    **dict.fromkeys(("data.name", "data.classes", "data.merge", "data.class_order"), COMPARED),
    **dict.fromkeys(("data.val_fraction", "data.test_fraction", "data.split_seed", "data.group_by"), COMPARED),
    "data.val_is_test": COMPARED,
    **dict.fromkeys(("data.folds", "data.fold", "data.bad_images", "data.max_skipped"), COMPARED),
    "best_by": "it is the score that the trials are compared by",
    "recipe": "it is the name of what the sweep starts from",
    **dict.fromkeys(HARMLESS, "it changes no weight of a run"),
}
"""Settings that a sweep does not vary, with the reason."""


@dataclass(frozen=True)
class Choice:
    """A setting and a list of its values."""

    path: str
    values: tuple[Any, ...]

    @property
    def labels(self) -> dict[Scalar, Any]:
        """The values by what represents them in the storage: lists as JSON, everything else as it is."""
        return {json.dumps(value) if isinstance(value, list) else value: value for value in self.values}

    def suggested(self, trial: Trial) -> Any:
        return self.value(trial.suggest_categorical(self.path, list(self.labels)))

    def value(self, label: Scalar) -> Any:
        """The value that a label in the storage stands for."""
        return self.labels[label]

    def to_json(self) -> Any:
        return list(self.values)

    def __str__(self) -> str:
        return f"one of {', '.join('none' if label is None else str(label) for label in self.labels)}"


@dataclass(frozen=True)
class Range:
    """A setting that is a number, and its limits; both are included."""

    path: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    is_whole: bool = False

    def suggested(self, trial: Trial) -> Any:
        if self.is_whole:
            return trial.suggest_int(self.path, int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return trial.suggest_float(self.path, self.low, self.high, log=self.log, step=self.step)

    def value(self, number: float) -> float:
        return number

    def to_json(self) -> Any:
        options = {"log": True} if self.log else {} if self.step is None else {"step": self.step}
        return {"low": self.low, "high": self.high, **options}

    def __str__(self) -> str:
        how = ", logarithmic" if self.log else "" if self.step is None else f", in steps of {self.step:g}"
        return f"{self.low:g} to {self.high:g}{how}"


Dimension: TypeAlias = Choice | Range


@dataclass(frozen=True)
class SearchSpace:
    """The dimensions of a sweep, in the order of its file.

    >>> space = SearchSpace.of({"optim.lr": {"low": 0.001, "high": 0.1, "log": True}, "seed": [0, 1]})
    >>> [f"{dimension.path}: {dimension}" for dimension in space.dimensions]
    ['optim.lr: 0.001 to 0.1, logarithmic', 'seed: one of 0, 1']
    """

    dimensions: tuple[Dimension, ...]

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> SearchSpace:
        """Check a table of settings by path, or by section. Raises BadInput."""
        found: dict[str, Dimension] = {}
        for path, given in leaves(table):
            if path in found:
                raise BadInput(f"{path} is given twice in the search space; give it once")
            found[path] = dimension(path, given)
        if not found:
            raise BadInput('the search space is empty; give a setting, such as "optim.lr" = {low = 0.01, high = 1}')
        if {"epochs", "steps"} <= found.keys():
            raise BadInput("the search space has epochs and steps, but a run has one length; give one of them")
        return cls(tuple(found.values()))

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(dimension.path for dimension in self.dimensions)

    def suggested(self, trial: Trial) -> dict[str, Any]:
        """Return the values that a trial tries, by path."""
        return {dimension.path: dimension.suggested(trial) for dimension in self.dimensions}

    def to_json(self) -> dict[str, Any]:
        return {dimension.path: dimension.to_json() for dimension in self.dimensions}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by path as changes of a config.

    >>> nested({"optim.lr": 0.1, "optim.name": "sgd", "seed": 1})
    {'optim': {'lr': 0.1, 'name': 'sgd'}, 'seed': 1}
    """
    changes: dict[str, Any] = {}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        (changes.setdefault(section, {}) if section else changes)[name] = value
    return changes


def settings_of(kind: type[Section] = RunConfig, prefix: str = "") -> dict[str, FieldInfo]:
    """Return all settings of a run by path."""
    found: dict[str, FieldInfo] = {}
    for name, info in kind.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            found |= settings_of(info.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = info
    return found


def leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a table by path; a section may be a table of its own."""
    sections = {path.partition(".")[0] for path in settings_of() if "." in path}
    for name, value in table.items():
        if not prefix and name in sections and isinstance(value, Mapping):
            yield from leaves(value, f"{name}.")
        else:
            yield prefix + name, value


def dimension(path: str, given: Any) -> Dimension:
    """Return the dimension that is given for a setting. Raises BadInput, with the name of the setting."""
    known = settings_of()
    if path not in known:
        raise unknown_setting(path, known)
    if path in FIXED:
        raise BadInput(f"the search space has {path}, which a sweep does not vary: {FIXED[path]}; remove it")
    if isinstance(given, list):
        return choice(path, known[path], given)
    if isinstance(given, Mapping):
        return number_range(path, known[path], given)
    raise BadInput(
        f"{path} is {printable(repr(given))[:100]} in the search space, but must be a list of values, or a range such "
        "as {low = 0.01, high = 1}; a setting that is the same in all trials is an option of the command"
    )


def unknown_setting(path: str, known: Mapping[str, FieldInfo]) -> BadInput:
    last = path.rpartition(".")[2]
    same = [other for other in known if other.rpartition(".")[2] == last]
    near = same or difflib.get_close_matches(path, known, n=1)
    hint = f"did you mean {' or '.join(near)}?" if near else "`resnetlab train --help` lists the settings"
    return BadInput(f"unknown setting {printable(path)[:100]} in the search space; {hint}")


def choice(path: str, info: FieldInfo, given: list[Any]) -> Choice:
    if not given:
        raise BadInput(f"{path} has no values in the search space; give some, or remove it")
    is_optional = type(None) in get_args(info.annotation)
    values = [None if is_optional and value == "none" else value for value in given]
    for value in values:
        require_allowed(path, info, value)
    found = Choice(path, tuple(values))
    if len(found.labels) < len(values):
        raise BadInput(f"{path} has a value twice in the search space; give each once")
    return found


def number_range(path: str, info: FieldInfo, given: Mapping[str, Any]) -> Range:
    kinds = {info.annotation, *get_args(info.annotation)}
    kinds |= {get_args(kind)[0] for kind in kinds if get_args(kind) and hasattr(kind, "__metadata__")}
    if not kinds & {int, float}:
        raise BadInput(f"{path} is not a number, so it has no range; give a list of its values in the search space")
    for name in given:
        if name not in ("low", "high", "log", "step"):
            raise unknown(f"key in the range of {path}", name, ("low", "high", "log", "step"))
    for name in ("low", "high"):
        if name not in given:
            raise BadInput(f"the range of {path} has no {name}; give {{low = …, high = …}}")
        require_allowed(path, info, given[name])
        if not isinstance(given[name], int | float):
            raise BadInput(f"{name} in the range of {path} is {printable(repr(given[name]))[:100]}; give a number")
    low, high, log, step = given["low"], given["high"], given.get("log", False), given.get("step")
    if not isinstance(log, bool):
        raise BadInput(f"log in the range of {path} is {printable(repr(log))[:100]}, but must be true or false")
    if not low < high:
        raise BadInput(f"the range of {path} is from {low} to {high}, but low must be less than high")
    if log and not low > 0:
        raise BadInput(f"the range of {path} begins at {low}, but a logarithmic range needs a low above 0")
    is_whole = float not in kinds
    if step is not None:
        is_number = isinstance(step, int if is_whole else int | float) and not isinstance(step, bool)
        if not is_number or not 0 < step <= high - low:
            kind = "a whole number" if is_whole else "a number"
            raise BadInput(
                f"step in the range of {path} is {printable(repr(step))[:100]}, but must be {kind} that fits"
            )
        if log:
            raise BadInput(f"the range of {path} has log and step, which exclude each other; give one of them")
    return Range(path, low, high, log, step, is_whole)


def require_allowed(path: str, info: FieldInfo, value: Any) -> None:
    """Raise BadInput unless a setting may have a value, as far as that depends on no other setting."""
    if path == "model.name" and value not in ARCHITECTURES:
        raise unknown("model.name", value, ARCHITECTURES)
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput(f"{path} is {value}, but must be a finite number")
    section, _, name = path.rpartition(".")
    kind: Any = RunConfig.model_fields[section].annotation if section else RunConfig
    is_number_for_bool = info.annotation is bool and not isinstance(value, bool)
    is_bool_for_number = isinstance(value, bool) and info.annotation is not bool
    try:
        if is_number_for_bool or is_bool_for_number:
            rule = "true or false" if is_number_for_bool else "a value of its own kind, not true or false"
            raise BadInput(f"{path} is {printable(repr(value))[:100]}, but must be {rule}")
        whole: Any = Annotated[info.annotation, info]
        TypeAdapter(whole).validate_python(value)
    except ValidationError as error:
        clauses = [kind._clause({**one, "loc": (name,)}) for one in error.errors(include_url=False)]
        raise BadInput(clauses[0]) from error
