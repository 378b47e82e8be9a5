"""Figures of a report, section by section. Importing this module imports matplotlib."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from resnetlab.evaluation.calibration import expected_calibration_error
from resnetlab.files import read_regular
from resnetlab.host import one_thread_at_a_time
from resnetlab.interpret.embedding import plane
from resnetlab.plots.calibration import confidence_histogram, reliability_diagram
from resnetlab.plots.classes import class_bars, confused_pairs
from resnetlab.plots.confusion import confusion_matrix
from resnetlab.plots.curves import curves, overlaid_curves
from resnetlab.plots.network import embedding_map, filters, grad_cams
from resnetlab.plots.selective import risk_coverage
from resnetlab.plots.style import percent
from resnetlab.report.collect import Facts, Scored
from resnetlab.report.render import Picture, is_number, picture, png_picture
from resnetlab.runs.report_samples import ReportSamples

MANY = 40  # classes; from here a matrix is wider than the page, and is scrolled


@dataclass(frozen=True)
class Figures:
    """The figures of each section of a report; a section without any is empty or None."""

    learning: Picture | None
    classes: list[Picture]
    calibration: list[Picture]
    samples: ReportSamples | None  # single images, shown one by one
    stored: list[Picture]  # figures of single images from the run folder, where there are no samples
    grad_cam: list[Picture]
    inside: list[Picture]


@one_thread_at_a_time()
def draw(facts: Facts) -> Figures:
    """Draw all figures that the run has data for."""
    samples = samples_of(facts)
    return Figures(
        learning=learning(facts),
        classes=classes(facts),
        calibration=calibration(facts.main) if facts.main else [],
        samples=samples,
        stored=[] if samples else stored(facts, "val", mistakes="Worst mistakes", samples="Sample predictions"),
        grad_cam=grad_cam(facts.scored["val"], samples) if samples else [],
        inside=inside(facts, samples),
    )


def samples_of(facts: Facts) -> ReportSamples | None:
    """The report samples of the run, if they belong to its validation scores."""
    samples, scored = facts.samples, facts.scored.get("val")
    if samples is None or scored is None:
        return None
    digests = (scored.metrics["weights_digest"], scored.metrics["split_digest"])
    last_class = max((max(one.true, one.predicted) for one in samples.shown), default=0)
    is_same = (samples.weights_digest, samples.split_digest) == digests and last_class < len(scored.classes)
    return samples if is_same else None


def learning(facts: Facts) -> Picture | None:
    if facts.folds:
        figure = overlaid_curves([(fold.name, fold.rows) for fold in facts.folds], facts.title)
        return picture(figure, "Validation loss and accuracy of each fold")
    if not facts.rows:
        return None
    test, best = facts.scored.get("test"), facts.best_epoch
    row = next(row for row in facts.rows if row["epoch"] == best)
    figure = curves(facts.rows, test.metrics if test else None, facts.title, best_epoch=best)
    return picture(
        figure,
        f"Loss, accuracy and learning rate over {len(facts.rows)} epochs. Best epoch {best}, validation accuracy "
        f"{percent(row['val_accuracy'], 2)}",
        note=f"The best epoch has the best validation {facts.config.best_by.replace('_', '-')}. The shaded gap between "
        "the fixed training images and validation is the part that does not generalise to new images.",
    )


def classes(facts: Facts) -> list[Picture]:
    """Recall and precision of each class, the confusion matrix, and the pairs that are confused most often."""
    scored = facts.main
    if scored is None:
        return []
    if scored.matrix is None:
        return stored(facts, scored.key, confusion_matrix="Confusion matrix")
    matrix, names, title = scored.matrix, scored.classes, scored.title
    description = f"Confusion matrix of {len(names)} classes, true by predicted, "
    wide: dict[str, Any] = {"is_wide": len(names) > MANY}
    return [
        picture(
            class_bars(matrix, names, title),
            f"Recall and precision of {len(names)} classes with intervals",
            note="Recall: the share of the images of a class that were predicted as it. Precision: the share of the "
            "images predicted as a class that belong to it.",
        ),
        picture(
            confusion_matrix(matrix, names, title, show="shares"),
            f"{description}in per cent of the true class",
            note="Rows are true classes, columns predicted ones. Mistakes are off the diagonal.",
            **wide,
        ),
        picture(
            confusion_matrix(matrix, names, title, show="counts"),
            f"{description}in images",
            folded="The same in images",
            **wide,
        ),
        picture(confused_pairs(matrix, names, title), "The pairs of classes that are confused most often"),
    ]


def calibration(scored: Scored) -> list[Picture]:
    """Reliability diagrams before and after temperature scaling, and histograms of the confidence."""
    found = []
    if panels := reliability_panels(scored):
        figure = reliability_diagram(panels, scored.title)
        note = (
            "Images are grouped by confidence, the probability of the predicted class. On the diagonal, accuracy and "
            "confidence are equal: of 100 images with a confidence of 80 %, 80 are correct. The temperature is one "
            "number, fitted on validation, by which all logits are divided; it changes no prediction."
        )
        found.append(picture(figure, f"Reliability diagram: {'; '.join(panels)}", note=note))
    if predictions := scored.predictions:
        figure = confidence_histogram(predictions.probability, predictions.correct, scored.title)
        found.append(picture(figure, "Histograms of the confidence of correct and of wrong predictions"))
    return found + rejecting(scored)


def rejecting(scored: Scored) -> list[Picture]:
    """The risk-coverage curve with the thresholds for stated risks."""
    curve = scored.rows("coverage", "risk", path=("selective", "curve"))
    if not curve:
        return []
    keys = ("risk", "threshold", "observed_coverage")
    rejections = scored.rows(*keys, path=("selective", "rejections")) or []
    known = [row for row in rejections if is_number(row.get("observed_risk"))]
    figure = risk_coverage(curve, known, scored.metrics["images"], scored.title)
    note = (
        "A prediction is accepted if its top probability, after temperature scaling, reaches a threshold; the others "
        "are answered with none of the classes. Each threshold was chosen on validation so that its stated risk holds "
        "with a confidence of 95 % on other images of the same kind (an exact binomial bound), not only on these "
        "images. Of several risks with one threshold, the smallest is shown; a smaller one than those shown needs more "
        "validation images or a better network."
    )
    return [picture(figure, "Share of wrong predictions among the accepted ones, over the share accepted", note=note)]


def reliability_panels(scored: Scored) -> dict[str, list[dict[str, Any]]]:
    """Bins of confidence before and after temperature scaling, by the title of their panel."""
    panels: dict[str, list[dict[str, Any]]] = {}
    if bins := scored.bins("calibration", "bins"):
        panels[f"uncalibrated: ECE {percent(expected_calibration_error(bins), 2)}"] = bins
    if bins := scored.bins("calibration", "after", "bins"):
        at = f"at temperature {scored.at('calibration', 'temperature', 'value'):.3g}"
        panels[f"{at}: ECE {percent(expected_calibration_error(bins), 2)}"] = bins
    return panels


def grad_cam(scored: Scored, samples: ReportSamples) -> list[Picture]:
    """Heat maps of some mistakes and some correct predictions."""
    if not len(samples.mapped):
        return []
    figure = grad_cams(
        samples.images[list(samples.mapped)],
        samples.maps / 255,
        np.array([samples.shown[place].true for place in samples.mapped]),
        samples.classes,
        samples.probabilities,
        classes=scored.classes,
        title=scored.title,
    )
    note = (
        "Grad-CAM (Selvaraju et al. 2017) on the last stage whose maps have at least 4×4 positions: the brighter a "
        "place, the more it contributes to the score of the class. The map is as coarse as the grid of that stage. It "
        "shows which places the network used, not which it should have used."
    )
    return [picture(figure, "Images and Grad-CAM heat maps for two of the classes", note=note)]


def inside(facts: Facts, samples: ReportSamples | None) -> list[Picture]:
    """The map of the features, and the filters of the first convolution."""
    found = []
    if samples is not None:
        names, title = facts.scored["val"].classes, facts.scored["val"].title
        points = plane(samples.features.astype(np.float64))
        figure = embedding_map(points, samples.true, samples.predicted, classes=names, title=title)
        note = (
            "Neighbouring points have similar features. Directions, and distances between groups that are far apart, "
            "have no meaning. A cross inside another group is an image whose features resemble that class."
        )
        found.append(picture(figure, f"{len(points)} images as points, arranged by their features", note=note))
    if facts.model is not None:
        weights = facts.model.network.get_parameter("conv1.weight").detach().numpy()
        figure = filters(weights, facts.config.model.name)
        found.append(picture(figure, f"{len(weights)} filters of the first convolution"))
    return found


def stored(facts: Facts, key: str, **names: str) -> list[Picture]:
    """Figures that scoring wrote into the run folder, as far as they exist, with their descriptions."""
    found = []
    for name, description in names.items():
        try:
            content = read_regular(facts.run.evaluation(key) / f"{name}.png")
            found.append(png_picture(content, f"{description}, {facts.scored[key].title}"))
        except (OSError, SyntaxError, ValueError, KeyError):  # no file, or not an image
            continue
    return found
