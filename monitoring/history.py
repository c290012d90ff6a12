"""What was said of the windows so far: a line of JSON per window, which tells since when an alarm stands."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertline.errors import UserError

if TYPE_CHECKING:
    from bertline.monitoring.judge import Report

FILE = "history.jsonl"


def read(folder: Path) -> list[dict[str, Any]]:
    """The reports so far without their texts, in the order in which they were made; a line cut by a crash is left out.

    Raises:
        UserError: the file cannot be read.
    """
    file = folder / FILE
    try:
        lines = file.read_bytes().split(b"\n") if file.exists() else []
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}. Move it away to begin anew.") from error
    reports = []
    for line in lines:
        try:
            reports.append(json.loads(line))
        except (json.JSONDecodeError, UnicodeDecodeError):  # cut when the machine went down, perhaps within a letter
            continue
    return reports


def open_since(reports: list[dict[str, Any]], version: int) -> dict[str, datetime.datetime]:
    """The alarms that the last window of a version had: a look's key -> the start of the first window in a row."""
    last = _last(reports, version)
    return {key: datetime.datetime.fromisoformat(since) for key, since in last["open"].items()} if last else {}


def untold(reports: list[dict[str, Any]], version: int) -> set[str]:
    """The keys of those alarms of which nobody could be told: they are told with the next look."""
    last = _last(reports, version)
    return set(last.get("untold", ())) if last else set()


def _last(reports: list[dict[str, Any]], version: int) -> dict[str, Any] | None:
    """The newest report that judges a version."""
    judged = [report for report in reports if report["version"] == version and not report["small"]]
    return judged[-1] if judged else None


def add(folder: Path, report: Report, untold: Iterable[str] = ()) -> None:
    """Adds a report, without the texts: they are kept as long as the records are.

    Args:
        folder: of the history.
        report: the newest.
        untold: keys of its alarms of which somebody could not be told.

    Raises:
        UserError: it cannot be written.
    """
    told = report.as_dict()
    for look in told["looks"]:
        del look["texts"], look["words"], look["what_to_do"]
    told["open"] = {each.look.key: each.since.isoformat() for each in report.alarms}
    told["untold"] = sorted(untold)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / FILE).open("a", encoding="utf-8") as file:
            # The line end comes first: what a crash has cut takes no other line with it.
            file.write("\n" * (file.tell() > 0) + json.dumps(told, ensure_ascii=False))
    except OSError as error:
        raise UserError(f"{folder / FILE} cannot be written: {error.strerror}") from error
