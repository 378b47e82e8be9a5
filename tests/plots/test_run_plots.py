"""Figures draw the given numbers, are equal each time, and accept unusual data."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from resnetlab.errors import DiskTrouble
from resnetlab.plots import style
from resnetlab.plots.confusion import confusion_matrix
from resnetlab.plots.curves import curves
from resnetlab.plots.images import mistakes, samples
from resnetlab.plots.style import RIGHT, WRONG, name, percent, save

STRANGE = ["$x_1$", "a_b", "one $", "two\nlines", "猫", "عربي", "x" * 70, "\\alpha", "<b>&", "\udcff\x1b[2J"]


def epochs(count: int, **changes: Any) -> list[dict[str, Any]]:
    progress = np.arange(1, count + 1) / count
    return [
        {
            "epoch": index + 1,
            "lr": 0.1 * (1 - done),
            "train_loss": 2 - 1.9 * done,
            "train_accuracy": 0.3 + 0.69 * done,
            "val_loss": 2.2 - 1.8 * done,
            "val_accuracy": 0.3 + 0.6 * done,
            **changes,
        }
        for index, done in enumerate(progress)
    ]


def predictions(count: int, *, wrong: int = 0, channels: int = 3, side: int = 8) -> dict[str, Any]:
    """Images of which the last `wrong` are predicted as the next class; image i is filled with the value i."""
    true = np.arange(count) % 10
    predicted = true.copy()
    predicted[count - wrong :] = (predicted[count - wrong :] + 1) % 10
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, side, side, channels))
    return {"images": images, "true": true, "predicted": predicted, "probability": np.linspace(0.5, 0.99, count)}


CLASSES = [f"class {letter}" for letter in "ABCDEFGHIJ"]


def drawn(figure: Figure) -> None:
    """Draw the picture, which must raise no warning; in few pixels, for nobody looks at them."""
    figure.savefig(io.BytesIO(), dpi=40)


def laid_out(figure: Figure) -> None:
    """Place everything as drawing does, so that it can be measured; no pixels are needed for that."""
    figure.draw_without_rendering()


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def line(axes: Any, label: str) -> Any:
    return next(line for line in axes.lines if str(line.get_label()).startswith(label))


# curves


def test_curves_draw_exactly_the_numbers_given():
    rows = epochs(12)
    loss, accuracy, rate = curves(rows, None, "a run").axes
    for axes, key, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        for prefix, label in (("train", "training, fixed subset"), ("val", "validation")):
            np.testing.assert_array_equal(line(axes, label).get_xdata(), range(1, 13))
            expected = scale * np.array([row[f"{prefix}_{key}"] for row in rows])
            np.testing.assert_array_equal(line(axes, label).get_ydata(), expected)
    np.testing.assert_array_equal(rate.lines[0].get_ydata(), [row["lr"] for row in rows])


def test_curves_shade_the_gap_between_training_and_validation():
    rows = epochs(5)
    corners = curves(rows, None, "a run").axes[1].collections[0].get_paths()[0].vertices
    for row in rows:
        assert [row["epoch"], 100 * row["train_accuracy"]] in corners
        assert [row["epoch"], 100 * row["val_accuracy"]] in corners


def test_curves_mark_the_best_epoch_and_the_final_test():
    rows = epochs(10)
    figure = curves(rows, {"loss": 0.5, "accuracy": 0.8765}, "a run", best_epoch=7)
    loss, accuracy, _ = figure.axes
    for axes, key, scale, test in ((loss, "val_loss", 1, 0.5), (accuracy, "val_accuracy", 100, 87.65)):
        ring, diamond = line(axes, "best epoch"), line(axes, "test")
        assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (7, scale * rows[6][key])
        assert diamond.get_xdata()[0] == 10
        assert diamond.get_ydata()[0] == pytest.approx(test)
        assert diamond.get_marker() == "D"
    assert {"0.500", "87.65 %"} <= set(texts(figure))
    assert "10 epochs · best epoch 7: validation accuracy 72.00 % · final test accuracy 87.65 %" in texts(figure)


def test_the_running_average_has_its_own_label_and_a_faint_line():
    figure = curves(epochs(4, running_loss=1.0, running_accuracy=0.4), None, "a run")
    running = line(figure.axes[1], "training, running average over augmented batches")
    assert running.get_alpha() < 0.5
    assert "training, running average over augmented batches" in texts(figure)
    assert not any("running" in text for text in texts(curves(epochs(4), None, "a run")))


@pytest.mark.parametrize("count", [1, 2, 3, 200])
def test_curves_of_any_length_have_whole_epochs_on_their_axis(count):
    figure = curves(epochs(count), {"loss": 0.4, "accuracy": 0.9}, "a run", best_epoch=count)
    drawn(figure)
    left, right = figure.axes[0].get_xlim()
    ticks = [tick for tick in figure.axes[0].get_xticks() if left <= tick <= right]
    assert ticks
    assert all(tick == int(tick) for tick in ticks)


@pytest.mark.parametrize("count", [2, 3, 10, 200])
def test_a_very_high_first_loss_does_not_flatten_the_rest(count):
    rows = epochs(count)
    rows[0]["val_loss"] = 300.0
    figure = curves(rows, None, "a run")
    assert figure.axes[0].get_ylim()[1] < 3
    assert "↑ 1 epoch above, up to 300" in texts(figure)


def test_the_loss_axis_begins_at_zero_and_holds_all_usual_losses():
    low, high = curves(epochs(200), {"loss": 2.5, "accuracy": 0.1}, "a run").axes[0].get_ylim()
    assert low == 0
    assert high > 2.5


@pytest.mark.parametrize(
    "value", [float("nan"), *(pytest.param(value, marks=pytest.mark.slow) for value in (float("inf"), None))]
)
def test_undefined_numbers_leave_gaps(value):
    keys = ("lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "running_loss")
    whole = epochs(3, **dict.fromkeys(keys, value))
    for rows in (whole, [*epochs(5), {**whole[0], "epoch": 6}]):
        drawn(curves(rows, {"loss": value, "accuracy": value}, "a run", best_epoch=1))


# confusion matrix


def test_confusion_matrix_colours_are_shares_of_the_row_and_texts_are_counts():
    matrix = np.array([[90, 10], [0, 50]])
    figure = confusion_matrix(matrix, ["healthy", "ill"], "test split")
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), [[0.9, 0.1], [0, 1]])
    assert [text.get_text() for text in figure.axes[0].texts] == ["90\n90 %", "10\n10 %", "50\n100 %"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["healthy", "ill"]
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("predicted", "true")
    assert {"Confusion matrix: test split", "150 images, 2 classes · 93.33 % on the diagonal"} <= set(texts(figure))


def test_a_class_without_images_has_no_shares():
    figure = confusion_matrix(np.array([[3, 1], [0, 0]]), ["a", "b"], "t")
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array().mask, [[False, False], [True, True]])
    assert any("gray: no images of this class" in text for text in texts(figure))
    drawn(confusion_matrix(np.zeros((3, 3), int), ["a", "b", "c"], "t"))


@pytest.mark.parametrize("count", [1, 10, *(pytest.param(count, marks=pytest.mark.slow) for count in (2, 26, 100))])
def test_every_class_is_named_without_overlap_and_counts_fit_their_cells(count):
    matrix = np.full((count, count), 3) + 1000 * np.eye(count, dtype=int)
    figure = confusion_matrix(matrix, [f"class number {index}" for index in range(count)], "t")
    laid_out(figure)
    axes = figure.axes[0]
    assert len(axes.get_yticklabels()) == count
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(boxes))
    columns = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(left.x1 <= right.x0 + 1 for left, right in pairwise(columns))
    assert len(axes.texts) == (count * count if count <= 26 else 0)
    cell = axes.get_window_extent().width / count
    assert all(text.get_window_extent().width <= cell for text in axes.texts[:60])


def test_a_thousand_classes_can_be_drawn():
    figure = confusion_matrix(np.eye(1000, dtype=int), [str(index) for index in range(1000)], "t")
    assert len(figure.axes[0].get_xticklabels()) <= 150


@pytest.mark.parametrize("shape", [(2, 3), (3, 3), (0, 0)])
def test_a_matrix_that_does_not_fit_its_classes_is_refused(shape):
    with pytest.raises(ValueError, match="cannot have the shape"):
        confusion_matrix(np.zeros(shape, int), ["a", "b"] if shape != (0, 0) else [], "t")


# images


def test_samples_are_marked_correct_or_wrong_by_colour_and_sign():
    figure = samples(**predictions(4, wrong=1), classes=CLASSES, title="test split")
    assert len(figure.axes) == 4
    first, last = figure.axes[0], figure.axes[-1]
    assert [text.get_text() for text in first.texts] == ["✓ class A (50 %)", "true: class A"]
    assert [text.get_text() for text in last.texts] == ["✗ class E (99 %)", "true: class D"]
    for axes, colour in ((first, RIGHT), (last, WRONG)):
        assert axes.texts[0].get_color() == colour
        assert to_hex(axes.spines["left"].get_edgecolor()) == colour
    assert "4 images: 3 correct (✓), 1 wrong (✗)" in texts(figure)


def test_correct_is_green_and_wrong_is_red():
    right, wrong = (tuple(bytes.fromhex(colour[1:])) for colour in (RIGHT, WRONG))
    assert max(right) == right[1]
    assert max(wrong) == wrong[0]


def test_twenty_five_samples_are_spread_over_the_whole_set():
    figure = samples(**predictions(101), classes=CLASSES, title="t")
    shown = [axes.images[0].get_array()[0, 0, 0] for axes in figure.axes]
    np.testing.assert_array_equal(shown, np.arange(25) * 100 // 24)
    assert any(text.startswith("25 of 101 images, evenly spread") for text in texts(figure))


@pytest.mark.parametrize(("side", "interpolation"), [(8, "nearest"), (32, "nearest"), (224, "antialiased")])
def test_tiny_images_are_shown_pixel_by_pixel(side, interpolation):
    figure = samples(**predictions(2, side=side), classes=CLASSES, title="t")
    assert figure.axes[0].images[0].get_interpolation() in {interpolation, "auto"}
    assert figure.axes[0].images[0].get_array().shape == (side, side, 3)


@pytest.mark.parametrize(("channels", "shape"), [(1, (8, 8)), (2, (8, 8)), (3, (8, 8, 3)), (4, (8, 8, 3))])
def test_gray_images_are_gray_from_black_to_white(channels, shape):
    image = samples(**predictions(1, channels=channels), classes=CLASSES, title="t").axes[0].images[0]
    assert image.get_array().shape == shape
    assert (image.get_cmap().name, image.get_clim()) == ("gray", (0, 255))


def test_images_that_are_not_bytes_are_refused():
    data = predictions(2)
    with pytest.raises(TypeError, match="uint8"):
        samples(**{**data, "images": data["images"] / 255}, classes=CLASSES, title="t")


def test_mistakes_are_sorted_by_loss_highest_first():
    data = predictions(60, wrong=40)
    loss = np.random.default_rng(0).permutation(60).astype(np.float32)
    figure = mistakes(**data, loss=loss, classes=CLASSES, title="test split")
    expected = np.sort(loss[20:])[::-1][:25]
    assert [axes.texts[2].get_text() for axes in figure.axes] == [f"loss {cost:.2f}" for cost in expected]
    worst = int(np.flatnonzero(loss == expected[0])[0])
    assert figure.axes[0].images[0].get_array()[0, 0, 0] == worst
    assert figure.axes[0].texts[1].get_text() == f"true: {CLASSES[worst % 10]}"
    assert {"Worst mistakes: test split", "25 of 40 mistakes in 60 images, highest loss first"} <= set(texts(figure))


def test_an_undefined_loss_is_the_worst():
    figure = mistakes(**predictions(3, wrong=3), loss=np.array([1, np.nan, 2]), classes=CLASSES, title="t")
    assert [axes.texts[2].get_text() for axes in figure.axes] == ["loss nan", "loss 2.00", "loss 1.00"]


def test_an_empty_figure_has_a_message():
    figure = mistakes(**predictions(5), loss=np.zeros(5), classes=CLASSES, title="t")
    assert "✓ No mistakes: every prediction is correct." in texts(figure)
    assert "No epoch has been finished yet." in texts(curves([], None, "t"))
    assert "There are no images to show." in texts(samples(**predictions(0), classes=CLASSES, title="t"))


@pytest.mark.parametrize("count", [1, 3, 5, 6, 25])
@pytest.mark.parametrize("shape", [(8, 8), (64, 8), (8, 64)])
def test_captions_overlap_neither_images_nor_each_other(count, shape):
    data = {**predictions(count, wrong=count), "images": np.zeros((count, *shape, 3), np.uint8)}
    figure = mistakes(**data, loss=np.ones(count), classes=["a long class name, 34 letters"] * 10, title="t")
    laid_out(figure)
    boxes = [axes.get_window_extent() for axes in figure.axes]
    boxes += [text.get_window_extent() for axes in figure.axes for text in axes.texts]
    overlaps = [
        (one, other)
        for index, one in enumerate(boxes)
        for other in boxes[:index]
        if min(one.x1, other.x1) - max(one.x0, other.x0) > 1 and min(one.y1, other.y1) - max(one.y0, other.y0) > 2
    ]
    assert not overlaps
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)


# names, files, and the rest of the process


def all_pictures(classes: list[str], title: str) -> list[Figure]:
    data = predictions(10, wrong=5)
    return [
        curves(epochs(3), {"loss": 0.4, "accuracy": 0.9}, title, best_epoch=2),
        confusion_matrix(np.arange(100).reshape(10, 10), classes, title),
        samples(**data, classes=classes, title=title),
        mistakes(**data, loss=np.arange(10.0), classes=classes, title=title),
        mistakes(**predictions(10), loss=np.arange(10.0), classes=classes, title=title),
    ]


def test_strange_names_are_shown_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "DPI", 40)
    for number, figure in enumerate(all_pictures(STRANGE, "a $run$ called\n猫_{2}$")):
        save(figure, tmp_path / f"{number}.png")  # warnings are errors here
        assert all("\n" not in text for text in texts(figure) if "called" in text)
    figure = confusion_matrix(np.eye(10, dtype=int), STRANGE, "t")
    shown = [label.get_text().replace(r"\$", "$") for label in figure.axes[0].get_xticklabels()]
    assert shown[:6] == ["$x_1$", "a_b", "one $", r"two\nlines", "猫", "عربي"]
    assert shown[6] == "x" * 19 + "…"


def test_no_name_is_read_as_a_formula():
    for given in ("$x$", r"\$", r"$\frac", "$$", r"a\\$b$"):
        text = Text(text=name(given))
        assert text._preprocess_math(name(given))[1] is False
        assert text._preprocess_math(name(given))[0] == given


def test_percent_never_rounds_to_all_or_nothing():
    assert [percent(share) for share in (0, 0.005, 0.0051, 0.994, 0.995, 1)] == [
        *("0 %", "<1 %", "1 %", "99 %", ">99 %", "100 %")
    ]
    assert percent(0.99999, 2) == ">99.99 %"
    assert percent(0.99994, 2) == "99.99 %"


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "DPI", 40)  # encoding takes most of the time
    for number, (one, two) in enumerate(zip(all_pictures(CLASSES, "t"), all_pictures(CLASSES, "t"), strict=True)):
        written = []
        for figure in (one, two, one):
            save(figure, tmp_path / "picture.png")
            written.append((tmp_path / "picture.png").read_bytes())
        assert written[0] == written[1], number
        assert written[0] == written[2], f"picture {number} changes when it is saved twice"
        assert b"tEXt" not in written[0], "no version, no date"


def test_the_users_matplotlib_settings_have_no_effect_and_are_kept(tmp_path):
    save(curves(epochs(3), None, "t"), tmp_path / "plain.png")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "savefig.bbox": "tight"}):
        before = dict(matplotlib.rcParams)
        save(curves(epochs(3), None, "t"), tmp_path / "styled.png")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    path.write_bytes(b"the old picture")
    figure = curves(epochs(3), None, "t")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskTrouble, match=r"could not write .*curves\.png: No space left on device"):
        save(figure, path)
    assert path.read_bytes() == b"the old picture"
    assert list(tmp_path.iterdir()) == [path]


def test_other_warnings_are_not_hidden(tmp_path, monkeypatch):
    figure = curves(epochs(1), None, "t")
    monkeypatch.setattr(figure, "savefig", lambda *_, **__: warnings.warn("something else", stacklevel=1))
    with pytest.raises(UserWarning, match="something else"):
        save(figure, tmp_path / "a.png")


def test_pyplot_is_never_imported(tmp_path):
    code = (
        "import sys, numpy; from resnetlab.plots.style import save;"
        "from resnetlab.plots.confusion import confusion_matrix;"
        f"save(confusion_matrix(numpy.eye(2, dtype=int), ['a', 'b'], 't'), {str(tmp_path / 'a.png')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
