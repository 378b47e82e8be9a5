"""`fit`: any network, images from anywhere, and a resumed training that equals an uninterrupted one."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

import resnetlab
from resnetlab.errors import BadInput, NonFinite, Stopped
from resnetlab.files import read_sealed
from resnetlab.kernels.accelerate import count_accelerated
from resnetlab.models import Architecture, build_model
from resnetlab.models.stems import is_whitened
from resnetlab.runs.config import RunConfig
from resnetlab.runs.fit_data import Scaling
from resnetlab.runs.messages import fit_introduction
from resnetlab.runs.stop import StopRequest
from resnetlab.runtime import Runtime, start
from resnetlab.training.loop import EpochReport, StepDone


def network(channels: int = 3, classes: int = 3) -> nn.Module:
    """No network of the zoo: a convolution, a norm, dropout-free, with a head."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, classes),
    )


def pair(count: int = 90, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Images whose brightness tells the class."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    images = 40 + 70 * labels.view(-1, 1, 1, 1) + torch.randint(0, 30, (count, channels, 8, 8), generator=draw)
    return images.to(torch.uint8), labels


SETTINGS: dict[str, Any] = {"epochs": 3, "batch_size": 16, "lr": 0.05, "precision": "fp32", "device": "cpu"}


def bits(model: nn.Module) -> list[bytes]:
    return [value.numpy().tobytes() for value in model.state_dict().values()]


def test_it_learns_and_returns_history_and_best_weights() -> None:
    model, data = network(), pair()
    fitted = resnetlab.fit(model, data, data, **SETTINGS | {"epochs": 6})
    assert fitted.model is model
    assert model.training  # the mode that it was in
    assert [record["epoch"] for record in fitted.history] == [1, 2, 3, 4, 5, 6]
    accuracies = [record["val_accuracy"] for record in fitted.history]
    assert accuracies[fitted.best_epoch - 1] == max(accuracies) > 0.8
    model.load_state_dict(fitted.best_weights)
    scaling = Scaling.of(data[0].permute(0, 2, 3, 1))
    logits = model.eval()(scaling.normalize(data[0].permute(0, 2, 3, 1)))
    assert float((logits.argmax(1) == data[1]).float().mean()) == pytest.approx(max(accuracies))


def test_the_loop_is_that_of_a_plain_script() -> None:
    """Two steps of SGD, without shuffling: one batch an epoch."""
    images, labels = pair(30)
    model, twin = network(), network()
    pixels = images.float() / 255
    resnetlab.fit(model, (pixels, labels), (pixels, labels), **SETTINGS | {"epochs": 2, "batch_size": 30})
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(2):
        nn.functional.cross_entropy(twin(pixels), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["tensor", "array", "float", "grey", "split", "data set", "list"])
def test_images_may_come_as_tensors_arrays_splits_and_data_sets(kind: str) -> None:
    images, labels = pair(60)
    if kind == "array":
        source: Any = (images.permute(0, 2, 3, 1).numpy(), labels.numpy())
    elif kind == "float":
        source = (images.double() / 255, labels)
    elif kind == "grey":
        source = (images[:, 0].numpy(), labels.tolist())
    elif kind == "split":
        source = resnetlab.data.Split(images.permute(0, 2, 3, 1).contiguous(), labels, tuple(map(str, range(60))))
    elif kind == "data set":
        source = torch.utils.data.TensorDataset(images, labels)
    elif kind == "list":  # of PIL images or arrays, as a folder data set without transforms gives them
        source = [(image.permute(1, 2, 0).numpy(), int(label)) for image, label in zip(images, labels, strict=True)]
    else:
        source = (images, labels)
    fitted = resnetlab.fit(network(1 if kind == "grey" else 3), source, source, **SETTINGS)
    assert len(fitted.history) == 3
    assert fitted.history[-1]["train_loss"] < fitted.history[0]["train_loss"]


@pytest.mark.parametrize("form", ["read-only", "reversed", "of the other byte order", "list of tensors"])
def test_arrays_may_lie_in_memory_in_any_way(form: str, recwarn: pytest.WarningsRecorder) -> None:
    images, labels = pair(32)
    arrays = images.float().div(255).permute(0, 2, 3, 1).numpy(), labels.numpy()
    given: Any = arrays
    if form == "read-only":
        for array in arrays:
            array.flags.writeable = False
    elif form == "reversed":
        given = tuple(np.flip(np.flip(array, 0).copy(), 0) for array in arrays)
    elif form == "of the other byte order":
        given = arrays[0].astype(">f4"), arrays[1].astype(">i8")
    else:
        given = list(images.float().div(255)), labels.tolist()
    plain = images.float().div(255), labels
    fitted = [resnetlab.fit(network(), data, data, **SETTINGS) for data in (given, plain)]
    assert bits(fitted[0].model) == bits(fitted[1].model)
    assert not recwarn.list


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", ["autocast", "device"])
def test_the_modes_of_the_caller_have_no_effect(mode: str, precision: str) -> None:
    """An autocast around the training kept the weights of the first step in its cache: nothing was learnt."""
    data, settings, given = pair(96), SETTINGS | {"precision": precision}, network()
    expected = bits(resnetlab.fit(network(), data, data, **settings).model)
    with torch.autocast("cpu", torch.bfloat16) if mode == "autocast" else torch.device("meta"):
        assert bits(resnetlab.fit(given, data, data, **settings).model) == expected
        assert torch.is_autocast_enabled("cpu") == (mode == "autocast")
        assert torch.empty(1).is_meta == (mode == "device")


def test_a_whole_data_set_of_the_lab_is_train_and_val() -> None:
    data = resnetlab.open_dataset("digits")
    fitted = resnetlab.fit(network(1, 10), data, **SETTINGS | {"epochs": 1, "batch_size": 256})
    assert fitted.history[0]["step"] == 5


class Noisy:
    """A data set whose transforms draw from every global generator."""

    def __init__(self) -> None:
        self.images, self.labels = pair(48)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = random.random() + np.random.rand() + torch.rand(1)  # noqa: NPY002
        return self.images[index] / 255 + 0.1 * noise, int(self.labels[index])


@pytest.mark.parametrize("kind", ["pair", "data set"])
@pytest.mark.parametrize("event", [1, 4, 5])
def test_a_stopped_training_resumes_to_the_same_bits(kind: str, event: int, tmp_path: Path) -> None:
    source: Any = pair(48) if kind == "pair" else Noisy()
    settings = SETTINGS | {"ema": 0.9, "optim": "adamw", "lr": 1e-2}
    if kind == "pair":
        settings |= {"augment": {"crop": 1, "flip": True}}
    whole = resnetlab.fit(network(), source, source, **settings)
    stop, seen = StopRequest(), []

    def request(given: StepDone | EpochReport) -> None:
        seen.append(given)
        if len(seen) == event:
            stop.request("the test")

    model = network()
    options: Any = {"folder": tmp_path / "fit", "resume": "auto"}
    with pytest.raises(Stopped, match=r"stopped by the test at step \d of 9; call fit with resume="):
        resnetlab.fit(model, source, source, stop=stop, on_event=request, **options, **settings)
    random.seed(5)  # a resumed program has other generators
    resumed = resnetlab.fit(network(), source, source, **options, **settings)
    assert bits(resumed.model) == bits(whole.model)
    assert resumed.best_epoch == whole.best_epoch
    assert all(torch.equal(value, whole.best_weights[name]) for name, value in resumed.best_weights.items())
    timings = {"train_seconds", "images_per_second"}
    assert [{k: v for k, v in record.items() if k not in timings} for record in resumed.history] == [
        {k: v for k, v in record.items() if k not in timings} for record in whole.history
    ]
    lines = (tmp_path / "fit" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    best, _ = read_sealed(tmp_path / "fit" / "best.safetensors")
    assert all(torch.equal(value, whole.best_weights[name]) for name, value in best.items())
    again = resnetlab.fit(network(), source, source, **options, **settings)  # finished: only loads
    assert bits(again.model) == bits(whole.model)
    assert again.best_weights.keys() == whole.best_weights.keys()


def test_global_generators_are_left_alone() -> None:
    torch.manual_seed(3)
    before = random.getstate(), torch.get_rng_state()
    resnetlab.fit(network_without_seed(), Noisy(), Noisy(), **SETTINGS | {"epochs": 1})
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def network_without_seed() -> nn.Module:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(3))
    with torch.random.fork_rng(devices=[]):
        model(torch.zeros(1, 3, 8, 8))
    return model


def dropped() -> nn.Module:
    return nn.Sequential(*network(), nn.Dropout(0.5))


def test_dropout_is_reproducible_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    data, results = pair(48), []
    for seed in (1, 2):
        model = dropped()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(bits(resnetlab.fit(model, data, data, **SETTINGS).model))
        assert torch.equal(torch.get_rng_state(), before)
    assert results[0] == results[1]
    assert results[0] != bits(resnetlab.fit(dropped(), data, data, seed=1, **SETTINGS).model)
    stop, seen = StopRequest(), []

    def request(given: StepDone | EpochReport) -> None:
        seen.append(given)
        if len(seen) == 6:
            stop.request("the test")

    options: Any = {"folder": tmp_path / "fit", "resume": "auto"}
    with pytest.raises(Stopped):
        resnetlab.fit(dropped(), data, data, stop=stop, on_event=request, **options, **SETTINGS)
    torch.manual_seed(3)
    assert bits(resnetlab.fit(dropped(), data, data, **options, **SETTINGS).model) == results[0]


class Viewing(nn.Module):
    """A network as in PyTorch's tutorial on CIFAR-10, with a `view` that needs torch's default layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.Conv2d(6, 16, 3, padding=1, bias=False)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv1(x).relu())
        x = self.pool(self.conv2(x).relu())
        return self.fc(x.view(len(x), -1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["pair", "data set"])
def test_a_network_with_a_view_trains(kind: str, precision: str) -> None:
    source: Any = pair(48) if kind == "pair" else Noisy()
    model = Viewing()
    strides = [weight.stride() for weight in model.parameters()]
    fitted = resnetlab.fit(model, source, source, **SETTINGS | {"epochs": 1, "precision": precision})
    assert len(fitted.history) == 1
    assert [weight.stride() for weight in model.parameters()] == strides


def test_a_residual_network_trains_accelerated_and_keeps_its_layout() -> None:
    model, data = resnetlab.build_model("resnet20", 3, image_size=8), pair(16)
    strides = [weight.stride() for weight in model.parameters()]
    seen: list[int] = []
    settings = SETTINGS | {"epochs": 1, "precision": "bf16"}
    resnetlab.fit(model, data, data, on_event=lambda _: seen.append(count_accelerated(model)), **settings)
    assert seen[0] > 0 == count_accelerated(model)
    assert [weight.stride() for weight in model.parameters()] == strides


def test_channels_last_weights_get_channels_last_images() -> None:
    model, data = network().to(memory_format=torch.channels_last), pair(16)
    layouts: list[bool] = []
    model[0].register_forward_pre_hook(
        lambda _, given: layouts.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    resnetlab.fit(model, data, data, **SETTINGS | {"epochs": 1})
    assert layouts
    assert all(layouts)


def test_gradients_and_modes_of_the_caller_have_no_effect_and_modes_are_restored() -> None:
    data = pair(48)
    model, twin = network(), network()
    model(torch.rand(4, 3, 8, 8)).sum().backward()
    model.load_state_dict(twin.state_dict())  # the running statistics, too
    model[1].eval()
    with torch.no_grad():
        resnetlab.fit(model, data, data, **SETTINGS)
    resnetlab.fit(twin, data, data, **SETTINGS)
    assert bits(model) == bits(twin)
    assert [module.training for module in model] == [index != 1 for index in range(6)]


def test_a_training_resumes_only_with_its_settings_and_images(tmp_path: Path) -> None:
    data = pair(48)
    options: Any = {"folder": tmp_path / "fit", "resume": "auto"}
    resnetlab.fit(network(), data, data, **options, **SETTINGS)
    with pytest.raises(BadInput, match=r"optim.lr was 0.05, now 0.1"):
        resnetlab.fit(network(), data, data, **options, **SETTINGS | {"lr": 0.1})
    with pytest.raises(BadInput, match="the val images are not those"):
        resnetlab.fit(network(), data, pair(30), **options, **SETTINGS)
    with pytest.raises(BadInput, match="holds another network"):
        resnetlab.fit(network(classes=4), data, data, **options, **SETTINGS)
    with pytest.raises(BadInput, match="is not empty"):
        resnetlab.fit(network(), data, data, folder=tmp_path / "fit", **SETTINGS)


class Labelled(Noisy):
    """A data set whose last labels are replaced by another."""

    def __init__(self, label: Any) -> None:
        super().__init__()
        self.label = label

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        image, label = super().__getitem__(index)
        return image, label if index % 2 else self.label


class Endless(IterableDataset[Any]):
    """A data set without items by number, which has a length all the same."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 4


class Tables(Noisy):
    """A data set of dictionaries of two entries, which would unpack to their keys."""

    def __getitem__(self, index: int) -> Any:
        return dict(zip(("image", "label"), super().__getitem__(index), strict=True))


class Auxiliary(nn.Sequential):
    """A network with a second output in training mode, as Inception and GoogLeNet have."""

    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


def made_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return network()


class Detached(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"epochs": None}, "needs a length"),
        ({"optim": "sdg"}, "optim.name"),
        ({"learning_rate": 1}, "unknown setting learning_rate"),
        ({"data": {"name": "digits"}}, "the network and the images are its arguments"),
        ({"train": (torch.zeros(4, 3, 8, 8), torch.zeros(4))}, "must be 4 class numbers"),
        ({"train": (torch.zeros(4, 8, 8), torch.zeros(4).long())}, r"tensors \(N, C, H, W\)"),
        ({"train": (torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, -1]))}, "has a label -1"),
        ({"train": iter([])}, "must be a pair"),
        ({"train": Endless()}, "must be a pair"),
        ({"train": Tables(), "val": Tables()}, r"val\[0\] is a dict, but must be \(image, label\)"),
        ({"train": (pair(30)[0].to_sparse(), pair(30)[1])}, "a sparse tensor; call to_dense"),
        ({"train": ([torch.zeros(3, 8, 8), torch.zeros(3, 9, 8)], [0, 1])}, "images of train are no numbers"),
        ({"model_given": Auxiliary(*network())}, "returns a tuple in training mode, .* aux_logits=False"),
        ({"epochs": None, "epoch": 1}, "unknown setting epoch; did you mean epochs"),
        ({"val": None}, "val is missing"),
        ({"val": (pair(4)[0], torch.tensor([0, 1, 2, 9]))}, "with 10 classes or more are needed"),
        ({"model_given": nn.Conv2d(3, 3, 1)}, "logits .* are needed"),
        ({"resume": "auto"}, "needs a folder"),
        (
            {"train": (torch.zeros(4, 3, 8, 8).numpy(), torch.zeros(4).long())},
            "train is given as float images and val as uint8 images",
        ),
        ({"train": (pair(30)[0].numpy(), pair(30)[1])}, "train have 8 channels and those of val 3; images are tensors"),
        ({"train": (torch.zeros(4, 3, 0, 8), torch.zeros(4).long())}, r"\(4, 3, 0, 8\), but must be"),
        ({"train": (np.array(["a", "b"]), [0, 1])}, "images of train are no numbers"),
        ({"train": (torch.zeros(2, 3, 8, 8), ["cat", "dog"])}, "labels of train are no numbers"),
        (
            {"train": (torch.zeros(4, 3, 8, 8), torch.zeros(4, 3).long())},
            "must be 4 class numbers, whole numbers from 0",
        ),
        (
            {"train": (torch.zeros(4, 3, 8, 8).log(), torch.zeros(4).long())},
            r"train\[0\] has pixels that are NaN or inf",
        ),
        ({"model_given": made_in_inference_mode()}, "made under torch.inference_mode"),
        ({"train": (*pair(30), 0)}, "train is a tuple of 3 parts"),
        ({"train": "photos"}, "train is a str, but must be a pair"),
        (
            {"train": Labelled(2.5), "val": Labelled(0)},
            r"label of train\[\d+\] is 2.5, but must be a whole number from 0 to 2",
        ),
        (
            {"train": Labelled(3), "val": Labelled(0)},
            r"label of train\[\d+\] is 3, but must be a whole number from 0 to 2",
        ),
        ({"train": Labelled(0), "val": Labelled("cat")}, r"label of val\[0\] is 'cat', but must be a whole number"),
        ({"train": Labelled(0), "val": Labelled(torch.eye(3)[0])}, r"label of val\[0\] is tensor"),
        ({"train": Labelled(0), "val": Labelled(-1)}, r"label of val\[0\] is -1, but must be a whole number from 0 up"),
        ({"train": Labelled(0)}, "train is given as a data set and val as uint8 images"),
        ({"model_given": len}, "must be a torch.nn.Module"),
        ({"model_given": network().requires_grad_(False)}, "nothing to train"),
        ({"model_given": nn.Flatten()}, "nothing to train"),
        ({"model_given": network().double()}, "0.weight are torch.float64, but must be torch.float32"),
        ({"model_given": network().to("meta")}, "0.weight are on the meta device"),
        ({"model_given": nn.LazyLinear(3)}, "have no shape yet; call the model once"),
        ({"model_given": network(1)}, r"cannot process images \(N, C, H, W\) = \(2, 3, 8, 8\): .* given as tensors"),
        ({"model_given": Detached(*network())}, "do not depend on the weights"),
        ({"optim": 3}, "optim is 3, but must be a name or a table"),
        ({"config": {"lr": 1}}, "config is {'lr': 1}, but must be a RunConfig"),
        ({"max_minutes": "a"}, "max_minutes is 'a', but must be a number"),
        ({"folder": 3}, "folder is 3, but must be the path of a folder"),
        ({"folder": ""}, "folder is '', but must be the path of a folder"),
        ({"stop": 3}, "stop is 3, but must be a StopRequest"),
        ({"on_event": 3}, "on_event is 3, but must be a function"),
        ({"steps": 3}, "give epochs=… or steps=…, not both"),
        ({"resume": False}, 'resume is False, but must be "auto"'),
        ({"resume": True}, 'resume is True, but must be "auto"'),
        ({"resume": "yes"}, "resume is 'yes', but must be \"auto\""),
    ],
)
def test_what_cannot_be_trained_is_explained(change: dict[str, Any], sentence: str) -> None:
    given: dict[str, Any] = {"train": pair(30), "val": pair(30), "model_given": network(), **SETTINGS} | change
    given = {name: value for name, value in given.items() if name == "val" or value is not None}
    with pytest.raises(BadInput, match=sentence):
        resnetlab.fit(given.pop("model_given"), given.pop("train"), given.pop("val"), **given)


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    data = pair(48)
    with pytest.raises(NonFinite, match="there is no checkpoint"):
        resnetlab.fit(network(), data, data, folder=tmp_path / "fit", **SETTINGS | {"lr": 1e30})


