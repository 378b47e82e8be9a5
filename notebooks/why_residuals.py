# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Why residuals
#
# A deeper network can compute everything that a shallower one can, yet plain networks get worse when they get deeper.
# Residual networks (He et al. 2015, `arXiv:1512.03385`) solve this with one addition per unit. This notebook measures
# the effect of that addition:
#
# 1. the degradation: plain and residual networks of two depths, trained the same way
# 2. gradients by depth, at the start and during training
# 3. the size of each unit's correction to its input
# 4. accuracy after a unit of a trained network is removed (Veit et al. 2016, `arXiv:1605.06431`)
# 5. the shortcut options A, B and C
# 6. residual branches that start at zero
#
# The long trainings are read from `results/`; everything else is computed below. All runs use seed 0; the last section
# states what a single seed cannot show.

# %% [markdown]
# ## Set-up
#
# Choose an image source and set `DATA` below to it:
#
# - `"cifar10"`: CIFAR-10, downloaded once (170 MB);
# - a folder with one sub-folder of images per class; the environment variable `RESNETLAB_CIFAR10_JPEG` can hold its
#   path;
# - `"digits"`: scikit-learn's handwritten digits, no download. Every cell runs, but the stored networks were not
#   trained on digits.
#
# If `resnetlab` is not installed, the first cell installs it from this repository.

# %%
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("resnetlab") is None:
    if not Path("../pyproject.toml").exists():
        raise ModuleNotFoundError("resnetlab is missing: open this notebook in a checkout of it, or pip-install it")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", ".."], check=True)
    importlib.invalidate_caches()

# %% tags=["tools"]
import copy
import inspect
import json
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display
from torch import nn

import resnetlab
from resnetlab.evaluation.intervals import wilson
from resnetlab.models.blocks import BasicBlock, PlainBlock
from resnetlab.plots.style import RULES
from resnetlab.runtime import start

# %% [markdown]
# The images stay in memory as bytes, (N, height, width, channels); `see` converts a batch of them to the input of a
# network: float, mean 0 and standard deviation 1 per channel, (N, channels, height, width).

# %%
QUICK = "RESNETLAB_QUICK" in os.environ  # small data and few steps, to check that every cell runs
DATA = "digits" if QUICK else os.environ.get("RESNETLAB_CIFAR10_JPEG", "cifar10")
SEED = 0

data = resnetlab.open_dataset(DATA, image_size=32)
see = data.preprocessing.normalize
in_channels, classes = data.preprocessing.channels, len(data.classes)
print(f"{data.name}: {len(data.train):,} training and {len(data.val):,} validation images, {classes} classes")

# %% [markdown]
# The stored results are for a copy of CIFAR-10 in JPEG files ("CIFAR-10 (JPEG copy)"). It is a few points harder than
# the original and has 5,000 test images instead of 10,000: compare these results only with each other.
#
# Everything below runs on the GPU if there is one. `start` chooses the precision: bfloat16 on a CPU that supports it,
# otherwise float32.

# %%
device = torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
runtime = start(device.type, "auto" if device.type == "cpu" else "fp32")
print(runtime.precision_name, "on the", device.type)

SHALLOW, DEEP = (20, 32) if QUICK else (20, 56)  # layers of the networks below
BATCH = 64 if QUICK else 128
LOOKS = (0, 5, 10) if QUICK else (0, 20, 100)  # training steps at which gradients are measured
SCORED = 144 if QUICK else 1_000  # validation images per score

PLAIN, RESIDUAL, GREY = "#c23b00", "#0072b2", "#8a93a3"  # colours
plt.rcParams.update(RULES | {"figure.dpi": 100, "axes.grid": True, "figure.constrained_layout.use": True})

# %% [markdown]
# ## The puzzle
#
# Take a trained network and add more layers. If the new layers computed the identity, the deeper network would equal
# the shallower one. So the best deeper network is at least as good *on the training images*. He et al. trained plain
# stacks of convolutions and found the opposite: beyond some depth the **training** error rises with depth. This is not
# overfitting, which would lower the training error and raise only the error on unseen images. Better weights exist, but
# SGD does not find them. He et al. suggest that a few layers of convolution and ReLU have difficulty in learning the
# identity.
#
# ## The idea
#
# The layers of a unit compute a correction $\mathcal{F}$ to their input, and the input is added:
#
# $$y = \mathrm{ReLU}\big(\mathcal{F}(x) + x\big), \qquad
# \mathcal{F}(x) = \mathrm{BN}_2\big(W_2 * \mathrm{ReLU}(\mathrm{BN}_1(W_1 * x))\big).$$
#
# Now the identity is $\mathcal{F} = 0$, which weights of zero give. The two units of the library, plain and residual,
# differ only in the addition:

