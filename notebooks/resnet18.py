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
# We write a residual network of 18 layers in plain PyTorch and check that it computes the same as torchvision's, bit
# for bit in float32. Then we train it twice on CIFAR-10 from the same initial weights: once with Adam, once with SGD.
# The validation images set the learning rate and choose the epoch. The test images are used once for each network, at
# the end.
#
# The paper is He, Zhang, Ren and Sun, *Deep Residual Learning for Image Recognition* (2015,
# [arXiv:1512.03385](https://arxiv.org/abs/1512.03385)). You need Python, PyTorch's tensors, and the idea of a gradient.
#
# 1. Set-up
# 2. The layers: convolution, stride, batch norm, ReLU
# 3. The residual unit
# 4. The network
# 5. The images
# 6. Augmentation
# 7. Training
# 8. Evaluation
# 9. The other stem
# 10. Conclusion, exercises, and what to read next

# %% [markdown]
# ## 1. Set-up
#
# The notebook uses the package `resnetlab` of this repository for the data and for comparison. If the package is not
# installed, the first cell installs it. On Colab, first write the address of the repository into the cell.

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
import os
import statistics
import time
from itertools import pairwise

import torch
import torch.nn.functional as F
import torchvision
from IPython.display import Markdown
from torch import nn

import helpers
import resnetlab
from resnetlab.evaluation.comparison import mcnemar
from resnetlab.plots.diagram import diagram_figure
from resnetlab.runtime import start

# %% [markdown]
# Tables and pictures come from [`helpers.py`](helpers.py), a file beside this notebook. The networks and their training
# are written here.
#
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
EPOCHS = 1 if QUICK else 12

# %% [markdown]
# `start` chooses a graphics card if there is one (NVIDIA with CUDA, Apple with MPS), otherwise the CPU. It also chooses
# the number format: bfloat16 where the hardware supports it, which is faster; otherwise float32 (float16 on older
# NVIDIA cards).

# %%
runtime = start()
device = runtime.device
print(f"{device.type}, {runtime.precision_name}, PyTorch {torch.__version__.split('+')[0]}")

# %% [markdown]
# ## 2. The layers: convolution, stride, batch norm, ReLU
#
# ### Convolution and stride
#
# A *convolution* moves a small matrix of weights, the *kernel*, over an image. At each position it multiplies the
# weights by the pixels below them and adds the products: one number of the output, which is called a *map*. A border of
# zeros around the image (*padding*) gives the kernel room at the edges.
#
# The kernel in the picture is negative on the left and positive on the right. So its output is positive where the image
# gets brighter from left to right, negative where it gets darker, and zero where it stays equal. Here we wrote the
# weights by hand; a network learns them.
#
# With *stride* 2 the kernel moves two pixels at a time, and height and width of the output are halved. The last matrix
# has every second row and column of the one before it.


# %%
def convolve(image, kernel, stride=1):
    return F.conv2d(image[None, None], kernel[None, None], stride=stride, padding=1)[0, 0]


image = torch.zeros(6, 6)
image[1:5, 2:4] = 1  # a bright bar
kernel = torch.tensor([[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]])
edges = convolve(image, kernel)
helpers.show(
    helpers.number_grids(
        {
            "image, 6×6": image,
            "kernel, 3×3": kernel,
            "output, stride 1: 6×6": edges,
            "output, stride 2: 3×3": convolve(image, kernel, stride=2),
        }
    )
)

# %% [markdown]
# One number of the output, computed by hand: the pixels around row 2, column 1 times the kernel. (Rows and columns are
# counted from 0.)

# %%
print("by hand:", (image[1:4, 0:3] * kernel).sum().item(), " by the convolution:", edges[2, 1].item())

# %% [markdown]
# An image has three channels: red, green and blue. A convolutional *layer* has one kernel for each pair of an input
# channel and an output channel, and adds the results over the input channels:

# %%
layer = nn.Conv2d(in_channels=3, out_channels=64, kernel_size=3, padding=1, bias=False)
print("image  ", (1, 3, 32, 32), "(number of images, channels, height, width)")
print("kernels", tuple(layer.weight.shape), "(output channels, input channels, height, width)")
print("output ", tuple(layer(torch.zeros(1, 3, 32, 32)).shape))

