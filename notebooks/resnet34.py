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
# # ResNet-34, written out and trained on CIFAR-10
#
# The network of He et al., *Deep Residual Learning for Image Recognition* (2015, `arXiv:1512.03385`), in some fifty
# lines of PyTorch, proven equal to torchvision's; a training loop of two short functions; and then what each of the
# usual improvements is worth, measured.
#
# 1. Set-up
# 2. Why deep plain networks are hard
# 3. The residual unit
# 4. ResNet-34
# 5. The same network as the library's and torchvision's
# 6. CIFAR-10
# 7. Training: ten epochs with Adam
# 8. The test, then the curves
# 9. Saving, loading, and a summary
# 10. Improvements, each measured
# 11. Beside a pretrained network

# %% [markdown]
# ## 1. Set-up
#
# The images can come from three places:
#
# - `DATA = "cifar10"` downloads CIFAR-10 (170 MB, once; `open_dataset` is called with `download=True`).
# - `DATA = "some/folder"` reads a folder of images with one sub-folder per class. The environment variable
#   `RESNETLAB_CIFAR10_JPEG` names such a folder without a change to this notebook.
# - `DATA = "digits"` takes scikit-learn's small grey digits: nothing is downloaded, and every cell still runs.
#
# A kernel without `resnetlab` gets it from the checkout that this notebook lies in. With `RESNETLAB_QUICK` set, the
# notebook runs in a minute: the digits, one epoch. What it then shows means nothing.

# %%
import csv
import importlib.util
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from http.client import HTTPException
from pathlib import Path

if importlib.util.find_spec("resnetlab") is None:
    if not Path("../pyproject.toml").exists():
        raise ImportError("resnetlab is not installed: run `pip install FOLDER` with the folder of its checkout")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", ".."], check=True)

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Image, Markdown, display
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import resnetlab
from resnetlab.evaluation.proportions import wilson
from resnetlab.interpret.activations import journey
from resnetlab.models.summary import describe
from resnetlab.plots.activations import journey_figure
from resnetlab.plots.style import INK, MUTED, RULES, TEST, TRAIN, VALIDATION, rendered
from resnetlab.runtime import start

# %%
QUICK = "RESNETLAB_QUICK" in os.environ
DATA = "digits" if QUICK else os.environ.get("RESNETLAB_CIFAR10_JPEG", "cifar10")
EPOCHS = 1 if QUICK else 10
BATCH = 128
SEED = 0
DOWNLOAD_WEIGHTS = not QUICK  # for the last section: 83 MB from torchvision's server, once

plt.rcParams.update(RULES)  # figures in the style of the library's reports

# %% [markdown]
# ## 2. Why deep plain networks are hard
#
# A deeper network can do everything a shallower one can: let its additional layers compute the identity. So its
# *training* error should be no higher. In practice it is higher. On ImageNet, the paper's plain network of 34 layers
# has a validation error of <!--= percent(0.2854, 2) -->28.54 %<!--/-->, the one of 18 layers <!--= percent(0.2794, 2) -->27.94 %<!--/--> (Table 2), and the deeper one is the worse one on the training images,
# too (Fig. 4); on CIFAR-10 the same happens from 20 to 56 layers (Fig. 1). This is not overfitting, and, as every
# convolution is followed by a batch norm that keeps the scale of its output, not simply a signal that vanishes. The
# paper calls it *degradation*: the solution exists, and gradient descent does not find it, because a stack of
# convolutions, norms and ReLUs has no easy way to be the identity.
#
# In a residual unit the identity is easy. Two convolutions compute a correction $F(x)$ to $x$ instead of
# a new $x$:
#
# $$ y = F(x) + x $$
#
# To pass $x$ on, the weights of $F$ need only be zero. And the gradient has a way around every unit,
#
# $$ \frac{\partial L}{\partial x} = \frac{\partial L}{\partial y}\left(\frac{\partial F}{\partial x} + I\right), $$
#
# so the first layers hear from the loss whatever the layers in between do (up to the ReLU that follows the addition).
# With shortcuts the order of the paper's two networks turns round: <!--= percent(0.2503, 2) -->25.03 %<!--/--> at 34
# layers, <!--= percent(0.2788, 2) -->27.88 %<!--/--> at 18. The notebook `why_residuals` measures both kinds of network
# on CIFAR-10.

# %% [markdown]
# ## 3. The residual unit
#
# Convolution 3×3, batch norm, ReLU, convolution 3×3, batch norm: that is $F$. Then the addition, and a ReLU on the sum.
#
# The shortcut is $x$ itself wherever $F(x)$ has its shape. Where a stage halves the maps and doubles the channels it
# has not; there the shortcut is a *projection*, a 1×1 convolution with the same stride and a batch norm (the paper's
# option B): each output pixel is a linear combination of the channels of one input pixel.
#
# The convolutions have no bias. A batch norm subtracts the mean of each channel, and a constant with it; its own bias
# takes over.


# %% tags=["network"]
class ResidualUnit(nn.Module):
    """Maps (N, in_channels, H, W) to (N, channels, H / stride, W / stride): relu(F(x) + shortcut(x))."""

    def __init__(self, in_channels, channels, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = nn.Identity()
        if stride != 1 or in_channels != channels:
            projection = nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x):
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.downsample(x))