# %%
print(inspect.getsource(PlainBlock.forward))
print(inspect.getsource(BasicBlock.forward))

# %% [markdown]
# `downsample` is the shortcut: the identity where input and output have the same shape. In the paper's CIFAR networks
# no shortcut has weights, so a plain and a residual network of the same depth have equally many: <!--= parameters("plain20") -->269,722<!--/-->
# and <!--= parameters("resnet20") -->269,722<!--/--> with 20 layers, <!--= parameters("plain56") -->853,018<!--/--> and <!--= parameters("resnet56") -->853,018<!--/-->
# with 56. With the same seed they also start from the same weights:

# %%
plain, residual = (
    resnetlab.build_model(f"{kind}{DEEP}", classes, in_channels=in_channels, seed=SEED) for kind in ("plain", "resnet")
)
pairs = zip(plain.state_dict().values(), residual.state_dict().values(), strict=True)
print("same weights:", all(torch.equal(a, b) for a, b in pairs))

# %% [markdown]
# ## The degradation, measured
#
# Two families of stored runs, one seed each:
#
# - **CIFAR networks**, 20 and 56 layers of 16, 32 and 64 channels: the paper's Section 4.2 (SGD with momentum, learning
#   rate 0.1 and a tenth of it after 1/2 and 3/4, weight decay $10^{-4}$, crop and flip, batches of 128), in <!--= epochs("degradation/plain56") -->20<!--/--> epochs instead of the paper's 182;
# - **ImageNet networks**, 18 and 34 layers with the 7×7 stem, which reduces a 32-pixel image so much that training is
#   cheap: Adam with a cosine schedule, crop and flip, <!--= epochs("degradation/plain34") -->10<!--/--> epochs. The
#   residual networks have projections where the shape changes, and so a few more weights than the plain ones.
#
# `python tools/experiments.py degradation improvements/crop-flip-cosine --data cifar10` reproduces them (hours on a
# CPU). After every epoch, each run scored its validation images and a fixed sample of 5,000 training images, both in
# evaluation mode and without augmentation. The test images were scored once, with the weights of the epoch with the
# best validation accuracy.


# %%
RESULTS = Path("../results")


def load_run(name):
    """A stored run: its config, its epochs as columns, its test scores."""
    folder = RESULTS / name
    if not folder.exists():
        raise FileNotFoundError(f"no stored run: make it with `python tools/experiments.py {name} --data cifar10`")
    epochs = np.atleast_1d(np.genfromtxt(folder / "metrics.csv", delimiter=",", names=True))
    config, test = (json.loads((folder / file).read_text()) for file in ("config.json", "evaluation/test/metrics.json"))
    return SimpleNamespace(label=config["model"]["name"], config=config, epochs=epochs, test=test)


FAMILIES = {
    "CIFAR networks": {
        "plain": ("degradation/plain20", "degradation/plain56"),
        "residual": ("degradation/resnet20", "degradation/resnet56"),
    },
    "ImageNet networks, 7×7 stem": {
        "plain": ("degradation/plain18", "degradation/plain34"),
        "residual": ("degradation/resnet18", "improvements/crop-flip-cosine"),
    },
}
FAMILIES = {
    family: {kind: [load_run(name) for name in names] for kind, names in kinds.items()}
    for family, kinds in FAMILIES.items()
}

# %% [markdown]
# As in the paper's Fig. 6, thin dashed lines are training error and bold lines validation error. The deeper network is
# in colour. Degradation shows as a coloured dashed line above the grey dashed line.

