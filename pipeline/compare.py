"""Two runs side by side on the rows that both were tested on: figures, slices, and the rows whose answer changed."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from bertline.components import gates
from bertline.components.answers import PREDICTED, PREVIOUS, PROBABILITY, Answers, shown
from bertline.components.evaluation import figure_name
from bertline.errors import UserError
from bertline.models import features
from bertline.pipeline import screen
from bertline.pipeline.evaluated import Run

SHOWN_ROWS = 10  # of each kind; --json has all
FIGURES = ("accuracy", "macro_f1", "micro_f1")


def compare(first: Run, second: Run) -> dict[str, Any]:
    """What the second run does better and worse than the first.

    Returns:
        JSON: `runs`; `rows` tested by both, and those that only one has as `rows_left_out`; `overall` and, by slice
        name, `slices`, each with `rows`, the figures of `first` and `second`, their `differences` with the bounds that
        hold with `certainty`, and McNemar's test; the changed rows in `won`, `lost` and `still_wrong`. Labels and
        slices are the second run's.

    Raises:
        UserError: the runs share no test row, or only in one of them rows have several labels.
    """
    if first.answers.multi_label != second.answers.multi_label:
        raise UserError(
            f"runs {first.run_id} and {second.run_id} cannot be compared: in one each row has one label, in the other "
            "any number of them."
        )
    rows, shared = _beside(first, second)
    if not shared.any():
        raise UserError(f"runs {first.run_id} and {second.run_id} have no test row in common.")
    certainty, both = second.options.gates.certainty, int(shared.sum())
    slices = {name: inside & shared for name, inside in rows.slices.items()}
    return {
        "runs": [first.run_id, second.run_id],
        "rows": both,
        "rows_left_out": [len(run.answers.labels) - both for run in (first, second)],
        "overall": _side_by_side(rows, shared, certainty),
        "slices": {name: _side_by_side(rows, inside, certainty) for name, inside in slices.items() if inside.any()},
        **_changed(rows, shared),
    }


def _beside(first: Run, second: Run) -> tuple[Answers, np.ndarray]:
    """The second run's rows with the first run's answers as PREVIOUS, and bool [rows]: whether both runs tested a row.

    Where only the second run tested it, PREVIOUS is "", or no label.
    """
    names = first.answers.names(first.answers.predicted)
    before = dict(zip(first.answers.columns[features.ROW_ID], names, strict=True))
    row_ids = second.answers.columns[features.ROW_ID]
    nothing = [] if second.answers.multi_label else ""
    rows = second.answers.beside({PREVIOUS: [before.get(row_id, nothing) for row_id in row_ids]}, first.run_id)
    return rows, np.array([row_id in before for row_id in row_ids])


def _side_by_side(rows: Answers, inside: np.ndarray, certainty: float) -> dict[str, Any]:
    """Both runs on the rows `inside`, bool [rows]."""
    compared = gates.compare(rows, rows.previous, certainty, inside)
    return {
        "rows": int(inside.sum()),
        "first": compared.model_dump(include=set(FIGURES), exclude_none=True),
        "second": rows.scores(rows.predicted, inside),
        **compared.model_dump(exclude=set(FIGURES), exclude_none=True),
    }


def _changed(rows: Answers, shared: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """The `shared` rows whose answer changed, the surest of the second run first."""
    changed: dict[str, list[dict[str, Any]]] = {"won": [], "lost": [], "still_wrong": []}
    confidence, before = rows.confidence, rows.columns[PREVIOUS]
    other = rows.predicted != rows.previous
    positions = np.flatnonzero(shared & (other.any(-1) if rows.multi_label else other))
    labels, answered, kept = rows.names(rows.labels), rows.names(rows.predicted), rows.matches(rows.previous)
    for row in positions[np.argsort(-confidence[positions], kind="stable")]:
        kind = "won" if rows.right[row] else "lost" if kept[row] else "still_wrong"
        changed[kind].append(
            {
                features.ROW_ID: rows.columns[features.ROW_ID][row],
                features.LABEL: labels[row],
                PREVIOUS: before[row],
                PREDICTED: answered[row],
                PROBABILITY: float(confidence[row]),
                features.TEXT: rows.columns[features.TEXT][row],
            }
        )
    return changed


# === On the screen ===


def show(comparison: dict[str, Any], console: screen.Screen) -> None:
    """Prints a comparison."""
    first, second = comparison["runs"]
    left_out = " and ".join(
        f"{count:,} of {run}"
        for run, count in zip(comparison["runs"], comparison["rows_left_out"], strict=True)
        if count
    )
    aside = f"; left out: {left_out}" if left_out else ""
    console.print(f"{first} -> {second}: {comparison['rows']:,} test rows of both{aside}")
    console.print(_figures(comparison))
    overall = comparison["overall"]
    for kind, name in (("won", "won"), ("lost", "lost"), ("still_wrong", "another wrong answer")):
        console.print(f"\n{name}: {len(comparison[kind]):,} rows", style="bold")
        if comparison[kind]:
            console.print(_rows(comparison[kind][:SHOWN_ROWS]))
    console.print(
        f"\nMcNemar p {overall['mcnemar_p']:.2g}; each bound of a difference holds with {overall['certainty']:.0%} "
        "certainty, on its own",
        style="dim",
    )


def _figures(comparison: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    figures = [name for name in FIGURES if name in comparison["overall"]["first"]]
    names = [figure_name(name, multi_label="micro_f1" in figures) for name in figures]
    for column in ("", "rows", *(title for name in names for title in (name, "difference"))):
        table.add_column(column, justify="left" if not column else "right")
    for name, part in {"all rows": comparison["overall"], **comparison["slices"]}.items():
        cells = [Text(name), f"{part['rows']:,}"]
        for figure in figures:
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
        cells = [shown(row[name]) for name in (features.LABEL, PREVIOUS, PREDICTED, features.TEXT)]
        table.add_row(Text(f"  {row[features.ROW_ID][:12]}"), *(Text(screen.excerpt(cell)) for cell in cells))
    return table
