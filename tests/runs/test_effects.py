"""Settings without effect are named; those with one never are."""

from __future__ import annotations

from typing import Any

import pytest

from resnetlab.distributed import Processes
from resnetlab.runs import recipes
from resnetlab.runs.config import RunConfig
from resnetlab.runs.differences import flat
from resnetlab.runs.effects import NEEDED, NEEDED_ON, alone, chosen, long_warm_up, without_effect

PATHS = list(flat(RunConfig(epochs=1).to_json()))


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"optim": {"name": "adamw", "momentum": 0.5}}, "optim.momentum"),
        ({"optim": {"betas": (0.8, 0.9)}}, "optim.betas"),
        ({"schedule": {"name": "cosine", "gamma": 0.5}}, "schedule.gamma"),
        ({"schedule": {"warmup_from": 0.5}}, "schedule.warmup_from"),
        ({"augment": {"flip": False, "alternate": True}}, "augment.alternate"),
        ({"model": {"pretrained": "torchvision", "zero_init": True}}, "model.zero_init"),
    ],
    ids=str,
)
def test_a_chosen_setting_without_effect_is_named(changes: dict[str, Any], path: str) -> None:
    config = RunConfig(epochs=1).changed(changes)
    (sentence,) = without_effect(config, chosen(config))
    assert sentence.startswith(f"{path} has no effect: ")


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_a_recipe_alone_has_no_warning(recipe: str) -> None:
    config = recipes.get(recipe)
    assert without_effect(config, chosen(config)) == []
    assert long_warm_up(config, config.steps or 10_000) == []


def test_what_needs_several_processes_is_named_where_there_is_one() -> None:
    config = RunConfig(epochs=1)
    assert alone(config, Processes()) == []
    assert alone(config.changed({"compress_gradients": "bf16"}), Processes())[0].startswith("compress_gradients has no")
    both = config.changed({"sync_bn": True, "compress_gradients": "bf16"})
    assert alone(both, Processes()) == [
        "sync_bn and compress_gradients have no effect: there is one process; start several with torchrun"
    ]
    assert alone(both, Processes(0, 2)) == []


def test_the_table_names_settings_that_exist() -> None:
    for path in [*NEEDED, *NEEDED_ON, *NEEDED_ON.values(), *(other for other, _ in NEEDED.values())]:
        assert path in PATHS


def test_a_warm_up_must_be_shorter_than_the_run() -> None:
    config = RunConfig(steps=10).changed({"schedule": {"warmup_steps": 10}})
    assert long_warm_up(config, 11) == []
    assert "is 10, but the run has 10 steps" in long_warm_up(config, 10)[0]
