"""Weights that other programs saved: read without running code, unwrapped, and renamed to the keys of our networks."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from resnetlab.errors import BadInput, printable
from resnetlab.files import open_regular
from resnetlab.host import warnings_ignored

ENDINGS = ".pth, .pt, .th, .pth.tar, .ckpt, .bin or .safetensors"
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict")  # timm and others validate these, if there are any
WRAPPERS = (*AVERAGED, "state_dict", "model_state_dict", "model", "net", "network", "weights")
"""The keys under which training scripts store the weights in a checkpoint, the preferred ones first."""

OWN = re.compile(r"(conv1|bn1|layer\d+|last_bn|fc)$")
STEM = re.compile(r"^((?:[^.]+\.)*?)(?:conv1(?:\.0)?|embedder\.embedder\.convolution)\.weight$")
INSIDE = re.compile(r"(?:^|\.)(?:layer\d+|conv\d_x|stages|\d+\.\d+)\.")  # a key within a stage, not the stem
MOST_WRAPPERS = 4  # around the weights; a file may contain itself
RE_SAVE = "torch.save(model.state_dict(), 'weights.pth')"
MOST_NAMED = 5  # keys that an error message lists of each kind


class Rename(NamedTuple):
    """A part of a key that others call differently; it applies if one key of the file contains `only_with`."""

    pattern: re.Pattern[str]
    replacement: str | Callable[[re.Match[str]], str]
    only_with: str = ""


def stage(found: re.Match[str]) -> str:
    return f"layer{int(found[1]) + 1}.{found[2]}."


def layer_of_sequence(found: re.Match[str]) -> str:
    """The name of a layer in nn.Sequential(conv, bn, relu, conv, bn, …)."""
    place = int(found[1])
    return f".{'bn' if place % 3 else 'conv'}{place // 3 + 1}."


HEADS = re.compile(r"^(?:linear|classifier|head\.fc|head|output|fc)(?:\.\d+)?\.(?=(?:weight|bias)$)")
RENAMES = (
    # transformers' ResNetForImageClassification
    Rename(re.compile(r"^embedder\.embedder\.convolution\."), "conv1."),
    Rename(re.compile(r"^embedder\.embedder\.normalization\."), "bn1."),
    Rename(re.compile(r"^encoder\.stages\.(\d+)\.layers\.(\d+)\."), stage),
    Rename(re.compile(r"\.layer\.(\d+)\.convolution\."), lambda found: f".conv{int(found[1]) + 1}."),
    Rename(re.compile(r"\.layer\.(\d+)\.normalization\."), lambda found: f".bn{int(found[1]) + 1}."),
    Rename(re.compile(r"\.shortcut\.convolution\."), ".downsample.0."),
    Rename(re.compile(r"\.shortcut\.normalization\."), ".downsample.1."),
    # weiaicunzai/pytorch-cifar100
    Rename(re.compile(r"^conv1\.0\."), "conv1.", "residual_function"),
    Rename(re.compile(r"^conv1\.1\."), "bn1.", "residual_function"),
    Rename(re.compile(r"^conv(\d)_x\."), lambda f: f"layer{int(f[1]) - 1}.", "residual_function"),
    Rename(re.compile(r"\.residual_function\.(\d+)\."), layer_of_sequence),
    # kuangliu/pytorch-cifar, akamaster/pytorch_resnet_cifar10 and many others
    Rename(re.compile(r"\.shortcut\."), ".downsample."),
    Rename(HEADS, "fc."),
)


class FoundWeights(NamedTuple):
    """The weights in a file with the names of our networks, and notes about what was chosen and renamed."""

    tensors: dict[str, Tensor]
    notes: list[str]
    head: str  # the name of the last layer in the file


def read_weights_file(path: Path) -> FoundWeights:
    """Read the weights in a file of another program.

    Raises BadInput if it cannot be read, contains more than tensors, or contains several networks.
    """
    weights, notes = state_dict_in(read_file(path), path)
    renamed = with_our_names(weights, path)
    return renamed._replace(notes=notes + renamed.notes)


def read_file(path: Path) -> object:
    """Return the content of a file that `torch.save` or safetensors wrote; no code in it is ever run.

    Raises BadInput if the file is missing, damaged, or contains Python objects beside tensors and plain containers.
    """
    shown = printable(path)
    if path.is_dir():
        raise BadInput(
            f"{shown} is a folder; give the path of a file with weights. `resnetlab.load_model` reads the network of a "
            "run's folder, `resnetlab.load` also its classes and preprocessing"
        )
    if path.exists():
        open_regular(path).close()  # names a pipe or a device as such
    else:
        raise BadInput(
            f"file not found: {shown}; give 'imagenet' or 'torchvision', the path of a file or an http(s) address"
        )
    try:
        if is_safetensors(path):
            from safetensors.torch import load_file

            return load_file(path)
        if is_torchscript(path):
            raise BadInput(
                f"{shown} is a TorchScript archive, a program, and no program in a file is run. Where the file is "
                f"trusted, save its weights alone: model = torch.jit.load(path); {RE_SAVE}"
            )
        with warnings_ignored():  # torch warns about what it then refuses, or reads well
            return torch.load(path, weights_only=True, map_location="cpu")
    except BadInput:
        raise
    except Exception as error:  # a damaged or hostile file can raise anything; none of it is a bug here
        raise unreadable(path, error) from error


def is_safetensors(path: Path) -> bool:
    """Return True for a file that begins like safetensors, or has that ending."""
    with path.open("rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or (head[8:] == b"{" and int.from_bytes(head[:8], "little") < 2**40)


def is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in archive.namelist())


def unreadable(path: Path, error: Exception) -> BadInput:
    """Return the error for a file that torch or safetensors refused; it names the class of an object in it."""
    if found := re.search(r"\bGLOBAL ([\w.]+)", str(error)):
        module, _, name = found[1].rpartition(".")
        what = f"{name} of {module}" if module else name
        return BadInput(
            f"{printable(path)} contains Python objects beside tensors, which are never run: {what}. Somebody who "
            f"trusts the file and has the program that wrote it can save the weights alone: {RE_SAVE}"
        )
    if "Unsupported operand 149" in str(error):  # FRAME, with which pickles of later protocols begin
        return BadInput(
            f"{printable(path)} is a pickle that torch.load(weights_only=True) does not read: it has protocol 4 or 5; "
            "it may contain Python objects beside tensors, which are never run. Somebody who trusts the file and has "
            f"the program that wrote it can save the weights alone, with the protocol of torch: {RE_SAVE}"
        )
    return BadInput(
        f"{printable(path)} cannot be read as weights: it is damaged, or not a file that torch.save or safetensors "
        f"wrote ({ENDINGS}). Save the weights alone: {RE_SAVE}"
    )


def state_dict_in(content: object, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the state dict in the content of a file, or in the checkpoint of a training script, and notes.

    >>> state_dict_in({"epoch": 3, "state_dict": {"fc.bias": torch.zeros(2)}}, Path("a.pth"))
    ({'fc.bias': tensor([0., 0.])}, [])
    """
    notes: list[str] = []
    for _ in range(MOST_WRAPPERS):
        names = wrappers(content) if isinstance(content, Mapping) else []
        if not isinstance(content, Mapping) or not names:
            break
        chosen, *others = names
        if chosen not in WRAPPERS and others:
            raise BadInput(
                f"{printable(path)} contains several sets of weights ({listed(names)}); save one of them alone"
            )
        if others or chosen not in WRAPPERS:
            beside = f"; the file also has {listed(others)}" if others else ""
            notes.append(f"took the weights in {printable(chosen)!r}{beside}")
        content = content[chosen]
    if not isinstance(content, Mapping) or not content:
        raise BadInput(f"{printable(path)} contains no state dict but {type(content).__name__}; give a state dict")
    others = [
        f"{printable(key)} ({type(value).__name__})" for key, value in content.items() if not is_plain(key, value)
    ]
    if others:
        raise BadInput(f"{printable(path)} contains more than plain tensors: {listed(others)}; give a state dict")
    return dict(content), notes


