"""What a folder is: data files, a folder per class, or a folder per split with either of them. Mixtures are refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from bertline.errors import UserError

# What people call the folder of a split.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}


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
    texts = [file for file in files if file.parent != folder and not is_data(file)]
    splits = split_folders(folder, is_data)
    if splits and (data or texts):
        lines = (f"{_key(split)}: {source.rstrip('/')}/{name}" for split, name in splits.items())
        raise UserError(
            f"data source {source!r} holds a folder per split ({', '.join(splits.values())}), whose rows must not be "
            f"mixed. Name each in the config: {', '.join(lines)}."
        )
    if data and texts:
        raise UserError(
            f"data source {source!r} is a mixture: data files such as {_below(data[0], folder)}, and class folders "
            f"with text files such as {_below(texts[0], folder)}. Name the files that you mean, such as "
            f"{source.rstrip('/')}/*{data[0].suffix}, or move one kind to a folder of its own."
        )
    _refuse_nested_classes(texts, folder, source)
    return Content(data, texts)


def split_folders(folder: Path, is_data: Callable[[Path], bool]) -> dict[str, str]:
    """The split -> its folder's name, where a folder has one for train, one for another split, and no other folder.

    {} where it is anything else. The folders of splits hold data files, or a folder per class.

    Args:
        folder: where to look.
        is_data: whether a file is a table, by its name.
    """
    names = sorted(entry.name for entry in _visible(folder) if entry.is_dir() and _files_below(entry))
    splits = {
        split: name
        for split, known in SPLIT_NAMES.items()
        for name in names
        if name.lower() in known and _labels_its_rows(folder / name, is_data)
    }
    return splits if "train" in splits and 1 < len(splits) == len(names) else {}


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


def _is_visible(name: str) -> bool:
    """Neither what editors and systems leave behind nor Python's caches in a package's folder are data."""
    return not name.startswith((".", "__"))


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _key(split: str) -> str:
    return "data.source" if split == "train" else f"data.{split}_source"
