"""The validation in a model file comes back as it was written; a wrong one is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput
from resnetlab.evaluation.selective import Rejection
from resnetlab.files import read_sealed, write_sealed
from resnetlab.inference.model_file import Model, read_model, save_model
from resnetlab.inference.predict import Classifier
from resnetlab.inference.validation import SplitScore, Validation
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture

TINY = Architecture("basic", (1, 1), width=4, stem="cifar", source="a test")
SEE = Preprocessing(image_size=8, resize_to=8, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
CLASSES = ("cat", "dog", "newt")
SCORE = SplitScore("val", "d" * 64, 200, 0.9, (0.85, 0.94), 0.89, None, 0.3)
VALIDATION = Validation(
    temperature=1.75,
    images=200,
    split_digest="d" * 64,
    rejections=(Rejection(0.05, 0.93, 0.5), Rejection(0.1, 0.8, 0.7)),
    agreement={"bf16": 0.995},
    scores=(SCORE, replace(SCORE, split="test", macro_f1=None)),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "best.safetensors"


def model(validation: Validation | None) -> Model:
    return Model(build_model(TINY, 3, seed=4).eval(), CLASSES, SEE, {}, "", validation)


def test_validation_comes_back_from_a_file(path: Path) -> None:
    network = build_model(TINY, 3)
    digest = save_model(path, network, CLASSES, SEE, {}, validation=VALIDATION)
    assert read_model(path).validation == VALIDATION
    assert save_model(path, network, CLASSES, SEE, {}) == digest
    assert read_model(path).validation is None


def test_unknown_keys_are_ignored() -> None:
    assert Validation.from_json({**VALIDATION.to_json(), "later": [1]}) == VALIDATION


WRONG: list[tuple[str, Any]] = [
    *(("temperature", value) for value in (None, 0, -1, 1e-320, 1e300, math.nan, math.inf, True, "1", [1], 10**400)),
    *(("images", value) for value in (None, 0, -3, 2.0, True, "2")),
    *(("split_digest", value) for value in (None, 5, ["d"])),
    *(("confidence", value) for value in (None, 2, math.nan)),
    *(("agreement", value) for value in (None, [], {"bf16": 2}, {"bf16": "1"}, {"bf16": None})),
    *(("rejections", value) for value in (None, {}, "abc", [[0.1, 0.2, 0.3]], [{"risk": 0.1}], [{}] * 1000)),
    ("rejections", [{"risk": 0.1, "threshold": 0.5, "coverage": 1.5}]),
    ("rejections", [{"risk": 0.1, "threshold": math.nan, "coverage": 0.5}]),
    ("rejections", [{"risk": risk, "threshold": 0.5, "coverage": 0.5} for risk in (0.2, 0.1)]),
    ("rejections", [{"risk": 0.1, "threshold": 0.5, "coverage": 0.5}] * 2),
    *(("scores", value) for value in (None, 5, [5], [{}])),
    *(("scores", [{**VALIDATION.to_json()["scores"][0], "accuracy": value}]) for value in (None, -0.1, "high")),
    *(("scores", [{**VALIDATION.to_json()["scores"][0], "accuracy_interval": v}]) for v in ([1], [0, 2], "ab")),
    ("scores", [{**VALIDATION.to_json()["scores"][0], "loss": math.inf}]),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=[f"{field} {str(value)[:20]!r}" for field, value in WRONG])
def test_wrong_validation_is_refused_in_a_sentence(field: str, value: Any) -> None:
    given = {**VALIDATION.to_json(), field: value}
    with pytest.raises(BadInput, match="validation"):
        Validation.from_json(given)
    if value is None:
        del given[field]
        with pytest.raises(BadInput):
            Validation.from_json(given)


@pytest.mark.parametrize("value", [None, [], "text", 5, {}])
def test_a_model_file_with_another_kind_of_validation_is_refused(value: Any, path: Path) -> None:
    save_model(path, build_model(TINY, 3), CLASSES, SEE, {})
    weights, facts = read_sealed(path)
    write_sealed(path, weights, {**facts, "validation": value})
    with pytest.raises(BadInput, match=r"best\.safetensors: .*validation"):
        read_model(path)


def test_json_text_has_no_value_that_only_python_reads() -> None:
    text = json.dumps(VALIDATION.to_json(), allow_nan=False)
    assert Validation.from_json(json.loads(text)) == VALIDATION


def test_a_rejection_is_found_by_its_risk() -> None:
    assert model(VALIDATION).rejection(0.1) == VALIDATION.rejections[1]
    with pytest.raises(BadInput, match=r"no rejection threshold for a risk of 0\.2; choose from 0\.05, 0\.1"):
        model(VALIDATION).rejection(0.2)
    with pytest.raises(BadInput, match="risk of often; choose from"):
        model(VALIDATION).rejection("often")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="its 200 validation images support none"):
        model(replace(VALIDATION, rejections=())).rejection(0.2)
    with pytest.raises(BadInput, match="resume the run"):
        model(None).rejection(0.1)


def test_probabilities_are_those_of_logits_divided_by_the_temperature() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    classifier = Classifier(model(VALIDATION))
    expected = torch.softmax(classifier.logits(pixels).double() / 1.75, 1)
    assert torch.equal(classifier.probabilities(pixels), expected)
    plain = Classifier(model(None))
    assert torch.equal(plain.probabilities(pixels), plain.logits(pixels).double().softmax(1))
