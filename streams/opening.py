"""The sources that a config names."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

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
        UserError: the folder of a file is not there, or a topic cannot be read.
    """
    sources: list[Source] = []
    for path in options.source:
        if path == STDIN:
            sources.append(Stdin(options.format))
            continue
        place = base / Path(path).expanduser()
        if not place.exists() and not place.parent.is_dir():
            raise UserError(f"stream.source: {place}: there is no such file, and no folder where it could appear.")
        own = {key: text for key, text in places.items() if json.loads(text).get("source") == path}
        sources.append(Files(path, place, options.format, own))
    return sources + (_topics(options.kafka, places) if options.kafka else [])


def _topics(options: KafkaOptions, places: dict[str, str]) -> list[Source]:
    settings = {name: _filled(name, value) for name, value in options.settings.items()}
    own = {key: text for key, text in places.items() if key.startswith("kafka:")}
    return [Topic(name, {**settings, "bootstrap.servers": options.servers}, own) for name in options.topics]


def _filled(name: str, value: str) -> str:
    variable = re.fullmatch(r"\$\{(\w+)\}", value)
    if variable and variable[1] not in os.environ:
        raise UserError(f"stream.kafka.settings: {name}: the environment has no variable {variable[1]}. Set it.")
    return os.environ[variable[1]] if variable else value
