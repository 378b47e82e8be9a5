"""Errors: each is also the built-in exception a Python caller would catch, and survives pickling."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from resnetlab import errors
from resnetlab.files import write_text
from resnetlab.runs.config import ModelConfig, RunConfig

BUILT_IN = {
    errors.BadInput: (ValueError, 2),
    errors.Damaged: (ValueError, 2),
    errors.BadSettings: (ValueError, 2),
    errors.NoSoundCheckpoint: (RuntimeError, 3),
    errors.DiskTrouble: (OSError, 4),
    errors.NonFinite: (ArithmeticError, 5),
    errors.Stopped: (RuntimeError, 6),
    errors.ProcessLost: (RuntimeError, 6),
}


def test_every_error_is_listed_here() -> None:
    found = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LabError)}
    assert found == {errors.LabError, *BUILT_IN}


@pytest.mark.parametrize("kind", BUILT_IN)
def test_an_error_is_also_a_built_in_error_and_keeps_its_message_and_exit_code(kind: type[errors.LabError]) -> None:
    built_in, code = BUILT_IN[kind]
    with pytest.raises(built_in, match=r"^no space for 3 bytes$") as caught:
        raise kind("no space for 3 bytes")
    assert isinstance(caught.value, errors.LabError)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy), copy.args, copy.exit_code) == (kind, "no space for 3 bytes", caught.value.args, code)


def test_a_full_disk_is_an_oserror_with_our_sentence(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"could not write .*gone.* No such file") as caught:
        write_text(tmp_path / "gone" / "a.txt", "text")
    assert isinstance(caught.value, errors.DiskTrouble)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"model": {"name": "resnet43"}, "epochs": 1}, "unknown model 'resnet43'; did you mean 'resnet44'?"),
        ({"model": {"nmae": "resnet34"}, "epochs": 1}, "unknown setting model.nmae; did you mean model.name?"),
        ({"epochs": 1, "steps": 1}, "a run needs one length"),
        ({"epochs": 1, "batch_size": "many"}, "batch_size is 'many', but must be"),
        ([], "config is [], but must be"),
    ],
)
def test_a_config_raises_one_of_our_errors_and_never_pydantics(values: object, sentence: str) -> None:
    with pytest.raises(errors.BadInput) as caught:
        RunConfig.model_validate(values)
    assert str(caught.value).startswith(sentence), str(caught.value)
    if isinstance(values, dict):
        with pytest.raises(errors.BadInput) as again:
            RunConfig(**values)
        assert str(again.value) == str(caught.value)


def test_a_part_of_a_config_raises_our_error_too() -> None:
    with pytest.raises(errors.BadInput, match=r"model\.freeze trains the head alone"):
        ModelConfig(freeze=True)
