"""Augmentation policy "auto": what is probed and on which images, what is chosen, its cost, and that it is stored."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from resnetlab import fit, recipes
from resnetlab.data.datasets import ImageData
from resnetlab.data.splits import Split
from resnetlab.distributed import Processes
from resnetlab.errors import BadInput, Stopped
from resnetlab.runs import baseline, experiment, probes, timing
from resnetlab.runs.build import Experiment
from resnetlab.runs.config import AugmentConfig, RunConfig
from resnetlab.runs.folder import RunFolder
from resnetlab.runs.probes import Budget, Probe, Trial, best, budget, divided, policies, settled, with_chosen_policy
from resnetlab.runs.resume import resume
from resnetlab.runs.seeds import resume_series, train_series

pytestmark = pytest.mark.usefixtures("tiny_network", "no_pictures")

AUTO = {"policy": "auto", "flip": True, "resized_crop": 0.35, "crop": 0}
GIVEN = AugmentConfig(**AUTO)


def tiny(**changes: Any) -> RunConfig:
    base = {"model": {"name": "tiny"}, "precision": "fp32", "batch_size": 256, "augment": AUTO, "final_test": "never"}
    return recipes.quickstart().changed({**base, "epochs": 1, **changes})


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes of one epoch, for runs that are too short for any."""
    monkeypatch.setattr(probes, "budget", lambda *_: Budget(1, 0.1))
    monkeypatch.setattr(probes, "FEWEST_EPOCHS", 1)


def write_folder(folder: Path) -> None:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(30):
            pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def halves(axis: int, images: int = 480) -> ImageData:
    """Noise with a bright half: on the left or on the right (axis 2), or above or below (axis 1)."""
    data = Experiment.of(tiny()).data
    random = np.random.default_rng(0)
    pixels, labels = random.integers(0, 120, (images, 8, 8, 1), np.uint8), np.arange(images) % 2
    for image, label in zip(pixels, labels, strict=True):
        half = np.split(image, 2, axis - 1)[label]
        half += 100
    split = Split(torch.from_numpy(pixels), torch.from_numpy(labels), tuple(map(str, range(images))))
    return dataclasses.replace(data, classes=("one", "other"), train=split, val=split, test=split)


@pytest.mark.slow
def test_classes_that_differ_by_mirroring_are_not_mirrored_and_others_are() -> None:
    for axis, is_mirrored in ((2, False), (1, True)):
        trial = Trial.of(Experiment.of(tiny(), data=halves(axis)), epochs=4)
        found = [trial.probe(policy) for policy in policies(GIVEN, 8)]
        assert best(found).policy.flip is is_mirrored
        assert best(found).accuracy > 0.9


def test_a_probe_has_parts_of_the_training_split_and_no_other_image() -> None:
    class Untouchable:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"{name} of an image that is not for training")

    whole = Experiment.of(tiny())
    untouchable: Any = Untouchable()
    guarded = dataclasses.replace(whole, data=dataclasses.replace(whole.data, val=untouchable, test=untouchable))
    trial = Trial.of(guarded, epochs=1)
    found = [trial.probe(policy) for policy in policies(GIVEN, 8)]
    names = set(whole.data.train.names)
    train, scored = set(trial.train.names), set(trial.scored.names)
    assert train | scored == names
    assert not train & scored
    assert (len(train), len(scored)) == (971, 323)
    assert all(len(one.correct) == 323 for one in found)
    assert budget(guarded, 4).epochs == 0


def test_images_of_one_group_are_all_trained_on_or_all_held_out() -> None:
    train = Experiment.of(tiny()).data.train
    for seed in range(3):
        sizes = np.random.default_rng(seed).integers(1, 60, len(train))
        groups = tuple(f"patient {number}" for number in np.repeat(np.arange(len(train)), sizes)[: len(train)])
        kept, held = divided(dataclasses.replace(train, groups=groups), seed)
        assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(train)))
        assert not {groups[row] for row in kept.tolist()} & {groups[row] for row in held.tolist()}
        assert abs(len(held) - 323) <= 30  # half of the largest group
        assert not torch.equal(kept, kept.sort().values)
    alone = dataclasses.replace(train, groups=tuple(map(str, range(len(train)))))
    assert all(map(torch.equal, divided(alone, 5), divided(train, 5)))


