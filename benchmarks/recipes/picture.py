"""The picture of docs/recipes.md: what fine-tuning adds to the probe, by the rows that there are."""

from __future__ import annotations

import altair as alt
import vl_convert

from benchmarks.recipes import methods
from benchmarks.recipes.cells import Cell

WIDTH, HEIGHT = 560, 300
TICKS = [8, 16, 50, 100, 300, 1000, 3000, 10000]
_VEGALITE = "6.4"  # the schema that Altair 6 writes


def points(cells: list[Cell]) -> list[dict[str, object]]:
    """A point for each cell where both were measured, with its standard error."""
    found = []
    for cell in cells:
        method = tuned(cell)
        if method and (difference := cell.difference(method, cell.rivals[1])):
            value, error = 100 * difference.value, 100 * difference.error
            about = {"set": cell.set, "rows": cell.rows_a_label}
            found.append({**about, "points": value, "low": value - error, "high": value + error})
    return found


def tuned(cell: Cell) -> str | None:
    """The fine-tuning that stands for a cell: what init writes, or where that is the probe, the best that was tried."""
    if cell.by_init not in cell.rivals and cell.by_init in cell.results:
        return cell.by_init
    tried = [method for method in cell.results if methods.tunes(method, foreign=cell.any.foreign)]
    return max(tried, key=cell.mean, default=None)


def draw(cells: list[Cell]) -> str:
    """The picture as SVG."""
    title = "fine-tuning less the probe, points of accuracy"
    scale = alt.Scale(type="log", domain=[TICKS[0] * 0.8, TICKS[-1]], nice=False)
    x = alt.X("rows:Q", title="training rows for each label", scale=scale, axis=alt.Axis(values=TICKS))
    colour = alt.Color("set:N", title=None, legend=alt.Legend(symbolOpacity=1))
    base = alt.Chart(alt.Data(values=points(cells))).encode(x=x, color=colour)
    zero = alt.Chart(alt.Data(values=[{"y": 0}])).mark_rule(color="#555", strokeDash=[4, 3])
    bars = base.mark_rule(opacity=0.35).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    lines = base.mark_line(point=True).encode(y=alt.Y("points:Q", title=title))
    layers = zero.encode(y=alt.Y("y:Q", title=title)) + bars + lines
    chart = layers.properties(width=WIDTH, height=HEIGHT, background="white")
    return vl_convert.vegalite_to_svg(chart.to_dict(validate=False), vl_version=_VEGALITE)
