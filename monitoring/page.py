"""The monitor's page: one file that fetches nothing, in words first, then timelines, alarms and their texts."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import altair as alt
from markupsafe import Markup

from bertline.components.review_page import charts, page
from bertline.errors import UserError
from bertline.monitoring.judge import Report
from bertline.serving import storage

WINDOWS = 60  # in the timelines: two months of days, and as many as a chart can show apart
ALARM, USUAL, SMALL = "alarm", "as usual", "too few answers"
COLOURS = {ALARM: charts.BAD, USUAL: charts.GOOD, SMALL: charts.GRID}
WIDE, ROW = 640, 16  # pixels: of a timeline, and of a look in it


def render(report: Report, reports: Sequence[dict[str, Any]], *, refresh: int | None = None) -> str:
    """The page.

    Args:
        report: of the newest window, with its texts.
        reports: of the windows so far as the history has them, the newest last.
        refresh: seconds after which a browser asks for it anew; None for a file.
    """
    shown, style = list(reports[-WINDOWS:]), page.asset("page.css")
    templates = page.environment(Path(__file__).parent, page.FOLDER)
    templates.filters["moment"] = "{:%Y-%m-%d %H:%M} UTC".format
    return templates.get_template("page.html.j2").render(
        {
            "report": report,
            "windows": [_window(each) for each in reversed(shown)],
            "accuracy_chart": _accuracy(shown) if any(each["accuracy"] for each in shown) else None,
            "looks_chart": _looks(shown) if any(each["looks"] for each in shown) else None,
            "style": Markup(style),
            "policy": policy(),
            "refresh": refresh,
        }
    )


def policy() -> str:
    """The Content-Security-Policy under which the page's own style works, and nothing else."""
    return f"default-src 'none'; style-src '{page.source(page.asset('page.css'))}'; base-uri 'none'; form-action 'none'"


def write(file: Path, html: str) -> None:
    """Writes the page, whole or not at all, so that only its owner can read it, as the records.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with storage.writing_whole(file, 0o600) as unfinished:
            unfinished.write_text(html, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error


def _end(report: dict[str, Any]) -> datetime.datetime:
    return datetime.datetime.fromisoformat(report["end"])


def _window(report: dict[str, Any]) -> dict[str, Any]:
    """A row of the table of windows."""
    alarms = [f"{look['look']} against {look['against']}: {look['what']}" for look in report["looks"] if look["alarm"]]
    figures = dict.fromkeys(("estimated", "measured"))
    figures |= {name.removesuffix(" accuracy"): each["accuracy"] for name, each in report["accuracy"].items()}
    return {**report, "end": _end(report), "alarms": alarms, "figures": figures}


# === Timelines ===


def _versions(reports: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The windows in which another version is judged than in the one before, but for the first."""
    return [
        {"end": now["end"], "name": f"version {now['version']}"}
        for was, now in pairwise(reports)
        if was["version"] != now["version"]
    ]


def _marked(chart: Any, reports: Sequence[dict[str, Any]]) -> Any:
    """A timeline with a line where a new version begins."""
    if not (versions := _versions(reports)):
        return chart
    base = alt.Chart(alt.Data(values=versions)).encode(x="end:T")
    label = base.mark_text(align="left", dx=3, dy=-4, fontSize=10, color=charts.INK)
    return chart + base.mark_rule(color=charts.INK, strokeDash=[2, 3]) + label.encode(text="name:N", y=alt.value(8))


def _accuracy(reports: Sequence[dict[str, Any]]) -> Markup:
    """Estimated and measured accuracy with their intervals, beside that of the test rows."""
    points, test = [], []
    for report in reports:
        for name, figure in report["accuracy"].items():
            low, high = figure["interval"]
            kind = name.removesuffix(" accuracy")
            points.append({"end": report["end"], "kind": kind, "low": low, "high": high, "value": figure["accuracy"]})
            test.append({"end": report["end"], "value": figure["test"]})
    when = alt.X("end:T", title="end of the window")
    colour = alt.Color(
        "kind:N", title=None, scale=alt.Scale(domain=["estimated", "measured"], range=[charts.FIRST, charts.SECOND])
    )
    scale = alt.Scale(zero=False)
    base = alt.Chart(alt.Data(values=points)).encode(x=when, color=colour)
    band = base.mark_errorbar(thickness=1.5, opacity=0.6).encode(
        y=alt.Y("low:Q", title="accuracy", scale=scale), y2="high:Q"
    )
    dots = base.mark_line(point=True, strokeWidth=1.5).encode(y=alt.Y("value:Q", scale=scale))
    known = alt.Chart(alt.Data(values=test)).mark_line(color=charts.INK, strokeDash=[4, 3], interpolate="step-after")
    chart = _marked(band + dots + known.encode(x=when, y=alt.Y("value:Q", scale=scale)), reports)
    last = ", ".join(f"{point['kind']} {point['value']:.3f}" for point in points if point["end"] == reports[-1]["end"])
    return charts.draw(
        chart, "Accuracy", f"In the newest window: {last}; dashed, that of the test rows.", width=WIDE, height=180
    )


def _looks(reports: Sequence[dict[str, Any]]) -> Markup:
    """What was an alarm in which window: a row for each look, a cell for each window."""
    names = list(dict.fromkeys(_name(look) for report in reversed(reports) for look in report["looks"]))
    cells = []
    for place, report in enumerate(reports):
        found = {_name(look): ALARM if look["alarm"] else USUAL for look in report["looks"]}
        at = f"{_end(report):%m-%d %H:%M}"
        cells += [{"place": place, "end": at, "look": name, "is": found.get(name, SMALL)} for name in names]
    order = list(dict.fromkeys(cell["end"] for cell in cells))
    chart = (
        alt.Chart(alt.Data(values=cells))
        .mark_rect(stroke=charts.GRID, strokeWidth=1)
        .encode(
            x=alt.X("end:O", title=None, sort=order, axis=alt.Axis(labelOverlap=True, labelAngle=-40)),
            y=alt.Y("look:N", title=None, sort=names, axis=alt.Axis(labelLimit=260)),
            color=alt.Color("is:N", title=None, scale=alt.Scale(domain=[*COLOURS], range=[*COLOURS.values()])),
        )
    )
    alarms = sum(cell["is"] == ALARM for cell in cells)
    chart = chart.properties(padding={"left": 24, "top": 5, "right": 5, "bottom": 5})  # the names' width is estimated
    words = f"{len(names)} looks in {len(reports)} windows, {alarms} times an alarm."
    return charts.draw(chart, "What was an alarm when", words, width=WIDE, height=ROW * len(names))


def _name(look: dict[str, Any]) -> str:
    return f"{look['look']}, {look['against']}"
