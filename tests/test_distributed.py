"""The parts of several processes are the whole, and an environment that cannot be right is refused.

Here every process is this one; what they exchange is tested in tests/robustness/test_processes.py.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from torch.distributed import HashStore, Store

from resnetlab.cli.main import messages_on_stderr
from resnetlab.data import stores
from resnetlab.data.augment import Augmentation, crop, flip
from resnetlab.data.loaders import Batch, EvalBatches, TrainBatches
from resnetlab.data.mixing import Mixing
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.splits import Split
from resnetlab.data.stores import Storage
from resnetlab.data.workers import Workers
from resnetlab.distributed import ALONE, Processes, from_environment, joined, meet
from resnetlab.errors import BadInput
from resnetlab.runs.build import require_shares
from resnetlab.runs.config import RunConfig
from resnetlab.runtime import Runtime

SEE = Preprocessing(image_size=8, resize_to=8, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
STEPS = (Augmentation("crop", 2, partial(crop, padding=1)), Augmentation("flip", 1, flip))
TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def split_of(size: int) -> Split:
    images = torch.randint(0, 256, (size, 8, 8, 3), generator=torch.Generator().manual_seed(size)).to(torch.uint8)
    return Split(images, torch.arange(size) % 3, tuple(map(str, range(size))))


def runtimes(count: int) -> list[Runtime]:
    return [Runtime(torch.device("cpu"), processes=Processes(rank, count)) for rank in range(count)]


@pytest.mark.parametrize("size", [*range(1, 18), 101])
def test_every_image_is_evaluated_once_in_its_batch_of_one_process(size: int) -> None:
    split = split_of(size)
    whole = [batch.indices.tolist() for batch in EvalBatches(split, SEE, 4, runtimes(1)[0])]
    for count in (1, 2, 3, 4):
        parts = [[batch.indices.tolist() for batch in EvalBatches(split, SEE, 4, each)] for each in runtimes(count)]
        assert [batch for part in parts for batch in part] == whole
        assert [index for part in parts for batch in part for index in batch] == list(range(size))


@pytest.mark.parametrize("mixing", [None, Mixing(3, mixup=0.4, cutmix=1.0)], ids=["plain", "mixed"])
@pytest.mark.parametrize("size", [50, 9])  # 9: smaller than a batch, which is then all of it
def test_the_parts_of_a_batch_are_the_batch_of_one_process(size: int, mixing: Mixing | None) -> None:
    """Order, augmentation and partners depend on seed, epoch and image: the same pixels, whoever computes them."""
    batches = TrainBatches(split_of(size), SEE, STEPS, 12, 7, runtimes(1)[0], mixing=mixing)
    whole = list(batches.epoch(3, 0))
    assert len(whole) == max(1, size // 12)
    for count in (2, 3, 4):
        each = [list(TrainBatches(**vars(batches) | {"runtime": one}).epoch(3, 0)) for one in runtimes(count)]
        for together, *parts in zip(whole, *each, strict=True):
            for name in Batch._fields:
                values = [getattr(part, name) for part in parts]
                if getattr(together, name) is None:
                    assert values == [None] * count
                else:
                    assert torch.equal(torch.cat(values), getattr(together, name)), name
        assert max(len(part.labels) for part in parts) - min(len(part.labels) for part in parts) <= 1


def test_a_process_alone_calls_nothing_of_torch_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "distributed")
    value = torch.tensor([1.0])
    ALONE.reduce([value], [value])
    assert (value.item(), ALONE.broadcast(3), ALONE.gather(3), ALONE.from_main(lambda: 3)) == (1, 3, [3], 3)
    with pytest.raises(KeyError, match="itself"), ALONE.together():
        raise KeyError("itself")
    ALONE.require_same({"settings": "any"})
    ALONE.close()


def test_the_environment_of_torchrun_is_read() -> None:
    assert from_environment({"MASTER_ADDR": "in a shell's profile"}) is ALONE
    assert from_environment(TORCHRUN) == Processes(rank=1, world_size=2, local_rank=1)
    assert from_environment(TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}) == ALONE


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"MASTER_PORT": None},
            "WORLD_SIZE of torchrun's environment are set, but MASTER_PORT is not",
        ),
        (
            {"RANK": None, "LOCAL_RANK": None},
            "WORLD_SIZE of torchrun's environment is set, but RANK, LOCAL_RANK are",
        ),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', but must be a whole number"),
        ({"RANK": "-1"}, "RANK is '-1', but must be a whole number"),
        ({"RANK": "2"}, "RANK is 2, LOCAL_RANK 1 and WORLD_SIZE 2, but ranks are numbered from 0"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE 0"),
    ],
)
def test_an_environment_that_is_half_set_or_impossible_is_refused(
    change: dict[str, str | None], sentence: str, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {name: value for name, value in (TORCHRUN | change).items() if value is not None}
    with pytest.raises(BadInput) as refusal:
        from_environment(environment)
    assert sentence in str(refusal.value)
    assert "torchrun" in str(refusal.value)
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in (environment | {"RANK": "0"} if "RANK" in environment else environment).items():
        monkeypatch.setenv(name, value)
    if change.keys() != {"RANK"}:  # that of rank 0 is right again
        assert "torchrun" in command.refuse("train", "--steps", "1")


def test_what_several_processes_would_do_several_times_is_refused(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    assert command("--version")[0] == 0
    assert command.refuse("runs").startswith("runs is for one process, but WORLD_SIZE is 2")
    assert command.refuse("train", "--seeds", "2").startswith("--seeds is for one process")
    assert command.refuse("train", "--folds", "2").startswith("--folds is for one process")
    assert command("train", "--print-config")[1]
    monkeypatch.setenv("RANK", "1")
    assert command("runs")[2].startswith("resnetlab: runs is for one process"), "on another machine"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert command("runs") == (2, "", ""), "the first process has said it"
    assert command("train", "--print-config") == (0, "", "")


def test_processes_meet_whatever_killed_ones_have_left_in_the_store() -> None:
    store = HashStore()

    def met(count: int) -> list[Store]:
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda rank: meet(store, rank, count, 20), reversed(range(count))))

    before = met(3)
    before[0].set("address", "of the first")
    assert [part.get("address") for part in before] == [b"of the first"] * 3
    for count in (3, 2, 4):
        parts = met(count)
        assert not parts[0].check(["address"])
        parts[0].set("address", "of another")
        assert [part.get("address") for part in parts] == [b"of another"] * count
    with pytest.raises(TimeoutError, match="process 1 and 2 and 3 did not come"):
        meet(store, 0, 4, 0.1)
    with pytest.raises(TimeoutError, match="process 0 did not come"):
        meet(store, 3, 4, 0.1)
    with pytest.raises(TimeoutError, match="process 4 did not come"):
        meet(store, 0, 5, 0.1)


def test_a_process_that_is_not_the_main_one_prints_a_slow_shard_and_nothing_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main process may not have read that shard."""

    def printed() -> list[str]:
        with messages_on_stderr():
            logging.getLogger("resnetlab.data.shards").info("reading 3 shards")
            logging.getLogger("resnetlab.data.shards").warning("a.tar is slow")
            logging.getLogger("resnetlab.training.optim").warning("a setting")
        return capsys.readouterr().err.splitlines()

    assert printed() == ["reading 3 shards", "warning  a.tar is slow", "warning  a setting"]
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert printed() == ["warning  a.tar is slow"]


