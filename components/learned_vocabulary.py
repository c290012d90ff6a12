"""The vocabulary of a family that learns it: made of the training rows, in a pass of one process."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf

from bertline.components import shards
from bertline.models import families
from bertline.models.features import TEXT, TEXT_PAIR
from bertline.models.recipe import ModelOptions

ROWS = 1_000_000  # read at most: they take some 20 s, and the words of more rows are rarer ones
BATCH = 2048  # rows in a call


def write(folder: str, examples: str, model: ModelOptions, *, pair: bool, section: str = "model") -> None:
    """Writes the vocabulary where the family learns one. The same rows give the same, so each stage may make its own.

    DataGate counts unknown words with it before Transform makes it part of its graph.

    Args:
        folder: where it is written, local or remote.
        examples: folder of the raw Examples, of which the split train is read.
        model: says which family it is, and how large the vocabulary may be.
        pair: whether rows hold two texts.
        section: of the config that sizes the vocabulary, for errors.

    Raises:
        UserError: the rows give no vocabulary.
    """
    families.of(model).learn(model, _texts(examples, pair), folder, section)


def _texts(examples: str, pair: bool) -> Iterator[tf.Tensor]:
    """The texts of the training rows, string [batch]; of more than ROWS the first ones of each shard."""
    names = [TEXT, *([TEXT_PAIR] if pair else [])]
    spec = {name: tf.io.FixedLenFeature([], tf.string, default_value="") for name in names}
    training = [shard for shard in shards.of(examples) if shard.split == "train"]
    batches = -(-ROWS // (BATCH * max(len(training), 1)))
    for shard in training:
        for batch in shards.read(shard, BATCH).take(batches):
            yield from tf.io.parse_example(batch, spec).values()
