"""Explanations where the evidence is known: a square of a colour in noise decides the class, or that there is none."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab import explain, load
from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput
from resnetlab.files import read_sealed
from resnetlab.inference.model_file import Model, read_model, save_model
from resnetlab.runs import experiment, recipes, similar_images
from resnetlab.runs.explain import Explainer
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.similar_images import Features, SimilarImage

pytestmark = pytest.mark.usefixtures("no_pictures")

SIZE, SQUARE = 16, 4
COLOURS = {"blue": (40, 40, 230), "red": (230, 40, 40)}


def planted(name: str, draw: np.random.Generator) -> tuple[np.ndarray, int, int]:
    """An image of noise with a square of the colour of its class, and the place of the square."""
    image = draw.integers(60, 190, (SIZE, SIZE, 1), dtype=np.uint8).repeat(3, 2)
    top, left = draw.integers(0, SIZE - SQUARE + 1, 2).tolist()
    if name in COLOURS:
        image[top : top + SQUARE, left : left + SQUARE] = COLOURS[name]
    return image, top, left


def fill(folder: Path, seed: int = 0, count: int = 100) -> Path:
    """A folder of the classes blue, none and red."""
    draw = np.random.default_rng(seed)
    for name in ("blue", "none", "red"):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(planted(name, draw)[0]).save(folder / name / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, `data`, and a run that has learnt them, `run`."""
    root = tmp_path_factory.mktemp("planted")
    changes: dict[str, Any] = {"data": {"name": str(fill(root / "data")), "image_size": SIZE}, "steps": 80}
    changes |= {"model": {"name": "tiny"}, "batch_size": 32, "precision": "fp32", "optim": {"lr": 0.1}}
    changes |= {"augment": {"flip": False, "crop": 0, "resized_crop": 0.0}, "device": "cpu", "final_test": "never"}
    experiment.train(recipes.folder().changed(changes), root / "run")
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    """A copy of both, whose run knows the place of its data."""
    copy = Path(shutil.copytree(trained, tmp_path / "work"))
    config = json.loads((copy / "run" / "config.json").read_text())
    config["data"]["name"] = str(copy / "data")
    (copy / "run" / "config.json").write_text(json.dumps(config))
    return copy


def kept(root: Path) -> list[Path]:
    return sorted((root / "run" / "features").glob("*"))


def brute_force(root: Path, image: np.ndarray, count: int) -> list[tuple[str, str, float]]:
    """Name, label and cosine similarity of the most similar training images, from the files, one at a time."""
    model = read_model(root / "run" / "best.safetensors")

    def feature(source: Any) -> torch.Tensor:
        pixels = torch.from_numpy(model.preprocessing.read(source))[None]
        with torch.no_grad():
            return model.network.features(model.preprocessing.normalize(pixels))[0].double()

    wanted = feature(image)
    names = RunFolder(root / "run").read_json("split.json")["splits"]["train"]["names"]
    rows = [
        (name, name.split("/")[0], float(torch.cosine_similarity(wanted, feature(root / "data" / name), dim=0)))
        for name in names
    ]
    return sorted(rows, key=lambda row: -row[2])[:count]


def assert_same_images(found: Sequence[SimilarImage], expected: Sequence[tuple[str, str, float]]) -> None:
    """Equal similarities in the same order; images that are equally similar may change places."""
    np.testing.assert_allclose([one.similarity for one in found], [cosine for _, _, cosine in expected], atol=1e-5)
    of = {name: (label, cosine) for name, label, cosine in expected}
    for one in found:
        label, cosine = of.get(one.name, (one.label, expected[-1][2]))
        assert (one.label, one.similarity) == (label, pytest.approx(cosine, abs=1e-5))


def test_both_methods_point_at_the_square_that_decides(trained: Path) -> None:
    explainer, draw = Explainer(trained / "run", similar=0), np.random.default_rng(9)
    right = {"class": 0, "grad_cam": 0, "occlusion": 0, "agreement": 0}
    for name in ("blue", "red") * 6:
        image, top, left = planted(name, draw)
        explanation = explainer(image)
        best = explanation.classes[0]
        right["class"] += best.name == name
        maps = {"grad_cam": best.grad_cam, "occlusion": explanation.patches.spread(best.drops)}
        for method, heat in maps.items():
            row, column = np.unravel_index(heat.argmax(), heat.shape)
            right[method] += top - 2 <= row < top + SQUARE + 2 and left - 2 <= column < left + SQUARE + 2
        right["agreement"] += best.agreement is not None and best.agreement > 0.1
    assert min(right.values()) >= 10, right


def test_similar_images_are_those_of_brute_force(root: Path) -> None:
    image = planted("red", np.random.default_rng(3))[0]
    explanation = explain(root / "run", image, similar=7)
    expected = brute_force(root, image, 7)
    assert_same_images(explanation.similar, expected)
    for one in explanation.similar:
        np.testing.assert_array_equal(one.pixels, np.asarray(Image.open(root / "data" / one.name)))


