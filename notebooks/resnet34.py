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
# The network of He et al., [*Deep Residual Learning for Image Recognition*](https://arxiv.org/abs/1512.03385) (2015),
# in about fifty lines of PyTorch, tested against torchvision's. It is trained by a loop of two short functions. Then we
# measure the effect of each of the usual improvements, and learn new classes from a few images.
#
# 1. Set-up
# 2. Why deep plain networks are hard
# 3. The residual unit
# 4. ResNet-34
# 5. The same network as the library's and torchvision's
# 6. CIFAR-10
# 7. Training: ten epochs with Adam
# 8. The curves, then one test
# 9. A checkpoint, and a summary
# 10. Improvements, each measured
# 11. Transfer: new classes from a few images
# 12. Comparison with a network that learned from ImageNet
# 13. Exercises, and what to read next

# %% [markdown]
# ## 1. Set-up
#
# The notebook uses the package `resnetlab` of this repository for the data and for comparison. If it is not installed,
# the first cell installs it with its dependencies. On Colab, first write the address of the repository into the cell.

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

# %%
import inspect
import json
import math
import socket
import tempfile
import time
from http.client import HTTPException

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import resnetlab
from helpers import (
    RESULTS,
    accuracy_with_interval,
    class_table,
    confusion_figure,
    curves_figure,
    difference,
    epoch_cost,
    image_rows,
    images_by_class,
    is_stored,
    load_run,
    mean_with_interval,
    output_shapes,
    predictions_figure,
    rates_figure,
    runs_figure,
    show,
    signed,
    table,
    transfer_figure,
    unit_figure,
)
from resnetlab.interpret.activations import collect_activations
from resnetlab.models.summary import describe
from resnetlab.plots.activations import activations_figure
from resnetlab.plots.style import RULES
from resnetlab.runtime import start

# %% [markdown]
# Choose an image source and set `DATA` to it:
#
# - `"cifar10"`: the original CIFAR-10, downloaded once (170 MB);
# - the path of a folder with one sub-folder of images per class (the environment variable `RESNETLAB_CIFAR10_JPEG` can
#   hold the path);
# - `"digits"`: the small handwritten digits that come with scikit-learn; no download.
#
# `RESNETLAB_QUICK` is for automatic checks: every cell runs on the digits, for one epoch; the results then mean
# nothing. The helpers for tables and pictures are in [`helpers.py`](helpers.py).

# %%
QUICK = "RESNETLAB_QUICK" in os.environ
DATA = "digits" if QUICK else os.environ.get("RESNETLAB_CIFAR10_JPEG", "cifar10")
EPOCHS = 1 if QUICK else 10
BATCH = 128
SEED = 0
DOWNLOAD_WEIGHTS = not QUICK  # for section 12: 83 MB from torchvision's server, once

plt.rcParams.update(RULES)  # figures in the style of the library's reports

# %% [markdown]
# ## 2. Why deep plain networks are hard
#
# A *convolution* computes each pixel of its output from a small window of its input, such as 3×3 pixels, in all
# channels; the weights of the window, its *kernel*, are the same everywhere. One channel of such an output is called a
# *feature map*. A *plain* network is a stack of convolutions, with a *ReLU* after each, which replaces negative numbers
# by zero: without it, several convolutions in a row would be no more than a single one. (The notebook
# [`resnet18`](resnet18.ipynb) shows each of these operations on small numbers.)
#
# A deeper network can compute everything a shallower one can: its additional layers only have to compute the identity.
# So its *training* error should be no higher. In practice it is higher. On ImageNet, the paper's plain network of 34
# layers has a validation error of <!--= percent(0.2854, 2) -->28.54 %<!--/-->, the one of 18 layers <!--= percent(0.2794, 2) -->27.94 %<!--/-->
# (Table 2). The deeper network is also worse on the training images (Fig. 4). On CIFAR-10 the same happens from 20 to
# 56 layers (Fig. 1). This is not overfitting, which would lower the training error. It is not simply a vanishing signal
# either: these networks have a *batch norm* after every convolution, which shifts and scales each channel to mean 0 and
# variance 1 over the batch (then multiplies it by a learned number and adds another). The paper calls the effect
# *degradation*: a better solution exists, but gradient descent does not find it. The paper suggests that a stack of
# convolutions, norms and ReLUs has difficulty in computing the identity.
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
# (apart from the ReLU after the addition). With shortcuts, the deeper of the paper's two networks is the better
# one: <!--= percent(0.2503, 2) -->25.03 %<!--/--> at 34 layers, <!--= percent(0.2788, 2) -->27.88 %<!--/--> at 18. Which
# property of the addition is the reason is not settled by such a comparison. The notebook
# [`why_residuals`](why_residuals.ipynb) measures both kinds of network on CIFAR-10, and several of their properties.