@pytest.mark.parametrize("store", ["memory", "stream"])
def test_the_groups_of_a_folder_reach_the_probes(
    tmp_path: Path, store: str, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_folder(tmp_path / "data")
    data = {"name": str(tmp_path / "data"), "group_by": "/(.)", "image_size": 16, "store": store}
    trial = Trial.of(Experiment.of(tiny(data=data)), epochs=1)
    train, scored = ({name.split("/")[-1][0] for name in split.names} for split in (trial.train, trial.scored))
    assert train
    assert scored
    assert not train & scored


def test_where_no_group_can_be_held_out_the_given_policy_is_kept(short: None) -> None:
    whole = Experiment.of(tiny())
    alone = dataclasses.replace(whole.data.train, groups=("patient",) * len(whole.data.train))
    kept = with_chosen_policy(Experiment.of(tiny(), data=dataclasses.replace(whole.data, train=alone)))
    assert kept.config.augment == policies(GIVEN, 8)[1]  # digits, some of which are alike when they are mirrored
    assert "no group of images can be held out for probes; shifted by up to 1 px" in kept.notes[-1]


def test_other_validation_and_test_images_change_nothing(short: None) -> None:
    whole = Experiment.of(tiny())
    black = dataclasses.replace(whole.data.val, images=torch.zeros_like(whole.data.val.images))
    other = Experiment.of(tiny(), data=dataclasses.replace(whole.data, val=black, test=black))
    assert with_chosen_policy(whole).notes[-1] == with_chosen_policy(other).notes[-1]


def test_images_are_reduced_by_averages_over_areas_and_keep_labels_and_names() -> None:
    images = torch.arange(3 * 4 * 4 * 1, dtype=torch.uint8).view(3, 4, 4, 1)
    split = Split(images, torch.tensor([0, 1, 2]), ("a", "b", "c"))
    small = probes.reduced(split, torch.tensor([2, 0]), 2)
    assert small.names == ("a", "c")
    assert small.labels.tolist() == [0, 2]
    expected = images[[0, 2]].float().view(2, 2, 2, 2, 2, 1).mean((2, 4)).round()
    assert torch.equal(small.images.float(), expected)
    assert torch.equal(probes.reduced(split, torch.tensor([1]), 4).images, images[1:2])


@pytest.mark.parametrize("store", ["cache", "stream"])
def test_the_probes_are_the_same_wherever_the_images_are(
    tmp_path: Path, store: str, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_folder(tmp_path / "data")
    changes = {"name": str(tmp_path / "data"), "image_size": 16}
    notes = [
        with_chosen_policy(Experiment.of(tiny(data={**changes, "store": one}))).notes[-1] for one in ("memory", store)
    ]
    assert "probed 2 policies" in notes[0]
    assert notes[0] == notes[1]


def test_settings_in_pixels_are_scaled_to_the_images_of_a_probe() -> None:
    scaled = probes.at_size(AugmentConfig(crop=6, cutout=1, flip=True), 0.5)
    assert (scaled.crop, scaled.cutout, scaled.flip) == (3, 1, True)
    assert probes.at_size(AugmentConfig(), 0.5) == AugmentConfig()


def test_the_recipe_for_folders_has_probes_and_the_baseline_none() -> None:
    assert recipes.folder().augment == AugmentConfig(policy="auto", flip=True, resized_crop=0.35)
    assert {part.augment.policy for part in baseline.configs({"data": {"name": "digits"}}, "torchvision").values()} == {
        "none"
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"flip": True}, [(True, 0, 0), (False, 0, 0)]),
        ({"resized_crop": 0.5, "crop": 4}, [(False, 0.5, 4), (False, 0, 4)]),
        ({"crop": 2}, [(False, 0, 2)]),
        ({"flip": True, "resized_crop": 0.35}, [(True, 0.35, 0), (False, 0.35, 0), (True, 0, 22), (False, 0, 22)]),
    ],
)
def test_only_what_is_on_is_given_up(given: dict[str, Any], expected: list[Any]) -> None:
    found = policies(AugmentConfig(policy="auto", erasing=0.25, **given), 224)
    assert [(one.flip, one.resized_crop, one.crop) for one in found] == expected
    assert all((one.policy, one.erasing) == ("none", 0.25) for one in found)
    assert not policies(AugmentConfig(policy="auto", flip=True, alternate=True), 8)[1].alternate


