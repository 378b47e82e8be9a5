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
# We write a residual network of 18 layers in plain PyTorch and show that it computes the same logits as torchvision's,
# bit for bit. Then we train it twice on CIFAR-10 from the same initial weights: once with Adam, once with SGD. The
# validation images set the learning rate and choose the epoch. The test images are used once, at the end.
#
# The paper is He, Zhang, Ren and Sun, *Deep Residual Learning for Image Recognition* (2015, `arXiv:1512.03385`).

# %% [markdown]
# ## 1. Set-up
#
# The notebook uses the package `resnetlab` of this repository for the data and for comparison. If it is not installed,
# the first cell installs it with its dependencies.

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
import copy
import csv
import json
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
from resnetlab.evaluation.intervals import wilson
from resnetlab.models.summary import count_macs
from resnetlab.plots.diagram import diagram_figure
from resnetlab.plots.style import RULES, rendered
from resnetlab.runtime import start

# %% [markdown]
# Choose an image source and set `DATA` to it:
#
# - `"cifar10"`: the original CIFAR-10, downloaded once (170 MB);
# - the path of a folder with one sub-folder of images per class (the environment variable `RESNETLAB_CIFAR10_JPEG` can
#   hold the path);
# - `"digits"`: the small handwritten digits that come with scikit-learn; no download.
#
# `RESNETLAB_QUICK` is for automatic checks: every cell runs on the digits, for one epoch.

# %%
QUICK = "RESNETLAB_QUICK" in os.environ
DATA = "digits" if QUICK else os.environ.get("RESNETLAB_CIFAR10_JPEG", "cifar10")
EPOCHS = 1 if QUICK else 6

plt.rcParams.update(RULES)
COLOURS = {"Adam": "#d98200", "SGD": "#0072b2"}  # colour-blind safe


