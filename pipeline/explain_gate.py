"""Why a run was blocked: by what, by how much, how sure that is, and which rows would need another answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bertline.components import estimates, gates, label_set_figures, label_sets
from bertline.components.answers import Answers, shown
from bertline.components.evaluation import ClassScores
from bertline.components.options import EvaluateOptions
from bertline.models import features
from bertline.pipeline import screen
from bertline.pipeline.evaluated import Run

SHOWN_ROWS = 10  # a person reads ten before looking for a pattern elsewhere


@dataclass(frozen=True)
class Change:
    """The rows that would let a model through a gate.

    Attributes:
        needed: how many rows, those nearest to being right first, need the right answer. None if even all rows that
            count are too few.
        rows: int [any], the positions of those rows in the table.
    """

    needed: int | None
    rows: np.ndarray


# === Which rows ===


def change(run: Run, verdict: dict[str, Any]) -> Change | None:
    """What would have to change for a verdict that blocks; None where no row is at fault, as with a model's size.

    The rows are sorted, nearest to being right first. A binary search finds the least k for which the gate passes once
    the first k are answered rightly.
    """
    rows = run.answers
    counting = _that_count(rows, verdict, run.options)
    if counting is None:
        return None
    nearest = np.flatnonzero(counting)[np.argsort(rows.distances[counting], kind="stable")]
    low, high = 1, len(nearest)
    if not high or not _passes(run, verdict, nearest):
        return Change(None, nearest)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _passes(run, verdict, nearest[:middle]) else (middle + 1, high)
    return Change(low, nearest[:low])


def _that_count(rows: Answers, verdict: dict[str, Any], options: EvaluateOptions) -> np.ndarray | None:
    """bool [rows], the wrong answers that a gate holds against the model; None if it holds none."""
    kind = verdict["kind"]
    if kind in ("max_calibration_error", "max_size") or kind.startswith("ranking."):
        return None
    wrong = ~rows.right
    if kind.startswith("fairness."):
        return wrong & _favoured_of_the_least(rows, kind, options)
    if kind.endswith("not_worse_by"):
        wrong &= rows.matches(rows.previous)
    return wrong & rows.slices[verdict["slice"]] if verdict["slice"] else wrong


def _favoured_of_the_least(rows: Answers, kind: str, options: EvaluateOptions) -> np.ndarray:
    """bool [rows], the rows of the favourable label in the group that gets this answer least often."""
    favoured, given = rows.having(rows.classes.index(options.gates.fairness.label))
    counted = favoured if kind == "fairness.equal_opportunity" else np.ones_like(favoured)
    names, sizes = np.unique(rows.groups[counted], return_counts=True)
    judged = names[sizes >= options.gates.slices.minimum_rows]
    least = min(judged, key=lambda name: np.mean(given[counted & (rows.groups == name)]))
    return favoured & (rows.groups == least)


def _passes(run: Run, verdict: dict[str, Any], righted: np.ndarray) -> bool:
    """Whether the verdict's gate passes once the rows `righted`, int [any], are answered rightly."""
    predicted = run.answers.predicted.copy()
    predicted[righted] = run.answers.labels[righted]
    changed = dataclasses.replace(run.answers, predicted=predicted)
    figures, bounds = _figures(changed)
    intervals = run.metrics.intervals.model_copy(update=bounds)
    metrics = run.metrics.model_copy(update={**figures, "intervals": intervals})

    def is_same(again: gates.Verdict) -> bool:
        label = again.metric == verdict["metric"] or again.kind != "label_f1"
        return label and (again.kind, again.slice) == (verdict["kind"], verdict["slice"])

    return all(again.passed for again in gates.judge(metrics, changed, run.options.gates) if is_same(again))


def _figures(rows: Answers) -> tuple[dict[str, Any], dict[str, estimates.Interval]]:
    """The figures of answers that the gates look at, and their intervals."""
    if rows.multi_label:
        return dict(label_set_figures.slice_figures(rows)), label_sets.intervals(rows.labels, rows.predicted)
    ones = np.ones(len(rows.labels), np.int64)
    f1 = estimates.class_counts(ones, rows.labels, rows.predicted, len(rows.classes)).f1
    per_class = {
        name: ClassScores(precision=None, recall=None, f1=None if np.isnan(value) else float(value))
        for name, value in zip(rows.classes, f1, strict=True)
    }
    return {**rows.scores(rows.predicted), "per_class": per_class}, estimates.intervals(rows.confusion)


# === In words ===


def show(run: Run, console: screen.Screen) -> None:
    """Prints what blocked a run, and the rows."""
    blocking = [verdict for verdict in run.verdicts if not verdict["passed"]]
    console.print(f"run {run.run_id}: ", end="")
    if run.canary:
        console.print(f"the gates passed, the canary did not: {run.canary}")
    elif not blocking:
        console.print(f"nothing blocked it; {len(run.verdicts)} gates passed")
    else:
        console.print(f"{len(blocking)} of {len(run.verdicts)} verdicts block it")
    for verdict in blocking:
        console.print(Group(*_explained(run, verdict)))


def _explained(run: Run, verdict: dict[str, Any]) -> Iterator[Any]:
    yield Text(f"\n{verdict['gate']}", style="bold red")
    yield Text(f"  {verdict['reason']}")
    if verdict["interval"]:
        low, high = verdict["interval"]
        yield Text(
            f"  measured {verdict['value']}, between {low:.3f} and {high:.3f}; missed by {verdict['missing']:.3g}"
        )
    if verdict["note"]:
        yield Text(f"  {verdict['note']}")
    remedy = change(run, verdict)
    if remedy is None:
        yield Text("  no single row would change that")
        return
    if remedy.needed is None:
        yield Text(f"  right answers to all {len(remedy.rows):,} rows that count would not do; nearest to being right:")
    else:
        yield Text(f"  {remedy.needed:,} more right answers would have let it pass; nearest to being right:")
    yield _rows_table(run, remedy.rows[:SHOWN_ROWS])


def _rows_table(run: Run, positions: np.ndarray) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for column in ("  row_id", "label", "answered", "short by", "text"):
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    rows, distances = run.answers, run.answers.distances
    for row in positions:
        row_id, text = (rows.columns[name][row] for name in (features.ROW_ID, features.TEXT))
        label, answered = map(shown, rows.names(np.stack([rows.labels[row], rows.predicted[row]])))
        row_id, label, answered, text = map(screen.excerpt, (row_id, label, answered, text))
        table.add_row(Text(f"  {row_id[:12]}"), Text(label), Text(answered), f"{distances[row]:.3f}", Text(text))
    return table
