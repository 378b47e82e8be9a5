"""What the machine is called: its name decides whether two measurements may be compared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from resnetlab import runtime

X86 = "processor\t: {n}\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (X86.format(n=0) + X86.format(n=1), " family 25 model 17"),
        (ARM, ""),
        ("", ""),
        ("cpu family\t: ?\nmodel\t\t: 17\n", ""),
        ("model\t\t: 17\n", ""),
    ],
)
def test_family_and_model_where_the_system_tells_them(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert runtime.family_and_model(file) == told


def test_no_family_without_the_file(tmp_path: Path) -> None:
    assert runtime.family_and_model(tmp_path / "absent") == ""


@pytest.mark.parametrize(("name", "told"), [("AMD EPYC", "AMD EPYC family 25 model 17"), ("Xeon 6780E", "Xeon 6780E")])
def test_only_a_name_without_a_number_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    (tmp_path / "cpuinfo").write_text(X86.format(n=0))
    monkeypatch.setattr(runtime, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name})
    assert runtime.processor() == f"{told}, {os.cpu_count()} cores"
