"""No file can run code (promise 22): a ban list over the source, and hostile files at every door, watched."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from resnetlab.cli.main import main
from resnetlab.data.preprocess import Preprocessing
from resnetlab.files import read_sealed, write_sealed
from resnetlab.inference.model_file import save_model
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture

SOURCE = Path(__file__).parents[1] / "src" / "resnetlab"
MODULES = sorted(SOURCE.rglob("*.py"))

BANNED_IMPORTS = {
    "pickle",
    "cPickle",
    "_pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "yaml",
    "subprocess",
}
BANNED_IMPORTS |= {"code", "codeop", "runpy", "pty", "dbm", "jsonpickle"}
BANNED_CALLS = {"eval", "exec", "compile", "__import__", "breakpoint", "execfile"}
BANNED_ENDINGS = (  # of what is called, however it was imported
    *("os.system", "os.popen", "os.execv", "os.execve", "os.spawnv", "os.posix_spawn", "os.fork"),
    *("jit.load", "export.load", "package.PackageImporter", "hub.load", "hub.load_state_dict_from_url"),
    *("pickle.load", "pickle.loads", "joblib.load", "yaml.load", "importlib.util.spec_from_file_location"),
)
EXCEPTION = {  # the one place where a pickle is read: torchvision opens CIFAR's own batches, whose digests it checked
    "data/named.py": "torchvision.datasets",
}
COMPILER = "kernels/compiler.py"  # the one place that starts a program: the C compiler, on the package's own sources
# A process and those that decode images for it send each other objects through pipes that nobody else can write to.
WORKERS = "data/workers.py"
THROUGH_PIPES = {"import pickle", "import subprocess", "pickle.load()"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call, with the dotted name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def keyword(call: ast.Call, name: str) -> object:
    """The constant that a call gives for a keyword; None for none or another expression."""
    found = [entry.value for entry in call.keywords if entry.arg == name]
    return found[0].value if found and isinstance(found[0], ast.Constant) else None


def offences(source: str) -> list[str]:
    """What the ban list forbids in a module."""
    tree = ast.parse(source)
    found = [f"import {name}" for name in imported(tree) if name.split(".")[0] in BANNED_IMPORTS]
    found += [f"import {name}" for name in imported(tree) if name in BANNED_ENDINGS or name == "torch.load"]
    for name, call in calls(tree):
        if name in BANNED_CALLS or any(name == end or name.endswith(f".{end}") for end in BANNED_ENDINGS):
            found.append(f"{name}()")
        if name == "torch.load" and keyword(call, "weights_only") is not True:
            found.append("torch.load() without weights_only=True")
        if (
            name.split(".")[0] in ("np", "numpy")
            and name.endswith(".load")
            and keyword(call, "allow_pickle") is not False
        ):
            found.append("numpy.load() without allow_pickle=False")
        if keyword(call, "shell") is True:
            found.append("shell=True")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_that_could_run_a_file_is_used(path: Path) -> None:
    found = offences(path.read_text())
    if str(path.relative_to(SOURCE)) == COMPILER:
        assert found == ["import subprocess"]
    elif str(path.relative_to(SOURCE)) == WORKERS:
        assert set(found) == THROUGH_PIPES
    else:
        assert found == []


def test_torchvisions_data_sets_are_opened_in_one_place_alone() -> None:
    users = {
        str(path.relative_to(SOURCE))
        for path in MODULES
        for name in imported(ast.parse(path.read_text()))
        if name.startswith("torchvision.datasets") or name == "torchvision.datasets"
    }
    assert users == set(EXCEPTION)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "import subprocess as s",
        "from os import system",
        "from torch import load",
        "eval('1')",
        "__import__('os')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=safe)",
        "torch.jit.load(path)",
        "torch.export.load(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "os.system('ls')",
        "import os.path; os.popen('ls')",
        "torch.hub.load('a/b', 'c')",
        "run('ls', shell=True)",
    ],
)
def test_the_ban_list_bites(source: str) -> None:
    assert offences(source)


# Every door in a process of its own, forked from one that has imported the package: it opens a benign file first, and
# from then on nothing may be started, connected to, or imported that opening the benign file did not import.
PROGRAM = """
import itertools, json, os, resource, sys, time
from pathlib import Path
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import encodings.cp437  # zipfile decodes names with it that are not in UTF-8
import sklearn.datasets, sklearn.metrics  # a second, once instead of at every door
import resnetlab, resnetlab.inference.predict, resnetlab.models.pretrained
from resnetlab.cli import process
from resnetlab.cli.main import main
from resnetlab.errors import LabError
from resnetlab.runs import experiment, resume, score

