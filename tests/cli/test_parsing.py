"""Options and help made from typed fields: what a command line may contain, and what --help shows at any width."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import pytest

from resnetlab.cli import arguments
from resnetlab.cli.arguments import ResumeArguments, TrainArguments
from resnetlab.cli.commands import COMMANDS
from resnetlab.cli.config_file import read_settings
from resnetlab.cli.help import help_text, option_lists
from resnetlab.cli.options import Arguments, Metavar, Positional, options_of
from resnetlab.cli.parsing import parse
from resnetlab.errors import BadInput
from resnetlab.runs import recipes
from resnetlab.runs.config import RunConfig, Section, choices

KINDS = [kind for kind in vars(arguments).values() if isinstance(kind, type) and kind.__name__.endswith("Arguments")]
KINDS = [kind for kind in KINDS if kind not in (Arguments, arguments.RecipeArguments)]


def config_of(*words: str) -> RunConfig:
    return parse(TrainArguments, words, "resnetlab train").run_config()


@pytest.mark.parametrize(
    ("words", "path", "value"),
    [
        (["--optim.lr", "0.5"], "optim.lr", 0.5),
        (["--optim.lr=0.5"], "optim.lr", 0.5),
        (["--lr", "1e-3", "--lr", "2e-3"], "optim.lr", 2e-3),
        (["--batch_size", "32"], "batch_size", 32),
        (["--data.val_fraction=0.25"], "data.val_fraction", 0.25),
        (["--augment.flip"], "augment.flip", True),
        (["cifar10-resnet18", "--augment.no-flip"], "augment.flip", False),
        (["--data.no-download"], "data.download", False),
        (["--model.no-freeze"], "model.freeze", False),
        (["--no-freeze"], "model.freeze", False),
        (["--augment.sizes", "0.75", "0.875", "1"], "augment.sizes", (0.75, 0.875, 1.0)),
        (["cifar10-resnet18", "--augment.sizes"], "augment.sizes", ()),
        (["--optim.betas", "0.8", "0.95"], "optim.betas", (0.8, 0.95)),
        (["--model.shortcut", "A"], "model.shortcut", "A"),
        (["--model.shortcut", "None"], "model.shortcut", None),
        (["--data.image-size", "None"], "data.image_size", None),
        (["--data", "None"], "data.name", "None"),  # a folder may have that name
        (["--data.root", "a=b"], "data.root", "a=b"),
        (["--data-file", "cifar.tgz"], "data.root", "cifar.tgz"),
        (["--data=a=b"], "data.name", "a=b"),
        (["--clip-norm", "1e999", "--clip-norm", "2"], "clip_norm", 2.0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_sets_its_field(words: list[str], path: str, value: Any) -> None:
    found: Any = config_of(*words)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--optim.lrr", "1"], "unknown option '--optim.lrr'; did you mean --optim.lr?"),
        (["--no-augment.flip"], "unknown option '--no-augment.flip'; did you mean --augment."),
        (["--extended-at", "3"], "unknown option '--extended-at'"),
        (["--recipe", "quickstart"], "unknown option '--recipe'"),
        (["quickstart", "finetune"], "unknown argument 'finetune'"),
        (["--optim.betas", "0.8"], "--optim.betas: expected 2 arguments"),
        (["--augment.flip=1"], "--augment.flip"),
        (["--augment.sizes", "0.75", "x"], "augment.sizes.1 is 'x', but must be a number"),
        (["--data.fit", "cropp"], "unknown data.fit 'cropp'; did you mean 'crop'? Choose from crop, squash, pad"),
        (["--optim.lr", "-1"], "optim.lr is -1, but must be greater than 0"),
        (["--batch-size", "1.5"], "batch_size is '1.5', but must be a whole number"),
        (["--max-minutes", "soon"], "--max-minutes is 'soon', but must be a number"),
        (["--lr", "1", "--optim.lr", "2"], "--lr and --optim.lr are the same setting; give one of them"),
        (["--augment.flip", "--augment.no-flip"], "--augment.flip and --augment.no-flip are the same setting"),
        (["--resume", "yes"], "unknown --resume 'yes'. Choose from auto"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_named_with_what_is_allowed(words: list[str], sentence: str) -> None:
    with pytest.raises(BadInput) as refused:
        config_of(*words)
    assert sentence in str(refused.value)


def test_words_and_options_may_be_mixed() -> None:
    given = parse(arguments.CompareArguments, ["a", "--split", "val", "b", "--json", "c"], "")
    assert [str(run) for run in given.runs] == ["a", "b", "c"]
    assert given.json_
    assert parse(TrainArguments, ["--epochs", "2", "finetune", "--seed=1"], "").recipe == "finetune"
    assert str(parse(ResumeArguments, ["--", "-run"], "").run) == "-run"


def test_the_last_list_of_numbers_counts_and_lists_of_names_are_joined() -> None:
    assert config_of("--augment.sizes", "0.75", "0.875", "1", "--augment.sizes", "1").augment.sizes == (1,)
    assert config_of("--data.classes", "cat", "--data.classes", "dog").data.classes == ("cat", "dog")


def test_a_section_of_a_command_keeps_its_own_defaults() -> None:
    given = parse(arguments.BaselineArguments, ["--data", "x", "--augment.cutout", "4"], "")
    assert (given.data.name, given.data.normalize) == ("x", "imagenet")
    assert given.augment == recipes.finetune().augment.model_copy(update={"cutout": 4})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_help_of_every_option_states_choices_and_default(kind: type[Arguments]) -> None:
    text = " ".join(help_text(kind, "resnetlab x", {}).split())
    assert text.startswith("usage: resnetlab x ")
    assert f" {kind.examples[0]} " in text
    sections: list[tuple[type[Section], Section]] = [(kind, kind.model_construct())]
    if kind.settings is not None:
        sections.append((RunConfig, recipes.quickstart()))
    for section, defaults in sections:
        for rows in option_lists("", section, defaults).values():
            for name, meaning in rows.items():
                assert re.search(r"[a-z].*; (default: \S|required)", meaning), name
        for option in options_of(section):
            assert option.help
            assert "None" not in option.metavar + option.help
            if names := choices(section_field(section, option.path)):
                assert option.metavar == f"{{{','.join(names)}}}"


def section_field(section: type[Section], path: str) -> Any:
    """The annotation of a field by its path."""
    first, _, rest = path.partition(".")
    annotation = section.model_fields[first].annotation
    return section_field(annotation, rest) if rest else annotation


@pytest.mark.parametrize("columns", ["0", "1", "20", "79", "500", "nonsense"])
def test_help_fits_any_width(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for kind in KINDS:
        lines = help_text(kind, "resnetlab x", {}).splitlines()
        width = max(40, min(100, int(columns) if columns.isdigit() and int(columns) else 80))
        unbroken = re.compile(r"  +(resnetlab |-|\S+$)")  # an example, the names of an option, a single word
        assert [line for line in lines[1:] if len(line) > width and not unbroken.match(line)] == []


def test_help_of_train_lists_recipes_and_shows_the_defaults_of_the_one_that_is_named(command: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit) as leaving:
        command("train", "paper-resnet20", "--modle", "--help")
    assert not leaving.value.code
    text = " ".join(capsys.readouterr().out.split())
    for name in recipes.RECIPES:
        assert f" {name} {recipes.summary(name)} " in text
    assert "--config FILE" in text
    assert "length of the run in optimiser steps; give this or --epochs; default: 64000" in text


def test_each_recipe_has_one_line_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = help_text(TrainArguments, "resnetlab train", {}).split("recipes:\n")[1].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == list(recipes.RECIPES)


@pytest.mark.parametrize(
    ("words", "recipe", "parts"),
    [
        (
            ["cifar10-fast"],
            "cifar10-fast",
            ["--epochs N length of the run in epochs; give this or --steps; default: 14"],
        ),
        (["cifar10-fast", "--model", "nope"], "cifar10-fast", ["default: 0.18", "89.84, 90.06 and 90.00 %"]),
        (["--data", "some/folder"], "folder", ["peak learning rate; default: 0.001", "--augment.[no-]flip"]),
        (["--data", "cifar10"], "cifar10-resnet18", ["default: 0.12"]),
        ([], "quickstart", ["default: 0.03"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_shows_the_defaults_of_the_recipe_that_would_be_trained(
    words: list[str], recipe: str, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(TrainArguments, [*words, "--help"], "resnetlab train")
    text = " ".join(capsys.readouterr().out.split())
    assert f"main settings (defaults of the recipe {recipe}):" in text
    for part in parts:
        assert part in text


def test_help_has_no_option_twice_and_none_without_effect(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in (TrainArguments, arguments.FindLrArguments):
        with pytest.raises(SystemExit):
            parse(kind, ["--help"], "resnetlab x")
        names = re.findall(r"^  (-.*?)(?:  |$)", capsys.readouterr().out, re.MULTILINE)
        assert len(names) == len(set(names))
        assert not any(name.count("no-") > 1 and "," not in name for name in names)
        assert (any("--schedule" in name for name in names)) == (kind is TrainArguments)


@pytest.mark.parametrize("words", [["quickstrat"], ["--modle"], ["--seed", "x"], ["--config", "nowhere.toml"]])
def test_help_is_shown_even_if_other_words_are_wrong(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        parse(TrainArguments, [*words, "--help"], "resnetlab train")
    assert not leaving.value.code
    out = capsys.readouterr().out
    assert "main settings (defaults of the recipe quickstart):" in out
    assert ("note: unknown recipe 'quickstrat'; did you mean 'quickstart'?" in out) == (words == ["quickstrat"])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, command: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as leaving:
        command(name, "--help")
    assert not leaving.value.code
    assert capsys.readouterr().out.startswith(f"usage: resnetlab {name} ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n\n"], ids=repr)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("break_", ["\n", "\r\n"], ids=repr)
def test_a_config_file_of_any_editor_loads(tmp_path: Path, ending: str, mark: bytes, break_: str) -> None:
    settings = {"seed": 3, "optim": {"lr": 0.5}, "data": {"name": "Bilder für später"}}
    toml = 'seed = 3\n[optim]\nlr = 0.5\n[data]\nname = "Bilder für später"'
    for name, text in (("a.json", json.dumps(settings, indent=2, ensure_ascii=False)), ("a.toml", toml)):
        (tmp_path / name).write_bytes(mark + (text.replace("\n", break_) + ending).encode())
        assert read_settings(tmp_path / name) == settings


def test_a_config_file_in_another_encoding_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"seed": 3}', encoding="utf-16")
    with pytest.raises(BadInput, match=r"a\.json is not UTF-8 text; save it as UTF-8"):
        read_settings(tmp_path / "a.json")


def test_a_config_file_that_is_no_set_of_settings_is_refused_at_once(tmp_path: Path) -> None:
    for name, text, sentence in (
        ("deep.toml", ".".join(["a"] * 20_000) + " = 1", "a name of more than 20 dotted parts"),
        ("quoted.toml", ".".join(['"a b"'] * 20_000) + " = 1", "a name of more than 20 dotted parts"),
        ("large.json", "[" + "1," * 600_000 + "1]", "no settings are so large"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(BadInput, match=sentence):
            read_settings(tmp_path / name)
    (tmp_path / "wide.toml").write_text('[data]\nname = "' + "a" * 500_000 + '"')
    assert len(read_settings(tmp_path / "wide.toml")["data"]["name"]) == 500_000


def test_a_mistake_in_a_config_file_is_named_as_in_the_file(command: Any, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[optim]\nlr = -1\n")
    assert command.refuse("train", "--config", "a.toml").startswith("config file a.toml: optim.lr is -1")
    assert command.refuse("train", "--lr", "-1").startswith("--lr is -1")


def test_choices_are_those_of_the_literal() -> None:
    assert choices(RunConfig.model_fields["device"].annotation) == ["auto", "cpu", "cuda", "mps"]
    assert choices(RunConfig.model_fields["seed"].annotation) == []


def test_annotations_with_equal_texts_of_other_kinds_stay_apart() -> None:
    """Python returns an equal earlier annotation again, and with it the kind of the argument."""
    option, argument = Annotated[Path, Metavar("SOME FILE")], Annotated[Path, Positional("SOME FILE")]
    assert type(option.__metadata__[0]) is Metavar
    assert type(argument.__metadata__[0]) is Positional
    assert Metavar("FILE") == Metavar("FILE") == "FILE" != Metavar("FOLDER")
    assert Metavar("FILE") != Positional("FILE")