# %%
for family, kinds in FAMILIES.items():
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    for axis, (kind, runs), colour in zip(axes, kinds.items(), (PLAIN, RESIDUAL), strict=True):
        for run, line in zip(runs, (GREY, colour), strict=True):
            epoch = run.epochs["epoch"]
            axis.plot(
                epoch, 100 - 100 * run.epochs["train_accuracy"], "--", color=line, lw=1, label=f"{run.label} train"
            )
            axis.plot(
                epoch, 100 - 100 * run.epochs["val_accuracy"], color=line, lw=2.2, label=f"{run.label} validation"
            )
        axis.set(title=f"{family}: {kind}", xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend()
    axes[0].set_ylabel("error (%)")
    plt.show()

# %% [markdown]
# The table has the final results. The interval of the test accuracy (Wilson, 95 %) covers other images of the same
# kind, not other seeds.


# %% tags=["tools"]
def table(head, rows):
    """Display a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    display(Markdown("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)))


def last_error(run, split):
    return 100 - 100 * run.epochs[f"{split}_accuracy"][-1]


def tested(run):
    """Test accuracy in percent with its interval."""
    low, high = wilson(run.test["accuracy"] * run.test["images"], run.test["images"])
    return f"{100 * run.test['accuracy']:.2f} ({100 * low:.2f} to {100 * high:.2f})"


# %%
table(
    ["network", "seed", "epochs", "training error (%)", "validation error (%)", "test accuracy (%)"],
    [
        [
            r.label,
            r.config["seed"],
            len(r.epochs),
            *(f"{last_error(r, split):.2f}" for split in ("train", "val")),
            tested(r),
        ]
        for kinds in FAMILIES.values()
        for runs in kinds.values()
        for r in runs
    ],
)

# %% [markdown]
# To see if depth hurts, we compare two final training errors. With 5,000 images, the standard error of a share $p$ is
# $\sqrt{p(1-p)/5000}$; the standard error of a difference is the root of the sum of squares. A difference within about
# twice that (a 95 % interval) is not significant.

# %% tags=["tools"]
SAMPLE = 5_000  # training images behind each training error


def gap(deep, shallow):
    """Training error, deep minus shallow, and half of its 95 % interval, both in points."""
    a, b = (last_error(run, "train") / 100 for run in (deep, shallow))
    return 100 * (a - b), 196 * ((a * (1 - a) + b * (1 - b)) / SAMPLE) ** 0.5


def verdict(kind, deep, shallow):
    points, half = gap(deep, shallow)
    if kind == "plain":
        meaning = "the degradation is " + ("reproduced" if points > half else "not reproduced at this budget")
    else:
        meaning = "depth " + ("helps" if points < -half else "hurts here, too" if points > half else "does no harm")
    found = f"{abs(points):.2f} ± {half:.2f} points {'more' if points > 0 else 'less'}"
    if abs(points) <= half:
        found = "no difference that these images can tell"
    return (
        f"{deep.label} ends with {last_error(deep, 'train'):.2f} % training error, {shallow.label} with "
        f"{last_error(shallow, 'train'):.2f} %: {found}. **{meaning.capitalize()}.**"
    )


# %%
verdicts = [verdict(kind, deep, shallow) for kinds in FAMILIES.values() for kind, (shallow, deep) in kinds.items()]
display(Markdown("\n".join(f"- {sentence}" for sentence in verdicts)))

# %% [markdown]
# ## Gradients by depth
#
# A known reason why deep networks are hard to train is that gradients vanish (or explode) in the backward pass: a
# product of many factors goes to zero, or grows without bound. A chain of residual units has a sum instead. Without the
# ReLU after the addition, the gradient at unit $l$ of $L$ is
#
# $$\frac{\partial\mathcal{L}}{\partial x_l}
# = \frac{\partial\mathcal{L}}{\partial x_L}
# \Big(1 + \frac{\partial}{\partial x_l}\sum_{i=l}^{L-1}\mathcal{F}_i(x_i)\Big)$$
#
# (He et al. 2016, `arXiv:1603.05027`): whatever the layers do, the 1 passes the gradient back unchanged.
#
# He et al. (2015) argue, however, that vanishing gradients are *not* the problem of their plain networks, because batch
# norm keeps the signals at a healthy size in both directions. We measure this. A gradient is large or small only
# relative to its weights, so the measure is the relative gradient of each 3×3 kernel, $\|\partial\mathcal{L}/\partial
# W\| / \|W\|$. Multiplied by the learning rate, it is the length of one SGD step relative to the length of the kernel.


# %% tags=["tools"]
def relative_gradients(network, inputs, labels):
    """The loss on one batch, and ‖gradient‖ / ‖weight‖ of every 3×3 kernel, first layer to last."""
    network.train()
    loss = F.cross_entropy(network(inputs), labels)
    kernels = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    gradients = torch.autograd.grad(loss, kernels)
    return loss.item(), [(g.norm() / w.detach().norm()).item() for g, w in zip(gradients, kernels, strict=True)]


def build(name, **options):
    """Untrained network on the device, in channels-last layout."""
    network = resnetlab.build_model(name, classes, in_channels=in_channels, seed=SEED, **options)
    return network.to(device, memory_format=torch.channels_last)


def without_norms(network):
    """Replace every batch norm of a network by the identity."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            network.set_submodule(name, nn.Identity())
    return network


# %% [markdown]
# We compute the gradients of the untrained networks on one batch of training images, with and without batch norm. The
# training below does not use this batch.

# %%
order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(SEED))
probe = order[-2 * BATCH :]
probe_inputs, probe_labels = see(data.train.images[probe].to(device)), data.train.labels[probe].to(device)

