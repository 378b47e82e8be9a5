"""Nothing that is NaN or infinite is saved: neither weights nor running statistics (promises 12 and 34)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import resnetlab
from resnetlab.errors import NonFinite
from resnetlab.runs.writer import finite_values, require_finite_weights


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_an_infinite_running_variance_with_a_finite_loss_is_never_saved(policy: str, tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    )
    images = 1e25 * torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))  # their variance overflows
    pair = (images, torch.arange(64) % 2)
    settings = {"epochs": 2, "batch_size": 4, "lr": 1e-3, "device": "cpu", "precision": "fp32", "on_nonfinite": policy}
    with pytest.raises(NonFinite, match="there is no checkpoint yet"):
        resnetlab.fit(model, pair, pair, folder=tmp_path / "fit", **settings)
    assert not (tmp_path / "fit").exists()  # a training that saved nothing leaves no folder


def test_what_is_not_finite_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    watched = finite_values(model)
    require_finite_weights(model, watched, 3)
    model[1].running_var[0] = torch.inf
    model[0].weight.data[0, 1] = torch.nan
    with pytest.raises(NonFinite, match=r"^0\.weight, 1\.running_var became NaN or infinite by step 3: try a smaller"):
        require_finite_weights(model, watched, 3)


class Masked(nn.Module):
    """A network with a buffer that is meant to be infinite."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 2)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.flatten(1)) + self.mask.clamp(min=-1)


def test_a_buffer_that_is_meant_to_be_infinite_is_saved(tmp_path: Path) -> None:
    pair = (torch.rand(16, 1, 4, 4), torch.arange(16) % 2)
    fitted = resnetlab.fit(Masked(), pair, pair, folder=tmp_path / "fit", epochs=1, batch_size=4, lr=0.1, device="cpu")
    assert fitted.best_weights["mask"].tolist() == [0.0, -torch.inf]


def test_a_model_without_weights_is_finite() -> None:
    require_finite_weights(nn.ReLU(), finite_values(nn.ReLU()), 0)