# %% [markdown]
# ## 3. The residual unit
#
# $F$ is a 3×3 convolution, batch norm, ReLU, a 3×3 convolution, batch norm. Then come the addition and a ReLU on the
# sum. A border of zeros around the input (*padding*) keeps the size of the maps.
#
# The shortcut is $x$ itself where $F(x)$ has the same shape. At the beginning of a stage, the first convolution has
# *stride* 2: its window moves by two pixels at a time, so that the maps have half the height and width, and it has
# twice as many output channels. There the shortcut is a *projection*: a 1×1 convolution with the same stride and a
# batch norm (the paper's option B). Each output pixel is a linear combination of the channels of one input pixel.
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
# The next cell draws both kinds of unit from this code: `torch.fx` records the operations of `forward`. Shapes are
# channels × height × width.

# %%
units = {"same shape": ResidualUnit(64, 64), "half the size, twice the channels": ResidualUnit(64, 128, stride=2)}
show(unit_figure(units, (64, 8, 8)))

# %% [markdown]
# ## 4. ResNet-34
#
# The network is the paper's Table 1, row by row. The *stem* reduces the image: a 7×7 convolution with stride 2, then a
# *max pool* with stride 2, which keeps the largest value of each 3×3 window. Four *stages* of 3, 4, 6 and 3 units
# follow, with 64, 128, 256 and 512 channels. The first unit of stages 2 to 4 halves the map. The *head* averages each
# channel over its map, and a linear layer computes one number for each class from the 512 means. These numbers are
# called *logits*: the higher the logit, the more probable the class. Number of layers with weights that an image
# passes: $1 + 2\,(3 + 4 + 6 + 3) + 1 = 34$.
#
# `nn.LazyLinear(10)` is a linear layer that needs only its number of outputs. It takes the number of inputs from its
# first batch, so we do not have to compute the 512 by hand. Before that its weight has no shape: count the parameters,
# move them to a device and pass them to an optimiser only after a first forward pass.
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
# The next cell shows the shape of one image of 32×32 pixels after each part. This is also the first forward pass, which
# gives the lazy layer its shape.

# %%
torch.manual_seed(SEED)
network = ResNet34()
print("the head before its first batch:", network.fc)
shapes = output_shapes(network, (3, 32, 32))
print("the head after its first batch: ", network.fc)
print(f"parameters: {sum(weight.numel() for weight in network.parameters()):,}")
table(("part", "output"), shapes.items())

# %% [markdown]
# The stem is designed for images of 224 pixels, which it reduces to 56. It reduces 32 pixels to 8, and the stages then
# work on maps of 8×8, 4×4, 2×2 and 1×1 pixels: the output of the last stage is <!--= shape("resnet34", "layer4") -->512×1×1<!--/-->.
# On a map of 1×1, the centre of a 3×3 kernel is multiplied by the one pixel, and its other eight weights only by
# padding. Those weights have no effect:

# %%
rows = describe("resnet34", 32, num_classes=10, stem="imagenet")
table(
    ("stage", "output", "weights", "never used"),
    [(row.stage, "×".join(map(str, row.shape)), f"{row.params:,}", f"{row.idle:,}") for row in rows],
)
idle, weights = sum(row.idle for row in rows), sum(row.params for row in rows)
print(f"never used: {idle / 1e6:.1f} of {weights / 1e6:.1f} million weights ({idle / weights:.0%})")

