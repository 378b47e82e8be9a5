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
# Residual networks (He et al. 2015, [arXiv:1512.03385](https://arxiv.org/abs/1512.03385)) add the input of each unit to
# its output, and in the paper they get better with depth. This notebook measures the effect of that addition:
#
# 1. the degradation: plain and residual networks of two depths, trained the same way
# 2. whether the deeper residual network is better
# 3. gradients by depth, at the start and during training
# 4. the size of each unit's correction to its input
# 5. accuracy after a unit of a trained network is removed (Veit et al. 2016,
#    [arXiv:1605.06431](https://arxiv.org/abs/1605.06431))
# 6. the shortcut options A, B and C
# 7. residual branches that start at zero
#
# The long trainings are read from `results/`; everything else is computed below. All runs use seed 0; the section
# *Results* states what a single seed cannot show. Read [`resnet18`](resnet18.ipynb) first if convolution, batch norm
# and ReLU are new to you.

# %% [markdown]
# ## Set-up
#
# The notebook uses the package `resnetlab` of this repository. If it is not installed, the first cell installs it with
# its dependencies. On Colab, first write the address of the repository into the cell.

# %%
import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

if not Path("helpers.py").exists():  # the notebook was opened without its repository, as on Colab
    repository = ""  # write the address of the repository here, as for `git clone`
    if not Path("resnetlab").exists():
        if not repository:
            raise SystemExit("this notebook needs its repository: write its address into `repository` in this cell")
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", repository, "resnetlab"], check=True)
    os.chdir("resnetlab/notebooks")
    sys.path.insert(0, str(Path.cwd()))
if importlib.util.find_spec("resnetlab") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", ".."], check=True)
    importlib.invalidate_caches()

# %% tags=["tools"]
import copy
import inspect
import json

import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display
from scipy.stats import spearmanr
from torch import nn

import resnetlab
from helpers import (
    RESULTS,
    Removals,
    accuracy_with_interval,
    corrections_figure,
    difference,
    error_figure,
    gradients_figure,
    is_stored,
    load_run,
    removal_orders_figure,
    removals_figure,
    show,
    signed,
    table,
    training_gap,
)
from resnetlab.models.blocks import BasicBlock, PlainBlock
from resnetlab.runtime import start

# %% [markdown]
# Choose an image source and set `DATA` to it:
#
# - `"cifar10"`: the original CIFAR-10, downloaded once (170 MB);
# - the path of a folder with one sub-folder of images per class (the environment variable `RESNETLAB_CIFAR10_JPEG` can
#   hold the path);
# - `"digits"`: the small handwritten digits that come with scikit-learn; no download. Every cell runs, but the stored
#   networks were not trained on digits.
#
# `RESNETLAB_QUICK` is for automatic checks: small data and few steps. The helpers for tables and pictures are in
# [`helpers.py`](helpers.py).
#
# The images stay in memory as bytes, (N, height, width, channels); `normalise` converts a batch of them to the input of
# a network: float, mean 0 and standard deviation 1 per channel, (N, channels, height, width).

# %%
QUICK = "RESNETLAB_QUICK" in os.environ
DATA = "digits" if QUICK else os.environ.get("RESNETLAB_CIFAR10_JPEG", "cifar10")
SEED = 0

data = resnetlab.open_dataset(DATA, image_size=32)
normalise = data.preprocessing.normalize
in_channels, classes = data.preprocessing.channels, len(data.classes)
print(f"{data.name}: {len(data.train):,} training and {len(data.val):,} validation images, {classes} classes")

# %% [markdown]
# The stored results are for a copy of CIFAR-10 in JPEG files (`cifar10-jpeg`). It is a few points harder than the
# original and has 5,000 test images instead of 10,000: compare these results only with each other.
#
# Everything below runs on the graphics card if there is one. `start` chooses the number format: bfloat16 on a CPU that
# supports it, otherwise float32.

# %%
device = torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
runtime = start(device.type, "auto" if device.type == "cpu" else "fp32")
print(runtime.precision_name, "on the", device.type)

SHALLOW, DEEP = (20, 32) if QUICK else (20, 56)  # layers of the networks below
BATCH = 64 if QUICK else 128
MEASURED = (0, 5, 10) if QUICK else (0, 20, 100)  # training steps at which gradients are measured
SCORED = 144 if QUICK else 1_000  # validation images per score

PLAIN, RESIDUAL = "#c23b00", "#0072b2"  # colours

