"""Charts as static SVG: drawn by Vega-Altair when the page is built, without a browser, a script or the network."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup, escape

from bertline.components.evaluation import Cell
from bertline.components.review_page.figures import Slice

# A chart this wide stands on a phone without being scaled; wider windows put several in a row.
WIDTH, HEIGHT = 290, 210
PANEL_WIDTH, PANEL_HEIGHT = 210, 150
# The page's colours differ by light and dark, which a drawn SVG cannot: Altair takes only fixed colours, so each stands
# for one of the page's until the SVG is drawn.
INK, GRID, FIRST, SECOND, GOOD, BAD = (f"#00000{digit}" for digit in range(1, 7))
_PAGE_COLOURS = {
    INK: "currentColor",
    GRID: "var(--line)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    GOOD: "var(--good)",
    BAD: "var(--bad)",
}
LEAST_SPAN = 0.05  # of an axis that does not start at zero
_VEGALITE = "6.4"  # the schema that Altair 6 writes
_FONT = "system-ui, sans-serif"
_UNIT = alt.Scale(domain=[0, 1])


def _axis(name: str, title: str, channel: type = alt.X) -> Any:
    return channel(f"{name}:Q", title=title, scale=_UNIT)


def _data(rows: list[dict[str, Any]]) -> alt.Data:
    """Rows for a chart; what is not a number, such as the loss of a training that diverged, is left out of it."""
    return alt.Data(values=[{key: None if value != value else value for key, value in row.items()} for row in rows])


def _numbered(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Points of a line in their order, which is not that of either axis."""
    return [{**point, "i": number} for number, point in enumerate(points)]


def _colours(field: str, names: list[str], colours: list[str]) -> alt.Color:
    return alt.Color(f"{field}:N", title=None, scale=alt.Scale(domain=names, range=colours))


def draw(chart: Any, title: str, description: str, *, width: int = WIDTH, height: int = HEIGHT) -> Markup:
    """An inline SVG of a chart, readable by screen readers as one image.

    Args:
        chart: of Altair.
        title: the image's name.
        description: what it shows, in a sentence with the figures that matter.
        width: of the plot, in pixels at the natural size.
        height: likewise.
    """
    styled = chart.properties(width=width, height=height, background="transparent").configure(
        font=_FONT,
        axis=alt.AxisConfig(
            labelColor=INK, titleColor=INK, gridColor=GRID, domainColor=GRID, tickColor=GRID, labelFontSize=11,
            titleFontSize=11, titleFontWeight="normal", labelLimit=150, titlePadding=6, tickCount=5,
        ),
        legend=alt.LegendConfig(labelColor=INK, orient="top", labelFontSize=11, labelLimit=250, columnPadding=18),
        view=alt.ViewConfig(stroke="transparent"),
    )  # fmt: skip
    svg = vl_convert.vegalite_to_svg(styled.to_dict(validate=False), vl_version=_VEGALITE)
    for drawn, shown in _PAGE_COLOURS.items():
        svg = svg.replace(f'"{drawn}"', f'"{shown}"')
    return _inline(svg, title, description)


