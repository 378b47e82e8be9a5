"""Files that are not model files: each kind is recognised, its sentence names the next step, and nothing is run."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from resnetlab import load
from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput
from resnetlab.files import read_sealed, write_sealed
from resnetlab.inference.foreign import objects_in
from resnetlab.inference.model_file import read_model, save_model
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture
from resnetlab.runtime import Runtime
from resnetlab.training.checkpoint import save_checkpoint
from resnetlab.training.loop import TrainState
from resnetlab.training.optim import make_optimizer

TINY = Architecture("basic", (1, 1), width=4, stem="cifar", source="a test")
SEE = Preprocessing(image_size=8, resize_to=8, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
RAN = []
IMPORT = "resnetlab import {} --model NAME --classes FILE"


class Bomb:
    """Its pickle calls a function when it is loaded."""

    def __reduce__(self) -> Any:
        return RAN.append, ("it ran",)


def refused(path: Path) -> str:
    with pytest.raises(BadInput) as error:
        read_model(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert not RAN
    return str(error.value)


def weights() -> dict[str, torch.Tensor]:
    return build_model(TINY, 3).state_dict()


def saved(content: object, **how: Any) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path, **how)


def image(form: str) -> Callable[[Path], object]:
    return lambda path: Image.new("RGB", (9, 7)).save(path, form)


def zipped(*names: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"some text")

    return write


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("model.pth"), io.BytesIO())


def numpy_file(write: Any) -> Callable[[Path], object]:
    def to(path: Path) -> None:
        with path.open("wb") as file:  # given a path, NumPy adds an ending
            write(file, np.zeros(2))

    return to


def lambda_of(module: bytes, name: bytes) -> bytes:
    """A pickle as cloudpickle or dill makes of a function, by hand."""
    return (
        b"\x80\x04\x8c"
        + struct.pack("B", len(module))
        + module
        + b"\x94\x8c"
        + struct.pack("B", len(name))
        + name
        + b"\x94\x93\x94)R."
    )


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a state dict": (saved(weights()), IMPORT),
    "a state dict with wrapper": (saved({"state_dict": weights(), "epoch": 3}), IMPORT),
    "an old state dict": (saved(weights(), _use_new_zipfile_serialization=False), IMPORT),
    "a state dict in half precision": (saved({"a": torch.zeros(2).half(), "b": torch.zeros(2).bfloat16()}), IMPORT),
    "a Namespace": (saved({"state_dict": weights(), "args": argparse.Namespace(lr=1)}), "argparse.Namespace"),
    "an old Namespace": (
        saved({"args": argparse.Namespace(lr=1)}, _use_new_zipfile_serialization=False),
        "Python objects (argparse.Namespace)",
    ),
    "a whole module": (saved(torch.nn.Linear(2, 2)), "torch.nn.modules.linear.Linear"),
    "a call": (saved(Bomb()), "Python objects ("),
    "a pickle with a call": (lambda path: path.write_bytes(pickle.dumps(Bomb())), "Python objects ("),
    "a pickle of protocol 0": (lambda path: path.write_bytes(pickle.dumps(Bomb(), 0)), "Python objects ("),
    "a pickle of protocol 1": (lambda path: path.write_bytes(pickle.dumps(Bomb(), 1)), "Python objects ("),
    "a dictionary in protocol 1": (lambda path: path.write_bytes(pickle.dumps({"a": 1}, 1)), IMPORT),
    "a list of names": (lambda path: path.write_text("cat\ndog\nfrog\n"), "not a file that resnetlab wrote"),
    "a cloudpickle lambda": (
        lambda path: path.write_bytes(lambda_of(b"cloudpickle.cloudpickle", b"_make_function")),
        "Python functions (cloudpickle.cloudpickle._make_function)",
    ),
    "a dill lambda": (
        lambda path: path.write_bytes(lambda_of(b"dill._dill", b"_create_function")),
        "Python functions (dill._dill._create_function)",
    ),
    "TorchScript": (zipped("m/data.pkl", "m/constants.pkl", "m/code/m.py"), "no program in a file is run"),
    "PT2": (zipped("m/archive_format", "m/models/model.json"), "no program in a file is run"),
    "another program's safetensors": (lambda path: save_file(weights(), path), IMPORT),
    "its metadata": (lambda path: save_file(weights(), path, {"format": "pt"}), IMPORT),
    "zip": (zipped("notes.txt", "best.safetensors"), "unpack it, and give the model file in it, for example best"),
    "empty zip": (zipped(), "a zip archive; unpack it"),
    "npz": (numpy_file(np.savez), "an archive of NumPy arrays"),
    "npy": (numpy_file(np.save), "a NumPy array"),
    "damaged zip": (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(900)), "use another copy"),
    "tar": (tarred, "unpack it first"),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b\x08\x00" + bytes(50)), "unpack it first"),
    "json": (lambda path: path.write_text(json.dumps({"a": 1})), "a JSON file; give the model file or the folder"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty or damaged"),
    "html": (lambda path: path.write_text("\n<!DOCTYPE html><p>Not found"), "a web page"),
    "lfs": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00"), "git lfs pull"),
    "hdf5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90)), "an HDF5 file"),
    **{form: (image(form), "predict MODEL IMAGE") for form in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")},
    "text": (lambda path: path.write_text("hello"), "is not a file that resnetlab wrote"),
    "noise": (lambda path: path.write_bytes(np.random.default_rng(1).bytes(999)), "is not a file that resnetlab wrote"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_file_has_its_own_sentence(kind: str, tmp_path: Path) -> None:
    write, expected = KINDS[kind]
    path = tmp_path / ("a.json" if kind == "json" else "model")
    write(path)
    assert expected.format(path) in refused(path)


def test_the_command_can_be_typed_for_a_name_with_a_space(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "my weights.pth")
    assert IMPORT.format(f"'{tmp_path / 'my weights.pth'}'") in refused(tmp_path / "my weights.pth")


def test_an_onnx_file_is_named(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model")
    assert "an ONNX file" in refused(tmp_path / "model")
    onnx.save(onnx.helper.make_model(graph, producer_name="pytorch"), tmp_path / "model")
    assert "an ONNX file" in refused(tmp_path / "model")


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_objects_in_a_pickle_are_found_in_each_protocol(protocol: int) -> None:
    """pickle itself finds them by loading."""
    content = {"a": argparse.Namespace(x=1), "b": [argparse.Namespace(), Path("x")], "c": "argparse"}
    found = set(objects_in(pickle.dumps(content, protocol)))
    assert (
        {"argparse.Namespace", "pathlib.PosixPath"}
        <= found
        <= {
            *(
                "argparse.Namespace",
                "pathlib.PosixPath",
                "pathlib.Path",
                "copyreg._reconstructor",
                "__builtin__.object",
            ),
        }
    )


def test_a_checkpoint_names_the_model_file(tmp_path: Path) -> None:
    model = build_model(TINY, 3)
    state = TrainState.begin(model, make_optimizer(model, "sgd", lr=0.1), Runtime(torch.device("cpu")))
    save_checkpoint(tmp_path / "step.ckpt", state, {})
    assert "is a checkpoint" in refused(tmp_path / "step.ckpt")
    assert "best.safetensors" in refused(tmp_path / "step.ckpt")


def test_a_later_format_names_the_update(tmp_path: Path) -> None:
    path = tmp_path / "model"
    save_model(path, build_model(TINY, 3), ("a", "b", "c"), SEE, {})
    tensors, facts = read_sealed(path)
    write_sealed(path, tensors, {**facts, "format_version": 2})
    assert "has model format 2" in refused(path)
    assert "pip install --upgrade resnetlab" in refused(path)
    write_sealed(path, tensors, {**facts, "format_version": "1"})
    assert "has model format '1'; this version of resnetlab reads 1" in refused(path)
    write_sealed(path, tensors, {**facts, "format": "other"})
    assert "it is a file of the kind 'other'; give the file or the folder" in refused(path)
    write_sealed(path, tensors, {})
    assert "it is of no kind; give the file or the folder" in refused(path)


def test_every_flipped_byte_of_the_header_is_damage_and_no_other_program(tmp_path: Path) -> None:
    path = tmp_path / "model"
    save_model(path, build_model(TINY, 3), ("a", "b", "c"), SEE, {})
    content = path.read_bytes()
    for place in [*range(60), *range(60, len(content), len(content) // 50)]:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert "damaged" in refused(path)


def test_a_large_file_of_another_program_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with path.open("wb") as file:
        file.write(b"\x80\x02")
        file.truncate(2**45)  # a sparse file, more than fits into memory
    assert "torch.save" in refused(path)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart-001", "quickstart-002"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text("{}")
    save_model(Path("runs/quickstart-001/best.safetensors"), build_model(TINY, 3), ("a", "b", "c"), SEE, {})
    return tmp_path / "runs"


def test_a_run_is_loaded_by_its_name(runs: Path) -> None:
    by_name = load("quickstart-001", device="cpu").model
    assert by_name.weights_digest == load(runs / "quickstart-001", device="cpu").model.weights_digest
    assert load(Path("quickstart-001"), device="cpu").classes == ("a", "b", "c")


def test_a_file_in_the_working_directory_comes_before_a_run_of_that_name(runs: Path) -> None:
    save_model(Path("quickstart-001"), build_model(TINY, 2), ("x", "y"), SEE, {})
    assert load("quickstart-001", device="cpu").classes == ("x", "y")


def missing(source: object) -> str:
    with pytest.raises(BadInput) as error:
        load(source, device="cpu")  # type: ignore[arg-type]
    return str(error.value)


def test_an_unknown_name_lists_the_runs(runs: Path) -> None:
    told = missing("quickstart-003")
    assert told.startswith("file not found: quickstart-003; did you mean 'quickstart-001'?")
    assert told.endswith("or the name of a run in runs: quickstart-001")
    shutil.rmtree(runs)
    assert missing("quickstart-003").endswith("the name of a run in runs, where there is none yet")


def test_a_folder_without_a_model_names_what_to_give_instead(runs: Path) -> None:
    assert "no epoch has ended yet; `resnetlab resume runs/quickstart-002`" in missing("quickstart-002")
    assert "is not a run, but has runs in it; give one of them: quickstart-001" in missing("runs")
    folder = runs.parent / "weights"
    folder.mkdir()
    assert "give a model file or a run folder" in missing(folder)
    save_file(weights(), folder / "pets.safetensors")
    assert "give a file in it: pets.safetensors" in missing(folder)


def test_a_pickle_that_was_written_by_hand_is_named_and_not_run(tmp_path: Path) -> None:
    """It has no marks of the pickle module: a function, and at once its arguments."""
    (tmp_path / "hand.pkl").write_bytes(f"cposix\nsystem\n(S'touch {tmp_path}/executed'\ntR.".encode())
    with pytest.raises(BadInput, match=r"a pickle with Python objects \(posix\.system\)"):
        read_model(tmp_path / "hand.pkl")
    assert not (tmp_path / "executed").exists()