# %% [markdown]
# ## The puzzle
#
# Take a trained network and add more layers. If the new layers computed the identity, the deeper network would equal
# the shallower one. So the best deeper network is at least as good *on the training images*. He et al. trained plain
# stacks of convolutions and found the opposite: beyond some depth the **training** error rises with depth. This is not
# *overfitting*, which would lower the training error and raise only the error on unseen images. Better weights exist,
# but SGD (*stochastic gradient descent*, which changes the weights step by step along the gradient of a batch's loss)
# does not find them. He et al. suggest that a few layers of convolution and ReLU have difficulty in learning the
# identity.
#
# ## The idea
#
# The layers of a unit compute a correction $\mathcal{F}$ to their input, and the input is added:
#
# $$y = \mathrm{ReLU}\big(\mathcal{F}(x) + x\big), \qquad
# \mathcal{F}(x) = \mathrm{BN}_2\big(W_2 * \mathrm{ReLU}(\mathrm{BN}_1(W_1 * x))\big).$$
#
# ($W * x$ is a convolution, BN a *batch norm*, which brings each channel to mean 0 and variance 1 over the batch and
# then scales and shifts it, and ReLU replaces negative numbers by zero.) Now the identity is $\mathcal{F} = 0$, which
# weights of zero give. The two units of the library, plain and residual, differ only in the addition:

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
# Stored runs, one seed each:
#
# - **CIFAR networks**, 20 and 56 layers of 16, 32 and 64 channels: the paper's Section 4.2 (SGD with momentum, learning
#   rate 0.1 and a tenth of it after 1/2 and 3/4, weight decay $10^{-4}$, crop and flip, batches of 128). The
#   paper trains for 182 epochs, these runs for <!--= epochs("degradation/plain56") -->20<!--/-->. A second set is for 40
#   epochs; the next cell names the runs that are not stored yet;
# - **ImageNet networks**, 18 and 34 layers with the 7×7 stem, which reduces a 32-pixel image so much that training is
#   cheap: Adam with a cosine schedule, crop and flip, <!--= epochs("degradation/plain34") -->10<!--/--> epochs. The
#   residual networks have projections where the shape changes, and so a few more weights than the plain ones.
#
# `python tools/experiments.py degradation improvements/crop-flip-cosine --data cifar10` reproduces them (many hours on
# a CPU). After every epoch, each run scored its validation images and a fixed sample of 5,000 training images, both in
# evaluation mode and without augmentation. The test images were scored once, with the weights of the epoch with the
# best validation accuracy.

# %%
NAMES = {
    "CIFAR networks, 20 epochs": {
        "plain": ("degradation/plain20", "degradation/plain56"),
        "residual": ("degradation/resnet20", "degradation/resnet56"),
    },
    "CIFAR networks, 40 epochs": {
        "plain": ("degradation/plain20-40", "degradation/plain56-40"),
        "residual": ("degradation/resnet20-40", "degradation/resnet56-40"),
    },
    "ImageNet networks, 10 epochs": {
        "plain": ("degradation/plain18", "degradation/plain34"),
        "residual": ("degradation/resnet18", "improvements/crop-flip-cosine"),
    },
}
FAMILIES = {}
for family, kinds in NAMES.items():
    missing = [name for names in kinds.values() for name in names if not is_stored(name)]
    if missing:
        print(f"{family}: not trained yet: {', '.join(missing)}")
    else:
        FAMILIES[family] = {kind: [load_run(name) for name in names] for kind, names in kinds.items()}

# %% [markdown]
# As in the paper's Fig. 6, thin dashed lines are training error and bold lines validation error. The deeper network is
# in colour. Degradation shows as a coloured dashed line above the grey dashed line.

# %%
for family, kinds in FAMILIES.items():
    show(error_figure({kind: [(run.label, run) for run in runs] for kind, runs in kinds.items()}, family))

# %% [markdown]
# The table has the final results. The interval of the test accuracy (Wilson, 95 %) covers other images of the same
# kind, not other seeds.


# %% tags=["tools"]
def last_error(run, split):
    """Error of the last epoch, in percent."""
    return 100 - 100 * run.epochs[-1][f"{split}_accuracy"]


def tested(run):
    """Test accuracy with its interval."""
    return accuracy_with_interval(run.test["accuracy"] * run.test["images"], run.test["images"])