def test_processes_of_a_machine_divide_its_cores_and_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoders() -> int:
        workers = Workers()
        workers.close()
        return workers.count

    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(10), raising=False)
    monkeypatch.setattr(stores, "available_memory", lambda: 1000)
    for name, value in (TORCHRUN | {"LOCAL_WORLD_SIZE": "4"}).items():
        monkeypatch.setenv(name, value)
    assert (decoders(), Storage().choose(125, ""), Storage().choose(126, "")) == (2, "memory", "auto")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert decoders() == 1
    monkeypatch.delenv("RANK")  # left by another program: no training of several processes
    assert (decoders(), Storage().choose(500, ""), Storage().choose(501, "")) == (10, "memory", "auto")


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 1e9])
def test_an_impossible_time_out_is_refused(seconds: float) -> None:
    with pytest.raises(BadInput, match="time-out of the processes is"), joined("cpu", seconds):
        pass


def test_several_processes_need_a_device_that_can_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match="several processes train on CUDA or on the CPU"), joined("mps"):
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BadInput, match="process 1 is number 2 on its machine, which has 1 GPUs"), joined("cuda"):
        pass


@pytest.mark.parametrize(
    ("settings", "images", "count", "sentence"),
    [
        (
            {"batch_size": 100},
            1000,
            3,
            "batch_size is 100, which 3 processes cannot divide evenly; choose",
        ),
        (
            {"batch_size": 6},
            1000,
            4,
            "batch_size is 6, too few for 4 processes, each of which needs 2 images; choose",
        ),
        ({"batch_size": 4}, 1000, 8, "choose a batch_size of 16 or more, or fewer processes"),
        (
            {"batch_size": 16, "accumulate": 3},
            1000,
            4,
            "2 images for each of 3 parts (accumulate); choose",
        ),
        ({"batch_size": 128}, 31, 2, "a batch has all 31 training images, which 2 processes cannot divide evenly"),
    ],
)
def test_a_batch_that_cannot_be_divided_is_refused(
    settings: dict[str, int], images: int, count: int, sentence: str
) -> None:
    config = RunConfig.model_validate({"epochs": 1, **settings})
    require_shares(config, images, ALONE)
    with pytest.raises(BadInput) as refusal:
        require_shares(config, images, Processes(0, count))
    assert sentence in str(refusal.value)