def table(header, rows):
    """Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return Markdown("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))


# %% [markdown]
# The network runs on a graphics card if there is one (NVIDIA with CUDA, Apple with MPS), otherwise on the CPU. `start`
# then chooses the number format: bfloat16 for the convolutions where the hardware supports it, which is faster;
# otherwise float32 (float16 on older NVIDIA cards).

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
# A unit that should change little only has to learn $F \approx 0$, which is easier than learning the identity from
# scratch. The derivative of $F(x) + x$ is $F'(x) + 1$, so the gradient reaches early layers through the addition, even
# where $F'$ is small. This makes networks of many layers trainable.
#
# The sum needs equal shapes. Where a unit halves the maps and doubles the channels, the shortcut is a 1×1 convolution
# with the same stride, followed by a batch norm (`downsample`). Everywhere else it is the identity. The convolutions
# have no bias, because the batch norm after them would subtract it again.


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
# averages each map and multiplies the means by a matrix, which gives one score (*logit*) per class. The first unit of
# stages 2 to 4 halves the maps. With $(2, 2, 2, 2)$ units, an image passes $1 + 2 \cdot 8 + 1 = 18$ layers with
# weights. With $(3, 4, 6, 3)$ units, the same class is ResNet-34.
#
# There are two stems. ImageNet's stem is a 7×7 convolution with stride 2 and a max pool with stride 2, for images of
# 224×224 pixels. CIFAR's stem is a single 3×3 convolution, which keeps the full resolution of 32×32 pixels.
#
# The weights of the convolutions are drawn from He's normal distribution, which keeps the variance of the gradients
# about equal through layers with ReLUs (He et al. 2015, `arXiv:1502.01852`).


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
# The table shows the output shape of each part for an image of 32×32 pixels, with each stem. With the 7×7 stem the
# output of the last stage is <!--= shape("resnet18", "layer4", stem="imagenet") -->512×1×1<!--/--> instead of <!--= shape("resnet18", "layer4", stem="cifar") -->512×4×4<!--/-->.
# This is cheaper, but loses position.


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
# Our attributes have torchvision's names, so weights can be copied between our network, torchvision's and the
# library's. With the same weights, all three must give the same logits. `torch.equal` compares bit for bit, in training
# mode (batch norms use the statistics of the batch) and in evaluation mode (they use the running averages).

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
# A diagram of the network, drawn from the library's modules: a box for each unit, a solid arc for each identity
# shortcut, a dashed arc for each projection.

# %%
picture = diagram_figure(others["resnetlab"], image_size=32, title="ResNet-18 with the 7×7 stem")
Image(rendered(picture, "png"), width=640)

# %% [markdown]
# ## 4. The images
#
# `open_dataset` reads the images into memory as bytes and splits them. The published test images stay the test images.
# A tenth of the training images, drawn class by class with a fixed seed, is held out for validation. For CIFAR-10 this
# gives 45,000 training and 5,000 validation images. The original has 10,000 test images. If the name below is
# `cifar10-jpeg`, the images are a copy of CIFAR-10 at JPEG quality 75 with half of the test images. It is a few points
# harder than the original: compare its scores only with scores on the same copy.

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
# Each input channel is normalised to mean 0 and standard deviation 1, with the mean and standard deviation of the
# training pixels. The memory layout is *channels last*: the channels of a pixel are adjacent, which makes convolutions
# fastest here. The images stay bytes in memory and become floats batch by batch.

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
# A car moved by three pixels or mirrored is still a car. *Augmentation* gives the network such versions instead of the
# same pixels in every epoch, which makes it harder to memorise the training images. The paper's recipe for CIFAR pads
# each side by 4 pixels, crops 32×32 pixels at a random position, and mirrors half of the images.
#
# Both functions work on a whole batch at once, and every image has its own row of random numbers. A random transform of
# torchvision draws once per call: applied to a batch, it would move and mirror all images in the same way, and the
# batch would be less varied. The random numbers are arguments: the same numbers give the same pixels.


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
    """Crop and flip images (N, H, W, C); draws (N, 3) lie in [0, 1)."""
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
# Augmentation has to fit the images: a mirrored digit is no longer the same digit. The digits only serve to check that
# every cell works.

# %% [markdown]
# ## 6. Training
#
# `predict` returns the probabilities (the softmax of the logits) of all images of a split, without augmentation and in
# float32. `score` computes the loss, which is the mean of $-\log p$ of the true class, and the accuracy, the share of
# images whose most probable class is the true one.


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
# One epoch uses every training image once, in a new random order, in batches of 128. For each batch: augment, compute
# the logits, compute the loss, compute its gradient, and update the weights. The order and the augmentation are drawn
# from a separate generator with a fixed seed, so both trainings use exactly the same batches. The last images of an
# epoch that do not fill a batch are left out; other images are left out in the next epoch.
#
# After each epoch the network is scored on the validation images. The score decides two things:
#
# - **The learning rate.** `ReduceLROnPlateau` divides it by five after an epoch without a new best validation accuracy
#   (`patience=0`: after the first such epoch; longer runs can wait longer). Start with large steps, finish with small
#   ones.
# - **The weights to keep.** They are those of the best epoch, which may not be the last one.
#
# Two details concern the number format. Under `autocast` the convolutions compute in bfloat16, while the weights and
# the loss stay in float32. The `scaler` is active only on older graphics cards, which use float16: it scales the loss
# so that small gradients do not become zero.

# %%
BATCH = 128
train_images, train_labels = runtime.hold(data.train.images), data.train.labels.to(device)


def train(model, optimizer, seed=0):
    """Train for EPOCHS epochs, load the best epoch's weights into the model, return one row of numbers per epoch."""
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
# Both networks start from the same weights, drawn with the same seed. We use the 7×7 stem, because training then takes
# minutes without a graphics card. Section 8 shows the cost and the gain of the 3×3 stem.
#
# Section 3 shows that our network and the library's compute the same function, so we may train either. We train the
# library's and copy its weights back into ours.
#
# **Adam** divides the step of each weight by a running average of the size of its gradient, so all weights change at a
# similar rate: about `0.001` per step at first. It needs little tuning.
#
# **SGD** multiplies all gradients by one learning rate, so a weight with a larger gradient takes a larger step. Its
# value matters. `0.02` was chosen among `0.05`, `0.02` and `0.01` by validation, in short trials on a part of the
# training images. *Momentum* (0.9, in Nesterov's form) adds a share of the past steps to each step. *Weight decay*
# shrinks all weights a little in each step.
#
# In the stored run, the next two cells took about three minutes each on two CPU cores. The machine did other work while
# Adam trained: ignore its timing.