# %%
table(
    ["network", "seed", "epochs", "training error (%)", "validation error (%)", "test accuracy"],
    [
        [
            run.label,
            run.config["seed"],
            len(run.epochs),
            *(f"{last_error(run, split):.2f}" for split in ("train", "val")),
            tested(run),
        ]
        for kinds in FAMILIES.values()
        for runs in kinds.values()
        for run in runs
    ],
)

# %% [markdown]
# To see if depth hurts, we compare two final training errors. With 5,000 images, the standard error of a share $p$ is
# $\sqrt{p(1-p)/5000}$; the standard error of a difference is the root of the sum of squares. A difference within about
# twice that (a 95 % interval) is not significant: then these runs do not show which network is better, and they do not
# show that both are equally good either.


# %% tags=["tools"]
MEANINGS = {
    ("plain", "worse"): "The degradation appears",
    ("plain", "better"): "No degradation at this budget",
    ("residual", "worse"): "The deeper network is worse here, too",
    ("residual", "better"): "The deeper network is better",
}


def verdict(kind, deep, shallow):
    """A sentence that compares the training errors of two depths."""
    points, half = training_gap(deep, shallow)
    meaning = "No difference detected"
    if abs(points) > half:
        meaning = MEANINGS[kind, "worse" if points > 0 else "better"]
    return (
        f"{deep.label} ends with {last_error(deep, 'train'):.2f} % training error, {shallow.label} with "
        f"{last_error(shallow, 'train'):.2f} %: {signed(points, half)}. **{meaning}.**"
    )


# %%
verdicts = [
    f"{family}: {verdict(kind, deep, shallow)}"
    for family, kinds in FAMILIES.items()
    for kind, (shallow, deep) in kinds.items()
]
display(Markdown("\n".join(f"- {sentence}" for sentence in verdicts)))

# %% [markdown]
# The size of the gap in the first line needs a caution. After <!--= epochs("degradation/plain56") -->20<!--/--> epochs,
# plain56 is right on only <!--= training("degradation/plain56") -->47.3 %<!--/--> of the training images: it has hardly
# begun to learn. In the paper's Fig. 6, after 182 epochs, the gap between the two plain networks is a few points. So
# this run shows that plain56 learns much more slowly, and not by how much it is worse in the end. The next cell
# compares the gap after 20 epochs with the one after 40:

# %%
by_budget = {
    len(deep.epochs): (deep, shallow)
    for family, kinds in FAMILIES.items()
    for shallow, deep in [kinds["plain"]]
    if family.startswith("CIFAR")
}
for epochs, (deep, shallow) in by_budget.items():
    gap = signed(*training_gap(deep, shallow))
    print(
        f"{epochs} epochs: {deep.label} has {last_error(deep, 'train'):.1f} % training error, {gap} against {shallow.label}"
    )
if len(by_budget) == 1:
    print("The runs of 40 epochs are not stored yet.")

# %% [markdown]
# ## Is the deeper residual network better?
#
# Half of the paper's result is that a deeper residual network does not train worse. The other half is that it is *better*
# on unseen images: the test error falls from <!--= percent(0.0875, 2) -->8.75 %<!--/--> with 20 layers to <!--= percent(0.0697, 2) -->6.97 %<!--/-->
# with 56 (Table 6, 182 epochs). The next cell looks for it in the stored runs. The interval of the difference treats
# the two scores as independent, which makes it too wide, because both use the same images. It does not include other
# seeds, which makes it too narrow.


# %% tags=["tools"]
def compared(what, other, new, old):
    """A sentence that compares the test accuracies of two runs."""
    points, half = difference(new, old)
    meaning = "more than the choice of images explains" if abs(points) > half else "no difference detected"
    return f"{what} against {other}: {signed(points, half)} of test accuracy; {meaning}."


# %%
deeper, appears = [], []
for family, kinds in FAMILIES.items():
    shallow, deep = kinds["residual"]
    deeper.append(compared(f"{family}: {deep.label}", shallow.label, deep, shallow))
    points, half = difference(deep, shallow)
    appears += [family] * (points > half)
summary_of_depth = "The deeper residual network is better than the shallower one in: "
summary_of_depth += (
    ", ".join(appears) if appears else "none of these runs. The paper's result does not appear at this budget"
)
display(Markdown("\n".join(f"- {sentence}" for sentence in (*deeper, f"{summary_of_depth}."))))