# %% [markdown]
# (`resnetlab models resnet34 --image-size 32 --stem imagenet` warns about it.) Many tutorials train this network
# nevertheless, and we do so first. In section 10 we replace the stem by one 3×3 convolution without stride or pooling.

# %% [markdown]
# ## 5. The same network as the library's and torchvision's
#
# If three programs compute the same function with the same operations, the same weights and images give the same
# logits, bit for bit in float32. We load the weights of a new torchvision network into ours and into the library's. Then we run a
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
# From here on, we train `ResNet34` from above, in a loop of plain PyTorch. The library's own training is faster on CPUs
# with bfloat16 instructions, because its convolutions are faster.

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
# Many tutorials give `0.2023, 0.1994, 0.2010` as $\sigma$ of CIFAR-10. That is about the mean of the standard deviations
# of the single images. It is too small, because images also differ from each other in brightness, which the deviation
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
# ### The images
#
# `normalise` converts stored pixels to the input of the network.

# %%
mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (means, stds))


def normalise(images):
    """uint8 (N, H, W, C) to float (N, C, H, W)."""
    return (images.permute(0, 3, 1, 2) / 255 - mean) / std


show(images_by_class(data.train, classes, f"Three training images of each class of {data.name}"))

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
# needed. `channels_last` stores the channels of a pixel next to each other. PyTorch's convolutions in bfloat16 on a CPU
# are made for this layout.

# %%
train_images, train_labels = data.train.images.to(device), data.train.labels.to(device)
val_images, val_labels = data.val.images.to(device), data.val.labels.to(device)
mean, std = mean.to(device), std.to(device)

torch.manual_seed(SEED)
network = ResNet34(len(classes), in_channels=train_images.shape[3])
with torch.no_grad():
    network.eval()(torch.zeros(1, train_images.shape[3], 32, 32))  # gives the lazy head its shape
network = network.to(device, memory_format=torch.channels_last)

# %% [markdown]
# The *loss* is cross-entropy: the negative logarithm of the predicted probability of the true class $c$,
#
# $$ L(z, c) = -\log \frac{e^{z_c}}{\sum_k e^{z_k}}, $$
#
# averaged over the batch; the fraction, which turns logits $z$ into probabilities, is called *softmax*. `backward`
# computes the gradient of the loss with respect to every weight, and the *optimiser* changes the weights to lower the
# loss. Adam (Kingma and Ba, [2014](https://arxiv.org/abs/1412.6980)) divides each weight's step by the typical size of
# its gradient; its *learning rate*, here $10^{-3}$, is the size of the steps. `fused=True` updates all weights in one
# call. One *epoch* is one pass over the training images.

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


def score(network, images, labels):
    """Mean loss and accuracy."""
    logits = predict(network, images)
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()


# %% [markdown]
# After each epoch the network is scored, in evaluation mode, on a fixed sample of the training images and on the
# validation images. The weights with the best validation accuracy are kept. The test images are not touched. The last
# column is the time of the epoch: minutes on a CPU, seconds on a graphics card. Equal epochs take different times when
# the machine has other work.

# %%
shuffle = torch.Generator().manual_seed(SEED)
sample = torch.randperm(len(train_labels), generator=torch.Generator().manual_seed(SEED))[:5000].to(device)

history, best_weights, seconds = [], {}, 0.0
print("epoch  train loss  train accuracy  val loss  val accuracy  seconds")
for epoch in range(1, EPOCHS + 1):
    began = time.perf_counter()
    train_epoch(network, train_images, train_labels, optimizer, shuffle)
    train_loss, train_accuracy = score(network, train_images[sample], train_labels[sample])
    val_loss, val_accuracy = score(network, val_images, val_labels)
    took = time.perf_counter() - began
    seconds += took
    if all(val_accuracy > earlier["val_accuracy"] for earlier in history):
        best_weights, best_epoch = {key: value.clone() for key, value in network.state_dict().items()}, epoch
    history.append(
        {
            **{"epoch": epoch, "train_loss": train_loss, "train_accuracy": train_accuracy},
            **{"val_loss": val_loss, "val_accuracy": val_accuracy},
        }
    )
    print(f"{epoch:>5} {train_loss:>11.3f} {train_accuracy:>15.2%} {val_loss:>9.3f} {val_accuracy:>13.2%} {took:>8.1f}")

