"""A model file and a picture, in whatever form, give named probabilities: those of the network itself."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput
from resnetlab.inference.model_file import read_model, save_model
from resnetlab.inference.predict import BATCH, Classifier, ImageLike, Prediction, load, load_model
from resnetlab.inference.validation import Validation
from resnetlab.models.blocks import BasicBlock
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture
from resnetlab.report.card import card
from resnetlab.runtime import Runtime, one_thread_after_fork

TINY = Architecture("basic", (1, 1), width=4, stem="cifar")
CLASSES = ("cat", "dog", "newt", 'a, "b"')


def save(path: Path, channels: int = 3) -> Path:
    """A network that is not trained, but balanced: it answers now this, now that."""
    model = build_model(TINY, len(CLASSES), in_channels=channels, seed=1).eval()
    with torch.no_grad():
        model.fc.weight.mul_(30)
        model.fc.bias.sub_(model(torch.randn(64, channels, 8, 8, generator=torch.Generator().manual_seed(1))).mean(0))
    see = Preprocessing(image_size=8, resize_to=10, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels)
    save_model(path, model, CLASSES, see, {})
    return path


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "best.safetensors")


@pytest.fixture(scope="module")
def classifier(model_file: Path) -> Classifier:
    return load(model_file, device="cpu")


def noise(seed: int, height: int = 10, width: int = 10) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(folder: Path, pixels: np.ndarray, name: str = "a.png") -> Path:
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def require_close(one: Prediction, other: Prediction) -> None:
    assert one.predicted == other.predicted
    assert one.probabilities.keys() == other.probabilities.keys()
    assert one.probabilities == pytest.approx(other.probabilities, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("size", [(10, 10), (23, 40), (9, 31), (1, 1)])
def test_every_form_of_the_same_picture_gives_the_same_answer(
    classifier: Classifier, size: tuple[int, int], tmp_path: Path
) -> None:
    pixels = noise(1, *size)
    path = png(tmp_path, pixels)
    expected = classifier(pixels)
    for picture in (path, str(path), Image.fromarray(pixels), Image.open(path), pixels.copy()):
        assert classifier(picture) == expected
    assert classifier([pixels]) == [expected]


def test_bytes_files_and_tensors_give_the_same_answer(classifier: Classifier, tmp_path: Path) -> None:
    pixels = noise(1, 23, 40)
    path = png(tmp_path, pixels)
    expected, content = classifier(path), path.read_bytes()
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    with path.open("rb") as file, path.open("rb", buffering=0) as unbuffered:
        for image in (
            content,
            bytearray(content),
            memoryview(content),
            memoryview(content[::-1])[::-1],
            BytesPath(path),
            file,
            file,  # it need not stand at its beginning
            unbuffered,
            io.BytesIO(content),
            OnlyRead(content),
            tensor,
            tensor.float() / 255,
            (tensor.double() / 255).requires_grad_(),
            pixels.astype(np.float32) / 255,
        ):
            assert classifier(image) == expected, type(image)
    assert classifier(tensor[0]) == classifier(tensor[:1]) == classifier(pixels[..., 0])


class BytesPath:
    """A path in bytes, as `os.scandir(b".")` gives it."""

    def __init__(self, path: Path) -> None:
        self.path = os.fsencode(path)

    def __fspath__(self) -> bytes:
        return self.path


class OnlyRead:
    """A stream that cannot seek, as of a web server."""

    def __init__(self, content: bytes) -> None:
        self.read = io.BytesIO(content).read


def test_any_iterable_of_images_is_predicted_in_its_order(classifier: Classifier) -> None:
    images = [noise(seed) for seed in range(BATCH + 3)]
    expected = classifier(images)
    for some in (iter(images), (image for image in images), tuple(images), map(np.copy, images)):
        assert classifier(some) == expected
    assert classifier(iter(())) == []


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (None, "NoneType is not an image; give a path"),
        (3, "int is not an image"),
        ({"a.png": 1}, "dict is not an image"),
        ([None], "NoneType is not an image"),
        ([[]], "list is not an image"),
        (b"", "the file"),
        (b"no image", "not an image of a known format"),
        (io.StringIO("text"), "text mode"),
        (io.BytesIO(), "the file"),
        (torch.zeros(2, 3, 8, 8), r"the tensor has shape \(2, 3, 8, 8\)"),
        (torch.zeros(8, 8, 3), r"\(3, H, W\) is needed"),
        (torch.zeros(4, 8, 8), "four channels may be RGBA or BGRA; remove the alpha channel, and reverse"),
        (np.zeros((8, 8, 4), np.uint8), "four channels may be RGBA or BGRA; remove the alpha channel, and reverse"),
        (torch.full((8, 8), 2.0), r"\[0, 1\] is needed"),
        (torch.zeros(8, 8, dtype=torch.int64), "int64"),
        (torch.zeros(8, 8, dtype=torch.complex64), "complex64"),
        (torch.zeros(3, 8, 8, device="meta"), "without data; give a dense one"),
        (torch.zeros(8, 8).to_sparse(), "sparse"),
    ],
)
def test_anything_else_is_refused_in_a_sentence(classifier: Classifier, given: object, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        classifier(given)  # type: ignore[call-overload]


def test_a_closed_file_is_refused(classifier: Classifier, tmp_path: Path) -> None:
    with png(tmp_path, noise(1)).open("rb") as file:
        pass
    with pytest.raises(BadInput, match="closed file"):
        classifier(file)


def test_eight_threads_at_once_get_the_answers_of_one(classifier: Classifier) -> None:
    images = [noise(seed) for seed in range(16)]
    expected = [classifier(image) for image in images]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(classifier, images * 4)) == expected * 4


def test_eight_threads_at_once_predict_lists_of_files(classifier: Classifier, tmp_path: Path) -> None:
    files = [png(tmp_path, noise(seed), f"{seed}.png") for seed in range(12)]
    expected = classifier(files)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(classifier, [files] * 16)) == [expected] * 16


def test_a_folder_gives_the_predictions_of_its_images_in_natural_order(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "photos" / "more").mkdir(parents=True)
    names = ["2.png", "10.png", "more/1.png"]
    for seed, name in enumerate(names):
        png(tmp_path / "photos", noise(seed), name)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    for folder in (tmp_path / "photos", str(tmp_path / "photos")):
        found: list[Prediction] = classifier(folder)  # type: ignore[assignment]  # a path may be a folder
        assert [one.file for one in found] == [str(tmp_path / "photos" / name) for name in names]
        for seed, one in enumerate(found):
            require_close(one, classifier(noise(seed)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="empty has no images"):
        classifier(tmp_path / "empty")


def test_a_prediction_names_the_file_of_its_image(classifier: Classifier, tmp_path: Path) -> None:
    path = png(tmp_path, noise(1))
    assert classifier(path).file == str(path)
    assert [one.file for one in classifier([path, noise(1), path.read_bytes()])] == [str(path), "", ""]


def test_the_first_bad_image_of_a_list_is_named(classifier: Classifier, tmp_path: Path) -> None:
    files = [png(tmp_path, noise(seed), f"{seed}.png") for seed in range(9)]
    for bad in files[3], files[6]:
        bad.write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"3\.png"):
        classifier(files)


def test_the_precision_is_that_of_the_highest_speed_if_it_agreed_on_validation(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnetlab.runtime.native_bf16", lambda: True)
    model = read_model(model_file)
    for agreement, expected in (({"bf16": 0.999}, "bf16"), ({"bf16": 0.9989}, "fp32"), ({}, "fp32")):
        validation = Validation(1.0, 5000, "", agreement=agreement)
        parts = (model.network, model.classes, model.preprocessing, {})
        save_model(tmp_path / "model", *parts, validation=validation)
        assert load(tmp_path / "model", "cpu").runtime.precision_name == expected
        for precision in ("fp32", "bf16"):
            assert load(tmp_path / "model", "cpu", precision).runtime.precision_name == precision
    assert load(model_file, "cpu").runtime.precision_name == "fp32"
    with pytest.raises(BadInput, match="unknown precision 'int8'"):
        load(model_file, "cpu", "int8")


def test_the_modes_of_the_caller_have_no_effect(model_file: Path, classifier: Classifier) -> None:
    expected = classifier(noise(3))
    with torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        assert load(model_file, device="cpu")(noise(3)) == classifier(noise(3)) == expected
    torch.set_default_dtype(torch.float64)
    try:
        assert load(model_file, device="cpu")(noise(3)) == classifier(noise(3)) == expected
        assert load_model(model_file).get_parameter("conv1.weight").dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_plain_network_stays_as_it_was(model_file: Path) -> None:
    model = read_model(model_file)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    for precision in (torch.float32, torch.bfloat16):
        classifier = Classifier(model, Runtime(torch.device("cpu"), precision))
        images = np.stack([classifier.pixels(noise(seed)) for seed in range(3)])
        logits = classifier.logits(images)
        assert logits.dtype == torch.float32
        with torch.no_grad():
            expected = model.network(model.preprocessing.normalize(torch.from_numpy(images)))
        difference = (logits.softmax(1) - expected.softmax(1)).abs().max()
        assert difference < (1e-5 if precision == torch.float32 else 0.2)
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())


FORK = """
import os, sys
import numpy as np
import torch
import resnetlab