at_start = {}
for depth in (SHALLOW, DEEP):
    for kind in ("plain", "resnet"):
        name = f"{kind}{depth}"
        at_start[name, True] = relative_gradients(build(name), probe_inputs, probe_labels)
        at_start[name, False] = relative_gradients(without_norms(build(name)), probe_inputs, probe_labels)

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
for axis, normed, title in zip(axes, (True, False), ("with batch norm", "without batch norm"), strict=True):
    for (name, has_norm), (_, gradients) in at_start.items():
        if has_norm == normed:
            colour, deep = PLAIN if "plain" in name else RESIDUAL, str(DEEP) in name
            layers = range(1, len(gradients) + 1)
            axis.semilogy(layers, gradients, "-" if deep else "--", color=colour, lw=1.8 if deep else 1.2, label=name)
    axis.set(title=f"Before the first step, {title}", xlabel="3×3 kernel, from the image to the head")
axes[0].set_ylabel("‖gradient‖ / ‖weight‖")
axes[0].legend()
plt.show()

table(
    ["network", "batch norm", "loss", "first kernel", "last kernel", "first / last", "factor per layer"],
    [
        [
            name,
            "yes" if normed else "no",
            f"{loss:.2f}",
            *(f"{g:.2g}" for g in (gradients[0], gradients[-1])),
            f"{gradients[0] / gradients[-1]:,.1f}",
            f"{(gradients[0] / gradients[-1]) ** (1 / (len(gradients) - 1)):.2f}",
        ]
        for (name, normed), (loss, gradients) in at_start.items()
    ],
)

# %% [markdown]
# *With* batch norm, the gradients of the deep plain network do not vanish. They do the opposite: they grow layer by
# layer towards the input. The cause is the batch norm itself. A ReLU leaves the variance $(\pi-1)/2\pi$ of a standard
# normal variable, the kernel (initialised for ReLUs) doubles it, and the norm divides by the root of that, forwards and
# backwards. ReLU and kernel keep the size of the gradient on average, so it grows by $\sqrt{\pi/(\pi-1)} \approx 1.2$
# per layer in a wide network (Yang et al. 2019, `arXiv:1902.08129`). In the residual network most of the gradient
# passes through the shortcuts, which have no norms, and all layers get gradients of a similar size.
#
# *Without* batch norm, the gradients of the deep plain network are small everywhere, and the addition alone does not
# help: each unit adds to its input, the maps grow with every unit, and the initial loss is extremely large. Residual
# networks need something that limits the size of $\mathcal{F}$: batch norm, or zero initialisation (below).
#
# ### During training
#
# Now we train both deep networks on the same batches: SGD with momentum 0.9, learning rate 0.1, weight decay $10^{-4}$,
# no augmentation. This takes about half a minute each on two CPU cores, seconds on a GPU.

# %%
networks, during = {}, {}
for kind in ("plain", "resnet"):
    name = f"{kind}{DEEP}"
    network = networks[name] = build(name)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    print(f"{name}\n step   loss of the fixed batch   length of the first kernel")
    for step in range(max(LOOKS) + 1):
        if step in LOOKS:
            loss, during[name, step] = relative_gradients(network, probe_inputs, probe_labels)
            print(f"{step:5}   {loss:23.3f}   {network.conv1.weight.norm().item():26.1f}")
        batch = order[: -2 * BATCH].roll(-step * BATCH)[:BATCH]  # the next images, cyclically
        inputs, labels = see(data.train.images[batch].to(device)), data.train.labels[batch].to(device)
        network.train()
        with runtime.autocast():
            logits = network(inputs)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

# %% [markdown]
# Above the dotted line, one step at learning rate 0.1 is longer than the kernel that it updates.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
for axis, kind, colours in zip(
    axes, ("plain", "resnet"), (("#f2b79b", "#dd7440", "#7a2500"), ("#a9cde4", "#3d94c9", "#00375c")), strict=True
):
    for step, colour in zip(LOOKS, colours, strict=True):
        gradients = during[f"{kind}{DEEP}", step]
        axis.semilogy(range(1, len(gradients) + 1), gradients, color=colour, lw=1.8, label=f"step {step}")
    axis.axhline(10, color=GREY, ls=":")
    axis.set(title=f"{kind}{DEEP}", xlabel="3×3 kernel, from the image to the head")
    axis.legend()
