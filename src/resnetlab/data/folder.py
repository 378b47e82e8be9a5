"""List the images of a folder or a manifest by split and class, without opening an image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from resnetlab.data import DATASETS, SPLITS
from resnetlab.data.classes import ClassChoice, alike, counted, notes_on_alike, quoted, require_two, shortened
from resnetlab.data.groups import named_groups
from resnetlab.data.manifest import SUFFIXES as TABLES
from resnetlab.data.manifest import read_manifest
from resnetlab.data.named import find_named
from resnetlab.data.shard_list import find_in_shards, is_shards, name_of_shards
from resnetlab.data.shards import SUFFIX
from resnetlab.data.sources import is_named
from resnetlab.data.tree import PICTURES, SUFFIXES, Folder, Skipped, sentences, skipped_in, walk
from resnetlab.data.words import is_filler, part_of, split_of
from resnetlab.errors import BadInput, printable
from resnetlab.files import open_regular

__all__ = ["SUFFIXES", "Files", "Found", "Listing", "find", "scan"]

WHOLE = "all"
"""The part of images that are in no split."""

_HELP = "put the images of each class into a sub-folder named after it: FOLDER/cat/1.jpg, or FOLDER/train/cat/1.jpg"


@dataclass(frozen=True, eq=False)
class Files:
    """Images by name: POSIX paths relative to the root, by class and then by name; labels int64 (N,).

    `groups` (N) are the names of what several images show, such as a patient; None if there are none.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    groups: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: np.ndarray) -> Files:
        """Copy the files at `indices`, in that order."""
        chosen = indices.tolist()
        groups = None if self.groups is None else tuple(self.groups[i] for i in chosen)
        return Files(tuple(self.names[i] for i in chosen), self.labels[indices], groups)


@dataclass(frozen=True, eq=False)
class Listing:
    """The classes and files of a folder. Without a train split all images are in `train`, and the others are None.

    `layout` is "classes", or the splits that have a folder of their own, such as "train/test". `skipped` are the files
    and folders that are not data. `notes` are sentences for the log, also about `skipped`.
    """

    root: Path
    layout: str
    classes: tuple[str, ...]
    train: Files
    val: Files | None
    test: Files | None
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    name: str = ""

    def __len__(self) -> int:
        return sum(len(files) for files in (self.train, self.val, self.test) if files is not None)


@dataclass(frozen=True, eq=False)
class Found:
    """The images of a folder or manifest as they are, before anything is required of them.

    `parts` maps each split, or `WHOLE`, to its classes, and each class to its files. `shown` are the names of the parts
    in messages. `groups` maps a file to its group, where a manifest names groups.
    """

    root: Path
    parts: Mapping[str, Mapping[str, Sequence[str]]]
    shown: Mapping[str, str]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    groups: Mapping[str, str] | None = None
    name: str = ""

    def class_names(self) -> list[str]:
        """Return the names of the classes of all parts, sorted."""
        return sorted({name for classes in self.parts.values() for name in classes})

    def files(self, part: str, names: Mapping[str, str], classes: Sequence[str]) -> Files:
        """Return the files of a part; `names` maps the classes that are used to their names among `classes`."""
        files: list[str] = []
        labels: list[int] = []
        for name, inside in self.parts[part].items():
            if name in names:
                files += inside
                labels += [classes.index(names[name])] * len(inside)
        order = sorted(range(len(files)), key=labels.__getitem__)  # the files of merged classes come one after another
        chosen = tuple(files[i] for i in order)
        groups = None if self.groups is None else tuple(self.groups[name] for name in chosen)
        return Files(chosen, np.asarray(labels, dtype=np.int64)[order], groups)


