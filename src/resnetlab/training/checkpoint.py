"""Checkpoints: the whole training state in one sealed file, so that going on equals never having stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from resnetlab.errors import BadInput, printable
from resnetlab.evaluation.metrics import Score
from resnetlab.models.zoo import Architecture
from resnetlab.sealed import read_sealed, write_sealed
from resnetlab.training.loop import TrainState

FORMAT, VERSION = "resnetlab-checkpoint", 1


def save_checkpoint(path: Path, state: TrainState, facts: Mapping[str, Any]) -> None:
    """Write `state`, and whatever `facts` the caller wants to find beside it, whole or not at all."""
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    if state.average.decay:
        tensors |= {f"average.{name}": value for name, value in state.average.model.state_dict().items()}
    tensors |= {f"optimizer.{name}": value for name, value in optimizer_tensors(state.model, state.optimizer).items()}
    tensors |= {"sums": state.sums, "left_out": state.guard.counts}
    counters = {"step": state.step, "batch": state.batch, "seconds": state.seconds}
    scores = [asdict(score) for score in state.scores]
    write_sealed(
        path,
        tensors,
        {
            "format": FORMAT,
            "format_version": VERSION,
            "architecture": state.model.architecture.to_json(),
            "counters": counters,
            "scores": scores,
            "scaler": state.scaler.state_dict(),
            **facts,
        },
    )


def load_checkpoint(path: Path, state: TrainState) -> dict[str, Any]:
    """Fill `state` from a checkpoint and return its other facts.

    Raises BadInput for a damaged or foreign file, or one of another network; `state` is untouched then.
    """
    tensors, facts = read_sealed(path)
    if facts.get("format") != FORMAT:
        raise BadInput(f"{printable(path)} is not a checkpoint but a {facts.get('format')}")
    if facts["format_version"] != VERSION:
        raise BadInput(
            f"{printable(path)} has checkpoint format {facts['format_version']}; this version reads {VERSION}"
        )
    # The architecture too, not the tensors alone: a plain net has the keys of a residual one.
    if Architecture.from_json(facts["architecture"]) != state.model.architecture:
        raise BadInput(f"{printable(path)} holds another network than this run trains: {facts['architecture']}")
    require_same(state.model, part(tensors, "model."), path)
    if state.average.decay:
        require_same(state.average.model, part(tensors, "average."), path)

    state.model.load_state_dict(part(tensors, "model."))
    if state.average.decay:
        state.average.model.load_state_dict(part(tensors, "average."))
    restore_optimizer(state.model, state.optimizer, part(tensors, "optimizer."))
    state.scaler.load_state_dict(facts["scaler"])
    state.sums.copy_(tensors["sums"])
    state.guard.counts.copy_(tensors["left_out"])
    state.step, state.batch = facts["counters"]["step"], facts["counters"]["batch"]
    state.seconds = facts["counters"]["seconds"]
    state.scores = tuple(Score(**score) for score in facts["scores"])
    return facts


def optimizer_tensors(model: nn.Module, optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's memory by parameter name, e.g. "momentum_buffer/layer1.0.conv1.weight"."""
    return {
        f"{key}/{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None  # momentum off
    }


def restore_optimizer(model: nn.Module, optimizer: optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`; each tensor gets its parameter's device and memory layout back."""
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for path, value in tensors.items():
        key, name = path.split("/", 1)
        parameter = parameters[name]
        like = value.to(parameter.device)  # Adam's step count, too: a fused optimiser wants it beside the parameter
        if value.shape == parameter.shape:
            like = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
        optimizer.state[parameter][key] = like


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def require_same(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """BadInput unless `tensors` fit the network name by name and shape by shape."""
    here = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    there = {name: tuple(value.shape) for name, value in tensors.items()}
    differing = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    if differing:
        shown = ", ".join(f"{n} (here {here.get(n)}, there {there.get(n)})" for n in differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise BadInput(f"{printable(path)} holds another network; tensors that differ: {shown}{more}")
