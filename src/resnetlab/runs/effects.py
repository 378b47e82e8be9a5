"""Settings without effect: what a setting needs in order to change anything, and the sentences about those it lacks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from resnetlab.distributed import Processes
from resnetlab.runs import recipes
from resnetlab.runs.config import RunConfig, value_text
from resnetlab.runs.differences import flat

ADAM = ("adam", "adamw", "muon")
NEEDED: dict[str, tuple[str, tuple[str, ...]]] = {
    "augment.rand_ops": ("augment.policy", ("rand",)),
    "augment.rand_magnitude": ("augment.policy", ("rand",)),
    "optim.momentum": ("optim.name", ("sgd", "muon")),
    "optim.nesterov": ("optim.name", ("sgd",)),
    "optim.betas": ("optim.name", ADAM),
    "optim.lr_share": ("optim.name", ("muon",)),
    "schedule.milestones": ("schedule.name", ("multistep",)),
    "schedule.every_epochs": ("schedule.name", ("step",)),
    "schedule.gamma": ("schedule.name", ("step", "multistep", "plateau")),
    "schedule.patience": ("schedule.name", ("plateau",)),
    "schedule.rise": ("schedule.name", ("one_cycle",)),
    "schedule.final": ("schedule.name", ("linear", "cosine")),
}
"""A setting, another setting that it depends on, and the values of that one with which it has an effect."""

NEEDED_ON = {
    "schedule.warmup_from": "schedule.warmup_steps",
    "schedule.warmup_shape": "schedule.warmup_steps",
    "augment.crop_padding": "augment.crop",
    "augment.alternate": "augment.flip",
    "optim.decay_norms": "optim.weight_decay",
}
"""A setting, and another one that must be on."""


def without_effect(config: RunConfig, paths: Collection[str]) -> list[str]:
    """Return a sentence for each of the settings in `paths` that has no effect, because of another one.

    >>> from resnetlab.runs.config import OptimConfig
    >>> without_effect(RunConfig(epochs=1, optim=OptimConfig(name="adam")), ["optim.momentum", "optim.betas"])
    ['optim.momentum has no effect: optim.name is adam, and it is for sgd, muon']
    """
    values = flat(config.to_json())
    found = []
    for path in paths:
        other, allowed = NEEDED.get(path, ("", ()))
        if other and values[other] not in allowed:
            found.append(f"{path} has no effect: {other} is {values[other]}, and it is for {', '.join(allowed)}")
        elif (needed := NEEDED_ON.get(path)) and not values[needed]:
            found.append(f"{path} has no effect: {needed} is {value_text(values[needed])}")
        elif path == "augment.alternate" and config.data.balance == "sampler":
            found.append(
                "augment.alternate has no effect: data.balance is sampler, which draws other images each epoch"
            )
        elif path == "model.zero_init" and config.model.pretrained:
            found.append("model.zero_init has no effect: the weights are those of model.pretrained")
    return found


def alone(config: RunConfig, processes: Processes) -> list[str]:
    """Return a sentence if there is one process, and settings are on that need several.

    >>> alone(RunConfig(epochs=1, sync_bn=True), Processes())
    ['sync_bn has no effect: there is one process; start several with torchrun']
    """
    on = {"sync_bn": config.sync_bn, "compress_gradients": config.compress_gradients != "none"}
    names = [name for name, is_on in on.items() if is_on]
    if not names or not processes.is_alone:
        return []
    have = "has" if len(names) == 1 else "have"
    return [f"{' and '.join(names)} {have} no effect: there is one process; start several with torchrun"]


def chosen(config: RunConfig) -> list[str]:
    """Return the settings that somebody chose: neither the recipe's nor the default."""
    bases = [RunConfig(epochs=1), *([recipes.get(config.recipe)] if config.recipe in recipes.RECIPES else [])]
    usual: list[dict[str, Any]] = [flat(base.to_json()) for base in bases]
    return [path for path, value in flat(config.to_json()).items() if all(value != base[path] for base in usual)]


def long_warm_up(config: RunConfig, steps: int) -> list[str]:
    """Return a sentence if the warm-up is not shorter than the run of `steps` steps."""
    if config.schedule.warmup_steps < steps:
        return []
    warm_up, peak = config.schedule.warmup_steps, config.optim.lr
    return [f"schedule.warmup_steps is {warm_up:,}, but the run has {steps:,} steps: its rate never is {peak:g}"]
