"""The config that a search leaves: the one that was tuned, with the best trial's values and each one's reason."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import CommentMark
from ruamel.yaml.tokens import CommentToken

from bertline.components.tuning import space
from bertline.components.tuning.space import Dimension
from bertline.components.tuning.trials import Outcome
from bertline.errors import UserError
from bertline.models.recipe import METHOD_OF
from bertline.pipeline import config as configs
from bertline.pipeline.config import Config

WRITTEN_BY = "Written by `bertline tune"
SECTION = "tune"  # is left out: the values have been found


def check_target(path: Path, target: Path) -> None:
    """Checks where the tuned config goes before the search begins.

    Args:
        path: of the config that is tuned.
        target: of the tuned one.

    Raises:
        UserError: no search has written the file that is there, or it lies where relative paths mean something else.
    """
    if target.absolute().parent != path.absolute().parent:
        raise UserError(f"--output: {target}: write it beside {path}, since paths in a config start at its folder.")
    if target.exists() and not _is_written(target.read_text(encoding="utf-8", errors="replace")):
        raise UserError(f"{target} exists, and `bertline tune` has not written it; name another file with --output.")


def _is_written(text: str) -> bool:
    return text.startswith(f"# {WRITTEN_BY}")


def write(config: Config, path: Path, target: Path, outcome: Outcome) -> None:
    """Writes the tuned config.

    Args:
        config: the task.
        path: of its file, whose other keys and comments are kept.
        target: of the tuned config.
        outcome: what the search found.

    Raises:
        UserError: the file cannot be written.
    """
    text = path.read_text(encoding="utf-8")
    head = _head(path, outcome)
    if _is_written(text):  # a tuned config was tuned again
        text = "".join(text.splitlines(keepends=True)[len(head) :])
    wanted = _changed(configs.parse(text), config, outcome)
    reasons = {key: reason(key, outcome) for key in outcome.best.values}
    left = left_out(config, outcome)
    if left:
        reasons[space.METHOD] += f"; without {', '.join(left)}, which it does not take"
    document = YAML().load(text)
    _bring_to(document, wanted)
    written = _with_comments(document, head, reasons)
    if not _reads_as(written, wanted):
        # YAML's own library reads some values otherwise than a config does, such as a label that is called TRUE.
        written = _with_comments(YAML().load(_dumped(CommentedMap(wanted))), head, reasons)
    try:
        target.write_text(written, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}; name another file with --output.") from error


def _reads_as(text: str, values: dict[str, Any]) -> bool:
    try:
        return configs.parse(text) == values
    except YAMLError:
        return False


def reason(key: str, outcome: Outcome) -> str:
    """Why the key has its value, for the comment beside it."""
    best, start = outcome.best, outcome.start
    tried = next(each for each in outcome.space.dimensions if each.key == key and _goes_with(each, best.values))
    before = start.values.get(key)
    told = "as it was" if before == best.values[key] else f"it was {before}" if before is not None else "it was not set"
    share = outcome.importances.get(key)
    weight = f"; {share:.0%} of the losses' spread" if share is not None else ""
    return f"trial {best.number}; {told}; tried: {tried}{weight}"


def left_out(config: Config, outcome: Outcome) -> list[str]:
    """The keys that the config has and the best trial's method does not take, such as train.lora."""
    _, train = space.combined(config.model, config.train, outcome.best.values)
    own, kept = (recipe.own_values() for recipe in (config.train, train))
    return [f"train.{key}" for key in own if key not in kept and not _tried(f"train.{key}", outcome.best.values)]


def _tried(key: str, values: Mapping[str, Any]) -> bool:
    return any(each == key or each.startswith(f"{key}.") for each in values)


def _goes_with(each: Dimension, values: Mapping[str, Any]) -> bool:
    method = values.get(space.METHOD)
    return method is None or each.methods is None or method in each.methods


def _head(path: Path, outcome: Outcome) -> list[str]:
    best, start = outcome.best, outcome.start
    own = f"{start.loss:.6f} and {start.accuracy:.3f}" if start.state == "complete" else f"failed ({start.note})"
    minutes, rows, judged = outcome.seconds / 60, outcome.train_rows, outcome.validation_rows
    return [
        f"{WRITTEN_BY} {path.name}`: the best of {len(outcome.trials)} trials, which took {minutes:.1f} minutes.",
        f"Trial {best.number}: validation loss {best.loss:.6f}, accuracy {best.accuracy:.3f}, in {best.seconds:.0f} s.",
        f"Trial 1, the config as it was: {own}, in {start.seconds:.0f} s.",
        f"Trained on {rows:,} rows, judged on {judged:,} validation rows; no trial read a test row.",
    ]


# === The values ===


def _changed(values: dict[str, Any], config: Config, outcome: Outcome) -> dict[str, Any]:
    """What the tuned config holds: the values of the file, with those of the best trial in their places."""
    changed = {name: section for name, section in values.items() if name != SECTION}
    model, train = space.combined(config.model, config.train, outcome.best.values)
    for name, before, after in (("model", config.model, model), ("train", config.train, train)):
        tried = {key.partition(".")[2]: value for key, value in outcome.best.values.items() if key.startswith(name)}
        tried = space.nested(tried)
        # A key of the file that does not go with the trial's method is at its default now, and leaves the file.
        own = {
            key: value
            for key, value in (values.get(name) or {}).items()
            if key in tried or (getattr(before, key) == getattr(after, key) and _fits(key, train.method))
        }
        if own or tried:
            changed[name] = space.merged(own, tried)
    return changed


def _fits(key: str, method: str) -> bool:
    return METHOD_OF.get(key, method) == method


def _bring_to(document: CommentedMap, wanted: Mapping[str, Any]) -> None:
    """Gives a mapping the keys and values of another, and leaves what is the same as it is written."""
    for key in [key for key in document if key not in wanted]:
        del document[key]
    for key, value in wanted.items():
        if isinstance(value, Mapping) and isinstance(document.get(key), CommentedMap):
            _bring_to(document[key], value)
        elif key not in document or document[key] != value:
            document[key] = CommentedMap(value) if isinstance(value, Mapping) else value


# === The text ===


def _comment(document: CommentedMap, path: list[str], text: str) -> None:
    """Puts a comment behind a key's value; comments on the lines below it stay."""
    *sections, key = path
    for name in sections:
        document = document[name]
        document.fa.set_block_style()  # a line per key, each with its comment
    behind = document.ca.items.setdefault(key, [None, None, None, None])
    below = behind[2].value.partition("\n")[2] if behind[2] else ""
    behind[2] = CommentToken(f" # {text}\n{below}", CommentMark(0))


def _dumped(document: CommentedMap) -> str:
    yaml = YAML()
    yaml.width = 10**9  # a value stays on one line, with its comment behind it
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def _with_comments(document: CommentedMap, head: list[str], reasons: Mapping[str, str]) -> str:
    for key, said in reasons.items():
        _comment(document, key.split("."), said)
    return "".join(f"# {line}\n" for line in head) + _dumped(document)
