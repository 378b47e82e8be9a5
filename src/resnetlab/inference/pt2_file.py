"""pt2: a network with everything after decoding as a program of `torch.export`."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch

from resnetlab.inference.graph import ImageClassifier, exported
from resnetlab.inference.onnx_file import Predict


def to_pt2(graph: ImageClassifier, metadata: Mapping[str, str]) -> tuple[bytes, Predict]:
    """Return the .pt2 file of a graph in evaluation mode, and a function that runs the same program.

    `metadata` become files in it: `torch.export.load(path, extra_files={"classes": ""})`. Batch, height and width stay
    open. A .pt2 file from somebody else can run code when it is loaded; resnetlab loads none.
    """
    with exported(graph) as program:
        file = io.BytesIO()
        torch.export.save(program, file, extra_files=dict(metadata))
        module = program.module()

    @torch.inference_mode()
    def predict(pixels: np.ndarray) -> np.ndarray:
        probabilities, _ = module(torch.from_numpy(pixels))
        return np.asarray(probabilities)

    return file.getvalue(), predict
