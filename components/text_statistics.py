"""Statistics of the texts as the model's own tokenizer sees them, in one pass over the shards."""

from __future__ import annotations

import functools
import json
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf

from bertline.components import shards
from bertline.components.shards import Shard
from bertline.models import families
from bertline.models.features import LABEL, SPLITS, TEXT, TEXT_PAIR
from bertline.models.recipe import ModelOptions

BATCH = 2048  # rows per call: enough that Python costs nothing, few enough for long documents
PERCENTILES = (50, 90, 95, 99, 100)
# Token counts at which the histogram's bars begin: powers of two.
BARS = (0, 8, 16, 32, 64, 128, 256, 512, 1024)
SHOWN_CHARACTERS = 120  # of a text, in a message


def measure(
    pipeline: beam.Pipeline, examples: str, model: ModelOptions, *, pair: bool, target: str, learned: str | None = None
) -> None:
    """Adds the pass to a Beam pipeline.

    Args:
        pipeline: where it runs.
        examples: folder of the raw Examples. The workers must reach it, and `target` too.
        model: names the vocabulary and max_length.
        pair: whether rows hold two texts.
        learned: folder of the vocabulary, where the family learns it. The workers must reach it too.
        target: path of the JSON file that is written. Its keys: `max_length`; `truncated`, a share of the texts;
            `out_of_vocabulary`, a share of the wordpieces; `splits`, by name what `described` returns.
    """
    _ = (
        shards.spread(pipeline, shards.tasks(shards.of(examples)))
        | "Count" >> beam.Map(count, model, pair=pair, learned=learned)
        | "All" >> beam.WithKeys(target)
        | "Gather" >> beam.GroupByKey()
        | "Write" >> beam.MapTuple(functools.partial(write, max_length=model.max_length, specials=3 if pair else 2))
    )


@dataclass
class Counts:
    """The counts of some rows.

    Attributes:
        lengths: tokens, special ones included -> rows.
        labels: label -> rows that have it.
        unknown: wordpieces that the vocabulary lacks.
        worst: the most unknown wordpieces that a text has, and the text.
    """

    lengths: Counter[int] = field(default_factory=Counter)
    labels: Counter[bytes] = field(default_factory=Counter)
    unknown: int = 0
    worst: tuple[int, bytes] = (0, b"")

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.lengths + other.lengths,
            self.labels + other.labels,
            self.unknown + other.unknown,
            max(self.worst, other.worst, key=operator.itemgetter(0)),
        )


def count(task: list[Shard], model: ModelOptions, *, pair: bool, learned: str | None = None) -> tuple[str, str, Counts]:
    """Counts the rows of some shards of a split.

    Args:
        task: the shards.
        model: as in `measure`.
        pair: as in `measure`.
        learned: as in `measure`.

    Returns:
        (split, the first shard's name, counts).
    """
    lengths = _lengths(model.model_dump_json(), pair, learned)
    parts = (_counted(batch, lengths) for shard in task for batch in _batches(shard, pair))
    return task[0].split, task[0].name, functools.reduce(operator.add, parts)


@functools.lru_cache(maxsize=1)
def _lengths(model: str, pair: bool, learned: str | None) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """Tokenizer.lengths, compiled once per process: op by op it takes nearly twice as long."""
    options = ModelOptions.model_validate_json(model)
    tokenizer = families.of(options).tokenizer(options, learned)
    texts = [tf.TensorSpec([None], tf.string)] * (2 if pair else 1)
    return tf.function(tokenizer.lengths, input_signature=texts, autograph=False)


def _batches(shard: Shard, pair: bool) -> Iterator[dict[str, tf.Tensor | tf.RaggedTensor]]:
    """Parsed rows: text and (text_pair), string [batch], and label, string [batch, (labels)]."""
    names = [TEXT, *([TEXT_PAIR] if pair else [])]
    spec = {name: tf.io.FixedLenFeature([], tf.string) for name in names} | {LABEL: tf.io.RaggedFeature(tf.string)}
    return (tf.io.parse_example(batch, spec) for batch in shards.read(shard, BATCH))


def _counted(
    batch: dict[str, tf.Tensor | tf.RaggedTensor], lengths_of: Callable[..., tuple[tf.Tensor, tf.Tensor]]
) -> Counts:
    texts = [batch[name] for name in (TEXT, TEXT_PAIR) if name in batch]
    lengths, unknown = (tensor.numpy() for tensor in lengths_of(*texts))
    worst = int(unknown.argmax())
    return Counts(
        Counter(lengths.tolist()),
        Counter(batch[LABEL].flat_values.numpy().tolist()),
        int(unknown.sum()),
        (int(unknown[worst]), batch[TEXT][worst].numpy() if unknown[worst] else b""),
    )


# === What is written ===


def write(target: str, counted: Iterable[tuple[str, str, Counts]], max_length: int, *, specials: int) -> None:
    """Writes the file that `measure` describes.

    Args:
        target: its path.
        counted: what `count` returned for each task.
        max_length: the most tokens of a row that the model reads.
        specials: special tokens per row.
    """
    splits = {split: Counts() for split in SPLITS}
    for split, _, counts in sorted(counted, key=lambda item: item[1]):
        splits[split] += counts
    texts = {split: described(counts, max_length, specials) for split, counts in splits.items()}
    with tf.io.gfile.GFile(target, "w") as file:
        file.write(json.dumps({"max_length": max_length, **totals(texts), "splits": texts}, indent=2))


def described(counts: Counts, max_length: int, specials: int) -> dict[str, Any]:
    """Statistics of a split.

    Returns:
        rows, mean and percentiles of the token counts (before truncation, special tokens included), their histogram,
        rows truncated, wordpieces, how many of them are unknown, the text with the most, and rows and share of each
        label.
    """
    lengths = np.array(sorted(counts.lengths))
    rows = np.array([counts.lengths[length] for length in lengths])
    count = int(rows.sum())
    bars = np.bincount(np.searchsorted(BARS, lengths, side="right") - 1, weights=rows, minlength=len(BARS))
    tokens = int(lengths @ rows)
    percentiles = np.percentile(lengths, PERCENTILES, method="inverted_cdf", weights=rows)
    return {
        "rows": count,
        "tokens": {
            "mean": round(tokens / count, 2),
            **{f"p{percent}": int(length) for percent, length in zip(PERCENTILES, percentiles, strict=True)},
        },
        "histogram": [{"from": start, "rows": int(bar)} for start, bar in zip(BARS, bars, strict=True)],
        "truncated_rows": int(rows[lengths > max_length].sum()),
        "wordpieces": tokens - specials * count,
        "unknown_wordpieces": counts.unknown,
        "most_unknown": counts.worst[1].decode("utf-8", "replace")[:SHOWN_CHARACTERS],
        "labels": {
            name.decode(): {"rows": of_label, "share": round(of_label / count, 4)}
            for name, of_label in sorted(counts.labels.items())
        },
    }


def totals(texts: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Shares over all splits: `truncated` of the texts, `out_of_vocabulary` of the wordpieces."""
    rows = sum(split["rows"] for split in texts.values())
    wordpieces = sum(split["wordpieces"] for split in texts.values())
    unknown = sum(split["unknown_wordpieces"] for split in texts.values())
    return {
        "truncated": sum(split["truncated_rows"] for split in texts.values()) / rows,
        "out_of_vocabulary": unknown / max(wordpieces, 1),
    }