def scan(
    source: str | Path,
    choice: ClassChoice | None = None,
    *,
    group_by: str | None = None,
    root: str | Path | None = None,
    may_download: bool = True,
) -> Listing:
    """List the classes and image files of a folder, a manifest, shards, or a named set of image files, to train on.

    A folder has sub-folders for classes, or for splits with sub-folders for classes, under their usual names in any
    spelling (train, Training, test_set, valid, …); it may be wrapped in other folders. Sub-folders of a class belong to
    it. The result does not depend on the order in which the file system lists files.

    A manifest is a .csv, .tsv or .parquet file (see `resnetlab.data.manifest`), whose files are relative to `root`
    (default: its folder). Shards are tar files (see `resnetlab.data.shards`), given by their folder or by a pattern,
    such as `shards/{000..099}.tar`. `group_by` names the groups of images: a regular expression, or a column of the
    manifest. For a named set, `root` is its folder and `may_download` allows to download it (see
    `resnetlab.data.named`).

    Raises BadInput, with advice, if the images cannot be trained on.
    """
    choice = choice or ClassChoice()
    found = find(source, choice, group_by=group_by, root=root, may_download=may_download)
    main = "train" if "train" in found.parts else WHOLE
    if main not in found.parts:
        given = ", ".join(found.shown[part] for part in found.parts)
        raise BadInput(f"{printable(found.root)} has {given}, but no folder named train to learn from; add one")
    names = choice.names_of(found.class_names()) if found.class_names() else {}
    classes = choice.ordered(names[name] for name in found.parts[main] if name in names)
    for part in found.parts:
        _require_images(found, part, names)
        there = choice.ordered(names[name] for name in found.parts[part] if name in names)
        if there != classes:
            raise BadInput(_difference(found, main, classes, part, there))
    require_two(classes, printable(found.root / found.shown[main]))
    files = {part: found.files(part, names, classes) for part in found.parts}
    layout = "classes" if main == WHOLE else "/".join(files)
    notes = (*found.notes, *choice.notes(found.class_names()), *notes_on_alike(classes), *sentences(found.skipped))
    if main == WHOLE and not choice.only and Path(source).is_dir():
        notes += _notes_on_names_of_splits(classes)
    return Listing(
        found.root, layout, classes, files[main], files.get("val"), files.get("test"), found.skipped, notes, found.name
    )


def find(
    source: str | Path,
    choice: ClassChoice | None = None,
    *,
    group_by: str | None = None,
    root: str | Path | None = None,
    may_lack_files: bool = False,
    may_download: bool = True,
) -> Found:
    """Find the images of a folder, manifest or named set by split and class, whatever is missing.

    The arguments are `scan`'s.

    With `may_lack_files`, a manifest may list files that do not exist; they are left out.

    Raises BadInput if it does not exist, or if its layout is ambiguous; names in `choice` can settle that.
    """
    path, choice = Path(source), choice or ClassChoice()
    if is_named(os.fspath(source)):
        return _grouped(_in_named(os.fspath(source), root, may_download), group_by)
    if is_shards(source):
        return _grouped(_in_shards(source), group_by)
    if path.suffix.lower() in TABLES and not path.is_dir():
        return _in_manifest(path, None if root is None else Path(root), group_by, may_lack_files)
    if not path.exists():
        raise BadInput(f"folder not found: {printable(path)}; give a folder of images, or one of {', '.join(DATASETS)}")
    if not path.is_dir():
        tables = ", ".join(TABLES)
        kind = "a file" if path.is_file() else "a pipe, a device or a socket"
        raise BadInput(f"{printable(path)} is {kind}; a folder is needed, or a {tables} file with file,label: {_HELP}")
    return _grouped(replace(_in_folder(path, choice), name=path.resolve().name), group_by)


def _grouped(found: Found, group_by: str | None) -> Found:
    """Give every image the group that a regular expression finds in its name."""
    if group_by is None:
        return found
    names = [name for classes in found.parts.values() for files in classes.values() for name in files]
    return replace(found, groups=named_groups(names, group_by))


def _in_named(name: str, root: str | Path | None, may_download: bool) -> Found:
    """Find the files of a named data set; its images without a published split are in no split."""
    found = find_named(name, root=root, may_download=may_download)
    parts = found.parts if len(found.parts) > 1 else {WHOLE: found.parts["train"]}
    return Found(found.root, parts, {part: part for part in parts}, (), found.notes, None, name)


