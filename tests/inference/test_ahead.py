"""Images are decoded in threads ahead of their use: in order, a bounded number of them, each bad one named."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from resnetlab.errors import BadInput
from resnetlab.inference.ahead import read_ahead


def pixels_of(path: str) -> np.ndarray:
    return np.full((2, 2, 3), int(path), np.uint8)


def numbers(found: Iterator[tuple[object, np.ndarray | BadInput]]) -> list[object]:
    return [str(pixels) if isinstance(pixels, BadInput) else int(pixels[0, 0, 0]) for _, pixels in found]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 50])
def test_the_order_is_kept(count: int) -> None:
    def slow_for_some(path: str) -> np.ndarray:
        time.sleep(0.002 * (int(path) % 3))
        return pixels_of(path)

    names = [str(number) for number in range(count)]
    found = list(read_ahead(slow_for_some, names, ahead=4))
    assert [name for name, _ in found] == names
    assert numbers(iter(found)) == list(range(count))


def test_an_endless_iterable_is_read_a_bounded_number_of_images_ahead() -> None:
    taken = itertools.count()
    names = (str(number % 200) for number in taken)
    found = read_ahead(pixels_of, names, ahead=8)
    for expected in range(100):
        assert next(found)[0] == str(expected)
    assert next(taken) <= 100 + 8
    found.close()


def test_images_are_decoded_while_the_caller_computes() -> None:
    read = threading.Event()

    def read_and_tell(path: str) -> np.ndarray:
        if path == "1":
            read.set()
        return pixels_of(path)

    found = read_ahead(read_and_tell, ["0", "1", "2"], ahead=2)
    next(found)
    assert read.wait(10)
    found.close()


def test_a_bad_image_takes_its_place_and_the_others_are_read() -> None:
    def read(path: str) -> np.ndarray:
        if path == "1":
            raise BadInput("1 is not an image")
        return pixels_of(path)

    assert numbers(read_ahead(read, ["0", "1", "2"], ahead=2)) == [0, "1 is not an image", 2]


def test_another_exception_while_reading_is_raised() -> None:
    def read(_: str) -> np.ndarray:
        raise MemoryError

    with pytest.raises(MemoryError):
        list(read_ahead(read, ["0"]))


def test_what_came_before_an_exception_of_the_iterable_is_yielded_first() -> None:
    def names() -> Iterator[str]:
        yield from ("0", "1")
        raise BadInput("the folder cannot be read")

    found = read_ahead(pixels_of, names(), ahead=8)
    assert [next(found)[0], next(found)[0]] == ["0", "1"]
    with pytest.raises(BadInput, match="the folder"):
        next(found)


def test_one_array_that_a_generator_fills_again_and_again_is_read_each_time() -> None:
    frame = np.zeros((2, 2, 3), np.uint8)

    def frames() -> Iterator[np.ndarray]:
        for number in range(10):
            frame[:] = number
            yield frame

    assert numbers(read_ahead(np.copy, frames(), ahead=4)) == list(range(10))


def test_paths_and_bytes_are_read_in_threads_and_all_else_in_the_thread_of_the_caller() -> None:
    names: dict[str, str] = {}

    def read(image: object) -> np.ndarray:
        names[type(image).__name__] = threading.current_thread().name
        return np.zeros((1, 1, 3), np.uint8)

    list(read_ahead(read, ["a", b"b", Path("c"), bytearray(b"d"), np.zeros(3)]))
    in_threads = {kind for kind, name in names.items() if name.startswith("resnetlab-decode")}
    assert in_threads == {"str", "bytes", type(Path()).__name__}


def test_no_thread_is_left_after_an_early_end() -> None:
    before = threading.active_count()
    found = read_ahead(pixels_of, map(str, range(100)), ahead=8)
    next(found)
    found.close()
    assert threading.active_count() == before
