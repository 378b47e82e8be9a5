"""Images sorted by class: names never collide, nothing is replaced, and repetition changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnetlab.errors import BadInput
from resnetlab.inference.predict_files import FilePrediction
from resnetlab.runs.sorted_images import ORIGIN, SortedImages, folder_names

CLASSES = ("cat", "dog")


def sorted_into(folder: Path, **options: Any) -> SortedImages:
    return SortedImages(folder, CLASSES, {"weights_digest": options.pop("weights", "abc")}, **options)


def image(path: Path, content: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return str(path)


def tree(folder: Path) -> dict[str, str]:
    """The content of each file by name, without that of the origin."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_text() for name, path in sorted(files.items()) if name != ORIGIN}


@pytest.mark.parametrize("copy", [False, True])
def test_files_of_one_name_get_numbers_and_repetition_changes_nothing(tmp_path: Path, copy: bool) -> None:
    files = [image(tmp_path / name, name) for name in ("a/1.jpg", "b/1.jpg", "c/1.jpg", "a/2.jpg", "1-2.jpg")]
    for _ in range(3):
        images = sorted_into(tmp_path / "sorted", copy=copy)
        for file in files:
            images.add(file, "cat")
        assert tree(tmp_path / "sorted") == {
            "cat/1-2-2.jpg": "1-2.jpg",
            "cat/1-2.jpg": "b/1.jpg",
            "cat/1-3.jpg": "c/1.jpg",
            "cat/1.jpg": "a/1.jpg",
            "cat/2.jpg": "a/2.jpg",
        }
    assert {path.is_symlink() for path in (tmp_path / "sorted" / "cat").iterdir()} == {not copy}


def test_equal_images_of_one_name_are_both_copied(tmp_path: Path) -> None:
    files = [image(tmp_path / name, "same") for name in ("a/1.jpg", "b/1.jpg")]
    for _ in range(2):
        images = sorted_into(tmp_path / "sorted", copy=True)
        for file in [*files, files[0]]:
            images.add(file, "cat")
        assert tree(tmp_path / "sorted") == {"cat/1.jpg": "same", "cat/1-2.jpg": "same"}


def test_a_link_survives_another_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "a" / "1.jpg", "a")
    monkeypatch.chdir(tmp_path / "a")
    sorted_into(tmp_path / "sorted").add("1.jpg", "cat")
    assert (tmp_path / "sorted" / "cat" / "1.jpg").readlink() == tmp_path / "a" / "1.jpg"


def test_nothing_in_the_folder_is_replaced(tmp_path: Path) -> None:
    file = image(tmp_path / "1.jpg", "new")
    for copy in (False, True):
        folder = tmp_path / f"sorted-{copy}"
        sorted_into(folder, copy=copy).add(image(tmp_path / "0.jpg", "other"), "dog")
        image(folder / "cat" / "1.jpg", "old")
        (folder / "cat" / "1-2.jpg").symlink_to("nowhere")
        (folder / "cat" / "1-3.jpg").mkdir()
        sorted_into(folder, copy=copy).add(file, "cat")
        assert tree(folder) == {"cat/1.jpg": "old", "cat/1-4.jpg": "new", "dog/0.jpg": "other"}


def test_only_a_new_empty_or_sorted_folder_of_the_same_model_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for _ in range(2):
        sorted_into(tmp_path / "empty").add(image(tmp_path / "2.jpg", "a"), "cat")
    with pytest.raises(BadInput, match="another model"):
        sorted_into(tmp_path / "empty", weights="other")
    with pytest.raises(BadInput, match=r"sorted the other way \(links, not copies\)"):
        sorted_into(tmp_path / "empty", copy=True)
    image(tmp_path / "mine" / "1.jpg", "mine")
    with pytest.raises(BadInput, match="is not empty"):
        sorted_into(tmp_path / "mine")
    with pytest.raises(BadInput, match="is a file"):
        sorted_into(tmp_path / "mine" / "1.jpg")


@pytest.mark.parametrize("copy", [False, True])
def test_sorted_images_are_not_sorted_again(tmp_path: Path, copy: bool) -> None:
    images = sorted_into(tmp_path / "sorted", copy=copy)
    images.add(image(tmp_path / "1.jpg", "a"), "cat")
    with pytest.raises(BadInput, match="the folder to sort into"):
        images.add(str(tmp_path / "sorted" / "cat" / "1.jpg"), "dog")


def test_a_failed_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    file = image(tmp_path / "1.jpg", "a")
    images = sorted_into(tmp_path / "sorted", copy=True)
    monkeypatch.setattr("shutil.copyfile", fail)
    with pytest.raises(OSError, match="could not sort"):
        images.add(file, "cat")
    assert list((tmp_path / "sorted" / "cat").iterdir()) == []


@pytest.mark.parametrize(
    "names",
    [
        ["a/b", "a_b", "a:b", "a\\b"],
        ["..", ".", "", " ", "...", "_"],
        ["Cat", "cat", "CAT", "ｃat", "none of these"],
        ["é", "e\u0301"],
        ["x" * 300, "x" * 301, "ü" * 300],
        ["con", "NUL.txt", "com1", "a\nb", "a\x1bb", "a\ud800b", ".hidden", "end.", "end "],
        ["cat", "cat-2", "Cat", "-rf", "~", "$HOME", "*"],
    ],
)
def test_folder_names_are_safe_and_different(names: list[str], tmp_path: Path) -> None:
    found = folder_names(names)
    assert len({name.casefold() for name in found}) == len(names)
    for name in found:
        (tmp_path / name).mkdir()  # it is one part of a path, and not too long
        assert (tmp_path / name).parent == tmp_path
        assert not name.startswith(".")
        assert name == name.strip(" .")
        assert name.isprintable()
    assert len(list(tmp_path.iterdir())) == len(names)


def test_a_class_may_be_called_none_of_these(tmp_path: Path) -> None:
    images = SortedImages(tmp_path / "sorted", ("cat", "None of these"), {})
    row = np.array([0.4, 0.6])
    for number, is_rejected in enumerate((False, True)):
        file = image(tmp_path / f"{number}.jpg", str(number))
        images.write([FilePrediction(file, np.zeros((1, 1, 3), np.uint8), row, np.argsort(-row), is_rejected)])
    assert tree(tmp_path / "sorted") == {"None of these/0.jpg": "0", "none of these (rejected)/1.jpg": "1"}


def test_plain_class_names_are_kept() -> None:
    assert folder_names(["cat", "Große Katze", "犬", "a.b"]) == ["cat", "Große Katze", "犬", "a.b"]
