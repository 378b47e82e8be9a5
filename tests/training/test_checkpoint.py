"""A checkpoint holds the whole state, and a file that does not fit changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput, DiskTrouble
from resnetlab.evaluation.metrics import Score
from resnetlab.files import read_sealed, write_sealed
from resnetlab.inference.model_file import save_model
from resnetlab.kernels.accelerate import accelerate
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture
from resnetlab.runtime import Runtime
from resnetlab.training.checkpoint import architecture_of, load_checkpoint, optimizer_tensors, save_checkpoint
from resnetlab.training.ema import WeightAverage
from resnetlab.training.loop import TrainState
from resnetlab.training.optim import make_optimizer

TINY = Architecture("basic", (1, 1), width=4, stem="cifar", shortcut="A")
FP32 = Runtime(torch.device("cpu"))
SEE = Preprocessing(image_size=8, resize_to=8, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def make_state(
    optimizer: str = "adam", *, ema: float = 0.9, seed: int = 0, architecture: Architecture = TINY, frozen: bool = False
) -> TrainState:
    model = FP32.place(build_model(architecture, 3, seed=seed))
    if frozen:
        model.freeze_backbone()
    return TrainState.begin(model, make_optimizer(model, optimizer, lr=0.01), FP32, ema=ema)


def trained(optimizer: str = "adam", *, frozen: bool = False) -> TrainState:
    """A state in which nothing is what it was at the start."""
    state = make_state(optimizer, frozen=frozen)
    for seed in range(3):
        images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        state.model(images.to(memory_format=torch.channels_last)).square().sum().backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.average.update()
    state.sums += torch.tensor([3.5, 7.0, 18.0])
    state.step, state.batch, state.seconds = 13, 3, 1.25
    state.scores = (Score(1.0, 0.25, 0.125), Score(1 / 3, 0.5, 0.1))
    return state


def everything(state: TrainState) -> dict[str, Tensor]:
    return {
        **{f"model.{name}": value for name, value in state.model.state_dict().items()},
        **{f"average.{name}": value for name, value in state.average.model.state_dict().items()},
        **{f"optimizer.{name}": value for name, value in optimizer_tensors(state.model, state.optimizer).items()},
        "sums": state.sums,
    }


def copied(state: TrainState) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in everything(state).items()}


def require_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_checkpoint_brings_everything_back(optimizer: str, tmp_path: Path) -> None:
    before, after = trained(optimizer), make_state(optimizer, seed=1)
    save_checkpoint(tmp_path / "a.ckpt", before, {"config": {"name": "naïve\n"}})
    facts = load_checkpoint(tmp_path / "a.ckpt", after)
    assert facts["config"] == {"name": "naïve\n"}
    require_equal(everything(after), everything(before))
    assert (after.step, after.batch, after.seconds, after.scores) == (13, 3, 1.25, before.scores)
    assert after.epoch == 2


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_optimisers_memory_has_the_layout_of_its_parameter(optimizer: str, tmp_path: Path) -> None:
    before, after = trained(optimizer), make_state(optimizer, seed=1)
    save_checkpoint(tmp_path / "a.ckpt", before, {})
    load_checkpoint(tmp_path / "a.ckpt", after)
    kernels = 0
    for parameter in after.model.parameters():
        for value in after.optimizer.state[parameter].values():
            if value.shape == parameter.shape:
                assert value.stride() == parameter.stride()
                assert value.dtype == parameter.dtype
                kernels += value.ndim == 4 and not value.is_contiguous()
    assert kernels > 0  # channels_last it is


def test_adams_count_of_steps_comes_back(tmp_path: Path) -> None:
    """Without it the bias correction would start anew, and the first step after a resume would be a leap."""
    before, after = trained("adam"), make_state("adam")
    save_checkpoint(tmp_path / "a.ckpt", before, {})
    load_checkpoint(tmp_path / "a.ckpt", after)
    counts = [after.optimizer.state[parameter]["step"] for parameter in after.model.parameters()]
    assert all(count.item() == 3 and count.dtype == torch.float32 and count.ndim == 0 for count in counts)


def test_a_checkpoint_from_before_the_first_step_empties_the_optimiser(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.ckpt", make_state("sgd"), {})
    state = trained("sgd")
    load_checkpoint(tmp_path / "a.ckpt", state)
    require_equal(everything(state), everything(make_state("sgd")))
    assert not any(value.any() for value in optimizer_tensors(state.model, state.optimizer).values())


def test_a_frozen_backbone_has_no_memory_in_the_optimiser(tmp_path: Path) -> None:
    before, after = trained("adam", frozen=True), make_state("adam", frozen=True, seed=1)
    save_checkpoint(tmp_path / "a.ckpt", before, {})
    load_checkpoint(tmp_path / "a.ckpt", after)
    assert {name.split("/", 1)[1] for name in optimizer_tensors(after.model, after.optimizer)} == {
        "fc.weight",
        "fc.bias",
    }
    require_equal(everything(after), everything(before))


def test_a_network_that_is_its_own_average_is_stored_once(tmp_path: Path) -> None:
    state = make_state("sgd", ema=0.0)
    save_checkpoint(tmp_path / "a.ckpt", state, {})
    tensors, _ = read_sealed(tmp_path / "a.ckpt")
    assert not [name for name in tensors if name.startswith("average.")]
    load_checkpoint(tmp_path / "a.ckpt", state)


def refused(path: Path, state: TrainState) -> str:
    """The sentence with which a file is refused; nothing of the state may change."""
    before, counters = copied(state), (state.step, state.batch, state.seconds, state.scores)
    with pytest.raises(BadInput) as error:
        load_checkpoint(path, state)
    require_equal(everything(state), before)
    assert (state.step, state.batch, state.seconds, state.scores) == counters
    return str(error.value)


@pytest.mark.parametrize("place", [0, 4, 100, 0.3, 0.6, -1])
def test_a_damaged_checkpoint_is_refused(place: float, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, trained(), {})
    content = bytearray(path.read_bytes())
    content[int(place * len(content)) if isinstance(place, float) else place] ^= 1
    path.write_bytes(content)
    assert "damaged" in refused(path, make_state(seed=1))


@pytest.mark.parametrize(
    "other",
    [
        replace(TINY, units_per_stage=(1, 2)),  # more tensors
        replace(TINY, width=8),  # other shapes
        replace(TINY, unit="plain"),  # the same tensors, another function
    ],
)
def test_a_checkpoint_of_another_network_is_refused(other: Architecture, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, make_state(architecture=other), {})
    assert "holds another network than this run trains" in refused(path, trained())
    save_checkpoint(path, make_state(), {})
    assert "holds another network than this run trains" in refused(path, make_state(architecture=other))


def test_a_checkpoint_with_another_number_of_classes_is_refused_by_name_and_shape(tmp_path: Path) -> None:
    path, state = tmp_path / "a.ckpt", make_state()
    model = FP32.place(build_model(TINY, 5))
    state.model, state.average = model, WeightAverage(model, 0.0)
    save_checkpoint(path, state, {})
    told = refused(path, trained())
    assert "holds another network; different tensors: fc.bias (here (3,), there (5,)), fc.weight (here (3, 8)" in told


def test_where_an_architecture_was_published_makes_no_other_network(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, make_state(architecture=replace(TINY, source="a paper")), {})
    load_checkpoint(path, make_state(architecture=replace(TINY, source="the paper, Table 1")))


def test_a_checkpoint_without_the_average_is_refused_where_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, make_state(ema=0.0), {})
    assert "holds another network" in refused(path, trained())


def test_a_model_file_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save_model(path, build_model(TINY, 3), ("a", "b", "c"), SEE, {})
    assert "is not a checkpoint but a resnetlab-model" in refused(path, trained())
    write_sealed(path, {"sums": torch.zeros(3)}, {})
    assert "is not a checkpoint" in refused(path, trained())


def test_a_checkpoint_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, trained(), {"format_version": 2})
    assert "has checkpoint format 2; this version reads 1" in refused(path, make_state())


def test_a_missing_checkpoint_and_a_missing_folder_are_explained(tmp_path: Path) -> None:
    assert "could not read" in refused(tmp_path / "none.ckpt", make_state())
    with pytest.raises(DiskTrouble, match="could not write"):
        save_checkpoint(tmp_path / "none" / "a.ckpt", make_state(), {})


class Tied(nn.Module):
    """A module of somebody else's, in which two layers share their weights."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.second.weight = self.first.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images.flatten(1)).relu())