def wrappers(content: Mapping[object, object]) -> list[str]:
    """Return the keys of a checkpoint that contain weights, the preferred one first."""
    known = [name for name in WRAPPERS if name in content and not isinstance(content[name], Tensor)]
    if known:
        return [name for name in known if isinstance(content[name], Mapping)] or known[:1]
    return [
        key
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Mapping) and value and all(map(is_plain, value, value.values()))
    ]


def is_plain(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def with_our_names(weights: Mapping[str, Tensor], path: Path | str = "") -> FoundWeights:
    """Return the weights under the names that our networks have, and notes about what was renamed.

    >>> found = with_our_names({"net.conv1.weight": torch.zeros(1), "net.linear.bias": torch.zeros(1)})
    >>> list(found.tensors), found.notes
    (['conv1.weight', 'fc.bias'], ["stripped 'net.' from the keys", 'renamed linear.bias to fc.bias'])
    """
    names, notes = without_prefixes(list(weights), path)
    head = next((name.rpartition(".")[0] for name in names if HEADS.match(name)), "")
    for rename in RENAMES:
        if rename.only_with and not any(rename.only_with in name for name in weights):
            continue
        new = [rename.pattern.sub(rename.replacement, name, count=1) for name in names]
        changed = [(old, name) for old, name in zip(names, new, strict=True) if old != name]
        if changed and len(set(new)) == len(new):  # two layers of theirs are not one of ours
            names = new
            more = f", and {len(changed) - 1:,} more like it" if len(changed) > 1 else ""
            notes.append(f"renamed {printable(changed[0][0])} to {printable(changed[0][1])}{more}")
    return FoundWeights(dict(zip(names, weights.values(), strict=True)), notes, head)


def without_prefixes(names: list[str], path: Path | str = "") -> tuple[list[str], list[str]]:
    """Remove what stands before the names of the network: module., model., net., backbone., _orig_mod. and others.

    A prefix is removed if every key has it, or else if the stem has it (a backbone beside its head). Raises BadInput if
    there are several stems, that is several networks.

    >>> without_prefixes(["module._orig_mod.fc.bias"])
    (['fc.bias'], ["stripped 'module.' from the keys", "stripped '_orig_mod.' from the keys"])
    >>> without_prefixes(["backbone.conv1.weight", "head.weight"])
    (['conv1.weight', 'head.weight'], ["stripped 'backbone.' from the keys"])
    """
    notes = []
    while (first := {name.partition(".")[0] for name in names if "." in name}) and len(first) == 1:
        (word,) = first
        if OWN.match(word) or not all("." in name for name in names):
            break
        names = [name.removeprefix(f"{word}.") for name in names]
        notes.append(f"stripped {printable(word + '.')!r} from the keys")
    stems = sorted({found[1] for name in names if (found := STEM.match(name)) and not INSIDE.search(found[1])})
    if len(stems) > 1 and "" not in stems:
        several = listed(stems)
        raise BadInput(
            f"{printable(path)} contains several networks ({several}); save the weights of one of them alone"
        )
    if len(stems) == 1 and stems[0]:
        bare = [name.removeprefix(stems[0]) for name in names]
        if len(set(bare)) == len(names):
            names = bare
            notes.append(f"stripped {printable(stems[0])!r} from the keys")
    return names, notes


def add_batch_counters(weights: dict[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Add the batch counters of the batch norms, which files from before torch 0.4.1 do not contain."""
    counters = [key for key in own if key.endswith("num_batches_tracked")]
    if not counters or any(key in weights for key in counters):
        return []
    weights.update({key: torch.zeros(own[key].shape, dtype=own[key].dtype) for key in counters})
    return ["the weights contain no batch counters of the batch norms: they start at 0"]


def differences(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return the keys that are missing, unexpected, or of another shape or kind of number, by what is wrong."""
    shared = [key for key in own if key in weights]
    found = {
        "missing": [key for key in own if key not in weights],
        "unexpected": [printable(key) for key in weights if key not in own],
        "of another shape": [
            f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
            for key in shared
            if weights[key].shape != own[key].shape
        ],
        "of another kind": [
            f"{key} {weights[key].dtype} for {own[key].dtype}"
            for key in shared
            if weights[key].is_floating_point() != own[key].is_floating_point()
        ],
    }
    return {what: keys for what, keys in found.items() if keys}


def refuse_differences(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], shown: str, hint: str = "") -> None:
    """Raise BadInput with the first keys that are missing, unexpected, or of another shape or kind of number."""
    found = differences(weights, own)
    if found:
        lists = [f"{len(keys):,} {what}: {listed(keys)}" for what, keys in found.items()]
        raise BadInput(f"{shown} do not fit this model, and nothing was loaded{hint}; {'; '.join(lists)}")


def listed(names: list[str]) -> str:
    """Return the first names with commas, and the number of the others.

    >>> listed([*"abcdefg"])
    'a, b, c, d, e and 2 more'
    """
    shown = ", ".join(map(printable, names[:MOST_NAMED]))
    return shown if len(names) <= MOST_NAMED else f"{shown} and {len(names) - MOST_NAMED:,} more"