def _in_shards(source: str | Path) -> Found:
    """Find the images in shards."""
    root, found, notes = find_in_shards(source)
    parts = {
        part: found[split] for split, part in (*((part, part) for part in SPLITS), (None, WHOLE)) if split in found
    }
    shown = {part: "" if part == WHOLE else f"*{part}*{SUFFIX}" for part in parts}
    return Found(root, parts, shown, (), notes, None, name_of_shards(source))


def _in_manifest(path: Path, root: Path | None, group_by: str | None, may_lack_files: bool) -> Found:
    """Find the images that a manifest lists."""
    open_regular(path).close()  # names a pipe as such, and a file that does not exist
    if root is not None and not root.is_dir():
        raise BadInput(f"folder not found: {printable(root)}")
    manifest = read_manifest(path, root, group_by, may_lack_files=may_lack_files)
    parts: dict[str, dict[str, list[str]]] = {part: {} for part in (SPLITS if manifest.has_splits else (WHOLE,))}
    for row in manifest.rows:
        parts[row.split or WHOLE].setdefault(row.label, []).append(row.file)
    groups = {row.file: row.group or "" for row in manifest.rows} if manifest.has_groups else None
    filled = {part: classes for part, classes in parts.items() if classes}
    shown = {part: "" if part == WHOLE else part for part in filled}
    return Found(manifest.root, filled, shown, (), manifest.notes, groups, path.stem)


def _in_folder(root: Path, choice: ClassChoice) -> Found:
    """Find the images in the folders of splits or classes."""
    skipped: list[Skipped] = []
    top = _unwrapped(walk(root), skipped)
    are_classes = choice.names_any_of(top.folders)
    splits = {} if are_classes else _split_folders(root, top)
    if not splits:
        if not are_classes:
            _require_classes(root, top)
        return Found(root, {WHOLE: _classes(top, skipped)}, {WHOLE: top.path}, tuple(skipped), _whereabouts(top, {}))
    parts, named = {}, {}
    if top.images:
        skipped.append(Skipped("loose", "", top.path, len(top.images)))
    skipped += skipped_in(top.path, top.skipped)
    for part in SPLITS:
        if part in splits:
            parts[part] = _classes(_unwrapped(splits[part], skipped, is_split=True), skipped)
            named[part] = splits[part].path
    for folder in top.folders.values():
        if folder not in splits.values():
            beside = Skipped("beside", folder.name, top.path, folder.below)
            skipped += [beside] if folder.below else folder.all_skipped()
    return Found(root, parts, named, tuple(skipped), _whereabouts(top, splits))


def _unwrapped(folder: Folder, skipped: list[Skipped], *, is_split: bool = False) -> Folder:
    """Return the folder in which the classes or splits are: this one, or one that alone has images in this one.

    What is beside it is added to `skipped`.
    """
    while len(folder.filled) == 1:
        (inner,) = folder.filled
        has_splits = "train" in _named_parts(inner.filled)
        is_alone = len(folder.folders) == 1 or is_filler(inner.name)
        if not is_split and _named_parts([inner]):  # the only split
            break
        if not inner.filled or not (has_splits or (is_alone and not inner.images)):
            break
        if folder.images:
            skipped.append(Skipped("loose", "", folder.path, len(folder.images)))
        skipped += skipped_in(folder.path, folder.skipped)
        skipped += [item for beside in folder.folders.values() if beside is not inner for item in beside.all_skipped()]
        folder = inner
    return folder


def _classes(folder: Folder, skipped: list[Skipped]) -> dict[str, list[str]]:
    """Return the files of each class, for the sub-folders of a folder, and add what is not data to `skipped`."""
    if folder.images:
        skipped.append(Skipped("loose", "", folder.path, len(folder.images)))
    skipped += skipped_in(folder.path, folder.skipped)
    for inner in folder.folders.values():
        skipped += inner.all_skipped()
    return {name: inner.files() for name, inner in folder.folders.items()}