# %% [markdown]
# ## 4. ResNet-34
#
# The network is the paper's Table 1, row by row. The *stem* reduces the image: a 7×7 convolution with stride 2, then a
# max pool with stride 2. Four *stages* of 3, 4, 6 and 3 units follow, with 64, 128, 256 and 512 channels; each but the
# first begins by halving the map. The *head* averages each channel over its map and maps the 512 means to the classes.
# Layers with weights on the way through: $1 + 2\,(3 + 4 + 6 + 3) + 1 = 34$.
#
# `nn.LazyLinear(10)`, as the tutorial has it, is a linear layer that is told only its number of outputs; it takes the
# number of inputs from the first batch it sees. That saves working out the 512 by hand. Until then its weight has no
# shape, so the parameters can be counted, moved to a device and given to an optimiser only after a first pass.
#
# The attributes have torchvision's names (`conv1`, `bn1`, `layer1`, …, `downsample`, `fc`), so that weights can be
# exchanged by name.


# %% tags=["network"]
def stage(in_channels, channels, units, stride):
    """The first unit changes resolution and width, the others keep both."""
    others = [ResidualUnit(channels, channels) for _ in range(units - 1)]
    return nn.Sequential(ResidualUnit(in_channels, channels, stride), *others)


class ResNet34(nn.Module):
    """Normalised images (N, in_channels, H, W) to logits (N, classes)."""

    def __init__(self, classes=10, in_channels=3):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = stage(64, 64, units=3, stride=1)
        self.layer2 = stage(64, 128, units=4, stride=2)
        self.layer3 = stage(128, 256, units=6, stride=2)
        self.layer4 = stage(256, 512, units=3, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.LazyLinear(classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015b: keeps the scale of the signal through ReLUs
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images):
        x = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


# %% [markdown]
# One image of 32×32 pixels, followed from layer to layer. It is also the first pass that gives the lazy layer its
# shape.


# %%
@torch.no_grad()
def follow(network, x):
    """Print the shape behind each part of a network."""
    network.eval()
    print(f"{'input':<8} {tuple(x.shape[1:])}")
    for name, part in network.named_children():
        x = part(x.flatten(1) if name == "fc" else x)
        print(f"{name:<8} {tuple(x.shape[1:])}")


torch.manual_seed(SEED)
network = ResNet34()
print("the head before its first batch:", network.fc)
follow(network, torch.zeros(1, 3, 32, 32))
print("the head after its first batch: ", network.fc)
print(f"parameters: {sum(weight.numel() for weight in network.parameters()):,}")

# %% [markdown]
# The stem is made for images of 224 pixels, of which it leaves 56. Of 32 it leaves 8, and the stages then work on maps
# of 8×8, 4×4, 2×2 and 1×1 pixels: the last stage puts out <!--= shape("resnet34", "layer4") -->512×1×1<!--/-->. On a
# map of 1×1 a 3×3 kernel meets its one pixel with its centre, and with its eight other weights nothing but padding.
# Those weights never do anything:

# %%
rows = describe("resnet34", 32, num_classes=10, stem="imagenet")
print("stage    output         weights  never used")
for row in rows:
    print(f"{row.stage:<8} {'×'.join(map(str, row.shape)):<9} {row.params:>12,} {row.idle:>11,}")
idle, weights = sum(row.idle for row in rows), sum(row.params for row in rows)
print(f"never used: {idle / 1e6:.1f} of {weights / 1e6:.1f} million weights ({idle / weights:.0%})")

# %% [markdown]
# (`resnetlab models resnet34 --image-size 32 --stem imagenet` warns of it, and so does
# `resnetlab.models.summary.warnings_for`.) The tutorials train this network all the same, and so do we first; a stem
# of one 3×3 convolution without stride or pooling, at the end, repairs it.

# %% [markdown]
# ## 5. The same network as the library's and torchvision's
#
# If three programs compute the same function, then the same weights and images give the same logits: not nearly, but
# to the last bit. The weights of a fresh torchvision network are loaded into ours and into the library's; then a batch
# goes through all three, in training mode (where batch norm uses the batch's own statistics, and remembers them) and
# in evaluation mode (where it uses what it remembers). Gradients are compared, too.


# %%
def reference():
    """torchvision's network; nothing else in this notebook needs torchvision."""
    from torchvision.models import resnet34

    return resnet34(num_classes=10)


theirs = reference()
library = resnetlab.build_model("resnet34", num_classes=10, image_size=32, stem="imagenet")
ours = ResNet34()
others = {"the library's": library, "torchvision's": theirs}
for model in (ours, library):
    model.load_state_dict(theirs.state_dict())

images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
for mode in ("training", "evaluation"):
    logits = ours.train(mode == "training")(images)
    for name, other in others.items():
        same = torch.equal(logits, other.train(mode == "training")(images))
        print(f"{mode} mode: ours and {name} give the same logits: {same}")

for model in (ours, *others.values()):
    F.cross_entropy(model.train()(images), labels).backward()
gradients = {key: weight.grad for key, weight in ours.named_parameters()}
for name, other in others.items():
    same = all(torch.equal(weight.grad, gradients[key]) for key, weight in other.named_parameters())
    print(f"ours and {name} give the same gradients of all {len(gradients)} parameters: {same}")

# %% [markdown]
# ## 6. CIFAR-10
#
# 60,000 colour images of 32×32 pixels in ten classes, 50,000 of them to learn from and 10,000 to test with. Of the
# 50,000, 5,000 are set aside for *validation*, 500 a class: whatever is chosen while training is chosen by them. The
# test images choose nothing.
#
# Where the data set below is called `cifar10-jpeg`, the images are a copy at JPEG quality 75 with half of the test
# images: a few points harder than the original, so its figures can be compared only with figures from the same copy.

# %%
data = resnetlab.open_dataset(DATA, image_size=32)
classes = data.classes
print(f"{data.name}: {len(classes)} classes: {', '.join(classes)}")
for name, split in (("train", data.train), ("validation", data.val), ("test", data.test)):
    print(f"{name:<10} {len(split):>6,} images, {tuple(split.images.shape[1:])} {split.images.dtype}")

# %% [markdown]
# ### Normalisation
#
# The network sees $(x - \mu) / \sigma$ for each channel, with the mean $\mu$ and the standard deviation $\sigma$ of all
# training pixels. A histogram of the 256 values gives both exactly, without turning every pixel into a float.
#
# Many tutorials give `0.2023, 0.1994, 0.2010` as $\sigma$ of CIFAR-10. That is the mean of the standard deviations of
# the single images, and too small: images also differ from each other in brightness, which a deviation within an image
# does not see. A network learns with either, if training and test use the same; but the numbers are not what they
# are said to be.


# %%
def mean_and_std(images):
    """Of all pixels of each channel, scaled to [0, 1]; images are uint8 (N, H, W, C)."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(3):
        share = torch.bincount(channel.flatten(), minlength=256) / channel.numel()
        means.append(float((share * values).sum()))
        stds.append(float((share * (values - means[-1]) ** 2).sum().sqrt()))
    return means, stds


means, stds = mean_and_std(data.train.images)
of_images = [(part.flatten(1, 2) / 255).std(1) for part in data.train.images.split(5000)]

for name, numbers in (
    ("mean of all training pixels", means),
    ("standard deviation of all training pixels", stds),
    ("mean of the single images' standard deviations", torch.cat(of_images).mean(0).tolist()),
    ("widespread as CIFAR-10's standard deviation", (0.2023, 0.1994, 0.2010)),
):
    print(f"{name:<47}", *(f"{number:.4f}" for number in numbers))

# %% [markdown]
# ### A look at the images
#
# `normalise` makes what the network sees of stored pixels, `denormalise` makes pixels again. What is shown went through
# both.

# %%
mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (means, stds))


def normalise(images):
    """uint8 (N, H, W, C) to float (N, C, H, W)."""
    return (images.permute(0, 3, 1, 2) / 255 - mean) / std


def denormalise(batch):
    """The way back, to uint8 (N, H, W, C)."""
    return ((batch * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def show(axis, image, title="", colour=INK):
    axis.imshow(image.squeeze(), cmap="gray")  # the colour map is for images of one channel alone
    axis.set_title(title, size=8, color=colour, loc="center")
    axis.axis("off")


figure, axes = plt.subplots(3, len(classes), figsize=(10, 3.6), layout="constrained", squeeze=False)
for label, column in enumerate(axes.T):
    chosen = data.train.images[data.train.labels == label][:3]
    for axis, image in zip(column, denormalise(normalise(chosen)), strict=False):
        show(axis, image, classes[label] if axis is column[0] else "")
figure.suptitle(f"Three training images of each class of {data.name}")
plt.show()

# %% [markdown]
# ## 7. Training: ten epochs with Adam
#
# The device is a CUDA GPU where there is one, then Apple's (MPS), then the CPU. `start` asks the C library to keep
# memory that a step frees for the next step, and finds out whether the device multiplies bfloat16 numbers in hardware.
# Where it does, `autocast` lets the convolutions use them: 16 bits instead of 32, with the same range, in less time.

# %%
if torch.cuda.is_available():
    device = torch.device("cuda")
elif torch.backends.mps.is_available():
    device = torch.device("mps")
else:
    device = torch.device("cpu")

has_bf16 = start(device.type).precision == torch.bfloat16


def autocast():
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bf16)


print(f"{device.type}, {torch.get_num_threads()} threads, {'bfloat16' if has_bf16 else 'float32'}")

# %% [markdown]
# The whole data set stays on the device, as bytes. Cutting batches out of it needs no loader and no worker processes.
# `channels_last` stores the channels of a pixel side by side, the order in which convolutions are fastest here.

# %%
train_images, train_labels = data.train.images.to(device), data.train.labels.to(device)
val_images, val_labels = data.val.images.to(device), data.val.labels.to(device)
test_images, test_labels = data.test.images.to(device), data.test.labels.to(device)
mean, std = mean.to(device), std.to(device)

torch.manual_seed(SEED)
network = ResNet34(len(classes), in_channels=train_images.shape[3])
with torch.no_grad():
    network.eval()(torch.zeros(1, *train_images.shape[3:], 32, 32))  # the lazy head takes its shape
network = network.to(device, memory_format=torch.channels_last)

# %% [markdown]
# The loss is cross-entropy: the negative logarithm of the probability that the network gives to the right class $c$,
#
# $$ L(z, c) = -\log \frac{e^{z_c}}{\sum_k e^{z_k}}, $$
#
# averaged over the batch. Adam takes its steps at a learning rate of $10^{-3}$; `fused` updates all weights in one go.

# %%
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)


def train_epoch(network, images, labels, optimizer, generator):
    """Every image once, in batches of a random order; what is left after the last full batch waits its turn."""
    network.train()
    order = torch.randperm(len(labels), generator=generator)
    for step in range(max(1, len(labels) // BATCH)):
        chosen = order[step * BATCH : (step + 1) * BATCH].to(images.device)
        with autocast():
            logits = network(normalise(images[chosen]))
        loss = F.cross_entropy(logits.float(), labels[chosen])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.inference_mode()
def predict(network, images):
    """Logits (N, classes) of images (N, H, W, C), in evaluation mode."""
    network.eval()
    with autocast():
        return torch.cat([network(normalise(part)).float() for part in images.split(500)])


def test_epoch(network, images, labels):
    """Mean loss, and the share of images whose class is found."""
    logits = predict(network, images)
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()


# %% [markdown]
# After each epoch the network is scored, in evaluation mode, on a fixed sample of the training images, on validation
# and on test. The table shows the first two as they come. The test column is there only for the curves further
# down: nothing is chosen by it, and it is not looked at before the training is over. The weights of the epoch that
# validates best are kept.
#
# This takes about a quarter of an hour on two CPU cores with bfloat16, more without, and far less on a GPU.

# %%
shuffle = torch.Generator().manual_seed(SEED)
sample = torch.randperm(len(train_labels), generator=torch.Generator().manual_seed(SEED))[:5000].to(device)
splits = {
    "train": (train_images[sample], train_labels[sample]),
    "val": (val_images, val_labels),
    "test": (test_images, test_labels),
}

history, best_weights, seconds = [], {}, 0.0
print("epoch  train loss  train accuracy  val loss  val accuracy  seconds")
for epoch in range(1, EPOCHS + 1):
    began = time.perf_counter()
    train_epoch(network, train_images, train_labels, optimizer, shuffle)
    scores = {name: test_epoch(network, *split) for name, split in splits.items()}
    took = time.perf_counter() - began
    seconds += took
    if all(scores["val"][1] > earlier["val"][1] for earlier in history):
        best_weights, best_epoch = {key: value.clone() for key, value in network.state_dict().items()}, epoch
    history.append(scores)
    (train_loss, train_right), (val_loss, val_right) = scores["train"], scores["val"]
    print(f"{epoch:>5} {train_loss:>11.3f} {train_right:>15.2%} {val_loss:>9.3f} {val_right:>13.2%} {took:>8.1f}")

# %% [markdown]
# The library's run of the same recipe (`notebook-resnet34`: the same network, data and optimiser, other random numbers)
# reached <!--= training("notebook-resnet34") -->93.7 %<!--/--> on the training sample, <!--= validation("notebook-resnet34", -1) -->72.8 %<!--/--> on validation, both after its last epoch, and <!--= test("notebook-resnet34") -->74.2 %<!--/--> on the test images.

# %% [markdown]
# ## 8. The test, then the curves
#
# The test images are scored once with the weights of the last epoch and once with those of the epoch that validated
# best. That one is the result; the last is shown to see what the choice changes. An accuracy on $n$ images has an
# interval (Wilson's, at 95 per cent): nineteen times in twenty, such an interval holds what the network would score on
# endlessly many images of the same kind.

# %%
last = predict(network, test_images)
network.load_state_dict(best_weights)
logits = predict(network, test_images).cpu()
truth = data.test.labels


def accuracy_with_interval(right, of):
    """The share that is right, and Wilson's 95 % interval of it."""
    low, high = wilson(right, of)
    return f"{right / of:.2%} ({low:.1%} to {high:.1%})"


print(f"test accuracy on {len(truth):,} images")
for name, found in ((f"last epoch, {EPOCHS}", last.cpu()), (f"best epoch on validation, {best_epoch}", logits)):
    print(f"{name:<27} {accuracy_with_interval(int((found.argmax(1) == truth).sum()), len(truth))}")

# %% [markdown]
# The curves: the training loss falls on; where the validation loss stops falling, the network has begun to learn its
# training images by heart. The gap between the training curve and the two others is what the improvements below are
# for. Validation and test run side by side, as they should, since no image of either is trained on.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
epochs = range(1, EPOCHS + 1)
for axis, index, scale, title in ((axes[0], 0, 1, "Loss (cross-entropy, nats)"), (axes[1], 1, 100, "Accuracy (%)")):
    for key, colour, marker in (("train", TRAIN, "s"), ("val", VALIDATION, "o"), ("test", TEST, "^")):
        values = [scale * scores[key][index] for scores in history]
        name = {"train": "training sample", "val": "validation", "test": "test"}[key]
        axis.plot(epochs, values, color=colour, marker=marker, markersize=4, label=name)
    axis.axvline(best_epoch, color=MUTED, linestyle=":", linewidth=1, label="best on validation")
    axis.set(title=title, xlabel="epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(visible=True)
axes[0].legend()
plt.show()

# %% [markdown]
# ### One image, stage by stage
#
# What the trained network makes of one test image: behind each stage the shape, mean and standard deviation of its
# output, and the eight feature maps that vary most. The maps get smaller and more abstract; the last ones have a single
# pixel. On the left the network, read off its modules. (`resnetlab models RUN --image PICTURE --save-figure FILE` draws
# this for any network.)

# %%
library = resnetlab.build_model("resnet34", len(classes), in_channels=train_images.shape[3], stem="imagenet")
library.load_state_dict(network.state_dict())
image = data.test.images[:1]
stops = journey(library.eval(), normalise(image.to(device)).cpu())
picture = journey_figure(library, stops, image[0].numpy(), classes=classes, title="the trained ResNet-34")
display(Image(rendered(picture, "png"), width=880))

# %% [markdown]
# ## 9. Saving, loading, and a summary
#
# A checkpoint of a network is its `state_dict`: tensors by name. `weights_only=True` reads tensors and refuses code,
# which a file from elsewhere could hold. To load it, the network is built anew, and must then give the same logits.
# (The library's model file holds also the classes, the preprocessing and a digest over every byte, so it can be used
# without this notebook: `resnetlab.load`.)

# %%
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "resnet34.pt")
    torch.save(network.state_dict(), file)
    size = file.stat().st_size
    reloaded = ResNet34(len(classes), in_channels=train_images.shape[3])
    reloaded.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))