axes[0].set_ylabel("‖gradient‖ / ‖weight‖")
plt.show()

table(
    ["network", "step", "smallest", "largest", "first kernel", "last kernel"],
    [
        [name, step, *(f"{g:.2g}" for g in (min(gradients), max(gradients), gradients[0], gradients[-1]))]
        for (name, step), gradients in during.items()
    ],
)

# %% [markdown]
# Scaling a kernel before a batch norm does not change the output. So its gradient is orthogonal to it, each step of
# plain SGD makes it longer, and the longer it is, the smaller its gradient. This happens in the plain network: the
# first steps are longer than the early kernels and replace them by much longer ones, whose direction later steps hardly
# change. Relative to the weights, the exploding gradient has become a vanishing one. In the residual network all layers
# keep changing at a similar rate.
#
# He et al. verified that the gradients of their plain networks have healthy norms, and left the cause of the
# degradation open. Our measurement covers the beginning of one training, at one learning rate and without warm-up. It
# shows a disadvantage of the plain network; it does not prove that this still limits the network many epochs later.
#
# ## The correction of each unit
#
# If the solution is near the identity, the corrections should be small. We measure the size of each unit's correction
# relative to its shortcut, $\|\mathcal{F}(x)\| / \|x\|$, averaged over validation images. Forward hooks record both:
# $\mathcal{F}(x)$ is the output of `bn2`, the shortcut is the output of `downsample`.


# %% tags=["tools"]
def units_of(network):
    """The units by name, first to last: layer1.0, layer1.1, …"""
    return {f"layer{s}.{u}": unit for s, stage in enumerate(network.stages, 1) for u, unit in enumerate(stage)}


@torch.inference_mode()
def branches(network, inputs):
    """F(x) and shortcut(x) of every residual unit by name, (N, C, H, W) each."""
    residual, shortcut, hooks = {}, {}, []

    def keep(kept, name):
        return lambda _module, _inputs, output: kept.update({name: output})

    for name, unit in units_of(network).items():
        hooks.append(unit.bn2.register_forward_hook(keep(residual, name)))
        hooks.append(unit.downsample.register_forward_hook(keep(shortcut, name)))
    network(inputs)
    for hook in hooks:
        hook.remove()
    return {name: (residual[name], shortcut[name]) for name in residual}


def corrections(network, images, batch=100):
    """‖F(x)‖ / ‖shortcut(x)‖ of every unit by name, the mean over images (N, H, W, C)."""
    ratios = {}
    for part in images.split(batch):
        for name, (residual, shortcut) in branches(network, see(part.to(device))).items():
            ratio = residual.flatten(1).norm(dim=1) / shortcut.flatten(1).norm(dim=1)
            ratios.setdefault(name, []).append(ratio.cpu())
    return {name: torch.cat(parts).mean().item() for name, parts in ratios.items()}


# %% [markdown]
# The trained networks are the stored CIFAR networks; `results/` contains their weights. If there are no weights for the
# classes of `DATA`, the networks from the short training above are used instead, and the rest only shows that the cells
# run.


# %%
def trained(name):
    """Network of that name, trained on these classes: a stored one, or the one of the short training above."""
    weights, scored = "best.safetensors", "evaluation/val/metrics.json"
    folders = [home / "degradation" / name for home in (RESULTS, Path("../runs"))]
    folder = next((home for home in folders if (home / weights).exists() and (home / scored).exists()), None)
    classifier = resnetlab.load(folder / weights) if folder else None
    if classifier is None or classifier.classes != data.classes:
        print(f"{name}: no weights for these classes; the network of the {max(LOOKS)} steps above stands in.")
        print("  `python tools/experiments.py degradation --data cifar10` makes plain56 and resnet56 for CIFAR-10.")
        return networks[name].eval()
    scores = json.loads((folder / scored).read_text())
    print(f"{name}: {scores['accuracy']:.2%} of its {scores['images']:,} validation images when it was stored")
    if scores["split_digest"] != data.val.digest:
        print("  The validation images at hand are others: it has seen some of them in training.")
    return classifier.network.to(device).eval()


residual, plain = trained(f"resnet{DEEP}"), trained(f"plain{DEEP}")

chosen = torch.randperm(len(data.val), generator=torch.Generator().manual_seed(SEED))[:SCORED]
val_images, val_labels = data.val.images[chosen], data.val.labels[chosen]
print(f"{len(chosen):,} validation images for all that follows")

# %% [markdown]
# Before training, batch norm gives every $\mathcal{F}(x)$ the same variance, while the sum grows from unit to unit, so
# the share of each unit decreases within a stage. (An untrained network has no running statistics yet, so it normalises
# with the statistics of the batch.) The next cell compares this with the trained network (some seconds):