# %% [markdown]
# For comparison, the library's run of the same recipe (`notebook-resnet34`: the same network, data and optimiser, other
# random numbers) reached <!--= training("notebook-resnet34") -->93.7 %<!--/--> on the training sample and <!--= validation("notebook-resnet34", -1) -->72.8 %<!--/-->
# on validation, both after its last epoch, and <!--= test("notebook-resnet34") -->74.2 %<!--/--> on the test images.

# %% [markdown]
# ## 8. The curves, then one test
#
# Where the training loss keeps falling and the validation loss does not, the network *overfits*: it learns properties
# of the training images that other images do not have. The improvements below aim to reduce the gap between the two.

# %%
show(curves_figure({"ResNet-34": history}, f"{data.name}, Adam"))

# %% [markdown]
# Now the test images are scored, once, with the weights of the epoch with the best validation accuracy. An accuracy on
# $n$ images has an interval (Wilson's, 95 %): nineteen of twenty such intervals contain the accuracy on an unlimited
# number of images of the same kind.

# %%
network.load_state_dict(best_weights)
logits = predict(network, data.test.images.to(device)).cpu()
truth, predicted = data.test.labels, logits.argmax(1)
right = int((predicted == truth).sum())
print(f"best epoch on validation: {best_epoch}")
print(f"accuracy on {len(truth):,} test images: {accuracy_with_interval(right, len(truth))}")

# %% [markdown]
# ### One image, stage by stage
#
# The figure shows the *activations* of the trained network, which are the outputs of its parts, for one test image:
# after each stage the shape, mean and standard deviation of the output, and the feature maps with the largest variance,
# on one scale for the whole row. The maps get smaller; those of the last stage are single pixels, and the brightest has
# the largest value. On the left is a diagram of the network. (`resnetlab models RUN --image PICTURE --save-figure FILE`
# draws this for any network.)

# %%
library = resnetlab.build_model("resnet34", len(classes), in_channels=train_images.shape[3], stem="imagenet")
library.load_state_dict(network.state_dict())
image = data.test.images[:1]
activations = collect_activations(library.eval(), normalise(image.to(device)).cpu())
figure = activations_figure(library, activations, image[0].numpy(), classes=classes, title="the trained ResNet-34")
show(figure)

# %% [markdown]
# ## 9. A checkpoint, and a summary
#
# A *checkpoint* is a file with everything that is needed later. To use the network again, we need its weights (the
# `state_dict`: tensors by name), the names of the classes, and the constants of the normalisation: with other constants
# the same weights give other logits. (To continue the training, one would also need the state of the optimiser.)

