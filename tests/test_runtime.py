"""The name of the machine, which decides if two measurements may be compared, and the quota of its container."""

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
def test_family_and_model_are_read_from_cpuinfo(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert runtime.family_and_model(file) == told


def test_no_family_without_the_file(tmp_path: Path) -> None:
    assert runtime.family_and_model(tmp_path / "absent") == ""


@pytest.mark.parametrize(("name", "told"), [("AMD EPYC", "AMD EPYC family 25 model 17"), ("Xeon 6780E", "Xeon 6780E")])
def test_family_and_model_follow_a_name_without_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    (tmp_path / "cpuinfo").write_text(X86.format(n=0))
    monkeypatch.setattr(runtime, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name})
    assert runtime.processor() == f"{told}, {os.cpu_count()} cores"


V2, V1 = "0::/pod/container\n", "12:pids:/x\n4:cpu,cpuacct:/docker/42\n3:cpuset:/docker/42\n"

JOINT = "cpu,cpuacct/docker/42/cpu.cfs"


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        (V2, {"pod/container/cpu.max": "150000 100000\n"}, 1.5),
        (V2, {"pod/container/cpu.max": "max 100000\n", "pod/cpu.max": "200000 100000\n"}, 2.0),
        (V2, {"pod/container/cpu.max": "400000 100000\n", "pod/cpu.max": "300000 100000\n"}, 3.0),
        (V2, {"cpu.max": "50000 100000\n"}, 0.5),  # the group itself lies outside what the container sees
        ("0::/../..\n", {"cpu.max": "100000 100000\n"}, 1.0),
        (V2, {"unified/pod/container/cpu.max": "100000 50000\n"}, 2.0),  # version 2 mounted beside version 1
        (V2, {"pod/container/cpu.max": "max 100000\n"}, None),
        (V2, {"pod/container/cpu.max": "nonsense\n", "pod/cpu.max": "1 0\n"}, None),
        (V2, {}, None),
        (V1, {f"{JOINT}_quota_us": "250000\n", f"{JOINT}_period_us": "100000\n"}, 2.5),
        (V1, {"cpu/docker/42/cpu.cfs_quota_us": "-1\n", "cpu/docker/42/cpu.cfs_period_us": "100000\n"}, None),
        (V1, {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.0),
        ("damaged", {"cpu.max": "100000 100000\n"}, None),
    ],
)  # fmt: skip
def test_the_smallest_cpu_quota_around_the_process(
    membership: str, files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    (tmp_path / "cgroup").write_text(membership)
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    assert runtime.cpu_quota(tmp_path / "root", tmp_path / "cgroup") == quota
    assert runtime.cpu_quota(tmp_path / "root", tmp_path / "absent") is None


def test_describe_names_a_quota_below_the_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "cpu_quota", lambda: 0.5)
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    assert "3 threads (this container may use 0.5 CPUs), fp32" in runtime.start("cpu", "fp32").describe()
    monkeypatch.setattr(runtime, "cpu_quota", lambda: None)
    assert "3 threads, fp32" in runtime.start("cpu", "fp32").describe()
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    assert "1 thread, fp32" in runtime.start("cpu", "fp32").describe()


@pytest.mark.parametrize(
    ("able", "bf16", "amx"),
    [({}, False, False), ({"avx512_bf16": True}, True, False), ({"avx512_bf16": True, "amx_bf16": True}, True, True)],
)
def test_the_bfloat16_instructions_are_recorded(
    able: dict[str, bool], bf16: bool, amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able)
    facts = runtime.start("cpu", "fp32").facts()
    assert (facts["bf16"], facts["amx"], runtime.native_bf16()) == (bf16, amx, bf16)