# %%
ratios_before = corrections(build(f"resnet{DEEP}").train(), val_images)
ratios_after = corrections(residual, val_images)


def mark_stages(axis, network):
    """Draw a line at the start of each stage and label the axis with the units' numbers."""
    first = 0.5
    for number, stage in enumerate(network.stages, 1):
        axis.axvline(first, color=GREY, lw=0.8, ls=":")
        axis.text(first + 0.1, 1.0, f"stage {number}", transform=axis.get_xaxis_transform(), color=GREY, va="top")
        first += len(stage)
    axis.set(xlabel="unit, from the image to the head", xlim=(0, first + 0.5))


figure, axis = plt.subplots(figsize=(9, 3.6))
numbers = range(1, len(ratios_after) + 1)
axis.plot(numbers, ratios_before.values(), "o--", color=GREY, ms=4, label="before training")
axis.plot(numbers, ratios_after.values(), "o-", color=RESIDUAL, ms=5, label="trained")
mark_stages(axis, residual)
highest = max(*ratios_before.values(), *ratios_after.values())
axis.set(title=f"resnet{DEEP}: what each unit adds", ylabel="‖F(x)‖ / ‖x‖", ylim=(0, 1.15 * highest))
axis.legend(loc="upper right")
plt.show()

ends = ("layer2.0", "layer3.0")  # the units that change the shape
within = sorted(ratio for name, ratio in ratios_after.items() if name not in ends and name != "layer1.0")
print(f"trained, all but the first unit of each stage: median {np.median(within):.2f}, ", end="")
print(f"from {within[0]:.2f} to {within[-1]:.2f}; the units that change the shape: ", end="")
print(", ".join(f"{ratios_after[name]:.2f}" for name in ends))

# %% [markdown]
# Where the shape changes, half of the shortcut's channels are zeros (option A), so $\mathcal{F}$ has to provide them.
#
# ## Removing units
#
# If each unit makes a small correction, a trained network should be almost as accurate without any single one of them.
# Veit et al. (2016) removed units from trained networks and found this: a residual network acts like a collection of
# paths of many lengths, because the signal can pass through each unit or around it. A removed unit breaks only some of
# these paths. A plain network has only one path.
#
# To remove a residual unit, we keep only its shortcut: $y = \mathrm{ReLU}(x)$, which is $x$, because $x$ is the output
# of a ReLU. In the plain network we replace a unit by the identity. This is possible only where the shape stays the
# same, so the plain network keeps its two units that change the shape. In the residual network we can remove those
# units, too: their shortcuts subsample and pad with zeros.


# %% tags=["tools"]
def keeps_shape(unit):
    return unit.conv1.in_channels == unit.conv2.out_channels and unit.conv1.stride == (1, 1)


def without(network, *names):
    """Copy of a network with these units replaced by their shortcuts, or by the identity in a plain network."""
    lesioned = copy.deepcopy(network)
    for name in names:
        unit = lesioned.get_submodule(name)
        if isinstance(unit, PlainBlock) and not keeps_shape(unit):
            raise ValueError(f"{name} changes the shape, and has no shortcut that could do it alone")
        shortcut = nn.Identity() if isinstance(unit, PlainBlock) else unit.downsample
        lesioned.set_submodule(name, nn.Sequential(shortcut, nn.ReLU()))
    return lesioned


@torch.inference_mode()
def accuracy(network, images, labels, batch=250):
    """Accuracy in percent, in evaluation mode."""
    network.eval()
    right = 0
    for part, wanted in zip(images.split(batch), labels.split(batch), strict=True):
        with runtime.autocast():
            right += (network(see(part.to(device))).argmax(1).cpu() == wanted).sum().item()
    return 100 * right / len(labels)


# %% [markdown]
# We remove every unit in turn, in both networks: about fifty passes over the validation images chosen above (about a
# minute on two CPU cores, seconds on a GPU).

