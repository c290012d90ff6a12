"""The sources that a config names."""

from __future__ import annotations

import json
from pathlib import Path

from bertline.components import variables
from bertline.errors import UserError
from bertline.streams.files import Files
from bertline.streams.kafka import Topic
from bertline.streams.options import KafkaOptions, StreamOptions
from bertline.streams.sources import STDIN, Source, Stdin


def opened(options: StreamOptions, base: Path, places: dict[str, str]) -> list[Source]:
    """The sources of a config.

    Args:
        options: of the stream.
        base: where relative paths start.
        places: what the database has: key -> JSON.

    Raises:
        UserError: the folder of a file is not there, two sources have files in common, or a topic cannot be read.
    """
    sources: list[Source] = []
    real: dict[str, Path] = {}  # a source, as the config has it -> where it is
    for path in options.source:
        if path == STDIN:
            sources.append(Stdin(options.format))
            continue
        place = base / Path(path).expanduser()
        if not place.exists() and not place.parent.is_dir():
            raise UserError(f"stream.source: {place}: there is no such file, and no folder where it could appear.")
        real[path] = _real(base, path)
        for other, there in list(real.items())[:-1]:
            if there == real[path] or there in real[path].parents or real[path] in there.parents:
                raise UserError(
                    f"stream.source: {other} and {path} are the same files, or one holds the other: leave one out."
                )
        # By the place, not by its spelling: read again as ./posts.jsonl, all of posts.jsonl would count twice.
        own = {
            key: text
            for key, text in places.items()
            if (source := json.loads(text).get("source")) and _real(base, source) == real[path]
        }
        sources.append(Files(path, place, options.format, own))
    return sources + (_topics(options.kafka, places) if options.kafka else [])


def _real(base: Path, path: str) -> Path:
    return (base / Path(path).expanduser()).resolve()


def _topics(options: KafkaOptions, places: dict[str, str]) -> list[Source]:
    settings = {
        name: variables.filled(value, f"stream.kafka.settings: {name}") for name, value in options.settings.items()
    }
    own = {key: text for key, text in places.items() if key.startswith("kafka:")}
    return [Topic(name, {**settings, "bootstrap.servers": options.servers}, own) for name in options.topics]