def _inline(svg: str, title: str, description: str) -> Markup:
    """Vega's SVG as a part of the page: one image to a screen reader, as wide as its place allows."""
    opening, body = re.match(r"<svg ([^>]*)>(.*)</svg>\s*$", svg, re.DOTALL).groups()
    box = re.search(r'viewBox="([^"]*)"', opening).group(1)
    # Vega names a role for each mark; inside one image they say nothing.
    body = re.sub(r' (role|aria-roledescription|aria-hidden|class)="[^"]*"', "", body)
    width, height = (float(number) for number in box.split()[2:])
    return Markup('<svg class="chart" role="img" viewBox="{}" width="{:.0f}" height="{:.0f}">').format(
        box, width, height
    ) + Markup(f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{body}</svg>")


def _diagonal() -> alt.Chart:
    ends = _data([{"x": 0, "y": 0}, {"x": 1, "y": 1}])
    return alt.Chart(ends).mark_line(color=INK, strokeDash=[3, 3], strokeWidth=1, opacity=0.6).encode(x="x:Q", y="y:Q")


# === Confidence ===


def reliability(bins: list[dict[str, float]], error: float) -> Markup:
    """Accuracy by confidence; a calibrated model's points lie on the diagonal."""
    base = alt.Chart(_data(bins)).encode(
        x=_axis("confidence", "probability of the answer"), y=_axis("accuracy", "share of right answers", alt.Y)
    )
    points = base.mark_circle(color=FIRST, opacity=0.9).encode(
        size=alt.Size("rows:Q", legend=None, scale=alt.Scale(range=[20, 260]))
    )
    chart = _diagonal() + base.mark_line(color=FIRST, strokeWidth=2) + points
    return draw(
        chart, "Reliability diagram", f"Share of right answers by their probability; calibration error {error:.3f}."
    )


def confidence_histogram(bars: list[dict[str, Any]]) -> Markup:
    """Rows by the probability of the answer, right and wrong ones."""
    chart = (
        alt.Chart(_data(bars))
        .mark_bar()
        .encode(
            x=alt.X("low:Q", title="probability of the answer", scale=_UNIT, bin="binned", axis=alt.Axis(tickCount=5)),
            x2="high",
            y=alt.Y("rows:Q", title="test rows"),
            color=_colours("group", ["right", "wrong"], [FIRST, BAD]),
            order=alt.Order("group:N"),
        )
    )
    wrong = sum(bar["rows"] for bar in bars if bar["group"] == "wrong")
    return draw(chart, "Answers by their probability", f"Right and wrong answers in bars; {wrong:,} are wrong.")


def coverage(points: list[dict[str, Any]]) -> Markup:
    """Accuracy and coverage by the threshold below which the model abstains."""
    lines = [
        {"threshold": point["threshold"], "line": line, "value": point[line]}
        for line in ("accuracy", "coverage")
        for point in points
        if point[line] is not None
    ]
    chart = (
        alt.Chart(_data(lines))
        .mark_line(strokeWidth=2)
        .encode(
            x=_axis("threshold", "answer only from this probability on"),
            y=_axis("value", "share of rows", alt.Y),
            color=_colours("line", ["accuracy", "coverage"], [FIRST, SECOND]),
        )
    )
    return draw(chart, "Accuracy and coverage by threshold", "The table below holds every point.")


def reliability_before_and_after(points: list[dict[str, Any]], temperature: float) -> Markup:
    """Accuracy by confidence, on each `side` of the temperature ("before", "after")."""
    base = alt.Chart(_data(points)).encode(
        x=_axis("confidence", "probability of the answer"),
        y=_axis("accuracy", "share of right answers", alt.Y),
        color=_colours("side", ["before", "after"], [SECOND, FIRST]),
    )
    sized = base.mark_circle(opacity=0.9).encode(size=alt.Size("rows:Q", legend=None, scale=alt.Scale(range=[20, 260])))
    description = f"The logits are divided by {temperature:.3f}."
    return draw(
        _diagonal() + base.mark_line(strokeWidth=2) + sized, "Reliability before and after the temperature", description
    )


def risk_by_coverage(points: list[dict[str, Any]], threshold: float | None) -> Markup:
    """Errors among the answers by the share answered (El-Yaniv and Wiener 2010), the model's threshold as a point."""
    curve = [
        {"coverage": point["coverage"], "risk": 1 - point["accuracy"], "threshold": point["threshold"]}
        for point in points
        if point["accuracy"] is not None
    ]
    x = _axis("coverage", "share of rows answered")
    y = alt.Y("risk:Q", title="share of wrong answers", axis=alt.Axis(tickCount=5))
    line = alt.Chart(_data(curve)).mark_line(color=FIRST, strokeWidth=2)
    chart = line.encode(x=x, y=y, order=alt.Order("threshold:Q"))
    description = "Fewer answers, fewer of them wrong; the table holds figures."
    if threshold is not None:
        nearest = min(curve, key=lambda each: abs(each["threshold"] - threshold))
        chart += alt.Chart(_data([nearest])).mark_point(color=BAD, size=90, filled=True, opacity=1).encode(x=x, y=y)
        description = f"The point is the model's threshold, {threshold:g}."
    return draw(chart, "Wrong answers by coverage", description)


# === Classes ===


def precision_recall(points: list[dict[str, float]], name: str, area: float, share: float) -> Markup:
    """A class's precision-recall curve, with the precision of guessing as a dashed line."""
    curve = (
        alt.Chart(_data(_numbered(points)))
        .mark_line(color=FIRST, strokeWidth=2, interpolate="step-after")
        .encode(
            x=_axis("recall", "recall"), y=_axis("precision", "precision", alt.Y), order=alt.Order("i:Q")
        )
    )  # fmt: skip
    guess = alt.Chart(_data([{"y": share}])).mark_rule(color=INK, strokeDash=[3, 3], opacity=0.6).encode(y="y:Q")
    return draw(
        guess + curve,
        f"Precision-recall curve of {name}",
        f"Average precision {area:.3f}; guessing gives {share:.3f}.",
        width=PANEL_WIDTH,
        height=PANEL_HEIGHT,
    )


def roc(points: list[dict[str, float]], name: str, area: float) -> Markup:
    """A class's ROC curve; guessing is the diagonal."""
    curve = (
        alt.Chart(_data(_numbered(points)))
        .mark_line(color=FIRST, strokeWidth=2)
        .encode(
            x=_axis("false_positive_rate", "false positive rate"),
            y=_axis("true_positive_rate", "true positive rate", alt.Y),
            order=alt.Order("i:Q"),
        )
    )
    return draw(
        _diagonal() + curve, f"ROC curve of {name}", f"Area {area:.3f}.", width=PANEL_WIDTH, height=PANEL_HEIGHT
    )


def class_scores(bars: list[dict[str, Any]], name: str) -> Markup:
    """The probability of a class in its own rows and in the others, each group as shares of itself."""
    chart = (
        alt.Chart(_data(bars))
        .mark_bar(opacity=0.6)
        .encode(
            x=alt.X("low:Q", title="probability of the class", scale=_UNIT, bin="binned", axis=alt.Axis(tickCount=5)),
            x2="high",
            y=alt.Y("share:Q", title="share of its group", stack=None, axis=alt.Axis(format="%", tickCount=4)),
            color=_colours("group", ["rows of the class", "other rows"], [FIRST, SECOND]),
        )
    )
    description = "Shares of the class's own rows and of the others, by the probability that the model gives the class."
    return draw(chart, f"Scores of {name}", description, width=PANEL_WIDTH, height=PANEL_HEIGHT)


def heat_map(cells: list[tuple[Cell, float]], labels: list[int]) -> Markup:
    """A confusion matrix of many classes: cells without names, darker for a larger share of the true label's rows.

    Args:
        cells: each with its share.
        labels: indices of the labels to draw, in their order.
    """
    drawn = [
        {"true": cell.true, "answered": cell.answered, "share": share, "right": cell.true == cell.answered}
        for cell, share in cells
    ]
    bare = alt.Axis(labels=False, ticks=False)
    chart = (
        alt.Chart(_data(drawn))
        .mark_rect()
        .encode(
            x=alt.X("answered:O", title="answered", axis=bare, scale=alt.Scale(domain=labels)),
            y=alt.Y("true:O", title="true label", axis=bare, scale=alt.Scale(domain=labels)),
            opacity=alt.Opacity("share:Q", legend=None, scale=alt.Scale(domain=[0, 1], range=[0.3, 1])),
            color=alt.Color("right:N", legend=None, scale=alt.Scale(domain=[True, False], range=[FIRST, BAD])),
        )
    )
    description = f"{len(labels)} by {len(labels)} cells; the diagonal is right. The commonest confusions are listed."
    return draw(chart, "Confusion matrix", description, width=320, height=320)


# === Slices, training, past runs, texts ===


def slice_intervals(slices: list[Slice], overall: float) -> Markup:
    """Accuracy of each slice with its 95% interval, against that of all rows."""
    rows = [
        {"name": each.name, "accuracy": each.figures.accuracy, "low": each.interval[0], "high": each.interval[1]}
        for each in slices
    ]
    names = [row["name"] for row in rows]
    y = alt.Y("name:N", title=None, sort=names)
    base = alt.Chart(_data(rows))
    bounds = [overall, *(row["low"] for row in rows), *(row["high"] for row in rows)]
    line = base.mark_rule(color=FIRST, strokeWidth=2).encode(x=_span("low", "accuracy", bounds), x2="high:Q", y=y)
    points = base.mark_circle(color=FIRST, size=70, opacity=1).encode(x=_span("accuracy", "accuracy", bounds), y=y)
    whole = alt.Chart(_data([{"x": overall}])).mark_rule(color=INK, strokeDash=[3, 3]).encode(x="x:Q")
    description = f"Lowest first; the dashed line is all rows, {overall:.3f}. The table holds every figure."
    return draw(whole + line + points, "Accuracy by slice", description, width=230, height=24 * len(rows) + 10)


def _span(name: str, title: str, values: Iterable[float], channel: type = alt.X) -> Any:
    """An axis around `values`, wide enough that figures all but equal do not look far apart."""
    known = [value for value in values if math.isfinite(value)] or [0.0]
    middle, half = (min(known) + max(known)) / 2, max((max(known) - min(known)) * 0.55, LEAST_SPAN / 2)
    scale = alt.Scale(domain=[middle - half, middle + half], nice=True, zero=False)
    return channel(f"{name}:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5))


def training(epochs: list[dict[str, float]]) -> Markup:
    """Loss on training and validation rows, an epoch a point."""
    series = {"train_loss": "training", "validation_loss": "validation"}
    points = [
        {"epoch": epoch["epoch"], "loss": epoch[key], "rows": rows} for epoch in epochs for key, rows in series.items()
    ]
    chart = (
        alt.Chart(_data(points))
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=45))
        .encode(
            x=alt.X("epoch:O", title="epoch", axis=alt.Axis(labelAngle=0)),
            y=_span("loss", "loss", (point["loss"] for point in points), alt.Y),
            color=_colours("rows", list(series.values()), [FIRST, SECOND]),
        )
    )
    return draw(chart, "Loss by epoch", f"Training and validation rows, {len(epochs)} epochs.")


