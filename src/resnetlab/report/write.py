"""From a run folder to its page."""

from __future__ import annotations

from pathlib import Path

from resnetlab import __version__
from resnetlab.files import write_text
from resnetlab.report.html import Html, text
from resnetlab.report.numbers import headline
from resnetlab.report.origin import origin
from resnetlab.report.page import document, section
from resnetlab.report.pieces import element, marked
from resnetlab.report.reading import Facts, read_facts


def write_report(run: Path | str, out: Path | str | None = None) -> Path:
    """Write the page of a run, to report.html in its folder unless `out` says otherwise, and return its path.

    The run's files are all that is read: no data set is opened, least of all a test split. Raises BadInput where there
    is no run, DiskTrouble where the page cannot be written.
    """
    facts = read_facts(Path(run))
    path = Path(out) if out is not None else facts.run.path / "report.html"
    write_text(path, build(facts))
    return path


def build(facts: Facts) -> str:
    """The page as text."""
    from resnetlab.plots.style import counted
    from resnetlab.report import figures  # matplotlib takes its time to import

    config = facts.config
    length = counted(config.epochs, "epoch") if config.epochs else counted(config.steps or 0, "step")
    minutes = sum(row.get("train_seconds") or 0 for row in facts.rows) / 60
    machine = f" on {facts.environment['device_name']}" if "device_name" in facts.environment else ""
    took = f" {minutes:,.1f} minutes of training{machine}." if minutes else ""
    about = f"Recipe {config.recipe}, {length}, seed {config.seed}.{took} The run is {facts.state}."
    sections = {
        "scores": ("Scores", section("scores", "Scores", *(headline(facts) or [element("p", text("No scores yet."))]))),
        "learning": ("Learning", figures.learning(facts)),
        "classes": ("Classes", figures.classes(facts)),
        "calibration": ("Calibration", figures.calibration(facts)),
        "images": ("Images", figures.images(facts)),
        "inside": ("Inside", figures.inside(facts)),
        "origin": ("Origin", origin(facts)),
    }
    there = {anchor: (name, content) for anchor, (name, content) in sections.items() if content is not None}
    return document(
        facts.title,
        [content for _, content in there.values()],
        kicker=f"resnetlab report · {facts.run.path.resolve().name}",
        summary=Html(element("p", text(about)) + missing(facts.missing)),
        links=[(anchor, name) for anchor, (name, _) in there.items()],
        footer=text(f"Written by resnetlab {__version__} from the files of the run; it loads nothing from elsewhere."),
    )


def missing(sentences: list[str]) -> Html:
    """What is not there, or nothing."""
    if not sentences:
        return Html("")
    items = [element("li", marked(sentence)) for sentence in sentences]
    return element("aside", element("strong", text("What is missing")), element("ul", *items), class_="notes")
