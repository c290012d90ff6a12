"""The sources that a config names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bertline.errors import UserError
from bertline.streams.files import Files
from bertline.streams.sources import STDIN, Source, Stdin


def opened(paths: Sequence[str], base: Path, said: str, places: dict[str, str]) -> list[Source]:
    """The sources of a config.

    Args:
        paths: `stream.source`.
        base: where relative paths start.
        said: `stream.format`.
        places: what the database has: key -> JSON.

    Raises:
        UserError: the folder of a file is not there.
    """
    sources: list[Source] = []
    for path in paths:
        if path == STDIN:
            sources.append(Stdin(said))
            continue
        place = base / Path(path).expanduser()
        if not place.exists() and not place.parent.is_dir():
            raise UserError(f"stream.source: {place}: there is no such file, and no folder where it could appear.")
        own = {key: text for key, text in places.items() if json.loads(text).get("source") == path}
        sources.append(Files(path, place, said, own))
    return sources
