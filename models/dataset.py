"""Batches of token ids. Rows of similar length stand together, so that little is padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow as tf

from bertline.errors import UserError
from bertline.models.features import LABEL_ID, SEGMENT_IDS, TOKEN_IDS

# Rows are sorted by length within windows of this many batches. In a window of 50 the rows of a batch differ by a token
# or two, and the batches of an epoch are still a random mix (Transformers' group_by_length uses the same number).
_WINDOW = 50
_PREFETCHED = 4  # batches made ahead of the step that takes them
NO_LABEL = -1  # of a row that a student learns from by its teacher's answers only, and at each place of a label set


@dataclass(frozen=True)
class Rows:
    """The tokenised rows of a split, held in memory: 4 bytes per token (8 for pairs)."""

    token_ids: tf.RaggedTensor  # int32 [rows, (tokens)]
    segment_ids: tf.RaggedTensor | None  # int32 [rows, (tokens)]; None where all are 0
    # int32 [rows]; of multi-label rows [rows, labels], 1 for the labels that a row has, else 0. Or NO_LABEL
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens in each row, int64 [rows]."""
        return self.token_ids.row_lengths().numpy()

    @cached_property
    def labelled(self) -> np.ndarray:
        """Which rows have labels, bool [rows]."""
        return (self.labels if self.labels.ndim == 1 else self.labels[:, 0]) != NO_LABEL

    def take(self, places: np.ndarray) -> Rows:
        """The rows at some places, int64 [some]."""
        ids, segments = self.token_ids, self.segment_ids
        segments = None if segments is None else tf.gather(segments, places)
        return Rows(tf.gather(ids, places), segments, self.labels[places])


def read_rows(folder: Path, *, pair: bool, labels: int | None = None) -> Rows:
    """Reads a split of transformed Examples.

    Args:
        folder: of the split's gzipped TFRecords, any number of them; bertline.models.features names their columns.
        pair: whether the rows have segment ids.
        labels: of multi-label rows, how many labels there are; None where each row has one.

    Raises:
        UserError: the folder holds no rows.
    """
    shape = [] if labels is None else [labels]
    spec = {TOKEN_IDS: tf.io.RaggedFeature(tf.int64), LABEL_ID: tf.io.FixedLenFeature(shape, tf.int64)}
    if pair:
        spec[SEGMENT_IDS] = tf.io.RaggedFeature(tf.int64)
    files = sorted(str(path) for path in folder.glob("*.gz"))
    records = tf.data.TFRecordDataset(files, compression_type="GZIP").batch(4096)

    def parse(serialized: tf.Tensor) -> dict[str, tf.RaggedTensor | tf.Tensor]:
        # Narrowed batch by batch: all rows as int64 would take twice the memory.
        return {name: tf.cast(value, tf.int32) for name, value in tf.io.parse_example(serialized, spec).items()}

    parsed = list(records.map(parse))
    if not parsed:
        raise UserError(f"{folder}: the split holds no rows; give it more rows or a larger share")

    def column(name: str) -> tf.RaggedTensor:
        return tf.concat([part[name] for part in parsed], axis=0)

    return Rows(column(TOKEN_IDS), column(SEGMENT_IDS) if pair else None, column(LABEL_ID).numpy())


def joined(rows: Rows, more: Rows) -> Rows:
    """The rows of both, one after the other."""
    segments = None if rows.segment_ids is None else tf.concat([rows.segment_ids, more.segment_ids], axis=0)
    ids = tf.concat([rows.token_ids, more.token_ids], axis=0)
    return Rows(ids, segments, np.concatenate([rows.labels, more.labels]))


