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
# # ResNet-18, trained with Adam and with SGD
#
# We write a residual network of 18 layers in plain PyTorch, show that it is the same network as torchvision's to the
# last bit, and train it twice on CIFAR-10 from the same initial weights: once with Adam, once with SGD. Validation
# steers the learning rate and chooses the epoch; the test images are looked at once, at the end.
#
# The paper is He, Zhang, Ren and Sun, *Deep Residual Learning for Image Recognition* (2015, `arXiv:1512.03385`).

# %% [markdown]
# ## 1. Set-up
#
# The notebook needs the package `resnetlab` of the repository it lies in, for the data and for comparison. If a kernel
# lacks it, the first cell installs it, with all that it needs.

# %%
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("resnetlab") is None:
    if not Path("../pyproject.toml").exists():
        raise SystemExit("resnetlab is not installed; clone its repository and open the notebook in it")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", ".."], check=True)
    importlib.invalidate_caches()

# %%
import copy
import csv
import json
import os
import time
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from IPython.display import Image, Markdown
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import nn

import resnetlab
from resnetlab.evaluation.comparison import mcnemar
from resnetlab.evaluation.proportions import wilson
from resnetlab.models.summary import count_macs
from resnetlab.plots.diagram import diagram_figure
from resnetlab.plots.style import RULES, rendered
from resnetlab.runtime import start

# %% [markdown]
# There are three ways to images; set `DATA` to one of them:
#
# - `"cifar10"`: the original CIFAR-10, downloaded once (170 MB);
# - the path of a folder with one sub-folder of images for each class (here, the environment variable
#   `RESNETLAB_CIFAR10_JPEG` can name one);
# - `"digits"`: the small handwritten digits that come with scikit-learn, without a download.
#
# `RESNETLAB_QUICK` is for automatic checks: every cell runs, on digits, for one epoch.

# %%
QUICK = "RESNETLAB_QUICK" in os.environ
DATA = "digits" if QUICK else os.environ.get("RESNETLAB_CIFAR10_JPEG", "cifar10")
EPOCHS = 1 if QUICK else 6

plt.rcParams.update(RULES)
COLOURS = {"Adam": "#d98200", "SGD": "#0072b2"}  # apart for every common colour vision


