"""Pictures and the page of explained predictions: names, escaping, and what they state."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from resnetlab.inference.explain import Evidence
from resnetlab.interpret.grad_cam import CamStage
from resnetlab.interpret.occlusion import Patches
from resnetlab.plots.explanation import drop_overlay, explanation_figure, view
from resnetlab.plots.style import rendered
from resnetlab.report.explain import Pages, on_page
from resnetlab.runs.explain import Explanation
from resnetlab.runs.similar_images import SimilarImage

HOSTILE = ["<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "$&amp;\x1b[2J\n猫"]


def explanation(size: int = 8, channels: int = 3, similar: int = 2) -> Explanation:
    """An explanation of made-up numbers, with hostile names."""
    draw, patches = np.random.default_rng(size), Patches.for_size(size)
    rows = len(patches.starts)
    pixels = draw.integers(0, 256, (size, size, channels), np.uint8)
    classes = tuple(
        Evidence(name, i, 0.9 / 10**i, draw.random((size, size), np.float32), draw.normal(size=(rows, rows)) / 9, 0.25)
        for i, name in enumerate(HOSTILE)
    )
    classes = (*classes[:2], replace(classes[2], grad_cam=np.zeros((size, size), np.float32), agreement=None))
    found = tuple(
        SimilarImage(f"train/{HOSTILE[i % 3]}", HOSTILE[0] if i else "", 0.9 - i / 10, None if i else pixels)
        for i in range(similar)
    )
    features = np.zeros(4, np.float32)
    return Explanation(pixels, classes, CamStage(1, 4, 1), patches, features, (0.75, 1.0), found)


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are empty, because drawing one takes a third of a second."""
    monkeypatch.setattr("resnetlab.plots.explanation.explanation_figure", lambda *_: Figure(figsize=(1, 1)))


@pytest.mark.usefixtures("without_figures")
def test_pictures_have_names_of_their_own_and_replace_no_image(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    files = ["a/cat.png", "b/cat.jpg", "b/CAT.png", "cat-2.png", str(out / "dog.explain.png"), "dog.png", "猫" * 90]
    pages = Pages(out, files)
    paths = [pages.add(file, explanation(similar=0)) for file in files]
    names = [path.name.casefold() for path in paths]
    assert len(set(names)) == len(files)
    assert names[0] == "cat.explain.png"
    assert (out / "dog.explain.png") not in paths
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "PNG"


@pytest.mark.parametrize(
    ("size", "channels", "similar"),
    [
        (1, 1, 0),
        (8, 2, 9),
        (8, 7, 1),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in ((8, 1, 5), (400, 3, 3))),
    ],
)
def test_images_of_any_size_and_number_of_channels_are_drawn(size: int, channels: int, similar: int) -> None:
    found = explanation(size, channels, similar)
    with Image.open(io.BytesIO(rendered(explanation_figure(found, HOSTILE[1]), "png"))) as image:
        assert image.width > 500
    shown = on_page("name", found)
    assert shown.image.width == min(size, 320)
    assert len(shown.similar) == similar


@pytest.mark.usefixtures("without_figures")
def test_the_page_escapes_names_and_loads_nothing(tmp_path: Path) -> None:
    pages = Pages(tmp_path)
    pages.add(f"folder/{HOSTILE[0]}", explanation())
    pages.add(HOSTILE[1], explanation())
    page = pages.write(HOSTILE[0], compared=HOSTILE[1], notes=[HOSTILE[0]]).read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert page.count("<script>") == 1
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", page)
    assert "\x1b" not in page


@pytest.mark.usefixtures("without_figures")
def test_the_page_states_what_was_done(tmp_path: Path) -> None:
    pages = Pages(tmp_path)
    pages.add("a.png", explanation(channels=5))
    page = " ".join(
        pages.write("title", compared="the 86 training images of run", notes=["a note"]).read_text().split()
    )
    assert "The network gets the central 75 % of the width; the rest was cut away." in page
    assert "It uses the output of layer2, 4×4 positions" in page
    assert "The maps of the last stage have 1×1 positions" in page
    assert "a patch of 2×2 of 8×8 pixels" in page
    assert "at 7×7 places 1 pixel apart" in page
    assert "rank correlation +0.25" in page
    assert "rank correlation undefined" in page
    assert "Grad-CAM: no evidence" in page
    assert "no picture: the file is gone or has changed" in page
    assert "the 86 training images of run" in page
    assert "A note" in page
    assert "the first three are shown as red, green and blue" in page


def test_drops_are_red_and_rises_are_blue() -> None:
    image = np.full((1, 3, 3), 128, np.uint8)
    (down, none, up) = drop_overlay(image, np.array([[0.5, 0.0, -0.5]]))[0].astype(int)
    assert down[0] > down[2] + 50
    assert up[2] > up[0] + 50
    assert none[0] == none[2]


def test_changes_of_less_than_a_point_stay_pale() -> None:
    image = np.full((1, 1, 3), 128, np.uint8)
    pale, strong = (drop_overlay(image, np.array([[drop]]))[0, 0].astype(int) for drop in (0.0001, 0.01))
    assert np.ptp(pale) < 20 < np.ptp(strong)


def test_the_view_is_told_in_words() -> None:
    assert view((1.0, 1.0)) == ""
    assert view((0.5, 0.875)) == "the central 50 % of the width and 88 % of the height; the rest was cut away"
    assert view((0.875, 0.875)) == "the central 88 % of width and height; the rest was cut away"
    assert view((1.0, 0.5)) == "the central 50 % of the height; the rest was cut away"