@dataclass(frozen=True)
class Batches:
    """The batches of a split, in an order that depends only on the seed and the epoch.

    Args:
        rows: the split.
        batch_size: rows in a batch; the last one can have fewer.
        label_weights: float [labels], how much a row of each label counts; None if all count the same.
    """

    rows: Rows
    batch_size: int
    label_weights: np.ndarray | None = None

    @cached_property
    def weights(self) -> np.ndarray:
        """How much each row counts, float32 [rows]. A row without a label counts as much as the others on average."""
        if self.label_weights is None:
            return np.ones(len(self.rows), np.float32)
        weights = self.label_weights.astype(np.float32)[self.rows.labels]
        return np.where(self.rows.labelled, weights, np.float32(1))

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.rows) // self.batch_size)

    def shuffled(self, seed: int, epoch: int, skip: int = 0) -> tf.data.Dataset:
        """The epoch's batches, without the first `skip`. Elements are those of `ordered`."""
        generator = np.random.default_rng([seed & 0xFFFFFFFF, epoch])
        order = generator.permutation(len(self.rows))
        lengths, window = self.rows.lengths, self.batch_size * _WINDOW
        windows = [order[start : start + window] for start in range(0, len(order), window)]
        order = np.concatenate([rows[np.argsort(-lengths[rows], kind="stable")] for rows in windows])
        batches = self._cut(order)
        generator.shuffle(batches)
        return self._dataset(batches[skip:])

    def ordered(self) -> tf.data.Dataset:
        """All batches, sorted by length.

        Elements are dicts: token_ids and segment_ids (pairs only), int32 [batch, tokens]; lengths, int32 [batch];
        labels, int32 [batch] or [batch, labels], as in Rows; rows, int64 [batch], their places in the split; weights,
        float32 [batch], by label; shares, float32 [batch], the weights divided by their sum in the batch.
        """
        order = np.argsort(self.rows.lengths, kind="stable")
        return self._dataset(self._cut(order))

    def _cut(self, order: np.ndarray) -> list[np.ndarray]:
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def _dataset(self, batches: Sequence[np.ndarray]) -> tf.data.Dataset:
        rows = self.rows
        labels = tf.constant(rows.labels)
        weights = tf.constant(self.weights)

        def assemble(places: tf.RaggedTensor, tokens: tf.Tensor) -> dict[str, tf.Tensor]:
            shape = tf.stack([-1, tokens])
            ids, weight = tf.gather(rows.token_ids, places), tf.gather(weights, places)
            batch = {
                "token_ids": ids.to_tensor(shape=shape),
                "lengths": tf.cast(ids.row_lengths(), tf.int32),
                "labels": tf.gather(labels, places),
                "rows": places,
                "weights": weight,
                "shares": weight / tf.reduce_sum(weight),
            }
            if rows.segment_ids is not None:
                batch["segment_ids"] = tf.gather(rows.segment_ids, places).to_tensor(shape=shape)
            return batch

        tokens = np.array([padded_length(rows.lengths[batch].max()) for batch in batches], np.int64)
        places = tf.RaggedTensor.from_row_lengths(
            np.concatenate([*batches, np.zeros(0, np.int64)]), [len(batch) for batch in batches]
        )
        dataset = tf.data.Dataset.from_tensor_slices((places, tokens)).map(assemble).prefetch(_PREFETCHED)
        # Autotuning has nothing to tune here, and the end of an epoch waits for its thread: up to 50 s were seen.
        options = tf.data.Options()
        options.autotune.enabled = False
        return dataset.with_options(options)


def padded_length(longest: int) -> int:
    """The tokens that a batch is padded to: the next multiple of 8; of 16 above 64 tokens, of 32 above 128 and so on.

    Kernels are compiled for each shape. So there are few shapes (8 up to 64 tokens, 20 up to 512), and little padding.
    """
    step = 8
    while step * 8 < longest:
        step *= 2
    return -(-int(longest) // step) * step


def balanced_weights(labels: np.ndarray, count: int) -> np.ndarray:
    """Weights that make all labels count the same in the loss: rows / (labels x rows of the label), float [labels]."""
    rows = np.bincount(labels, minlength=count)
    return np.where(rows > 0, len(labels) / (count * np.maximum(rows, 1)), 0.0)