def table(header, rows):
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return Markdown("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))


# %% [markdown]
# The network runs on a graphics card where there is one (NVIDIA's by CUDA, Apple's by MPS), otherwise on the CPU.
# `start` then picks the number format: bfloat16 for the convolutions where the hardware multiplies it, which is faster,
# else mostly float32. On Linux it also lets the process keep the memory that it frees, for a training step takes and
# frees the same blocks again and again.

# %%
if torch.cuda.is_available():
    device = torch.device("cuda")
elif torch.backends.mps.is_available():
    device = torch.device("mps")
else:
    device = torch.device("cpu")

runtime = start(device.type)
print(f"{device.type}, {runtime.precision_name}, PyTorch {torch.__version__.split('+')[0]}")

# %% [markdown]
# ## 2. The residual unit
#
# Two 3×3 convolutions compute a *residual* $F(x)$, and the unit's output is
#
# $$y = \mathrm{ReLU}\big(F(x) + x\big), \qquad
# F(x) = \mathrm{BN}_2\big(W_2 * \mathrm{ReLU}(\mathrm{BN}_1(W_1 * x))\big).$$
#
# A unit that should change little has to learn $F \approx 0$, which is easier than to learn the identity from scratch;
# and because the derivative of $F(x) + x$ is $F'(x) + 1$, the gradient reaches early layers along the addition, even
# where $F'$ is small. That is what makes many layers trainable.
#
# The sum needs equal shapes. Where a unit halves the maps and doubles the channels, the shortcut is a 1×1 convolution
# with the same stride, followed by a norm (`downsample`); everywhere else it is the identity. The convolutions have no
# bias: the norm behind them would subtract it again.


# %% tags=["network"]
class BasicBlock(nn.Module):
    """Maps (N, in_channels, H, W) to maps (N, channels, H / stride, W / stride)."""

    def __init__(self, in_channels, channels, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = nn.Identity()
        if stride != 1 or in_channels != channels:
            projection = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x):
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return self.relu(residual + self.downsample(x))


# %%
maps = torch.zeros(2, 64, 8, 8)
print("same shape:     ", tuple(maps.shape), "to", tuple(BasicBlock(64, 64)(maps).shape))
print("half the size:  ", tuple(maps.shape), "to", tuple(BasicBlock(64, 128, stride=2)(maps).shape))

# %% [markdown]
# ## 3. The network
#
# A **stem** turns pixels into 64 maps; four **stages** of units follow, with 64, 128, 256 and 512 channels; a **head**
# averages each map and multiplies by a matrix, which gives one score (*logit*) for each class. The first unit of stages
# 2 to 4 halves the maps. With $(2, 2, 2, 2)$ units there are $1 + 2 \cdot 8 + 1 = 18$ layers with weights on the way
# through; with $(3, 4, 6, 3)$ units the same class is ResNet-34.
#
# There are two stems. ImageNet's is a 7×7 convolution with stride 2 and a max pool with stride 2, made for images of
# 224×224 pixels. For CIFAR's 32×32 a single 3×3 convolution keeps all pixels.
#
# Convolutions start from He's normal distribution, which keeps the variance of gradients about equal through layers
# with ReLUs (He et al. 2015, `arXiv:1502.01852`).


# %% tags=["network"]
class ResNet(nn.Module):
    """Images (N, in_channels, H, W) to logits (N, num_classes)."""

    def __init__(self, units_per_stage, num_classes=10, in_channels=3, stem="imagenet"):
        super().__init__()
        if stem == "imagenet":
            conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        elif stem == "cifar":
            conv1, maxpool = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False), nn.Identity()
        else:
            raise ValueError(f"unknown stem {stem!r}; choose imagenet or cifar")
        self.conv1, self.bn1, self.relu, self.maxpool = conv1, nn.BatchNorm2d(64), nn.ReLU(), maxpool

        self.layer1 = self.stage(64, 64, units_per_stage[0], stride=1)
        self.layer2 = self.stage(64, 128, units_per_stage[1], stride=2)
        self.layer3 = self.stage(128, 256, units_per_stage[2], stride=2)
        self.layer4 = self.stage(256, 512, units_per_stage[3], stride=2)

        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def stage(in_channels, channels, units, stride):
        first = BasicBlock(in_channels, channels, stride)
        return nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(units - 1)))

    def forward(self, images):
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def resnet18(**options):
    return ResNet((2, 2, 2, 2), **options)


# %% [markdown]
# What leaves each part for an image of 32×32 pixels, with either stem. With the 7×7 stem the last stage sees maps of <!--= shape("resnet18", "layer4", stem="imagenet") -->512×1×1<!--/--> instead of <!--= shape("resnet18", "layer4", stem="cifar") -->512×4×4<!--/-->: it computes far less, and knows less about where
# things are.


# %%
def shapes(model):
    """Output shapes of the parts, in the order in which an image passes them."""
    found, x = {}, torch.zeros(1, 3, 32, 32)
    for name, part in model.eval().named_children():
        x = part(x.flatten(1) if name == "fc" else x)
        if name in ("maxpool", "layer1", "layer2", "layer3", "layer4", "fc"):
            found["stem" if name == "maxpool" else name] = "×".join(map(str, x.shape[1:]))
    return found


with_7x7, with_3x3 = shapes(resnet18()), shapes(resnet18(stem="cifar"))
table(["part", "7×7 stem", "3×3 stem"], [[part, with_7x7[part], with_3x3[part]] for part in with_7x7])

# %% [markdown]
# ### The same network as torchvision's
#
# Our attributes have torchvision's names, so weights can be moved between the two, and to the library's. With the same
# weights all three must give the same logits. `torch.equal` asks for the same bits, in training mode (norms use the
# statistics of the batch) and in evaluation mode (they use the averages kept during training).

# %%
ours = resnet18()
others = {
    "torchvision": torchvision.models.resnet18(num_classes=10),
    "resnetlab": resnetlab.build_model("resnet18", 10, stem="imagenet"),
}
images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
for name, other in others.items():
    other.load_state_dict(ours.state_dict())
    for mode, training in (("training", True), ("evaluation", False)):
        same = torch.equal(ours.train(training)(images), other.train(training)(images))
        print(f"{name:<12} {mode:<11} {'equal to the bit' if same else 'different'}")

print(f"{sum(weight.numel() for weight in ours.parameters()):,} parameters")

# %% [markdown]
# The network as a picture, read off the library's modules: a box for each unit, a solid arc for each shortcut that is
# the identity, a dashed one where a projection changes the shape.