# %% [markdown]
# ### Batch norm
#
# The outputs of a layer can become large or small while the network learns, which can make training slow or unstable. A
# *batch norm* computes mean and standard deviation of each channel over all images and pixels of the batch, subtracts
# the mean and divides by the standard deviation. Then it multiplies by a weight and adds a bias, which are learned and
# start at 1 and 0.
#
# A prediction for one image must not depend on the other images of its batch. So in *evaluation mode* the layer uses
# running averages instead, to which each training batch contributes a tenth. After one batch they are still close to
# their initial values, 0 and 1; after two hundred they have almost reached the values of the data.

# %%
values = 5 + 3 * torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))  # one channel
norm = nn.BatchNorm2d(1)
outputs = {"input": values, "training mode": norm.train()(values), "evaluation, after 1 batch": norm.eval()(values)}
for _ in range(199):
    norm.train()(values)
outputs["evaluation, after 200 batches"] = norm.eval()(values)
rows = [[name, f"{x.mean().item():.2f}", f"{x.std().item():.2f}"] for name, x in outputs.items()]
helpers.table(
    ["values", "mean", "standard deviation"], [[cell.replace("-0.00", "0.00") for cell in row] for row in rows]
)

# %% [markdown]
# ### ReLU
#
# A convolution after a convolution is again one (larger) convolution: a stack of them could only compute weighted sums
# of pixels. A *ReLU* between them prevents this. It replaces negative numbers by zero:

# %%
helpers.show(helpers.number_grids({"output of the convolution": edges, "after the ReLU": F.relu(edges)}))

# %% [markdown]
# ## 3. The residual unit
#
# Two 3×3 convolutions, each with a batch norm, compute a *residual* $F(x)$. The unit's output is
#
# $$y = \mathrm{ReLU}\big(F(x) + x\big), \qquad
# F(x) = \mathrm{BN}_2\big(W_2 * \mathrm{ReLU}(\mathrm{BN}_1(W_1 * x))\big).$$
#
# A unit that should change little only has to learn $F \approx 0$. He et al. suggest that this is easier than learning
# the identity with layers that do not have $x$ as a summand. The derivative of $F(x) + x$ is $F'(x) + 1$, so the
# gradient reaches early layers through the addition, even where $F'$ is small. The notebook `why_residuals` measures
# what the addition changes.
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


# %% [markdown]
# The next cell draws the two kinds of unit. `helpers.unit_figure` follows the code of `forward`, so the picture shows
# what the class computes. Change `forward`, and the picture changes.

# %%
units = {"BasicBlock(64, 64)": BasicBlock(64, 64), "BasicBlock(64, 128, stride=2)": BasicBlock(64, 128, stride=2)}
helpers.show(helpers.unit_figure(units, (64, 8, 8)))

# %% [markdown]
# ## 4. The network
#
# A **stem** turns pixels into 64 maps; four **stages** of units follow, with 64, 128, 256 and 512 channels; a **head**
# averages each map and multiplies the means by a matrix, which gives one score (*logit*) per class. The first unit of
# stages 2 to 4 halves the maps. With $(2, 2, 2, 2)$ units, an image passes $1 + 2 \cdot 8 + 1 = 18$ layers with
# weights. With $(3, 4, 6, 3)$ units, the same class is ResNet-34.
#
# There are two stems. ImageNet's stem is for images of 224×224 pixels: a 7×7 convolution with stride 2 and a *max pool*
# with stride 2, which keeps the largest number of each 3×3 window. CIFAR's stem is a single 3×3 convolution, which keeps
# the full resolution of 32×32 pixels.
#
# The initial weights of the convolutions are drawn from He's normal distribution, which keeps the variance of the
# gradients about equal through layers with ReLUs (He et al. 2015,
# [arXiv:1502.01852](https://arxiv.org/abs/1502.01852)).


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
with_7x7, with_3x3 = (helpers.output_shapes(resnet18(stem=stem), (3, 32, 32)) for stem in ("imagenet", "cifar"))
helpers.table(["part", "7×7 stem", "3×3 stem"], [[part, with_7x7[part], with_3x3[part]] for part in with_7x7])

