"""The commands and the manifest of docs/distributed.md, as far as they can be tried without a cluster."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.run import get_args_parser, parse_min_max_nnodes

from resnetlab.cli.arguments import ResumeArguments, TrainArguments
from resnetlab.cli.parsing import parse

yaml = pytest.importorskip("yaml")

PAGE = (Path(__file__).parents[1] / "docs" / "distributed.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(found) for found in re.findall(r"^(?:srun )?torchrun (--.+)$", PAGE.replace("\\\n", ""), re.MULTILINE)
]
KINDS: dict[str, dict[str, type]] = {  # of the version kubeflow.org/v1: the fields that the manifest may have
    "": {"apiVersion": str, "kind": str, "metadata": dict, "spec": dict},
    "spec": {"nprocPerNode": str, "elasticPolicy": dict, "runPolicy": dict, "pytorchReplicaSpecs": dict},
    "elasticPolicy": {
        **dict.fromkeys(("rdzvBackend", "rdzvHost", "rdzvId"), str),
        **dict.fromkeys(("minReplicas", "maxReplicas", "maxRestarts", "rdzvPort"), int),
    },
    "runPolicy": {
        "cleanPodPolicy": str,
        "suspend": bool,
        **dict.fromkeys(("activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"), int),
    },
    "Worker": {"replicas": int, "restartPolicy": str, "template": dict},
}


def require_fields(name: str, given: dict[str, Any]) -> None:
    for field, value in given.items():
        assert field in KINDS[name], f"{name} has no field {field}"
        assert type(value) is KINDS[name][field], f"{name}.{field} is {value!r}"


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def require_command(words: list[str]) -> None:
    """Let resnetlab parse the words that follow `-m resnetlab`."""
    verb, *rest = words
    parse({"train": TrainArguments, "resume": ResumeArguments}[verb], rest, "")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_torchrun_and_resnetlab_parse_a_command(words: list[str]) -> None:
    given = get_args_parser().parse_args(words)
    assert (given.module, given.training_script) == (True, "resnetlab")
    require_command(given.training_script_args)


def test_there_are_commands_for_one_machine_and_for_slurm() -> None:
    assert [words[0] for words in COMMANDS] == ["--standalone"] * 3 + ["--nnodes"]


def test_the_manifest_follows_the_rules_of_the_operator(manifest: dict[str, Any]) -> None:
    """Those of its schema and its webhook."""
    require_fields("", manifest)
    assert (manifest["apiVersion"], manifest["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", manifest["metadata"]["name"])
    spec = manifest["spec"]
    require_fields("spec", spec)
    require_fields("elasticPolicy", spec["elasticPolicy"])
    require_fields("runPolicy", spec["runPolicy"])
    assert spec["runPolicy"]["cleanPodPolicy"] in ("All", "Running", "None")
    assert list(spec["pytorchReplicaSpecs"]) == ["Worker"], "an elastic policy has no master"
    worker = spec["pytorchReplicaSpecs"]["Worker"]
    require_fields("Worker", worker)
    assert worker["restartPolicy"] in ("Always", "OnFailure", "Never", "ExitCode")
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "pytorch"
    assert container["image"]
    assert all(isinstance(word, str) for word in container["command"] + container["args"])
    assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in pod["volumes"]]
    assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == spec["nprocPerNode"]


def test_the_manifest_starts_a_fixed_number_of_processes(
    manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun, with the variables that the operator sets, as its version 1.9 does."""
    spec, policy = manifest["spec"], manifest["spec"]["elasticPolicy"]
    worker = spec["pytorchReplicaSpecs"]["Worker"]
    for name, value in {
        "NNODES": f"{policy['minReplicas']}:{policy['maxReplicas']}",
        "NPROC_PER_NODE": spec["nprocPerNode"],
        "MAX_RESTARTS": str(policy["maxRestarts"]),
        "RDZV_BACKEND": policy["rdzvBackend"],
        "RDZV_ENDPOINT": f"{manifest['metadata']['name']}-worker-0:23456",
    }.items():
        monkeypatch.setenv(f"PET_{name}", value)
    (container,) = worker["template"]["spec"]["containers"]
    program, *words = container["command"] + container["args"]
    given = get_args_parser().parse_args(words)
    assert (program, given.module, given.training_script) == ("torchrun", True, "resnetlab")
    assert parse_min_max_nnodes(given.nnodes) == (worker["replicas"], worker["replicas"])
    assert (given.nproc_per_node, given.max_restarts) == ("4", 3)
    assert (given.rdzv_backend, given.rdzv_endpoint) == ("c10d", "resnet50-worker-0:23456")
    require_command(given.training_script_args)
