"""torchvision's own networks in a plain training loop, with and without `resnetlab.accelerate`.

One process, one batch of random images per network, no loader: forward, loss, backward and SGD. The three loops take
turns within every round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import resnetlab
from benchmarks.options import Options
from benchmarks.page import Entries, capabilities, measured_on, rounds_of
from benchmarks.pictures import number, picture_name
from benchmarks.rounds import Sample, details, group, interleaved, seconds
from resnetlab.runtime import Runtime

FP32, BF16 = "fp32, channels_last", "bf16, channels_last"
ACCELERATED = "accelerate"  # in bf16 and channels_last, too
CPU = Runtime(torch.device("cpu"))
NETS = {  # name: image size in pixels, batch, stem
    "resnet18": (32, 128, "3×3"),
    "resnet34": (224, 16, "7×7"),
    "resnet50": (224, 16, "7×7"),
}
CODE = """\
```python
import torch
import torchvision

import resnetlab

model = torchvision.models.resnet50().to(memory_format=torch.channels_last)
resnetlab.accelerate(model)  # the only line that is new

with torch.autocast("cpu", torch.bfloat16):
    logits = model(images)
```
"""
READ = """\
`resnetlab.accelerate(model)` makes training in bfloat16 on a CPU faster. It swaps the classes of modules in place, for
networks of this package and for torchvision's ResNet, ResNeXt and Wide ResNet. `resnetlab.restore(model)` undoes it.
`resnetlab train` calls it for you.
"""
KEEPS = """\
**What it changes.** Only classes. Parameters, buffers, state-dict keys, hooks and `isinstance` are unaffected. A deep
copy is accelerated too; a pickle contains the plain network. `accelerate` logs the number of swapped modules, and
`resnetlab.count_accelerated(model)` returns it. Sub-classes are left alone.

**What it computes.** Batch norm, addition and ReLU run as one kernel, forward and backward. 3×3 convolutions use
Winograd's algorithm or, on processors with AMX, tiles of matrices. All of it is decided at every call: in fp32, on
another device, with a hook on a module that would be skipped, for a replaced activation, under `torch.compile`,
`torch.export`, `torch.fx` or `torch.func`, and without a C compiler, torch's own operations run. In fp32 the results
are torch's to the bit. In bfloat16 they differ by rounding: the error against float64 is that of torch's bfloat16,
up to 2.25 times as large in a layer where Winograd's algorithm rounds twice (tested in `tests/kernels/`).
[docs/benchmarks.md](benchmarks.md#rounding) has the errors of whole networks.

**What it needs.** A processor with bfloat16 instructions (AVX-512 BF16 or AMX), Linux and a C compiler. Restore a
network before quantising or fusing it by graph: those tools look for torch's exact classes. In bfloat16 the maps inside
an accelerated network are in channels_last memory format, so use `flatten` instead of `view` on them.
"""


def loop(name: str, options: Options, *, half: bool, fast: bool) -> Callable[[], None]:
    """One training step of torchvision's network on random images."""
    import torchvision

    image_size, batch, stem = NETS[name]
    batch = 4 if options.quick else batch
    model = torchvision.models.get_model(name, num_classes=10)
    if stem == "3×3":
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    model.to(memory_format=torch.channels_last).train()
    if fast:
        resnetlab.accelerate(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, image_size, image_size).to(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 10

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    step()  # what is allocated and compiled once
    return step


def timed(step: Callable[[], None], steps: int, batch: int) -> Sample:
    times = [seconds(step, CPU) for _ in range(steps)]
    return {"images_per_second": batch / statistics.median(times), "seconds": times}


def measure(options: Options) -> dict[str, Any]:
    result: dict[str, Any] = {"groups": [], "samples": {}, "page": "docs/accelerate.md"}
    for name in options.left(["resnet18"] if options.quick else NETS):
        image_size, batch, stem = NETS[name]
        options.say(name)
        loops = {
            ACCELERATED: loop(name, options, half=True, fast=True),
            BF16: loop(name, options, half=True, fast=False),
            FP32: loop(name, options, half=False, fast=False),
        }
        steps = options.steps or (1 if options.quick else 6)
        contenders = {
            title: partial(timed, step, steps, 4 if options.quick else batch) for title, step in loops.items()
        }
        outcomes = interleaved(contenders, options.rounds, options.say)
        title = f"torchvision {name}, {stem} stem, {image_size} px, batch {batch}"
        result["groups"].append(group(name, title, "images/s", outcomes, images_per_second, more_is_better=True))
        result["samples"][name] = details(outcomes)
        options.keep(result)
    return result


def images_per_second(sample: Sample) -> float:
    return float(sample["images_per_second"])


def write(entries: Entries, pictures: Path) -> str:
    """The page docs/accelerate.md."""
    return "\n".join(parts(entries, pictures))


def parts(entries: Entries, pictures: Path) -> Iterator[str]:
    yield "# Faster training in a loop of your own\n"
    yield "<!-- written by `python -m benchmarks table` from benchmarks/results/accelerate.json; do not edit -->\n"
    yield READ
    yield CODE
    yield "The tables have training steps without a data loader, in images per second, with the slowest and the fastest"
    yield "round. The three loops took turns in each round.\n"
    for entry in entries:
        environment = entry["environment"]
        yield f"**{environment['device_name']}, {capabilities(environment)}.** {measured_on(environment)}"
        yield f"{rounds_of(entry['groups'])}\n"
        yield "| network | fp32 | bf16 | bf16, accelerate | lowest – highest | × bf16 | × fp32 |"
        yield f"|---|{'---:|' * 6}"
        for found in entry["groups"]:
            by_name = {row["name"]: row for row in found["contenders"]}
            fast, half, full = (by_name[name] for name in (ACCELERATED, BF16, FP32))
            cells = [
                found["title"].removeprefix("torchvision "),
                *(number(row["median"]) for row in (full, half, fast)),
            ]
            cells.append(f"{number(fast['lowest'])} – {number(fast['highest'])}")
            cells += [f"{row['first_against_it']:.2f}" for row in (half, full)]
            yield f"| {' | '.join(cells)} |"
        yield ""
        for found in entry["groups"]:
            picture = pictures / picture_name("accelerate", found["subject"], environment)
            yield f"![{found['title']}]({picture.as_posix()})\n"
    yield KEEPS