# %%
whole = {network: accuracy(network, val_images, val_labels) for network in (residual, plain)}
lesions = {
    network: {
        name: accuracy(without(network, name), val_images, val_labels)
        for name, unit in units_of(network).items()
        if network is residual or keeps_shape(unit)
    }
    for network in (residual, plain)
}

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), sharey=True)
for axis, network, colour in zip(axes, (residual, plain), (RESIDUAL, PLAIN), strict=True):
    units = units_of(network)
    number = {name: index for index, name in enumerate(units, 1)}
    for same, face, label in ((True, colour, "one unit removed"), (False, "white", "one that changes the shape")):
        shown = [name for name in lesions[network] if keeps_shape(units[name]) == same]
        if shown:
            heights = [lesions[network][name] for name in shown]
            axis.plot([number[n] for n in shown], heights, "o", color=colour, mfc=face, ms=6, label=label)
    axis.axhline(whole[network], color=colour, lw=1, ls="--", label="whole")
    axis.axhline(100 / classes, color=GREY, lw=1, ls=":", label="chance")
    mark_stages(axis, network)
    axis.set(title=f"{network.name}: accuracy without one unit", ylim=(0, 105))
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncol=4, fontsize=8.5)
axes[0].set_ylabel("validation accuracy (%)")
plt.show()

sentences = []
for network in (residual, plain):
    lost = {name: whole[network] - score for name, score in lesions[network].items()}
    worst = max(lost, key=lost.get)
    sentences.append(
        f"{network.name} scores {whole[network]:.1f} % on {len(val_labels):,} validation images; one unit less costs "
        f"{np.median(list(lost.values())):.1f} points in the median, and at worst {lost[worst]:.1f} ({worst})."
    )
display(Markdown("\n".join(f"- {sentence}" for sentence in sentences)))

# %% [markdown]
# With 1,000 images, an accuracy is uncertain by sampling alone: differences below two or three points mean little.
#
# ### Removing several units
#
# Now we remove $k$ random units of those that keep the shape: the first $k$ of a random order, for several orders. If
# the units depended strongly on each other, the accuracy would drop suddenly; Veit et al. found a smooth decrease.
# (Another minute on two cores.)

# %%
COUNTS, DRAWS = ((1, 3, 5), 2) if QUICK else (range(1, 11), 5)

generator = np.random.default_rng(SEED)
candidates = [name for name, unit in units_of(residual).items() if keeps_shape(unit)]
orders = [generator.permutation(candidates) for _ in range(DRAWS)]
removed = np.array(
    [[accuracy(without(residual, *names[:k]), val_images, val_labels) for names in orders] for k in COUNTS]
)

# %%
figure, axis = plt.subplots(figsize=(8, 3.6))
axis.plot(COUNTS, removed, "o-", color="#a9cde4", lw=0.8, ms=4, label=["one order", *[""] * (DRAWS - 1)])
axis.errorbar(COUNTS, removed.mean(1), removed.std(1, ddof=1), color=RESIDUAL, lw=2, capsize=4, label="mean ± std")
axis.axhline(whole[residual], color=RESIDUAL, lw=1, ls="--", label="whole")
axis.axhline(100 / classes, color=GREY, lw=1, ls=":", label="chance")
axis.set(title=f"resnet{DEEP}: units removed in {DRAWS} random orders", ylabel="validation accuracy (%)", ylim=(0, 100))
axis.set_xlabel(f"units removed, of {len(units_of(residual))}")
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

means, stds = removed.mean(1), removed.std(1, ddof=1)
table(["units removed", *COUNTS], [["mean (%)", *(f"{m:.1f}" for m in means)], ["std", *(f"{s:.1f}" for s in stds)]])

# %% [markdown]
# ## Shortcut options
#
# Where the shape changes, $x$ cannot be added as it is. The paper tries three shortcuts:
#
# - **A**: take every second pixel and pad the new channels with zeros: no weights;
# - **B**: a 1×1 convolution with stride 2 and a batch norm where the shape changes, the identity elsewhere;
# - **C**: such a projection in every unit, so there is no identity shortcut.
#
# We compare ResNet-18 with each option, trained like resnet18 above (which has option B). `python tools/experiments.py
# shortcuts degradation/resnet18 --data cifar10` reproduces the runs.

# %%
options = {"A": load_run("shortcuts/A"), "B": load_run("degradation/resnet18"), "C": load_run("shortcuts/C")}


def weights(option):
    network = resnetlab.build_model("resnet18", 10, stem="imagenet", shortcut=option)
    return sum(weight.numel() for weight in network.parameters())


table(
    ["option", "parameters", "seed", "training error (%)", "validation error (%)", "test accuracy (%)"],
    [
        [
            o,
            f"{weights(o):,}",
            r.config["seed"],
            *(f"{last_error(r, part):.2f}" for part in ("train", "val")),
            tested(r),
        ]
        for o, r in options.items()
    ],
)

# %% [markdown]
# The next cell prints the differences, with a 95 % interval from the number of test images. The interval treats the two
# scores as independent, which makes it too wide, because both use the same images. It does not include other seeds,
# which makes it too narrow.


