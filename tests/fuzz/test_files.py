"""Mutated checkpoints and model files through `resume`, `evaluate` and `load` (promise 21).

Half of them are damaged as a disk would do it; the others have a digest that is right and contents that are not, which
only a program makes. Whatever is not used is refused, and whatever is used can be used to the end.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import resnetlab
from resnetlab.errors import BadInput, NonFinite
from resnetlab.files import UNSEALED, read_sealed, write_sealed
from resnetlab.inference.model_file import weights_digest
from resnetlab.runs import experiment, recipes
from resnetlab.runs.folder import RunFolder
from resnetlab.training.loop import fit


def without_figures(patch: pytest.MonkeyPatch) -> None:
    """Train without drawing, which takes longer."""
    patch.setattr("resnetlab.runs.evaluation_files.draw", lambda *_: None)
    patch.setattr(experiment, "draw_curves", lambda *_: None)
    patch.setattr(experiment, "draw_batch", lambda *_: None)


@pytest.fixture(scope="module")
def run(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose newest checkpoint lies within an epoch, one step before the end; the one before at its beginning."""
    config = recipes.quickstart().changed(
        {
            "model": {"name": tiny},
            "steps": 12,
            "batch_size": 256,
            "precision": "fp32",
            "ema": 0.9,
            "optim": {"name": "adam"},
            "checkpoint": {"every_steps": 1, "keep": 3},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch)
        run = experiment.train(config, tmp_path_factory.mktemp("runs") / "run")
    last, *rest = run.all_checkpoints()
    last.unlink()
    assert [path.stem for path in rest] == ["step-00000011", "step-00000010"]
    for path in rest:  # no times in them: a case is the same bytes every time
        forge(path, lambda _, facts: facts["counters"].update(seconds=1.0))
    forge(run.best, lambda _, facts: facts["provenance"].update(trained="today"))
    return run


def resealed(content: bytes) -> bytes:
    """The content with a correct digest, if it has a digest field."""
    match = re.search(rb'digest\\": \\"([0-9a-f]{64})', content)
    if match is None:
        return content
    zeroed = content[: match.start(1)] + UNSEALED.encode() + content[match.end(1) :]
    return content[: match.start(1)] + hashlib.sha256(zeroed).hexdigest().encode() + content[match.end(1) :]


def with_header(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The file with its header changed as text, and length and digest corrected."""
    length = int.from_bytes(content[:8], "little")
    head = change(content[8 : 8 + length])
    return resealed(len(head).to_bytes(8, "little") + head + content[8 + length :])


def with_other_tensors(fuzzer: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """One to three tensors missing, renamed, added, of another shape or type, or full of nonsense."""
    tensors = dict(tensors)
    for _ in range(fuzzer.choice((1, 1, 2, 3))):
        name = fuzzer.choice(sorted(tensors))
        value = tensors[name]
        change = fuzzer.randrange(12)
        if change <= 1:
            del tensors[name]
        elif change == 2:
            tensors[fuzzer.choice((name + "x", "more", "optimizer.x", "optimizer.a/b", "model.", "\ud83d", ""))] = (
                tensors.pop(name)
            )
        elif change == 3:
            tensors[fuzzer.choice(sorted(tensors))] = value.clone()
        else:
            tensors[name] = (
                value[None],
                value.reshape(-1)[:-1].clone(),
                value.double(),
                value.to(torch.int8),
                value.to(torch.bool),
                torch.full_like(value, float("nan")) if value.is_floating_point() else value - 2**62,
                torch.full_like(value, 1e38) if value.is_floating_point() else value - 3,
                -value,
            )[change - 4]
    return {name.encode("utf-8", "replace").decode(): value for name, value in tensors.items()}


def mutated(fuzzer: Any, path: Path, spare: Path) -> bytes:
    """The content of a sealed file, mutated in one of several ways."""
    content = path.read_bytes()
    kind = fuzzer.randrange(8)
    if kind <= 2:
        return bytes(fuzzer.damaged(content))
    if kind == 3:
        return resealed(fuzzer.damaged(content))
    if kind == 4:
        return with_header(content, fuzzer.damaged)
    tensors, facts = read_sealed(path)
    if kind <= 6:
        facts = fuzzer.changed(facts)
        if not isinstance(facts, dict):
            facts = {"facts": facts}
        facts.pop("digest", None)
    else:
        tensors = with_other_tensors(fuzzer, tensors)
        if "weights_digest" in facts and fuzzer.random() < 0.8:
            facts["weights_digest"] = weights_digest(tensors)
    write_sealed(spare, tensors, facts)
    return spare.read_bytes()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put_back(folder: Path, files: dict[str, bytes]) -> None:
    for name in snapshot(folder).keys() - files.keys():
        (folder / name).unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def to_the_end(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Resuming trains to the end, but does not score and draw; the steps from which it went on."""
    steps: list[int] = []

    def fit_unrecorded(state: Any, batches: Any, plan: Any, runtime: Any) -> Iterator[Any]:
        steps.append(state.step)
        for _event in fit(state, batches, plan, runtime):
            yield from ()

    monkeypatch.setattr(experiment, "fit", fit_unrecorded)
    monkeypatch.setattr(experiment, "finish", lambda *_: None)
    return steps


def test_mutated_checkpoints(  # noqa: PLR0917 - fixtures
    cases: range, run: RunFolder, fuzzer: Any, check: Any, to_the_end: list[int], tmp_path: Path
) -> None:
    newest, older = run.all_checkpoints()
    files = snapshot(run.path)
    for case in cases:
        name = f"checkpoint {case}"
        draw = fuzzer(name)
        content = mutated(draw, newest, tmp_path / "spare")
        newest.write_bytes(content)
        alone = draw.random() < 0.5
        if alone:
            older.unlink()
        to_the_end.clear()
        code, out, _ = check(name, "resume", run.path)
        assert bool(to_the_end) == (code in (0, 5)), name
        if to_the_end == [10]:
            assert "trying the one before" in out, name
        after = snapshot(run.path)
        assert after["checkpoints/step-00000011.ckpt"] == content, f"{name}: nothing overwrites what may be mended"
        assert not list(run.path.rglob(".*.tmp")), name
        json.loads(after["config.json"])
        put_back(run.path, files)
    check.assert_no_problems()
    assert check.codes[0] > min(10, len(cases) // 5)
    assert check.codes[3] > min(10, len(cases) // 5)


def loaded(path: Path) -> str:
    """The error message of loading a model file; empty if it can be loaded."""
    try:
        resnetlab.load(path, "cpu")
    except BadInput as error:
        return f"resnetlab: {error}\n"
    return ""


def test_mutated_model_files(  # noqa: PLR0917 - fixtures
    cases: range, run: RunFolder, fuzzer: Any, check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.safetensors"
    for case in cases:
        name = f"model {case}"
        draw = fuzzer(name)
        path.write_bytes(mutated(draw, run.best, tmp_path / "spare"))
        _, out, err = check(name, "evaluate", path, "--data", "digits", *["--json"] * draw.randrange(2))
        assert "NaN" not in out, name
        assert loaded(path) in ("", err), name
    check.assert_no_problems()
    assert check.codes[2] > min(10, len(cases) // 5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "spare"]


Tensors, Facts = dict[str, Tensor], dict[str, Any]
# What once crashed or was taken as it stood, each with a digest that is right.
FORGED: dict[str, Callable[[Tensors, Facts], object]] = {
    "no counters": lambda _, facts: facts.pop("counters"),
    "counters that are a list": lambda _, facts: facts.update(counters=[1]),
    "a step that is text": lambda _, facts: facts["counters"].update(step="11"),
    "a step before the first": lambda _, facts: facts["counters"].update(step=-1, batch=-1),
    "a step beyond all floats": lambda _, facts: facts["counters"].update(step=10**400),
    "a position beyond its step": lambda _, facts: facts["counters"].update(batch=12),
    "NaN seconds": lambda _, facts: facts["counters"].update(seconds=float("nan")),
    "an environment that is a list": lambda _, facts: facts.update(environment=["torch"]),
    "scores without a loss": lambda _, facts: facts["scores"][0].pop("loss"),
    "scores that are words": lambda _, facts: facts["scores"][0].update(loss="low"),
    "scores that are numbers": lambda _, facts: facts.update(scores=[1, 2]),
    "a scaler that is a list": lambda _, facts: facts.update(scaler=[]),
    "no architecture": lambda _, facts: facts.pop("architecture"),
    "an architecture that is none": lambda _, facts: facts["architecture"].update(width=-1),
    "no sums": lambda tensors, _: tensors.pop("sums"),
    "sums of another shape": lambda tensors, _: tensors.update(sums=torch.zeros(4)),
    "no count of steps left out": lambda tensors, _: tensors.pop("left_out"),
    "half of the optimiser's memory": lambda tensors, _: tensors.pop("optimizer.exp_avg/fc.bias"),
    "memory for a stranger": lambda tensors, _: tensors.update({"optimizer.exp_avg/fc.bios": torch.zeros(10)}),
    "memory of a stranger": lambda tensors, _: tensors.update({"optimizer.bias": torch.zeros(10)}),
    "memory of another shape": lambda tensors, _: tensors.update({"optimizer.exp_avg/fc.bias": torch.zeros(1)}),
    "memory of another type": lambda tensors, _: tensors.update(
        {"optimizer.exp_avg/fc.bias": torch.zeros(10).double()}
    ),
    "counts of several numbers": lambda tensors, _: tensors.update({"optimizer.step/fc.bias": torch.zeros(10)}),
}


def forge(path: Path, change: Callable[[Tensors, Facts], object]) -> None:
    tensors, facts = read_sealed(path)
    change(tensors, facts)
    write_sealed(path, tensors, facts)


@pytest.mark.parametrize("kind", FORGED)
@pytest.mark.slow
def test_checkpoints_that_once_crashed(kind: str, run: RunFolder, check: Any, to_the_end: list[int]) -> None:
    """The checkpoint before it is used; if there is none, the error says so."""
    files = snapshot(run.path)
    newest, older = run.all_checkpoints()
    forge(newest, FORGED[kind])
    code, out, err = check(kind, "resume", run.path)
    assert (code, to_the_end) == (0, [10]), err
    assert "has the right digest, but not the content of a checkpoint" in out
    older.unlink()
    assert check(kind, "resume", run.path)[0] == 3
    put_back(run.path, files)
    check.assert_no_problems()


def test_weights_of_another_type_are_not_cast_in_silence(run: RunFolder, check: Any, to_the_end: list[int]) -> None:
    files = snapshot(run.path)
    newest, _ = run.all_checkpoints()
    forge(newest, lambda tensors, _: tensors.update({"model.fc.bias": tensors["model.fc.bias"].double()}))
    code, _, err = check("double", "resume", run.path)
    assert code == 2
    assert "fc.bias (here (10,), there (10,) torch.float64)" in err
    put_back(run.path, files)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_a_model_that_gives_no_numbers_gives_no_scores(
    value: float, run: RunFolder, check: Any, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    tensors, facts = read_sealed(run.best)
    tensors["fc.weight"].fill_(value)
    tensors["fc.bias"].fill_(value)
    write_sealed(path, tensors, {**facts, "weights_digest": weights_digest(tensors)})
    code, _, err = check("not finite", "evaluate", path, "--data", "digits")
    assert code == 5
    assert "output is NaN or infinite for 144 of 144 images" in err
    with pytest.raises(NonFinite, match="there is no prediction"):
        resnetlab.load(path, "cpu")(np.zeros((8, 8), np.uint8))


def test_an_epoch_whose_steps_were_all_skipped_is_no_division_by_zero(
    run: RunFolder, check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--on-nonfinite skip` can leave empty sums for an epoch of a few steps."""
    without_figures(monkeypatch)
    files = snapshot(run.path)
    newest, _ = run.all_checkpoints()
    forge(newest, lambda tensors, facts: (tensors["sums"].zero_(), facts["counters"].update(step=12, batch=2)))
    code, out, err = check("sums of nothing", "resume", run.path)
    assert code == 0, err
    assert "epoch 3/3" in out
    put_back(run.path, files)
