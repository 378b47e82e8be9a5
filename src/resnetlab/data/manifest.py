"""Read a manifest: a table of image files with their classes and, if it has them, splits and groups."""

from __future__ import annotations

import csv
import io
import operator
import os
import posixpath
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from resnetlab.data.classes import quoted
from resnetlab.data.groups import named_groups
from resnetlab.data.shards import contents_in_shards
from resnetlab.data.words import splits_of
from resnetlab.errors import BadInput, printable
from resnetlab.files import read_regular

SUFFIXES = (".csv", ".tsv", ".parquet")

COLUMNS = {
    "file": ("file", "filename", "filepath", "path", "image", "imagepath", "imagefile", "imagename", "img", "imgpath"),
    "label": ("label", "labels", "class", "classname", "category", "target", "diagnosis", "species"),
    "split": ("split", "subset", "partition", "set"),
    "group": ("group", "groupid"),
}
"""Names of the columns, in any case, with any dashes and spaces. The first name comes before the others."""

_UTF8 = "save the table as CSV in UTF-8 (in Excel: CSV UTF-8)"
_NO_TEXT = "\0"
_ONE_TEXT = "give each row the path of an image file and one class, both as text; images inside the table are not read"
_FORMULA = re.compile(r"'+[=+\-@\t\r]")  # text that `resnetlab.runs.csv_files` marks as text for spreadsheets


@dataclass(frozen=True)
class Row:
    """One image of a manifest: its line, its file as a POSIX path relative to the root, and the other cells."""

    line: int
    file: str
    label: str
    split: str | None
    group: str | None


@dataclass(frozen=True)
class Manifest:
    """The rows of a manifest, one for each image, sorted by label and file; sentences about what was found.

    The files are relative to `root`.
    """

    root: Path
    rows: tuple[Row, ...]
    has_splits: bool
    has_groups: bool
    notes: tuple[str, ...]


def read_manifest(
    path: Path, root: Path | None = None, group_by: str | None = None, *, may_lack_files: bool = False
) -> Manifest:
    """Read a .csv, .tsv or .parquet file with the columns file, label and, if there are any, split and group.

    The files are relative to `root` (default: `root_of_table`), and must lie in it. `group_by` is another column for
    the groups, or a regular expression for the file. With `may_lack_files`, rows of missing files are left out.

    Raises BadInput, with numbers and the first line concerned, for missing files, empty cells,
    an image with two labels, and files outside the root.
    """
    header, rows = _rows(path, group_by)
    shown = printable(path)
    root = root_of_table(path, rows) if root is None else root
    rows = _normalised(shown, rows, root)
    rows, notes = _without_repetition(shown, rows)
    meant = splits_of(row.split for row in rows if row.split)
    rows = [replace(row, split=row.split and meant[row.split]) for row in rows]
    strange = [row for row in rows if row.split not in (None, "train", "val", "test")]
    _refuse(shown, rows, strange, "an unknown split", "split", advice="use train, val and test")
    gone = [row for row in rows if not os.path.isfile(root / row.file)]  # noqa: PTH113 - a Path's takes longer
    packed = contents_in_shards(str(root), [row.file for row in gone])
    gone = [row for row in gone if row.file not in packed]
    if may_lack_files:
        lost = {row.file for row in gone}
        rows, gone = [row for row in rows if row.file not in lost], []
        if not rows:
            raise BadInput(f"{shown}: none of its {len(lost):,} files is in {printable(root)}")
    _refuse(shown, rows, gone, f"a file that is not in {printable(root)}", "file", advice=_advice(gone, root))
    if group_by is not None and group_by not in header:
        groups = named_groups([row.file for row in rows], group_by, header)
        rows = [replace(row, group=groups[row.file]) for row in rows]
    has_groups = rows[0].group is not None
    if has_groups and group_by is None:
        notes.append(f"images of one group stay in one split: {len({row.group for row in rows}):,} groups")
    ordered = tuple(sorted(rows, key=lambda row: (row.label, row.file)))
    return Manifest(root, ordered, rows[0].split is not None, has_groups, tuple(notes))


def root_of_table(path: Path, rows: Sequence[Row] | None = None) -> Path:
    """Return the folder that the files of a table are relative to, if none is given: that of the table.

    Of a link to a table elsewhere, it is the folder of the link or, if no file is there, that of the table itself.
    `rows` are those of the table, if it has been read.
    """
    target = path.resolve().parent
    if not path.is_symlink() or target == path.parent.resolve():
        return path.parent
    try:
        rows = _rows(path)[1] if rows is None else rows
    except BadInput:  # reading the images gives the reason
        return path.parent
    return target if not _has_files(path, rows, path.parent) and _has_files(path, rows, target) else path.parent


def _has_files(path: Path, rows: Sequence[Row], root: Path) -> bool:
    """Return True if some files of a table are in a folder, and none of its rows leads out of it."""
    try:
        files = [row.file for row in _normalised(printable(path), rows, root)]
    except BadInput:
        return False
    return any(os.path.isfile(root / file) for file in files) or bool(contents_in_shards(str(root), files))  # noqa: PTH113


