"""The pictures of a report, section by section. Importing this imports matplotlib."""

from __future__ import annotations

from typing import Any

import numpy as np

from resnetlab.evaluation.calibration import expected_calibration_error
from resnetlab.interpret.embedding import plane
from resnetlab.plots.calibration import confidence_histogram, reliability_diagram
from resnetlab.plots.classes import class_bars, confused_pairs
from resnetlab.plots.confusion import confusion_matrix
from resnetlab.plots.curves import curves
from resnetlab.plots.network import embedding_map, filters, grad_cams
from resnetlab.plots.style import percent
from resnetlab.report.html import Html, text
from resnetlab.report.numbers import class_table, epoch_table
from resnetlab.report.page import section
from resnetlab.report.pieces import element, join, more, picture, stored, thumbnail
from resnetlab.report.reading import Facts, Scored
from resnetlab.runs.report_samples import ReportSamples, Sample

MANY = 40  # classes; from here a matrix is wider than the page, and is scrolled


def learning(facts: Facts) -> Html | None:
    """How it learned."""
    if not facts.rows:
        return None
    test, best = facts.scored.get("test"), facts.best_epoch
    row = next(row for row in facts.rows if row["epoch"] == best)
    told = f"Loss, accuracy and learning rate over {len(facts.rows)} epochs. Best epoch {best}, validation accuracy "
    figure = curves(facts.rows, test.metrics if test else None, facts.title, best_epoch=best)
    note = (
        f"The best epoch is the one with the best validation {facts.config.best_by.replace('_', '-')}. The shaded gap "
        "between the fixed training images and validation is what does not carry over to new images."
    )
    return section(
        "learning", "Learning", picture(figure, told + percent(row["val_accuracy"], 2), note=note), epoch_table(facts)
    )


def classes(facts: Facts) -> Html | None:
    """How well each class is told from the others."""
    scored = facts.main
    if scored is None:
        return None
    parts = [class_table(scored)]
    if scored.matrix is not None:
        matrix, names, title = scored.matrix, scored.classes, scored.title
        kind = "large" if len(names) > MANY else None
        bars = class_bars(matrix, names, title)
        pairs = confused_pairs(matrix, names, title)
        shares = confusion_matrix(matrix, names, title, show="shares")
        counts = confusion_matrix(matrix, names, title, show="counts")
        alike = f"Confusion matrix of {len(names)} classes, true by predicted, "
        parts += [
            picture(bars, f"Recall and precision of {len(names)} classes with intervals", note=BARS),
            picture(shares, alike + "in per cent of the true class", note=MATRIX, kind=kind),
            more("The same in images", picture(counts, alike + "in images", kind=kind)),
            picture(pairs, "The pairs of classes most often taken for each other"),
        ]
    else:
        parts.append(stored(facts.run.evaluation(scored.key) / "confusion_matrix.png", "Confusion matrix"))
    return section("classes", "Classes", *parts)


BARS = "Recall: of the images of a class, how many were found. Precision: of those called so, how many are."
MATRIX = "Rows are true classes, columns predictions; what is off the diagonal is a mistake."


def calibration(facts: Facts) -> Html | None:
    """Whether its probabilities can be taken at their word."""
    scored = facts.main
    panels = reliability_panels(scored) if scored else {}
    parts = []
    if scored and panels:
        note = (
            "Images are sorted into bins by how sure the network is; on the diagonal, 80 % sure is right 80 times in "
            "100. The temperature is one number, fitted on validation, that all logits are divided by; it changes no "
            "prediction."
        )
        figure = reliability_diagram(panels, scored.title)
        parts.append(picture(figure, f"Reliability diagram: {'; '.join(panels)}", note=note))
    if scored and scored.predictions is not None:
        figure = confidence_histogram(scored.predictions.probability, scored.predictions.correct, scored.title)
        parts.append(picture(figure, "Histograms of the confidence of right and of wrong predictions"))
    return section("calibration", "Calibration", *parts) if parts else None


