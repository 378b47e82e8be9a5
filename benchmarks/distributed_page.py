"""Write docs/scaling-out.md: the cost model of distributed training, its assumptions, and what it predicts."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from benchmarks.cost_model import (
    AGREEMENTS,
    BACKWARD,
    BUCKET,
    FIRST_BUCKET,
    FULL,
    HALF,
    MIB,
    Cluster,
    Device,
    Network,
    Setup,
    agreements,
    linear_rate,
    state_bytes,
)
from benchmarks.page import Entries, measured_on
from resnetlab.models.resnet import ResNet
from resnetlab.models.summary import stage_rows
from resnetlab.models.zoo import resolve
from resnetlab.runs import recipes


@dataclass(frozen=True)
class Task:
    """A network on images of some size."""

    title: str
    model: str
    image_size: int
    stem: str
    classes: int


SMALL = Task("ResNet-18, 3×3 stem, 32 px", "resnet18", 32, "cifar", 10)
LARGE = Task("ResNet-50, 224 px", "resnet50", 224, "imagenet", 1000)
TASKS = (
    SMALL,
    LARGE,
    Task("ResNet-152, 224 px", "resnet152", 224, "imagenet", 1000),
    Task("Wide ResNet-50-2, 224 px", "wide_resnet50_2", 224, "imagenet", 1000),
)

# Assumptions about hardware, from data sheets.
GPU, PEAK, MEMORY = "NVIDIA A100", 312e12, 80e9  # floating-point operations per second in bf16; bytes
USED = 0.2  # of the peak, in training of a ResNet
SHORTEST_STEP = 0.02  # seconds in which PyTorch launches the kernels of a step without compilation
REACHED = 0.8  # of the nominal bandwidth
NVLINK = 300e9  # bytes per second in each direction
NVLINK_LATENCY, ETHERNET_LATENCY, INFINIBAND_LATENCY = 5e-6, 30e-6, 5e-6  # seconds
HOST_LATENCY = ETHERNET_LATENCY  # gloo sends by TCP, whatever the network
NETWORKS = {  # bits per second of a machine in each direction, and its latency
    "25 Gb/s Ethernet": (25e9, ETHERNET_LATENCY),
    "100 Gb/s Ethernet": (100e9, ETHERNET_LATENCY),
    "8 × 200 Gb/s InfiniBand": (1600e9, INFINIBAND_LATENCY),
}
PER_MACHINE = 8
COUNTS = (8, 64, 512)
PER_GPU, GLOBAL = 256, 2048  # images
GOAL = 0.9  # efficiency
ADVISED = "100 Gb/s Ethernet"  # for the table of networks

# Published limits of large batches for ResNet-50 on ImageNet.
LINEAR_LIMIT = 8192  # Goyal et al. 2017: the accuracy of a batch of 256, with linear scaling and 5 epochs of warm-up
LARS_LIMIT = 32_768  # You et al. 2017 and 2018, with LARS
IMAGENET = 1_281_167  # training images

INTRO = """\
This page predicts how fast a training is on many GPUs, and shows with which formulas. Its figures are computed from the
networks and from the assumptions below; no GPU was measured for them. The formulas are in `benchmarks/cost_model.py`.
"""

MODEL = """\
Each process computes the gradient of its share of the batch. DistributedDataParallel sums the gradients in buckets, in
the order in which the backward pass computes them: from the head to the stem. While a bucket is exchanged, the backward
pass continues. At its end, the step waits for what is not exchanged yet.

```
bytes of gradients      S = 4 P                     P parameters; 2 P with --compress-gradients bf16
exchange of s bytes     t(s) = 2 (g−1)/g · s/B  +  2 (g−1) · a          in a machine of g GPUs
                             + 2 (m−1)/m · s/B' +  2 ⌈log₂ m⌉ · a'      between m machines
bucket k                begins at max(its gradients are known, the end of bucket k−1), takes t(its bytes)
agreements              2 · 2 (p−1) · a''               of p processes in each step, through their hosts
step                    T = max(C, the end of the last bucket) + t(running statistics)
efficiency              images of a process / T / images per second of one GPU alone
```

