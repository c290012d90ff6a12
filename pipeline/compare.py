"""Two runs side by side on the rows that both were tested on: figures, slices, and the rows whose answer changed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from bertline.components import answers, estimates, gates
from bertline.errors import UserError
from bertline.models import features
from bertline.pipeline import screen
from bertline.pipeline.evaluated import Run

SHOWN_ROWS = 10  # of each kind; --json has all
FIGURES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


def compare(first: Run, second: Run) -> dict[str, Any]:
    """What the second run does better and worse than the first.

    Returns:
      JSON: `runs`; `rows` tested by both, and those that only one has as `rows_left_out`; `overall` and, by slice name,
      `slices`, each with `rows`, the figures of `first` and `second`, their `differences` with the bounds that hold
      with `certainty`, and McNemar's test; the changed rows in `won`, `lost` and `still_wrong`. Labels and slices are
      the second run's.

    Raises:
      UserError: the runs share no test row.
    """
    table, shared = _shared(first, second)
    if not shared:
        raise UserError(f"runs {first.run_id} and {second.run_id} have no test row in common.")
    rows = answers.from_table(table, second.metrics["classes"], first.run_id, second.options)
    certainty = second.options.gates.certainty
    return {
        "runs": [first.run_id, second.run_id],
        "rows": shared,
        "rows_left_out": [len(run.table[features.ROW_ID]) - shared for run in (first, second)],
        "overall": _side_by_side(rows, certainty),
        "slices": {name: _side_by_side(_part(rows, inside), certainty) for name, inside in rows.slices.items()},
        **_changed(table),
    }


def _shared(first: Run, second: Run) -> tuple[dict[str, list[Any]], int]:
    """The second run's table, rows of both runs only, with the first run's answers as `previous`; and its length."""
    before = dict(zip(first.table[features.ROW_ID], first.table["predicted"], strict=True))
    kept = [position for position, row_id in enumerate(second.table[features.ROW_ID]) if row_id in before]
    table = {name: [column[position] for position in kept] for name, column in second.table.items()}
    table[answers.PREVIOUS] = [before[row_id] for row_id in table[features.ROW_ID]]
    return table, len(kept)


def _part(rows: answers.Answers, inside: np.ndarray) -> answers.Answers:
    return dataclasses.replace(
        rows, labels=rows.labels[inside], predicted=rows.predicted[inside], previous=rows.previous[inside], slices={}
    )


def _side_by_side(rows: answers.Answers, certainty: float) -> dict[str, Any]:
    compared = gates.compare(rows, rows.previous, certainty)
    return {
        "rows": len(rows.labels),
        "first": {name: compared.pop(name) for name in FIGURES},
        "second": estimates.scores(rows.labels, rows.predicted, len(rows.classes)),
        **compared,
    }


def _changed(table: dict[str, list[Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows whose answer changed, the surest of the second run first."""
    changed: dict[str, list[dict[str, Any]]] = {"won": [], "lost": [], "still_wrong": []}
    names = (features.ROW_ID, features.LABEL, answers.PREVIOUS, "predicted", "probability", features.TEXT)
    for values in sorted(zip(*(table[name] for name in names), strict=True), key=lambda row: -row[4]):
        row = dict(zip(names, values, strict=True))
        if row["predicted"] == row[answers.PREVIOUS]:
            continue
        right = {row["predicted"]: "won", row[answers.PREVIOUS]: "lost"}
        changed[right.get(row[features.LABEL], "still_wrong")].append(row)
    return changed


# === On the screen ===


def show(found: dict[str, Any], console: screen.Screen) -> None:
    """Prints a comparison."""
    first, second = found["runs"]
    left_out = " and ".join(
        f"{count:,} of {run}" for run, count in zip(found["runs"], found["rows_left_out"], strict=True) if count
    )
    aside = f"; left out: {left_out}" if left_out else ""
    console.print(f"{first} -> {second}: {found['rows']:,} test rows of both{aside}")
    console.print(_figures(found))
    overall = found["overall"]
    for kind, name in (("won", "won"), ("lost", "lost"), ("still_wrong", "another wrong answer")):
        console.print(f"\n{name}: {len(found[kind]):,} rows", style="bold")
        if found[kind]:
            console.print(_rows(found[kind][:SHOWN_ROWS]))
    console.print(
        f"\nMcNemar p {overall['mcnemar_p']:.2g}; each bound of a difference holds with {overall['certainty']:.0%} "
        "certainty, on its own",
        style="dim",
    )


def _figures(found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("", "rows", *(f"{figure}" for name in FIGURES.values() for figure in (name, "difference"))):
        table.add_column(column, justify="left" if not column else "right")
    for name, part in {"all rows": found["overall"], **found["slices"]}.items():
        cells = [Text(name), f"{part['rows']:,}"]
        for figure in FIGURES:
            gap = part["differences"][figure]
            style = "green" if gap["low"] > 0 else "red" if gap["high"] < 0 else ""
            cells.append(f"{part['first'][figure]:.3f} -> {part['second'][figure]:.3f}")
            cells.append(Text(f"{gap['value']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})", style=style))
        table.add_row(*cells)
    return table


def _rows(changed: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for column in ("  row_id", "label", "before", "now", "text"):
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    for row in changed:
        cells = [row[name] for name in (features.LABEL, answers.PREVIOUS, "predicted", features.TEXT)]
        table.add_row(Text(f"  {row[features.ROW_ID][:12]}"), *(Text(screen.excerpt(cell)) for cell in cells))
    return table
