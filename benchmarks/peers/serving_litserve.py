"""LitServe's side of the servers: a module of its own, because its workers import the class."""

from __future__ import annotations

import io
from typing import Any

import litserve
import torch
from PIL import Image

from benchmarks.peers.common import Job
from benchmarks.peers.serving import network, transform


class Api(litserve.LitAPI):
    """Decodes each upload, and predicts the batch that LitServe has collected."""

    def __init__(self, job: Job, **options: Any) -> None:
        super().__init__(**options)
        self.job = job

    def setup(self, device: str) -> None:
        self.model, self.see = network(self.job).to(device), transform(self.job)

    def decode_request(self, request) -> torch.Tensor:
        return self.see(Image.open(io.BytesIO(request["image"].file.read())).convert("RGB"))

    def predict(self, images: torch.Tensor) -> list[dict[str, Any]]:
        with torch.no_grad():
            probabilities = self.model(images).softmax(1)
        return [{"class": int(row.argmax()), "probability": float(row.max())} for row in probabilities]

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output