torch.set_num_threads(2)
model, image = sys.argv[1], np.full((40, 40, 3), 100, np.uint8)
parent = resnetlab.load(model, device="cpu")
large, tensor = torch.randn(512, 512), torch.full((3, 600, 600), 0.5, dtype=torch.float64)
expected = parent(image), float((large @ large).sum())  # the threads are running now
child = os.fork()
if child == 0:
    assert parent(image).predicted == expected[0].predicted
    assert resnetlab.load(model, device="cpu")([image] * 70)[69].predicted == expected[0].predicted
    assert parent([sys.argv[2]] * 70)[69].predicted == expected[0].predicted
    assert parent(tensor).predicted
    assert torch.get_num_threads() == 2
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert parent(image) == expected[0]
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_of_a_process_with_two_threads_predicts(tmp_path: Path) -> None:
    """torch's own operations wait for ever there: OpenMP's threads do not survive a fork."""
    model = build_model("resnet20", 3, image_size=64)
    see = Preprocessing(image_size=64, resize_to=64, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    save_model(tmp_path / "model", model.eval(), CLASSES[:3], see, {})
    file = png(tmp_path, np.full((40, 40, 3), 100, np.uint8))
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "HOME")}
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path / "model"), str(file)],
        env=environment | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_cuda_after_a_fork_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnetlab.runtime.IMPORTED_IN", -1)
    with pytest.raises(BadInput, match="'spawn'"), one_thread_after_fork(torch.device("cuda")):
        pass