def validation_accuracy(epochs: list[dict[str, float]]) -> Markup:
    """Accuracy on the validation rows, an epoch a point."""
    accuracies = [epoch["validation_accuracy"] for epoch in epochs]
    chart = (
        alt.Chart(_data(epochs))
        .mark_line(color=SECOND, strokeWidth=2, point=alt.OverlayMarkDef(size=45, color=SECOND))
        .encode(
            x=alt.X("epoch:O", title="epoch", axis=alt.Axis(labelAngle=0)),
            y=_span("validation_accuracy", "accuracy on the validation rows", accuracies, alt.Y),
        )
    )
    return draw(chart, "Validation accuracy by epoch", f"After the last epoch {accuracies[-1]:.3f}.")


def history(runs: list[dict[str, Any]]) -> Markup:
    """Accuracy and macro-F1 of past runs and this one, with their intervals."""
    names = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
    points = [
        {"run": number, "metric": shown, "value": run[key], "low": run["intervals"][key][0],
         "high": run["intervals"][key][1]}
        for number, run in enumerate(runs, 1) for key, shown in names.items()
    ]  # fmt: skip
    base = alt.Chart(_data(points)).encode(
        x=alt.X("run:O", title="run (numbered as in the table)", axis=alt.Axis(labelAngle=0)),
        color=_colours("metric", list(names.values()), [FIRST, SECOND]),
        xOffset=alt.XOffset("metric:N"),
    )
    bounds = [point[bound] for point in points for bound in ("low", "high")]
    bars = base.mark_rule(strokeWidth=2).encode(y=_span("low", "score", bounds, alt.Y), y2="high:Q")
    chart = bars + base.mark_circle(size=60, opacity=1).encode(y=_span("value", "score", bounds, alt.Y))
    return draw(chart, "Figures by run", f"{len(runs)} runs, the last one is this run. The table holds every figure.")


