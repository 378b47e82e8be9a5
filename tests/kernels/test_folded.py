"""The network for inference gives the probabilities of the plain network, over the whole zoo."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.kernels.calls import has_float_products, has_pair_products, kernels
from resnetlab.kernels.folded import FoldedConv, fold, has_kernel
from resnetlab.models.build import build_model
from resnetlab.models.resnet import ResNet
from resnetlab.models.stems import whiten
from resnetlab.models.zoo import ARCHITECTURES, Architecture

SHALLOW = {  # one unit per stage of each kind of network in the zoo, without repetitions
    replace(found, units_per_stage=(1,) * len(found.units_per_stage), source=""): name
    for name, found in ARCHITECTURES.items()
}
MIXED = {  # shortcuts and stems that no network of the zoo combines
    "preact C": Architecture("preact", (1, 2), width=32, stem="cifar", shortcut="C"),
    "preact A": Architecture("preact", (1, 2), width=32, stem="imagenet", shortcut="A"),
    "bottleneck A": Architecture("bottleneck", (2, 1), width=16, stem="cifar", shortcut="A"),
    "basic C": Architecture("basic", (2, 1), width=32, stem="whitened", shortcut="C"),
    "odd width": Architecture("basic", (1, 1), width=20, stem="cifar"),
}
needs_floats = pytest.mark.skipif(not has_float_products(), reason="no kernel for float32 here")


def noise(*shape: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else drawn


@torch.no_grad()
def settled(architecture: Architecture | str, size: int, channels: int = 3, images: int = 4) -> ResNet:
    """A network with the statistics of data in its norms, factors of either sign, and probabilities from 0 to 1."""
    network = build_model(architecture, 5, in_channels=channels, image_size=size, seed=1)
    if network.architecture.stem == "whitened":
        whiten(network.conv1, noise(images, channels, size, size, seed=3))
    for index, module in enumerate(network.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.bias.copy_(0.2 * noise(len(module.bias), seed=index))
            module.weight[::7] *= -1
    network(noise(images, channels, size, size, seed=2))
    logits = network.eval()(noise(images, channels, size, size))
    network.fc.weight *= 3 / logits.std()
    return network


@torch.no_grad()
def require_same_probabilities(network: ResNet, size: int, channels: int = 3) -> None:
    """At most 1e-4 apart, as long as float32 determines the plain network's own probabilities that well."""
    images = noise(4, channels, size, size)
    before = copy.deepcopy(network.state_dict())
    plain, folded = (net(images).double().softmax(1) for net in (network, fold(network)))
    exact = copy.deepcopy(network).double()(images.double()).softmax(1)
    assert plain.max() > 0.4  # by chance it would be 0.2
    assert (folded - plain).abs().max() <= max(1e-4, 10 * (plain - exact).abs().max())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("architecture", SHALLOW, ids=SHALLOW.values())
def test_each_kind_of_network_keeps_its_probabilities(architecture: Architecture) -> None:
    require_same_probabilities(settled(architecture, 32), 32)


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_shortcut_and_stem_keeps_its_probabilities(name: str, channels: int) -> None:
    require_same_probabilities(settled(MIXED[name], 22, channels), 22, channels)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_network_of_the_zoo_keeps_its_probabilities(name: str) -> None:
    require_same_probabilities(settled(name, 32, images=16), 32)


@torch.no_grad()
@pytest.mark.parametrize("architecture", [*MIXED.values(), ARCHITECTURES["fast_resnet8"]], ids=str)
def test_bfloat16_is_as_close_as_that_of_torch(architecture: Architecture) -> None:
    network, images = settled(architecture, 32), noise(16, 3, 32, 32)
    plain, folded = network(images), fold(network, torch.bfloat16)(images)
    with torch.autocast("cpu", torch.bfloat16):
        by_torch = network(images).float()
    assert folded.dtype == torch.float32
    assert (folded - plain).square().mean() < 4 * (by_torch - plain).square().mean() + 1e-4


@needs_floats
@torch.no_grad()
@pytest.mark.parametrize("size", [4, 5, 6, 7, 8, 13, 16])
@pytest.mark.parametrize(("channels", "out"), [(16, 16), (32, 48), (48, 80), (16, 128), (64, 16)])
def test_float32_equals_torch_for_each_size_and_width(size: int, channels: int, out: int) -> None:
    conv = nn.Conv2d(channels, out, 3, padding=1)
    folded = FoldedConv(conv, nn.Identity(), dtype=torch.float32, use_kernels=True)
    assert folded.packed is not None
    for images in (1, 5):
        x, add = noise(images, channels, size, size), noise(images, out, size, size, seed=1)
        convolved = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)  # type: ignore[union-attr]
        for given, relu in ((None, False), (None, True), (add, False), (add, True)):
            expected = convolved if given is None else convolved + given
            y = folded(x, given, relu=relu)
            torch.testing.assert_close(y.double(), expected.relu() if relu else expected, rtol=0, atol=3e-5)
            assert y.is_contiguous(memory_format=torch.channels_last)


