"""`bertline monitor`: a window of the requests against the model's own test rows and the windows before."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from bertline.errors import UserError
from bertline.monitoring import alarms, feedback, history, judge, live, reference
from bertline.monitoring.judge import Judged, Report
from bertline.monitoring.live import Live
from bertline.monitoring.windows import Records, Window
from bertline.pipeline import evaluated, lineage, screen
from bertline.pipeline.config import Config
from bertline.pipeline.ending_signal import EndingSignal
from bertline.pipeline.evaluated import Run
from bertline.serving import standing
from bertline.serving.releases import Release


@dataclass
class Outlets:
    """Where a report goes beside the screen.

    Attributes:
        file: of Prometheus' metrics; None for none.
        messages: to people; None for none.
        gauges: the metrics themselves.
        page: file of the page; None for none.
        live: the page over HTTP; None for none.
    """

    file: Path | None = None
    messages: alarms.Messages | None = None
    gauges: alarms.Gauges = field(default_factory=alarms.Gauges)
    page: Path | None = None
    live: Live | None = None

    @classmethod
    def of(cls, task: Config, file: Path | None, port: int | None, notify: bool) -> Outlets:
        """Those that a command names, and those of the config.

        Raises:
            UserError: the port is taken, or an address of `monitor.notify` cannot be used.
        """
        outlets = cls(file, alarms.Messages(task.monitor.notify) if notify and task.monitor.notify else None)
        if port is not None:
            outlets.gauges.serve(port)
        return outlets

    def show(self, report: Report, reports: Sequence[dict[str, Any]]) -> None:
        """Makes the page of a report, if one is asked for.

        Args:
            report: the newest.
            reports: those so far, as the history has them.

        Raises:
            UserError: its file cannot be written.
        """
        if self.live or self.page:
            from bertline.monitoring import page  # Altair, a second
        if self.live:
            self.live.show(page.render(report, reports, refresh=live.REFRESH), page.policy())
        if self.page:
            page.write(self.page, page.render(report, reports))

    def take(self, report: Report, told: Collection[str]) -> str:
        """Passes a report on; returns what went wrong with the messages.

        Args:
            report: the newest.
            told: keys of the alarms that people know of already.

        Raises:
            UserError: the file cannot be written. People have been told by then.
        """
        self.gauges.take(report)
        new = [judged for judged in report.alarms if judged.look.key not in told]
        fault = self.messages.send(report, new) if self.messages and new else ""
        if self.file:
            self.gauges.write(self.file)
        return fault


class Monitor:
    """Judges windows of a task's requests.

    Args:
        task: the task. Its newest pushed version is judged.
        every: the time between two looks; None where a person looks.
        outlets: where reports go beside the screen.

    Raises:
        UserError: no version was pushed, its run or its evaluation is gone, or there are no records.
    """

    def __init__(self, task: Config, every: datetime.timedelta | None = None, outlets: Outlets | None = None):
        self._task, self._every, self._outlets = task, every, outlets or Outlets()
        self._known: tuple[int, Run, reference.Reference] | None = None
        if not task.records_folder.is_dir():
            raise UserError(
                f"{task.records_folder}: no requests are recorded yet. Write `serve: {{log: {{rate: 1}}}}` in the "
                "config and start `bertline serve` anew, or give a Client this folder as `log`."
            )

    @property
    def folder(self) -> Path:
        """Where the monitor keeps what it knows."""
        return self._task.root_folder / "monitor"

    def look(self, until: datetime.datetime | None = None) -> Report:
        """Judges the window that ends now, adds the report to the history, and passes it on.

        With `until` it judges one of the past, of which nobody is told.
        """
        release, run, held_against = self._model()
        options, end = self._task.monitor, until or datetime.datetime.now(datetime.UTC)
        length = options.window
        records = Records(self._task.records_folder, self._task.name, run.metrics.classes)
        window, *before = (
            records.window(end - length * (past + 1), end - length * past, release.version)
            for past in range(options.windows_before + 1)
        )
        reports = history.read(self.folder)
        known = history.open_since(reports, release.version)
        report = judge.judge(
            window,
            held_against,
            before,
            options,
            every=self._every,
            right=self._right(window, run),
            open_since=known,
            notes=records.reading.words(self._task.records_folder),
        )
        if until is not None:
            self._outlets.show(report, reports)
            return report
        told = known.keys() - history.untold(reports, release.version)
        if fault := self._outlets.take(report, told):  # before the history: a full disk keeps no alarm from people
            report.notes.append(fault)
        history.add(self.folder, report, {each.look.key for each in report.alarms} - told if fault else set())
        self._outlets.show(report, history.read(self.folder))
        return report

    def _model(self) -> tuple[Release, Run, reference.Reference]:
        """The version that is served, its run, and its test rows."""
        release = standing.served(self._task.serving_folder, self._task.serve.canary is not None)
        if release is None:
            raise UserError(f"{self._task.serving_folder} holds no pushed version to watch; `bertline run` makes one.")
        if self._known is None or self._known[0] != release.version:
            run = evaluated.read(self._task, _run_of(self._task, release.version))
            cache = self.folder / f"reference-{release.version}.parquet"
            self._known = release.version, run, reference.read(run.answers, Path(release.path), cache)
        return release, *self._known[1:]

    def _right(self, window: Window, run: Run) -> np.ndarray:
        """Whether the answers of the window whose labels have come were right, bool [labelled rows]."""
        labels = feedback.labels(self.folder)
        rows, ids = window.find(list(labels))
        classes = {name: place for place, name in enumerate(run.metrics.classes)}
        answers = window.labels[rows]
        if window.labels.ndim == 1:
            return np.array(
                [classes.get(labels[own]) == answer for own, answer in zip(ids, answers, strict=True)], bool
            )
        between = feedback.separator(self._task.data)
        sets = [{name for name, has in zip(classes, answer, strict=True) if has} for answer in answers]
        return np.array(
            [own == set(feedback.parts(labels[each], between)) for each, own in zip(ids, sets, strict=True)], bool
        )


def _run_of(task: Config, version: int) -> str:
    """The run that pushed a version."""
    store = lineage.Store(task)
    for run_id in store.newest_runs():
        if lineage.record(store, run_id).version == str(version):
            return run_id
    raise UserError(
        f"version {version} in {task.serving_folder} was pushed by no run under {task.root_folder}: its test rows are "
        "not known here. Watch it where it was made."
    )


# === The screen ===


def show(report: Report, shown: screen.Screen) -> None:
    """A window's verdict for a person."""
    span = f"{report.start:%Y-%m-%d %H:%M} to {report.end:%Y-%m-%d %H:%M} UTC"
    shown.print(f"{report.task}  version {report.version}  {span}", style="bold")
    times = report.milliseconds
    latency = f", p50 {times['p50']:.0f} ms, p99 {times['p99']:.0f} ms" if times else ""
    latency += f" (before: {times['p99_before']:.0f})" if "p99_before" in times else ""
    shown.print(screen.line("window", f"{report.answered:,} answers{latency}; {report.before} windows before"))
    for name, figure in report.accuracy.items():
        low, high = figure["interval"]
        words = f"{figure['accuracy']:.3f} ({low:.3f} to {high:.3f}), {figure['test']:.3f} on the test rows"
        shown.print(screen.line("accuracy", f"{name.removesuffix(' accuracy')} {words}"))
    for note in report.notes:
        shown.print(screen.line("note", note, style="yellow"))
    if report.small:
        shown.print(screen.line("small", report.small, style="yellow"))
        return
    shown.print(_table(report))
    named = set()
    for judged in report.alarms:
        _show_alarm(judged, shown, with_texts=judged.look.name not in named)
        named.add(judged.look.name)
    if not report.alarms:
        shown.print(
            screen.line("no alarm", f"{len(report.judged)} looks; a false alarm had a chance of {report.level:.1%}")
        )


