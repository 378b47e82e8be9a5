"""Class names are read in the order of the outputs from the forms that people publish, or refused."""

import json

import pytest

from resnetlab.data.class_files import read_class_names
from resnetlab.errors import BadInput


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "cat\ndog\n"),
        ("a.names", "\ufeff cat \r\ndog\r\n\r\n"),
        ("a.json", '["cat", "dog"]'),
        ("a", '{"0": "cat", "1": "dog"}'),
        ("a.json", '{"1": "dog", "0": "cat"}'),
        ("a.json", '{"dog": 1, "cat": 0}'),
        ("config.json", '{"architectures": ["x"], "id2label": {"0": "cat", "1": "dog"}}'),
        ("config.json", '{"architecture": "resnet18", "label_names": ["cat", "dog"]}'),
    ],
)
def test_names_are_in_the_order_of_the_outputs(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_class_names(tmp_path / name) == ("cat", "dog")


def test_more_than_ten_indices_are_sorted_by_number(tmp_path):
    names = [f"class {number}" for number in range(30)]
    (tmp_path / "a.json").write_text(json.dumps(dict(enumerate(names)), sort_keys=True))
    assert read_class_names(tmp_path / "a.json") == tuple(names)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"cat\n\ndog\n", "empty name for class 1 (line 2)"),
        ("a.txt", b"", "empty name for class 0"),
        ("a.txt", b"cat\ncat\n", "more than once: 'cat'"),
        ("a.txt", b"caf\xe9\n", "is not UTF-8"),
        ("a.json", b"cat\n", "is not valid JSON"),
        ("a.json", b'{"1": "cat", "2": "dog"}', "with every index from 0"),
        ("a.json", b'{"cat": 0, "dog": 0}', "with every index from 0"),
        ("a.json", b'{"cat": true, "dog": 1}', "with every index from 0"),
        ("a.json", b'["cat", 3]', "is not a list of class names"),
        ("a.json", b"[" * 100_000, "is not valid JSON"),
        ("a.json", b"3", "is not a list of class names"),
    ],
)
def test_anything_else_is_refused(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as refusal:
        read_class_names(tmp_path / name)
    assert sentence in str(refusal.value)