@needs_floats
@torch.no_grad()
def test_other_layouts_shapes_and_types_are_computed_by_torch_or_copied() -> None:
    conv = nn.Conv2d(16, 32, 3, padding=1)
    folded = FoldedConv(conv, nn.Identity(), dtype=torch.float32, use_kernels=True)
    x = noise(2, 16, 8, 8)
    expected = conv(x)
    for given in (x.contiguous(), x.flip(0).flip(0), noise(2, 32, 8, 8)[:, ::2] * 0 + x):
        torch.testing.assert_close(folded(given), expected, rtol=1e-4, atol=1e-5)
    for shape in ((2, 16, 8, 6), (2, 16, 3, 3), (0, 16, 8, 8), (1, 16, 1, 1)):
        torch.testing.assert_close(folded(noise(*shape)), conv(noise(*shape)), rtol=1e-4, atol=1e-5)
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        folded(leaf).sum().backward()
        assert leaf.grad is not None


@needs_floats
@torch.no_grad()
def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    folded = FoldedConv(nn.Conv2d(32, 160, 3, padding=1), nn.Identity(), dtype=torch.float32, use_kernels=True)
    x, before = noise(3, 32, 12, 12), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            found.append(folded(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found)


@needs_floats
@torch.no_grad()
def test_the_kernel_reads_and_writes_nothing_outside() -> None:
    """NaN around the input would appear in the result; the numbers around the output stay."""
    images, size, channels = 3, 6, 16
    numbers = images * size * size * channels
    outer = torch.full((3 * numbers,), float("nan"))
    x = outer[numbers : 2 * numbers].view(images, size, size, channels).permute(0, 3, 1, 2)
    x.copy_(noise(images, channels, size, size))
    folded = FoldedConv(nn.Conv2d(16, 16, 3, padding=1), nn.Identity(), dtype=torch.float32, use_kernels=True)
    result = torch.full((3 * numbers,), 7.0)
    assert folded.packed is not None
    places = x, folded.packed, folded.bias, None, result[numbers:]
    addresses = [None if place is None else place.data_ptr() for place in places]
    assert kernels().floats_convolve(*addresses, images, size, channels, channels, 0, 2) == 0
    assert (result[:numbers] == 7).all()
    assert (result[2 * numbers :] == 7).all()
    written = result[numbers : 2 * numbers].view(images, size, size, channels).permute(0, 3, 1, 2)
    assert torch.equal(written, folded(x))
    assert written.isfinite().all()


@needs_floats
@torch.no_grad()
def test_nan_stays_nan() -> None:
    folded = FoldedConv(nn.Conv2d(16, 16, 3, padding=1), nn.Identity(), dtype=torch.float32, use_kernels=True)
    x = noise(1, 16, 8, 8)
    x[0, 3, 4, 4] = float("nan")
    assert folded(x, relu=True)[0, :, 4, 4].isnan().all()


def test_wide_convolutions_use_a_kernel_and_grouped_ones_do_not() -> None:
    for dtype, narrowest in ((torch.float32, 16), (torch.bfloat16, 32)):
        if not has_kernel(dtype):
            continue
        for conv, is_packed in (
            (nn.Conv2d(narrowest, narrowest, 3, padding=1), True),
            (nn.Conv2d(narrowest // 2, narrowest, 3, padding=1), False),
            (nn.Conv2d(64, 64, 3, stride=2, padding=1), False),
            (nn.Conv2d(64, 64, 3, padding=1, groups=2), False),
            (nn.Conv2d(64, 64, 3), False),
            (nn.Conv2d(64, 64, 1), False),
        ):
            folded = FoldedConv(conv, nn.Identity(), dtype=dtype, use_kernels=True)
            assert (folded.packed is not None) == is_packed
            assert FoldedConv(conv, nn.Identity(), dtype=dtype, use_kernels=False).packed is None


@torch.no_grad()
def test_a_copy_and_a_pickle_give_the_same_bits() -> None:
    network, images = fold(settled(MIXED["basic C"], 16)), noise(2, 3, 16, 16)
    expected = network(images)
    assert torch.equal(copy.deepcopy(network)(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(network))(images), expected)
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.skipif(not has_pair_products(), reason="no kernel for bfloat16 here")
@torch.no_grad()
def test_bfloat16_adds_the_bias_and_the_shortcut_before_rounding() -> None:
    conv = nn.Conv2d(32, 32, 3, padding=1)
    folded = FoldedConv(conv, nn.Identity(), dtype=torch.bfloat16, use_kernels=True)
    x, add = noise(2, 32, 7, 7).bfloat16(), noise(2, 32, 7, 7, seed=1).bfloat16()
    bare = FoldedConv(conv, nn.Identity(), dtype=torch.bfloat16, use_kernels=True)
    bare.bias = torch.zeros(32)
    exact = conv.double()(x.double()) + add.double()
    found = folded(x, add).double()
    assert (found - exact).abs().max() < 0.05
    assert torch.equal(folded(x, add, relu=True).double(), found.relu())
    assert (folded(x).double() - bare(x).double() - conv.bias[:, None, None]).abs().max() < 0.03  # type: ignore[index]