# %%
picture = diagram_figure(others["resnetlab"], image_size=32, title="ResNet-18 with the 7×7 stem")
Image(rendered(picture, "png"), width=640)

# %% [markdown]
# ## 4. The images
#
# `open_dataset` reads the images into memory as bytes and splits them: the published test images stay the test images,
# and a tenth of the training images, drawn class by class with a fixed seed, is held out for validation. On CIFAR-10
# that makes 45,000 images to train on and 5,000 to validate. The original has 10,000 test images; where the name below
# is `cifar10-jpeg`, the images are a copy of CIFAR-10 at JPEG quality 75 with half of the test images, a few points
# harder than the original, and scores are to be compared with scores on the same copy only.

# %%
data = resnetlab.open_dataset(DATA, image_size=32)
splits = {"training": data.train, "validation": data.val, "test": data.test}
print(f"{data.name}: {', '.join(data.classes)}")
table(
    ["split", "images", "shape"],
    [[n, f"{len(s):,}", "×".join(map(str, s.images.shape[1:]))] for n, s in splits.items()],
)


# %%
def show(axis, image, title="", colour="black"):
    axis.imshow(image.squeeze().numpy(), cmap="gray")
    axis.set_title(title, loc="center", fontsize=9, color=colour)
    axis.axis("off")


figure, axes = plt.subplots(3, len(data.classes), figsize=(12, 4.2), layout="constrained")
for column, name in zip(axes.T, data.classes, strict=True):
    of_class = (data.train.labels == data.classes.index(name)).nonzero().flatten()
    for row, axis in enumerate(column):
        show(axis, data.train.images[of_class[row]], name if row == 0 else "")
figure.suptitle("Training images, three of each class")
plt.show()

# %% [markdown]
# The network sees each channel with mean 0 and standard deviation 1. The constants are those of the training pixels.
# The layout of the result is *channels last*: a pixel's channels lie side by side in memory, in which convolutions are
# fastest here. The bytes stay bytes until a batch is needed.

# %%
mean = torch.tensor(data.preprocessing.mean, device=device)
std = torch.tensor(data.preprocessing.std, device=device)
print("mean", [round(value, 4) for value in mean.tolist()], "std", [round(value, 4) for value in std.tolist()])


def normalized(images):
    """uint8 images (N, H, W, C) to floats (N, C, H, W), in channels-last layout."""
    return ((images.to(device) / 255 - mean) / std).permute(0, 3, 1, 2)


# %% [markdown]
# ## 5. Augmentation
#
# A car moved by three pixels or seen in a mirror is still a car. *Augmentation* shows the network such versions instead
# of the same pixels in every epoch, so that it cannot learn the training images by heart. The paper's recipe for CIFAR
# pads each side by 4 pixels, cuts out 32×32 at a random place, and mirrors half of the images.
#
# Both functions work on a whole batch at once, and every image has its own row of random numbers. That matters: a
# random transform of torchvision draws once for each call, so applied to a batch it would move and mirror all images of
# the batch alike, and a batch would hold far less variety. The random numbers come in from outside: the same numbers
# give the same pixels.


# %% tags=["augmentation"]
def crop(images, draws, padding=4):
    """Move images (N, H, W, C) by up to `padding` pixels; draws (N, 2) lie in [0, 1)."""
    count, height, width, _ = images.shape
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))  # black, around rows and columns
    corner = (draws * (2 * padding + 1)).long()  # 0 to 2 * padding
    rows = corner[:, :1] + torch.arange(height, device=images.device)
    columns = corner[:, 1:] + torch.arange(width, device=images.device)
    image = torch.arange(count, device=images.device)
    return padded[image[:, None, None], rows[:, :, None], columns[:, None, :]]


def flip(images, draws):
    """Mirror images (N, H, W, C) left to right where their draw (N,) is below one half."""
    return torch.where((draws < 0.5)[:, None, None, None], images.flip(2), images)


def augmented(images, draws):
    """Both, by draws (N, 3)."""
    return flip(crop(images, draws[:, :2]), draws[:, 2])


# %%
generator = torch.Generator().manual_seed(0)
one = data.train.images[:1]
versions = augmented(one.expand(15, -1, -1, -1), torch.rand(15, 3, generator=generator))

figure, axes = plt.subplots(2, 8, figsize=(12, 3.5), layout="constrained")
for axis, image, title in zip(axes.flat, [one[0], *versions], ["original", *[""] * 15], strict=True):
    show(axis, image, title)
