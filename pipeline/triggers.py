"""What asks for a run of the line: a new span, an alarm of the monitor, a schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from bertline.components import spans
from bertline.components.options import duration_text
from bertline.monitoring import history
from bertline.pipeline.config import Config
from bertline.pipeline.watch_memory import Memory
from bertline.serving import releases

SHOWN = 3  # spans or alarms in a sentence
TIME = "%Y-%m-%d %H:%M"


def asking(
    task: Config, memory: Memory, data: str, now: datetime, on: list[str], say: Callable[[str], None]
) -> Iterator[str]:
    """The reasons for a run, in words.

    Args:
        task: as its config is now.
        memory: of the watch.
        data: the digest of the task's files now.
        now: UTC.
        on: the triggers.
        say: is told what asks for a run without being a reason for one yet.

    Raises:
        UserError: the monitor's history cannot be read, or two names stand for one span.
    """
    if "span" in on and (new := [span for span in portions(task) if span not in memory.spans]):
        yield f"new {'spans' if len(new) > 1 else 'span'}: {_listed(new)}"
    if "drift" in on and (alarms := _alarms(task, say)):
        if memory.data == data:
            say(
                f"{alarms}; but no row has come since the last run, and the same rows give the same model: bring "
                "labels by `bertline feedback`, or add rows"
            )
        else:
            yield alarms
    if "schedule" in on:
        began = memory.last("began", now)
        if began is None:
            yield "the schedule: its first run"
        elif now >= began + task.retrain.every:
            every = duration_text(task.retrain.every)
            yield f"the schedule: every {every}, and the last run began at {began:{TIME}} UTC"


def portions(task: Config) -> list[str]:
    """The spans that are there, as the sources name them with {SPAN} filled in."""
    sources = [source for source in task.data.sources if isinstance(source, str) and spans.PLACEHOLDER in source]
    there = [source for source in sources if spans.is_there(source, task.folder)]
    return [span for source in there for span in spans.resolve([source], task.folder, None)]


def _alarms(task: Config, say: Callable[[str], None]) -> str:
    """The alarms that stand for the newest pushed version; "" without, as while a newer one is tried in traffic."""
    reports = history.read(task.root_folder / "monitor")
    if not reports:
        say("drift: no window has been judged yet; start `bertline monitor` with --every 1h beside this watch")
        return ""
    pushed = releases.read(task.serving_folder)
    standing = history.open_since(reports, pushed[-1].version) if pushed else {}
    told = [f"{key} since {since:{TIME}} UTC" for key, since in standing.items()]
    return f"drift: {_listed(told)}" if told else ""


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