# %%
CHECKPOINT = Path(tempfile.gettempdir() if QUICK else "", "my_resnet34_checkpoint.pt")
torch.save(
    {
        "weights": network.state_dict(),
        "classes": list(classes),
        "mean": means,
        "std": stds,
        "epoch": best_epoch,
        "val_accuracy": history[best_epoch - 1]["val_accuracy"],
    },
    CHECKPOINT,
)
print(f"{CHECKPOINT.name}: {CHECKPOINT.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# The next cell reads the file and shows its content. `weights_only=True` loads tensors, numbers, texts and lists, and
# refuses code, which a file from an unknown source could contain.

# %%
stored = torch.load(CHECKPOINT, weights_only=True, map_location="cpu")
tensors = stored["weights"]
table(
    ("key", "content"),
    [
        (
            "weights",
            f"{len(tensors)} tensors, {sum(value.numel() for value in tensors.values()):,} numbers: parameters and running averages",
        ),
        *((key, f"`{value}`") for key, value in stored.items() if key != "weights"),
    ],
)
names = list(tensors)
table(
    ("tensor", "shape", "kind"),
    [
        (
            f"`{key}`",
            "×".join(map(str, tensors[key].shape)) or "one number",
            str(tensors[key].dtype).removeprefix("torch."),
        )
        for key in (*names[:8], *names[-2:])
    ],
)
print(f"the first eight and the last two of {len(names)} tensors; num_batches_tracked counts the training batches")

# %% [markdown]
# A new network with these weights must give the same logits:

# %%
reloaded = ResNet34(len(stored["classes"]), in_channels=len(stored["mean"]))
reloaded.load_state_dict(stored["weights"])
reloaded = reloaded.to(device, memory_format=torch.channels_last)
same = torch.equal(predict(reloaded, val_images), predict(network, val_images))
print(f"the reloaded network gives the same logits for all validation images: {same}")

# %% [markdown]
# (The library's model file also contains a digest over every byte and the preprocessing of any image, so it can be used
# without this notebook: [`resnetlab.load`](../src/resnetlab/inference/model_file.py).)

# %%
summary = {
    "data": f"{data.name}: {len(data.train):,} / {len(data.val):,} / {len(data.test):,} images",
    "network": f"ResNet-34, 7×7 stem, {sum(weight.numel() for weight in network.parameters()):,} parameters",
    "training": f"{EPOCHS} × {len(data.train) // BATCH} steps of {BATCH} images, Adam at 0.001, seed {SEED}",
    "device": f"{device.type}, {'bfloat16' if has_bf16 else 'float32'}, torch {torch.__version__}",
    "time": f"{seconds / 60:.1f} minutes, scoring included",
    "best epoch": f"{best_epoch}, validation accuracy {history[best_epoch - 1]['val_accuracy']:.2%}",
    "test accuracy": accuracy_with_interval(right, len(truth)),
}
table(("run", "value"), summary.items())

# %% [markdown]
# ## 10. Improvements, each measured
#
# We try what many tutorials recommend next, each on top of the previous one:
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
# mirrored. Only training images are changed so (*augmented*). (For digits mirroring would be wrong: a mirrored 2 is not
# a 2.)


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
title = "One training image, and nine draws of crop and flip"
show(image_rows([[data.train.images[0], *draws]], title, captions=[["stored"]]))

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
def step_rate(done):
    """A tenth of the rate at 1/2 and again at 3/4; `done` is the share of the training that is done."""
    return 1e-3 * 0.1 ** ((done >= 0.5) + (done >= 0.75))


def cosine_rate(done):
    return 1e-3 * (1 + math.cos(math.pi * done)) / 2


show(rates_figure({"constant": lambda _: 1e-3, "step": step_rate, "cosine": cosine_rate}, epochs=10))

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
class_table(truth, predicted, classes)

# %% [markdown]
# The confusion matrix counts the images by true class (rows) and predicted class (columns).

# %%
show(confusion_figure(truth, predicted, classes, "test images"))

# %% [markdown]
# The figure shows random test images with the predicted class and its probability: correct predictions above, mistakes
# below.

# %%
probabilities = logits.softmax(1)
title = "Test images: correct predictions above, mistakes below"
show(predictions_figure(data.test.images, truth, probabilities, classes, title=title))

# %% [markdown]
# ### A 3×3 stem
#
# The last improvement is the stem. One 3×3 convolution without stride or pooling keeps the image at 32×32, and the
# stages work on maps of 32, 16, 8 and 4 pixels instead of 8, 4, 2 and 1. Two attributes change:

# %%
small = ResNet34()
small.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
small.maxpool = nn.Identity()
table(("part", "output"), output_shapes(small, (3, 32, 32)).items())

costs = {}
for stem in ("imagenet", "cifar"):
    rows = describe("resnet34", 32, num_classes=10, stem=stem)
    costs[stem], idle = sum(row.macs for row in rows), sum(row.idle for row in rows)
    print(f"{stem:<8} stem: {costs[stem] / 1e6:>6,.0f} million multiply-adds an image, {idle:>10,} weights never used")
print(f"{costs['cifar'] / costs['imagenet']:.1f} times the multiply-adds")

# %% [markdown]
# Every stage works on sixteen times as many pixels, so an epoch costs many times as much.

# %% [markdown]
# ### The effect of each
#
# All runs use the same units and data, Adam with an initial rate of $10^{-3}$, and batches of 128. The test accuracy is
# that of the epoch with the best validation accuracy; the test images are used once for each run. The difference to the
# first run is in points, with a 95 % interval for two independent samples,
#
# $$ p - q \pm 1{.}96\,\sqrt{\frac{p(1-p)}{n} + \frac{q(1-q)}{n}}. $$
#
# It is given only for runs with as many epochs as the first. Both runs use the same test images, so the true interval
# is somewhat narrower; but it covers other images only, not other seeds. We measure cost in multiply-adds of the
# forward passes, because minutes depend on the other work of the machine.

# %%
RUNS = {
    "7×7 stem, constant rate": "notebook-resnet34",
    "+ crop and flip": "improvements/crop-flip",
    "+ step schedule": "improvements/crop-flip-step",
    "+ cosine schedule instead": "improvements/crop-flip-cosine",
    "+ 3×3 stem, short": "improvements/cifar-stem",
    "+ 3×3 stem": "improvements/cifar-stem-10",
}
runs = {title: load_run(name) for title, name in RUNS.items() if is_stored(name)}
first = runs["7×7 stem, constant rate"]
differences = {
    title: difference(run, first)
    for title, run in runs.items()
    if run is not first and len(run.epochs) == len(first.epochs)
}
table(
    ("run", "epochs", "10¹² multiply-adds", "train, last", "val, last", "val, best (epoch)", "test", "points"),
    [
        (
            title,
            len(run.epochs),
            f"{epoch_cost(run) * len(run.epochs):.0f}",
            f"{run.epochs[-1]['train_accuracy']:.1%}",
            f"{run.epochs[-1]['val_accuracy']:.1%}",
            f"{run.best['val_accuracy']:.1%} ({run.best['epoch']:.0f})",
            f"{run.test['accuracy']:.1%}",
            "{:+.1f} ± {:.1f}".format(*differences[title]) if title in differences else "",
        )
        for title, run in runs.items()
    ],
)
print(f"{first.config['data']['name']}, {first.test['images']:,} test images, seed {first.config['seed']}")
clear = [title for title, (points, half) in differences.items() if abs(points) > half]
print("further from the first run than the interval:", "; ".join(clear) or "none")

# %%
show(runs_figure(runs))

# %% [markdown]
# In numbers, on the test images, each compared with the run that it extends:
#
# - Crop and flip: <!--= points("improvements/crop-flip", "notebook-resnet34") -->+1.0<!--/--> points. After ten epochs
#   the network is right on <!--= training("improvements/crop-flip") -->76.6 %<!--/--> of the training images (without
#   augmentation) and on <!--= validation("improvements/crop-flip", -1) -->73.4 %<!--/--> of the validation images.
#   Without crop and flip these were <!--= training("notebook-resnet34") -->93.7 %<!--/--> and <!--= validation("notebook-resnet34", -1) -->72.8 %<!--/-->.
# - A step schedule on top: <!--= points("improvements/crop-flip-step", "improvements/crop-flip") -->+1.4<!--/-->
#   points; a cosine schedule instead: <!--= points("improvements/crop-flip-cosine", "improvements/crop-flip") -->+2.7<!--/-->.
#
# The 3×3 stem costs many times as much per epoch. Its effect is that of the stem alone only where the number of epochs
# is the same:

# %%
cosine = runs["+ cosine schedule instead"]
for title, run in runs.items():
    if run.config["model"]["stem"] == "cifar":
        times = len(run.epochs) * run.multiply_adds / (len(cosine.epochs) * cosine.multiply_adds)
        same = len(run.epochs) == len(cosine.epochs)
        said = signed(*difference(run, cosine)) if same else "another number of epochs, so not the effect of the stem"
        print(f"{title}: {run.test['accuracy']:.1%} on the test images after {len(run.epochs)} epochs;", end=" ")
        print(f"the 7×7 stem has {cosine.test['accuracy']:.1%} after {len(cosine.epochs)}: {said};", end=" ")
        print(f"{times:.1f} times the multiply-adds")

# %% [markdown]
# Each run has one seed. Another seed gives another accuracy, and none of the intervals contains that. A difference
# smaller than its interval is not significant; the line below the table names the larger ones.

# %% [markdown]
# ## 11. Transfer: new classes from a few images
#
# Often there are only a few images of the classes that one needs, but many of others. *Transfer* means to train a
# network on the others first, and to begin the training on the few images with its weights. We measure how much that
# helps, within CIFAR-10: ResNet-34 with the 7×7 stem is trained on the first six classes in alphabetical order. Then it
# learns the other four from 5, 20 or 100 images each, in one of three ways:
#
# - *from scratch*: new weights, all of them trained; the first training is not used;
# - *frozen*: the weights of the first training stay as they are, and only a new head is trained: logistic regression on
#   the 512 means of the last maps;
# - *fine-tuned*: a new head on the weights of the first training, and all of them are trained.
#
# This code does it. It is in [`tools/transfer.py`](../tools/transfer.py), and uses the library's ResNet-34, which
# section 5 has shown to be equal to ours:

# %%
sys.path.append("../tools")
transfer = importlib.import_module("transfer")

print(inspect.getsource(transfer.trained))
print(inspect.getsource(transfer.Scores.predictions))

# %% [markdown]
# The learning rate of the two trainings, and the regularisation of the logistic regression, are chosen on validation
# images, for each way and number of images. (These are far more images than the few; in practice one would not have
# them. All ways are treated alike.) Then everything is repeated with five other draws of the few images, each
# with another seed, and scored on all test images of the four classes. The first training takes many minutes on a CPU,
# so the result is stored. `python tools/transfer.py --data cifar10` reproduces it.

# %%
found = json.loads((RESULTS / "transfer" / "scores.json").read_text())
print(f"known: {', '.join(found['known'])}; new: {', '.join(found['new'])}")
right, of = found["test_of_known"]["right"], found["test_of_known"]["images"]
print(f"first training: {found['epochs']} epochs, {right / of:.1%} of {of:,} test images of the known classes")

accuracies = {}  # in percent, in the order of the draws
for row in found["rows"]:
    if row["split"] == "test":
        accuracies.setdefault((row["way"], row["count"]), []).append(100 * row["right"] / row["images"])
ways, counts = (list(dict.fromkeys(key[i] for key in accuracies)) for i in (0, 1))
table(
    ("way", *(f"{count} images of each class" for count in counts)),
    [(way, *(mean_with_interval(accuracies[way, count]) for count in counts)) for way in ways],
)
show(transfer_figure(accuracies, chance=100 / len(found["new"])))

# %% [markdown]
# The table has the mean test accuracy (%) of the five draws and its 95 % interval (Student's $t$), the figure also the
# single draws. The same draws are used for all ways, so we can compare them draw by draw:

# %%
table(
    ("difference in points", *(f"{count} images of each class" for count in counts)),
    [
        (
            f"{new} − {old}",
            *(
                mean_with_interval([a - b for a, b in zip(accuracies[new, n], accuracies[old, n], strict=True)])
                for n in counts
            ),
        )
        for new, old in (("frozen", "from scratch"), ("fine-tuned", "from scratch"), ("fine-tuned", "frozen"))
    ],
)

# %% [markdown]
# An interval that contains 0 means: no difference detected. All trainings on few images have the same number of steps; a
# longer one from scratch might gain more than the others. The intervals cover other draws of the few images and other
# seeds. They do not cover another first training, other test images or another choice of the six classes; classes that
# resemble the known ones (a truck and an automobile, say) are easier to transfer to than others.

# %% [markdown]
# ## 12. Comparison with a network that learned from ImageNet
#
# torchvision's ResNet-34 was trained on more than a million photographs of ImageNet. Our class has the same names and
# shapes, so it can load those weights. We use them *frozen*, as in the section before: a new head learns on the 512
# means of the last maps, which are computed once per image.
#
# The images are enlarged to 128 pixels, because the filters were trained on larger objects, and normalised with
# ImageNet's constants. To save time, the head is trained on only 5,000 of the training images. The two networks did not
# have the same training data: ImageNet contains nine of our ten classes, in many varieties. It has no deer; the nearest
# to it are antelopes.
#
# The weights are read from the file that `RESNETLAB_RESNET34_WEIGHTS` names, from torch.hub's folder
# (`~/.cache/torch/hub/checkpoints`), or from torchvision's server (83 MB). Without them this comparison is left out.

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
        "This comparison is left out, because ImageNet's weights are not here. To make it, fetch "
        f"https://download.pytorch.org/models/{WEIGHTS} on any machine, put it into ~/.cache/torch/hub/checkpoints or "
        "name it in RESNETLAB_RESNET34_WEIGHTS, and run this cell again."
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
# `resnetlab baseline --data FOLDER` makes the full comparison on any folder of images, with a third network: ImageNet's
# weights, fine-tuned in every layer.

# %% [markdown]
# ## 13. Exercises, and what to read next
#
# **1.** How many layers with weights has a network with `(3, 4, 23, 3)` of the units of section 3? Which of its
# convolutions are not counted?
#
# <details><summary>Answer</summary>
#
# $1 + 2\,(3 + 4 + 23 + 3) + 1 = 68$. The three projections, one in each of the stages 2 to 4, are not counted: each is
# beside the two convolutions of an $F$, and the longer path counts.
#
# </details>
#
# **2.** In a trained unit, set `bn2.weight` and `bn2.bias` to zero. What does the unit compute?
#
# <details><summary>Answer</summary>
#
# $F(x) = 0$, so $y = \mathrm{ReLU}(\mathrm{shortcut}(x))$. Where the shortcut is the identity, $x$ is the output of a
# ReLU, and $y = x$. Networks are sometimes initialised with `bn2.weight = 0`: see the last section of
# [`why_residuals`](why_residuals.ipynb).
#
# </details>
#
# **3.** The table in section 4 lists weights that are never used. Show it for one of them: change an outer weight of a
# kernel in `layer4[1].conv1`, and compare the logits.
#
# <details><summary>Answer</summary>
#
# ```python
# before = predict(network, val_images[:100])
# with torch.no_grad():
#     network.layer4[1].conv1.weight[:, :, 0, 0] += 1
# print(torch.equal(predict(network, val_images[:100]), before))
# ```
#
# It prints `True`: on a map of one pixel these weights are multiplied only by the zeros of the padding.
#
# </details>
#
# **4.** Add what is missing in the checkpoint to continue the training, and continue it for one epoch.
#
# <details><summary>Answer</summary>
#
# Save `optimizer.state_dict()` (Adam keeps two averages for every weight), `shuffle.get_state()` (the state of the
# random order), and the weights of the *last* epoch, not of the best one. After loading all three, call `train_epoch`.
# The library's `fit(…, folder=…, resume="auto")` does this, and equals an uninterrupted training bit for bit.
#
# </details>
#
# **5.** Someone trains ten networks, scores each on the test images, and reports the best score. Why is it too high,
# and what should be reported?
#
# <details><summary>Answer</summary>
#
# The test images have chosen the network, so its score is the largest of ten partly random numbers. Choose by
# validation accuracy, then score the chosen network once on the test images; or report the mean and the spread of all
# ten.
#
# </details>
#
# **Read next**
#
# - The notebook [`why_residuals`](why_residuals.ipynb): plain and residual networks compared.
# - The code: [the units](../src/resnetlab/models/blocks.py), [the network](../src/resnetlab/models/resnet.py),
#   [Table 1](../src/resnetlab/models/zoo.py), [the training loop](../src/resnetlab/training/loop.py).
# - K. He, X. Zhang, S. Ren, J. Sun, *Deep Residual Learning for Image Recognition*: [arXiv:1512.03385](https://arxiv.org/abs/1512.03385).
# - K. He, X. Zhang, S. Ren, J. Sun, *Delving Deep into Rectifiers*, for the initialisation: [arXiv:1502.01852](https://arxiv.org/abs/1502.01852).
# - S. Ioffe, C. Szegedy, *Batch Normalization*: [arXiv:1502.03167](https://arxiv.org/abs/1502.03167).
# - J. Yosinski, J. Clune, Y. Bengio, H. Lipson, *How transferable are features in deep neural networks?*:
#   [arXiv:1411.1792](https://arxiv.org/abs/1411.1792).
# - R. Wightman, H. Touvron, H. Jégou, *ResNet strikes back*, on better training of the same network: [arXiv:2110.00476](https://arxiv.org/abs/2110.00476).
