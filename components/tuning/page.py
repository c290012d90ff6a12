"""The page of a search: one HTML file with the trials, what mattered, and what accuracy costs; it fetches nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
from markupsafe import Markup

from bertline.components.review_page import charts, page
from bertline.components.tuning.trials import Outcome, Trial

FOLDER = Path(__file__).parent
STATES = {"complete": charts.FIRST, "pruned": charts.SECOND}


def render(name: str, outcome: Outcome, made_at: str) -> str:
    """The page.

    Args:
        name: the task's.
        outcome: of the search, with a complete trial.
        made_at: for the footer.
    """
    style, script = page.asset("page.css"), page.asset("sort.js")
    figures = [trial for trial in outcome.trials if trial.loss is not None]
    complete = [trial for trial in outcome.trials if trial.state == "complete"]
    return (
        page.environment(FOLDER, page.FOLDER)
        .get_template("tuning.html.j2")
        .render(
            name=name,
            outcome=outcome,
            keys=list(dict.fromkeys(each.key for each in outcome.space.dimensions)),
            history=_history(figures),
            history_points=[(trial.number, trial.state, trial.loss) for trial in figures],
            importances=_importances(outcome.importances) if outcome.importances else "",
            trade_off=_trade_off(complete, outcome.best),
            trade_off_points=[(trial.number, trial.seconds, trial.accuracy) for trial in complete],
            made_at=made_at,
            style=Markup(style),
            script=Markup(script),
            policy=page.policy(style, script),
        )
    )


def _history(trials: list[Trial]) -> Markup:
    """The loss of each trial, and the least so far."""
    points = [{"trial": trial.number, "loss": trial.loss, "state": trial.state} for trial in trials]
    least, best = [], float("inf")
    for trial in trials:
        if trial.state == "complete":
            best = min(best, trial.loss)
            least.append({"trial": trial.number, "loss": best})
    x = alt.X("trial:Q", title="trial", axis=alt.Axis(tickMinStep=1, format="d"))
    y = alt.Y("loss:Q", title="validation loss", scale=alt.Scale(zero=False))
    line = alt.Chart(alt.Data(values=least)).mark_line(color=charts.INK, interpolate="step-after", strokeDash=[3, 3])
    colour = alt.Color("state:N", title=None, scale=alt.Scale(domain=list(STATES), range=list(STATES.values())))
    dots = alt.Chart(alt.Data(values=points)).mark_circle(size=60, opacity=1).encode(x=x, y=y, color=colour)
    description = f"{len(trials)} trials; the dashed line is the least loss so far, {best:.4f} in the end."
    return charts.draw(line.encode(x=x, y=y) + dots, "Validation loss by trial", description)


def _importances(importances: dict[str, float]) -> Markup:
    """What share of the losses' spread each key explains."""
    bars = [{"key": key, "share": share} for key, share in importances.items()]
    chart = (
        alt.Chart(alt.Data(values=bars))
        .mark_bar(color=charts.FIRST)
        .encode(
            x=alt.X("share:Q", title="share of the losses' spread", axis=alt.Axis(format="%", tickCount=4)),
            y=alt.Y("key:N", title=None, sort=[bar["key"] for bar in bars]),
        )
    )
    described = ", ".join(f"{key} {share:.0%}" for key, share in importances.items())
    return charts.draw(chart, "What mattered", described, width=170, height=24 * len(bars) + 10)


def _trade_off(trials: list[Trial], best: Trial) -> Markup:
    """Accuracy by the time of training; the config itself and the best trial stand out."""
    points: list[dict[str, Any]] = [
        {"seconds": trial.seconds, "accuracy": trial.accuracy, "which": _which(trial, best)}
        for trial in trials
        if trial.seconds
    ]
    kinds = {"other trials": charts.INK, "the config itself": charts.SECOND, "the best loss": charts.GOOD}
    chart = (
        alt.Chart(alt.Data(values=points))
        .mark_circle(size=80, opacity=0.9)
        .encode(
            x=alt.X("seconds:Q", title="seconds of training", scale=alt.Scale(zero=False)),
            y=alt.Y("accuracy:Q", title="accuracy on validation rows", scale=alt.Scale(zero=False)),
            color=alt.Color("which:N", title=None, scale=alt.Scale(domain=list(kinds), range=list(kinds.values()))),
        )
    )
    description = f"The best loss has an accuracy of {best.accuracy:.3f} in {best.seconds:.0f} s."
    return charts.draw(chart, "Accuracy by time of training", description)


def _which(trial: Trial, best: Trial) -> str:
    if trial is best:
        return "the best loss"
    return "the config itself" if trial.number == 1 else "other trials"