# %%
models, histories = {}, {}


def of_ours():
    torch.manual_seed(0)
    return resnet18(num_classes=len(data.classes), in_channels=data.train.images.shape[-1])


def new_model():
    """The library's network with the initial weights of ours."""
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
# The figure shows the curves of both. The training curves are averages over an epoch, with augmented images and weights
# that still change. Validation is scored after the epoch, on images without augmentation. So early in training the
# validation curve can be the better one. Where training accuracy keeps rising and validation accuracy does not, the
# network overfits. Dots mark the epochs that are kept.

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
# We copy the weights with the best validation accuracy into our own network. This also checks again that both networks
# compute the same function: in float32 they give the same probabilities, bit for bit.

# %%
for name, trained in models.items():
    models[name] = of_ours().to(device, memory_format=torch.channels_last)
    models[name].load_state_dict(trained.state_dict())
    same = torch.equal(predict(models[name], data.val), predict(trained, data.val))
    print(f"{name}: our network and the library's give the same probabilities: {same}")

# %% [markdown]
# Now the test images, once for each network. The test accuracy is a share of a limited number of images. The confidence
# interval (Wilson's) gives the range of the accuracy on all images of this kind.

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
# Both networks classified the same images, so only images on which exactly one of them is right distinguish them. If
# both were equally good, each such image would favour either network with probability one half, like a coin. McNemar's
# test gives the probability $p$ of a split at least as uneven as the one found. Below `0.05` we call the difference
# significant. The test compares these two networks. To compare the two *optimizers*, one needs several trainings of
# each, with other seeds and with tuned learning rates.

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
# These are the scores of the network with the better validation accuracy. *Precision*: of the images predicted as cat,
# the share that are cats. *Recall*: of the cats, the share predicted as cat. *F1* is their harmonic mean, which is high
# only if both are high. A class that was never predicted gets a precision of 0 here.

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
# The confusion matrix counts the images by true class (row) and predicted class (column). The diagonal holds the
# correct predictions. The shades are shares of the row.

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
# ### Some predictions
#
# The figure shows random test images, correctly classified (above) and misclassified (below), each with the predicted
# class and its probability. A wrong prediction can have a high probability.

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
# The 3×3 stem keeps the full resolution, so every layer works on maps of 16 times the area. Such a training takes too
# long for this notebook on a CPU. We ran it from the command line and stored its results in `results/cifar10-resnet18`: <!--= epochs("cifar10-resnet18") -->8<!--/-->
# epochs in <!--= minutes("cifar10-resnet18") -->17<!--/--> minutes on two CPU cores. Reproduce it with `resnetlab train
# cifar10-resnet18`.

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
# The table compares it with the better network of this notebook. The two runs differ in more than the stem: the stored
# run has another number of epochs and another schedule (the learning rate rises, then falls to zero: *one cycle*),
# begins with smaller images, pads by reflection, and uses label smoothing. The multiply-adds per image differ because
# of the stem alone.

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
# - A residual unit is a dozen lines: two convolutions with batch norms, a shortcut, one addition. ResNet-18 is eight
#   units between a stem and a head, with <!--= million("resnet18", stem="imagenet") -->11.2 million<!--/--> parameters
#   for ten classes. It equals torchvision's bit for bit.
# - Two trainings can be compared only if everything else is equal: here the initial weights, the order of the images
#   and the augmentation. The section "Which one is better?" gives the result for Adam and SGD with its p-value. It
#   holds for these two networks.
# - Validation scores set the learning rate and choose the epoch, so they are slightly too high. The test images choose
#   nothing and are used once.
# - The stem decides the cost and the resolution of a network for small images.
#
# **To try next:** other learning rates (compare the validation curves); `resnet18(stem="cifar")` if you have a graphics
# card; `ResNet((3, 4, 6, 3))`, which is ResNet-34. The notebook `resnet34` measures improvements of the training;
# `why_residuals` shows what happens without shortcuts.
