"""What a run is called: the second in which it started, in UTC, such as 2026-11-22T06:10:00Z.

UTC has no hour that comes twice, so ids in the order of their letters are in the order of time.
"""

from __future__ import annotations

from datetime import UTC, datetime


def new() -> str:
    """The id of a run that starts now."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def file_stem(run_id: str) -> str:
    """How files of the run are called: the id without its colons, which some file systems refuse."""
    return run_id.replace(":", "")
