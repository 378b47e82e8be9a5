"""The command that a report names makes the run's config again, setting by setting."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from resnetlab.cli.arguments import TrainArguments
from resnetlab.cli.parsing import parse
from resnetlab.report.command import commands
from resnetlab.runs import recipes
from resnetlab.runs.config import RunConfig

CHANGES: list[dict[str, Any]] = [
    {},
    {"epochs": 3},
    {"steps": 77},
    {"seed": 2**62, "batch_size": 16, "accumulate": 2, "deterministic": True},
    {"optim": {"lr": 1e-5, "name": "adamw", "betas": (0.8, 0.95), "nesterov": False}},
    {"augment": {"flip": True, "crop": 0, "cutout": 3, "crop_padding": "reflect"}},
    {"augment": {"flip": False}, "clip_norm": 0.5, "final_test": "never", "ema": 0.999},
    {"schedule": {"name": "multistep", "milestones": (0.25,)}, "checkpoint": {"every_minutes": 2.5}},
    {"data": {"name": "/a folder/with 'quotes' & $more", "image_size": 32, "val_fraction": 0.2, "download": False}},
    {"data": {"name": "digits", "root": "/data"}, "model": {"name": "resnet34", "shortcut": "A", "zero_init": True}},
    {"model": {"pretrained": "weights.pth", "freeze": True, "name": "resnet50"}, "label_smoothing": 0.0},
]


def typed(command: str) -> RunConfig:
    """The config that a command line stands for."""
    program, verb, recipe, *flags = shlex.split(command)
    assert (program, verb) == ("resnetlab", "train")
    return parse(TrainArguments, [recipe, *flags], "").run_config()


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_a_recipe_is_its_name(recipe: str) -> None:
    config = recipes.get(recipe)
    assert commands(config) == [f"resnetlab train {recipe}"]
    assert typed(*commands(config)) == config


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("recipe", ["quickstart", "finetune", "paper-resnet20"])
def test_the_command_gives_the_same_config(recipe: str, changes: dict[str, Any]) -> None:
    config = recipes.get(recipe).changed(changes)
    (command,) = commands(config)
    assert typed(command) == config


def test_a_config_of_no_recipe_begins_at_one() -> None:
    config = RunConfig(epochs=2)
    again = typed(*commands(config))
    assert again.recipe == "quickstart"
    assert again.changed({"recipe": "custom"}) == config


def test_a_run_that_was_extended_takes_a_command_for_each_length() -> None:
    config = recipes.quickstart().changed({"epochs": 9})
    first, *rest = commands(config, [100, 200])
    assert typed(first.removesuffix(" --out RUN")).steps == 100
    assert rest == ["resnetlab resume RUN --steps 200", "resnetlab resume RUN --epochs 9"]


def test_no_command_contains_control_characters() -> None:
    (command,) = commands(recipes.quickstart().changed({"data": {"name": "a\x1b[2J\nb"}}))
    assert command.isprintable()
