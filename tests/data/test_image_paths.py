"""The images that paths, folders, patterns and lists name: in natural order, and what is skipped is counted."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from resnetlab.data.image_paths import find_images, read_paths
from resnetlab.errors import BadInput


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders with images and other files, all of them empty, below the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("10.jpg", "2.jpg", "b/1.PNG", "b/c/3.jpg", "notes.txt", ".hidden.jpg", "b/Thumbs.db", ".git/x.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return Path("photos")


def test_a_folder_gives_its_images_in_natural_order(photos: Path) -> None:
    found = find_images("photos")
    assert found.files == ("photos/2.jpg", "photos/10.jpg", "photos/b/1.PNG", "photos/b/c/3.jpg")
    assert found.folders == (photos,)


@pytest.mark.parametrize("path", ["photos/", "./photos", "photos/../photos"])
def test_other_spellings_of_a_folder_give_the_same_images(photos: Path, path: str) -> None:
    same = [Path(file).resolve() for file in find_images(path).files]
    assert same == [Path(file).resolve() for file in find_images(str(photos)).files]


def test_the_working_directory_gives_paths_without_a_prefix(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert find_images(".").files == ("2.jpg", "10.jpg", "b/1.PNG", "b/c/3.jpg")


def test_what_is_skipped_in_a_folder_is_counted(photos: Path) -> None:
    notes = "; ".join(find_images(str(photos)).notes)
    assert "1 .txt file" in notes
    assert ".git" in notes
    assert "1 hidden file" in notes
    assert "Thumbs.db" in notes


def test_a_file_is_taken_whatever_its_name(photos: Path) -> None:
    assert find_images("photos/notes.txt").files == ("photos/notes.txt",)
    assert find_images("nowhere.jpg").files == ("nowhere.jpg",)


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("photos/*.jpg", ("photos/2.jpg", "photos/10.jpg")),
        ("photos/[0-9]*", ("photos/2.jpg", "photos/10.jpg")),
        ("photos/**/*.jpg", ("photos/2.jpg", "photos/10.jpg", "photos/b/c/3.jpg")),
        ("photos/*", ("photos/2.jpg", "photos/10.jpg", "photos/b/1.PNG", "photos/b/c/3.jpg")),
        ("photos/**", ("photos/2.jpg", "photos/10.jpg", "photos/b/1.PNG", "photos/b/c/3.jpg")),
        ("*/b/?.PNG", ("photos/b/1.PNG",)),
    ],
)
def test_a_pattern_gives_the_images_that_match(photos: Path, pattern: str, files: tuple[str, ...]) -> None:
    assert find_images(pattern).files == files


def test_a_pattern_may_be_absolute(photos: Path) -> None:
    assert find_images(f"{photos.absolute()}/*.jpg").files == tuple(
        str(photos.absolute() / name) for name in ("2.jpg", "10.jpg")
    )


def test_what_a_pattern_skips_is_counted(photos: Path) -> None:
    found = find_images("photos/**/*")
    assert found.files == find_images("photos").files
    notes = "; ".join(found.notes)
    for skipped in ("1 .txt file", "1 hidden file", ".git", "Thumbs.db"):
        assert skipped in notes, notes


def test_a_file_with_the_characters_of_a_pattern_is_a_file(photos: Path) -> None:
    (photos / "[1]*.jpg").touch()
    assert find_images("photos/[1]*.jpg").files == ("photos/[1]*.jpg",)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("photos/*.gif", r"no image matches photos/\*.gif"),
        ("photos/*.txt", r"no image matches photos/\*.txt; skipped: 1 .txt file"),
        ("photos/x**", "not a pattern"),
        ("empty", "empty has no images"),
    ],
)
def test_nothing_found_is_refused_in_a_sentence(photos: Path, path: str, sentence: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(BadInput, match=sentence):
        find_images(path)


def test_output_of_resnetlab_is_no_folder_of_images(photos: Path) -> None:
    (photos / "summary.json").write_text('{"config": 1, "runs": 1, "together": 1}')
    with pytest.raises(BadInput, match="output of resnetlab"):
        find_images(str(photos))


def test_a_link_to_a_folder_above_is_not_followed(photos: Path) -> None:
    (photos / "b" / "up").symlink_to(photos.absolute())
    assert len(find_images(str(photos)).files) == 4
    assert len(find_images("photos/**/*.jpg").files) == 3


def test_a_list_gives_its_paths() -> None:
    lines = "\ufeffa.png\r\n\n b.png\nü/10.png".encode()
    assert list(read_paths(io.BytesIO(lines))) == ["a.png", " b.png", "ü/10.png"]


def test_a_list_with_null_characters_keeps_line_feeds() -> None:
    names = ["a\nb.png", "c.png\r", os.fsdecode(b"\xff.png")]
    content = b"\0".join(map(os.fsencode, names))
    for end in (b"", b"\0"):
        assert list(read_paths(io.BytesIO(content + end), separator=b"\0")) == names


def test_null_characters_in_a_list_of_lines_are_refused() -> None:
    with pytest.raises(BadInput, match="add -0"):
        list(read_paths(io.BytesIO(b"a.png\0b.png\0")))


def test_a_list_is_read_while_it_arrives() -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as stream, open(writer, "wb", buffering=0) as pipe:  # noqa: PTH123
        for separator in (b"\n", b"\0"):
            paths = read_paths(stream, separator=separator)
            pipe.write(b"a.png" + separator)
            assert next(paths) == "a.png"


def test_a_folder_with_brackets_in_its_name_is_meant_as_it_is(photos: Path) -> None:
    photos.rename("photos [1]")
    assert find_images("photos [1]/*.jpg").files == ("photos [1]/2.jpg", "photos [1]/10.jpg")
    assert find_images("photos [1]/nothing.jpg").files == ("photos [1]/nothing.jpg",)
    Path("photos 1").mkdir()
    Path("photos 1/x.jpg").touch()
    Path("photos [1]").rename("others")
    assert find_images("photos [1]/*.jpg").files == ("photos 1/x.jpg",)