def text_lengths(bars: list[dict[str, Any]], max_length: int) -> Markup:
    """Training texts by their length in tokens."""
    labels = [
        f"{bar['from']}-{after['from'] - 1}" for bar, after in itertools.pairwise(bars)
    ] + [f"{bars[-1]['from']}+"]  # fmt: skip
    rows = [{"tokens": label, "rows": bar["rows"]} for label, bar in zip(labels, bars, strict=True)]
    chart = (
        alt.Chart(_data(rows))
        .mark_bar(color=FIRST)
        .encode(
            x=alt.X("tokens:O", title="tokens", sort=labels, axis=alt.Axis(labelAngle=-45)),
            y=alt.Y("rows:Q", title="training rows"),
        )
    )
    return draw(chart, "Length of the training texts", f"In tokens; texts are cut off at {max_length}.")


# === Compression ===


def trade(models: list[dict[str, Any]]) -> Markup:
    """Accuracy by speed of each model that was timed, and the accuracy of each other one as a line.

    Args:
        models: each `name`, `accuracy`, `interval` and `examples_per_second`, which may be None.
    """
    rows = [{**each, "low": each["interval"][0], "high": each["interval"][1]} for each in models]
    timed = [row for row in rows if row["examples_per_second"] is not None]
    lines = [row for row in rows if row["examples_per_second"] is None]
    lowest, highest = min(row["low"] for row in rows), max(row["high"] for row in rows)
    y = alt.Scale(domain=[lowest, max(highest, lowest + LEAST_SPAN)], nice=True)
    x = alt.X("examples_per_second:Q", title="examples a second", scale=alt.Scale(zero=True, nice=True))
    base = alt.Chart(_data(timed)).encode(x=x, color=_colours("name", ["teacher", "student"], [SECOND, FIRST]))
    chart = (
        base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title="accuracy", scale=y), y2="high:Q")
        + base.mark_circle(size=90, opacity=1).encode(y=alt.Y("accuracy:Q", scale=y))
        + alt.Chart(_data(lines)).mark_rule(color=INK, strokeDash=[3, 3], opacity=0.6).encode(y="accuracy:Q")
    )
    told = "; ".join(
        f"{each['name']} {each['accuracy']:.3f}"
        + (f" at {each['examples_per_second']:.0f} examples a second" if each["examples_per_second"] else "")
        for each in models
    )
    return draw(chart, "Accuracy and speed", f"{told}.")
