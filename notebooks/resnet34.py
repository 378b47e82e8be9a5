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
# The network of He et al., *Deep Residual Learning for Image Recognition* (2015, `arXiv:1512.03385`), in about fifty
# lines of PyTorch, tested against torchvision's. It is trained by a loop of two short functions. Then we measure the
# effect of each of the usual improvements.
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
# 11. Comparison with a pretrained network

# %% [markdown]
# ## 1. Set-up
#
# Choose an image source:
#
# - `DATA = "cifar10"` downloads CIFAR-10 (170 MB, once; `open_dataset` is called with `download=True`).
# - `DATA = "some/folder"` reads a folder of images with one sub-folder per class. The environment variable
#   `RESNETLAB_CIFAR10_JPEG` can hold its path; then this notebook needs no change.
# - `DATA = "digits"` uses scikit-learn's small grey digits: no download, and every cell still runs.
#
# If `resnetlab` is not installed, the first cell installs it from this repository. With `RESNETLAB_QUICK` set, the
# notebook runs in a minute, on the digits and for one epoch; its results then mean nothing.

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
from resnetlab.evaluation.intervals import wilson
from resnetlab.interpret.activations import collect_activations
from resnetlab.models.summary import describe
from resnetlab.plots.activations import activations_figure
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
# A deeper network can compute everything a shallower one can: its additional layers only have to compute the identity.
# So its *training* error should be no higher. In practice it is higher. On ImageNet, the paper's plain network of 34
# layers has a validation error of <!--= percent(0.2854, 2) -->28.54 %<!--/-->, the one of 18 layers <!--= percent(0.2794, 2) -->27.94 %<!--/-->
# (Table 2). The deeper network is also worse on the training images (Fig. 4). On CIFAR-10 the same happens from 20 to
# 56 layers (Fig. 1). This is not overfitting. It is not simply a vanishing signal either, because a batch norm after
# every convolution keeps the scale of its output. The paper calls it *degradation*: a better solution exists, but
# gradient descent does not find it. The paper's explanation is that a stack of convolutions, norms and ReLUs has
# difficulty in computing the identity.
#
# In a residual unit the identity is easy. Two convolutions compute a correction $F(x)$ to $x$ instead of
# a new $x$:
#
# $$ y = F(x) + x $$
#
# To pass $x$ on, the weights of $F$ only have to be zero. The gradient also has a path around every unit,
#
# $$ \frac{\partial L}{\partial x} = \frac{\partial L}{\partial y}\left(\frac{\partial F}{\partial x} + I\right), $$
#
# so the gradient of the loss reaches the first layers whatever the layers in between do (apart from the ReLU after the
# addition). With shortcuts, the deeper of the paper's two networks is the better one: <!--= percent(0.2503, 2) -->25.03 %<!--/-->
# at 34 layers, <!--= percent(0.2788, 2) -->27.88 %<!--/--> at 18. The notebook `why_residuals` measures both kinds of
# network on CIFAR-10.

# %% [markdown]
# ## 3. The residual unit
#
# $F$ is a 3×3 convolution, batch norm, ReLU, a 3×3 convolution, batch norm. Then come the addition and a ReLU on the
# sum.
#
# The shortcut is $x$ itself where $F(x)$ has the same shape. Where a stage halves the maps and doubles the channels,
# the shapes differ. There the shortcut is a *projection*: a 1×1 convolution with the same stride and a batch norm (the
# paper's option B). Each output pixel is a linear combination of the channels of one input pixel.
#
# The convolutions have no bias. The batch norm after them subtracts the mean of each channel, which would remove the
# bias, and adds its own bias.


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
# max pool with stride 2. Four *stages* of 3, 4, 6 and 3 units follow, with 64, 128, 256 and 512 channels. The first
# unit of stages 2 to 4 halves the map. The *head* averages each channel over its map, and a linear layer computes the
# logits from the 512 means. Number of layers with weights that an image passes: $1 + 2\,(3 + 4 + 6 + 3) + 1 = 34$.
#
# `nn.LazyLinear(10)`, used in the tutorial, is a linear layer that needs only its number of outputs. It takes the
# number of inputs from its first batch, so we do not have to compute the 512 by hand. Before that its weight has no
# shape: count the parameters, move them to a device and pass them to an optimiser only after a first forward pass.
#
# The attributes have torchvision's names (`conv1`, `bn1`, `layer1`, …, `downsample`, `fc`), so weights can be copied by
# name.


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
# The next cell prints the shape of one image of 32×32 pixels after each part. This is also the first forward pass,
# which gives the lazy layer its shape.