def test_the_type_of_an_answer_is_that_of_the_images() -> None:
    hints = [typing.get_type_hints(one) for one in typing.get_overloads(Classifier.__call__)]
    assert [hint["return"] for hint in hints] == [Any, Prediction, list[Prediction]]
    assert hints[0]["images"] == str | os.PathLike[str]  # of a file or a folder


def test_load_model_gives_the_plain_network(model_file: Path) -> None:
    for source in (model_file, str(model_file.parent), SimpleNamespace(path=model_file.parent)):
        network = load_model(source)
        assert not network.training
        assert type(network.layer1[0]) is BasicBlock
        assert network(torch.zeros(1, 3, 8, 8)).shape == (1, 4)
    assert load(SimpleNamespace(path=model_file.parent), "cpu").classes == CLASSES
    with pytest.raises(BadInput, match="model is 3, but must be the path of a file or folder"):
        load_model(3)  # type: ignore[arg-type]


def test_probabilities_are_those_of_the_network(classifier: Classifier, model_file: Path) -> None:
    """By hand: the centre of the stored pixels, scaled, through the network, softmax."""
    pixels = noise(2)
    network = read_model(model_file).network
    seen = torch.from_numpy(pixels[1:9, 1:9]).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        expected = network((seen / 255 - 0.5) / 0.25).double().softmax(1)[0].tolist()
    told = classifier(pixels)
    assert [told.probabilities[name] for name in CLASSES] == pytest.approx(expected, rel=1e-5)
    assert told.predicted == CLASSES[int(np.argmax(expected))]
    assert told.probability == max(told.probabilities.values()) == told.probabilities[told.predicted]


def test_probabilities_are_named_sum_to_one_and_come_likeliest_first(classifier: Classifier) -> None:
    answers = classifier([noise(seed) for seed in range(20)])
    assert len({answer.predicted for answer in answers}) > 1
    for answer in answers:
        assert set(answer.probabilities) == set(CLASSES)
        assert sum(answer.probabilities.values()) == pytest.approx(1, rel=1e-12)
        values = list(answer.probabilities.values())
        assert values == sorted(values, reverse=True)
        assert next(iter(answer.probabilities)) == answer.predicted