def _table(report: Report) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(4):
        table.add_column(overflow="fold")
    for judged in report.judged:
        look = judged.look
        verdict = Text("ALARM", style="bold red") if judged.alarm else Text("as usual", style="green")
        if not judged.alarm and judged.adjusted <= report.level:
            verdict = Text("small", style="yellow")
        table.add_row(Text(f"  {look.name}", style="bold"), look.against, look.words, verdict)
    return table


def _show_alarm(judged: Judged, shown: screen.Screen, with_texts: bool) -> None:
    """An alarm; the texts of what is an alarm twice, against the test rows and the windows before, only once."""
    look = judged.look
    shown.print(Text.assemble(("ALARM", "bold red"), f"  {look.name} against {look.against}: {look.words}"))
    shown.print(f"  since the window of {judged.since:%Y-%m-%d %H:%M} UTC; by chance {judged.chance}")
    if not with_texts:
        return
    if judged.telling_words:
        shown.print(f"  words that tell them apart: {', '.join(judged.telling_words)}")
    for text in judged.texts:
        words = screen.excerpt(text["text"]) if text["text"] is not None else f"(no text is kept) id {text['id']}"
        shown.print(f"    {text['label']} {text['probability']:.2f}  {words}", style="dim")
    shown.print(f"  {judged.way_out}")


# === Again and again ===


def repeat(look: Callable[[], bool], pause: datetime.timedelta, shown: screen.Screen) -> bool:
    """Looks now and after each pause, until Ctrl-C or SIGTERM; returns what the last look said.

    What goes wrong at one look is said, and the next may go well.
    """
    ending, alarm = EndingSignal(), False
    while not ending.came:
        due = time.monotonic() + pause.total_seconds()
        try:
            alarm = look()
        except UserError as error:
            shown.print(str(error), style="red")
        ending.sleep(due - time.monotonic())
    return alarm
