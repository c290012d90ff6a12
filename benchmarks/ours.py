"""Our training on exported rows, in a process of its own.

`python -m benchmarks.ours ROWS MODEL TRAIN --skip-steps 10`.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from bertline.models import training
from bertline.models.bert import backbone, classifier
from bertline.models.bert.tokenizer import Tokenizer
from bertline.models.dataset import Rows
from bertline.models.recipe import ModelOptions, TrainOptions


def read_rows(path: Path, labels: list[str], tokenizer: Tokenizer) -> Rows:
    """Tokenises a split of exported rows."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    pairs = tf.constant([row["text_pair"] for row in rows]) if "text_pair" in rows[0] else None
    ids, segments = tokenizer(tf.constant([row["text"] for row in rows]), pairs)
    indices = np.array([labels.index(row["label"]) for row in rows], np.int32)
    return Rows(tf.cast(ids, tf.int32), None if segments is None else tf.cast(segments, tf.int32), indices)


def read_labels(folder: Path) -> list[str]:
    """Label names of the exported rows, sorted."""
    with (folder / "train.jsonl").open(encoding="utf-8") as lines:
        return sorted({json.loads(line)["label"] for line in lines})


class Clock:
    """Wall clock over the steps after the first ones, including the wait for input."""

    def __init__(self, skip_steps: int, batch_size: int):
        self._skip_steps, self._batch_size = skip_steps, batch_size
        self._marks: list[tuple[int, float]] = []

    def __call__(self, progress: training.Progress) -> None:
        """Notes where training stands; called by `training.fit`."""
        if progress.step >= self._skip_steps:
            self._marks.append((progress.step, time.perf_counter()))

    def examples_per_second(self) -> float:
        """Rows per second between the first and the last note."""
        (first, begun), (last, ended) = self._marks[0], self._marks[-1]
        return (last - first) * self._batch_size / (ended - begun)


def main() -> None:
    """Trains for the epochs of the recipe and prints the speed as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, help="folder with train.jsonl and validation.jsonl")
    parser.add_argument("model", type=ModelOptions.model_validate_json, help="ModelOptions as JSON")
    parser.add_argument("train", type=TrainOptions.model_validate_json, help="TrainOptions as JSON")
    parser.add_argument("--skip-steps", type=int, default=10, help="first steps left out")
    arguments = parser.parse_args()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)

    options, recipe = arguments.model, arguments.train
    words = backbone.vocabulary(options)
    tokenizer = Tokenizer(words.path, lowercase=words.lowercase, max_length=options.max_length)
    labels = read_labels(arguments.rows)
    train, validation = (
        read_rows(arguments.rows / f"{split}.jsonl", labels, tokenizer) for split in ("train", "validation")
    )
    clock = Clock(arguments.skip_steps, recipe.batch_size)
    with tempfile.TemporaryDirectory() as checkpoints:
        _, history, _ = training.fit(
            lambda: classifier.from_options(options, len(labels), seed=recipe.seed),
            train,
            validation,
            recipe,
            checkpoints=Path(checkpoints),
            on_progress=clock,
        )
    figures = {"examples_per_second": clock.examples_per_second(), "inside_steps": history.examples_per_second}
    print(json.dumps(figures | {"steps": history.step, "precision": history.precision}))


if __name__ == "__main__":
    main()
