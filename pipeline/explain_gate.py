"""Why a run was blocked: what, by how much, how sure that is, and which rows would have to be answered otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bertline.components import estimates, gates
from bertline.components.answers import Answers
from bertline.components.options import EvaluateOptions
from bertline.models import features
from bertline.pipeline import screen
from bertline.pipeline.evaluated import Run

SHOWN_ROWS = 10  # a person reads ten before looking for a pattern elsewhere


@dataclass(frozen=True)
class Change:
    """The rows that would let a model through a gate.

    Attributes:
      needed: how many rows, nearest to being right first, would have to be answered rightly; None if all that count
        would not do.
      rows: of those, int [any], positions in the table.
    """

    needed: int | None
    rows: np.ndarray


# === Which rows ===


def change(run: Run, verdict: dict[str, Any]) -> Change | None:
    """What would have to change for a verdict that blocks; None where no row is at fault, as with a model's size.

    The rows are tried nearest first: the gate is asked again with the first k answered rightly, and k is halved in on.
    """
    rows = run.answers
    counting = _that_count(rows, verdict, run.options)
    if counting is None:
        return None
    nearest = np.flatnonzero(counting)[np.argsort(_distances(rows)[counting], kind="stable")]
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
    if kind in ("max_calibration_error", "max_size"):
        return None
    wrong = ~rows.right
    if kind.startswith("fairness."):
        return wrong & _favoured_of_the_least(rows, kind, options)
    if kind.endswith("not_worse_by"):
        wrong &= rows.previous == rows.labels
    return wrong & rows.slices[verdict["slice"]] if verdict["slice"] else wrong


def _favoured_of_the_least(rows: Answers, kind: str, options: EvaluateOptions) -> np.ndarray:
    """bool [rows], the rows of the favourable label in the group that it is answered for least."""
    favourable = rows.classes.index(options.gates.fairness.label)
    favoured = rows.labels == favourable
    counted = favoured if kind == "fairness.equal_opportunity" else np.ones_like(favoured)
    names, sizes = np.unique(rows.groups[counted], return_counts=True)
    judged = names[sizes >= options.gates.slices.minimum_rows]
    least = min(judged, key=lambda name: np.mean((rows.predicted == favourable)[counted & (rows.groups == name)]))
    return favoured & (rows.groups == least)


def _distances(rows: Answers) -> np.ndarray:
    """float64 [rows], how far the true label's probability is below the answer's."""
    return rows.confidence - rows.probabilities[np.arange(len(rows.labels)), rows.labels]


def _passes(run: Run, verdict: dict[str, Any], righted: np.ndarray) -> bool:
    """Whether the verdict's gate passes once the rows `righted`, int [any], are answered rightly."""
    predicted = run.answers.predicted.copy()
    predicted[righted] = run.answers.labels[righted]
    changed = dataclasses.replace(run.answers, predicted=predicted)
    intervals = run.metrics.intervals.model_copy(update=estimates.intervals(changed.confusion))
    scores = estimates.scores(changed.labels, changed.predicted, len(changed.classes))
    metrics = run.metrics.model_copy(update={**scores, "intervals": intervals})
    same = (verdict["kind"], verdict["slice"])
    return all(
        found.passed for found in gates.judge(metrics, changed, run.options.gates) if (found.kind, found.slice) == same
    )


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
        yield Text(f"  found {verdict['value']}, between {low:.3f} and {high:.3f}; missed by {verdict['missing']:.3g}")
    if verdict["note"]:
        yield Text(f"  {verdict['note']}")
    found = change(run, verdict)
    if found is None:
        yield Text("  no single row would change that")
        return
    if found.needed is None:
        yield Text(
            f"  all {len(found.rows):,} rows that count against it answered rightly would not do; the nearest to it:"
        )
    else:
        yield Text(
            f"  {found.needed:,} more rows answered rightly would have let it pass; these are the nearest to it:"
        )
    yield _rows_table(run, found.rows[:SHOWN_ROWS])


def _rows_table(run: Run, positions: np.ndarray) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for column in ("  row_id", "label", "answered", "short by", "text"):
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    rows, distances = run.answers, _distances(run.answers)
    for row in positions:
        row_id, text = (rows.columns[name][row] for name in (features.ROW_ID, features.TEXT))
        label, answered = rows.names([rows.labels[row], rows.predicted[row]])
        row_id, label, answered, text = map(screen.excerpt, (row_id, label, answered, text))
        table.add_row(Text(f"  {row_id[:12]}"), Text(label), Text(answered), f"{distances[row]:.3f}", Text(text))
    return table
