"""Checkpoints: the whole training state in one sealed file, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from resnetlab.errors import BadInput, Damaged, printable
from resnetlab.evaluation.metrics import Score
from resnetlab.files import read_sealed, write_sealed
from resnetlab.kernels.swap import Fast
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import Architecture
from resnetlab.training.loop import TrainState
from resnetlab.training.muon import Muon

FORMAT, VERSION = "resnetlab-checkpoint", 1


def save_checkpoint(path: Path, state: TrainState, facts: Mapping[str, Any]) -> None:
    """Write `state` and the caller's `facts` (JSON-able) to a file, whole or not at all. Raises DiskTrouble."""
    tensors, own = content_of(state)
    write_sealed(path, tensors, {**own, **facts})


def content_of(state: TrainState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON-able facts of which a checkpoint of `state` consists."""
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    if state.average.decay:
        tensors |= {f"average.{name}": value for name, value in state.average.model.state_dict().items()}
    tensors |= {f"optimizer.{name}": value for name, value in optimizer_tensors(state.model, state.optimizer).items()}
    tensors |= {"sums": state.sums, "left_out": state.guard.counts}
    counters = {"step": state.step, "batch": state.batch, "seconds": state.seconds}
    scores = [asdict(score) for score in state.scores]
    return tensors, {
        "format": FORMAT,
        "format_version": VERSION,
        "architecture": architecture_of(state.model),
        "counters": counters,
        "scores": scores,
        "scaler": state.scaler.state_dict(),
    }


def load_checkpoint(path: Path, state: TrainState) -> dict[str, Any]:
    """Fill `state` from a checkpoint and return its other facts.

    Raises Damaged if the file is incomplete or its content is not that of a checkpoint, and BadInput if it is of
    another kind or network; `state` is unchanged then.
    """
    return restore(state, *read_sealed(path), path)


def restore(state: TrainState, tensors: dict[str, Tensor], facts: dict[str, Any], path: Path) -> dict[str, Any]:
    """Fill `state` from the content of a checkpoint, which is of `path`. Returns its facts, and raises the same."""
    if facts.get("format") != FORMAT:
        raise BadInput(f"{printable(path)} is not a checkpoint but a {_shown(facts.get('format'))}")
    if facts.get("format_version") != VERSION:
        given = _shown(facts.get("format_version"))
        raise BadInput(f"{printable(path)} has checkpoint format {given}; this version reads {VERSION}")
    try:
        # The architecture too, not the tensors alone: a plain net has the keys of a residual one.
        given = facts["architecture"]
        if isinstance(state.model, ResNet) and "module" not in given:
            is_other = Architecture.from_json(given) != state.model.architecture
        else:
            is_other = given != architecture_of(state.model)
    except (KeyError, TypeError, BadInput) as error:  # BadInput: no such architecture
        raise _incomplete(path, error) from error
    if is_other:
        raise BadInput(f"{printable(path)} holds another network than this run trains: {_shown(given)}")
    require_same(state.model, part(tensors, "model."), path)
    if state.average.decay:
        require_same(state.average.model, part(tensors, "average."), path)
    try:  # a file with a correct digest may have wrong content: check all of it before `state` is changed
        step, batch, seconds = counters(facts["counters"])
        scores = tuple(
            Score(**{name: float(number(value)) for name, value in score.items()}) for score in facts["scores"]
        )
        optimizer = optimizer_state(state.model, state.optimizer, part(tensors, "optimizer."))
        sums, left_out = like(state.sums, tensors["sums"]), like(state.guard.counts, tensors["left_out"])
        scaler = {name: number(value) for name, value in facts["scaler"].items()}
        facts["environment"] = dict(facts.get("environment", {}).items())
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _incomplete(path, error) from error

    state.model.load_state_dict(part(tensors, "model."))
    if state.average.decay:
        state.average.model.load_state_dict(part(tensors, "average."))
    state.optimizer.state.clear()
    state.optimizer.state.update(optimizer)
    if scaler.keys() == state.scaler.state_dict().keys():  # else: another precision
        state.scaler.load_state_dict(scaler)
    state.sums.copy_(sums)
    state.guard.counts.copy_(left_out)
    state.step, state.batch, state.seconds, state.scores = step, batch, seconds, scores
    return facts


def architecture_of(model: nn.Module) -> dict[str, Any]:
    """Return the architecture as JSON, or the name of the class of a network that is not a `ResNet`."""
    if isinstance(model, ResNet):
        return model.architecture.to_json()
    plain = model.plain if isinstance(model, Fast) else type(model)  # accelerated or not, it is the same network
    return {"module": plain.__qualname__}


def counters(given: Mapping[str, Any]) -> tuple[int, int, float]:
    """Return step, batch and seconds. Raises ValueError for impossible values."""
    step, batch, seconds = given["step"], given["batch"], float(number(given["seconds"]))
    if type(step) is not int or type(batch) is not int or not 0 <= batch <= step < 2**53 or not 0 <= seconds < math.inf:
        raise ValueError(f"its counters are {dict(given)}")
    return step, batch, seconds


def number(value: object) -> Any:
    """Return the value, which may be NaN for an undefined score. Raises TypeError if it is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return value


def like(here: Tensor, there: Tensor) -> Tensor:
    """Return `there`. Raises ValueError unless it has the shape and type of `here`."""
    if (here.shape, here.dtype) != (there.shape, there.dtype):
        raise ValueError(f"{_kind(there)} instead of {_kind(here)}")
    return there


def optimizer_tensors(model: nn.Module, optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state by parameter name, e.g. "momentum_buffer/layer1.0.conv1.weight"."""
    return {
        f"{key}/{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None  # momentum off
    }


def optimizer_state(
    model: nn.Module, optimizer: optim.Optimizer, tensors: Mapping[str, Tensor]
) -> dict[Tensor, dict[str, Tensor]]:
    """Return the optimiser's state from `optimizer_tensors`, on each parameter's device and in its memory format.

    Raises ValueError unless every trained parameter has its whole state or, if it never had a gradient, none of it.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    wanted = {f"{key}/{name}": name for name, parameter in trained.items() for key in state_keys(optimizer, parameter)}
    begun = {wanted[path] for path in tensors if path in wanted}
    if isinstance(optimizer, optim.SGD):  # all of its state is there from the beginning
        begun = set(trained)
    needed = {path for path, name in wanted.items() if name in begun}
    if tensors.keys() != needed:
        raise ValueError(f"the optimiser's state differs: {', '.join(sorted(tensors.keys() ^ needed)[:3])}")
    state: dict[Tensor, dict[str, Tensor]] = {trained[name]: {} for name in begun}
    for path, value in tensors.items():
        key, name = path.split("/", 1)
        parameter = trained[name]
        if key == "step":  # of Adam; a fused optimiser needs it on the parameter's device
            state[parameter][key] = like(value.new_zeros((), dtype=torch.float32), value).to(parameter.device)
        else:
            state[parameter][key] = torch.empty_like(parameter, requires_grad=False).copy_(like(parameter, value))
    return state


def state_keys(optimizer: optim.Optimizer, parameter: Tensor) -> tuple[str, ...]:
    """Return the names of the optimiser's tensors for a parameter."""
    if isinstance(optimizer, optim.SGD):
        return ("momentum_buffer",) if optimizer.defaults["momentum"] else ()
    if isinstance(optimizer, Muon) and parameter.ndim == 4:
        return ("momentum_buffer",)
    return ("exp_avg", "exp_avg_sq", "step")


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def require_same(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise BadInput unless the names, shapes and types of `tensors` are those of the network."""
    here = {name: _kind(value) for name, value in model.state_dict().items()}
    there = {name: _kind(value) for name, value in tensors.items()}
    differing = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    if differing:
        shown = ", ".join(f"{printable(n)} (here {here.get(n)}, there {there.get(n)})" for n in differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise BadInput(f"{printable(path)} holds another network; different tensors: {shown}{more}")


def _kind(value: Tensor) -> str:
    """Return the shape, and the type unless it is float32."""
    return f"{tuple(value.shape)}" + ("" if value.dtype == torch.float32 else f" {value.dtype}")


def _incomplete(path: Path, error: Exception) -> Damaged:
    return Damaged(f"{printable(path)} has the right digest, but not the content of a checkpoint: {_shown(error)}")


def _shown(value: object) -> str:
    return printable(value)[:200]
