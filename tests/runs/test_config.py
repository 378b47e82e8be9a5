"""A config means what it says: validated at once, written and read back equal."""

from __future__ import annotations

import contextlib
import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from resnetlab.data import DATASETS
from resnetlab.data.preprocess import FITS
from resnetlab.data.sources import PREFIX, SOURCES
from resnetlab.errors import BadInput
from resnetlab.models.zoo import SHORTCUTS, STEMS
from resnetlab.runs import recipes
from resnetlab.runs.config import DataConfig, ModelConfig, OptimConfig, RunConfig, ScheduleConfig
from resnetlab.runs.differences import differences, flat
from resnetlab.runtime import DEVICES, PRECISIONS
from resnetlab.training.optim import OPTIMIZERS
from resnetlab.training.schedule import SHAPES
from resnetlab.training.selection import CRITERIA


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_valid_names_itself_and_reloads_equal(name: str) -> None:
    config = recipes.get(name)
    assert config.recipe == name
    assert RunConfig.model_validate(json.loads(json.dumps(config.to_json()))) == config
    assert recipes.RECIPES[name].__doc__


def choices(section: type[Any], field: str) -> set[str]:
    return {c for option in get_args(section.model_fields[field].annotation) for c in (get_args(option) or [option])}


def test_the_choices_of_a_config_are_those_of_the_code() -> None:
    assert choices(OptimConfig, "name") == set(OPTIMIZERS)
    assert choices(ScheduleConfig, "name") == set(SHAPES)
    by_name = {"auto", "quick", *STEMS} - {"whitened"}  # which belongs to one network and needs its data
    assert choices(ModelConfig, "stem") == by_name
    assert choices(ModelConfig, "shortcut") - {type(None)} == set(SHORTCUTS)
    assert choices(DataConfig, "fit") == set(FITS)
    assert choices(RunConfig, "device") == set(DEVICES)
    assert choices(RunConfig, "precision") == {"auto", *PRECISIONS}
    assert choices(RunConfig, "best_by") == set(CRITERIA)
    assert sorted(DATASETS) == sorted(["digits", *(name for name in SOURCES if not name.startswith(PREFIX))])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"optim": {"lr": -1.0}}, "optim.lr is -1.0, but must be greater than 0"),
        ({"optim": {"lr": float("nan")}}, "optim.lr is nan, but must be a finite number"),
        ({"optim": {"lrr": 1}}, "unknown setting optim.lrr; did you mean optim.lr?"),
        ({"optim": {"betas": [0.9, 1.5]}}, "optim.betas.1 is 1.5, but must be less than 1"),
        ({"lr": 0.5}, "unknown setting lr; did you mean optim.lr?"),
        ({"batchsize": 3}, "unknown setting batchsize; did you mean batch_size?"),
        ({"zzz": 3}, "unknown setting zzz; choose from recipe, data"),
        ({"optim": 3}, "optim is 3, but must be a table of settings"),
        ({"seed": -1}, "seed is -1, but must be greater than or equal to 0"),
        ({"epochs": "many"}, "epochs is 'many', but must be a whole number"),
        ({"optim": {"lr": "fast"}}, "optim.lr is 'fast', but must be a number"),
        ({"optim": {"name": "sdg"}}, "unknown optim.name 'sdg'; did you mean 'sgd'? Choose from sgd, adam, adamw"),
        ({"track": ["nobody"] * 1000}, "; and 995 more"),
        ({f"k{number}": 1 for number in range(7)}, "; and 2 more"),
        ({"epochs": 1, "steps": 1}, "give epochs or steps, not both"),
        ({"accumulate": 500}, "a batch of 64 can be split into at most 32 parts"),
        ({"model": {"name": "resnet19"}}, "unknown model 'resnet19'; did you mean 'resnet18'?"),
        ({"model": {"freeze": True}}, "must come from model.pretrained"),
        ({"model": {"name": "plain18", "zero_init": True}}, "needs shortcuts"),
        ({"schedule": {"milestones": [0.5, 2]}}, "schedule.milestones.1 is 2, but must be less than 1"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_path_to_the_field(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput) as refused:
        recipes.quickstart().changed(changes)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "pydantic" not in str(refused.value)


def test_a_new_length_replaces_the_old_one_whichever_way_it_is_given() -> None:
    assert recipes.get("paper-resnet20").changed({"epochs": 3}).steps is None
    assert recipes.quickstart().changed({"steps": 3}).epochs is None


def test_differences_are_paths_with_the_values_before_and_after() -> None:
    before = recipes.quickstart()
    after = before.changed({"seed": 3, "optim": {"lr": 0.5}, "augment": {"sizes": [0.5, 1]}, "steps": 7})
    assert differences(before, before) == []
    assert differences(before, after) == [
        ("augment.sizes", [], [0.5, 1.0]),
        ("optim.lr", 0.03, 0.5),
        ("epochs", 30, None),
        ("steps", None, 7),
        ("seed", 0, 3),
    ]
    assert str(differences(before, after)[1]) == "optim.lr was 0.03, now 0.5"
    assert flat(after.to_json())["optim.lr"] == 0.5


def test_the_config_of_an_older_run_loads() -> None:
    config = recipes.quickstart()
    assert RunConfig.model_validate(config.to_json() | {"extended_at": [10, 20]}) == config


def test_a_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        recipes.quickstart().seed = 3  # type: ignore[misc]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    ),
    st.sampled_from([*RunConfig.model_fields, "nonsense"]),
)
def test_any_value_is_accepted_and_reloads_equal_or_is_refused(value: Any, field: str) -> None:
    config = None
    with contextlib.suppress(BadInput):
        config = recipes.quickstart().changed({field: value})
    if config is not None:
        assert RunConfig.model_validate(config.to_json()) == config
