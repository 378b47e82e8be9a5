"""ONNX: a network with everything after decoding as one file, in fp32 or int8, and onnxruntime to run it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnetlab.errors import BadInput
from resnetlab.inference.graph import INPUT, OUTPUTS, ImageClassifier, exported

OPSET = 18
"""Version of ONNX's operators; onnxruntime reads it since 1.14 (2023)."""

QUANTIZED = ("Conv", "Gemm", "Add", "MaxPool", "Relu")
"""Operators in int8. A batch norm that cannot be folded into a convolution stays in fp32."""

PACKAGES = ("onnx", "onnxruntime", "onnxscript")

Predict = Callable[[np.ndarray], np.ndarray]
"""A function from pixels (N, H, W, C), uint8, to probabilities (N, classes)."""


def require_packages() -> None:
    """Raise BadInput, with the command that installs them, if packages are missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise BadInput(f"to export ONNX, {', '.join(missing)} must be installed: pip install 'resnetlab[onnx]'")


def to_onnx(graph: ImageClassifier, metadata: Mapping[str, str]) -> bytes:
    """Return the ONNX file of a graph in evaluation mode; batch, height and width stay open.

    The input is `pixels`, the outputs are `probabilities` and `logits`. The result has passed ONNX's own checker.
    """
    import onnx

    with exported(graph) as program:
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            verbose=False,
        )
    assert written is not None
    model = written.model_proto
    strip(model)
    name_dimensions(model)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def strip(model: Any) -> None:
    """Remove the notes of the exporter: they have paths of this machine."""
    graphs = [model.graph]
    for graph in graphs:
        values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
        for part in (graph, *graph.node, *values):
            del part.metadata_props[:]
            part.doc_string = ""
        graphs += [branch.g for node in graph.node for branch in node.attribute if branch.HasField("g")]
    del model.metadata_props[:]


def name_dimensions(model: Any) -> None:
    """Name the open dimensions of the input and of the outputs."""
    for value, names in (
        (model.graph.input[0], ("batch", "height", "width")),
        *((o, ("batch",)) for o in model.graph.output),
    ):
        for dimension, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            dimension.dim_param = name


def quantized(model: bytes, calibration: Iterable[np.ndarray]) -> bytes:
    """Return an ONNX file with its convolutions, sums and head in int8, and everything before and after in fp32.

    `calibration` are batches of pixels (N, H, W, C), uint8, whose activations give the ranges. Weights have one scale
    per channel. They are unsigned, like the activations: the sums of signed ones saturate on processors without VNNI
    instructions, which would then give other results.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    given = onnx.load_from_string(model)
    metadata = {entry.key: entry.value for entry in given.metadata_props}
    # Without this mark onnxruntime warns, on the root logger, of a missing step: norms are folded already.
    onnx.helper.set_model_props(given, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory(prefix="resnetlab-") as folder:
        path = Path(folder, "int8.onnx")
        quantize_static(
            given,
            path,
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QUInt8,
            extra_options={"WeightSymmetric": True},
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=outside_network(onnx.load_from_string(model)),
        )
        written = onnx.load(path)
    sort_nodes(written.graph)
    del written.metadata_props[:]
    onnx.helper.set_model_props(written, metadata)
    onnx.checker.check_model(written, full_check=True)
    return bytes(written.SerializeToString())


def sort_nodes(graph: Any) -> None:
    """Put every node behind those whose results it uses; onnxruntime overlooks what the branches of an `If` use."""
    produced = {name for node in graph.node for name in node.output}
    rest, done = list(graph.node), set[str]()
    ordered = []
    while rest:
        ready = [node for node in rest if not (names_used(node) & produced) - done]
        assert ready, "a graph without a cycle"
        ordered += ready
        done.update(name for node in ready for name in node.output)
        rest = [node for node in rest if not done.issuperset(node.output)]
    del graph.node[:]
    graph.node.extend(ordered)


def names_used(node: Any) -> set[str]:
    """Return the names of the values that a node uses, with those of its branches."""
    inside = {name for branch in node.attribute for inner in branch.g.node for name in names_used(inner)}
    return {*node.input, *inside}


def outside_network(model: Any) -> list[str]:
    """Return the names of the nodes before the first convolution and after the head."""
    kinds = [node.op_type for node in model.graph.node]
    first, head = kinds.index("Conv"), len(kinds) - 1 - kinds[::-1].index("Gemm")
    nodes = model.graph.node
    return [node.name for node in (*nodes[:first], *nodes[head + 1 :])]


def onnx_predictor(model: bytes) -> Predict:
    """Return a function that runs an ONNX file on the CPU, with as many threads as torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def predict(pixels: np.ndarray) -> np.ndarray:
        probabilities: np.ndarray = session.run([OUTPUTS[0]], {INPUT: pixels})[0]
        return probabilities

    return predict
