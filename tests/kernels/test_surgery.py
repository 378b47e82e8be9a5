"""What people do to a torchvision ResNet works the same on ours, plain and accelerated, and to the same numbers.

torchvision's network with the same weights is the reference: in fp32 to the bit, in bfloat16 to within its own error.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental import optimization
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from resnetlab.kernels.accelerate import accelerate, count_accelerated, restore
from resnetlab.kernels.library import library
from resnetlab.models import Architecture, ResNet, build_model
from resnetlab.models.blocks import BasicBlock

BATCH = 4
IMAGES = torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(BATCH)
Change = Callable[[nn.Module], object]


def reference() -> nn.Module:
    """torchvision's ResNet with two stages of one unit each."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
        model.layer3, model.layer4, model.fc = nn.Identity(), nn.Identity(), nn.Linear(128, 10)
        return model


def plain() -> nn.Module:
    """The same network, ours."""
    model = build_model(Architecture("basic", (1, 1)), 10)
    model.load_state_dict(reference().state_dict())
    return model


KINDS: dict[str, Callable[[], nn.Module]] = {
    "ours": plain,
    "ours, accelerated": lambda: accelerate(plain()),
    "torchvision, accelerated": lambda: accelerate(reference()),
}
# Accelerated networks of ours are in the quick tests; plain ones are torch's own layers, and torchvision's accelerated
# ones run the same kernels.
each_kind = pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=name, marks=[] if name == "ours, accelerated" else [pytest.mark.slow])
        for name, make in KINDS.items()
    ],
)


def bfloat16(*, enabled: bool = True) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


def error(values: Tensor, exact: Tensor) -> float:
    return float((values.double() - exact.double()).norm() / exact.double().norm().clamp_min(1e-12))


def step(model: nn.Module, *, half: bool) -> dict[str, Tensor]:
    """Logits and gradients of a training step."""
    model.train()
    with bfloat16(enabled=half):
        logits = model(IMAGES).float()
    nn.functional.cross_entropy(logits, LABELS).backward()
    return {
        "logits": logits.detach(),
        "gradient": torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]),
    }


def changed(model: nn.Module, change: Change) -> nn.Module:
    """The network after a change in place, or what the change returned."""
    other = change(model)
    return model if other is None else other  # type: ignore[return-value]


def outcome(start: Callable[[], nn.Module], change: Change, *, half: bool) -> dict[str, Tensor]:
    return step(changed(start(), change), half=half)


@cache
def expected(change: Change, *, half: bool) -> dict[str, Tensor]:
    return outcome(reference, change, half=half)


def assert_same(make: Callable[[], nn.Module], change: Change) -> None:
    """The same change to the network and to the reference has the same effect, in fp32 and in bfloat16."""
    exact, theirs = expected(change, half=False), expected(change, half=True)
    for name, values in outcome(make, change, half=False).items():
        assert torch.equal(values, exact[name]), name
    for name, values in outcome(make, change, half=True).items():
        # bfloat16 rounds at other places in other algorithms; Winograd's rounds twice as often
        assert error(values, exact[name]) <= 1.6 * error(theirs[name], exact[name]) + 2e-3, name


def units(model: nn.Module) -> Iterator[nn.Module]:
    yield from model.layer1
    yield from model.layer2


def replace_modules(model: nn.Module, kind: type[nn.Module], make: Callable[[nn.Module], nn.Module]) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, make(child))


class ScaledNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def scaled(norm: nn.Module) -> nn.Module:
    other = ScaledNorm(norm.num_features)
    other.load_state_dict(norm.state_dict())
    return other


def patch_norms(model: nn.Module) -> None:
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.forward = lambda x, norm=norm: 0.5 * nn.BatchNorm2d.forward(norm, x)


def dilate(model: nn.Module) -> None:
    for conv in model.layer2.modules():
        if isinstance(conv, nn.Conv2d):
            conv.stride = (1, 1)
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (2, 2)