@pytest.mark.parametrize(
    ("right", "chosen"),
    [
        ((60, 60, 60, 60), 0),
        ((60, 62, 63, 64), 0),  # no difference that stands out from chance
        ((40, 60, 41, 61), 1),
        ((40, 41, 70, 71), 2),
        ((20, 40, 50, 90), 3),
        ((90, 40, 40, 20), 0),
        ((60, 60, 60, 90), 3),  # without mirroring, the crops are compared on their own
    ],
)
def test_something_is_given_up_only_where_the_others_are_significantly_better(
    right: tuple[int, ...], chosen: int
) -> None:
    found = [Probe(policy, np.arange(100) < count) for policy, count in zip(policies(GIVEN, 48), right, strict=True)]
    assert best(found) is found[chosen]


@pytest.mark.parametrize(
    ("right", "chosen"),
    [
        ((60, 60, 60, 60), 1),
        ((63, 60, 61, 60), 1),
        ((90, 40, 40, 20), 0),
        ((40, 60, 41, 61), 1),
        ((60, 60, 60, 90), 3),
    ],
)
def test_where_mirrored_classes_are_alike_mirroring_must_be_significantly_better(
    right: tuple[int, ...], chosen: int
) -> None:
    found = [Probe(policy, np.arange(100) < count) for policy, count in zip(policies(GIVEN, 48), right, strict=True)]
    assert best(found, mirrors=False) is found[chosen]


@pytest.mark.parametrize(("axis", "is_mirrored"), [(2, False), (1, True)])
def test_a_run_too_short_for_probes_mirrors_no_classes_that_are_then_alike(axis: int, is_mirrored: bool) -> None:
    kept = with_chosen_policy(Experiment.of(tiny(), data=halves(axis)))
    assert "the run is too short for probes" in kept.notes[-1]
    assert kept.config.augment.flip is is_mirrored
    assert ("mirrored images of one would resemble other" in kept.notes[-1]) is not is_mirrored


def test_the_accuracies_are_told_by_what_differs() -> None:
    def said(given: AugmentConfig, *right: int) -> str:
        found = zip(policies(given, 48), right, strict=True)
        tried = [Probe(policy, np.arange(100) < count) for policy, count in found]
        return probes.summary_of(tried, best(tried), 400)

    assert said(GIVEN, 34, 47, 33, 43) == (
        "probed 4 policies on 400 training images, 100 of them held out: not mirrored, crops: 47%, against "
        "34% (mirrored, crops), 33% (mirrored, shifts), 43% (not mirrored, shifts)"
    )
    assert said(GIVEN.model_copy(update={"resized_crop": 0.0}), 34, 47).endswith(
        "not mirrored: 47%, against 34% (mirrored)"
    )
    assert said(GIVEN.model_copy(update={"flip": False}), 34, 47).endswith("shifts: 47%, against 34% (crops)")