def _rows(path: Path, group_by: str | None = None) -> tuple[list[str], list[Row]]:
    """Return the header and the rows of a table, with the files as they are written there.

    Raises BadInput for a file that is no table of images, and for rows that are wrong wherever the files are.
    """
    header, cells = _table(path)
    shown = printable(path)
    column = {name: _column(shown, header, name) for name in COLUMNS}
    if missing := [name for name in ("file", "label") if column[name] is None]:
        raise BadInput(
            f"{shown} has no column named {' or '.join(missing)}; the first line must name the columns, such as "
            f"file,label or file,label,split,group; it has {quoted(header)}"
        )
    if group_by is not None:
        column["group"] = header.index(group_by) if group_by in header else None

    def value(row: Sequence[str], name: str) -> str | None:
        place = column[name]
        return None if place is None else row[place].strip()

    rows = []
    for line, row in cells:
        if len(row) != len(header):
            raise BadInput(f"{shown}, line {line}: {len(row)} cells, but the first line has {len(header)} columns")
        rows.append(
            Row(line, value(row, "file") or "", value(row, "label") or "", value(row, "split"), value(row, "group"))
        )
    if not rows:
        raise BadInput(f"{shown} lists no images")
    cells_of = operator.attrgetter("file", "label", "split", "group")
    nested = [row for row in rows if any(_NO_TEXT in (cell or "") for cell in cells_of(row))]
    _refuse(shown, rows, nested, "an image, a list or a structure in a cell", advice=_ONE_TEXT)
    if not any(row.split for row in rows):  # a column without a single value says nothing
        rows, column["split"] = [replace(row, split=None) for row in rows], None
    if not any(row.group for row in rows):
        rows, column["group"] = [replace(row, group=None) for row in rows], None
    for name in COLUMNS:
        empty = [row for row in rows if column[name] is not None and not getattr(row, name)]
        _refuse(shown, rows, empty, f"no {name}", advice="fill the cells in, or leave the rows out")
    other = [row for row in rows if _is_other_encoding(row)]
    _refuse(shown, rows, other, "text that is not UTF-8", "label", advice=_UTF8)
    return header, rows


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and each row with its line number; rows without any text are left out."""
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    try:
        content = read_regular(path)
    except OSError as error:
        raise BadInput(f"could not read {printable(path)}: {error.strerror or error}") from error
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        # a file name on Linux need not be UTF-8, but a table in which little is text is no table
        text = content.decode(encoding, "strict" if encoding == "utf-16" else "surrogateescape")
    except UnicodeDecodeError as error:
        raise BadInput(f"{printable(path)} is not text; save it as UTF-8") from error
    if "\0" in text:
        raise BadInput(f"{printable(path)} is not a table of text; save it as CSV in UTF-8")
    first = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    told = re.fullmatch(r"sep=([,;\t|])", first)  # a line for Excel
    delimiter = told[1] if told else "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
        found = [(reader.line_num, [_text(cell) for cell in row]) for row in reader]
    except csv.Error as error:
        raise BadInput(f"{printable(path)} is not a table in CSV: {error}") from error
    filled = [(line, row) for line, row in found if any(map(str.strip, row))]
    (_, header), *rows = filled[1 if told else 0 :] or [(0, [])]
    return [cell.strip() for cell in header], rows


def _text(cell: str) -> str:
    return cell[1:] if _FORMULA.match(cell) else cell


def _parquet(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        import pandas
    except ImportError as error:
        raise BadInput(
            f"{printable(path)} needs pandas and pyarrow (pip install pandas pyarrow), or use CSV"
        ) from error
    try:
        table = pandas.read_parquet(path)
    except Exception as error:  # pyarrow is missing, or the file is damaged
        raise BadInput(f"{printable(path)} cannot be read as Parquet: {printable(error)[:200]}") from error
    if any(table.index.names):
        table = table.reset_index()
    columns = [[_plain(value) for value in table[name]] for name in table.columns]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return [str(name).strip() for name in table.columns], list(enumerate(rows, start=1))


def _plain(value: object) -> str:
    """Return a cell as text; a whole number that an empty cell in its column made a float is whole again.

    `_NO_TEXT` stands for bytes that are no text, and for lists and structures, such as an image with its name.
    """
    import pandas

    if isinstance(value, bytes):
        return value.decode(errors="replace").replace("\N{REPLACEMENT CHARACTER}", _NO_TEXT)
    if not pandas.api.types.is_scalar(value):
        return _NO_TEXT
    if pandas.isna(value):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _column(shown: str, header: Sequence[str], name: str) -> int | None:
    """Return the place of a column; None if there is none. Raises BadInput if two columns may be meant."""
    plain = [re.sub(r"[\W_]+", "", title).casefold() for title in header]
    places = [place for place, title in enumerate(plain) if title == name]
    places = places or [place for place, title in enumerate(plain) if title in COLUMNS[name]]
    if len(places) > 1:
        titles = quoted(header[place] for place in places)
        raise BadInput(f"{shown}: each of the columns {titles} may be the {name}; name one of them {name!r}")
    return places[0] if places else None


def _refuse(
    shown: str, rows: Sequence[Row], wrong: Sequence[Row], what: str, cell: str | None = None, *, advice: str
) -> None:
    """Raise BadInput, with their number and the first one, if some rows are wrong."""
    if not wrong:
        return
    have = "has" if len(wrong) == 1 else "have"
    detail = "" if cell is None else f": {printable(getattr(wrong[0], cell))[:200]!r}"
    raise BadInput(
        f"{shown}: {len(wrong):,} of {len(rows):,} rows {have} {what}, first in line {wrong[0].line}{detail}; {advice}"
    )


def _normalised(shown: str, rows: Sequence[Row], root: Path) -> list[Row]:
    """Make the files relative to the root. Raises BadInput for files outside it."""
    base = root.resolve().as_posix()
    found, outside = [], []
    for row in rows:
        file = row.file
        if "\\" in file and not os.path.exists(root / file):  # noqa: PTH110 - Path's raises for long names
            file = file.replace("\\", "/")  # written on Windows
        file = posixpath.normpath(file)
        if file.startswith("/") and not file.startswith(f"{base}/"):  # its folder may be a link into the root
            file = posixpath.join(os.path.realpath(posixpath.dirname(file)), posixpath.basename(file))
        file = _as_on_disk(root, file.removeprefix(f"{base}/"))
        found.append(replace(row, file=file))
        if file.startswith(("/", "../")) or file in ("..", ".") or re.match("[A-Za-z]:/", file):
            outside.append(found[-1])
    advice = "give the folder that holds all of them with `root='FOLDER'`"
    _refuse(shown, found, outside, f"a file outside {printable(root)}", "file", advice=advice)
    return found


def _as_on_disk(root: Path, file: str) -> str:
    """Return a file in the Unicode form of its name on disk: macOS writes "é" as two characters, most others as one."""
    if file.isascii() or os.path.exists(root / file):  # noqa: PTH110 - Path's raises for long names
        return file
    forms = (unicodedata.normalize("NFC", file), unicodedata.normalize("NFD", file))
    return next((form for form in forms if os.path.isfile(root / form)), file)  # noqa: PTH113


def _is_other_encoding(row: Row) -> bool:
    """Return True for text that is not UTF-8, unless the name of the file is not either: so it may be on disk."""
    return any(map(_has_bytes, (row.label, row.split, row.group))) and not _has_bytes(row.file)


def _has_bytes(text: str | None) -> bool:
    """Return True for text in which bytes that are not UTF-8 were kept (`surrogateescape`)."""
    return any("\udc80" <= character <= "\udcff" for character in text or "")


def _without_repetition(shown: str, rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Keep one of several equal rows. Raises BadInput for an image with two labels, splits or groups."""
    first: dict[str, Row] = {}
    for row in rows:
        before = first.setdefault(row.file, row)
        for name in ("label", "split", "group"):
            if getattr(before, name) != getattr(row, name):
                count = sum(len(values) > 1 for values in _values(rows, name).values())
                raise BadInput(
                    f"{shown}: {count:,} {'image has' if count == 1 else 'images have'} two {name}s, first "
                    f"{printable(row.file)!r}: {printable(getattr(before, name))!r} in line {before.line}, "
                    f"{printable(getattr(row, name))!r} in line {row.line}; keep one of them"
                )
    repeated = len(rows) - len(first)
    rest = "row repeats another and is" if repeated == 1 else "rows repeat others and are"
    return list(first.values()), [f"{repeated:,} {rest} left out"] if repeated else []


