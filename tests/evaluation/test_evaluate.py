"""Running a network over a split equals calling it, and leaves it as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from resnetlab.data.loaders import Batch, EvalBatches
from resnetlab.data.preprocess import Preprocessing
from resnetlab.data.splits import Split
from resnetlab.evaluation.evaluate import evaluate, evaluating, probabilities
from resnetlab.evaluation.metrics import score
from resnetlab.models.build import build_model
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import Architecture
from resnetlab.runtime import Runtime

TINY = Architecture("basic", (1, 1), width=8, stem="cifar")
SEE = Preprocessing(image_size=8, resize_to=8, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
CPU = Runtime(torch.device("cpu"))


@pytest.fixture
def split() -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (17, 8, 8, 3), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(17) % 3, tuple(map(str, range(17))))


def network(mode: bool = True) -> ResNet:
    """Its running statistics are not those of the batch, so the two modes give different answers."""
    model = CPU.place(build_model(TINY, 3))
    model(torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    return model.train(mode)


def modes(model: ResNet) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("size", [1, 5, 16, 17, 100])
def test_probabilities_equal_a_direct_forward_pass(split: Split, size: int) -> None:
    found, labels = probabilities(network(), EvalBatches(split, SEE, size, CPU), CPU)
    with torch.no_grad():
        expected = network().eval()(SEE.normalize(split.images)).double().softmax(1)
    assert found.dtype == np.float64
    assert found.shape == (17, 3)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    assert labels.tolist() == split.labels.tolist()


def test_in_one_batch_they_are_equal_to_the_last_bit(split: Split) -> None:
    batches = EvalBatches(split, SEE, 17, CPU)
    found, _ = probabilities(network(), batches, CPU)
    with torch.no_grad():
        expected = network().eval()(next(iter(batches)).images).double().softmax(1)
    assert np.array_equal(found, expected.numpy())


def test_a_lower_precision_is_used_and_is_near(split: Split) -> None:
    batches = EvalBatches(split, SEE, 17, CPU)
    full, _ = probabilities(network(), batches, CPU)
    half, _ = probabilities(network(), batches, Runtime(CPU.device, torch.bfloat16))
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(half, full, atol=0.02)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_mode_and_every_number_of_the_network_stay(split: Split, training: bool, frozen: bool) -> None:
    model = network(training)
    if frozen:
        model.freeze_backbone()
    mode, before = modes(model), copy.deepcopy(model.state_dict())
    evaluate(model, EvalBatches(split, SEE, 5, CPU), CPU)
    assert modes(model) == mode
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad == (not frozen or "fc" in n) for n, parameter in model.named_parameters())


def test_the_mode_comes_back_after_an_error_too(split: Split) -> None:
    def breaking() -> Iterator[Batch]:
        yield from EvalBatches(split, SEE, 5, CPU)
        raise OSError("the disk is gone")

    model = network()
    with pytest.raises(OSError, match="gone"):
        evaluate(model, breaking(), CPU)
    assert all(modes(model))


def test_inside_it_is_in_evaluation_mode() -> None:
    model = network()
    with evaluating(model):
        assert not any(modes(model))
    assert all(modes(model))


def test_a_score_is_made_from_the_probabilities(split: Split) -> None:
    batches = EvalBatches(split, SEE, 5, CPU)
    assert evaluate(network(), batches, CPU) == score(*probabilities(network(), batches, CPU))


def test_training_may_go_on_afterwards(split: Split) -> None:
    """What inference mode made must not get into a later backward pass."""
    model, batches = network(), EvalBatches(split, SEE, 5, CPU)
    evaluate(model, batches, CPU)
    model(next(iter(batches)).images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