def opened(path):
    try:
        resnetlab.load(path, "cpu")
    except LabError as error:
        print(f"resnetlab: {error}", file=sys.stderr)
        return 2
    return 0

def pretrained(path):
    try:
        resnetlab.load_pretrained(resnetlab.build_model("resnet20", 10), path)
    except LabError as error:
        print(f"resnetlab: {error}", file=sys.stderr)
        return 2
    return 0

def resumed(path):
    for checkpoint in Path("run", "checkpoints").iterdir():
        checkpoint.unlink()
    Path("run", "checkpoints", "step-00000001.ckpt").write_bytes(Path(path).read_bytes())
    return main(["resume", "run", "--max-minutes", "0"])

def imported(path):
    Path("names").write_text("\\n".join("0123456789"))
    pixels = "--image-size 32 --mean 0.5 0.5 0.5 --std 0.2 0.2 0.2 --classes names --model resnet20".split()
    return main(["import", path, *pixels, "--out", f"imported-{next(numbers)}.safetensors"])

numbers = itertools.count()
DOORS = {
    "load": opened,
    "load_pretrained": pretrained,
    "import": imported,
    "evaluate": lambda path: main(["evaluate", path, "--data", "digits"]),
    "resume": resumed,
    "--pretrained": lambda path: main(
        ["train", "--model", "resnet20", "--pretrained", path, "--out", f"run-{next(numbers)}", "--max-minutes", "0"]
    ),
    "--config": lambda path: main(["train", "--config", path, "--print-config"]),
    "one that starts a program": lambda path: os.system("true"),
}
STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen",
          "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "os.kill")
watching, crimes, known = False, [], set()

def watch(event, arguments):
    if not watching:
        return
    if event == "import" and arguments[0] not in known:
        crimes.append(f"import {arguments[0]}")
    if event in STARTS or (event == "ctypes.dlopen" and arguments[0] is not None):  # None: this very program
        crimes.append(f"{event} {arguments!r}"[:200])
        os.write(2, f"CRIME {crimes[-1]}\\n".encode())
        os._exit(99)

def visit(door, benign, hostile):
    global watching
    warm = [door(path) for path in benign]
    known.update(sys.modules)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 3 * 2**30,) * 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.addaudithook(watch)
    for path in hostile:
        watching = True
        began = time.process_time()
        code = door(path)
        watching = False
        print(json.dumps({"file": path, "code": code, "seconds": time.process_time() - began}))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"crimes": crimes, "warm": warm, "grown_mb": grown / 1024}))

codes = {}
for folder, (name, benign, hostile) in json.loads(Path(sys.argv[1]).read_text()).items():
    child = os.fork()
    if not child:
        os.chdir(folder)
        for number, stream in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), number)
        try:
            visit(DOORS[name], benign, hostile)
            sys.stdout.flush()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    codes[folder] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(codes))
"""


class Runs:
    """What runs code where a pickle is trusted."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


TINY = Architecture("basic", (1, 1), width=4, stem="cifar", shortcut="A")
SEE = Preprocessing(image_size=8, resize_to=8, channels=1, mean=(0.5,), std=(0.25,))
DIGITS = tuple("0123456789")


def payloads(marker: Path) -> dict[str, object]:
    return {
        "os.system": Runs(os.system, f"touch {marker}"),
        "exec": Runs(exec, f"open({str(marker)!r}, 'w').close()"),
        "eval": Runs(eval, f"open({str(marker)!r}, 'w').close()"),
        "Popen": Runs(subprocess.Popen, ["touch", str(marker)]),
        "open": Runs(open, str(marker), "w"),
        "import": Runs(__import__, "antigravity"),
        "socket": Runs(socket.create_connection, ("127.0.0.1", 9)),
        "torch.load": Runs(torch.load, str(marker)),
        "torch.hub": Runs(torch.hub.load, "evil/repository", "model"),
    }


