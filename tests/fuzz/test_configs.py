"""Mutated config files and random command lines through the commands (promises 21 and 23)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resnetlab.cli.main import COMMANDS
from resnetlab.models.zoo import ARCHITECTURES
from resnetlab.runs import recipes
from resnetlab.runs.config import RunConfig

CRASHERS = Path(__file__).parent / "crashers"


def as_toml(value: dict[str, Any]) -> str:
    """Settings as TOML, which knows no null: top-level values, then a table for each section."""
    flat = {name: one for name, one in value.items() if not isinstance(one, dict)}
    tables = {name: one for name, one in value.items() if isinstance(one, dict)}
    lines = [f"{key(name)} = {inline(one)}" for name, one in flat.items() if one is not None]
    for name, table in tables.items():
        lines += [f"[{key(name)}]", *(f"{key(n)} = {inline(one)}" for n, one in table.items() if one is not None)]
    return "\n".join(lines) + "\n"


def key(name: str) -> str:
    return json.dumps(name)


def inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key(name)} = {inline(one)}" for name, one in value.items() if one is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(inline(one) for one in value if one is not None) + "]"
    return json.dumps(value).replace("Infinity", "inf").replace("NaN", "nan")


def twice(fuzzer: Any, text: str) -> str:
    """The text with one of its lines repeated at the top, so that a key is given twice."""
    lines = text.splitlines(keepends=True)
    line = fuzzer.choice(lines)
    return "".join([*lines[:1], line, *lines[1:]])


def written(fuzzer: Any, folder: Path) -> Path:
    """The path of a new config file that was mutated in one of several ways."""
    config = recipes.get(fuzzer.choice(sorted(recipes.RECIPES))).to_json()
    if fuzzer.random() < 0.5:  # people write a few settings, not all
        config = {name: config[name] for name in fuzzer.sample(sorted(config), 4)}
    kind = fuzzer.randrange(5)
    if kind < 3:
        config = fuzzer.changed(config)
    is_toml = isinstance(config, dict) and fuzzer.random() < 0.5 and "[[[[[[" not in repr(config)
    text = as_toml(config) if is_toml else json.dumps(config, indent=1, ensure_ascii=fuzzer.random() < 0.5)
    if kind == 3:
        text = twice(fuzzer, text)
    content = text.encode("utf-8", fuzzer.choice(("surrogatepass", "replace")))
    if kind == 4:
        content = fuzzer.damaged(content)
    if fuzzer.random() < 0.05:
        content = fuzzer.choice((b"\xef\xbb\xbf" + content, text.encode("utf-16", "replace"), b"", b"\0" * 50))
    path = folder / ("config.toml" if is_toml else "config.json")
    path.write_bytes(content)
    return path


def test_mutated_configs(
    cases: range, fuzzer: Any, check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for case in cases:
        name = f"config {case}"
        path = written(fuzzer(name), tmp_path)
        code, out, _ = check(name, "train", "--config", path, "--print-config")
        if code == 0:
            printed = json.loads(out)
            assert RunConfig.model_validate(printed).to_json() == printed, name
            path.unlink()
            (tmp_path / "whole.json").write_text(out)
            assert check(name, "train", "--config", "whole.json", "--print-config")[1] == out, name
            (tmp_path / "whole.json").unlink()
        else:
            assert not out, name
            path.unlink()
        assert not list(tmp_path.iterdir()), name
    check.assert_no_problems()
    assert set(check.codes) == {0, 2}
    assert min(check.codes.values()) > 2


FLAGS = """
--data --model --epochs --steps --batch-size --lr --seed --device --precision --out --config --max-minutes --resume -1
--print-config --stem --pretrained --freeze --no-freeze --optim.name --optim.betas --schedule.milestones --augment.crop
--no-augment.flip --augment.flip --checkpoint.every-steps --image-size --classes --split --json --debugg -h --help --
--allow-change --strict-resume --all-probabilities --data.fit --data.image-size --ema --extended-at --recipe - --= =
--tta
""".split()  # noqa: SIM905 - a list of words reads best as words
GIVEN = (
    *("digits", "cifar10", "resnet18", "tiny", "3", "-3", "0", "1e-3", "1e999", "nan", "inf", "-inf", "0x10", "1_0"),
    *("9" * 5000, "x" * 5000, "/" + "y" * 300, "a/" * 2500, "None", "True", "auto", "cpu", "cuda", "A", "", " "),
    *("résumé 猫", "\udcff", "\x1b[2J", "a\nb", "[red]x[/red]", "{}", "{'a': 1}", "--", "~", "/", "..", "/dev/null"),
    *("%s%n", "0.5,0.9", "🦊", "\u202e", "/proc/self/mem", "nowhere.toml", "nowhere.json", "/etc/passwd", "."),
)


def test_random_command_lines(
    cases: range, fuzzer: Any, check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands that would train print their config instead, or name missing data."""
    monkeypatch.chdir(tmp_path)
    first = [*COMMANDS, "train", "train", "resume", "evaluate", "", "trian", "--version", "--debug"]
    for case in cases:
        name = f"words {case}"
        draw = fuzzer(name)
        words = [draw.choice(first)]
        if words[0] == "train":
            words += draw.choice(([], [draw.choice([*recipes.RECIPES, "nothing"])]))
        for _ in range(draw.randrange(6)):
            flag, value = (
                draw.choice(FLAGS),
                draw.choice((*GIVEN, draw.choice(sorted(ARCHITECTURES)), repr(draw.unusual_value())[:9])),
            )
            words += draw.choice(([flag], [flag, value], [flag, value], [f"{flag}={value}"], [value]))
        words = [word.replace("\0", "") for word in words if word != "--debug"]  # which is there to show tracebacks
        if words[:1] == ["models"]:
            words[1:1] = ["resnet20"]  # all of them take seconds
        if words[:1] == ["train"]:
            words += draw.choice((["--print-config"], ["--data", "nowhere/at/all"], ["--data", "x" * 300]))
        if words[:1] in (["baseline"], ["find-lr"], ["doctor"]):
            words += ["--data", draw.choice(("nowhere/at/all", "x" * 300))]
        check(f"{name} {words!r}"[:3000], *words)
        assert not list(tmp_path.iterdir()), name
    check.assert_no_problems()
    assert set(check.codes) == {0, 2}


@pytest.mark.parametrize("path", sorted(CRASHERS.iterdir()), ids=lambda path: path.name)
def test_configs_that_once_crashed(path: Path, check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check(path.name, "train", "--config", path, "--print-config")[0] == 2
    check.assert_no_problems()