# %% tags=["tools"]
def difference(new, old):
    """Test accuracy, new minus old, and half of its 95 % interval, both in points."""
    shares = [(run.test["accuracy"], run.test["images"]) for run in (new, old)]
    return 100 * (shares[0][0] - shares[1][0]), 196 * sum(p * (1 - p) / n for p, n in shares) ** 0.5


def told(what, other, new, old):
    points, half = difference(new, old)
    clear = "more than the choice of images explains" if abs(points) > half else "these images cannot tell them apart"
    return f"{what} against {other}: " + f"{points:+.2f} ± {half:.2f} points".replace("-", "−") + f"; {clear}."


# %%
shortcuts_told = [told(f"Option {o}", "option B", options[o], options["B"]) for o in "AC"]
display(Markdown("\n".join(f"- {sentence}" for sentence in shortcuts_told)))

# %% [markdown]
# On ImageNet, with 34 layers, the paper found B slightly better than A and C slightly better than B. It concluded that
# projections are not essential against the degradation: any of these shortcuts solves it, and the identity is the
# cheapest.
#
# ## Residual branches that start at zero
#
# The last norm of each unit multiplies its output by a weight $\gamma$, which usually starts at 1. If it starts at 0
# (Goyal et al. 2017, `arXiv:1706.02677`), then $\mathcal{F}(x) = 0$, and the network initially consists of its stem,
# its few shape-changing shortcuts and its head. Every other unit is the identity until training changes $\gamma$:

# %%
for zero in (False, True):
    units = branches(build("resnet18", stem="imagenet", zero_init=zero).train(), probe_inputs).values()
    largest = max(residual_branch.norm().item() for residual_branch, _ in units)
    print(f"zero_init={zero!s:5}  largest ‖F(x)‖ of {len(units)} units over the batch: {largest:.2f}")

# %% [markdown]
# The stored run with zero initialisation, compared with the usual one:

# %%
usual, zero = load_run("degradation/resnet18"), load_run("shortcuts/zero-init")

figure, axes = plt.subplots(1, 2, figsize=(10, 3.4))
for axis, last, title in zip(axes, (5, None), ("the first 5 epochs", "all epochs"), strict=True):
    for run, colour, label in ((usual, GREY, "usual"), (zero, RESIDUAL, "zero-initialised")):
        epochs = run.epochs[:last]
        axis.plot(
            epochs["epoch"], 100 - 100 * epochs["train_accuracy"], "--", color=colour, lw=1, label=f"{label}, train"
        )
        axis.plot(
            epochs["epoch"], 100 - 100 * epochs["val_accuracy"], color=colour, lw=2.2, label=f"{label}, validation"
        )
    axis.set(title=f"resnet18: {title}", xlabel="epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
axes[0].set_ylabel("error (%)")
axes[1].legend()
plt.show()

zero_told = told("Zero initialisation", "the usual one", zero, usual)
first = " against ".join(f"{100 * run.epochs['val_accuracy'][0]:.2f} %" for run in (zero, usual))
display(Markdown(f"- Validation accuracy after the first epoch: {first}.\n- {zero_told}"))

# %% [markdown]
# ## Results
#
# The next cell computes the summary from the results above:

# %%
first_to_last = {name: at_start[name, True][1][0] / at_start[name, True][1][-1] for name in networks}
gradients_told = "Before training, the relative gradient of the first kernel is "
gradients_told += " and ".join(
    f"{ratio:,.1f} times that of the last one in {name}" for name, ratio in first_to_last.items()
)
display(
    Markdown("\n".join(f"- {s}" for s in (*verdicts, f"{gradients_told}.", *sentences, *shortcuts_told, zero_told)))
)

# %% [markdown]
# Limits of these results:
#
# - **One seed each.** Another seed would change every one of these scores. The intervals cover other images, not other
#   seeds; `resnetlab train … --seeds 5` measures the effect of the seed.
# - **A short budget.** The paper's Section 4.2 trains nine times as long. Deep networks learn more slowly at first, so
#   a difference after few epochs may be one of speed, not of the final accuracy.
# - **Small networks and small images.** The ImageNet networks here get images of 32 pixels, but their stem is designed
#   for 224.
# - **Causes.** Gradients, corrections and removals describe trained and untrained networks. They do not prove which of
#   these properties makes residual networks easier to train.
#
# ## Reproduce it
#
# ```
# python tools/experiments.py degradation shortcuts improvements/crop-flip-cosine --data cifar10
# python tools/notebooks.py run why_residuals
# ```
#
# `--data` also accepts a folder of images; `--list` shows the commands without running them.