reloaded = reloaded.to(device, memory_format=torch.channels_last)
same = torch.equal(predict(reloaded, test_images).cpu(), logits)
print(f"{size / 1e6:.1f} MB written; the reloaded network gives the same logits: {same}")

# %%
summary = {
    "data": f"{data.name}: {len(data.train):,} / {len(data.val):,} / {len(data.test):,} images",
    "network": f"ResNet-34, 7×7 stem, {sum(weight.numel() for weight in network.parameters()):,} parameters",
    "training": f"{EPOCHS} × {len(data.train) // BATCH} steps of {BATCH} images, Adam at 0.001, seed {SEED}",
    "device": f"{device.type}, {'bfloat16' if has_bf16 else 'float32'}, torch {torch.__version__}",
    "time": f"{seconds / 60:.1f} minutes, scoring included",
    "best epoch": f"{best_epoch}, validation accuracy {history[best_epoch - 1]['val'][1]:.2%}",
    "test accuracy": accuracy_with_interval(int((logits.argmax(1) == truth).sum()), len(truth)),
}


def table(head, rows):
    """A table in Markdown; all columns but the first are aligned to the right."""
    lines = [head, [":--"] + ["--:"] * (len(head) - 1), *rows]
    display(Markdown("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)))


table(("run", "value"), summary.items())

# %% [markdown]
# ## 10. Improvements, each measured
#
# The tutorial ends with a list of what to try next. Here it is tried, each step on top of the one before:
#
# 1. random crops and mirror images,
# 2. a learning rate that falls, in steps or along a cosine,
# 3. the checkpoint that validates best,
# 4. precision, recall and F1 of each class,
# 5. a stem that suits small images.
#
# Each training takes as long as the one above or longer, so these are stored runs of the library's trainer, from
# `results/`. Make them anew with `python tools/experiments.py notebook-resnet34 improvements --data cifar10`.

# %% [markdown]
# ### Crop and flip
#
# An image that is moved by up to four pixels, or mirrored, still shows the same thing, but it is another input: the
# network never sees exactly the same one twice, and cannot learn images by heart so easily. Each image is padded with
# four black pixels on each side, a random part of the original size is cut out, and half of them are mirrored. Only
# training images are treated so. (For digits mirroring would be wrong: a mirrored 2 is no 2.)


# %%
def crop_and_flip(images, generator, padding=4):
    """uint8 (N, H, W, C) to the same shape; every image has its own draws."""
    count, size = images.shape[:2]
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    top, left = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator)
    rows, columns = top + torch.arange(size), left + torch.arange(size)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


draws = crop_and_flip(data.train.images[:1].expand(9, -1, -1, -1), torch.Generator().manual_seed(SEED))
figure, axes = plt.subplots(1, 10, figsize=(10, 1.5), layout="constrained")
show(axes[0], data.train.images[0], "stored")
for axis, image in zip(axes[1:], draws, strict=True):
    show(axis, image)
figure.suptitle("One training image, and nine draws of crop and flip")
plt.show()

# %% [markdown]
# ### A learning rate that falls
#
# Large steps find a good region fast, and then jump about in it; small ones settle. The *step* schedule divides the
# rate by ten at a half and at three quarters of the run, as the paper does; the *cosine* schedule lowers it smoothly,
#
# $$ \eta_t = \eta_0\,\tfrac{1}{2}\left(1 + \cos\frac{\pi t}{T}\right), $$
#
# for step $t$ of $T$. Both depend on $t/T$ alone: a short run has a whole schedule in miniature, and not the beginning
# of a long one.

# %%
done = torch.linspace(0, 1, 500)
figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
for name, factor, style in (
    ("constant", torch.ones_like(done), "-"),
    ("step: a tenth at 1/2 and at 3/4", 0.1 ** ((done >= 0.5).float() + (done >= 0.75).float()), "--"),
    ("cosine", (1 + torch.cos(math.pi * done)) / 2, "-."),
):
    colour = {"-": MUTED, "--": TRAIN, "-.": VALIDATION}[style]
    axis.plot(10 * done, 1e-3 * factor, style, color=colour, label=name)
axis.set(title="Learning rate of Adam over 10 epochs", xlabel="epochs done", ylabel="learning rate")
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
axis.grid(visible=True)
plt.show()

# %% [markdown]
# ### The best checkpoint by validation
#
# The last weights are not always the best: at a constant rate the accuracy jumps from epoch to epoch. So the weights of
# the epoch that validates best are kept, as above. Two things to know: the validation accuracy of a chosen epoch
# is a little flattering, for it was chosen because it is high, which the test accuracy is not; and choosing by the test
# images instead would make that flattering, too. The table further down has the validation accuracy of the last epoch
# and of the best one.

# %% [markdown]
# ### Precision, recall and F1
#
# One accuracy hides which classes are hard. For the network trained above, on the test images: *precision* is the share
# of the images called "cat" that are cats, *recall* the share of the cats that are called "cat", and F1 their harmonic
# mean,
#
# $$ F_1 = \frac{2\,P\,R}{P + R}. $$

# %%
predicted = logits.argmax(1)
labels = range(len(classes))
per_class = precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0)
macro = [values.mean() for values in per_class[:3]]
table(
    ("class", "precision", "recall", "F1", "images"),
    [
        *((name, f"{p:.2f}", f"{r:.2f}", f"{f:.2f}", n) for name, p, r, f, n in zip(classes, *per_class, strict=True)),
        ("**mean of the classes**", *(f"{value:.2f}" for value in macro), len(truth)),
    ],
)