figure.suptitle("One training image and fifteen versions of it")
plt.show()

# %% [markdown]
# Digits are no good example for mirroring, which makes other signs of them; they are here for a quick look at whether
# everything works. Augmentation has to fit the images.

# %% [markdown]
# ## 6. Training
#
# `predict` gives the probabilities (the softmax of the logits) of all images of a split, without augmentation and in
# float32. `score` makes two numbers of them: the loss, which is the mean of $-\log p$ of the right class, and the
# accuracy, the share of images whose most probable class is the right one.


# %%
@torch.inference_mode()
def predict(model, split):
    """Probabilities (N, classes) of a split's images."""
    model.eval()
    batches = [model(normalized(images)).softmax(1).cpu() for images in split.images.split(500)]
    return torch.cat(batches)


def score(probabilities, labels):
    loss = F.nll_loss(probabilities.clamp_min(1e-12).log(), labels).item()
    accuracy = (probabilities.argmax(1) == labels).float().mean().item()
    return loss, accuracy


# %% [markdown]
# One epoch shows every training image once, in a new random order, in batches of 128. For each batch: augment, compute
# the logits, compute the loss, compute its gradient, and let the optimizer change the weights. The order and the
# augmentation come from a generator of their own with a fixed seed, so both trainings see exactly the same batches. The
# last images of an order that fill no batch are left out; in the next epoch it is others.
#
# After each epoch the network is scored on validation, and two things follow from it:
#
# - **The learning rate.** `ReduceLROnPlateau` divides it by five after an epoch without a new best validation accuracy
#   (`patience=0`: none is forgiven; longer runs can wait longer). Large steps are good for the way, small ones for the
#   goal.
# - **The weights that are kept.** Those of the best epoch, which need not be the last one.
#
# Two details are about the number format. Under `autocast` the convolutions multiply in bfloat16 while the weights and
# the loss stay in float32. The `scaler` does something on older graphics cards alone, which have float16 instead: there
# it scales the loss so that small gradients do not become zero.

# %%
BATCH = 128
train_images, train_labels = runtime.hold(data.train.images), data.train.labels.to(device)