def test_a_folder_stays_as_it_was_if_nothing_was_trained(tmp_path: Path) -> None:
    data, folder = pair(48), tmp_path / "fit"
    with pytest.raises(NonFinite):
        resnetlab.fit(network(), data, data, folder=folder, **SETTINGS | {"lr": 1e30})
    assert not folder.exists()
    folder.mkdir()
    with pytest.raises(BadInput, match="whole number from 0 to 2"):
        resnetlab.fit(network(), Labelled(7), Labelled(0), folder=folder, **SETTINGS)
    assert not list(folder.iterdir())
    (folder / "notes.txt").touch()
    with pytest.raises(BadInput, match=r"is not empty; give a new or empty folder$"):
        resnetlab.fit(network(), data, data, folder=folder, resume="auto", **SETTINGS)
    with pytest.raises(BadInput, match="is a file; folder must be"):
        resnetlab.fit(network(), data, data, folder=folder / "notes.txt", **SETTINGS)


def test_a_training_that_was_killed_at_its_beginning_starts_again(tmp_path: Path) -> None:
    data, folder = pair(48), tmp_path / "fit"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / ".fit.json.abc123.tmp").touch()
    options: Any = {"folder": folder, "resume": "auto"}
    assert len(resnetlab.fit(network(), data, data, **options, **SETTINGS).history) == 3
    assert not list(folder.glob(".*.tmp"))
    with pytest.raises(BadInput, match='or resume="auto" to continue'):
        resnetlab.fit(network(), data, data, folder=folder, **SETTINGS)
    (folder / "best.safetensors").unlink()
    with pytest.raises(BadInput, match=r"best\.safetensors: .*bring it back, or train again in another folder"):
        resnetlab.fit(network(), data, data, **options, **SETTINGS)


