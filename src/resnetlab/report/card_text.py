"""The text of a card: metadata, and a section for each question of a reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from resnetlab import __version__
from resnetlab.data import DATASETS
from resnetlab.data.classes import shortened
from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput, printable
from resnetlab.evaluation.intervals import wilson
from resnetlab.inference import hub
from resnetlab.inference.model_file import Model
from resnetlab.inference.validation import SplitScore
from resnetlab.report.card_subject import Subject, timm_name
from resnetlab.report.collect import SPLITS, Scored
from resnetlab.report.metadata import front_matter, license_fields
from resnetlab.runs.saved_data import stored_splits

ON_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}  # the data sets that the Hub has, too
FEW = 30  # images of a class, below which its recall is known to ± 18 % at best
WEAKEST = 5  # classes


def text(subject: Subject, figures: Mapping[str, str], repository: str | None) -> str:
    """Return the text of README.md."""
    sections = {
        "": introduction(subject),
        "Scores": scores(subject, figures),
        "Classes": classes(subject),
        "Intended use and limits": limits(subject),
        "Images": images(subject.model.preprocessing),
        "Use": use(subject, repository),
        "Training": training(subject),
    }
    body = [line for title, lines in sections.items() for line in block(title, lines)]
    return front_matter(metadata(subject)) + "\n" + "\n".join(body) + "\n"


def block(title: str, lines: Iterator[str]) -> Iterator[str]:
    """Yield a section, with empty lines between its paragraphs; nothing if it has no lines."""
    found = list(lines)
    if found:
        yield from [f"## {title}", ""] if title else []
        yield from found
        yield ""


def metadata(subject: Subject) -> dict[str, Any]:
    """Return the metadata of the card, as the Hub reads it."""
    known = {"datasets": [ON_HUB[subject.data]]} if subject.data in ON_HUB else {}
    data = {
        "type": ON_HUB.get(subject.data) or (subject.data if subject.data in DATASETS else "imagefolder"),
        "name": printable(subject.data) or "unknown",
    }
    results: list[dict[str, Any]] = [
        {
            "task": {"type": "image-classification", "name": "Image classification"},
            "dataset": {**data, "split": {"val": "validation"}.get(score.split, score.split)},
            "metrics": list(metrics(score)),
        }
        for score in subject.scores
    ]
    name = f"{subject.name} on {printable(subject.data)}" if subject.data else subject.name
    is_in_timm = timm_name(subject.model) is not None
    return {
        **license_fields(subject.license),
        "library_name": "timm" if is_in_timm else "resnetlab",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "resnet", "pytorch", "resnetlab", *(["timm"] if is_in_timm else [])],
        **known,
        **({"metrics": ["accuracy", "f1"], "model-index": [{"name": name, "results": results}]} if results else {}),
    }


def metrics(score: SplitScore) -> Iterator[dict[str, Any]]:
    for kind, name, value, interval in (
        ("accuracy", "Accuracy", score.accuracy, score.accuracy_interval),
        ("f1", "Macro-F1", score.macro_f1, score.macro_f1_interval),
    ):
        if value is not None:
            yield {
                "type": kind,
                "name": name + (f", 95 % interval {span(interval)}" if interval else ""),
                "value": value,
            }


def introduction(subject: Subject) -> Iterator[str]:
    model = subject.model
    of = f" on {escaped(subject.data)}" if subject.data else ""
    yield f"# {escaped(subject.name)}{of}"
    yield ""
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    yield (
        f"A residual network ({escaped(subject.name)}, {parameters:,} parameters) that sorts images into "
        f"{len(model.classes):,} classes."
    )


def scores(subject: Subject, figures: Mapping[str, str]) -> Iterator[str]:
    found = subject.scores
    if not found:
        yield "This model has not been scored. `resnetlab evaluate model.safetensors --data FOLDER` scores it."
        return
    yield "| split | images | accuracy | 95 % interval | macro-F1 | 95 % interval |"
    yield "|---|---:|---:|---|---:|---|"
    for score in found:
        cells = [SPLITS[score.split], f"{score.images:,}", percent(score.accuracy), span(score.accuracy_interval)]
        yield f"| {' | '.join([*cells, percent(score.macro_f1), span(score.macro_f1_interval)])} |"
    yield ""
    if found[0].split == "val":
        yield "The test split has not been scored. Validation scores are too good: the weights were chosen by them."
    elif subject.facts is not None and subject.facts.count is not None:
        yield f"The weights were chosen on validation; {subject.facts.count.sentence()}."
    else:
        yield "The weights were chosen on validation, not on the test split."
    for name, caption in figures.items():
        yield ""
        yield f"![{escaped(caption)}]({name})"


def classes(subject: Subject) -> Iterator[str]:
    scored, names = subject.scored, subject.model.classes
    if scored is None:
        yield f"{shortened([escaped(name) for name in names], 200)}."
        return
    yield "| class | images | recall | 95 % interval | precision |"
    yield "|---|---:|---:|---|---:|"
    for row in scored.metrics["per_class"]:
        cells = [escaped(row["name"]), f"{row['support']:,}", percent(row["recall"]), span(recall_interval(row))]
        yield f"| {' | '.join([*cells, percent(row['precision'])])} |"
    yield ""
    yield f"Of the {scored.title}. Recall: the share of the images of a class that were recognised."


def limits(subject: Subject) -> Iterator[str]:
    """Yield one sentence or two for each limit that the files show."""
    model = subject.model
    yield f"- It is made for images like those it was trained on{of_what(subject)}. Of other images nothing is known."
    yield (
        f"- It has {len(model.classes):,} classes. An image of anything else gets one of them, too, "
        "often with a high probability."
    )
    yield from rejection(model)
    yield from calibration(subject)
    yield from weak_spots(subject)
    size = model.preprocessing.image_size
    yield f"- Images are resized to {size}×{size} pixels. It cannot use details that are lost at that size."
    if model.preprocessing.fit == "crop":
        yield "- The centre of an image is used: the ends of a long image are cut off."


def of_what(subject: Subject) -> str:
    if not subject.data:
        return ", which are not known: its weights were imported" if "imported" in subject.model.provenance else ""
    return f" ({escaped(subject.data)})"


def rejection(model: Model) -> Iterator[str]:
    validation = model.validation
    if validation is None or not validation.rejections:
        yield "- It has no threshold to reject images: a low probability is the only sign of a doubtful answer."
        return
    chosen = min(validation.rejections, key=lambda one: abs(one.risk - 0.05))
    yield (
        f"- With `reject={chosen.risk:g}`, it gives no answer below a probability of {chosen.threshold_text}. It then "
        f"answers {percent(chosen.coverage)} of the validation images, and at most {percent(chosen.risk)} of its "
        f"answers for such images are wrong ({validation.confidence:.0%} confidence, {validation.images:,} images)."
    )


def calibration(subject: Subject) -> Iterator[str]:
    scored = subject.scored
    error = None if scored is None else scored.at("calibration", "ece")
    after = None if scored is None else scored.at("calibration", "after", "ece")
    if scored is not None and isinstance(error, float):
        scaled = f", {percent(after)} with its temperature" if isinstance(after, float) else ""
        yield f"- Its probabilities differ from its accuracy by {percent(error)} on average{scaled} ({scored.title})."


def weak_spots(subject: Subject) -> Iterator[str]:
    """Yield the classes with the lowest recall, those with few images, and those without any."""
    scored = subject.scored
    if scored is None:
        return
    rows = scored.metrics["per_class"]
    recalls = {row["name"]: row["recall"] for row in rows if row["support"] and row["recall"] is not None}
    weak = sorted((recall, name) for name, recall in recalls.items() if recall < scored.metrics["accuracy"])[:WEAKEST]
    if weak:
        spots = "; ".join(f"{escaped(name)}: {percent(recall)}{mistaken(scored, name)}" for recall, name in weak)
        yield f"- The classes with the lowest recall: {spots}."
    if few := [f"{escaped(row['name'])} ({row['support']})" for row in rows if 0 < row["support"] < FEW]:
        yield f"- The scores of these classes come from fewer than {FEW} images and are rough: {shortened(few, 20)}."
    if none := [escaped(row["name"]) for row in rows if not row["support"]]:
        yield f"- These classes had no images in the {scored.title}: {shortened(none, 20)}."


def mistaken(scored: Scored, name: str) -> str:
    """Return the class that a class is most often taken for, in brackets; empty if it is not known."""
    if scored.matrix is None:
        return ""
    place = scored.classes.index(name)
    row = scored.matrix[place].copy()
    row[place] = 0
    other = int(row.argmax())
    return f" (most often taken for {escaped(scored.classes[other])}, {row[other]:,} times)" if row[other] else ""


def images(pixels: Preprocessing) -> Iterator[str]:
    ways = {
        "crop": f"the short side is resized to {pixels.resize_to} pixels and the centre is taken",
        "squash": f"they are resized to {pixels.resize_to}×{pixels.resize_to} pixels, whatever their shape",
        "pad": f"the long side is resized to {pixels.resize_to} pixels and the rest is filled with black",
    }
    kinds = {1: "grey", 3: "RGB"}
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (pixels.mean, pixels.std))
    yield (
        f"Images are made {kinds.get(pixels.channels, f'{pixels.channels}-channel')}; {ways[pixels.fit]} (bilinear, "
        f"antialiased); the input is the central {pixels.image_size}×{pixels.image_size} pixels, in [0, 1], minus "
        f"{mean}, divided by {std}. `resnetlab.load` does all of this."
    )


def use(subject: Subject, repository: str | None) -> Iterator[str]:
    source = f"hf:{repository}" if repository else hub.MODEL
    extra = "[hub]" if repository else ""
    yield "```python"
    yield f"import resnetlab  # pip install 'resnetlab{extra}'"
    yield ""
    yield f'classifier = resnetlab.load("{source}")'
    yield 'prediction = classifier("photo.jpg")'
    yield "print(prediction.predicted, prediction.probability)"
    yield "```"
    if (name := timm_name(subject.model)) is not None:
        yield ""
        pads = subject.model.preprocessing.fit == "pad"
        borders = ", and its transform has borders of the mean colour, not black ones" if pads else ""
        lacks = f"without the temperature of the model file{borders}"
        yield f"timm has the same network ({name}); it gives logits, {lacks}:"
        yield ""
        yield "```python"
        yield "import timm  # pip install timm"
        yield ""
        address = f"hf_hub:{repository}" if repository else "local-dir:."
        yield f'network = timm.create_model("{address}", pretrained=True).eval()'
        yield "```"


def training(subject: Subject) -> Iterator[str]:
    found = subject.model.provenance
    if isinstance(imported := found.get("imported"), Mapping):
        yield (
            f"The weights were imported from {escaped(imported.get('file'))} (SHA-256 "
            f"{escaped(imported.get('sha256'))}); how they were trained is not recorded."
        )
        for note in imported.get("notes") or ():
            yield f"- {escaped(note)}"
        return
    facts = {
        "recipe": found.get("recipe"),
        "seed": found.get("seed"),
        "epoch of the weights": found.get("epoch"),
        "trained": found.get("trained"),
        "images": split_sizes(subject),
        "versions": ", ".join(f"{name} {number}" for name, number in (found.get("versions") or {}).items() if number),
        "licence": subject.license,
        "SHA-256 of the weights": subject.model.weights_digest,
        "card written by": f"resnetlab {__version__}",
    }
    yield "| | |"
    yield "|---|---|"
    for name, value in facts.items():
        if value not in (None, ""):
            yield f"| {name} | {escaped(value)} |"


def split_sizes(subject: Subject) -> str:
    """Return the numbers of images of each split of the run; empty if they are not known."""
    if subject.facts is None:
        return ""
    try:
        splits = stored_splits(subject.facts.run).splits
    except BadInput:
        return ""
    return ", ".join(f"{name} {len(split.names):,}" for name, split in splits.items())


def recall_interval(row: Mapping[str, Any]) -> tuple[float, float] | None:
    if not row["support"] or row["recall"] is None:
        return None
    low, high = wilson(round(row["recall"] * row["support"]), row["support"])
    return float(low), float(high)


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def span(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f} %"


def escaped(value: object) -> str:
    """Return text on one line, in which no character has a meaning in Markdown or HTML, and no address is a link.

    >>> print(escaped("a|b <i> *c* http://d"))
    a\\|b \\<i\\> \\*c\\* http:\\//d
    """
    text = printable(value).replace("\\", "\\\\")
    for character in "`*_{}[]()<>#|~&$!@^=":
        text = text.replace(character, f"\\{character}")
    return text.replace("://", ":\\//").replace("www.", "www\\.")