def pickles(folder: Path, marker: Path) -> None:
    """Each payload where `torch.save` puts it, among weights; some as a bare pickle and in the old format, too."""
    weights = build_model("resnet20", 10).state_dict()
    for name, payload in payloads(marker).items():
        torch.save({**weights, "fc.bias": payload}, folder / f"{name}-in-weights.pth")
        if name not in ("os.system", "eval"):  # of another payload the other formats would say nothing more
            continue
        (folder / f"{name}.pth").write_bytes(pickle.dumps(payload, protocol=2))
        torch.save(payload, folder / f"{name}-in-the-old-format.pt", _use_new_zipfile_serialization=False)
        (folder / f"{name}.safetensors").write_bytes(pickle.dumps(payload))


def bombs(folder: Path) -> None:
    """Small files that say they are huge, in the formats of others."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**28))
        archive.writestr("archive/version", "3")
    (folder / "zip-bomb.pth").write_bytes(packed.getvalue())
    (folder / "a-long-string.pth").write_bytes(b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x")
    (folder / "a-list-of-lists.pth").write_bytes(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")
    laughs = b"\x80\x02]q\x00(" + b"h\x00" * 9 + b"e."
    (folder / "a-list-that-holds-itself.pth").write_bytes(laughs)
    weights = build_model("resnet20", 10).state_dict()
    one = torch.zeros(1)
    for name, value in {
        "conv1.weight": one.expand(10**6, 3, 1000, 1000),
        "fc.weight": one.expand(10**12, 64),
        "bn1.bias": one.expand(10**15),
    }.items():
        torch.save({**weights, name: value}, folder / f"endless-{name}.pth")
    for name, header in {
        "length-2**63": (2**63).to_bytes(8, "little") + b"{}",
        "length-beyond-the-end": (2**26).to_bytes(8, "little") + b"{}" * 50,
        "overlap": told(a=tensor([2], 0, 8), b=tensor([2], 4, 12)),
        "backwards": told(a=tensor([2], 8, 0)),
        "negative": told(a=tensor([2], -8, 0)),
        "shape-that-overflows": told(a=tensor([2**40, 2**40], 0, 0)),
        "shape-beyond-the-file": told(a=tensor([10**12], 0, 4 * 10**12)),
        "nothing-times-much": told(a=tensor([0, 10**15], 0, 0)),
        "deep": head(b"[" * 100_000),
    }.items():
        (folder / f"{name}.safetensors").write_bytes(header)


def tensor(shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}


def told(**tensors: Any) -> bytes:
    return head(json.dumps(tensors).encode()) + bytes(12)


def head(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def forgeries(folder: Path, model: Path) -> None:
    """Model files with a right digest and a description of something enormous."""
    shape = TINY.to_json()
    for name, changes in {
        "width": {"architecture": {**shape, "width": 10**12}},
        "widest": {"architecture": {**shape, "width": 8192, "units_per_stage": [256] * 8, "unit": "bottleneck"}},
        "group-width": {"architecture": {**shape, "unit": "bottleneck", "width": 8192, "group_width": 8192}},
        "units": {"architecture": {**shape, "units_per_stage": [10**12]}},
        "classes": {"classes": [str(number) for number in range(10**6)]},
        "channels": {"in_channels": 10**12},
        "image-size": {"preprocessing": {**SEE.to_json(), "image_size": 10**12, "resize_to": 10**12}},
        "name": {"model": "x" * 10**6, "provenance": {"__class__": "os.system"}},
    }.items():
        weights, facts = read_sealed(model)
        write_sealed(folder / f"{name}.safetensors", weights, {**facts, **changes, "weights_digest": ""})


def configs(folder: Path, marker: Path) -> None:
    (folder / "pickle.json").write_bytes(pickle.dumps(Runs(os.system, f"touch {marker}"), protocol=0))
    (folder / "code.toml").write_text(f"name = __import__('os').system('touch {marker}')\n")
    (folder / "yaml.toml").write_text(f'!!python/object/apply:os.system ["touch {marker}"]\n')
    (folder / "deep.json").write_text("[" * 200_000)
    (folder / "deep.toml").write_text("a = " + "[" * 200_000)
    (folder / "long.json").write_text('{"seed": ' + "9" * 10**6 + "}")
    (folder / "dotted.toml").write_text(".".join(["a"] * 10_000) + " = 1\n")
    (folder / "merge.json").write_text('{"__class__": "os.system", "__reduce__": ["touch"], "optim": {"__init__": {}}}')


BENIGN = {  # for every door
    "load": ["model.safetensors"],
    "evaluate": ["model.safetensors"],
    "resume": ["checkpoint.ckpt"],
    "load_pretrained": ["weights.pth", "weights.safetensors"],
    "import": ["weights.pth", "weights.safetensors"],
    "--pretrained": ["weights.pth", "weights.safetensors"],
    "--config": ["config.json", "config.toml"],
    "one that starts a program": [],
}


@pytest.fixture(scope="module")
def benign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sound file for every door, and a run that was stopped."""
    folder = tmp_path_factory.mktemp("benign")
    save_model(folder / "model.safetensors", build_model(TINY, 10, in_channels=1), DIGITS, SEE, {})
    torch.save(build_model("resnet20", 10).state_dict(), folder / "weights.pth")
    save_file(build_model("resnet20", 10).state_dict(), folder / "weights.safetensors")
    (folder / "config.json").write_text('{"seed": 1}')
    (folder / "config.toml").write_text("seed = 1\n")
    flags = ("--model", "resnet20", "--epochs", "1", "--batch-size", "256", "--max-minutes", "0")
    assert main(["train", *flags, "--out", str(folder / "run")]) == 6
    checkpoint, *_ = (folder / "run" / "checkpoints").iterdir()
    (folder / "checkpoint.ckpt").write_bytes(checkpoint.read_bytes())
    return folder