# %% [markdown]
# Which classes are taken for which: row by row the true class, column by column the predicted one.

# %%
matrix = confusion_matrix(truth, predicted, labels=labels)
figure, axis = plt.subplots(figsize=(6.4, 5.6), layout="constrained")
axis.imshow(matrix / matrix.sum(1, keepdims=True).clip(1), cmap="Blues", vmin=0, vmax=1)
for true in labels:
    for said in labels:
        colour = "white" if matrix[true, said] > matrix[true].sum() / 2 else INK
        axis.text(said, true, matrix[true, said], ha="center", va="center", size=8, color=colour)
axis.set_xticks(labels, classes, rotation=45, ha="right")
axis.set_yticks(labels, classes)
axis.set(title="Confusion matrix (test images)", xlabel="predicted class", ylabel="true class")
axis.spines[:].set_visible(False)
plt.show()

# %% [markdown]
# Some test images with the predicted class and its probability: of each class the first one that is right, and the
# mistakes that the network is surest of. Those are the most instructive: some are images that a person would hesitate
# at, too.

# %%
probability, _ = logits.softmax(1).max(1)
right = [index for label in labels for index in ((predicted == truth) & (truth == label)).nonzero().flatten()[:1]]
wrong = (predicted != truth).nonzero().flatten()
wrong = wrong[probability[wrong].argsort(descending=True)][:10]