def pad_circular(model: nn.Module) -> None:
    for conv in model.layer1.modules():
        if isinstance(conv, nn.Conv2d):
            conv.padding_mode = "circular"


def add_biases(model: nn.Module) -> None:
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d):
            conv.bias = nn.Parameter(torch.linspace(-1, 1, conv.out_channels))


def extend_projection(model: nn.Module) -> None:
    model.layer2[0].downsample.append(nn.Sigmoid())
    model.layer2[0].downsample.insert(0, nn.Tanh())


def freeze_norms(model: nn.Module) -> None:
    model.train()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.train(False)
    model.train = lambda mode=True: model


def group_norms(model: nn.Module) -> None:
    replace_modules(model, nn.BatchNorm2d, lambda norm: nn.GroupNorm(8, norm.num_features))


def strided_norms(model: nn.Module) -> None:
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight = nn.Parameter(torch.linspace(0.5, 1.5, 2 * norm.num_features)[::2])
            norm.bias = nn.Parameter(torch.linspace(-1, 1, 2 * norm.num_features)[::2])


def prune_kernels(model: nn.Module) -> None:
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d):
            prune.l1_unstructured(conv, "weight", amount=0.5)


def normalize_kernels(model: nn.Module) -> None:
    for unit in units(model):
        parametrizations.weight_norm(unit.conv2)


def scale_in_place(model: nn.Module) -> None:
    model.layer1[0].bn1.register_forward_hook(lambda _, __, y: y.mul_(0.5))
    model.maxpool.register_forward_hook(lambda _, __, y: y.mul_(0.5))


def checkpointed(model: nn.Module) -> None:
    for stage in (model.layer1, model.layer2):
        stage.forward = lambda x, unit=stage[0]: checkpoint(unit, x, use_reentrant=False)


CHANGES: dict[str, Change] = {
    "nothing": lambda model: None,
    "SiLU for ReLU": lambda model: replace_modules(model, nn.ReLU, lambda _: nn.SiLU()),
    "a sub-class of the norm": lambda model: replace_modules(model, nn.BatchNorm2d, scaled),
    "norms with a patched forward": patch_norms,
    "norms with strided parameters": strided_norms,
    "group norms": group_norms,
    "norms in evaluation mode": freeze_norms,
    "norms without parameters": lambda model: replace_modules(
        model, nn.BatchNorm2d, lambda norm: nn.BatchNorm2d(norm.num_features, affine=False)
    ),
    "norms without running statistics": lambda model: replace_modules(
        model, nn.BatchNorm2d, lambda norm: nn.BatchNorm2d(norm.num_features, track_running_stats=False)
    ),
    "norms that average over all batches": lambda model: replace_modules(
        model, nn.BatchNorm2d, lambda norm: nn.BatchNorm2d(norm.num_features, momentum=None)
    ),
    "dilated convolutions": dilate,
    "circular padding": pad_circular,
    "convolutions with biases": add_biases,
    "longer projections": extend_projection,
    "pruned kernels": prune_kernels,
    "normalised kernels": normalize_kernels,
    "maps changed in place by a hook": scale_in_place,
    "gradient checkpointing": checkpointed,
    "channels_last": lambda model: model.to(memory_format=torch.channels_last),
    "a deep copy": copy.deepcopy,
    "torch.compile, eager": lambda model: torch.compile(model, backend="eager"),
}

QUICK = {
    *("nothing", "SiLU for ReLU", "norms with a patched forward", "norms without parameters", "group norms"),
    *("dilated convolutions", "convolutions with biases", "longer projections", "maps changed in place by a hook"),
    *("gradient checkpointing", "channels_last"),
}  # the others are of the same kinds


@each_kind
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(change, id=name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name, change in CHANGES.items()
    ],
)
def test_a_changed_network_trains_as_torchvisions(make: Callable[[], nn.Module], change: Change) -> None:
    assert_same(make, change)


