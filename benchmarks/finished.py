"""What a finished run left: its rows, and our model's answers to the test rows."""

from __future__ import annotations

import json
from pathlib import Path

from bertline.errors import UserError
from bertline.models import features

EXPORTED = (features.ROW_ID, features.TEXT, features.TEXT_PAIR, features.LABEL)


def newest_evaluation(root: Path) -> Path:
    """The folder of the newest evaluation under a task's root.

    Raises:
        UserError: no run has reached an evaluation.
    """
    predictions = sorted(root.glob("**/predictions-test.parquet"), key=lambda path: path.stat().st_mtime)
    if not predictions:
        raise UserError(f"no finished evaluation under {root}; start one with `bertline run` of the same config.")
    return predictions[-1].parent


def read_answers(evaluation: Path) -> dict[str, str]:
    """Our model's answers: row_id -> label, for every test row."""
    import pyarrow.parquet as pq

    table = pq.read_table(evaluation / "predictions-test.parquet", columns=["row_id", "predicted"]).to_pydict()
    return dict(zip(table["row_id"], table["predicted"], strict=True))


def read_examples(folder: Path, split: str) -> list[dict[str, str]]:
    """Rows of one split of an Examples artifact: row_id, text, label and, for pairs, text_pair, all strings."""
    import tensorflow as tf

    files = sorted(str(path) for path in (folder / f"Split-{split}").glob("*.gz"))
    rows = []
    for record in tf.data.TFRecordDataset(files, compression_type="GZIP").as_numpy_iterator():
        values = tf.train.Example.FromString(record).features.feature
        rows.append({name: values[name].bytes_list.value[0].decode() for name in EXPORTED if name in values})
    return rows


def examples_of(root: Path, answers: dict[str, str]) -> Path:
    """The newest Examples artifact under `root` whose test rows are those that were answered.

    Raises:
        UserError: there is none, so the peers could not get the same rows.
    """
    # Transform's graph has a labels.txt too, and its Examples have splits; only ingestion's folder has both.
    ingested = [labels.parent for labels in root.glob("**/labels.txt") if (labels.parent / "Split-test").is_dir()]
    for folder in sorted(ingested, key=lambda path: path.stat().st_mtime, reverse=True):
        if {row[features.ROW_ID] for row in read_examples(folder, "test")} == set(answers):
            return folder
    raise UserError(f"no Examples under {root} hold the rows of the newest evaluation; run the config again.")


def export(examples: Path, folder: Path) -> dict[str, list[dict[str, str]]]:
    """Writes the splits for the peers, one JSON object per line, and returns them: split -> rows."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = {split: read_examples(examples, split) for split in features.SPLITS}
    for split, rows in splits.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return splits
