"""What a folder is: data files, a folder per class, or a folder per split with either of them. Mixtures are refused."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from bertline.components.data import hugging_face
from bertline.components.data.hugging_face import is_description
from bertline.components.data.packing import without_packing
from bertline.errors import UserError

# What people call the folder of a split.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}


# Files about data, which may lie beside tables in any folder.
ABOUT = {"README", "LICENSE", "LICENCE", "CHANGELOG", "_SUCCESS"}


class Content(NamedTuple):
    """The files of a folder: data files at any depth, or the text files of its class folders; never both."""

    data: list[Path]
    texts: list[Path]


def look(folder: Path, source: str, is_data: Callable[[Path], bool]) -> Content:
    """Finds out what a folder is.

    Files in the folder itself that are no data are left alone: people keep a README there.

    Args:
        folder: where to look.
        source: its name, for the message.
        is_data: whether a file is a table, by its name.

    Raises:
        UserError: the folder is a mixture, or has a folder per split; the message names what was found.
    """
    files = _files_below(folder)
    data = [file for file in files if is_data(file)]
    texts = [file for file in files if file.parent != folder and not is_data(file) and not is_description(file)]
    splits = find_splits(folder, is_data)
    if splits.places:
        lines = (f"{_key(split)}: {source.rstrip('/')}/{place}" for split, place in splits.places.items())
        raise UserError(
            f"data source {source!r} holds a {splits.kind} per split ({', '.join(splits.places.values())}), whose rows "
            f"must not be mixed. Name each in the config: {', '.join(lines)}."
        )
    _refuse_several_sets(data, folder, source)
    texts = [file for file in texts if not (data and file.stem.upper() in ABOUT)]
    if data and texts:
        raise UserError(
            f"data source {source!r} is a mixture: data files such as {_below(data[0], folder)}, and class folders "
            f"with text files such as {_below(texts[0], folder)}. Name the files that you mean, such as "
            f"{source.rstrip('/')}/*{data[0].suffix}, or move one kind to a folder of its own."
        )
    _refuse_nested_classes(texts, folder, source)
    return Content(data, texts)


class Splits(NamedTuple):
    """The splits in a folder.

    Attributes:
        places: the split -> its folder, file or glob, below the folder.
        kind: what these are, "folder" or "file".
        others: folders or files beside them that are of no split.
    """

    places: dict[str, str]
    kind: str = "folder"
    others: tuple[str, ...] = ()


def find_splits(folder: Path, is_data: Callable[[Path], bool]) -> Splits:
    """The splits that a folder holds, train and another one; without places where it holds anything else.

    Args:
        folder: where to look.
        is_data: whether a file is a table, by its name.
    """
    return _split_folders(folder, is_data) or _split_files(folder, is_data) or Splits({})


def _split_folders(folder: Path, is_data: Callable[[Path], bool]) -> Splits | None:
    """A folder per split, which hold data files, or a folder per class; and no other folder."""
    names = sorted(entry.name for entry in _visible(folder) if entry.is_dir() and _files_below(entry))
    splits = {
        split: name
        for split, known in SPLIT_NAMES.items()
        for name in names
        if _is_named(name.lower(), known) and _labels_its_rows(folder / name, is_data)
    }
    others = tuple(name for name in names if name not in splits.values())
    whole = not others or (folder / hugging_face.DICTIONARY).is_file()
    return Splits(splits, "folder", others) if "train" in splits and len(splits) > 1 and whole else None


# train-00000-of-00003.parquet, test-00000-of-00001-0123456789abcdef.parquet
_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$")


def _split_files(folder: Path, is_data: Callable[[Path], bool]) -> Splits | None:
    """Files whose names tell their split, all in one folder, which may lie below the given one; others lie beside."""
    data = [file for file in _files_below(folder) if is_data(file)]
    by_split: dict[str, list[Path]] = {}
    for file in data:
        by_split.setdefault(_split_of(file), []).append(file)
    unnamed = [_below(file, folder) for file in by_split.pop("", [])]
    if "train" not in by_split or len(by_split.keys() & SPLIT_NAMES.keys()) < 2 or len(_parents(data)) > 1:
        return None
    places = {split: _below(_pattern(files, data), folder) for split, files in by_split.items()}
    known = {split: places[split] for split in SPLIT_NAMES if split in places}
    others = [*(place for split, place in places.items() if split not in known), *unnamed]
    return Splits(known, "file", tuple(others))


def _split_of(file: Path) -> str:
    """The split that a file's name begins or ends with; "" for none. Shards of other splits have their own names."""
    stem = without_packing(file.name).rpartition(".")[0].lower()
    name = _SHARD.sub("", stem)
    for split, known in SPLIT_NAMES.items():
        if _is_named(name, known):
            return split
    return words[-1] if (words := _words(name)) and _SHARD.search(stem) else ""


