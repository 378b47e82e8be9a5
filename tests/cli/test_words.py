"""Messages of the library in the words of the command line."""

from __future__ import annotations

import pytest

from resnetlab.cli.options import options_of
from resnetlab.cli.words import in_flags
from resnetlab.runs.config import RunConfig


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("batch_size is 1, but must be 2; seed was 0, now 1", "--batch-size is 1, but must be 2; --seed was 0, now 1"),
        ("needs model.pretrained.", "needs --pretrained."),
        ("another data.image_size", "another --data.image-size"),
        ("add `allowed=['optim.lr']`", "add --allow-change optim.lr"),
        ("without `strict=True`", "without --strict-resume"),
        ("`count` is 1", "--seeds is 1"),
        ("add `resume=True`", "add --resume auto"),
        ("skip them (`bad_images='skip'`)", "skip them (--data.bad-images skip)"),
        ("run: `resnetlab.evaluate('a b', split='val')`", "run: resnetlab evaluate 'a b' --split val"),
        ("try `flip=False`", "try --augment.no-flip"),
        # what stays as it is
        ("`resnetlab runs` lists runs", "`resnetlab runs` lists runs"),
        ("file not found: runs/optim.lr", "file not found: runs/optim.lr"),
        ("could not read 'optim.lr'", "could not read 'optim.lr'"),
        ("could not read optim.lr.json, data.csv", "could not read optim.lr.json, data.csv"),
        ("augment.sizes.1 is 'x'", "augment.sizes.1 is 'x'"),
        ("a name` with optim.lr", "a name` with --lr"),
        ("`os.system('x')` and `__import__('os')`", "`os.system('x')` and `__import__('os')`"),
        ("`resnetlab.evaluate(open('x'))`", "`resnetlab.evaluate(open('x'))`"),
        ("", ""),
    ],
)
def test_names_of_settings_and_calls_become_flags_and_commands(message: str, expected: str) -> None:
    assert in_flags(message) == expected


def test_every_setting_has_its_flag() -> None:
    for option in options_of(RunConfig):
        assert in_flags(f"{option.path} is 1") == f"{option.flags[0]} is 1"