def _values(rows: Sequence[Row], name: str) -> dict[str, set[str]]:
    values: dict[str, set[str]] = {}
    for row in rows:
        values.setdefault(row.file, set()).add(getattr(row, name))
    return values


def _advice(gone: Sequence[Row], root: Path) -> str:
    if gone and (there := _spelled_otherwise(root, gone[0].file)):
        return f"there is {printable(there)!r}: write the names as they are, also in case and Unicode form"
    if any(_has_bytes(row.file) for row in gone):
        return f"it is not UTF-8: {_UTF8}"
    if gone and not any(posixpath.splitext(row.file)[1] for row in gone):
        return "the file names need their suffix, such as .jpg"
    return (
        "correct the paths, put the table into the folder that they are relative to, or give that folder with "
        "`root='FOLDER'`"
    )


def _spelled_otherwise(root: Path, file: str) -> str | None:
    """Return the file whose name differs only in case or Unicode form; None if there is none."""
    found = ""
    for part in file.split("/"):
        try:
            names = sorted(os.listdir(root / found))  # noqa: PTH208 - names, not paths
        except (OSError, ValueError):
            return None
        wanted = _plain_name(part)
        same = part if part in names else next((name for name in names if _plain_name(name) == wanted), None)
        if same is None:
            return None
        found = posixpath.join(found, same)
    return found if (root / found).is_file() else None


def _plain_name(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