# %% [markdown]
# ### The same network as torchvision's
#
# Our attributes have torchvision's names, so weights can be copied between our network, torchvision's and the
# library's. With the same weights, all three must give the same logits. `torch.equal` compares bit for bit, here in
# float32, in training mode (batch norms use the statistics of the batch) and in evaluation mode (they use the running
# averages).

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
# The whole network, drawn from the library's modules: a box for each unit, a solid arc for each identity shortcut, a
# dashed arc for each projection.

# %%
helpers.show(diagram_figure(others["resnetlab"], image_size=32, title="ResNet-18 with the 7×7 stem"))

# %% [markdown]
# ## 5. The images
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
helpers.table(
    ["split", "images", "shape"],
    [[name, f"{len(split):,}", "×".join(map(str, split.images.shape[1:]))] for name, split in splits.items()],
)

# %% [markdown]
# The validation images are not used to train, so we look at some of them:

# %%
helpers.show(helpers.images_by_class(data.val, data.classes, "Validation images, three of each class"))

# %% [markdown]
# Each input channel is normalised to mean 0 and standard deviation 1, with the mean and standard deviation of the
# training pixels. The images stay bytes in memory and become floats batch by batch. The memory layout is *channels
# last*: the channels of a pixel are adjacent. PyTorch's convolutions in bfloat16 on a CPU are made for this layout.

# %%
mean = torch.tensor(data.preprocessing.mean, device=device)
std = torch.tensor(data.preprocessing.std, device=device)
print("mean", [round(value, 4) for value in mean.tolist()], "std", [round(value, 4) for value in std.tolist()])


def normalized(images):
    """uint8 images (N, H, W, C) to floats (N, C, H, W), in channels-last layout."""
    return ((images.to(device) / 255 - mean) / std).permute(0, 3, 1, 2)


# %% [markdown]
# ## 6. Augmentation
#
# A car moved by three pixels or mirrored is still a car. *Augmentation* gives the network such versions instead of the
# same pixels in every epoch, which makes it harder to memorise the training images. The paper's recipe for CIFAR pads
# each side by 4 pixels, crops 32×32 pixels at a random position, and mirrors half of the images.
#
# The functions work on a whole batch at once, and every image has its own row of random numbers. A random transform of
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
helpers.show(
    helpers.image_rows(
        [[one[0], *versions[:7]], versions[7:]],
        "One training image and fifteen versions of it",
        captions=[["original"]],
    )
)

# %% [markdown]
# Augmentation has to fit the images: a mirrored digit is no longer the same digit. The digits only serve to check that
# every cell works.

# %% [markdown]
# ## 7. Training
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
# A training *step* computes the logits of a batch, the loss and its gradient, and updates the weights. Two details
# concern the number format. Under `autocast` the convolutions compute in bfloat16, while the weights and the loss stay
# in float32. The `scaler` is active only on older graphics cards, which use float16: it scales the loss so that small
# gradients do not become zero.
#
# One *epoch* uses every training image once, in a new random order, in batches of 128. The order and the augmentation
# are drawn from a separate generator with a fixed seed, so both trainings use exactly the same batches. The last images
# of an epoch that do not fill a batch are left out; other images are left out in the next epoch.

# %%
BATCH = 128
train_images, train_labels = runtime.hold(data.train.images), data.train.labels.to(device)


def train_step(model, optimizer, scaler, inputs, labels):
    """Update the weights once; return the loss and the logits (N, classes)."""
    with runtime.autocast():
        logits = model(inputs)
    loss = F.cross_entropy(logits.float(), labels)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return loss.detach(), logits.detach()