def reliability_panels(scored: Scored) -> dict[str, list[dict[str, Any]]]:
    """The bins as they are, and after the temperature, by what stands above them."""
    panels: dict[str, list[dict[str, Any]]] = {}
    if bins := scored.bins("calibration", "bins"):
        panels[f"as it is: ECE {percent(expected_calibration_error(bins), 2)}"] = bins
    if bins := scored.bins("calibration", "after", "bins"):
        at = f"at temperature {scored.at('calibration', 'temperature', 'value'):.3g}"
        panels[f"{at}: ECE {percent(expected_calibration_error(bins), 2)}"] = bins
    return panels


def images(facts: Facts) -> Html | None:
    """Single images: what went wrong, what is usual, and where the network looked."""
    looks, scored = facts.samples, facts.scored.get("val")
    if scored is None:
        return None
    if looks is None or not of_same(looks, scored):
        kept = [stored(facts.run.evaluation("val") / f"{n}.png", f"Validation: {n}") for n in ("mistakes", "samples")]
        return section("images", "Images", *kept) if any(kept) else None
    names = scored.classes
    wrong = [looks.shown[place] for place in looks.mistakes]
    parts = [
        element("p", text(WHY_VALIDATION), class_="muted"),
        element("h3", text("Worst mistakes, highest loss first" if wrong else "✓ No mistakes on validation")),
        gallery(looks, looks.mistakes, names),
        element("h3", text("Samples, evenly spread over the split")),
        gallery(looks, looks.samples, names),
    ]
    if len(looks.mapped):
        figure = grad_cams(
            looks.images[list(looks.mapped)],
            looks.maps / 255,
            np.array([looks.shown[place].true for place in looks.mapped]),
            looks.classes,
            looks.probabilities,
            classes=names,
            title=scored.title,
        )
        parts.append(picture(figure, "Images and heat maps of what speaks for two of the classes", note=CAM))
    return section("images", "Images", *parts)


WHY_VALIDATION = (
    "These are validation images: whoever looks at mistakes in order to mend them has used up the images, and the test "
    "set is for the last word."
)
CAM = (
    "Grad-CAM (Selvaraju et al. 2017) on the last stage: the brighter, the more that place speaks for the class. It is "
    "as coarse as the last stage's grid, and shows what the network used, not what it should have used."
)


def gallery(looks: ReportSamples, places: tuple[int, ...], names: list[str]) -> Html:
    """Images with captions, in real text."""
    items = [entry(looks.shown[place], looks.images[place], names) for place in places]
    return join(element("ul", *items, class_="gallery"), "\n") if items else Html("")


def entry(seen: Sample, pixels: Any, names: list[str]) -> Html:
    """One image of a gallery."""
    right = seen.true == seen.predicted
    said = f"{'✓' if right else '✗'} {names[seen.predicted]}"
    told = [element("strong", text(said)), text(f" {percent(seen.probability)}"), Html("<br>")]
    if not right:
        told += [text(f"true: {names[seen.true]}, loss {seen.loss:.2f}")]
    told.append(element("span", text(seen.name), class_="file", title=seen.name))
    alt = f"{names[seen.true]}, predicted {names[seen.predicted]}"
    return join(element("li", thumbnail(pixels, alt), *told, class_=None if right else "wrong"), "\n")


def inside(facts: Facts) -> Html | None:
    """What the network has learned to see."""
    looks, scored, parts = facts.samples, facts.scored.get("val"), []
    if looks is not None and scored is not None and of_same(looks, scored):
        points = plane(looks.features.astype(np.float64))
        figure = embedding_map(points, looks.true, looks.predicted, classes=scored.classes, title=scored.title)
        parts.append(picture(figure, f"{len(points)} images in the plane, near where their features are", note=MAP))
    if facts.model is not None:
        weights = facts.model.network.get_parameter("conv1.weight").detach().numpy()
        parts.append(picture(filters(weights, facts.config.model.name), f"{len(weights)} small filters"))
    return section("inside", "Inside the network", *parts) if parts else None


MAP = (
    "Neighbours have similar features; distances between far groups, and the directions, mean nothing. Crosses inside "
    "another group are images that look to the network like that class."
)


def of_same(looks: ReportSamples, scored: Scored) -> bool:
    """Whether the kept images belong to these scores."""
    classes = max((max(seen.true, seen.predicted) for seen in looks.shown), default=0)
    digests = (scored.at("weights_digest"), scored.at("split_digest"))
    return (looks.weights_digest, looks.split_digest) == digests and classes < len(scored.classes)