# %%
@torch.no_grad()
def follow(network, x):
    """Print the shape after each part of a network."""
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
# The stem is designed for images of 224 pixels, which it reduces to 56. It reduces 32 pixels to 8, and the stages then
# work on maps of 8×8, 4×4, 2×2 and 1×1 pixels: the output of the last stage is <!--= shape("resnet34", "layer4") -->512×1×1<!--/-->.
# On a map of 1×1, the centre of a 3×3 kernel is multiplied by the one pixel, and its other eight weights only by
# padding. Those weights have no effect:

# %%
rows = describe("resnet34", 32, num_classes=10, stem="imagenet")
print("stage    output         weights  never used")
for row in rows:
    print(f"{row.stage:<8} {'×'.join(map(str, row.shape)):<9} {row.params:>12,} {row.idle:>11,}")
idle, weights = sum(row.idle for row in rows), sum(row.params for row in rows)
print(f"never used: {idle / 1e6:.1f} of {weights / 1e6:.1f} million weights ({idle / weights:.0%})")

# %% [markdown]
# (`resnetlab models resnet34 --image-size 32 --stem imagenet` warns about it.) The tutorials train this network
# nevertheless, and we do so first. At the end we replace the stem by one 3×3 convolution without stride or pooling.

# %% [markdown]
# ## 5. The same network as the library's and torchvision's
#
# If three programs compute the same function with the same operations, the same weights and images give the same
# logits, bit for bit. We load the weights of a new torchvision network into ours and into the library's. Then we run a
# batch through all three, in training mode (batch norm uses the statistics of the batch and updates its running
# averages) and in evaluation mode (it uses the running averages). We also compare the gradients.


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
# CIFAR-10 has 60,000 colour images of 32×32 pixels in ten classes: 50,000 for training and 10,000 for testing. Of the
# 50,000, we hold out 5,000 for *validation*, 500 per class. Every choice during training uses the validation images.
# The test images choose nothing.
#
# If the data set below is called `cifar10-jpeg`, the images are a copy at JPEG quality 75 with half of the test images.
# It is a few points harder than the original: compare its figures only with figures from the same copy.

# %%
data = resnetlab.open_dataset(DATA, image_size=32)
classes = data.classes
print(f"{data.name}: {len(classes)} classes: {', '.join(classes)}")
for name, split in (("train", data.train), ("validation", data.val), ("test", data.test)):
    print(f"{name:<10} {len(split):>6,} images, {tuple(split.images.shape[1:])} {split.images.dtype}")

# %% [markdown]
# ### Normalisation
#
# The input of the network is $(x - \mu) / \sigma$ for each channel, with the mean $\mu$ and the standard deviation
# $\sigma$ of all training pixels. A histogram of the 256 values gives both exactly, without converting every pixel to a
# float.
#
# Many tutorials give `0.2023, 0.1994, 0.2010` as $\sigma$ of CIFAR-10. That is the mean of the standard deviations of
# the single images. It is too small, because images also differ from each other in brightness, which the deviation
# within an image does not contain. A network learns with either, as long as training and test use the same constants;
# but the widespread numbers are not the standard deviation of CIFAR-10.


# %%
def mean_and_std(images):
    """Mean and standard deviation of each channel in [0, 1], over all pixels of uint8 images (N, H, W, C)."""
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
# `normalise` converts stored pixels to the input of the network, `denormalise` converts the input back to pixels. The
# images shown passed through both.

# %%
mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (means, stds))


def normalise(images):
    """uint8 (N, H, W, C) to float (N, C, H, W)."""
    return (images.permute(0, 3, 1, 2) / 255 - mean) / std