# %% [markdown]
# ## Gradients by depth
#
# The *gradient* is the derivative of the loss with respect to the weights; training follows it. A known reason why deep
# networks are hard to train is that gradients vanish (or explode) in the backward pass, from the loss to the first
# layer: a product of many factors goes to zero, or grows without bound. A chain of residual units has a sum instead. Without the
# ReLU after the addition, the gradient at unit $l$ of $L$ is
#
# $$\frac{\partial\mathcal{L}}{\partial x_l}
# = \frac{\partial\mathcal{L}}{\partial x_L}
# \Big(1 + \frac{\partial}{\partial x_l}\sum_{i=l}^{L-1}\mathcal{F}_i(x_i)\Big)$$
#
# (He et al. 2016, [arXiv:1603.05027](https://arxiv.org/abs/1603.05027)): the 1 passes the gradient back unchanged.
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
probe_inputs, probe_labels = normalise(data.train.images[probe].to(device)), data.train.labels[probe].to(device)

at_start = {}
for depth in (SHALLOW, DEEP):
    for kind in ("plain", "resnet"):
        name = f"{kind}{depth}"
        at_start[name, True] = relative_gradients(build(name), probe_inputs, probe_labels)
        at_start[name, False] = relative_gradients(without_norms(build(name)), probe_inputs, probe_labels)

# %%
panels = {"before the first step, with batch norm": {}, "before the first step, without batch norm": {}}
for (name, has_norm), (_, gradients) in at_start.items():
    colour = PLAIN if "plain" in name else RESIDUAL
    line = {"color": colour, "lw": 1.8} if str(DEEP) in name else {"color": colour, "lw": 1.2, "ls": "--"}
    panels[f"before the first step, {'with' if has_norm else 'without'} batch norm"][name] = (gradients, line)
show(gradients_figure(panels))

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
# per layer in a wide network (Yang et al. 2019, [arXiv:1902.08129](https://arxiv.org/abs/1902.08129)). In the residual network most of the gradient
# passes through the shortcuts, which have no norms, and the gradients of the layers differ far less.
#
# *Without* batch norm, the gradients of the deep plain network are small everywhere, and the addition alone does not
# help: each unit adds to its input, the maps grow with every unit, and the initial loss is extremely large. Residual
# networks need something that limits the size of $\mathcal{F}$, as batch norm does.
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
    for step in range(max(MEASURED) + 1):
        if step in MEASURED:
            loss, during[name, step] = relative_gradients(network, probe_inputs, probe_labels)
            print(f"{step:5}   {loss:23.3f}   {network.conv1.weight.norm().item():26.1f}")
        batch = order[: -2 * BATCH].roll(-step * BATCH)[:BATCH]  # the next images, cyclically
        inputs, labels = normalise(data.train.images[batch].to(device)), data.train.labels[batch].to(device)
        network.train()
        with runtime.autocast():
            logits = network(inputs)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

# %% [markdown]
# Above the dotted line, one step at learning rate 0.1 is longer than the kernel that it updates.

# %%
SHADES = {"plain": ("#f2b79b", "#dd7440", "#7a2500"), "resnet": ("#a9cde4", "#3d94c9", "#00375c")}
panels = {
    f"{kind}{DEEP}": {
        f"step {step}": (during[f"{kind}{DEEP}", step], {"color": colour, "lw": 1.8})
        for step, colour in zip(MEASURED, shades, strict=True)
    }
    for kind, shades in SHADES.items()
}
show(gradients_figure(panels, limit=10))

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
# change. Relative to the weights, the exploding gradient has become a vanishing one. In the residual network the rates of
# the layers differ much less: compare smallest and largest in the table.
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
        for name, (residual, shortcut) in branches(network, normalise(part.to(device))).items():
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
        print(f"{name}: no weights for these classes; the network of the {max(MEASURED)} steps above stands in.")
        print("  `python tools/experiments.py degradation --data cifar10` makes plain56 and resnet56 for CIFAR-10.")
        return networks[name].eval()
    scores = json.loads((folder / scored).read_text())
    print(f"{name}: {scores['accuracy']:.2%} of its {scores['images']:,} validation images when it was stored")
    if scores["split_digest"] != data.val.digest:
        print("  The validation images at hand are others: it has seen some of them in training.")
    return classifier.model.network.to(device).eval()


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
lengths = [len(stage) for stage in residual.stages]
lines = {"before training": list(ratios_before.values()), "trained": list(ratios_after.values())}
show(corrections_figure(lines, lengths, f"resnet{DEEP}: what each unit adds"))