@dataclass(frozen=True)
class Visit:
    """What came of a door: its exit code, what it printed, and the folder in which it worked."""

    code: int
    out: str
    err: str
    folder: Path
    files: list[str]


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that a payload creates when it is run."""
    return tmp_path_factory.mktemp("marker") / "marker"


@pytest.fixture(
    scope="module", params=[pytest.param(48, id="some"), pytest.param(1, id="all", marks=[pytest.mark.slow])]
)
def visits(
    request: pytest.FixtureRequest, benign: Path, marker: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Visit]:
    """Visit every door with hostile files: with all of them, or with a share of them, other ones at each door."""
    root = tmp_path_factory.mktemp("visits")
    hostile, settings = root / "hostile", root / "configs"
    hostile.mkdir()
    settings.mkdir()
    pickles(hostile, marker)
    bombs(hostile)
    forgeries(hostile, benign / "model.safetensors")
    configs(settings, marker)
    files = {
        door: sorted(map(str, hostile.iterdir()))[number % request.param :: request.param]
        for number, door in enumerate(BENIGN)
    }
    files["--config"] += sorted(map(str, settings.iterdir()))
    files["one that starts a program"] = ["x"]
    plan = {}
    for number, (door, good) in enumerate(BENIGN.items()):
        shutil.copytree(benign / "run", root / str(number) / "run")
        plan[str(root / str(number))] = (door, [str(benign / name) for name in good], files[door])
    (root / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(root / "plan.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = {}
    for folder, code in json.loads(done.stdout).items():
        door, _, given = plan[folder]
        out, err = (Path(folder, stream).read_text() for stream in ("stdout", "stderr"))
        found[door] = Visit(code, out, err, Path(folder), given)
    return found


@pytest.mark.parametrize("door", [door for door in BENIGN if door != "one that starts a program"])
def test_hostile_files_start_nothing_connect_nowhere_and_import_nothing(
    door: str, visits: dict[str, Visit], marker: Path
) -> None:
    done = visits[door]
    assert done.code == 0, done.err[-3000:]
    *reports, last = [json.loads(line) for line in done.out.splitlines() if line.startswith(('{"file', '{"crimes'))]
    assert last["crimes"] == []
    assert set(last["warm"]) <= {0, 6}
    assert [report["file"] for report in reports] == done.files
    for report in reports:
        assert report["code"] in (2, 3), report
        assert report["seconds"] < 10, report
        named = f"/{Path(report['file']).name}" in done.err  # else it may have been refused for another reason
        assert named or door in ("resume", "--config"), report
    assert last["grown_mb"] < 750
    assert not marker.exists()
    assert "Traceback" not in done.err
    assert len(list(done.folder.glob("run-*"))) == (len(BENIGN[door]) if door == "--pretrained" else 0)


def test_the_pickles_do_work_where_they_are_let(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    marker = tmp_path / "marker"
    for name, payload in payloads(marker).items():
        if name in ("os.system", "exec", "eval"):
            pickle.loads(pickle.dumps(payload))
            assert marker.exists(), name
            marker.unlink()


def test_the_hook_ends_a_program_that_starts_another(visits: dict[str, Visit]) -> None:
    done = visits["one that starts a program"]
    assert done.code == 99, done.err
    assert "CRIME os.system" in done.err