def test_probes_take_at_most_a_tenth_of_the_computation_and_a_short_run_has_none() -> None:
    data = Experiment.of(tiny()).data
    for epochs in (1, 10, 30, 300):
        config = recipes.quickstart().changed({"augment": AUTO, "epochs": epochs})
        found = budget(Experiment.of(config, data=data), 4)
        assert 0 <= found.share <= 0.1
        assert (found.epochs < probes.FEWEST_EPOCHS) == (epochs < 10)
    assert found.epochs * (971 // probes.BATCH) < probes.MOST_STEPS + 971 // probes.BATCH
    kept = with_chosen_policy(Experiment.of(tiny(), data=data))
    assert kept.config.augment == policies(GIVEN, 8)[1]
    assert kept.notes[-1].startswith("augment.policy auto: the run is too short for probes; shifted by up to 1 px")


def test_where_nothing_is_on_there_is_nothing_to_choose(short: None) -> None:
    whole = with_chosen_policy(Experiment.of(tiny(augment={"policy": "auto", "crop": 1})))
    assert whole.config.augment == AugmentConfig(crop=1)
    assert "nothing to choose between; shifted by up to 1 px" in whole.notes[-1]


def test_the_choice_is_told_stored_and_made_once(
    tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    """A repeat with the stored config, and a resumed run that is asked for "auto" again, probe nothing."""
    run = experiment.train(tiny(), tmp_path / "run")
    log = run.log.read_text()
    assert "note     augment.policy auto: probed 2 policies on 1,294 training images, 323 of them held out" in log
    stored = run.config.augment
    assert stored in policies(GIVEN, 8)
    assert experiment.train(tiny(), tmp_path / "same").config == run.config
    with pytest.raises(Stopped):
        experiment.train(tiny(), tmp_path / "stopped", max_minutes=0)
    monkeypatch.setattr(Trial, "of", lambda *_: pytest.fail("probed again"))
    again = experiment.train(run.config, tmp_path / "again")
    digest = run.final_metrics("val")["weights_digest"]
    assert again.final_metrics("val")["weights_digest"] == digest
    resumed = resume(tmp_path / "stopped", changes=tiny().to_json())
    assert resumed.config == run.config
    assert resumed.final_metrics("val")["weights_digest"] == digest


def test_the_probes_are_announced_with_their_cost(short: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "resnetlab.runs"):
        with_chosen_policy(Experiment.of(tiny()))
    said = (
        "probes   of 2 policies of augmentation, each with a small network for 1 epochs: about 10% of the computation"
    )
    assert said in caplog.text


@pytest.mark.slow
def test_every_run_of_a_series_chooses_for_itself_and_the_series_goes_on(tmp_path: Path, short: None) -> None:
    series = train_series(tiny(), 2, tmp_path / "series")
    assert series.config.augment == GIVEN
    assert all(series.run(number).config.augment in policies(GIVEN, 8) for number in series.numbers)
    assert resume_series(tmp_path / "series").summary()["runs"] == series.summary()["runs"]


def test_only_a_choice_that_could_have_been_made_takes_the_place_of_auto() -> None:
    wanted = tiny()
    for augment in policies(GIVEN, 8):
        had = wanted.changed({"augment": augment.model_dump()})
        assert settled(wanted, had) == had
    for change in ({"policy": "trivial"}, {"policy": "none", "resized_crop": 0.5}):
        assert settled(wanted, wanted.changed({"augment": change})) == wanted
    other = wanted.changed({"augment": {"policy": "none", "erasing": 0.5}})
    assert settled(wanted, other).augment.erasing == 0


@pytest.mark.slow
def test_a_run_in_minutes_is_planned_after_the_probes(
    tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "seconds_per_step", lambda *_: 20.0)
    run = experiment.train(tiny(), tmp_path / "run", minutes=3)
    assert run.config.augment.policy == "none"
    log = run.log.read_text()
    assert log.count("length: ") == 1
    assert log.count("augment.policy auto: probed") == 1


@pytest.mark.slow
def test_several_processes_follow_the_main_one(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Experiment.of(tiny())
    told = policies(GIVEN, 8)[0], "the main process's words"
    monkeypatch.setattr(Processes, "broadcast", lambda *_: told)
    found = with_chosen_policy(whole)
    assert found.config.augment == told[0]
    assert found.notes[-1] == "augment.policy auto: the main process's words"


def test_fit_has_no_probes() -> None:
    images, labels = torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.arange(8) % 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(BadInput, match=r"augment\.policy auto is for `resnetlab\.train`"):
        fit(model, (images, labels), (images, labels), epochs=1, augment={"policy": "auto"})


def test_the_command_line_takes_it_for_a_folder(command: Any, tmp_path: Path, short: None) -> None:
    write_folder(tmp_path / "data")
    words = (
        "train",
        "--data",
        "data",
        "--model",
        "tiny",
        "--precision",
        "fp32",
        "--epochs",
        1,
        "--final-test",
        "never",
    )
    code, out, err = command(*words, "--augment.policy", "auto", "--out", "run")
    assert code == 0, err
    assert "augment.policy auto: probed 2 policies" in out.replace("--augment.policy", "augment.policy")
    assert RunFolder.open(tmp_path / "run").config.augment.policy == "none"
