"""The pictures that judge a network show the numbers that they were given, at any number of classes."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from resnetlab.evaluation.calibration import reliability
from resnetlab.evaluation.intervals import wilson
from resnetlab.evaluation.selective import selective
from resnetlab.plots import style
from resnetlab.plots.calibration import confidence_histogram, reliability_diagram
from resnetlab.plots.classes import class_bars, confused_pairs, worst_pairs
from resnetlab.plots.confusion import confusion_matrix
from resnetlab.plots.network import embedding_map, filters, grad_cams, overlay
from resnetlab.plots.selective import risk_coverage
from resnetlab.plots.style import PALE, RIGHT, WRONG, rendered

MATRIX = np.array([[80, 15, 5], [10, 30, 0], [0, 2, 8]])
CLASSES = ["cat", "dog", "$ship$"]


def drawn(figure: Figure) -> None:
    """Draw the picture, which must raise no warning; in few pixels, for nobody looks at them."""
    figure.savefig(io.BytesIO(), dpi=40)


def laid_out(figure: Figure) -> None:
    """Place everything as drawing does, so that it can be measured; no pixels are needed for that."""
    figure.draw_without_rendering()


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def random_matrix(count: int) -> tuple[np.ndarray, list[str]]:
    numbers = np.random.default_rng(count)
    matrix = numbers.poisson(0.4, (count, count)) + np.diag(numbers.integers(5, 40, count))
    return matrix, [f"class number {index}" for index in range(count)]


# class by class


def test_bars_are_recalls_diamonds_precisions_and_lines_their_intervals() -> None:
    (axes,) = class_bars(MATRIX, CLASSES, "test split").axes
    recall, precision = np.array([0.8, 0.75, 0.8]), np.array([80 / 90, 30 / 47, 8 / 13])
    order = [0, 2, 1]  # highest recall first; of equals, the first class
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(recall[order])
    diamonds = next(line for line in axes.lines if line.get_marker() == "D")
    np.testing.assert_allclose(diamonds.get_xdata(), precision[order])
    found = [[(line[0, 0], line[1, 0]) for line in lines.get_segments()] for lines in axes.collections]
    right = np.diag(MATRIX)
    for lines, of in zip(found, (MATRIX.sum(1), MATRIX.sum(0)), strict=True):
        np.testing.assert_allclose(lines, np.transpose(wilson(right, of))[order])
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["cat  100", r"\$ship\$   10", "dog   40"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the best stands on top"
    assert axes.get_xlim() == (0, 1)


def test_a_class_without_images_comes_last_and_has_no_bar() -> None:
    figure = class_bars(np.array([[0, 0], [1, 3]]), ["absent", "here"], "t")
    drawn(figure)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["here  4", "absent  0"]
    assert np.isnan(axes.patches[1].get_width())


@pytest.mark.parametrize("count", [1, 2, 10, 26, 100, pytest.param(300, marks=pytest.mark.slow)])
def test_bars_of_any_number_of_classes_fit(count: int) -> None:
    figure = class_bars(*random_matrix(count), "t")
    laid_out(figure)
    labels = [label for axes in figure.axes for label in axes.get_yticklabels()]
    assert len(labels) == count
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
        assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(boxes))
        assert all(box.x0 >= 0 for box in boxes)
    for left, right in pairwise(figure.axes):
        room = left.get_window_extent().x1
        assert min(label.get_window_extent().x0 for label in right.get_yticklabels()) >= room - 1


def test_pairs_are_counted_both_ways_the_worst_first() -> None:
    (axes,) = confused_pairs(MATRIX, CLASSES, "t").axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [
        *("cat predicted as dog", "dog predicted as cat"),
        *(r"cat predicted as \$ship\$", r"\$ship\$ predicted as cat"),
        *(r"\$ship\$ predicted as dog", r"dog predicted as \$ship\$"),
    ]
    assert [bar.get_width() for bar in axes.patches] == [15, 10, 5, 0, 2, 0]
    assert [text.get_text().strip() for text in axes.texts] == [
        *("15 · 15 %", "10 · 25 %", "5 · 5 %", "0 · 0 %", "2 · 20 %", "0 · 0 %")
    ]
    assert any(text.startswith("32 mistakes of 32 in 3 pairs") for text in texts(axes.figure))


def test_worst_pairs_by_brute_force() -> None:
    matrix, _ = random_matrix(12)
    counted = {
        frozenset((i, j)): matrix[i, j] + matrix[j, i]
        for i in range(12)
        for j in range(i)
        if matrix[i, j] + matrix[j, i]
    }
    found = worst_pairs(matrix)
    assert {frozenset(pair) for pair in found} == set(counted)
    assert len(found) == len(counted)
    totals = [counted[frozenset(pair)] for pair in found]
    assert totals == sorted(totals, reverse=True)
    assert all(matrix[i, j] >= matrix[j, i] for i, j in found)


@pytest.mark.parametrize("count", [2, 10, 26, 100])
def test_pairs_of_any_number_of_classes_fit(count: int) -> None:
    figure = confused_pairs(*random_matrix(count), "t")
    laid_out(figure)
    (axes,) = figure.axes
    assert len(axes.patches) == 2 * min(10, len(worst_pairs(random_matrix(count)[0])))
    assert all(text.get_window_extent().x1 <= figure.bbox.x1 for text in axes.texts)


def test_without_mistakes_the_figure_has_a_message() -> None:
    assert "✓ No class was confused with another." in texts(confused_pairs(np.eye(3, dtype=int), CLASSES, "t"))
    for draw in (confused_pairs, class_bars):
        assert "There are no images to show." in texts(draw(np.zeros((3, 3), int), CLASSES, "t"))


# confusion matrix


def test_one_matrix_shows_images_and_the_other_shares() -> None:
    shares = confusion_matrix(MATRIX, CLASSES, "t", show="shares")
    counts = confusion_matrix(MATRIX, CLASSES, "t", show="counts")
    np.testing.assert_allclose(shares.axes[0].images[0].get_array(), MATRIX / MATRIX.sum(1, keepdims=True))
    np.testing.assert_array_equal(counts.axes[0].images[0].get_array(), MATRIX)
    assert [text.get_text() for text in shares.axes[0].texts] == ["80", "15", "5", "25", "75", "20", "80"]
    assert [text.get_text() for text in counts.axes[0].texts] == ["80", "15", "5", "10", "30", "2", "8"]
    assert (shares.axes[1].get_ylabel(), counts.axes[1].get_ylabel()) == ("share of the true class", "images")
    assert "Confusion matrix, % of the true class: t" in texts(shares)


@pytest.mark.parametrize("show", ["shares", pytest.param("counts", marks=pytest.mark.slow)])
def test_a_hundred_classes_have_numbers_where_few_cells_are_not_zero(show: Any) -> None:
    matrix = np.diag(np.full(100, 60))
    matrix[np.arange(100), (np.arange(100) + 7) % 100] = 40
    figure = confusion_matrix(matrix, [f"class {i}" for i in range(100)], "t", show=show)
    laid_out(figure)
    axes = figure.axes[0]
    assert len(axes.texts) == 200
    cell = axes.get_window_extent().width / 100
    assert all(text.get_window_extent().width <= cell for text in axes.texts)


def test_no_images_at_all_have_no_colours() -> None:
    drawn(confusion_matrix(np.zeros((3, 3), int), CLASSES, "t", show="counts"))


# calibration


def bins(confidence: list[float], right: list[bool]) -> list[dict[str, Any]]:
    return reliability(np.array(confidence), np.array(right), bins=4)


def test_the_risk_coverage_curve_is_drawn_with_each_distinct_threshold() -> None:
    numbers = np.random.default_rng(3)
    probabilities = numbers.dirichlet(np.full(5, 0.1), 1000)
    labels = np.array([numbers.choice(5, p=row) for row in probabilities])
    found = selective(probabilities, labels, None)
    assert found["rejections"]
    figure = risk_coverage(
        found["curve"], [*found["rejections"], {**found["rejections"][-1], "risk": 0.5}], 1000, "a $"
    )
    drawn(figure)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    curve = lines["by confidence"]
    assert curve.get_xdata().tolist() == [point["coverage"] for point in found["curve"]]
    assert curve.get_ydata().tolist() == [point["risk"] for point in found["curve"]]
    perfect = lines["perfect order"]
    assert perfect.get_ydata()[-1] == pytest.approx((probabilities.argmax(1) != labels).mean())
    shown = [text for text in texts(figure) if "probability ≥" in text]
    assert shown == [f"risk ≤ {100 * r['risk']:g} %: probability ≥ {r['threshold']:.3f}" for r in found["rejections"]]


@pytest.mark.parametrize("images", [1, 2])
def test_the_risk_coverage_curve_of_few_images_is_drawn(images: int) -> None:
    found = selective(np.full((images, 2), 0.5), np.zeros(images, np.int64), None)
    drawn(risk_coverage(found["curve"], found["rejections"], images, "test split"))


def test_reliability_shows_accuracy_gaps_and_counts_of_each_bin() -> None:
    before = bins([0.3, 0.4, 0.9, 1.0, 1.0, 1.0], [True, False, True, True, False, False])
    figure = reliability_diagram({"before": before, "after": bins([0.6], [True])}, "test split")
    upper, lower = figure.axes[0], figure.axes[2]
    assert upper.get_title(loc="left") == "before"
    faces = {to_hex(bar.get_facecolor()): [] for bar in upper.patches}
    for bar in upper.patches:
        faces[to_hex(bar.get_facecolor())].append((bar.get_x(), bar.get_y(), bar.get_height()))
    assert faces[PALE] == [(0.25, 0, pytest.approx(0.35)), (0.75, 0, pytest.approx(0.5))]
    assert faces[WRONG] == [(0.75, pytest.approx(0.5), pytest.approx(0.475))], "975 in 1000 sure, half of them right"
    (under,) = (boxes for colour, boxes in faces.items() if colour not in (PALE, WRONG))
    assert under == [(0.25, pytest.approx(0.35), pytest.approx(0.15))]
    assert [bar.get_height() for bar in lower.patches] == [0, 2, 0, 4]
    low, high = wilson([1, 2], [2, 4])
    lines = [segment[:, 1].tolist() for segment in upper.collections[0].get_segments()]
    np.testing.assert_allclose(lines, np.transpose([low, high]))


def test_correct_and_wrong_predictions_have_separate_histograms() -> None:
    confidence, right = np.array([0.97, 0.98, 0.5, 0.62]), np.array([True, True, False, True])
    figure = confidence_histogram(confidence, right, "t")
    heights = [[int(bar.get_height()) for bar in axes.patches] for axes in figure.axes]
    assert heights == [[0] * 12 + [1] + [0] * 6 + [2], [0] * 10 + [1] + [0] * 9]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["✓ correct: 3 images, half of them above 97 %", "✗ wrong: 1 image, half of them above 50 %"]
    assert "4 images, 75.00 % correct" in texts(figure)


@pytest.mark.parametrize("count", [0, 1, 2, 5000])
@pytest.mark.parametrize("share", [0, 0.5, 1])
@pytest.mark.slow
def test_calibration_of_any_number_of_images_can_be_drawn(count: int, share: float) -> None:
    numbers = np.random.default_rng(0)
    confidence, right = numbers.uniform(0.1, 1, count), numbers.uniform(size=count) < share
    drawn(confidence_histogram(confidence, right, "t"))
    drawn(reliability_diagram({"as it is": reliability(confidence, right)}, "t"))
    drawn(reliability_diagram({}, "t"))


# the network


def test_filters_are_scaled_one_by_one_and_gray_is_zero() -> None:
    weights = np.zeros((3, 3, 2, 2))
    weights[1, 0, 0, 0], weights[2, 2, 1, 1] = -4, 0.5
    figure = filters(weights, "resnet18")
    seen = figure.axes[0].images[0].get_array()
    first, second, third = (seen[5:60:30, left + 5 : left + 60 : 30] for left in (0, 65, 130))  # 30 for each pixel
    assert first[0, 0].tolist() == [0, 0.5, 0.5], "the strongest first; its largest weight is black in its channel"
    assert second[1, 1].tolist() == [0.5, 0.5, 1]
    assert (third == 0.5).all()
    assert (seen[:, 61:64] == 1).all(), "white between them"
    assert "3 filters of 2×2 pixels, each on its own scale, largest weights first" in texts(figure)


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (16, 3, 3, 3), (64, 3, 7, 7), (64, 1, 7, 7), (300, 4, 3, 3)])
def test_filters_of_any_shape_can_be_drawn(shape: tuple[int, ...]) -> None:
    figure = filters(np.random.default_rng(0).normal(size=shape), "t")
    drawn(figure)
    high, wide = figure.axes[0].images[0].get_array().shape[:2]
    across = min(shape[0], 8 if shape[0] < 32 else 16)
    step = 61 if shape[-1] == 7 else 65  # 56 and 60 pixels, and the white between
    assert ((wide + 5) // step, (high + 5) // step) == (across, -(-min(256, shape[0]) // across))


def points(count: int, classes: int) -> dict[str, Any]:
    numbers = np.random.default_rng(0)
    true = np.arange(count) % classes
    return {
        "points": numbers.normal(size=(classes, 2))[true] * 9 + numbers.normal(size=(count, 2)),
        "true": true,
        "predicted": np.where(numbers.uniform(size=count) < 0.2, (true + 1) % classes, true),
        "classes": [f"class {index}" for index in range(classes)],
    }


def test_the_map_has_a_dot_for_each_correct_image_and_a_cross_for_each_wrong_one() -> None:
    given = points(60, 3)
    figure = embedding_map(**given, title="t")
    right, wrong = figure.axes[0].collections
    is_wrong = given["true"] != given["predicted"]
    np.testing.assert_array_equal(right.get_offsets(), given["points"][~is_wrong])
    np.testing.assert_array_equal(wrong.get_offsets(), given["points"][is_wrong])
    of_class = [{to_hex(c) for c in right.get_facecolors()[given["true"][~is_wrong] == k]} for k in range(3)]
    assert all(len(colours) == 1 for colours in of_class), "a class has one colour"
    assert len(set.union(*of_class)) == 3
    assert {"class 0", "class 1", "class 2"} <= set(texts(figure))
    assert any(f"✗ {is_wrong.sum()} mistakes" in text for text in texts(figure))


@pytest.mark.parametrize(("count", "classes"), [(1, 1), (2, 2), (2000, 2), (2000, 10), (2000, 26), (2000, 100)])
def test_names_on_the_map_do_not_cover_each_other(count: int, classes: int) -> None:
    figure = embedding_map(**points(count, classes), title="t")
    laid_out(figure)
    names = figure.axes[0].texts
    assert len(names) >= min(classes, 5)
    boxes = [text.get_window_extent() for text in names]
    for index, one in enumerate(boxes):
        for other in boxes[:index]:
            assert (
                min(one.x1, other.x1) - max(one.x0, other.x0) < 1 or min(one.y1, other.y1) - max(one.y0, other.y0) < 1
            )


def test_each_image_is_shown_beside_its_two_heat_maps() -> None:
    images = np.full((2, 4, 4, 3), 200, np.uint8)
    maps = np.zeros((2, 2, 4, 4))
    maps[0, 0, 1, 2] = 1
    figure = grad_cams(
        *(images, maps, np.array([0, 2]), np.array([[1, 0], [2, 1]]), np.array([[0.9, 0.1], [0.6, 0.3]])),
        classes=CLASSES,
        title="t",
    )
    tiles = [axes.images[0].get_array() for axes in figure.axes]
    captions = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert captions == [
        *(["✗ dog (90 %)", "true: cat"], ["for dog", "90 %"], ["for cat", "10 %, no evidence"]),
        *(
            [r"✓ \$ship\$ (60 %)", r"true: \$ship\$"],
            [r"for \$ship\$", "60 %, no evidence"],
            ["for dog", "30 %, no evidence"],
        ),
    ]
    np.testing.assert_array_equal(tiles[0], images[0])
    np.testing.assert_array_equal(tiles[1], overlay(images[0], maps[0, 0]))
    frames = [to_hex(axes.spines["left"].get_edgecolor()) for axes in figure.axes]
    assert (frames[0], frames[3]) == (WRONG, RIGHT)


def test_heat_covers_the_image_where_there_is_some_and_leaves_it_gray_elsewhere() -> None:
    image = np.zeros((1, 2, 3), np.uint8)
    image[..., 0] = 90
    seen = overlay(image, np.array([[0.0, 1.0]]))
    assert len(set(seen[0, 0].tolist())) == 1
    assert int(seen[0, 1].max()) - int(seen[0, 1].min()) > 60
    assert overlay(np.zeros((2, 2, 1), np.uint8), np.zeros((2, 2))).shape == (2, 2, 3)


def test_without_images_the_figures_are_empty() -> None:
    nothing = {"true": np.zeros(0, int), "classes": CLASSES, "title": "t"}
    maps = grad_cams(
        *(np.zeros((0, 4, 4, 3), np.uint8), np.zeros((0, 2, 4, 4))),
        named=np.zeros((0, 2), int),
        probability=np.zeros((0, 2)),
        **nothing,
    )
    empty = embedding_map(np.zeros((0, 2)), predicted=np.zeros(0, int), **nothing)
    for figure in (maps, empty):
        assert "There are no images to show." in texts(figure)


# as files


def every_picture() -> list[Figure]:
    confidence, right = np.linspace(0.2, 1, 50), np.arange(50) % 3 > 0
    return [
        class_bars(MATRIX, CLASSES, "t"),
        confused_pairs(MATRIX, CLASSES, "t"),
        confusion_matrix(MATRIX, CLASSES, "t", show="shares"),
        reliability_diagram({"as it is": reliability(confidence, right)}, "t"),
        confidence_histogram(confidence, right, "t"),
        filters(np.linspace(-1, 1, 270).reshape(10, 3, 3, 3), "t"),
        embedding_map(**points(50, 3), title="t"),
    ]


@pytest.mark.parametrize("form", ["svg", pytest.param("png", marks=pytest.mark.slow)])
def test_the_same_input_gives_the_same_bytes(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "DPI", 40)  # encoding takes most of the time
    for one, other in zip(every_picture(), every_picture(), strict=True):
        assert rendered(one, form) == rendered(other, form)


def test_a_drawing_names_no_program_and_no_date() -> None:
    content = rendered(every_picture()[0], "svg").decode()
    assert "dc:creator" not in content
    assert "dc:date" not in content