ends = ("layer2.0", "layer3.0")  # the units that change the shape
within = sorted(ratio for name, ratio in ratios_after.items() if name not in ends and name != "layer1.0")
print(f"trained, all but the first unit of each stage: median {np.median(within):.2f}, ", end="")
print(f"from {within[0]:.2f} to {within[-1]:.2f}; the units that change the shape: ", end="")
print(", ".join(f"{ratios_after[name]:.2f}" for name in ends))
last_stage = [ratio for name, ratio in ratios_after.items() if name.startswith("layer3") and name not in ends]
third = max(1, len(last_stage) // 3)
print(f"last stage: mean of its first {third} other units {np.mean(last_stage[:third]):.2f}, ", end="")
print(f"of its last {third} {np.mean(last_stage[-third:]):.2f}")

# %% [markdown]
# Where the shape changes, half of the shortcut's channels are zeros (option A), so $\mathcal{F}$ has to provide them.
#
# Two things are unexpected if one thinks of small corrections. Most units add a considerable share of their input (the
# median above). And the corrections get *larger* towards the end of the last stage (the last line), where an almost
# finished answer should need only small changes. We do not know the reason. One difference is that the output of the
# last units goes to the head, and is not the input of many other units.
#
# ## Removing units
#
# If each unit makes a small correction, a trained network should be almost as accurate without any single one of them.
# Veit et al. ([2016](https://arxiv.org/abs/1605.06431)) removed units from trained networks and found this: a residual network acts like a collection of
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
            right += (network(normalise(part.to(device))).argmax(1).cpu() == wanted).sum().item()
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
pictured = []
for network in (residual, plain):
    number = {name: index for index, name in enumerate(units_of(network), 1)}
    by_shape = {True: {}, False: {}}
    for name, score in lesions[network].items():
        by_shape[keeps_shape(units_of(network)[name])][number[name]] = score
    pictured.append(
        Removals(
            network.name, whole[network], by_shape[True], by_shape[False], [len(stage) for stage in network.stages]
        )
    )
show(removals_figure(pictured, chance=100 / classes))

lost = {network: {name: whole[network] - score for name, score in lesions[network].items()} for network in lesions}
worst = {network: max(points, key=points.get) for network, points in lost.items()}
sentences = [
    f"{network.name} scores {whole[network]:.1f} % on {len(val_labels):,} validation images; one unit less costs "
    f"{np.median(list(points.values())):.1f} points in the median, and at worst {points[worst[network]]:.1f} "
    f"({worst[network]})."
    for network, points in lost.items()
]
display(Markdown("\n".join(f"- {sentence}" for sentence in sentences)))

# %% [markdown]
# With 1,000 images, an accuracy is uncertain by sampling alone: differences below two or three points mean little. The
# plain network was far less accurate to begin with, so its losses do not show what a well-trained plain network would
# lose.
#
# In the residual network most units can be removed at a small cost, as Veit et al. found. The first unit of each stage
# costs more than most. One unit is an exception: its removal destroys most of the accuracy, although it has a shortcut like the
# others. So not every unit can be left out.
# Does the cost go with the size of the correction? The next cell looks up the size for this unit, and computes the rank
# correlation of size and cost over all units that keep the shape (1: the same order; 0: no relation). Without
# any relation, 95 % of the values for 25 units lie between −0.4 and 0.4, so a value in this range is no evidence of one:

# %%
same_shape = [name for name, unit in units_of(residual).items() if keeps_shape(unit)]
correlation = spearmanr([ratios_after[name] for name in same_shape], [lost[residual][name] for name in same_shape])
costly = max(same_shape, key=lost[residual].get)
rank = 1 + sorted(ratios_after.values(), reverse=True).index(ratios_after[costly])
costs_told = (
    f"Removing {costly} of {residual.name} costs {lost[residual][costly]:.1f} points; its correction is number {rank} "
    f"of {len(ratios_after)} in size ({ratios_after[costly]:.2f} of its input)."
)
print(costs_told)
print(f"rank correlation of size and cost: {correlation.statistic:.2f}, over {len(same_shape)} units")

# %% [markdown]
# ### Removing several units
#
# Now we remove $k$ random units of those that keep the shape: the first $k$ of a random order, for several orders. If
# the units depended strongly on each other, the accuracy would drop suddenly; Veit et al. found a smooth decrease.
# (Another minute on two cores.)

# %%
COUNTS, DRAWS = ((1, 3, 5), 2) if QUICK else (range(1, 11), 5)

generator = np.random.default_rng(SEED)
orders = [generator.permutation(same_shape) for _ in range(DRAWS)]
removed = np.array(
    [[accuracy(without(residual, *names[:k]), val_images, val_labels) for names in orders] for k in COUNTS]
)

# %%
title = f"resnet{DEEP}: units removed in {DRAWS} random orders"
show(removal_orders_figure(COUNTS, removed, whole=whole[residual], chance=100 / classes, title=title))

means, stds = removed.mean(1), removed.std(1, ddof=1)
table(
    ["units removed", *COUNTS],
    [["mean (%)", *(f"{m:.1f}" for m in means)], ["standard deviation", *(f"{s:.1f}" for s in stds)]],
)

# %% [markdown]
# The mean does not decrease smoothly: it falls steeply from $k = 5$ on, and the orders differ greatly there. Is this the
# number of removed units, or the costly unit from above? The next cell separates the orders in which that unit is among
# the removed ones from those in which it is not:

# %%
includes = np.array([[costly in names[:k] for names in orders] for k in COUNTS])


def mean_where(chosen):
    """Mean accuracy for each number of removed units, over the orders that are chosen."""
    rows = zip(removed, chosen, strict=True)
    return [f"{scores[mask].mean():.1f} ({mask.sum()})" if mask.any() else "" for scores, mask in rows]


table(
    ["mean accuracy in % (orders)", *COUNTS],
    [[f"{costly} is removed", *mean_where(includes)], [f"{costly} is kept", *mean_where(~includes)]],
)
removal_told = f"In these orders, {costly} is never among the removed units."
if includes.any():
    removal_told = (
        f"Removing up to {max(COUNTS)} units of {residual.name} at random: with {costly} among them, its accuracy is at "
        f"most {removed[includes].max():.1f} % (guessing: {100 / classes:.0f} %); without, it is "
        f"{removed[~includes].mean():.1f} % in the mean."
    )
print(removal_told)

# %% [markdown]
# So the sudden drop comes from one unit: with it removed, the accuracy is that of guessing. In the orders that keep it,
# the accuracy decreases with each unit, as Veit et al. found. These are few orders of one network.

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
    ["option", "parameters", "seed", "training error (%)", "validation error (%)", "test accuracy"],
    [
        [
            option,
            f"{weights(option):,}",
            run.config["seed"],
            *(f"{last_error(run, part):.2f}" for part in ("train", "val")),
            tested(run),
        ]
        for option, run in options.items()
    ],
)

