"""The pass that applies Transform's graph to the rows, for Beam to spread over its workers by shards.

The graph has learnt nothing from the rows, so no shard needs to know another. This module imports no TFX, so a worker
that an engine starts is up in three quarters of the time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import apache_beam as beam
import pyarrow as pa
import tensorflow as tf
import tensorflow_text  # noqa: F401  (a worker must have its ops before it loads the graph)
import tensorflow_transform as tft
from apache_beam.utils import shared
from tfx_bsl.coders import example_coder

from bertline.components import shards
from bertline.components.shards import Shard
from bertline.models.features import SPLITS, TOKEN_IDS
from bertline.models.transform_graph import TransformGraph

COUNTS_FILE = "counts.json"  # in the transformed Examples: a split's name -> its "rows" and "tokens"
BATCH_ROWS = 1024  # larger batches are no faster, and a batch of long documents stays small


def tokenise(pipeline: beam.Pipeline, graph: str, examples: str, target: str) -> None:
    """Adds the pass to a Beam pipeline. Each shard becomes a shard of the same name, with its rows in the same order.

    The workers must reach all three folders.

    Args:
        pipeline: where it runs.
        graph: folder of the TransformGraph.
        examples: folder of the raw Examples.
        target: folder of the transformed Examples, as bertline.models.dataset.read_rows reads them, and of COUNTS_FILE.
    """
    _ = (
        shards.spread(pipeline, shards.of(examples))
        | "Tokenise" >> beam.ParDo(Tokenise(graph, target))
        | "Gather" >> beam.GroupByKey()
        | "Count" >> beam.MapTuple(write_counts)
    )


class Tokenise(beam.DoFn):
    """Writes the token ids of a shard; yields (target, (split, rows, tokens)).

    Args:
        graph: as in `tokenise`.
        target: as in `tokenise`.
    """

    def __init__(self, graph: str, target: str):
        self._graph, self._target = graph, target
        self._shared = shared.Shared()

    def setup(self) -> None:
        """Loads the graph, once per process."""
        self._loaded = self._shared.acquire(lambda: Graph(self._graph))

    def process(self, shard: Shard) -> Iterator[tuple[str, tuple[str, int, int]]]:
        """See the class."""
        encoder = example_coder.RecordBatchToExamplesEncoder()
        rows = tokens = 0
        with shards.writing(self._target, shard.split, shard.name) as writer:
            for batch in self._loaded.apply(shard):
                rows, tokens = rows + batch.num_rows, tokens + len(batch.column(TOKEN_IDS).values)
                for record in encoder.encode(batch):
                    writer.write(record)
        yield self._target, (shard.split, rows, tokens)


class Graph:
    """Transform's graph, loaded.

    Args:
        folder: of the TransformGraph.
    """

    def __init__(self, folder: str):
        output = tft.TFTransformOutput(folder)
        graph, spec = TransformGraph(output), output.raw_feature_spec()

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
        def ragged(examples):
            outputs = graph(tf.io.parse_example(examples, spec))
            return {
                name: tf.RaggedTensor.from_sparse(value)
                if isinstance(value, tf.SparseTensor)
                else tf.reshape(value, [tf.shape(value)[0], -1])
                for name, value in outputs.items()
            }

        self._ragged = ragged

    def apply(self, shard: Shard) -> Iterator[pa.RecordBatch]:
        """The transformed rows of a shard, BATCH_ROWS at a time: a list<int64> column per feature."""
        # In Dataset.map, the same graph took 1.6 times the processor time.
        for examples in shards.read(shard, BATCH_ROWS):
            yield pa.RecordBatch.from_pydict({name: _lists(value) for name, value in self._ragged(examples).items()})


def _lists(values: tf.RaggedTensor | tf.Tensor) -> pa.ListArray:
    """Arrow's form of int64 [rows, (values)]."""
    if not isinstance(values, tf.RaggedTensor):
        values = tf.RaggedTensor.from_tensor(values)
    return pa.LargeListArray.from_arrays(values.row_splits.numpy(), values.flat_values.numpy())


def write_counts(target: str, counted: Iterable[tuple[str, int, int]]) -> None:
    """Writes COUNTS_FILE.

    Args:
        target: folder of the transformed Examples.
        counted: (split, rows, tokens) of each shard.
    """
    totals = {split: {"rows": 0, "tokens": 0} for split in SPLITS}
    for split, rows, tokens in counted:
        totals[split]["rows"] += rows
        totals[split]["tokens"] += tokens
    with tf.io.gfile.GFile(f"{target}/{COUNTS_FILE}", "w") as file:
        file.write(json.dumps(totals))