def _named_parts(folders: Iterable[Folder], rest: tuple[str, ...] = ()) -> dict[str, list[Folder]]:
    """Map each split to the folders with its name, which has the same other words in all of them."""
    parts: dict[str, list[Folder]] = {}
    for folder in folders:
        found = part_of(folder.name)
        if found is not None and found[1] == rest:
            parts.setdefault(found[0], []).append(folder)
    if "eval" in parts:
        parts.setdefault("test" if "val" in parts and "test" not in parts else "val", []).extend(parts.pop("eval"))
    return parts


def _split_folders(root: Path, top: Folder) -> dict[str, Folder]:
    """Map split to folder; empty if the folders are classes (a class may be called "train")."""
    for rest in _other_words(top):
        parts = _named_parts(top.folders.values(), rest)
        folders = [folder for named in parts.values() for folder in named]
        is_train_filled = any(folder.filled for folder in parts.get("train", ()))
        if is_train_filled or (not rest and parts and len(folders) == len(top.folders)):
            break
    else:
        return {}
    chosen: dict[str, Folder] = {}
    for part, named in parts.items():
        filled = [folder for folder in named if folder.below] or named
        if len(filled) > 1:
            both = " and ".join(printable(folder.name) for folder in filled)
            raise BadInput(f"{printable(root / top.path)} has both {both}; which one is {part}? Keep one")
        chosen[part] = filled[0]
    others = [folder for folder in top.filled if folder not in folders]
    if len(chosen) == 1 and any(folder.images and not folder.filled for folder in others):
        names = quoted(folder.name for folder in others)
        raise BadInput(
            f"{printable(root / top.path)} has {printable(chosen['train'].name)} with sub-folders, and {names} with "
            "images: are they all classes? Then name them, such as `classes=['A', 'B']`; else move the others away"
        )
    similar = [folder.name for folder in others if "train" in chosen and _has_classes_of(folder, chosen["train"])]
    if similar and len(chosen) == 1:
        raise BadInput(
            f"{printable(root / top.path)} has {printable(chosen['train'].name)}, and {quoted(similar)} with the same "
            "sub-folders: rename those that are splits to val and test, and move the others away"
        )
    return chosen


def _has_classes_of(folder: Folder, train: Folder) -> bool:
    """Return True if at least half of the classes in either folder are in the other, too."""
    names, classes = ({inner.name.casefold() for inner in part.filled} for part in (folder, train))
    return len(names & classes) * 2 >= max(len(names), len(classes))


def _other_words(top: Folder) -> list[tuple[str, ...]]:
    """Return the other words in the names of splits, such as "seg" of seg_train and seg_test; no words first."""
    found = {part[1]: None for folder in top.folders.values() if (part := part_of(folder.name))}
    several = [rest for rest in found if rest and len(_named_parts(top.folders.values(), rest)) > 1]
    return [(), *several]


def _require_classes(root: Path, top: Folder) -> None:
    """Raise BadInput if the sub-folders look like splits, or like parts of classes, and not like classes."""
    shown, override = printable(root / top.path), "; if they are the classes, name them with `classes=['A', 'B']`"
    for rest in _other_words(top)[1:]:
        names = [folder.name for named in _named_parts(top.folders.values(), rest).values() for folder in named]
        raise BadInput(
            f"{shown} has {quoted(names)}, which look like the splits of class {' '.join(rest)!r}; {_HELP}{override}"
        )
    for folder in top.filled:
        train = _named_parts(folder.filled).get("train", ())
        if not folder.images and any(part.filled for part in train):
            splits = quoted([part.name for part in folder.filled])
            others = quoted([other.name for other in top.filled if other is not folder])
            raise BadInput(
                f"{shown} has {printable(folder.name)} with the splits {splits}, beside {others}: give the folder of "
                f"the splits, {printable(root / folder.path)}{override}"
            )
    inside = [{name.casefold() for name, below in folder.folders.items() if below.below} for folder in top.filled]
    if len(inside) < 2 or any(10 * len(folder.images) > folder.below for folder in top.filled):
        return
    common, union = set.intersection(*inside), set.union(*inside)
    if len(common) < 2 or len(common) * 2 < len(union):
        return
    folders = shortened([folder.name for folder in top.filled], 5)
    seen = f"the folders {folders} in {shown} have the same sub-folders ({shortened(sorted(common), 5)})"
    if all(part_of(name) for name in common):
        raise BadInput(f"{seen}: each class has splits of its own; {_HELP}{override}")
    raise BadInput(
        f"{seen}: they look like splits, not like classes; rename them to train, val and test, or move their images "
        f"together{override}"
    )


