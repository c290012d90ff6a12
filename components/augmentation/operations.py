"""The operations by their names in the config, and what they need of the machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Protocol

from bertline.components.augmentation import command, eda, noise, synonyms
from bertline.components.augmentation.eda import Change
from bertline.models import packages
from bertline.models.recipe import WITH_SYNONYMS, AugmentOptions

NOISE = ("keyboard", "characters", "ocr")
SYNONYMS = "train.augment.synonyms"


Fill = Callable[[list[str], list[Random]], list[str | None]]


class Operation(Protocol):
    """Changes texts."""

    def __call__(self, texts: list[str], chances: list[Random], seed: int) -> list[str | None]:
        """A changed text for each, or None where there is nothing to change.

        Args:
            texts: at least one.
            chances: what is drawn for each text.
            seed: for what draws for all of them at once.
        """


def of(options: AugmentOptions, folder: str, fill: Callable[[], Fill]) -> dict[str, Operation]:
    """The operations that the options name.

    Args:
        options: their names and settings.
        folder: where relative paths start.
        fill: makes what puts other words in the place of some; called only for masked_lm.

    Raises:
        UserError: a file, a package or a program is missing, or a line of the file cannot be read.
    """
    found = None
    if options.synonyms:
        found = synonyms.read(path_of(options.synonyms, folder), SYNONYMS)
    made: dict[str, Operation] = {}
    for name in options.operations:
        if name == "command":
            made[name] = _by_command([command.program(options.command[0], folder), *options.command[1:]])
        elif name == "masked_lm":
            made[name] = _by_network(fill())
        elif name in NOISE:
            made[name] = _each(noise.noise(name, options.share, options.keyboard))
        elif name in WITH_SYNONYMS:
            change = eda.replaced if name == "synonyms" else eda.inserted
            made[name] = _each(change(options.share, found))
        else:
            made[name] = _each((eda.swapped if name == "swap" else eda.deleted)(options.share))
    return made


def check(options: AugmentOptions, folder: str) -> None:
    """Looks for files, packages and programs before a run is spent on them; arguments and errors as those of `of`."""
    of(options, folder, lambda: lambda texts, chances: [])


def files(options: AugmentOptions | None, folder: str) -> list[str]:
    """Absolute paths of the files that the operations read."""
    if options is None:
        return []
    named = [str(path_of(options.synonyms, folder))] if options.synonyms else []
    return named + (command.files(options.command, folder) if options.command else [])


def path_of(source: str, folder: str) -> Path:
    """A path of the config, which may be relative to a folder, or package://NAME/PATH."""
    if source.startswith(packages.SCHEME):
        return packages.resolve(source)
    return (Path(folder) / Path(source).expanduser()).absolute()


def _each(change: Change) -> Operation:
    return lambda texts, chances, seed: [change(*each) for each in zip(texts, chances, strict=True)]


def _by_network(fill: Fill) -> Operation:
    return lambda texts, chances, seed: fill(texts, chances)


def _by_command(arguments: list[str]) -> Operation:
    return lambda texts, chances, seed: [text or None for text in command.rewritten(arguments, texts, seed)]