figure, axes = plt.subplots(2, 10, figsize=(11, 3.3), layout="constrained")
for axis in axes.flat:
    axis.axis("off")
for row, indices in zip(axes, (right, wrong), strict=True):
    for axis, index in zip(row, indices, strict=False):
        said, true = classes[predicted[index]], classes[truth[index]]
        title = f"{said}\n{probability[index]:.0%}" + ("" if said == true else f"\nis: {true}")
        show(axis, data.test.images[index], title)
figure.suptitle("Test images: right answers (above), the surest mistakes (below)")
plt.show()

# %% [markdown]
# ### A 3×3 stem
#
# Finally the stem. One 3×3 convolution without stride, and no pooling, leaves the image at 32×32, and the stages work
# on maps of 32, 16, 8 and 4 pixels instead of 8, 4, 2 and 1. Two attributes change:

# %%
small = ResNet34()
small.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
small.maxpool = nn.Identity()
follow(small, torch.zeros(1, 3, 32, 32))

costs = {}
for stem in ("imagenet", "cifar"):
    rows = describe("resnet34", 32, num_classes=10, stem=stem)
    costs[stem], idle = sum(row.macs for row in rows), sum(row.idle for row in rows)
    print(f"{stem:<8} stem: {costs[stem] / 1e6:>6,.0f} million multiply-adds an image, {idle:>10,} weights never used")