def _is_named(name: str, known: Sequence[str]) -> bool:
    """Whether a name in lower case begins or ends with one of these words, as 20news-bydate-train does."""
    words = _words(name)
    return bool(words) and (words[0] in known or words[-1] in known)


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[-_. ]+", name) if word]


def _pattern(files: list[Path], data: list[Path]) -> Path:
    """A file, or the glob that matches these of all files of the folder."""
    first = files[0]
    if len(files) == 1:
        return first
    names = [file.name for file in files]
    start = _common_start(names)
    end = _common_start([name[len(start) :][::-1] for name in names])[::-1]
    pattern = f"{glob.escape(start)}*{glob.escape(end)}"
    if other := next((file for file in data if file not in files and fnmatch(file.name, pattern)), None):
        raise UserError(
            f"{first.parent}: the files of a split have no name in common that {other.name} has not. Name each in the "
            "config: data.source: [FILE, ...], data.test_source: [FILE, ...]."
        )
    return first.with_name(pattern)


def _common_start(names: list[str]) -> str:
    alike = takewhile(lambda characters: len(set(characters)) == 1, zip(*names, strict=False))
    return "".join(characters[0] for characters in alike)


def _refuse_several_sets(data: list[Path], folder: Path, source: str) -> None:
    """Raises UserError where several folders hold a file per split each, as those of a set in several languages do."""
    splits = {_split_of(file) for file in data}
    parents = _parents(data)
    if len(parents) > 1 and "" not in splits and len(splits) > 1 and not (folder / hugging_face.DICTIONARY).is_file():
        names = ", ".join(_below(parent, folder) or "." for parent in parents)
        raise UserError(
            f"data source {source!r} holds the splits of several data sets ({names}), whose rows must not be mixed. "
            f"Name the files of one, such as data.source: {source.rstrip('/')}/{_below(data[0], folder)}."
        )


def _parents(files: list[Path]) -> list[Path]:
    return list(dict.fromkeys(file.parent for file in files))


def _labels_its_rows(folder: Path, is_data: Callable[[Path], bool]) -> bool:
    """Whether a folder holds more than texts without a label: tables, or folders that name the class."""
    return any(entry.is_dir() or is_data(entry) for entry in _visible(folder))


def _refuse_nested_classes(texts: list[Path], folder: Path, source: str) -> None:
    nested = next((file for file in texts if file.parent.parent != folder), None)
    if nested:
        direct = next((file for file in texts if file.parent.parent == folder), None)
        beside = f", and beside it {_below(direct, folder)}" if direct else ""
        raise UserError(
            f"data source {source!r}: {_below(nested, folder)} lies in a folder within a folder{beside}; it is not "
            f"clear which one is the class. Name the folder whose folders are the classes, such as "
            f"{source.rstrip('/')}/{_below(nested.parent.parent, folder)}."
        )


def _files_below(folder: Path) -> list[Path]:
    """All visible files at any depth, sorted by path; a folder is entered once, however many links lead to it."""
    files: list[Path] = []
    entered = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = _not_entered(parent, filter(_is_visible, folders), entered)
        files += [Path(parent, name) for name in names if _is_visible(name)]
    return sorted(files)


def _not_entered(parent: str, names: Iterable[str], entered: set[str]) -> list[str]:
    """The folders that no path has led to yet, which are noted. Folders come before links to them."""
    new = []
    for name in sorted(names, key=lambda name: (os.path.islink(os.path.join(parent, name)), name)):
        place = os.path.realpath(os.path.join(parent, name))
        if place not in entered:
            entered.add(place)
            new.append(name)
    return new


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, but for links to itself."""
    place = os.path.realpath(folder)
    visible = [entry for entry in folder.iterdir() if _is_visible(entry.name)]
    return [entry for entry in visible if not (entry.is_symlink() and os.path.realpath(entry) == place)]


# What Windows keeps in folders that somebody has looked at.
LEFT_BEHIND = {"thumbs.db", "desktop.ini", "ehthumbs.db"}


def _is_visible(name: str) -> bool:
    """Neither what editors and systems leave behind nor Python's caches in a package's folder are data."""
    # ~$: what Excel keeps beside an open workbook
    return not name.startswith((".", "__", "~$")) and name.lower() not in LEFT_BEHIND


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _key(split: str) -> str:
    return "data.source" if split == "train" else f"data.{split}_source"