def test_features_are_computed_once_for_weights_and_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = planted("red", np.random.default_rng(3))[0]
    first = explain(root / "run", image)
    assert len(kept(root)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(Features, "of", lambda *_: pytest.fail("computed again"))
        again = explain(root / "run", image)
    assert [(one.name, one.similarity) for one in again.similar] == [
        (one.name, one.similarity) for one in first.similar
    ]
    best = root / "run" / "best.safetensors"
    model = read_model(best)
    with torch.no_grad():
        model.network.fc.weight.mul_(2)
    save_model(best, model.network, model.classes, model.preprocessing, model.provenance)
    before = kept(root)
    explain(root / "run", image)
    assert len(kept(root)) == 1  # those of other weights are removed
    assert kept(root) != before


def test_a_damaged_file_of_features_is_named_and_replaced(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = planted("red", np.random.default_rng(3))[0]
    first = explain(root / "run", image)
    (file,) = kept(root)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    again = explain(root / "run", image)
    assert "is damaged" in caplog.text
    assert "computed again" in caplog.text
    assert [one.name for one in again.similar] == [one.name for one in first.similar]
    caplog.clear()
    explain(root / "run", image)
    assert "damaged" not in caplog.text


def test_a_folder_that_cannot_be_written_is_no_error(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = planted("red", np.random.default_rng(3))[0]
    (root / "run" / "features").write_text("a file in the way")
    assert len(explain(root / "run", image).similar) == 5
    assert "the features are not kept" in caplog.text


def test_changed_data_is_named_and_its_similar_images_left_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = RunFolder(root / "run").read_json("split.json")["splits"]["train"]["names"][0]
    (root / "data" / name).unlink()
    explanation = explain(root / "run", planted("red", np.random.default_rng(3))[0])
    assert explanation.similar == ()
    assert explanation.predicted == "red"
    assert "similar images are left out" in caplog.text
    assert name in caplog.text


def test_an_image_that_has_changed_since_has_no_picture(root: Path) -> None:
    image = planted("red", np.random.default_rng(3))[0]
    first = explain(root / "run", image, similar=2).similar
    Image.new("RGB", (SIZE, SIZE)).save(root / "data" / first[0].name)
    again = explain(root / "run", image, similar=2).similar
    assert [one.name for one in again] == [one.name for one in first]
    assert again[0].pixels is None
    assert again[1].pixels is not None


def test_without_the_data_kept_features_still_name_similar_images(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = planted("red", np.random.default_rng(3))[0]
    first = explain(root / "run", image).similar
    (root / "data").rename(root / "elsewhere")
    again = explain(root / "run", image).similar
    assert [(one.name, one.label) for one in again] == [(one.name, one.label) for one in first]
    assert all(one.pixels is None for one in again)
    assert "no pictures" in caplog.text
    moved = explain(root / "run", image, data=str(root / "elsewhere")).similar  # the same images at another place
    assert [one.name for one in moved] == [one.name for one in first]
    assert all(one.pixels is not None for one in moved)


def test_other_images_can_be_compared_with(root: Path) -> None:
    draw = np.random.default_rng(3)
    image, other = planted("red", draw)[0], fill(root / "other", seed=5, count=4)
    found = explain(root / "run", image, data=str(other), similar=20)
    assert len(found.similar) == 12  # all of them
    assert [one.label for one in found.similar[:4]] == ["red"] * 4
    (root / "run" / "split.json").unlink()  # as in a run of which only scores and weights were published
    assert len(explain(root / "run", image, data=str(other), similar=20).similar) == 12
    loose = root / "loose"
    loose.mkdir()
    Image.fromarray(image).save(loose / "same.png")
    Image.fromarray(planted("none", draw)[0]).save(loose / "other.png")
    (loose / "bad.png").write_bytes(b"no image")
    found = explain(root / "run", image, data=str(loose))
    assert [(one.name, one.label) for one in found.similar] == [("same.png", ""), ("other.png", "")]
    assert found.similar[0].similarity == pytest.approx(1, abs=1e-3)
    assert len(kept(root)) == 2


def test_a_model_file_alone_has_no_training_images(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = shutil.copy(root / "run" / "best.safetensors", tmp_path / "model.safetensors")
    image = planted("red", np.random.default_rng(3))[0]
    assert explain(alone, image).similar == ()
    assert "a model file alone has no training images" in caplog.text
    assert explain(load(alone), [image])[0].similar == ()
    assert len(explain(alone, image, data=str(root / "data"), similar=3).similar) == 3


def test_explanations_have_the_probabilities_of_predictions(trained: Path, tmp_path: Path) -> None:
    classifier = load(trained / "run", precision="fp32")
    image = planted("blue", np.random.default_rng(3))[0]
    Image.fromarray(image).save(tmp_path / "image.png")
    forms = [image, tmp_path / "image.png", (tmp_path / "image.png").read_bytes(), Image.fromarray(image)]
    for found in explain(classifier, forms):
        prediction = classifier(image)
        assert {one.name: one.probability for one in found.classes} == pytest.approx(prediction.probabilities, abs=1e-6)
        assert found.predicted == prediction.predicted


def test_the_part_that_is_cut_away_is_stated(trained: Path) -> None:
    wide = np.zeros((SIZE, 4 * SIZE, 3), np.uint8)
    explanation = explain(trained / "run", wide, similar=0)
    assert explanation.visible == (0.25, 1.0)
    assert explanation.to_json()["visible"] == {"width": 0.25, "height": 1.0}
    assert explanation.pixels.shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_the_visible_share_is_counted_in_pixels(fit: str) -> None:
    """A white image with a black centre: all the white that is left is within the visible share."""
    preprocessing = Preprocessing(24, 32, 1, (0.5,), (0.25,), fit)
    for width, height in ((64, 64), (128, 64), (64, 96)):
        across, down = preprocessing.visible_share(width, height)
        columns = np.tile(np.linspace(0, 255, width, dtype=np.uint8), (height, 1))
        rows = np.tile(np.linspace(0, 255, height, dtype=np.uint8)[:, None], (1, width))
        for pixels, share, axis in ((columns, across, 1), (rows, down, 0)):
            stored = torch.from_numpy(preprocessing.read(pixels))[None]
            seen = preprocessing.center_crop(stored)[0, :, :, 0].numpy().max(axis=1 - axis).astype(float)
            inside = seen[seen > 0]
            spread = (inside.max() - inside.min()) / 255
            assert spread == pytest.approx(share, abs=0.08)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"top_k": 0}, "`top_k` is 0, but must be 1 to 3"),
        ({"top_k": 4}, "`top_k` is 4, but must be 1 to 3, the number of the model's classes"),
        ({"top_k": True}, "`top_k` is True"),
        ({"similar": -1}, "`similar` is -1, but must be a whole number, 0 to 100"),
        ({"data": "no/such/folder"}, "not found"),
    ],
)
def test_bad_arguments_are_refused(trained: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        explain(trained / "run", np.zeros((8, 8, 3), np.uint8), **options)


def test_things_that_are_no_images_are_refused(trained: Path) -> None:
    with pytest.raises(BadInput, match="int is not an image"):
        explain(trained / "run", 3, similar=0)  # type: ignore[call-overload]
    with pytest.raises(BadInput, match=r"no\.png"):
        explain(trained / "run", "no.png", similar=0)


def test_the_message_about_features_is_logged_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "resnetlab")
    image = planted("red", np.random.default_rng(3))[0]
    for expected in (1, 0):
        caplog.clear()
        explain(root / "run", image)
        assert caplog.text.count("computing the features") == expected


def test_features_of_an_older_run_are_found_by_names(root: Path) -> None:
    """Older versions recorded neither labels nor contents."""
    file = root / "run" / "split.json"
    record = json.loads(file.read_text())
    splits = {
        name: {key: split[key] for key in ("images", "digest", "names")} for name, split in record["splits"].items()
    }
    file.write_text(json.dumps({"classes": record["classes"], "splits": splits}))
    image = planted("red", np.random.default_rng(3))[0]
    expected = brute_force(root, image, 5)
    for _ in range(2):
        similar = explain(root / "run", image).similar
        assert_same_images(similar, expected)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="without best"):
        explain(tmp_path, np.zeros((8, 8), np.uint8))


