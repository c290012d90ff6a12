"""What a run is called: the second in which it started, in UTC, such as 2026-11-22T06:10:00Z.

UTC has no hour that comes twice, so ids in the order of their letters are in the order of time.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

SUFFIXES = re.compile(r"(\.tfma)?\.html$|\.log$")  # of the files that are named after a run
STEM = re.compile(r"(\d{4}-\d\d-\d\dT\d\d)(\d\d)(\d\dZ?)")  # without Z: local time, as older versions wrote it


def new() -> str:
    """The id of a run that starts now."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def file_stem(run_id: str) -> str:
    """How files of the run are called: the id without its colons, which some file systems refuse."""
    return run_id.replace(":", "")


def of_spelling(spelling: str) -> str:
    """The id of the run that a person means: by its id, or by the name or path of its log or review page."""
    return STEM.sub(r"\1:\2:\3", SUFFIXES.sub("", Path(spelling).name))