def test_any_module_can_be_saved_and_resumed_and_only_into_its_own_kind(tmp_path: Path) -> None:
    def state(model: nn.Module) -> TrainState:
        return TrainState.begin(model, make_optimizer(model, "sgd", lr=0.1), FP32, ema=0.5)

    torch.manual_seed(0)
    one, other = state(Tied()), state(Tied())
    one.model(torch.randn(4, 8)).sum().backward()
    one.optimizer.step()
    save_checkpoint(tmp_path / "tied.ckpt", one, {})
    load_checkpoint(tmp_path / "tied.ckpt", other)
    require_equal(everything(other), everything(one))
    assert other.model.second.weight is other.model.first.weight
    assert "another network" in refused(tmp_path / "tied.ckpt", make_state("sgd"))
    assert "another network" in refused(tmp_path / "tied.ckpt", state(Tied(4)))
    assert "another network" in refused(tmp_path / "tied.ckpt", state(nn.Linear(8, 8)))
    save_checkpoint(tmp_path / "resnet.ckpt", make_state("sgd"), {})
    assert "another network" in refused(tmp_path / "resnet.ckpt", state(Tied()))


def test_a_network_of_torchvision_has_the_same_architecture_plain_and_accelerated() -> None:
    network = torchvision.models.resnet18()
    plain = architecture_of(network)
    assert plain == {"module": "ResNet"}
    assert architecture_of(accelerate(network)) == plain
