"""The first batch of a run: each image with its class, or with the shares of a mixed one."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest

from resnetlab.plots.batch import batch

CLASSES = ["cat", "dog", "a class with a rather long name", "$x_1$"]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_every_image_has_its_classes_below_it(channels: int) -> None:
    shares = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [0, 0.25, 0.75, 0]])
    images = np.zeros((3, 6, 6, channels), np.uint8)
    figure = batch(images, shares, classes=CLASSES, subtitle="mirrored at random", total=64)
    header = [text.get_text() for text in figure.texts]
    assert header == ["The first batch as the network gets it: 3 of 64 images", "mirrored at random"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["cat", r"\$x_1\$", "75 % a class wi…\n25 % dog"]
    (axes,) = figure.axes
    assert len(axes.images) == 3
    figure.savefig(io.BytesIO(), dpi=30)


def test_images_lie_row_by_row_and_do_not_overlap() -> None:
    images = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((20, 4, 4, 3), np.uint8)
    figure = batch(images, np.eye(4)[np.arange(20) % 4], classes=CLASSES, subtitle="", total=20)
    drawn = figure.axes[0].images
    places = [image.get_extent() for image in drawn]
    assert [int(np.asarray(image.get_array())[0, 0, 0]) for image in drawn] == list(range(20))
    for index, (left, right, bottom, top) in enumerate(places):
        assert (int(left), right - left) == (index % 8, pytest.approx(0.92))
        assert bottom - top == pytest.approx(0.92)
        assert top == pytest.approx(places[8 * (index // 8)][3])
        assert index < 8 or top > places[index - 8][2]


def test_a_long_subtitle_is_wrapped_and_none_of_it_is_cut() -> None:
    words = "crops from 35 % of the area; mirrored at random; turned by up to 15 degrees; hue turned by up to 40 %"
    figure = batch(np.zeros((2, 6, 6, 3), np.uint8), np.eye(4)[:2], classes=CLASSES, subtitle=words * 2, total=2)
    title, *lines = figure.texts
    assert " ".join(line.get_text() for line in lines) == words * 2
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in (title, *lines)]
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(upper.y0 > lower.y0 for upper, lower in itertools.pairwise(boxes))
    assert boxes[-1].y0 > figure.axes[0].get_window_extent().y1
