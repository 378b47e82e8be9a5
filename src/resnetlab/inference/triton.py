"""A model repository of NVIDIA's Triton Inference Server around an ONNX file."""

from __future__ import annotations

from resnetlab.errors import BadInput, printable
from resnetlab.inference.graph import INPUT, OUTPUTS
from resnetlab.inference.model_file import Model
from resnetlab.inference.predict import BATCH

LABELS = "labels.txt"


def repository_files(model: Model, name: str, onnx: bytes) -> dict[str, bytes]:
    """Return the files of a model's folder, by path: the configuration, the class labels and version 1.

    Raises BadInput for a class name of several lines, which the file of labels cannot hold.
    """
    for label in model.classes:
        if len(label.splitlines()) != 1:
            raise BadInput(f"the class {printable(label)!r} has no name of one line, as Triton's file of labels needs")
    return {
        "config.pbtxt": configuration(model, name).encode(),
        LABELS: "".join(f"{label}\n" for label in model.classes).encode(),
        "1/model.onnx": onnx,
    }


def configuration(model: Model, name: str) -> str:
    """Return config.pbtxt. Requests with images of the same size are batched; they wait at most 2 milliseconds."""
    classes, channels = len(model.classes), model.preprocessing.channels
    probabilities, logits = OUTPUTS
    return f"""\
name: "{name}"
backend: "onnxruntime"
max_batch_size: {BATCH}
input [
  {{ name: "{INPUT}" data_type: TYPE_UINT8 dims: [ -1, -1, {channels} ] }}
]
output [
  {{ name: "{probabilities}" data_type: TYPE_FP32 dims: [ {classes} ] label_filename: "{LABELS}" }},
  {{ name: "{logits}" data_type: TYPE_FP32 dims: [ {classes} ] }}
]
dynamic_batching {{ max_queue_delay_microseconds: 2000 }}
"""