print(f"{costs['cifar'] / costs['imagenet']:.1f} times the multiply-adds")

# %% [markdown]
# Every stage works on sixteen times as many pixels, so an epoch costs many times as much. For that reason its run has
# only <!--= epochs("improvements/cifar-stem") -->2<!--/--> epochs, with a cosine that ends with them: less practice
# than the other runs have, but a whole schedule.

# %% [markdown]
# ### What each is worth
#
# All five runs have the same units, data, Adam beginning at $10^{-3}$ and batches of 128; all but the last have the 7×7
# stem and ten epochs. The test accuracy is that of the epoch that validated best. The difference to the first run is in
# points, with an interval at 95 per cent for two independent samples,
#
# $$ p - q \pm 1{.}96\,\sqrt{\frac{p(1-p)}{n} + \frac{q(1-q)}{n}}. $$
#
# Both runs saw the same test images, so the true interval is somewhat narrower. What a run costs is told by the
# multiply-adds of its forward passes: minutes would depend on what else the machine did.

# %%
RUNS = {
    "7×7 stem, constant rate": "notebook-resnet34",
    "+ crop and flip": "improvements/crop-flip",
    "+ step schedule": "improvements/crop-flip-step",
    "+ cosine schedule instead": "improvements/crop-flip-cosine",
    "+ 3×3 stem, fewer epochs": "improvements/cifar-stem",
}


