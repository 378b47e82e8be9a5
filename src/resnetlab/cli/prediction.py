"""The command `predict`: results on the terminal, in a pipe or in files, one batch at a time."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from resnetlab.cli.arguments import PredictArguments
from resnetlab.cli.config_file import json_text
from resnetlab.cli.console import Console, ImagesPerSecond
from resnetlab.cli.signals import stop_on_signals
from resnetlab.cli.tables import escaped, make_table, output, percent
from resnetlab.data.classes import counted
from resnetlab.data.image_paths import ImagePaths, find_images, read_paths
from resnetlab.errors import BadInput, Stopped, printable
from resnetlab.inference.predict import Classifier, load
from resnetlab.inference.predict_files import FilePrediction, FileResult, NotingReader, UnreadFile, predict_files
from resnetlab.runs.contact_sheet import ContactSheet
from resnetlab.runs.log import LOGGER
from resnetlab.runs.prediction_table import Columns, PredictionTable, origin_of
from resnetlab.runs.sorted_images import SortedImages, rejected_name
from resnetlab.runs.stop import StopRequest

TOP_K = 3
ROWS = 256  # rows of a table that are held back, so that its columns can be aligned


class Output(Protocol):
    """A place that results are written to."""

    def write(self, results: Sequence[FileResult]) -> None: ...


def predict(given: PredictArguments) -> None:
    """Predict the images that the arguments name. Raises Stopped after a signal."""
    with Console(stderr=True) as console, stop_on_signals() as stop:
        images = InputImages(given)
        classifier = load(given.model, given.device, given.precision)
        threshold = None if given.reject is None else classifier.model.rejection(given.reject).threshold
        top_k, origin = number_of_classes(given, classifier), origin_of(classifier, threshold)
        outputs: list[Output] = []
        sheet = ContactSheet(classifier.classes, classifier.model.preprocessing)
        if given.save_figure is not None:
            outputs.append(sheet)
        if given.sort_into is not None:  # before the table: what the table has is done
            outputs.append(SortedImages(given.sort_into, classifier.classes, origin, copy=given.copy_))
        names: Iterable[str] = images
        table: PredictionTable | None = None
        with contextlib.ExitStack() as opened:
            if given.csv is not None:
                columns = Columns(classifier.classes, top_k, given.all_probabilities, threshold is not None)
                facts = origin | {"sort_into": given.sort_into and str(given.sort_into.absolute())}
                table = opened.enter_context(PredictionTable.open(given.csv, columns, facts, resume=given.resume))
                outputs.append(table)
                names = table.remaining(iter(images))
            else:
                outputs.append(opened.enter_context(printer(given, classifier.classes, top_k, console)))
            session = Session(given, stop, console, images, outputs, table)
            read = NotingReader(classifier.model.preprocessing)
            session.run(predict_files(classifier, names, threshold, read))
            console.hide_bar()
        session.report(sheet, read.lost.notes())


def number_of_classes(given: PredictArguments, classifier: Classifier) -> int:
    """Return the number of classes to list for each image. Raises BadInput if the model has fewer."""
    most = len(classifier.classes)
    if given.top_k is None:
        every = most if given.csv is None else 1  # a table has columns of its own for every class
        return every if given.all_probabilities else min(TOP_K if given.csv is None else 1, most)
    if not 1 <= given.top_k <= most:
        raise BadInput(f"--top-k is {given.top_k}, but must be 1 to {most}, the number of the model's classes")
    return given.top_k


class InputImages:
    """The images that the arguments name, in their order; those on stdin are read while they arrive.

    `total` is their number, or None if the list on stdin comes from a pipe. A folder in a list counts as one image
    until it is its turn.
    """

    def __init__(self, given: PredictArguments) -> None:
        """Find the images. Raises BadInput for a missing file, unless bad images are skipped, and for a bad folder."""
        self.given = given
        self.found: list[ImagePaths | None] = []
        self.total: int | None = 0
        for path in given.paths:
            if path == "-":
                self.found.append(None)
                number = length_of_list(sys.stdin.buffer, self.separator)
            else:
                found = self.find(path)
                if given.bad_images == "error" and found.files == (path,) and not os.path.lexists(path):
                    raise BadInput(f"file or folder not found: {printable(path)}")
                self.found.append(found)
                number = len(found.files)
            self.total = None if self.total is None or number is None else self.total + number

    @property
    def separator(self) -> bytes:
        return b"\0" if self.given.null else b"\n"

    def find(self, path: str, *, is_pattern_allowed: bool = True) -> ImagePaths:
        """Find the images of a path, and refuse output that would lie among them."""
        found = find_images(path, is_pattern_allowed=is_pattern_allowed)
        require_outside("--sort-into", self.given.sort_into, found.folders)
        require_outside("--save-figure", self.given.save_figure, found.folders)
        figure = self.given.save_figure
        if (
            figure is not None
            and figure.exists()
            and figure.resolve() in (Path(file).resolve() for file in found.files)
        ):
            raise BadInput(f"--save-figure is {printable(figure)}, which is one of the images; give another name")
        return found

    def __iter__(self) -> Iterator[str]:
        for part in self.found:
            for found in self.listed() if part is None else [part]:
                for note in found.notes:
                    LOGGER.info("%s", printable(note))
                yield from found.files

    def listed(self) -> Iterator[ImagePaths]:
        """Yield the images of each path in the list on stdin."""
        for path in read_paths(sys.stdin.buffer, separator=self.separator):
            try:
                found = self.find(path, is_pattern_allowed=False)
            except BadInput as error:  # a folder without images
                if self.given.bad_images == "error":
                    raise
                LOGGER.warning("skipped: %s", printable(error))
                found = ImagePaths(())
            if self.total is not None:  # it counts the paths, and each may be a folder
                self.total += len(found.files) - 1
            yield found


def length_of_list(stream: BinaryIO, separator: bytes) -> int | None:
    """Count the paths of a list in a file; None for a pipe, which can be read only once."""
    if not stream.seekable():
        return None
    start = stream.tell()
    count = sum(1 for _ in read_paths(stream, separator=separator))
    stream.seek(start)
    return count


def require_outside(option: str, out: Path | None, folders: Sequence[Path]) -> None:
    """Raise BadInput for output inside a folder of images, where it would be among the images the next time."""
    if out is None:
        return
    inside = out.resolve()
    for folder in folders:
        if folder.resolve() in (inside, *inside.parents):
            raise BadInput(
                f"{option} is {printable(out)}, which lies in {printable(folder)}, a folder of images to predict; give "
                "a place outside of it"
            )


@dataclass
class Session:
    """One run of the command: writes results to all outputs, and counts them."""

    given: PredictArguments
    stop: StopRequest
    console: Console
    images: InputImages
    outputs: Sequence[Output]
    table: PredictionTable | None
    predicted: int = 0
    rejected: int = 0
    unread: int = 0
    started: float = field(default_factory=time.monotonic)

    def run(self, batches: Iterator[list[FileResult]]) -> None:
        """Write every batch. Raises BadInput for a file that cannot be read, unless it is skipped, and Stopped."""
        try:
            self.show_progress()
            for batch in batches:
                self.write(batch)
                self.show_progress()
                if self.stop.reason:
                    raise self.stopped(f"stopped by {self.stop.reason}")
        except KeyboardInterrupt as error:
            raise self.stopped(str(error) or "interrupted") from error

    def write(self, batch: Sequence[FileResult]) -> None:
        """Write a batch; if bad images are errors, up to the first of them. A signal waits until it is written."""
        bad = next((i for i, result in enumerate(batch) if isinstance(result, UnreadFile)), len(batch))
        if self.given.bad_images == "error":
            written = batch[:bad]
        else:
            written, bad = batch, len(batch)
        with self.stop.watched():
            for destination in self.outputs:
                destination.write(written)
        for result in written:
            if isinstance(result, UnreadFile):
                self.unread += 1
                LOGGER.warning("skipped: %s", printable(result.reason))
            else:
                self.predicted += 1
                self.rejected += bool(result.is_rejected)
        if bad < len(batch):
            first = batch[bad]
            reason = first.reason if isinstance(first, UnreadFile) else ""
            raise BadInput(f"{reason}; repair or remove it, or skip bad images with --bad-images skip")

    def show_progress(self) -> None:
        if self.given.csv is not None or not sys.stdout.isatty():  # else the results themselves are seen
            total = self.images.total
            remaining = None if total is None else max(0, total - self.had)
            self.console.show_bar("predicting", self.predicted + self.unread, remaining, ImagesPerSecond())

    def stopped(self, reason: str) -> Stopped:
        """Return the error for a command that was asked to stop."""
        total = "" if self.images.total is None else f" of {self.images.total:,}"
        hint = "" if self.given.csv is None else "; the same command with --resume continues the table"
        return Stopped(f"{reason} after {self.had + self.predicted + self.unread:,}{total} images{hint}")

    @property
    def had(self) -> int:
        """The number of predictions that the table had before."""
        return 0 if self.table is None else self.table.had

    def report(self, sheet: ContactSheet, notes: Sequence[str]) -> None:
        """Print the notes and what was done, and save the figure.

        Raises BadInput if there were no images, or none could be read.
        """
        if not self.predicted and not self.had:
            if self.unread:
                raise BadInput(f"none of the {counted(self.unread, 'image')} could be read")
            raise BadInput("there are no images to predict: the list on stdin is empty")
        say = self.console.print
        for note in notes:
            LOGGER.warning("%s", note)
        if self.unread:
            say(
                f"{counted(self.unread, 'file')} could not be read, and {'was' if self.unread == 1 else 'were'} skipped"
            )
        if self.given.reject is not None:
            say(f"{self.rejected:,} of {counted(self.predicted, 'image')} rejected at a risk of {self.given.reject:g}")
        if self.table is not None:
            seconds = time.monotonic() - self.started
            before = f"; it had {self.had:,} already" if self.had else ""
            say(
                f"{counted(self.predicted, 'prediction')} written to {self.table.path} in {seconds:.1f} s "
                f"({self.predicted / max(seconds, 1e-9):,.0f} images/s){before}"
            )
        if self.given.sort_into is not None:
            say(f"the sorted images are in {self.given.sort_into}")
        if self.given.save_figure is not None and self.predicted:
            which = f"{sheet.save(self.given.save_figure)}{' that are new in the table' if self.had else ''}"
            say(f"the figure is {self.given.save_figure} ({which})")


@contextlib.contextmanager
def printer(given: PredictArguments, classes: Sequence[str], top_k: int, console: Console) -> Iterator[Output]:
    """Yield the output on stdout: JSON, a table on a terminal, or lines."""
    if given.json_ or given.jsonl:
        printed: JsonList | JsonLines | Table | Lines = (JsonList if given.json_ else JsonLines)(classes, top_k)
    elif sys.stdout.isatty():
        printed = Table(classes, top_k, console.hide_bar)
    else:
        printed = Lines(classes, top_k)
    try:
        yield printed
    finally:
        printed.close()


@dataclass
class Lines:
    """Prints a line for each prediction: file, answer, probability, and further classes, separated by tabs."""

    classes: Sequence[str]
    top_k: int

    def write(self, results: Sequence[FileResult]) -> None:
        for result in results:
            if isinstance(result, FilePrediction):
                answer, further = answers(result, self.classes, self.top_k)
                fields = [result.file, answer, f"{result.probability:.6f}"]
                for name, share in further:
                    fields += [name, f"{share:.6f}"]
                print("\t".join(map(printable, fields)))
        sys.stdout.flush()

    def close(self) -> None:
        """There is nothing to finish."""


@dataclass
class Table:
    """Prints tables of up to 256 rows, and hides the bar before."""

    classes: Sequence[str]
    top_k: int
    hide_bar: Callable[[], None]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def write(self, results: Sequence[FileResult]) -> None:
        for result in results:
            if isinstance(result, FilePrediction):
                answer, further = answers(result, self.classes, self.top_k)
                then = ", ".join(f"{name} {percent(share)}" for name, share in further)
                self.rows.append((result.file, answer, percent(result.probability), then))
        if len(self.rows) >= ROWS:
            self.close()

    def close(self) -> None:
        """Print the rows that were held back."""
        if not self.rows:
            return
        heading = ("file", "predicted", "probability", *(["then"] if self.top_k > 1 else []))
        table = make_table(*heading, words=("file", "predicted", "then"))
        for row in self.rows:
            table.add_row(*map(escaped, row[: len(heading)]))
        self.hide_bar()
        output().print(table)
        self.rows.clear()


@dataclass
class JsonList:
    """Prints one JSON list, an entry for each file."""

    classes: Sequence[str]
    top_k: int
    is_begun: bool = False

    def write(self, results: Sequence[FileResult]) -> None:
        for result in results:
            text = json_text(to_json(result, self.classes, self.top_k)).replace("\n", "\n  ")
            print(("," if self.is_begun else "[") + "\n  " + text, end="")
            self.is_begun = True
        sys.stdout.flush()

    def close(self) -> None:
        """End the list, so that it is valid even if the command was stopped."""
        if self.is_begun:
            print("\n]")


@dataclass
class JsonLines:
    """Prints one JSON object a line, for each file."""

    classes: Sequence[str]
    top_k: int

    def write(self, results: Sequence[FileResult]) -> None:
        for result in results:
            print(json.dumps(to_json(result, self.classes, self.top_k)))
        sys.stdout.flush()

    def close(self) -> None:
        """There is nothing to finish."""


def answers(result: FilePrediction, classes: Sequence[str], top_k: int) -> tuple[str, list[tuple[str, float]]]:
    """Return the answer, and the further classes with their probabilities; the nearest one too if it was rejected."""
    top = [(classes[i], float(result.probabilities[i])) for i in result.order[:top_k].tolist()]
    return (rejected_name(classes), top) if result.is_rejected else (top[0][0], top[1:])


def to_json(result: FileResult, classes: Sequence[str], top_k: int) -> dict[str, Any]:
    """Return a result as JSON types: the prediction, or the error."""
    if isinstance(result, UnreadFile):
        return {"file": result.file, "error": result.reason}
    found: dict[str, Any] = {
        "file": result.file,
        "predicted": classes[result.predicted],
        "probability": result.probability,
    }
    if result.is_rejected is not None:
        found["rejected"] = result.is_rejected
    top = result.order[:top_k].tolist()
    return found | {"top": [{"name": classes[i], "probability": float(result.probabilities[i])} for i in top]}