def test_key_names_weights_images_and_preprocessing(root: Path) -> None:
    model: Model = read_model(root / "run" / "best.safetensors")
    explain(root / "run", planted("red", np.random.default_rng(3))[0])
    (file,) = kept(root)
    _, facts = read_sealed(file)
    assert facts["weights_digest"] == model.weights_digest
    assert facts["split_digest"].startswith(file.stem.split("-")[1])
    assert Features.read(file, similar_images.key_of(model, facts["split_digest"])) is not None
    assert Features.read(file, similar_images.key_of(model, "other")) is None


def test_progress_is_reported_while_features_are_computed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar_images, "EVAL_BATCH", 32)
    names = RunFolder(root / "run").read_json("split.json")["splits"]["train"]["names"]
    done: list[tuple[int, int]] = []
    Explainer(root / "run", progress=lambda *counts: done.append(counts))
    assert done == [(first, len(names)) for first in range(0, len(names), 32)]


def test_a_folder_of_images_is_explained_in_the_order_of_a_classifier(trained: Path) -> None:
    classifier, folder = load(trained / "run", "cpu", "fp32"), fill(trained / "few", seed=3, count=2)
    found = explain(classifier, folder, similar=0, device="cpu")
    assert [one.predicted for one in found] == [one.predicted for one in classifier(folder)]
    assert len(found) == 6