# %% [markdown]
# The differences, with their 95 % intervals from the number of test images:

# %%
shortcuts_told = [compared(f"Option {o}", "option B", options[o], options["B"]) for o in "AC"]
display(Markdown("\n".join(f"- {sentence}" for sentence in shortcuts_told)))

# %% [markdown]
# On ImageNet, with 34 layers, the paper found B slightly better than A and C slightly better than B (Table 3). It
# concluded that projections are not essential against the degradation, and the identity is the cheapest. Our runs detect
# no difference where an interval contains 0; they do not show that the options are equal.
#
# ## Residual branches that start at zero
#
# The last norm of each unit multiplies its output by a weight $\gamma$, which usually starts at 1. If it starts at 0
# (Goyal et al. 2017, [arXiv:1706.02677](https://arxiv.org/abs/1706.02677)), then $\mathcal{F}(x) = 0$, and the network
# initially consists of its stem, its few shape-changing shortcuts and its head. Every other unit is the identity until
# training changes $\gamma$:

# %%
for zero in (False, True):
    units = branches(build("resnet18", stem="imagenet", zero_init=zero).train(), probe_inputs).values()
    largest = max(residual_branch.norm().item() for residual_branch, _ in units)
    print(f"zero_init={zero!s:5}  largest ‖F(x)‖ of {len(units)} units over the batch: {largest:.2f}")

# %% [markdown]
# The stored run with zero initialisation, compared with the usual one:

# %%
usual, zero = load_run("degradation/resnet18"), load_run("shortcuts/zero-init")
show(error_figure({"resnet18": [("usual", usual), ("zero-initialised", zero)]}, "Zero initialisation"))