def fuse_by_hand(model: nn.Module) -> None:
    for unit in units(model):
        unit.conv1, unit.bn1 = fuse_conv_bn_eval(unit.conv1, unit.bn1), nn.Identity()


def exported(model: nn.Module) -> nn.Module:
    return torch.export.export(model, (IMAGES,)).module()


def traced(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and used all the same
        return torch.jit.trace(model, IMAGES)


EVALUATED: dict[str, Change] = {
    "convolution and norm fused": fuse_by_hand,
    "torch.fx": torch.fx.symbolic_trace,
    "fused by torch.fx": optimization.fuse,
    "torch.export": exported,
    "torch.jit.trace": traced,
    "half the width in bfloat16": lambda model: None,
}


@each_kind
@pytest.mark.parametrize("change", EVALUATED.values(), ids=EVALUATED)
def test_a_changed_network_evaluates_as_torchvisions(make: Callable[[], nn.Module], change: Change) -> None:
    def with_statistics(start: Callable[[], nn.Module]) -> nn.Module:
        model = start()
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.copy_(torch.linspace(-0.2, 0.2, norm.num_features))
                norm.running_var.copy_(torch.linspace(0.5, 2, norm.num_features))
        return model

    exact, mine = (changed(with_statistics(start).eval(), change) for start in (reference, make))
    with torch.no_grad():
        torch.testing.assert_close(mine(IMAGES), exact(IMAGES), rtol=1e-5, atol=1e-5)


def test_fx_finds_every_layer_of_a_plain_or_restored_network() -> None:
    for model in (reference(), plain(), restore(accelerate(plain()))):
        fused = optimization.fuse(model.eval())
        assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


def quantized(model: nn.Module) -> Tensor:
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = quantize_fx.prepare_fx(model.eval(), get_default_qconfig_mapping("x86"), (IMAGES,))
        prepared(IMAGES)
        return quantize_fx.convert_fx(prepared)(IMAGES)


def test_quantization_by_graph_gives_torchvisions_numbers() -> None:
    with torch.no_grad():
        exact = reference().eval()(IMAGES)
        theirs = error(quantized(reference()), exact)
        assert error(quantized(plain()), exact) <= 1.5 * theirs
        assert error(quantized(restore(accelerate(plain()))), exact) <= 1.5 * theirs


CATCHES: dict[str, Callable[[nn.Module, list[Tensor]], object]] = {
    "output of a unit": lambda m, kept: m.layer1[0].register_forward_hook(lambda _, __, y: kept.append(y)),
    "output of a stage": lambda m, kept: m.layer1.register_forward_hook(lambda _, __, y: kept.append(y)),
    "input of a stage": lambda m, kept: m.layer2.register_forward_pre_hook(lambda _, x: kept.append(x[0])),
    "input of a unit": lambda m, kept: m.layer2[0].register_forward_pre_hook(lambda _, x: kept.append(x[0])),
    "input of a convolution": lambda m, kept: m.layer2[0].conv1.register_forward_pre_hook(
        lambda _, x: kept.append(x[0])
    ),
    "input of a shortcut": lambda m, kept: m.layer2[0].downsample.register_forward_pre_hook(
        lambda _, x: kept.append(x[0])
    ),
    "input of a projection": lambda m, kept: (
        m.layer2[0].downsample[0].register_forward_pre_hook(lambda _, x: kept.append(x[0]))
    ),
    "output of the pool": lambda m, kept: m.maxpool.register_forward_hook(lambda _, __, y: kept.append(y)),
}


@each_kind
@pytest.mark.parametrize("catch", CATCHES.values(), ids=CATCHES)
def test_the_gradient_of_a_caught_activation_is_whole(
    make: Callable[[], nn.Module], catch: Callable[[nn.Module, list[Tensor]], object]
) -> None:
    def gradient(model: nn.Module, *, half: bool) -> Tensor:
        kept: list[Tensor] = []
        catch(model.train(), kept)
        with bfloat16(enabled=half):
            loss = nn.functional.cross_entropy(model(IMAGES).float(), LABELS)
        (asked,) = torch.autograd.grad(loss, kept[0], retain_graph=True)
        kept[0].retain_grad()
        by_hook: list[Tensor] = []
        kept[0].register_hook(by_hook.append)
        loss.backward()
        assert torch.equal(kept[0].grad, asked)
        assert torch.equal(by_hook[-1], asked)
        return asked

    exact = gradient(reference(), half=False)
    assert torch.equal(gradient(make(), half=False), exact)
    assert error(gradient(make(), half=True), exact) <= 1.5 * error(gradient(reference(), half=True), exact) + 2e-3


class Recorder(nn.Module):
    """A module of a user's own that keeps its input."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.kept.append(x)
        return self.inside(x)


@each_kind
@pytest.mark.parametrize("where", ["conv1", "downsample"])
def test_a_module_of_ones_own_is_given_a_tensor_with_the_whole_gradient(
    make: Callable[[], nn.Module], where: str
) -> None:
    def gradient(model: nn.Module, *, half: bool) -> Tensor:
        recorder = Recorder(getattr(model.layer2[0], where))
        setattr(model.layer2[0], where, recorder)
        with bfloat16(enabled=half):
            loss = nn.functional.cross_entropy(model.train()(IMAGES).float(), LABELS)
        return torch.autograd.grad(loss, recorder.kept[0])[0]

    exact = gradient(reference(), half=False)
    assert error(gradient(make(), half=True), exact) <= 1.5 * error(gradient(reference(), half=True), exact) + 2e-3


def count_hooks(model: nn.Module, *, everywhere: bool = True) -> list[int]:
    """The calls of hooks of every kind, on norms and, for the whole process, on all modules."""
    counts = dict.fromkeys(("forward", "before", "backward", "before backward", "global", "global backward"), 0)

    def count(what: str) -> Callable[..., None]:
        def hook(*_: object, **__: object) -> None:
            counts[what] += 1

        return hook

    replace_modules(model, nn.ReLU, lambda _: nn.ReLU())  # backward hooks and in-place modules exclude each other
    for name, module in model.named_modules():
        if name.endswith("bn1"):  # behind the others torchvision adds in place, which backward hooks forbid
            module.register_forward_hook(count("forward"))
            module.register_forward_pre_hook(count("before"))
            module.register_full_backward_hook(count("backward"))
            module.register_full_backward_pre_hook(count("before backward"))
    handles = [
        torch_module.register_module_forward_hook(count("global")),
        torch_module.register_module_forward_pre_hook(count("global")),
    ]
    if everywhere:
        handles.append(torch_module.register_module_full_backward_hook(count("global backward")))
        handles.append(torch_module.register_module_full_backward_pre_hook(count("global backward")))
    try:
        with bfloat16():
            loss = model.train()(IMAGES.clone().requires_grad_()).float().sum()
        loss.backward()
    finally:
        for handle in handles:
            handle.remove()
    return list(counts.values())


def test_hooks_are_called_as_often_as_torchvisions() -> None:
    expected = count_hooks(reference(), everywhere=False)
    assert all(expected[:5])
    assert count_hooks(accelerate(reference()), everywhere=False) == expected
    # ours has a module for an identity shortcut, which global hooks see as well
    ours = count_hooks(plain())
    assert all(ours)
    assert count_hooks(accelerate(plain())) == ours
    assert ours[:4] == expected[:4]


@each_kind
def test_only_one_kind_of_hook_is_enough_to_be_called(make: Callable[[], nn.Module]) -> None:
    for register in ("register_full_backward_pre_hook", "register_full_backward_hook", "register_forward_hook"):
        model, calls = make().train(), list[object]()
        replace_modules(model, nn.ReLU, lambda _: nn.ReLU())
        getattr(model.layer1[0].bn1, register)(lambda *given, calls=calls: calls.append(given))
        with bfloat16():
            model(IMAGES).float().sum().backward()
        assert len(calls) == 1, register


@each_kind
def test_operations_are_counted_as_torchvisions(make: Callable[[], nn.Module]) -> None:
    def flops(model: nn.Module) -> int:
        with FlopCounterMode(display=False) as counter, bfloat16():
            model.train()(IMAGES).float().sum().backward()
        return counter.get_total_flops()

    assert flops(make()) == flops(reference())


@each_kind
def test_fake_and_meta_tensors_and_make_fx(make: Callable[[], nn.Module]) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, bfloat16():
        assert make().train()(mode.from_tensor(IMAGES)).shape == (BATCH, 10)
    with bfloat16():
        assert make().to("meta").train()(IMAGES.to("meta")).shape == (BATCH, 10)
    model = make().eval()
    with torch.no_grad(), bfloat16():
        replayed = make_fx(model)(IMAGES)(IMAGES)
        torch.testing.assert_close(replayed, model(IMAGES), rtol=0.05, atol=0.05)


@each_kind
def test_a_network_in_bfloat16_throughout(make: Callable[[], nn.Module]) -> None:
    exact, theirs, mine = reference(), reference().bfloat16(), make().bfloat16()
    x = IMAGES.bfloat16()
    with torch.no_grad():
        truth, other = exact.train()(x.float()), theirs.train()(x)
    for _ in range(3):
        y = mine.train()(x)
    assert error(y.detach(), truth) <= 1.6 * error(other, truth) + 2e-3
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert {p.grad.dtype for p in mine.parameters()} == {torch.bfloat16}


@each_kind
def test_an_empty_batch_and_a_single_value_per_channel(make: Callable[[], nn.Module]) -> None:
    with torch.no_grad(), bfloat16():
        assert make().train()(IMAGES[:0]).shape == reference().train()(IMAGES[:0]).shape == (0, 10)
        assert make().eval()(IMAGES[:1, :, :8, :8]).shape == (1, 10)
        for model in (reference(), make()):
            with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
                model.train()(IMAGES[:1, :, :8, :8])


@each_kind
def test_a_penalty_on_the_gradient_has_torchs_gradient(make: Callable[[], nn.Module]) -> None:
    """A gradient of a gradient, through every kind of fused operation."""

    def penalty(model: nn.Module, *, half: bool) -> Tensor:
        images = IMAGES.clone().requires_grad_()
        with bfloat16(enabled=half):
            loss = nn.functional.cross_entropy(model.train()(images).float(), LABELS)
        (gradient,) = torch.autograd.grad(loss, images, create_graph=True)
        (100 * gradient.square().sum() + loss).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    exact = penalty(reference(), half=False)
    assert torch.equal(penalty(make(), half=False), exact)
    assert error(penalty(make(), half=True), exact) <= 1.6 * error(penalty(reference(), half=True), exact) + 2e-3


@each_kind
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch itself calls it
def test_torch_func(make: Callable[[], nn.Module]) -> None:
    """functional_call with other weights, gradients by torch.func, forward-mode derivatives, per-sample gradients."""
    other = {name: value + 0.01 for name, value in reference().state_dict().items() if value.is_floating_point()}

    def loss(model: nn.Module, parameters: dict[str, Tensor], images: Tensor, *, half: bool = True) -> Tensor:
        with bfloat16(enabled=half):
            logits = torch.func.functional_call(model, parameters, (images,)).float()
        return nn.functional.cross_entropy(logits, LABELS[: len(images)])

    theirs, mine = reference().eval(), make().eval()
    torch.testing.assert_close(loss(mine, other, IMAGES), loss(theirs, other, IMAGES), rtol=0.02, atol=0.02)
    weights = dict(reference().named_parameters())
    with torch.no_grad():
        ours, exact = (torch.func.grad(loss, argnums=1)(model, weights, IMAGES) for model in (mine, theirs))
        assert error(ours["fc.weight"], exact["fc.weight"]) < 0.1
        gradient = torch.func.grad(lambda w, x: loss(mine, w, x[None], half=False))  # torch's own fails in bfloat16
        each = torch.func.vmap(gradient, in_dims=(None, 0))
        assert each(weights, IMAGES)["fc.weight"].shape == (BATCH, 10, 128)
    with torch.no_grad(), forward_ad.dual_level():  # torch's own batch norm has no such derivative in bfloat16
        dual = forward_ad.make_dual(IMAGES, torch.ones_like(IMAGES))
        tangents = [forward_ad.unpack_dual(model.train()(dual)).tangent for model in (make(), reference())]
    torch.testing.assert_close(tangents[0], tangents[1])


@each_kind
def test_patched_classes_of_torch_are_respected(make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    norm, convolution = nn.BatchNorm2d.forward, nn.Conv2d.forward

    def count(name: str, forward: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
        return lambda module, x: (calls.append(name), forward(module, x))[1]

    monkeypatch.setattr(nn.BatchNorm2d, "forward", count("norm", norm))
    monkeypatch.setattr(nn.Conv2d, "forward", count("convolution", convolution))
    with torch.no_grad(), bfloat16():
        make().train()(IMAGES)
    layers = [type(module) for module in reference().modules()]
    assert calls.count("norm") == layers.count(nn.BatchNorm2d)
    assert calls.count("convolution") == layers.count(nn.Conv2d)


@each_kind
def test_saved_tensors_can_be_moved_and_anomalies_detected(make: Callable[[], nn.Module]) -> None:
    straight = step(make(), half=True)
    with torch.autograd.graph.save_on_cpu(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anomaly detection announces that it is slow
        with torch.autograd.detect_anomaly():
            moved = step(make(), half=True)
    assert torch.equal(moved["logits"], straight["logits"])
    assert error(moved["gradient"], straight["gradient"]) < 0.02


@pytest.mark.skipif(library() is None, reason="no compiled kernels")
def test_an_accelerated_network_is_what_these_tests_test() -> None:
    """The kernels do compute an unchanged network, or the tests above would prove nothing."""
    model = accelerate(plain()).train()
    with bfloat16(), torch.profiler.profile() as profile:
        model(IMAGES).float().sum().backward()
    called = [event.name for event in profile.events()]
    fused = [name for name in called if "FusedNorm" in name and "Backward" not in name]
    assert len(fused) == 6  # the stem's, two in each of two units, the projection's
    assert count_accelerated(model) > 0


@each_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_default_dtype_does_not_matter(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    model = make()
    straight = step(copy.deepcopy(model), half=True)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        again = step(model, half=True)
    finally:
        torch.set_default_dtype(before)
    assert error(again["gradient"], straight["gradient"]) < 1e-3


def backward_in(mode: Callable[[], Any], model: nn.Module) -> Any:
    with bfloat16():
        loss = nn.functional.cross_entropy(model.train()(IMAGES).float(), LABELS)
    with mode() as entered:
        loss.backward()
    return entered


@each_kind
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # FakeTensorMode reads it
def test_the_backward_pass_may_run_in_a_mode_of_its_own(make: Callable[[], nn.Module]) -> None:
    backward_in(lambda: FakeTensorMode(allow_non_fake_inputs=True), make())
    flops = [backward_in(lambda: FlopCounterMode(display=False), m).get_total_flops() for m in (make(), reference())]
    assert flops[0] == flops[1]


@each_kind
def test_a_gradient_may_be_a_tensor_subclass(make: Callable[[], nn.Module]) -> None:
    x = torch.randn(2, 64, 8, 8).bfloat16().requires_grad_()
    with bfloat16():
        y = make().train().layer1(x)
    grad = torch.ones_like(y.detach())
    y.backward(TwoTensor(grad, grad.clone()))
    assert isinstance(x.grad, TwoTensor)


@each_kind
def test_a_norm_with_statistics_of_another_length_is_refused(make: Callable[[], nn.Module]) -> None:
    for name in ("running_var", "running_mean", "bias"):
        model = make().train()
        short = torch.ones(16)
        setattr(model.layer2[0].bn1, name, nn.Parameter(short) if name == "bias" else short)
        with bfloat16(), pytest.raises(RuntimeError, match="128"):
            model(IMAGES)


@each_kind
def test_hooks_on_saved_tensors_may_change_the_layout(make: Callable[[], nn.Module]) -> None:
    straight = step(make(), half=True)
    pack = partial(torch.clone, memory_format=torch.contiguous_format)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        again = step(make(), half=True)
    assert error(again["gradient"], straight["gradient"]) < 0.02


PATCHES: dict[str, tuple[type[nn.Module], str]] = {
    "torchvision's unit": (torchvision.models.resnet.BasicBlock, "forward"),
    "torchvision's network": (torchvision.models.ResNet, "_forward_impl"),
    "our unit": (BasicBlock, "forward"),
    "our network": (ResNet, "features"),
}


@pytest.mark.parametrize(("kind", "name"), PATCHES.values(), ids=PATCHES)
@pytest.mark.parametrize("before", [True, False])
def test_a_method_patched_on_a_class_is_called(
    kind: type[nn.Module], name: str, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = reference if kind.__module__.startswith("torchvision") else plain
    original = getattr(kind, name)
    model = start().eval() if before else accelerate(start()).eval()
    monkeypatch.setattr(kind, name, lambda self, x: original(self, x) * 2)
    model = accelerate(model)
    with torch.no_grad():
        assert torch.equal(model(IMAGES), start().eval()(IMAGES))
        with bfloat16():
            patched = model(IMAGES)
            monkeypatch.undo()
            assert error(patched.float(), start().eval()(IMAGES).float()) > 0.1


@each_kind
def test_an_input_kept_by_a_patched_convolution_has_the_whole_gradient(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, kept = nn.Conv2d.forward, dict[int, Tensor]()

    def keep(module: nn.Conv2d, x: Tensor) -> Tensor:
        kept[id(module)] = x
        return original(module, x)

    def gradient(model: nn.Module, *, half: bool) -> Tensor:
        with bfloat16(enabled=half):
            loss = nn.functional.cross_entropy(model.train()(IMAGES).float(), LABELS)
        return torch.autograd.grad(loss, kept[id(model.layer2[0].conv1)])[0]

    monkeypatch.setattr(nn.Conv2d, "forward", keep)
    exact = gradient(reference(), half=False)
    assert error(gradient(make(), half=True), exact) <= 1.5 * error(gradient(reference(), half=True), exact) + 2e-3


@each_kind
def test_a_module_behind_an_identity_has_the_whole_gradient(make: Callable[[], nn.Module]) -> None:
    def gradient(model: nn.Module, *, half: bool) -> Tensor:
        recorder = Recorder(model.layer2[0].downsample)
        model.layer2[0].downsample = nn.Sequential(nn.Identity(), recorder)
        with bfloat16(enabled=half):
            loss = nn.functional.cross_entropy(model.train()(IMAGES).float(), LABELS)
        return torch.autograd.grad(loss, recorder.kept[0])[0]

    exact = gradient(reference(), half=False)
    assert error(gradient(make(), half=True), exact) <= 1.5 * error(gradient(reference(), half=True), exact) + 2e-3
    model = make()
    squash = nn.Hardtanh(0, 0.5, inplace=True)
    model.layer2[0].downsample = nn.Sequential(nn.Identity(), squash, model.layer2[0].downsample)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        step(model, half=True)


def test_torchvisions_units_add_in_place_as_before() -> None:
    def caught(model: nn.Module, *, half: bool) -> tuple[Tensor, Tensor]:
        kept: list[Tensor] = []
        model.train().layer1[0].bn2.register_forward_hook(lambda _, __, y: kept.append(y))
        with bfloat16(enabled=half):
            loss = nn.functional.cross_entropy(model(IMAGES).float(), LABELS)
        return kept[0].detach(), torch.autograd.grad(loss, kept[0])[0]

    for mine, theirs in zip(caught(accelerate(reference()), half=False), caught(reference(), half=False), strict=True):
        assert torch.equal(mine, theirs)
    (mine, _), (theirs, _) = caught(accelerate(reference()), half=True), caught(reference(), half=True)
    assert error(mine, theirs) < 0.02


@each_kind
def test_gradients_of_gradients_of_every_parameter(make: Callable[[], nn.Module]) -> None:
    """A Hessian-vector product at 64 px, and at 16 and 8 px, where the last maps have 2x2 pixels and 1x1."""

    def product(model: nn.Module, images: Tensor, *, half: bool) -> Tensor:
        parameters = [p for p in model.train().parameters() if p.requires_grad]
        with bfloat16(enabled=half):
            loss = nn.functional.cross_entropy(model(images).float(), LABELS)
        first = torch.autograd.grad(loss, parameters, create_graph=True)
        return torch.cat([g.flatten() for g in torch.autograd.grad(sum(g.sum() for g in first), parameters)])

    theirs = 0.0
    for every in (1, 4, 8):
        images = IMAGES[:, :, ::every, ::every]
        exact = product(reference(), images, half=False)
        # At 8 px, maps of 1x1 pixels meet a stride of 2; torch leaves parts of that gradient unset in bfloat16.
        if every < 8:
            theirs = error(product(reference(), images, half=True), exact)
        elif make is plain:  # torch's own layers
            continue
        assert error(product(make(), images, half=True), exact) <= 2.25 * theirs + 0.02
    model = make().requires_grad_(False)
    model.layer2[0].downsample.requires_grad_(True)
    assert product(model, IMAGES, half=True).isfinite().all()


class Stop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        return None


@each_kind
def test_undefined_and_batched_gradients(make: Callable[[], nn.Module]) -> None:
    model = make().train()
    model.layer2.register_forward_pre_hook(lambda _, x: Stop.apply(x[0]))
    with bfloat16():
        model(IMAGES).float().sum().backward()
    assert model.conv1.weight.grad is None
    assert model.fc.weight.grad is not None
    images = IMAGES[:2].clone().requires_grad_()
    with bfloat16():
        logits = make().train()(images).float()
    rows = torch.autograd.grad(logits[0], images, torch.eye(10), is_grads_batched=True)[0]
    assert rows.shape == (10, *images.shape)


def test_unset_memory_of_strided_convolutions_on_narrow_maps() -> None:
    conv = accelerate(nn.Sequential(nn.Conv2d(64, 64, 3, 2, 1, bias=False)))
    for shape in ((8, 1), (3, 1), (2, 1), (1, 4), (1, 1)):
        x = torch.ones(2, 64, *shape).bfloat16()
        with bfloat16():
            (mine,) = torch.autograd.grad(conv(x).float().sum(), conv[0].weight)
        exact = torch.autograd.grad(conv(x.float()).sum(), conv[0].weight)[0]
        assert error(mine, exact) < 0.01, shape


def test_details_of_swapping() -> None:
    model = accelerate(reference())
    model.layer2[0].downsample[0].stride = 1
    model.layer2[0].conv1.stride = (1, 1)
    assert step(model, half=True)["logits"].isfinite().all()
    assert count_accelerated(copy.copy(model)) == count_accelerated(model)
    parametrizations.weight_norm(model.layer1[0].conv1)
    assert step(restore(model), half=False)["logits"].isfinite().all()
    quantizable = torchvision.models.quantization.resnet18(quantize=False)
    assert count_accelerated(accelerate(quantizable)) == 0
