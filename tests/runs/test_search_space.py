"""A search space is checked by the types of the settings, before any trial."""

from __future__ import annotations

from typing import Any

import pytest

from resnetlab.errors import BadInput
from resnetlab.runs.config import RunConfig
from resnetlab.runs.differences import flat
from resnetlab.runs.sweeps.space import FIXED, Choice, Range, SearchSpace, nested, settings_of


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"optim.lr": {"low": 0.01, "high": 1, "log": True}}, Range("optim.lr", 0.01, 1, log=True)),
        ({"optim": {"lr": {"low": 0.01, "high": 1}}}, Range("optim.lr", 0.01, 1)),
        ({"batch_size": {"low": 32, "high": 96, "step": 32}}, Range("batch_size", 32, 96, step=32, is_whole=True)),
        ({"epochs": {"low": 1, "high": 3}}, Range("epochs", 1, 3, is_whole=True)),
        ({"clip_norm": {"low": 0.5, "high": 2}}, Range("clip_norm", 0.5, 2)),
        ({"model.name": ["resnet20", "resnet32"]}, Choice("model.name", ("resnet20", "resnet32"))),
        ({"clip_norm": ["none", 1.0]}, Choice("clip_norm", (None, 1.0))),
        ({"augment.flip": [True, False]}, Choice("augment.flip", (True, False))),
        ({"optim.betas": [[0.9, 0.99], [0.9, 0.999]]}, Choice("optim.betas", ([0.9, 0.99], [0.9, 0.999]))),
    ],
)
def test_lists_and_ranges_of_any_setting(table: dict[str, Any], expected: Any) -> None:
    space = SearchSpace.of(table)
    assert space.dimensions == (expected,)
    assert SearchSpace.of(space.to_json()) == space or None in getattr(expected, "values", ())


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({}, "the search space is empty"),
        ({"optim.lrr": [1]}, "unknown setting optim.lrr in the search space; did you mean optim.lr?"),
        ({"lr": [1]}, "unknown setting lr in the search space; did you mean optim.lr?"),
        ({"optim": [3]}, "unknown setting optim in the search space"),
        ({"optim.lr": 0.1}, "optim.lr is 0.1 in the search space, but must be a list of values, or a range"),
        ({"optim.lr": []}, "optim.lr has no values"),
        ({"optim.lr": [0.1, 0.1]}, "optim.lr has a value twice"),
        ({"optim.lr": [-1]}, "optim.lr is -1, but must be greater than 0"),
        ({"optim.lr": ["fast"]}, "optim.lr is 'fast', but must be a number"),
        ({"batch_size": [True]}, "batch_size is True, but must be"),
        ({"augment.flip": [1]}, "augment.flip is 1, but must be true or false"),
        ({"optim.name": ["sdg"]}, "unknown optim.name 'sdg'; did you mean 'sgd'?"),
        ({"model.name": ["resnet43"]}, "unknown model.name 'resnet43'; did you mean 'resnet44'?"),
        ({"optim.name": {"low": 1, "high": 2}}, "optim.name is not a number, so it has no range"),
        ({"epochs": {"low": 1.5, "high": 3}}, "epochs is 1.5, but must be a whole number"),
        ({"optim.lr": {"low": 0.1}}, "the range of optim.lr has no high"),
        ({"optim.lr": {"low": 0.1, "high": "1"}}, "high in the range of optim.lr is '1'; give a number"),
        ({"optim.lr": {"low": 1, "high": 0.1}}, "low must be less than high"),
        (
            {"optim.lr": {"low": 0.1, "high": 1, "lgo": True}},
            "unknown key in the range of optim.lr 'lgo'; did you mean",
        ),
        (
            {"optim.lr": {"low": 0.1, "high": 1, "log": 1}},
            "log in the range of optim.lr is 1, but must be true or false",
        ),
        ({"ema": {"low": 0, "high": 0.9, "log": True}}, "a logarithmic range needs a low above 0"),
        (
            {"batch_size": {"low": 8, "high": 16, "step": 0.5}},
            "step in the range of batch_size is 0.5, but must be a whole",
        ),
        ({"optim.lr": {"low": 0.1, "high": 1, "step": 0.1, "log": True}}, "log and step, which exclude each other"),
        ({"optim.lr": {"low": 0.1, "high": float("inf")}}, "optim.lr is inf, but must be a finite number"),
        ({"epochs": [1, 2], "steps": [3]}, "has epochs and steps, but a run has one length"),
        ({"optim.lr": [1], "optim": {"lr": [2]}}, "optim.lr is given twice"),
        ({"data.val_fraction": [0.1, 0.2]}, "data.val_fraction, which a sweep does not vary: the trials are compared"),
        ({"best_by": ["loss"]}, "best_by, which a sweep does not vary"),
        ({"track": [["mlflow"]]}, "track, which a sweep does not vary: it changes no weight"),
    ],
)
def test_what_is_wrong_is_a_sentence_that_names_the_setting(table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput) as error:
        SearchSpace.of(table)
    assert sentence in str(error.value)


def test_the_defaults_of_all_other_settings_are_allowed() -> None:
    for path, value in flat(RunConfig(epochs=1).to_json()).items():
        if path not in FIXED and value is not None:
            assert SearchSpace.of({path: [value]}).paths == (path,)
    assert FIXED.keys() <= settings_of().keys()


def test_values_change_a_config() -> None:
    config = RunConfig(epochs=3).changed(nested({"optim.lr": 0.5, "steps": 7, "augment.flip": True}))
    assert (config.optim.lr, config.steps, config.epochs, config.augment.flip) == (0.5, 7, None, True)