zero_told = compared("Zero initialisation", "the usual one", zero, usual)
first = " against ".join(f"{100 * run.epochs[0]['val_accuracy']:.2f} %" for run in (zero, usual))
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
found = (
    *(*verdicts, *deeper, f"{summary_of_depth}.", f"{gradients_told}."),
    *(*sentences, costs_told, removal_told, *shortcuts_told, zero_told),
)
display(Markdown("\n".join(f"- {sentence}" for sentence in found)))

# %% [markdown]
# In short: in these runs, plain networks train worse when they get deeper. For residual networks of the same depths the
# difference is far smaller, or none is detected. *Why* the addition has this effect is not shown here: the gradients at the start differ greatly,
# but that does not prove that they are the cause.
#
# Limits of these results:
#
# - **One seed each.** Another seed would change every one of these scores. The intervals cover other images, not other
#   seeds; `resnetlab train … --seeds 5` measures the effect of the seed.
# - **A short budget.** The paper's Section 4.2 trains for 182 epochs. Deep networks learn more slowly at first, so a
#   difference after few epochs may be one of speed, not of the final accuracy.
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

# %% [markdown]
# ## Exercises
#
# **1.** Two networks of 20 layers make 500 and 540 errors on 5,000 training images. Is the difference significant?
#
# <details><summary>Answer</summary>
#
# The shares are `0.1` and `0.108`; half of the interval of the difference is
# `1.96 * ((0.1 * 0.9 + 0.108 * 0.892) / 5000) ** 0.5`, about `0.012`. The difference is `0.008`, so no difference is
# detected. That does not show that the networks are equally good.
#
# </details>
#
# **2.** The gradient grows by the same factor in each of 55 layers of a plain network. Read the factor from the table
# above. How much larger is the first layer's gradient than the last one's, and how much would it be with 110 layers?
#
# <details><summary>Answer</summary>
#
# With a factor $f$ it is $f^{54}$ for 55 kernels, as in the column *first / last*, and $f^{108}$ for 109 kernels, the
# square of it.
#
# </details>
#
# **3.** Why can a plain network not lose one of its two units that change the shape?
#
# <details><summary>Answer</summary>
#
# The identity would pass on maps with the wrong size and number of channels, and there is no shortcut that could change
# them. The residual network has one: it takes every second pixel and adds channels of zeros.
#
# </details>
#
# **4.** Scale all kernels of `layer1.0.conv1` by ten in a trained network with `with torch.no_grad(): …mul_(10)`. What
# happens to the accuracy in training mode, and what in evaluation mode? Try it with `accuracy`.
#
# <details><summary>Answer</summary>
#
# In training mode the batch norm divides by the standard deviation of the batch, which is also ten times larger:
# nothing changes but rounding. In evaluation mode it divides by the stored deviation, which is now ten times too small,
# and the accuracy falls. (`accuracy` measures in evaluation mode.)
#
# </details>
#
# **5.** Remove several units again, but never the costly one. Is the decrease smooth now?
#
# <details><summary>Answer</summary>
#
# Draw the orders from `[name for name in same_shape if name != costly]` and run the cells again. Compare with the row
# of the last table in which it is kept, which has the same cases in fewer orders.
#
# </details>
#
# ## Read next
#
# - The notebooks [`resnet18`](resnet18.ipynb) and [`resnet34`](resnet34.ipynb): networks written out, trained and
#   evaluated.
# - The code: [plain and residual units](../src/resnetlab/models/blocks.py),
#   [the long trainings](../tools/experiments.py), [this notebook's pictures](helpers.py).
# - K. He, X. Zhang, S. Ren, J. Sun, *Deep Residual Learning for Image Recognition*: [arXiv:1512.03385](https://arxiv.org/abs/1512.03385).
# - K. He, X. Zhang, S. Ren, J. Sun, *Identity Mappings in Deep Residual Networks*: [arXiv:1603.05027](https://arxiv.org/abs/1603.05027).
# - A. Veit, M. Wilber, S. Belongie, *Residual Networks Behave Like Ensembles of Relatively Shallow Networks*:
#   [arXiv:1605.06431](https://arxiv.org/abs/1605.06431).
# - H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein, *Visualizing the Loss Landscape of Neural Nets*:
#   [arXiv:1712.09913](https://arxiv.org/abs/1712.09913).
# - S. De, S. Smith, *Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep Networks*:
#   [arXiv:2002.10444](https://arxiv.org/abs/2002.10444).
