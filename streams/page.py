"""A stream's page as one HTML file, which fetches nothing: entities by rank, timelines, surges, texts behind each."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
from markupsafe import Markup

from bertline.components.review_page import charts
from bertline.components.review_page import page as review_page
from bertline.monitoring import page as monitoring_page
from bertline.streams import surges
from bertline.streams.options import DAY
from bertline.streams.scoring import Named
from bertline.streams.store import ANY, Series, Store

FOLDER = Path(__file__).parent
SHOWN = 14 * DAY  # of the timelines
RANKED_BY = 7 * DAY
DRAWN, LISTED, TEXTS = 10, 50, 5  # timelines, surges, texts behind each


class Ranked(NamedTuple):
    """An entity on the page.

    `texts` of the last week, `before` of the week before, `negative` share by model (None without texts), `surges` in
    the time shown, `chart` or "", `shown` the newest texts.
    """

    name: str
    texts: int
    before: int
    negative: dict[str, float | None]
    surges: int
    chart: Markup | str
    shown: list[dict[str, Any]]


def render(
    store: Store, task: str, entities: Sequence[str], models: Sequence[Named], window: datetime.timedelta, made_at: str
) -> str:
    """The page.

    Args:
        store: the database.
        task: the config's name.
        entities: that are looked for.
        models: that score.
        window: the length of one.
        made_at: for the footer.
    """
    newest = store.newest()
    end = store.window_of(newest) + window if newest else None
    start = end and store.window_of(end - SHOWN)
    found = store.surges(start) if start else []
    return (
        review_page.environment(FOLDER, review_page.FOLDER)
        .get_template("stream.html.j2")
        .render(
            task=task,
            newest=newest,
            models=models,
            ranked=_ranked(store, entities, models, window, start, end, found) if end else [],
            surges=[_surge(store, row, window) for row in reversed(found)][:LISTED],
            more=max(len(found) - LISTED, 0),
            style=Markup(review_page.asset("page.css")),
            policy=monitoring_page.policy(),
            made_at=made_at,
            labels=surges.labels,
        )
    )


def _surge(store: Store, row: dict[str, Any], window: datetime.timedelta) -> dict[str, Any]:
    return {**row, "words": surges.words(row, window), "shown": store.texts_by_id(row["ids"][:TEXTS])}


def _ranked(
    store: Store,
    entities: Sequence[str],
    models: Sequence[Named],
    window: datetime.timedelta,
    start: datetime.datetime,
    end: datetime.datetime,
    found: Sequence[dict[str, Any]],
) -> list[Ranked]:
    """All texts, then the entities by their texts of the last week."""
    counts = store.counts(start, end)
    week = end - RANKED_BY
    starts = [start + window * number for number in range((end - start) // window)]

    def total(series: Series, since: datetime.datetime, until: datetime.datetime) -> int:
        return sum(texts for at, texts in counts.get(series, {}).items() if since <= at < until)

    def of(entity: str) -> Ranked:
        texts = total(Series(entity), week, end)
        negative = {
            model.name: sum(total(Series(entity, model.name, label), week, end) for label in model.negative) / texts
            if texts
            else None
            for model in models
        }
        own = [row for row in found if row["entity"] == entity]
        shown = store.texts(entity, max(store.window_of(end - DAY), start), end, 1000)[-TEXTS:]
        return Ranked(entity, texts, total(Series(entity), week - RANKED_BY, week), negative, len(own), "", shown)

    ranked = sorted((of(entity) for entity in entities), key=lambda each: (-each.texts, each.name))
    ranked = [of(ANY), *ranked]
    return [
        each._replace(chart=_timeline(each.name, starts, counts.get(Series(each.name), {}), found))
        if place <= DRAWN and each.texts
        else each
        for place, each in enumerate(ranked)
    ]


def _timeline(
    entity: str,
    starts: Sequence[datetime.datetime],
    texts: dict[datetime.datetime, int],
    found: Sequence[dict[str, Any]],
) -> Markup:
    """Texts by window, with surges of their number marked."""
    marked = {
        row["start"] for row in found if row["entity"] == entity and row["kind"] == surges.COUNT and not row["model"]
    }
    points = [{"time": f"{at:%Y-%m-%dT%H:%M:%SZ}", "texts": texts.get(at, 0), "surge": at in marked} for at in starts]
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("time:T", title=None, scale=alt.Scale(type="utc")), y=alt.Y("texts:Q", title="texts")
    )
    marks = base.transform_filter("datum.surge").mark_circle(color=charts.BAD, size=50, opacity=1)
    chart = base.mark_line(color=charts.FIRST, strokeWidth=1.2) + marks
    name = entity or "all texts"
    words = f"{sum(texts.values()):,} texts in {len(starts):,} windows, {len(marked)} of them surges."
    return charts.draw(chart, f"Texts of {name} by window", words, width=620, height=120)
