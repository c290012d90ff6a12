"""What a watch knows of its runs: a file that survives its restart."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bertline.errors import UserError
from bertline.serving import storage

WEEK = timedelta(days=7)
KEPT = 200  # runs in the file, some months of them


@dataclass
class Memory:
    """The runs of a watch, and what the last one saw.

    Attributes:
        file: where it is kept.
        runs: each with `began`, `ended` (ISO 8601, UTC), `why` and the exit `code`; only those that ended well or were
            blocked by a gate, since one that failed is tried again.
        spans: the portions that the last run saw, as the config's sources name them.
        data: the digest of the files that it saw; "" before the first run.
    """

    file: Path
    runs: list[dict[str, Any]] = field(default_factory=list)
    spans: list[str] = field(default_factory=list)
    data: str = ""

    @classmethod
    def read(cls, file: Path) -> Memory:
        """What the file holds; nothing where there is none.

        Raises:
            UserError: it cannot be read.
        """
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            return cls(file, list(known["runs"]), list(known["spans"]), str(known["data"]))
        except FileNotFoundError:
            return cls(file)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} cannot be read: {error}. Move it away: the watch then begins anew.") from error

    def add(self, began: datetime, ended: datetime, why: list[str], code: int, spans: list[str], data: str) -> None:
        """Adds a run, and writes the file whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        run = {"began": began.isoformat(), "ended": ended.isoformat(), "why": why, "code": code}
        self.runs, self.spans, self.data = [*self.runs, run][-KEPT:], spans, data
        known = {"runs": self.runs, "spans": self.spans, "data": self.data}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with storage.writing_whole(self.file) as unfinished:
                unfinished.write_text(json.dumps(known, indent=1, ensure_ascii=False), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{self.file} cannot be written: {error.strerror}") from error

    def last(self, key: str, now: datetime) -> datetime | None:
        """When the last run `began` or `ended`; not after now, whatever a clock that was set back says."""
        return min(datetime.fromisoformat(self.runs[-1][key]), now) if self.runs else None

    def of_week(self, now: datetime) -> list[datetime]:
        """When the runs of the last 7 days began, the oldest first."""
        began = (datetime.fromisoformat(run["began"]) for run in self.runs)
        return [moment for moment in began if moment > now - WEEK]

    def held_until(self, now: datetime, pause: timedelta, most_a_week: int) -> tuple[datetime, str] | None:
        """Until when no run may begin, and why; None where one may."""
        ended, of_week = self.last("ended", now), self.of_week(now)
        if ended and now < ended + pause:
            return ended + pause, f"the pause after the run that ended at {ended:%Y-%m-%d %H:%M} UTC"
        if len(of_week) >= most_a_week:
            until = of_week[-most_a_week] + WEEK
            return until, f"{len(of_week)} runs in the last 7 days, and {most_a_week} are allowed"
        return None