@pytest.mark.parametrize("count", [0, 1, 2, 7, BATCH, BATCH + 1])
def test_many_at_once_equal_one_by_one_in_the_same_order(classifier: Classifier, count: int) -> None:
    pictures: list[ImageLike] = [noise(seed, 10 + seed % 3, 10) for seed in range(count)]
    together = classifier(pictures)
    assert len(together) == count
    for picture, answer in zip(pictures, together, strict=True):
        require_close(answer, classifier(picture))


def test_among_equals_the_first_class_is_predicted(model_file: Path) -> None:
    model = read_model(model_file)
    torch.nn.init.zeros_(model.network.fc.weight)
    torch.nn.init.zeros_(model.network.fc.bias)
    answer = Classifier(model)(noise(1))
    assert (answer.predicted, answer.probability) == ("cat", 0.25)
    assert list(answer.probabilities) == list(CLASSES)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_coloured_pictures_suit_either_network(channels: int, tmp_path: Path) -> None:
    classifier = load(save(tmp_path / "model", channels), device="cpu")
    grey = noise(3)[..., 0]
    same = [grey, grey[..., None], np.repeat(grey[..., None], 3, axis=2), Image.fromarray(grey)]
    first, *others = classifier(same)
    for answer in others:
        require_close(answer, first)


def test_a_run_folder_stands_for_its_best_weights(model_file: Path, classifier: Classifier) -> None:
    assert model_file.name == "best.safetensors"
    for folder in (model_file.parent, str(model_file.parent)):
        assert load(folder, device="cpu")(noise(4)) == classifier(noise(4))
    assert load(model_file, torch.device("cpu"))(noise(4)) == classifier(noise(4))
    with pytest.raises(BadInput, match="unknown device 'gpu'"):
        load(model_file, "gpu")


def test_the_folder_of_a_card_stands_for_its_model_file(model_file: Path, tmp_path: Path) -> None:
    """It has the layout of the Hub: config.json, which is no run's, and model.safetensors."""
    folder = card(model_file, tmp_path / "card")
    assert load(folder).classes == load(model_file).classes
    (folder / "model.safetensors").unlink()
    save_file({"fc.weight": torch.zeros(2, 2)}, folder / "model.safetensors")  # as in an export to timm
    with pytest.raises(BadInput, match=r"model\.safetensors is not a model file: it is a safetensors file of another"):
        load(folder)


def test_a_folder_without_weights_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"is a folder without best\.safetensors; give a model file or a run folder"):
        load(tmp_path)


def test_what_is_no_model_is_refused(model_file: Path, tmp_path: Path) -> None:
    content = bytearray(model_file.read_bytes())
    content[-1] ^= 1
    (tmp_path / "damaged").write_bytes(content)
    (tmp_path / "foreign").write_bytes(b"some text")
    for name, told in (("damaged", "is damaged"), ("foreign", "is not a file that"), ("missing", "file not found")):
        with pytest.raises(BadInput, match=f"{name}.*{told}|{told}.*{name}"):
            load(tmp_path / name, device="cpu")


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut off", "a folder"])
def test_what_is_no_picture_is_refused_by_name(classifier: Classifier, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    if kind == "a folder":
        path.mkdir()
    elif kind != "missing":
        whole = png(tmp_path, noise(5, 100, 100), "whole.png").read_bytes()
        path.write_bytes({"empty": b"", "text": b"not a picture", "cut off": whole[: len(whole) // 2]}[kind])
    for pictures in ([path, noise(1)], [noise(1), path], *([path, str(path)] if kind != "a folder" else [])):
        with pytest.raises(BadInput, match=r"bad\.png"):
            classifier(pictures)


@pytest.mark.parametrize("shape", [(), (10,), (10, 10, 2), (10, 10, 4), (2, 10, 10, 3), (0, 10, 3)])
def test_an_array_of_another_shape_is_refused(classifier: Classifier, shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="the array"):
        classifier(np.zeros(shape, dtype=np.uint8))


def test_asking_leaves_the_network_as_it_was(classifier: Classifier) -> None:
    before = classifier(noise(6))
    classifier([noise(seed) for seed in range(5)])
    assert classifier(noise(6)) == before
    assert not classifier.network.training
    assert all(parameter.grad is None for parameter in classifier.network.parameters())