def stored(name):
    """A stored run: its epochs, what each cost, its best one, and its test scores."""
    folder = Path("../results", name)
    if not folder.is_dir():
        raise FileNotFoundError(f"no results/{name} here: python tools/experiments.py {name} --data cifar10")
    with (folder / "metrics.csv").open(newline="") as file:
        epochs = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    config = json.loads((folder / "config.json").read_text())
    cost = 45_000 * costs[config["model"]["stem"]] / 1e12
    test = json.loads((folder / "evaluation/test/metrics.json").read_text())
    best = max(epochs, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    return {"epochs": epochs, "cost": cost, "test": test, "best": best}


def difference(run, first):
    """Test accuracy less that of the first run, and half its 95 % interval, both in points."""
    (p, n), (q, m) = ((each["test"]["accuracy"], each["test"]["images"]) for each in (run, first))
    half = 1.96 * math.sqrt(p * (1 - p) / n + q * (1 - q) / m)
    return 100 * (p - q), 100 * half


runs = {title: stored(name) for title, name in RUNS.items()}
first = runs[next(iter(runs))]
table(
    ("run", "epochs", "10¹² multiply-adds", "train, last", "val, last", "val, best (epoch)", "test", "points"),
    [
        (
            title,
            len(run["epochs"]),
            f"{run['cost'] * len(run['epochs']):.0f}",
            f"{run['epochs'][-1]['train_accuracy']:.1%}",
            f"{run['epochs'][-1]['val_accuracy']:.1%}",
            f"{run['best']['val_accuracy']:.1%} ({run['best']['epoch']:.0f})",
            f"{run['test']['accuracy']:.1%}",
            "" if run is first else "{:+.1f} ± {:.1f}".format(*difference(run, first)),
        )
        for title, run in runs.items()
    ],
)
settings = json.loads(Path("../results/notebook-resnet34/config.json").read_text())
machine = json.loads(Path("../results/notebook-resnet34/environment.json").read_text())
print(f"{settings['data']['name']}, {first['test']['images']:,} test images, seed {settings['seed']}")
print(f"{machine['device_name']}, {machine['precision']}")
clear = [title for title, run in runs.items() if abs(difference(run, first)[0]) > difference(run, first)[1]]
print("further from the first run than the interval:", "; ".join(clear) or "none")

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained", sharey=True)
styles = zip((MUTED, TRAIN, TEST, VALIDATION, "#00795a"), "osv^D", strict=True)
for (title, run), (colour, marker) in zip(runs.items(), styles, strict=True):
    accuracy = [100 * row["val_accuracy"] for row in run["epochs"]]
    done = np.arange(1, len(accuracy) + 1)
    for axis, x in zip(axes, (done, done * run["cost"]), strict=True):
        axis.plot(x, accuracy, color=colour, marker=marker, markersize=4, label=title)
axes[0].set(title="Validation accuracy (%) by epoch", xlabel="epochs")
axes[1].set(title="Validation accuracy (%) by cost", xlabel="10¹² multiply-adds of forward passes")
for axis in axes:
    axis.grid(visible=True)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

# %% [markdown]
# In numbers, on the test images and each against the run it adds one thing to:
#
# - Crop and flip: <!--= points("improvements/crop-flip", "notebook-resnet34") -->+1.0<!--/--> points. After ten epochs the
#   network is right about <!--= training("improvements/crop-flip") -->76.6 %<!--/--> of the stored training images, and
#   about <!--= validation("improvements/crop-flip", -1) -->73.4 %<!--/--> of the validation images; without crop and flip
#   these were <!--= training("notebook-resnet34") -->93.7 %<!--/--> and <!--= validation("notebook-resnet34", -1) -->72.8 %<!--/-->.
# - A step schedule on top: <!--= points("improvements/crop-flip-step", "improvements/crop-flip") -->+1.4<!--/--> points;
#   a cosine in its place: <!--= points("improvements/crop-flip-cosine", "improvements/crop-flip") -->+2.7<!--/-->.
# - The 3×3 stem on top of crop, flip and cosine: <!--= points("improvements/cifar-stem", "improvements/crop-flip-cosine") -->−7.2<!--/--> points, in <!--= epochs("improvements/cifar-stem") -->2<!--/--> epochs instead of <!--= epochs("improvements/crop-flip-cosine") -->10<!--/-->, and with <!--= cost("improvements/cifar-stem") -->104<!--/--> · 10¹² multiply-adds instead of <!--= cost("improvements/crop-flip-cosine") -->34<!--/--> · 10¹². That is a beginning: after two
#   epochs the run with the 7×7 stem was right about <!--= validation("improvements/crop-flip-cosine", 2) -->60.7 %<!--/--> of the validation images, this one about <!--= validation("improvements/cifar-stem", 2) -->69.8 %<!--/-->; and ResNet-18 with the 3×3 stem, trained for <!--= epochs("cifar10-resnet18") -->8<!--/--> epochs by the recipe `cifar10-resnet18`, reaches <!--= test("cifar10-resnet18") -->85.8 %<!--/--> on the test images.
#
# Each run is one seed. Another seed is likely to move such an accuracy by about half a point, and other test images by
# more, as the intervals say: a difference smaller than its interval cannot be told from luck. The line below the table
# names the runs whose difference is larger.

# %% [markdown]
# ## 11. Beside a pretrained network
#
# With few images of one's own, one rarely starts from nothing: torchvision's ResNet-34 has learned from more than a
# million photographs of ImageNet. Our class has the same names and shapes, so it takes those weights as they are. The
# network then stays as it is (*frozen*), and only a new head is trained: logistic regression on the 512 numbers behind
# the pooling, computed once for each image.
#
# The images are enlarged to 128 pixels, because the filters expect objects of the size they have in photographs, and
# normalised as the weights expect it. To be quick, the head gets only 5,000 of the training images. The comparison is
# not about the same effort: ImageNet has our ten classes in a hundred varieties.
#
# The weights come from a file that `RESNETLAB_RESNET34_WEIGHTS` names, from torch.hub's folder
# (`~/.cache/torch/hub/checkpoints`), or from torchvision's server, 83 MB. Where none of these has them, the cell says
# what to do, and the notebook goes on. With them it takes a minute or two on two CPU cores.

# %% tags=["pretrained"]
WEIGHTS = "resnet34-b627a593.pth"  # the name ends in the first digits of the file's SHA-256
IMAGENET_MEAN, IMAGENET_STD = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)


