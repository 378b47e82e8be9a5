"""A wrong argument to a public function is refused in one sentence, before anything is computed or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import resnetlab
from resnetlab.errors import BadInput
from resnetlab.files import write_sealed
from resnetlab.inference.model_file import WEIGHTS_FORMAT


def any_config(config: Any) -> list[Callable[[], object]]:
    return [lambda: resnetlab.train(config), lambda: resnetlab.find_lr(config)]


TYPES: list[tuple[dict[str, Any], str]] = [
    ({"max_minutes": "5"}, "max_minutes is '5', but must be a number"),
    ({"stop": 3}, "stop is 3, but must be a StopRequest"),
    ({"on_event": 3}, "on_event is 3, but must be a function"),
]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        *((call, "give a RunConfig") for config in (None, "quickstart", {"steps": 3}) for call in any_config(config)),
        (lambda: resnetlab.evaluate("run", split="vla"), "unknown split 'vla'; did you mean 'val'"),
        (lambda: resnetlab.evaluate("run", split=["val"]), "Choose from val, test"),
        (lambda: resnetlab.evaluate("run", tta="x"), "unknown tta 'x'. Choose from none, flip"),
        (lambda: resnetlab.compare(["a", "b"], split="train"), "unknown split 'train'. Choose from val, test"),
        *(
            (lambda call=call, value=value: call(value), "but must be the path of a file or folder")
            for call in (resnetlab.evaluate, resnetlab.report, resnetlab.resume)
            for value in (None, 3, "", ["run"])
        ),
        (lambda: resnetlab.compare([None, 3]), "run is None, but must be the path"),
        (lambda: resnetlab.compare(None), "needs a list of two runs or more"),
        (lambda: resnetlab.train(resnetlab.recipes.quickstart(), 3), "folder is 3, but must be the path"),
        (lambda: resnetlab.compare("runs"), "needs a list of two runs or more"),
        (lambda: resnetlab.compare([Path("a")]), "^a is one run or none"),
        (lambda: resnetlab.compare(name for name in ("no-run", "none")), "folder not found: no-run"),
        (lambda: resnetlab.open_dataset(None), "None is not a data set"),
        (lambda: resnetlab.open_dataset(""), "unknown data set ''"),
        (lambda: resnetlab.open_dataset("digits", bad_images="x"), "unknown bad_images 'x'"),
        (lambda: resnetlab.build_model(None), "the architecture is None"),
        *(
            (lambda count=count: resnetlab.resnet20(count), f"num_classes is {count!r}; give a whole number")
            for count in (2.5, "10", True, 0, None)
        ),
        *(
            (lambda seed=seed: resnetlab.resnet20(seed=seed), "seed is .*; give a whole number from 0")
            for seed in ("a", -1, 2**80, 0.5)
        ),
        (lambda: resnetlab.resnet20(weights=True), "the weights are True; give 'imagenet'"),
        (lambda: resnetlab.resnet20(weights={}), "the weights are {}; give 'imagenet'"),
        (lambda: resnetlab.load_pretrained(torch.nn.Flatten(), "imagenet"), "model is a Flatten, but must be"),
        (lambda: resnetlab.resnet20(weights="nope"), "file not found: nope; give 'imagenet'"),
        (lambda: resnetlab.resnet20(weights=Path.cwd()), "is a folder; .*`resnetlab.load_model` reads"),
        (lambda: resnetlab.find_lr(resnetlab.recipes.quickstart(), tries=5), "^`tries` is 5"),
        (lambda: resnetlab.find_lr(resnetlab.recipes.quickstart(), tries=12.5), "^`tries` is 12.5, .*a whole number"),
        (lambda: resnetlab.find_lr(resnetlab.recipes.quickstart(), lowest="a"), "^lowest is 'a', but must be a num"),
        (lambda: resnetlab.find_lr(resnetlab.recipes.quickstart(), on_event=3), TYPES[-1][1]),
        *((lambda more=more: resnetlab.train(resnetlab.recipes.mnist(), **more), said) for more, said in TYPES),
        *((lambda more=more: resnetlab.resume("run", **more), said) for more, said in TYPES),
        (lambda: resnetlab.StopRequest("a"), "max_minutes is 'a', but must be a number"),
        (lambda: resnetlab.recipes.get([]), "unknown recipe"),
        (lambda: resnetlab.export("run", ["onnx"]), "unknown format"),
        (lambda: resnetlab.export("run", "onnx", data=3), "data is 3, but must be the path"),
        (lambda: resnetlab.resume("run", changes=3), "changes is 3, but must be a table of settings"),
        (lambda: resnetlab.train(resnetlab.recipes.quickstart(), minutes="5"), "minutes is '5', but must be a number"),
        (lambda: resnetlab.train(resnetlab.recipes.quickstart(), began="now"), "began is 'now', but must be a time of"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(
    call: Callable[[], object], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=sentence):
        call()
    assert not list(tmp_path.iterdir())


def test_weights_of_a_module_of_ones_own_are_no_model_file(tmp_path: Path) -> None:
    write_sealed(tmp_path / "best.safetensors", {"weight": torch.zeros(1)}, {"format": WEIGHTS_FORMAT})
    for load in (resnetlab.load, resnetlab.load_model):
        with pytest.raises(BadInput, match=r"a module of your own, .*load_state_dict\(safetensors"):
            load(tmp_path)
