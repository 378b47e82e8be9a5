"""The model repository for Triton: its configuration has the fields and types of Triton's own schema."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput
from resnetlab.inference.model_file import Model
from resnetlab.inference.triton import repository_files
from resnetlab.models.build import build_model
from resnetlab.models.zoo import Architecture

# The part of model_config.proto (triton-inference-server/common) that the configuration uses: field, number, type.
FIELD = descriptor_pb2.FieldDescriptorProto
SCHEMA = {
    "ModelConfig": [
        ("name", 1, FIELD.TYPE_STRING, False),
        ("max_batch_size", 4, FIELD.TYPE_INT32, False),
        ("input", 5, "ModelInput", True),
        ("output", 6, "ModelOutput", True),
        ("dynamic_batching", 11, "ModelDynamicBatching", False),
        ("backend", 17, FIELD.TYPE_STRING, False),
    ],
    "ModelInput": [
        ("name", 1, FIELD.TYPE_STRING, False),
        ("data_type", 2, "DataType", False),
        ("dims", 4, FIELD.TYPE_INT64, True),
    ],
    "ModelOutput": [
        ("name", 1, FIELD.TYPE_STRING, False),
        ("data_type", 2, "DataType", False),
        ("dims", 3, FIELD.TYPE_INT64, True),
        ("label_filename", 4, FIELD.TYPE_STRING, False),
    ],
    "ModelDynamicBatching": [
        ("preferred_batch_size", 1, FIELD.TYPE_INT32, True),
        ("max_queue_delay_microseconds", 2, FIELD.TYPE_UINT64, False),
    ],
}
TYPES = {"TYPE_INVALID": 0, "TYPE_BOOL": 1, "TYPE_UINT8": 2, "TYPE_FP32": 11}


def model_config() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="triton.proto", package="inference", syntax="proto3")
    kinds = file.enum_type.add(name="DataType")
    for name, number in TYPES.items():
        kinds.value.add(name=name, number=number)
    for message, fields in SCHEMA.items():
        described = file.message_type.add(name=message)
        for name, number, kind, is_repeated in fields:
            label = FIELD.LABEL_REPEATED if is_repeated else FIELD.LABEL_OPTIONAL
            field = described.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                field.type = FIELD.TYPE_ENUM if kind == "DataType" else FIELD.TYPE_MESSAGE
                field.type_name = f".inference.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()


def model(classes: tuple[str, ...]) -> Model:
    architecture = Architecture("basic", (1, 1), width=4, stem="cifar", shortcut="A")
    network = build_model(architecture, len(classes), in_channels=1)
    return Model(network, classes, Preprocessing(8, 8, 1, (0.5,), (0.5,)), {}, "")


def test_the_configuration_fits_the_schema_and_the_model() -> None:
    files = repository_files(model(("cat", 'a "dog"', "ü")), "pets", b"onnx")
    config = text_format.Parse(files["config.pbtxt"].decode(), model_config())
    assert (config.name, config.backend, config.max_batch_size) == ("pets", "onnxruntime", 64)
    (pixels,) = config.input
    assert (pixels.name, pixels.data_type, list(pixels.dims)) == ("pixels", TYPES["TYPE_UINT8"], [-1, -1, 1])
    assert [(one.name, list(one.dims)) for one in config.output] == [("probabilities", [3]), ("logits", [3])]
    assert config.output[0].label_filename == "labels.txt"
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    assert files["labels.txt"].decode() == 'cat\na "dog"\nü\n'
    assert files["1/model.onnx"] == b"onnx"


def test_a_class_name_of_two_lines_is_refused() -> None:
    with pytest.raises(BadInput, match="has no name of one line"):
        repository_files(model(("cat", "a\nb")), "pets", b"")