def find_weights(download):
    """The file with torchvision's ImageNet weights, fetched if `download`; None if it cannot be had."""
    if named := os.environ.get("RESNETLAB_RESNET34_WEIGHTS"):
        return Path(named) if Path(named).is_file() else None
    kept = Path(torch.hub.get_dir(), "checkpoints", WEIGHTS)
    if download and not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        patience = socket.getdefaulttimeout()
        socket.setdefaulttimeout(10)  # seconds: a server that does not answer must not stop the notebook
        try:
            address = f"https://download.pytorch.org/models/{WEIGHTS}"
            torch.hub.download_url_to_file(address, str(kept), hash_prefix=WEIGHTS[9:17], progress=False)
        except (OSError, HTTPException, RuntimeError):  # no connection, a broken one, or another digest
            return None
        finally:
            socket.setdefaulttimeout(patience)
    return kept if kept.exists() else None


@torch.inference_mode()
def frozen_features(network, images, pixels):
    """Images, uint8 (N, H, W, C), to the 512 numbers behind the pooling of a network without its head."""
    found = []
    for part in images.split(100):
        batch = part.to(device).permute(0, 3, 1, 2).expand(-1, 3, -1, -1) / 255  # a grey image: three equal channels
        batch = F.interpolate(batch, size=(pixels, pixels), mode="bilinear", antialias=True)
        batch = (batch - IMAGENET_MEAN.to(device)) / IMAGENET_STD.to(device)
        with autocast():
            found.append(network(batch.contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(found)


def pretrained_predictions(file, train, test, pixels):
    """What ImageNet's weights, frozen, and a new head say about test images, after `train` = (images, labels)."""
    network = ResNet34(classes=1000)
    network.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
    network.fc = nn.Identity()
    network = network.eval().to(device, memory_format=torch.channels_last)
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    head.fit(frozen_features(network, train[0], pixels).numpy(), train[1].numpy())
    return torch.from_numpy(head.predict(frozen_features(network, test, pixels).numpy()))


# %% [markdown]
# Both networks answer for the same test images, so the difference has a narrower interval than two independent
# accuracies: only images on which exactly one of them is right count. With $b$ and $c$ such images out of $n$ the
# difference is $(b - c)/n$, and its standard error $\sqrt{b + c - (b - c)^2/n}\,/\,n$.

# %%
file = find_weights(DOWNLOAD_WEIGHTS)
if file is None:
    print(
        f"ImageNet's weights are not here, so there is no comparison. Fetch https://download.pytorch.org/models/{WEIGHTS}"
        f" on any machine, put it into ~/.cache/torch/hub/checkpoints or name it in RESNETLAB_RESNET34_WEIGHTS, and run"
        " this cell again."
    )
else:
    few = sample.cpu()
    began = time.perf_counter()
    theirs = pretrained_predictions(
        file, (data.train.images[few], data.train.labels[few]), data.test.images, pixels=64 if QUICK else 128
    )
    took = time.perf_counter() - began
    ours_right, theirs_right = predicted == truth, theirs == truth
    table(
        ("network", "learned from", "test accuracy"),
        [
            (
                "from nothing, every layer trained",
                f"{len(data.train):,} images",
                accuracy_with_interval(int(ours_right.sum()), len(truth)),
            ),
            (
                "ImageNet's weights, the head trained",
                f"ImageNet, then {len(few):,} images",
                accuracy_with_interval(int(theirs_right.sum()), len(truth)),
            ),
        ],
    )
    b, c, n = int((theirs_right & ~ours_right).sum()), int((ours_right & ~theirs_right).sum()), len(truth)
    error = math.sqrt(b + c - (b - c) ** 2 / n) / n
    print(f"difference {100 * (b - c) / n:+.1f} ± {100 * 1.96 * error:.1f} points; {took / 60:.1f} minutes")

# %% [markdown]
# `resnetlab baseline --data FOLDER` makes the comparison at full length, with a third network whose every layer is
# trained on from ImageNet's weights.