def train(model, optimizer, seed=0):
    """Train for EPOCHS epochs; returns a row of numbers for each, and loads the best epoch's weights into the model."""
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.2, patience=0)
    generator, scaler = torch.Generator().manual_seed(seed), runtime.grad_scaler()
    history, best, best_weights = [], -1.0, None
    print("epoch  learning rate  train loss  train acc.  val. loss  val. acc.  seconds")
    for epoch in range(1, EPOCHS + 1):
        began, (loss_sum, right) = time.perf_counter(), torch.zeros(2, device=device)
        order = torch.randperm(len(train_labels), generator=generator)
        batches = order[: len(order) // BATCH * BATCH].split(BATCH)
        model.train()
        for chosen in batches:
            draws = torch.rand(BATCH, 3, generator=generator).to(device)
            images, labels = train_images[chosen].to(device), train_labels[chosen.to(device)]
            with runtime.autocast():
                logits = model(normalized(augmented(images, draws)))
            loss = F.cross_entropy(logits.float(), labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            loss_sum += loss.detach()
            right += (logits.argmax(1) == labels).sum()
        train_loss, train_accuracy = loss_sum.item() / len(batches), right.item() / (len(batches) * BATCH)
        seconds = time.perf_counter() - began

        rate = optimizer.param_groups[0]["lr"]
        val_loss, val_accuracy = score(predict(model, data.val), data.val.labels)
        scheduler.step(val_accuracy)
        if val_accuracy > best:
            best, best_weights = val_accuracy, copy.deepcopy(model.state_dict())
        row = {"epoch": epoch, "rate": rate, "seconds": seconds, "train_loss": train_loss, "val_loss": val_loss}
        history.append(row | {"train_accuracy": train_accuracy, "val_accuracy": val_accuracy})
        print(
            f"{epoch:5} {rate:14.2g} {train_loss:11.3f} {train_accuracy:11.2%} "
            f"{val_loss:10.3f} {val_accuracy:10.2%} {seconds:8.0f}",
            flush=True,
        )
    model.load_state_dict(best_weights)
    return history


# %% [markdown]
# Both networks begin with the same weights, for they are drawn with the same seed. We train with the 7×7 stem, because
# a training then takes minutes without a graphics card; what the 3×3 stem costs and gains is shown in section 8.
#
# Our network and the library's are the same function, as section 3 shows, so it does not matter which of the two is
# trained. It is the library's: on a CPU it has quicker ways for maps of 1×1 and 2×2 pixels, and takes half the time.
# Its weights then go back into ours.
#
# **Adam** divides each weight's step by a running average of the size of its gradient, so that all weights move at a
# similar pace: about `0.001` a step at first. It needs little tuning.
#
# **SGD** has one factor for all gradients, so that a weight with a larger gradient takes a larger step; what the factor
# is matters much. `0.02` was chosen among `0.05`, `0.02` and `0.01` by validation, in short trials on a part of the
# training images. SGD goes on in the direction of past steps with a factor of 0.9 (*momentum*, in Nesterov's form), and
# *weight decay* pulls all weights a little towards zero.
#
# The next two cells take about three minutes each on two CPU cores. (In the run that is shown, the machine did other work
# while Adam trained, so its minutes tell nothing.)

# %%
models, histories = {}, {}


def of_ours():
    torch.manual_seed(0)
    return resnet18(num_classes=len(data.classes), in_channels=data.train.images.shape[-1])


def new_model():
    """The library's network with the weights that ours begins with."""
    in_channels = data.train.images.shape[-1]
    model = resnetlab.build_model("resnet18", len(data.classes), in_channels=in_channels, stem="imagenet")
    model.load_state_dict(of_ours().state_dict())
    return model.to(device, memory_format=torch.channels_last)


models["Adam"] = new_model()
adam = torch.optim.Adam(models["Adam"].parameters(), lr=1e-3, fused=True)
histories["Adam"] = train(models["Adam"], adam)

# %%
models["SGD"] = new_model()
sgd = torch.optim.SGD(models["SGD"].parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
histories["SGD"] = train(models["SGD"], sgd)

# %% [markdown]
# The curves of both. The training curves are averages over an epoch, with augmented images and weights that still
# change; validation is scored after the epoch, on images as they are. Early in training validation can therefore be the
# better of the two. Once training goes on rising while validation does not, the network learns its training images
# rather than what they have in common. Dots mark the epochs that are kept.

# %%
figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(9, 10), sharex=True, height_ratios=(3, 3, 1.4))
for name, history in histories.items():
    epochs = [row["epoch"] for row in history]
    kept = max(history, key=lambda row: row["val_accuracy"])
    for axis, number, factor in ((top, "loss", 1), (middle, "accuracy", 100)):
        for part, dashes, label in (("train", "--", "training"), ("val", "-", "validation")):
            values = [row[f"{part}_{number}"] * factor for row in history]
            axis.plot(epochs, values, dashes, marker=".", color=COLOURS[name], label=f"{name}, {label}")
        axis.plot(kept["epoch"], kept[f"val_{number}"] * factor, "o", ms=9, color=COLOURS[name])
    bottom.plot(epochs, [row["rate"] for row in history], marker=".", color=COLOURS[name], label=name)
top.set(title=f"Loss on {data.name}", ylabel="loss (nats)")
middle.set(title="Accuracy", ylabel="accuracy (%)")
bottom.set(title="Learning rate", ylabel="rate", xlabel="epoch", yscale="log", xticks=epochs)
for axis in (top, middle, bottom):
    axis.grid()
    axis.legend(fontsize=9)
figure.tight_layout()
plt.show()

# %%
for name, history in histories.items():
    lowered = [str(b["epoch"]) for a, b in pairwise(history) if b["rate"] < a["rate"]]
    what = f"was lowered for epoch {' and '.join(lowered)}" if lowered else "stayed as it was to the last epoch"
    print(f"{name}: the learning rate {what}.")

# %% [markdown]
# ## 7. Evaluation
#
# The weights that validated best, back in the network that was written above. Its convolutions are torch's own, so this
# also asks once more whether the two are the same: in float32 they give the same probabilities, to the last bit.

# %%
for name, trained in models.items():
    models[name] = of_ours().to(device, memory_format=torch.channels_last)
    models[name].load_state_dict(trained.state_dict())
    same = torch.equal(predict(models[name], data.val), predict(trained, data.val))
    print(f"{name}: our network and the library's give the same probabilities: {same}")

# %% [markdown]
# Now the test images, once for each network. The test accuracy is a share of a
# limited number of images; the confidence interval (Wilson's) says how far it could lie from the share among all images
# of this kind.

# %%
test_labels = data.test.labels
probabilities = {name: predict(model, data.test) for name, model in models.items()}
predicted = {name: shares.argmax(1) for name, shares in probabilities.items()}

rows, validated = [], {}
for name, history in histories.items():
    kept = max(history, key=lambda row: row["val_accuracy"])
    validated[name] = kept["val_accuracy"]
    loss, accuracy = score(probabilities[name], test_labels)
    low, high = wilson(int((predicted[name] == test_labels).sum()), len(test_labels))
    minutes = sum(row["seconds"] for row in history) / 60
    shown = (
        f"{kept['val_accuracy']:.2%}",
        f"{loss:.3f}",
        f"{accuracy:.2%}",
        f"{low:.2%} to {high:.2%}",
        f"{minutes:.1f}",
    )
    rows.append([name, kept["epoch"], *shown])
table(["optimizer", "best epoch", "validation", "test loss", "test accuracy", "95 % interval", "minutes"], rows)

# %% [markdown]
# ### Which one is better?
#
# Both networks answered the same images, so only the images on which exactly one of them is right tell them apart. If
# both were equally good, each of those would fall to either side like a coin. McNemar's test gives the probability $p$
# of a split at least as uneven as the one found; below `0.05` we call the networks different. This is about these two
# networks. Whether one *optimizer* is better would take several trainings of each, with other seeds and with tuned
# learning rates.

# %%
is_right = {name: classes == test_labels for name, classes in predicted.items()}
only_adam = int((is_right["Adam"] & ~is_right["SGD"]).sum())
only_sgd = int((is_right["SGD"] & ~is_right["Adam"]).sum())
p = mcnemar(only_adam, only_sgd)

better = "Adam" if only_adam > only_sgd else "SGD"
gap = abs(only_adam - only_sgd) / len(test_labels)
verdict = (
    f"the network trained with {better} is the better one, by {100 * gap:.2f} points"
    if p < 0.05
    else f"one cannot tell which network is better: they differ by {100 * gap:.2f} points, which can be chance"
)
Markdown(
    f"Only the network trained with Adam is right about {only_adam} images, only the one trained with SGD about "
    f"{only_sgd}; $p$ = {p:.2g}. **On these images, {verdict}.**"
)

# %% [markdown]
# ### Class by class
#
# For the network that validated better. *Precision*: of the images it called cats, the share that are cats. *Recall*:
# of the cats, the share it found. *F1* is their harmonic mean, which is high only if both are. A class that was never
# predicted has a precision of 0 here.

# %%
chosen = max(validated, key=validated.get)
columns = precision_recall_fscore_support(
    test_labels, predicted[chosen], labels=range(len(data.classes)), zero_division=0
)
rows = [
    [name, *(f"{value:.2f}" for value in values[:3]), values[3]]
    for name, *values in zip(data.classes, *columns, strict=True)
]
rows.append(["**mean**", *(f"**{column.mean():.2f}**" for column in columns[:3]), columns[3].sum()])
print(f"ResNet-18 trained with {chosen}")
table(["class", "precision", "recall", "F1", "images"], rows)

# %% [markdown]
# The confusion matrix shows what was taken for what: a row is a true class, a column an answer, and the diagonal holds
# the right ones. The shades are shares of the row.

# %%
counts = confusion_matrix(test_labels, predicted[chosen], labels=range(len(data.classes)))
shares = counts / counts.sum(1, keepdims=True)

figure, axis = plt.subplots(figsize=(8, 7.2))
picture = axis.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
for (row, column), count in np.ndenumerate(counts):
    axis.text(column, row, count, ha="center", va="center", color="white" if shares[row, column] > 0.5 else "black")
axis.set(title=f"Test images by true and predicted class ({chosen})", xlabel="predicted", ylabel="true")
axis.set_xticks(range(len(data.classes)), data.classes, rotation=45, ha="right")
axis.set_yticks(range(len(data.classes)), data.classes)
figure.colorbar(picture, label="share of the true class (%)", shrink=0.8)
plt.show()

off_diagonal = counts - np.diag(counts.diagonal())
true, answer = np.unravel_index(off_diagonal.argmax(), counts.shape)
print(f"The most frequent mistake: {data.classes[true]} taken for {data.classes[answer]}, {off_diagonal.max()} times.")

# %% [markdown]
# ### Some answers
#
# Test images drawn at random, from those answered rightly (above) and wrongly (below), each with the probability that
# the network gives its answer. It can be sure and wrong.

# %%
shuffled = torch.randperm(len(test_labels), generator=torch.Generator().manual_seed(0))
figure, axes = plt.subplots(2, 7, figsize=(12, 4.6), layout="constrained")
for row, wanted, colour in ((axes[0], True, "#00795a"), (axes[1], False, "#c23b00")):
    found = shuffled[is_right[chosen][shuffled] == wanted][:7].tolist()
    for axis in row[len(found) :]:
        axis.axis("off")
    for axis, i in zip(row, found, strict=False):
        answer = int(predicted[chosen][i])
        title = f"{data.classes[answer]}, {probabilities[chosen][i, answer]:.2f}"
        if not wanted:
            title += f"\nis {data.classes[int(test_labels[i])]}"
        show(axis, data.test.images[i], title, colour)
figure.suptitle("Right answers, and wrong ones with the true class under them")
plt.show()

# %% [markdown]
# ## 8. The other stem
#
# With the 3×3 stem nothing is thrown away before the first unit, and every layer works on maps of 16 times the area.
# Such a training takes too long for this notebook on a CPU; it was made with the command line and is stored in
# `results/cifar10-resnet18`: <!--= epochs("cifar10-resnet18") -->8<!--/--> epochs in <!--= minutes("cifar10-resnet18") -->17<!--/--> minutes on two CPU cores. Make it anew with
# `resnetlab train cifar10-resnet18`.

# %%
stored = Path("../results/cifar10-resnet18")
config = json.loads((stored / "config.json").read_text())
test = json.loads((stored / "evaluation/test/metrics.json").read_text())
with (stored / "metrics.csv").open(newline="") as file:
    epochs = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]

print(f"{config['data']['name']}, {config['optim']['name']}, schedule {config['schedule']['name']}")
header = ["epoch", "learning rate at its end", "train loss", "val. loss", "val. accuracy", "seconds"]
columns = ["epoch", "lr", "train_loss", "val_loss", "val_accuracy", "train_seconds"]
formats = ["{:.0f}", "{:.2g}", "{:.3f}", "{:.3f}", "{:.2%}", "{:.0f}"]
table(header, [[form.format(epoch[key]) for key, form in zip(columns, formats, strict=True)] for epoch in epochs])

# %% [markdown]
# Beside the network of this notebook that validated better. The two differ in more than the stem: the stored run has
# other epochs and its own schedule (the rate rises, then falls to zero: *one cycle*), begins with smaller images, pads
# by mirroring, and smooths its labels. The multiply-adds, however, are a matter of the stem alone.

# %%
runs = {
    "imagenet": (f"this notebook, {chosen}", data.name, is_right[chosen].float().mean(), histories[chosen], "seconds"),
    "cifar": ("stored run", test["data"], test["accuracy"], epochs, "train_seconds"),
}
rows = []
for stem, (run, images, accuracy, history, seconds) in runs.items():
    million = count_macs(resnetlab.build_model("resnet18", 10, stem=stem), 32) / 1e6
    minutes = sum(row[seconds] for row in history) / 60
    rows.append([f"{stem}, {run}", images, f"{million:.0f}", len(history), f"{minutes:.1f}", f"{accuracy:.2%}"])
table(["stem and run", "images", "million multiply-adds an image", "epochs", "minutes", "test accuracy"], rows)

# %% [markdown]
# ## 9. Conclusion
#
# - A residual unit is a dozen lines: two convolutions with norms, a shortcut, one addition. ResNet-18 is eight of them
#   between a stem and a head, <!--= million("resnet18", stem="imagenet") -->11.2 million<!--/--> parameters for ten
#   classes, and equal to torchvision's to the last bit.
# - Two trainings can be compared only if all else is equal: here the weights to begin with, the order of the images and
#   the augmentation. What was found about Adam and SGD is the sentence under "Which one is better?", with the chance of
#   being misled; it holds for these two networks.
# - Validation steers and chooses, and so its scores are slightly too good. The test images choose nothing, and are
#   looked at once.
# - The stem decides what a network for small images costs and sees.
#
# **To try next:** other learning rates (the validation curves tell); `resnet18(stem="cifar")` if there is a graphics
# card; `ResNet((3, 4, 6, 3))`, which is ResNet-34. The notebook `resnet34` goes on with what improves a training, and
# `why_residuals` with what happens without shortcuts.