def train_epoch(model, optimizer, scaler, generator):
    """Train on every image once; return mean loss and accuracy over the epoch."""
    model.train()
    loss_sum, right = torch.zeros(2, device=device)
    order = torch.randperm(len(train_labels), generator=generator)
    batches = order[: len(order) // BATCH * BATCH].split(BATCH)
    for chosen in batches:
        draws = torch.rand(BATCH, 3, generator=generator).to(device)
        images, labels = train_images[chosen].to(device), train_labels[chosen.to(device)]
        loss, logits = train_step(model, optimizer, scaler, normalized(augmented(images, draws)), labels)
        loss_sum += loss
        right += (logits.argmax(1) == labels).sum()
    return loss_sum.item() / len(batches), right.item() / (len(batches) * BATCH)


# %% [markdown]
# After each epoch the network is scored on the validation images. The score decides two things:
#
# - **The learning rate.** `ReduceLROnPlateau` divides it by five after each epoch without progress. Progress is a
#   validation accuracy more than half a point above that of the last epoch with progress; a smaller gain on 5,000
#   images can be chance. Start with large steps, finish with small ones.
# - **The weights to keep.** They are those of the best epoch, which may not be the last one.


# %%
def train(model, optimizer, seed=0):
    """Train for EPOCHS epochs, load the best epoch's weights into the model, return one row of numbers per epoch."""
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.2, patience=0, threshold=0.005, threshold_mode="abs"
    )
    generator, scaler = torch.Generator().manual_seed(seed), runtime.grad_scaler()
    history, best, best_weights = [], -1.0, None
    print("epoch  learning rate  train loss  train acc.  val. loss  val. acc.  seconds")
    for epoch in range(1, EPOCHS + 1):
        began, rate = time.perf_counter(), optimizer.param_groups[0]["lr"]
        train_loss, train_accuracy = train_epoch(model, optimizer, scaler, generator)
        seconds = time.perf_counter() - began
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
# Both networks are the class written above, and start from the same weights, drawn with the same seed. We use the 7×7
# stem, because training then takes minutes without a graphics card. Section 9 shows the cost and the accuracy of a
# training with the 3×3 stem.
#
# The library's network computes the same function. On a CPU with bfloat16 it can be trained in less time, because
# `resnetlab.accelerate` replaces its units by faster code. `accelerate` supports the units of the library and of
# torchvision. In a class written in a notebook it replaces the convolutions and the projections; the other batch norms,
# the ReLUs and the additions stay as they are. We train without it, so every line that computes is in this notebook or
# in PyTorch. The next cell measures training steps on one batch. The stored times are those of two CPU cores with
# bfloat16; on other machines the factors differ.


# %%
def new_model():
    torch.manual_seed(0)
    model = resnet18(num_classes=len(data.classes), in_channels=data.train.images.shape[-1])
    return model.to(device, memory_format=torch.channels_last)


def step_milliseconds(model, steps=3 if QUICK else 15):
    """Median time of a training step."""
    optimizer, scaler = torch.optim.SGD(model.train().parameters(), lr=0.01), runtime.grad_scaler()
    inputs, labels, seconds = normalized(train_images[:BATCH]), train_labels[:BATCH], []
    for _ in range(steps + 2):
        runtime.synchronize()
        began = time.perf_counter()
        train_step(model, optimizer, scaler, inputs, labels)
        runtime.synchronize()
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds[2:])  # the first two prepare memory


def library_model():
    in_channels = data.train.images.shape[-1]
    return resnetlab.build_model("resnet18", len(data.classes), in_channels=in_channels, stem="imagenet")


candidates = {
    "class of this notebook": new_model(),
    "class of this notebook, with `accelerate`": resnetlab.accelerate(new_model()),
    "the library's, with `accelerate`": runtime.place(library_model(), training=True),
}
times = {name: step_milliseconds(model) for name, model in candidates.items()}
slowest = times["class of this notebook"]
helpers.table(
    ["network", "milliseconds a step", "times as fast"],
    [[name, f"{each:.0f}", f"{slowest / each:.2f}"] for name, each in times.items()],
)