def denormalise(batch):
    """Inverse of normalise: float (N, C, H, W) to uint8 (N, H, W, C)."""
    return ((batch * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def show(axis, image, title="", colour=INK):
    axis.imshow(image.squeeze(), cmap="gray")  # the colour map only applies to images of one channel
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
# The device is a CUDA GPU if there is one, else Apple's GPU (MPS), else the CPU. `start` checks if the hardware
# supports bfloat16. If it does, `autocast` runs the convolutions in bfloat16: 16 bits instead of 32, with the same
# range, in less time.

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
# The whole data set stays on the device, as bytes. Batches are slices of it, so no loader and no worker processes are
# needed. `channels_last` stores the channels of a pixel next to each other; convolutions are fastest in this layout
# here.

# %%
train_images, train_labels = data.train.images.to(device), data.train.labels.to(device)
val_images, val_labels = data.val.images.to(device), data.val.labels.to(device)
test_images, test_labels = data.test.images.to(device), data.test.labels.to(device)
mean, std = mean.to(device), std.to(device)

torch.manual_seed(SEED)
network = ResNet34(len(classes), in_channels=train_images.shape[3])
with torch.no_grad():
    network.eval()(torch.zeros(1, *train_images.shape[3:], 32, 32))  # gives the lazy head its shape
network = network.to(device, memory_format=torch.channels_last)

# %% [markdown]
# The loss is cross-entropy: the negative logarithm of the predicted probability of the true class $c$,
#
# $$ L(z, c) = -\log \frac{e^{z_c}}{\sum_k e^{z_k}}, $$
#
# averaged over the batch. Adam's learning rate is $10^{-3}$; `fused` updates all weights in one kernel.

# %%
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)


def train_epoch(network, images, labels, optimizer, generator):
    """Train on every image once, in random order; images that do not fill the last batch are left out."""
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
    """Mean loss and accuracy."""
    logits = predict(network, images)
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()


# %% [markdown]
# After each epoch the network is scored, in evaluation mode, on a fixed sample of the training images, on the
# validation images and on the test images. The table shows the first two during training. The test scores are only for
# the curves below: they choose nothing, and are not shown before the end of the training. The weights with the best
# validation accuracy are kept.
#
# In the stored run this took about a quarter of an hour on two CPU cores with bfloat16. It takes longer without
# bfloat16, and far less on a GPU.

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
# For comparison, the library's run of the same recipe (`notebook-resnet34`: the same network, data and optimiser, other
# random numbers) reached <!--= training("notebook-resnet34") -->93.7 %<!--/--> on the training sample and <!--= validation("notebook-resnet34", -1) -->72.8 %<!--/-->
# on validation, both after its last epoch, and <!--= test("notebook-resnet34") -->74.2 %<!--/--> on the test images.

# %% [markdown]
# ## 8. The test, then the curves
#
# The test images are scored with the weights of the last epoch and with those of the epoch with the best validation
# accuracy. The second score is the result; the first shows the effect of the choice. An accuracy on $n$ images has an
# interval (Wilson's, 95 %): nineteen of twenty such intervals contain the accuracy on an unlimited number of images of
# the same kind.

# %%
last = predict(network, test_images)
network.load_state_dict(best_weights)
logits = predict(network, test_images).cpu()
truth = data.test.labels


def accuracy_with_interval(right, of):
    """Accuracy with Wilson's 95 % interval."""
    low, high = wilson(right, of)
    return f"{right / of:.2%} ({low:.1%} to {high:.1%})"


print(f"test accuracy on {len(truth):,} images")
for name, found in ((f"last epoch, {EPOCHS}", last.cpu()), (f"best epoch on validation, {best_epoch}", logits)):
    print(f"{name:<27} {accuracy_with_interval(int((found.argmax(1) == truth).sum()), len(truth))}")

# %% [markdown]
# In the curves, the training loss keeps falling. Where the validation loss stops falling, the network begins to
# overfit. The improvements below aim to reduce the gap between the training curve and the two others. The validation
# and test curves are close to each other, as expected, because the network is trained on neither.

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
# The figure shows the activations of the trained network for one test image: after each stage the shape, mean and
# standard deviation of the output, and the eight feature maps with the largest variance. The maps get smaller; the last
# ones have a single pixel. On the left is a diagram of the network. (`resnetlab models RUN --image PICTURE
# --save-figure FILE` draws this for any network.)

# %%
library = resnetlab.build_model("resnet34", len(classes), in_channels=train_images.shape[3], stem="imagenet")
library.load_state_dict(network.state_dict())
image = data.test.images[:1]
stops = collect_activations(library.eval(), normalise(image.to(device)).cpu())
picture = activations_figure(library, stops, image[0].numpy(), classes=classes, title="the trained ResNet-34")
display(Image(rendered(picture, "png"), width=880))

# %% [markdown]
# ## 9. Saving, loading, and a summary
#
# A checkpoint of a network is its `state_dict`: tensors by name. `weights_only=True` loads tensors and refuses code,
# which a file from an unknown source could contain. To load the checkpoint, we build a new network; it must give the
# same logits. (The library's model file also contains the classes, the preprocessing and a digest over every byte, so
# it can be used without this notebook: `resnetlab.load`.)

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
    """Display a Markdown table; all columns but the first are aligned to the right."""
    lines = [head, [":--"] + ["--:"] * (len(head) - 1), *rows]
    display(Markdown("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)))


table(("run", "value"), summary.items())

# %% [markdown]
# ## 10. Improvements, each measured
#
# The tutorial ends with a list of things to try next. We try them, each on top of the previous one:
#
# 1. random crops and mirror images,
# 2. a decreasing learning rate, in steps or along a cosine,
# 3. the checkpoint with the best validation accuracy,
# 4. precision, recall and F1 of each class,
# 5. a stem for small images.
#
# Each training takes as long as the one above or longer, so these are stored runs of the library's trainer, from
# `results/`. Reproduce them with `python tools/experiments.py notebook-resnet34 improvements --data cifar10`.

# %% [markdown]
# ### Crop and flip
#
# An image that is moved by up to four pixels, or mirrored, still shows the same object, but it is a different input.
# The network rarely sees exactly the same input twice, so it is harder to memorise the images. Each image is padded
# with four black pixels on each side and cropped to the original size at a random position; half of the images are
# mirrored. Only training images are augmented. (For digits mirroring would be wrong: a mirrored 2 is not a 2.)


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
# ### A decreasing learning rate
#
# Start with large steps, finish with small ones. The *step* schedule divides the rate by ten after a half and after
# three quarters of the run, as in the paper. The *cosine* schedule decreases it smoothly,
#
# $$ \eta_t = \eta_0\,\tfrac{1}{2}\left(1 + \cos\frac{\pi t}{T}\right), $$
#
# for step $t$ of $T$. Both depend only on $t/T$, so a short run has a complete schedule, not the beginning of a long
# one.

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
# The last weights are not always the best: at a constant rate the accuracy varies from epoch to epoch. So we keep the
# weights with the best validation accuracy, as above. The validation accuracy of the chosen epoch is slightly too high,
# because the epoch was chosen for it. The test accuracy is not, as long as the test images choose nothing. The table
# below has the validation accuracy of the last epoch and of the best one.

# %% [markdown]
# ### Precision, recall and F1
#
# A single accuracy hides which classes are hard. The table shows, for the network trained above and the test images:
# *precision*, the share of the images predicted as cat that are cats; *recall*, the share of the cats that are
# predicted as cat; and F1, their harmonic mean,
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
# The confusion matrix counts the images by true class (rows) and predicted class (columns).

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
# The figure shows test images with the predicted class and its probability: the first correct prediction of each class,
# and the mistakes with the highest probability. Some of these mistakes are images that are hard for a person, too.

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
# The last improvement is the stem. One 3×3 convolution without stride or pooling keeps the image at 32×32, and the
# stages work on maps of 32, 16, 8 and 4 pixels instead of 8, 4, 2 and 1. Two attributes change:

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
# Every stage works on sixteen times as many pixels, so an epoch costs many times as much. For that reason this run has
# only <!--= epochs("improvements/cifar-stem") -->2<!--/--> epochs: fewer epochs than the other runs, but a complete
# cosine schedule.

# %% [markdown]
# ### The effect of each
#
# All five runs use the same units and data, Adam with an initial rate of $10^{-3}$, and batches of 128. All but the
# last use the 7×7 stem and ten epochs. The test accuracy is that of the epoch with the best validation accuracy. The
# difference to the first run is in points, with a 95 % interval for two independent samples,
#
# $$ p - q \pm 1{.}96\,\sqrt{\frac{p(1-p)}{n} + \frac{q(1-q)}{n}}. $$
#
# Both runs use the same test images, so the true interval is somewhat narrower. We measure cost in multiply-adds of the
# forward passes, because minutes depend on the other work of the machine.

# %%
RUNS = {
    "7×7 stem, constant rate": "notebook-resnet34",
    "+ crop and flip": "improvements/crop-flip",
    "+ step schedule": "improvements/crop-flip-step",
    "+ cosine schedule instead": "improvements/crop-flip-cosine",
    "+ 3×3 stem, fewer epochs": "improvements/cifar-stem",
}


def stored(name):
    """A stored run: its epochs, the cost of an epoch, the best epoch, and the test scores."""
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
    """Test accuracy minus that of the first run, and half its 95 % interval, both in points."""
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
# In numbers, on the test images, each compared with the run that it extends:
#
# - Crop and flip: <!--= points("improvements/crop-flip", "notebook-resnet34") -->+1.0<!--/--> points. After ten epochs
#   the network is right on <!--= training("improvements/crop-flip") -->76.6 %<!--/--> of the training images (without
#   augmentation) and on <!--= validation("improvements/crop-flip", -1) -->73.4 %<!--/--> of the validation images.
#   Without crop and flip these were <!--= training("notebook-resnet34") -->93.7 %<!--/--> and <!--= validation("notebook-resnet34", -1) -->72.8 %<!--/-->.
# - A step schedule on top: <!--= points("improvements/crop-flip-step", "improvements/crop-flip") -->+1.4<!--/-->
#   points; a cosine schedule instead: <!--= points("improvements/crop-flip-cosine", "improvements/crop-flip") -->+2.7<!--/-->.
# - The 3×3 stem on top of crop, flip and cosine: <!--= points("improvements/cifar-stem", "improvements/crop-flip-cosine") -->−7.2<!--/-->
#   points, in <!--= epochs("improvements/cifar-stem") -->2<!--/--> epochs instead of <!--= epochs("improvements/crop-flip-cosine") -->10<!--/-->,
#   and with <!--= cost("improvements/cifar-stem") -->104<!--/--> · 10¹² multiply-adds instead of <!--= cost("improvements/crop-flip-cosine") -->34<!--/-->
#   · 10¹². These are few epochs: after two epochs the run with the 7×7 stem was right on <!--= validation("improvements/crop-flip-cosine", 2) -->60.7 %<!--/-->
#   of the validation images, this one on <!--= validation("improvements/cifar-stem", 2) -->69.8 %<!--/-->. ResNet-18
#   with the 3×3 stem, trained for <!--= epochs("cifar10-resnet18") -->8<!--/--> epochs with the recipe
#   `cifar10-resnet18`, reaches <!--= test("cifar10-resnet18") -->85.8 %<!--/--> on the test images.
#
# Each run has one seed. Another seed is likely to change such an accuracy by about half a point, and other test images
# by more, as the intervals show. A difference smaller than its interval is not significant. The line below the table
# names the runs with a larger difference.

# %% [markdown]
# ## 11. Comparison with a pretrained network
#
# With few images, one usually starts from a pretrained network. torchvision's ResNet-34 was trained on more than a
# million photographs of ImageNet. Our class has the same names and shapes, so it can load those weights. Its weights
# are then *frozen*, and only a new head is trained: logistic regression on the 512 pooled features, which are computed
# once per image.
#
# The images are enlarged to 128 pixels, because the filters were trained on larger objects, and normalised with
# ImageNet's constants. To save time, the head is trained on only 5,000 of the training images. The two networks did not
# have the same training data: ImageNet contains most of our ten classes in many varieties.
#
# The weights are read from the file that `RESNETLAB_RESNET34_WEIGHTS` names, from torch.hub's folder
# (`~/.cache/torch/hub/checkpoints`), or from torchvision's server (83 MB). If none of these has them, the cell prints
# what to do, and the notebook continues. With the weights, the cell takes a minute or two on two CPU cores.

# %% tags=["pretrained"]
WEIGHTS = "resnet34-b627a593.pth"  # the name ends in the first digits of the file's SHA-256
IMAGENET_MEAN, IMAGENET_STD = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)


def find_weights(download):
    """Path of torchvision's ImageNet weights, downloaded if `download`; None if they are not available."""
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
    """Pooled features (N, 512) of uint8 images (N, H, W, C), by a network without its head."""
    found = []
    for part in images.split(100):
        batch = part.to(device).permute(0, 3, 1, 2).expand(-1, 3, -1, -1) / 255  # a grey image: three equal channels
        batch = F.interpolate(batch, size=(pixels, pixels), mode="bilinear", antialias=True)
        batch = (batch - IMAGENET_MEAN.to(device)) / IMAGENET_STD.to(device)
        with autocast():
            found.append(network(batch.contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(found)


def pretrained_predictions(file, train, test, pixels):
    """Classes predicted by ImageNet's frozen weights and a new head, trained on `train` = (images, labels)."""
    network = ResNet34(classes=1000)
    network.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
    network.fc = nn.Identity()
    network = network.eval().to(device, memory_format=torch.channels_last)
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    head.fit(frozen_features(network, train[0], pixels).numpy(), train[1].numpy())
    return torch.from_numpy(head.predict(frozen_features(network, test, pixels).numpy()))


# %% [markdown]
# Both networks classify the same test images, so the interval of the difference is narrower than for two independent
# accuracies: only images on which exactly one of them is right count. With $b$ and $c$ such images out of $n$, the
# difference is $(b - c)/n$, and its standard error is $\sqrt{b + c - (b - c)^2/n}\,/\,n$.

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
# `resnetlab baseline --data FOLDER` makes the full comparison, with a third network: ImageNet's weights, fine-tuned in
# every layer.