def test_messages_are_logged_and_an_inexact_resume_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, options = pair(48), {"folder": tmp_path / "fit", "resume": "auto"}
    stop = StopRequest()
    stop.request("the test")
    caplog.set_level("INFO", "resnetlab")
    with pytest.raises(Stopped, match=r"stopped by the test at step 1 of 9$"):
        resnetlab.fit(network(), data, data, stop=stop, **SETTINGS)
    words = [message.split()[0] for message in caplog.messages]
    assert words == ["data", "network", "training", "machine"]
    with pytest.raises(Stopped):
        resnetlab.fit(network(), data, data, stop=stop, **options, **SETTINGS)
    monkeypatch.setattr(Runtime, "facts", lambda _: {"threads": 99})
    resnetlab.fit(network(), data, data, **options, **SETTINGS)
    assert "now 99: from here on not exact to the bit" in (tmp_path / "fit" / "log.txt").read_text()
    assert caplog.messages[-1].startswith("epoch 3/3")


def test_an_accelerated_network_is_named_by_its_own_class() -> None:
    model = resnetlab.accelerate(resnetlab.resnet20(10))
    assert fit_introduction(RunConfig(steps=1), (1, 1), model, start("cpu"))[1].startswith("network  ResNet, 0.27 M")


def test_a_new_whitened_stem_is_computed_from_the_images_and_a_computed_one_stays() -> None:
    model = build_model(Architecture("pooled", (1,), widths=(16,), stem="whitened"), 3)
    images = torch.randint(0, 256, (48, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = images, torch.arange(48) % 3
    assert not is_whitened(model.conv1)
    resnetlab.fit(model, data, data, **SETTINGS)
    assert is_whitened(model.conv1)
    before = model.conv1.weight.clone()
    resnetlab.fit(model, (images // 2, data[1]), data, **SETTINGS)
    assert torch.equal(model.conv1.weight, before)


class Spare(nn.Module):
    """A network with a layer that no image goes through, so that its weights never have a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = network(), nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.used(images)


@pytest.mark.parametrize("optim", ["sgd", "adamw", "muon"])
def test_weights_without_a_gradient_are_no_reason_not_to_resume(optim: str, tmp_path: Path) -> None:
    data, settings = pair(48), SETTINGS | {"optim": optim, "lr": 0.01}
    whole = resnetlab.fit(Spare(), data, data, **settings)
    stop, options = StopRequest(), {"folder": tmp_path / "fit", "resume": "auto"}
    stop.request("the test")
    with pytest.raises(Stopped):
        resnetlab.fit(Spare(), data, data, stop=stop, **options, **settings)
    resumed = resnetlab.fit(Spare(), data, data, **options, **settings)
    assert bits(resumed.model) == bits(whole.model)
    with pytest.raises(BadInput, match=r"a training of `resnetlab.fit`, .*resume=\"auto\""):
        resnetlab.resume(tmp_path / "fit")