# %% [markdown]
# **Adam** divides the step of each weight by a running average of the size of its gradient, so all weights change at a
# similar rate: about `0.001` per step at first.
#
# **SGD** multiplies all gradients by one learning rate, so a weight with a larger gradient takes a larger step.
# *Momentum* (0.9, in Nesterov's form) adds a share of the past steps to each step. *Weight decay* shrinks all weights a
# little in each step.
#
# Both learning rates are usual values. We have not searched for the best ones.
#
# The next two cells take about a quarter of an hour each on two CPU cores; the last column has the seconds of each
# epoch. Equal epochs take different times when the machine has other work, so do not compare the optimizers by their
# minutes.

# %%
models, histories = {"Adam": new_model()}, {}
adam = torch.optim.Adam(models["Adam"].parameters(), lr=0.001, fused=True)
histories["Adam"] = train(models["Adam"], adam)

# %%
models["SGD"] = new_model()
sgd = torch.optim.SGD(models["SGD"].parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
histories["SGD"] = train(models["SGD"], sgd)

# %% [markdown]
# The figure shows the curves of both. The training curves are averages over an epoch, with augmented images and weights
# that still change. Validation is scored after the epoch, on images without augmentation. So early in training the
# validation curve can be the better one. Where training accuracy keeps rising and validation accuracy does not, the
# network overfits. Large dots mark the epochs that are kept.

# %%
helpers.show(helpers.curves_figure(histories, data.name))

# %% [markdown]
# The next cell lists the epochs with a lowered learning rate, and how much the validation accuracy changed in each of
# them.

# %%
for name, history in histories.items():
    print(f"{name}: best validation accuracy in epoch {max(history, key=lambda row: row['val_accuracy'])['epoch']}")
    for before, after in pairwise(history):
        if after["rate"] < before["rate"]:
            change = 100 * (after["val_accuracy"] - before["val_accuracy"])
            print(f"  epoch {after['epoch']}: learning rate {after['rate']:.2g}, accuracy {change:+.2f} points")

# %% [markdown]
# ## 8. Evaluation
#
# Now the test images, once for each network, with the weights of its best epoch. The test accuracy is a share of a
# limited number of images. Its 95 % interval (Wilson's) covers other images of the same kind: nineteen of twenty such
# intervals contain the accuracy on an unlimited number of them. It does not cover other seeds.

# %%
test_labels = data.test.labels
probabilities = {name: predict(model, data.test) for name, model in models.items()}
predicted = {name: shares.argmax(1) for name, shares in probabilities.items()}
is_right = {name: classes == test_labels for name, classes in predicted.items()}
kept = {name: max(history, key=lambda row: row["val_accuracy"]) for name, history in histories.items()}

helpers.table(
    ["optimizer", "best epoch", "validation", "test loss", "test accuracy (95 % interval)", "minutes of training"],
    [
        [
            name,
            kept[name]["epoch"],
            f"{kept[name]['val_accuracy']:.2%}",
            f"{score(probabilities[name], test_labels)[0]:.3f}",
            helpers.accuracy_with_interval(int(is_right[name].sum()), len(test_labels)),
            f"{sum(row['seconds'] for row in history) / 60:.1f}",
        ]
        for name, history in histories.items()
    ],
)

# %% [markdown]
# ### Which one is better?
#
# Both networks classified the same images, so only images on which exactly one of them is right distinguish them. If
# both were equally good, each such image would favour either network with probability one half, like a coin. McNemar's
# test gives the probability $p$ of a split at least as uneven as the one found. Below `0.05` we call the difference
# significant. The test compares these two networks. To compare the two *optimizers*, one needs several trainings of
# each, with other seeds and with tuned learning rates.

# %%
only_adam = int((is_right["Adam"] & ~is_right["SGD"]).sum())
only_sgd = int((is_right["SGD"] & ~is_right["Adam"]).sum())
p = mcnemar(only_adam, only_sgd)

better = "Adam" if only_adam > only_sgd else "SGD"
gap = abs(only_adam - only_sgd) / len(test_labels)
verdict = (
    f"the network trained with {better} is the better one, by {100 * gap:.2f} points"
    if p < 0.05
    else f"no significant difference: {100 * gap:.2f} points, which can be chance"
)
Markdown(
    f"Only the network trained with Adam is right about {only_adam} images, only the one trained with SGD about "
    f"{only_sgd}; $p$ = {p:.2g}. **On these images: {verdict}.**"
)

# %% [markdown]
# ### Class by class
#
# These are the scores of the network with the better validation accuracy. *Precision*: of the images predicted as cat,
# the share that are cats. *Recall*: of the cats, the share predicted as cat. *F1* is their harmonic mean, which is high
# only if both are high. A class that was never predicted gets a precision of 0 here.

# %%
chosen = max(kept, key=lambda name: kept[name]["val_accuracy"])
print(f"ResNet-18 trained with {chosen}")
helpers.class_table(test_labels, predicted[chosen], data.classes)

# %% [markdown]
# The confusion matrix counts the images by true class (row) and predicted class (column). The diagonal holds the
# correct predictions. The shades are shares of the row.

# %%
helpers.show(helpers.confusion_figure(test_labels, predicted[chosen], data.classes, f"test images, {chosen}"))

# %% [markdown]
# ### Some predictions
#
# The figure shows random test images, correctly classified (above) and misclassified (below), each with the predicted
# class and its probability. A wrong prediction can have a high probability.

# %%
title = "Test images: right answers, and wrong ones with the true class"
helpers.show(
    helpers.predictions_figure(data.test.images, test_labels, probabilities[chosen], data.classes, title=title)
)

# %% [markdown]
# ## 9. The other stem
#
# The 3×3 stem keeps the full resolution, so every layer works on maps of 16 times the area, and the loop of this notebook
# would take much longer than above on a CPU. We trained it with the library's faster code and stored the results in
# `results/cifar10-resnet18`: <!--= epochs("cifar10-resnet18") -->8<!--/--> epochs with
# seed <!--= seed("cifar10-resnet18") -->0<!--/-->, in <!--= minutes("cifar10-resnet18") -->17<!--/--> minutes (machine: <!--= machine("cifar10-resnet18") -->Intel Xeon family 6 model 167, 2 cores, bf16<!--/-->).
# Reproduce it with `resnetlab train cifar10-resnet18`.

# %%
stored = helpers.load_run("cifar10-resnet18")
print(
    f"{stored.config['data']['name']}, {stored.config['optim']['name']}, schedule {stored.config['schedule']['name']}"
)
header = ["epoch", "learning rate at its end", "train loss", "val. loss", "val. accuracy", "seconds"]
columns = ["epoch", "lr", "train_loss", "val_loss", "val_accuracy", "train_seconds"]
formats = ["{:.0f}", "{:.2g}", "{:.3f}", "{:.3f}", "{:.2%}", "{:.0f}"]
helpers.table(
    header, [[form.format(row[key]) for key, form in zip(columns, formats, strict=True)] for row in stored.epochs]
)

# %% [markdown]
# The table compares it with the better network of this notebook. The two runs differ in more than the stem: the stored
# run has another number of epochs and another schedule (the learning rate rises, then falls to zero: *one cycle*), pads
# by reflection, uses label smoothing, and begins with smaller images. So the difference in accuracy is that of two
# recipes, with one seed each. The multiply-adds are those of the forward pass of one training image, in the mean over the run.

# %%
sizes = [round(32 * share) for share in stored.config["augment"]["sizes"]]
print("The images of the stored run grow:", ", then ".join(map(str, sizes)), "pixels.")
own = helpers.multiply_adds("resnet18", "imagenet", [32])
helpers.table(
    ["stem and run", "images", "million multiply-adds an image", "epochs", "test accuracy"],
    [
        [
            f"7×7, this notebook, {chosen}",
            data.name,
            f"{own / 1e6:.0f}",
            EPOCHS,
            f"{is_right[chosen].float().mean():.2%}",
        ],
        [
            f"3×3, `{stored.name}`",
            stored.test["data"],
            f"{stored.multiply_adds / 1e6:.0f}",
            len(stored.epochs),
            f"{stored.test['accuracy']:.2%}",
        ],
    ],
)

# %% [markdown]
# ## 10. Conclusion
#
# - A residual unit is a dozen lines: two convolutions with batch norms, a shortcut, one addition. ResNet-18 is eight
#   units between a stem and a head, with <!--= million("resnet18", stem="imagenet") -->11.2 million<!--/--> parameters
#   for ten classes. In float32 it equals torchvision's bit for bit.
# - Two trainings can be compared only if everything else is equal: here the initial weights, the order of the images
#   and the augmentation. The section "Which one is better?" gives the result for Adam and SGD with its p-value. It
#   holds for these two networks.
# - Validation scores set the learning rate and choose the epoch, so they are slightly too high. The test images choose
#   nothing and are used once for each network.
# - The stem sets the cost and the resolution of a network for small images.
#
# ### Exercises
#
# **1.** How many weights does `BasicBlock(64, 128, stride=2)` have? Count them on paper, then in a cell.
#
# <details><summary>Answer</summary>
#
# Two 3×3 convolutions, a 1×1 convolution, and three batch norms with a weight and a bias for each of their 128
# channels: `3 * 3 * 64 * 128 + 3 * 3 * 128 * 128 + 64 * 128 + 3 * 2 * 128 = 230144`. In a cell:
# `sum(weight.numel() for weight in BasicBlock(64, 128, stride=2).parameters())`.
#
# </details>
#
# **2.** A map has 7×7 pixels. What is the output shape of a 3×3 convolution with padding 1 and stride 2?
#
# <details><summary>Answer</summary>
#
# 4×4. With padding the map has 9 rows. The kernel starts at rows 0, 2, 4 and 6, where it still fits. In general it is
# $\lfloor (n + 2p - k) / s \rfloor + 1$ for $n$ pixels, padding $p$, kernel size $k$ and stride $s$.
#
# </details>
#
# **3.** Let `forward` of `BasicBlock` return `self.relu(residual)`, draw the unit again, and train with SGD. Which
# curve of the two networks, training or validation, shows whether the shortcut matters for the *optimisation*?
#
# <details><summary>Answer</summary>
#
# The training curve. A network that has difficulty in fitting its training images is not overfitting. One training of
# each is not enough to say more. The notebook `why_residuals` compares plain and residual networks of several depths.
#
# </details>
#
# **4.** Build a ResNet with as few units as this class allows. How many layers with weights does an image pass?
#
# <details><summary>Answer</summary>
#
# `ResNet((1, 1, 1, 1))`: $1 + 2 \cdot 4 + 1 = 10$ layers. The 1×1 convolutions of the shortcuts are not counted.
#
# </details>
#
# **5.** You try five learning rates for Adam and want to report the accuracy of the best one. Which images choose the
# rate, and how often do you use the test images?
#
# <details><summary>Answer</summary>
#
# Choose by validation accuracy, then score the chosen network once on the test images. If the test images chose the
# rate, the reported accuracy would be the luckiest of five.
#
# </details>
#
# **6.** Set `threshold=0` in `train`. Before you run it: will the learning rate be lowered earlier or later?
#
# <details><summary>Answer</summary>
#
# Later or in the same epoch, up to the first reduction, because every gain then counts as progress, however small. After
# that the two trainings differ.
#
# </details>
#
# ### What to read next
#
# - [`resnet34`](resnet34.ipynb): improvements of the training, each measured, and transfer to new classes.
# - [`why_residuals`](why_residuals.ipynb): networks with and without shortcuts.
# - The library's code: [`models/blocks.py`](../src/resnetlab/models/blocks.py) has the units,
#   [`models/resnet.py`](../src/resnetlab/models/resnet.py) the network,
#   [`training/`](../src/resnetlab/training) the trainer.
# - He et al. 2015, [arXiv:1512.03385](https://arxiv.org/abs/1512.03385): the paper; Table 1 is this network.
# - Ioffe and Szegedy 2015, [arXiv:1502.03167](https://arxiv.org/abs/1502.03167): batch norm.
# - Kingma and Ba 2014, [arXiv:1412.6980](https://arxiv.org/abs/1412.6980): Adam.