def _whereabouts(top: Folder, splits: Mapping[str, Folder]) -> tuple[str, ...]:
    """Return sentences about a wrapped folder, and about splits with other names."""
    notes = [f"the images are in its folder {printable(top.path)}"] if top.path else []
    names = [f"{printable(folder.name)} is {part}" for part, folder in splits.items() if folder.name.lower() != part]
    return (*notes, *([f"splits by name: {', '.join(names)}"] if names else []))


def _notes_on_names_of_splits(classes: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence for classes with the names of splits, whose images may be unlabelled; none for the others."""
    named = [name for name in classes if split_of(name)]
    if not named:
        return ()
    what = "is a class here, not a split" if len(named) == 1 else "are classes here, not splits"
    return (f"{quoted(named)} {what}; if that is wrong, name the classes to use (`classes`)",)


def _require_images(found: Found, part: str, names: Mapping[str, str]) -> None:
    """Raise BadInput if a part has no classes, or if one of its classes has no images."""
    shown, classes = printable(found.root / found.shown[part]), found.parts[part]
    if not classes:
        loose = sum(item.count for item in found.skipped if (item.kind, item.folder) == ("loose", found.shown[part]))
        images = f", only {counted(loose, 'image')}" if loose else ""
        train = found.shown.get("train", found.shown[part])
        alone = f"; to leave it out, give {printable(found.root / train)} alone" if train != found.shown[part] else ""
        raise BadInput(f"{shown} has no classes{images}; {_HELP}{alone}")
    count: dict[str, int] = {}
    for name, files in classes.items():
        if name in names:
            count[names[name]] = count.get(names[name], 0) + len(files)
    empty = [name for name, files in count.items() if not files]
    if not empty:
        return
    unread = _unread(found, [name for name in classes if names.get(name) in empty])
    if len(empty) == len(count):
        raise BadInput(f"{shown} has no images in its {len(classes)} sub-folders{unread}; {_HELP}")
    which = f"class {printable(empty[0])!r} has" if len(empty) == 1 else f"{quoted(empty)} have"
    advice = "" if ";" in unread else "; add some, or remove the folder"
    raise BadInput(f"{shown}: {which} no images{unread}{advice}")


def _unread(found: Found, classes: Sequence[str]) -> str:
    """Return a clause with the files in the folders of classes that are not read, by suffix."""
    counts: dict[str, int] = {}
    for item in found.skipped:
        if item.kind == "suffix" and any(f"/{item.folder}/".endswith(f"/{name}/") for name in classes):
            counts[item.what] = counts.get(item.what, 0) + item.count
    known = {**PICTURES, "": "the names of images need their suffix, such as .jpg"}
    advice = dict.fromkeys(known[suffix] for suffix in counts if suffix in known)
    files = [
        counted(count, f"{suffix} file") if suffix else f"{counted(count, 'file')} without a suffix"
        for suffix, count in counts.items()
    ]
    return f", but {shortened(files, 3)}{''.join(f'; {text}' for text in advice)}" if files else ""


def _difference(found: Found, main: str, classes: Sequence[str], part: str, there: Sequence[str]) -> str:
    """Return the sentence for two parts whose classes differ."""
    one, other = printable(found.shown[main]), printable(found.shown[part])
    missing, extra = sorted(set(classes) - set(there)), sorted(set(there) - set(classes))
    sides = [f"{other} lacks {quoted(missing)}"] * bool(missing) + [f"{other} also has {quoted(extra)}"] * bool(extra)
    advice = "add images, or leave the class out (`classes` names those to use)"
    if alike([*missing, *extra]):
        advice = "names that differ only in spelling must be made equal"
    where = f"{printable(found.root)}: the classes of {other} differ from those of {one}"
    return f"{where}: {' and '.join(sides)}; {advice}"
