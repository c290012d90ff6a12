"""What the peers share: reading the exported rows, and one way of scoring."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sklearn.metrics import accuracy_score, f1_score

SPLITS = ("train", "validation", "test")


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments every peer takes: the folder of rows and the file for its predictions."""
    parser.add_argument("rows", type=Path, help="folder with train.jsonl, validation.jsonl and test.jsonl")
    parser.add_argument("--predictions", type=Path, help="file to write: a JSON object, row_id -> one label per seed")


def read_rows(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Reads the splits: one JSON object per line with row_id, text, label and, for pairs, text_pair.

    Returns: split name -> rows.
    """
    splits = {}
    for split in SPLITS:
        with (folder / f"{split}.jsonl").open(encoding="utf-8") as lines:
            splits[split] = [json.loads(line) for line in lines]
    return splits


def score(expected: list[str], predicted: list[str]) -> dict[str, float]:
    """Returns accuracy and macro-F1 over the labels that occur in `expected` or `predicted`, both in [0, 1]."""
    return {
        "accuracy": float(accuracy_score(expected, predicted)),
        "macro_f1": float(f1_score(expected, predicted, average="macro", zero_division=0)),
    }


def write_predictions(path: Path | None, rows: list[dict[str, str]], by_seed: list[list[str]]) -> None:
    """Writes row_id -> the labels predicted for it, one per seed; nothing if `path` is None."""
    if path:
        labels = (list(of_row) for of_row in zip(*by_seed, strict=True))
        path.write_text(json.dumps({row["row_id"]: of_row for row, of_row in zip(rows, labels, strict=True)}))


def report(result: dict[str, Any]) -> None:
    """Prints the result as the one JSON line that the caller reads from standard output."""
    print(json.dumps(result))