`C` is the compute of a step on one GPU. If the host takes longer, to launch the kernels and to agree with the others in
messages of latency `a''`, it is that time. `B` and `a` are the bandwidth of a GPU and the latency of a message inside
of a machine, `B'` and `a'` those of a machine in the network. The running statistics of batch norm are averaged after
the backward pass, in one exchange that nothing hides.
"""


@functools.cache
def network(task: Task) -> Network:
    """Return what the cost model needs to know about a network."""
    with torch.device("meta"):
        model = ResNet(resolve(task.model, stem=task.stem, image_size=task.image_size), task.classes)
    running = [buffer.numel() for name, buffer in model.named_buffers() if "running" in name]
    rows = stage_rows(model.eval(), task.image_size)
    return Network(task.title, tuple(row.params for row in rows), tuple(row.macs for row in rows), sum(running))


def device(task: Task) -> Device:
    """Return the assumed GPU: a multiply-add is two operations, and a step takes three times its forward pass."""
    return Device(USED * PEAK / (6 * sum(network(task).macs)), SHORTEST_STEP)


def cluster(name: str) -> Cluster:
    bits, latency = NETWORKS[name]
    return Cluster(name, REACHED * NVLINK, REACHED * bits / 8, NVLINK_LATENCY, latency, PER_MACHINE, HOST_LATENCY)


def setup(task: Task, name: str, width: int = FULL) -> Setup:
    return Setup(network(task), device(task), cluster(name), width)


def page(entries: Entries) -> str:
    return "\n".join(parts(entries))


def parts(entries: Entries) -> Iterator[str]:
    yield "# Scaling out\n"
    yield "<!-- written by `python -m benchmarks table` from benchmarks/cost_model.py; do not edit -->\n"
    yield INTRO
    yield "## The model\n"
    yield MODEL
    yield from overlap()
    yield "## Assumptions\n"
    yield assumptions()
    yield "## 8, 64 and 512 GPUs\n"
    yield from predictions()
    yield "## Larger batches\n"
    yield from larger_batches()
    yield "## When the network does not fit\n"
    yield memory()
    yield "## Two processes on a CPU\n"
    yield from measured(entries)


def overlap() -> Iterator[str]:
    """The order in which gradients are known, by stage."""
    large = network(LARGE)
    yield (
        "The order helps residual networks: the last stages have most of the parameters, and their gradients are known "
        f"first. The stages of {LARGE.title}, in the order of the backward pass:\n"
    )
    yield table(
        ["stage", "share of the gradients", "share of the compute"],
        [
            [name, percent(count / large.gradients), percent(macs / sum(large.macs))]
            for name, count, macs in zip(
                ("stem", "layer1", "layer2", "layer3", "layer4", "head"), large.parameters, large.macs, strict=True
            )
        ][::-1],
    )


def assumptions() -> str:
    gpu = device(LARGE)
    lines = [
        f"A GPU does {percent(USED)} of the {PEAK / 1e12:.0f} TFLOP/s of an {GPU} in bf16. For {LARGE.title}, that is "
        f"{gpu.images_per_second:,.0f} images/s. `python -m benchmarks training --nets resnet50` measures yours.",
        f"A step takes {1000 * SHORTEST_STEP:.0f} ms at least: the time in which the host launches its kernels. The "
        f"hosts agree {AGREEMENTS} times in a step, so that an error or a signal ends all processes together: by gloo, "
        f"in a ring of messages of {1e6 * HOST_LATENCY:.0f} µs. That takes {agreed(COUNTS[1])} with {COUNTS[1]} "
        f"processes and {agreed(COUNTS[2])} with {COUNTS[2]}, and is hidden while the GPU computes for longer.",
        f"The backward pass is {percent(BACKWARD)} of the compute. The update of the weights is not counted.",
        f"A machine has {PER_MACHINE} GPUs, connected by NVLink with {NVLINK / 1e9:.0f} GB/s each, and latencies of "
        f"{1e6 * NVLINK_LATENCY:.0f} µs. In the network, a machine has {' or '.join(NETWORKS)}, and latencies of "
        f"{1e6 * ETHERNET_LATENCY:.0f} µs (Ethernet) and {1e6 * INFINIBAND_LATENCY:.0f} µs (InfiniBand).",
        f"{percent(REACHED)} of these bandwidths are reached. The exchanges inside of a machine and between machines "
        "follow each other, where NCCL overlaps them in part.",
        f"Buckets have PyTorch's sizes: {FIRST_BUCKET // MIB} MiB the first, {BUCKET // MIB} MiB the others.",
        "All GPUs are equally fast, data is always ready, and the exchange does not slow the compute. Real clusters "
        "lose more: every step takes as long as that of the slowest GPU.",
    ]
    return "\n".join(f"- {line}" for line in lines) + "\n"


def agreed(count: int) -> str:
    return f"{1000 * agreements(count, cluster(ADVISED)):.0f} ms"


def predictions() -> Iterator[str]:
    large = network(LARGE)
    yield (
        f"{LARGE.title}: {large.gradients * FULL / 1e6:.0f} MB of gradients in each step, "
        f"{large.gradients * HALF / 1e6:.0f} MB in bf16. *Waited* is the part of the exchange that the backward pass "
        f"does not hide. With {PER_GPU} images per GPU, the batch grows with the number of GPUs (weak scaling):\n"
    )
    yield table(
        ["GPUs", "network", "batch", "compute, ms", "exchange, ms", "waited, ms", "efficiency", "in bf16"],
        [
            [
                str(count),
                place(count, name),
                f"{count * PER_GPU:,}",
                *(f"{1000 * seconds:.1f}" for seconds in (full.compute, full.exchange, full.waited)),
                percent(setup(LARGE, name).efficiency(count, PER_GPU)),
                percent(setup(LARGE, name, HALF).efficiency(count, PER_GPU)),
            ]
            for count, name in rows()
            for full in [setup(LARGE, name).step(count, PER_GPU)]
        ],
    )
    yield f"With a batch of {GLOBAL:,} on all GPUs together, their shares shrink (strong scaling):\n"
    yield table(
        ["GPUs", "network", "images per GPU", "speed of one GPU, times", "efficiency", "in bf16"],
        [
            [
                str(count),
                place(count, name),
                f"{GLOBAL // count}",
                f"{count * setup(LARGE, name).efficiency(count, GLOBAL / count):.1f}",
                percent(setup(LARGE, name).efficiency(count, GLOBAL / count)),
                percent(setup(LARGE, name, HALF).efficiency(count, GLOBAL / count)),
            ]
            for count, name in rows()
        ],
    )
    count = COUNTS[1]
    yield (
        f"So the number of images per GPU matters most. The fewest with which {count} GPUs reach {percent(GOAL)}, with "
        f"{ADVISED} between the machines:\n"
    )
    yield table(
        ["", "gradients, MB", "images/s of one GPU", "images per GPU", "with bf16 gradients"],
        [
            [
                task.title,
                f"{network(task).gradients * FULL / 1e6:.0f}",
                f"{device(task).images_per_second:,.0f}",
                *(f"{setup(task, ADVISED, width).smallest_share(count, GOAL):,}" for width in (FULL, HALF)),
            ]
            for task in TASKS
        ],
    )
    yield (
        "A network with many multiply-adds per parameter needs few images to hide its exchange. With small images, the "
        "compute is too short to hide it, and the launch of kernels limits the step before the network does.\n"
    )


def rows() -> list[tuple[int, str]]:
    """The combinations of GPUs and networks; inside of one machine the network makes no difference."""
    first = next(iter(NETWORKS))
    return [(count, name) for count in COUNTS for name in NETWORKS if count > PER_MACHINE or name == first]


def place(count: int, name: str) -> str:
    return name if count > PER_MACHINE else "none: one machine"


def larger_batches() -> Iterator[str]:
    recipe = recipes.get("imagenet-resnet50")
    base, batch = recipe.optim.lr, recipe.batch_size
    yield (
        f"With {PER_GPU} images per GPU, an epoch of ImageNet has fewer and larger steps on more GPUs. By the linear "
        f"scaling rule, the learning rate grows with the batch, here from {base:g} for {batch}:\n"
    )
    yield table(
        ["GPUs", "batch", "steps per epoch", "learning rate", "published for ResNet-50"],
        [
            [
                str(count),
                f"{count * PER_GPU:,}",
                f"{IMAGENET // (count * PER_GPU):,}",
                f"{linear_rate(base, batch, count * PER_GPU):g}",
                published(count * PER_GPU),
            ]
            for count in sorted({1, *COUNTS, LINEAR_LIMIT // PER_GPU, LARS_LIMIT // PER_GPU})
        ],
    )
    yield (
        f"- Up to {LINEAR_LIMIT:,} images, the rule keeps the accuracy, with a warm-up of 5 epochs (Goyal et al., "
        "arXiv:1706.02677). Beyond, it loses accuracy.\n"
        f"- Up to {LARS_LIMIT:,}, LARS keeps it nearly: it scales the step of each layer by the norm of its weights "
        "(You et al., arXiv:1708.03888). resnetlab has no LARS.\n"
        f"- So beyond {LINEAR_LIMIT // PER_GPU} GPUs, more of them shorten a training of ResNet-50 less than in the "
        "first table: either each GPU has fewer images, or the accuracy decreases.\n"
    )
    yield (
        f"resnetlab never changes the learning rate by itself. For {PER_MACHINE} GPUs, give "
        f"`--batch-size {PER_MACHINE * PER_GPU} --lr {linear_rate(base, batch, PER_MACHINE * PER_GPU):g} "
        f"--schedule.warmup-steps {5 * (IMAGENET // (PER_MACHINE * PER_GPU))}` to `imagenet-resnet50`.\n"
    )


def published(batch: int) -> str:
    if batch <= recipes.get("imagenet-resnet50").batch_size:
        return "the reference"
    if batch <= LINEAR_LIMIT:
        return "same accuracy by linear scaling and warm-up"
    return "LARS" if batch <= LARS_LIMIT else "beyond both"


def memory() -> str:
    sizes = [
        f"{state_bytes(network(task).gradients, 1) / 1e9:.2f} GB of {task.title.split(',')[0]}" for task in TASKS[1:]
    ]
    most = MEMORY / 2 / state_bytes(1, 2)
    largest = max(network(task).gradients for task in TASKS)
    return (
        "DistributedDataParallel keeps everything on each GPU: weights, gradients, the buckets, and the moments of the "
        f"optimiser, {state_bytes(1, 1)} bytes per parameter with SGD and {state_bytes(1, 2)} with AdamW. With SGD, "
        f"these are {', '.join(sizes)}, whatever the batch. Most of the memory of a training is in activations, which "
        "fewer images per GPU, or `--accumulate`, make smaller.\n\n"
        "FSDP divides weights, gradients and moments among the GPUs, and gathers the weights of a layer when they are "
        "needed, in the forward and the backward pass. It exchanges half as many bytes again as "
        "DistributedDataParallel, and begins to matter when this state fills a GPU. With AdamW, it takes half of "
        f"{MEMORY / 1e9:.0f} GB from {most / 1e9:.0f} billion parameters on, {most / largest:.0f} times those of the "
        "largest network above. resnetlab has no FSDP.\n"
    )


def measured(entries: Entries) -> Iterator[str]:
    yield (
        "`python -m benchmarks distributed` trains with one process and with two, of one thread each, at the same "
        "batch, and compares the efficiency with the model. On a CPU the exchange uses the cores that compute, so the "
        "model is an upper bound of the efficiency there.\n"
    )
    if not entries:
        yield "No result is stored yet.\n"
    for entry in entries:
        yield f"{SMALL.title}. {measured_on(entry['environment'])}\n"
        yield table(
            ["", "efficiency", "by the model", "rounds"],
            [
                [row["name"], middle(row["measured"]), middle(row["predicted"]), str(len(row["measured"]))]
                for row in entry["scaling"]
            ],
        )


def middle(values: Sequence[float]) -> str:
    return percent(statistics.median(values)) if values else "failed"


def percent(share: float) -> str:
    """
    >>> percent(0.8588), percent(0.0168), percent(0.0004)
    ('86 %', '1.7 %', '0.0 %')
    """
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    texts = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in texts) + "\n"
