"""StatisticsGen as one short pass over the shards: TFDV's own Beam graph takes 10 s to build."""

from collections.abc import Iterable
from functools import partial, reduce
from typing import Any

import apache_beam as beam
import tensorflow as tf
import tensorflow_data_validation as tfdv
from tensorflow_data_validation.statistics import stats_impl
from tfx import components as tfx_components
from tfx import types
from tfx.components.statistics_gen import executor as tfx_executor
from tfx.dsl.components.base import executor_spec
from tfx.types import artifact_utils
from tfx_bsl.coders import example_coder

from bertline.components import shards
from bertline.components.shards import Shard

BATCH = 4096  # rows; in small batches, TFDV's calls of numpy would cost more than the counting


class Executor(tfx_executor.Executor):
    """Counts what TFX's executor counts, with the same generators of TFDV: each shard, and then their sum.

    The counts of a shard are sketches of a bounded size, so memory does not grow with the rows.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """See the base class."""
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        statistics = artifact_utils.get_single_instance(output_dict["statistics"])
        statistics.split_names = examples.split_names
        statistics.span = examples.span
        options = exec_properties["stats_options_json"]
        with self._make_beam_pipeline() as pipeline:
            _ = (
                shards.spread(pipeline, shards.tasks(shards.of(examples.uri)))
                | "Count" >> beam.Map(count, options)
                | "Gather" >> beam.GroupByKey()
                | "Write" >> beam.MapTuple(partial(write, options=options, uri=statistics.uri))
            )


class StatisticsGen(tfx_components.StatisticsGen):
    """TFX's StatisticsGen with our executor."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)


def count(task: list[Shard], options: str) -> tuple[str, tuple[str, list[Any]]]:
    """Counts the rows of some shards of a split.

    Args:
        task: the shards.
        options: tfdv.StatsOptions as JSON.

    Returns:
        (split, (the first shard's name, an accumulator for each of TFDV's generators)).
    """
    parsed = tfdv.StatsOptions.from_json(options)
    generators = stats_impl.get_generators(parsed, in_memory=True)
    decoder = example_coder.ExamplesToRecordBatchDecoder()
    batches = (decoder.DecodeBatch(list(batch)) for shard in task for batch in _batches(shard))
    counted = (stats_impl.generate_partial_statistics_in_memory(batch, parsed, generators) for batch in batches)
    return task[0].split, (task[0].name, reduce(partial(_added, generators), counted))


def _batches(shard: Shard) -> Iterable[list[bytes]]:
    return shards.read(shard, BATCH).as_numpy_iterator()


def _added(generators: list[Any], first: list[Any], second: list[Any]) -> list[Any]:
    """The accumulators of two counts together."""
    pairs = zip(generators, first, second, strict=True)
    return [generator.merge_accumulators([one, other]) for generator, one, other in pairs]


def write(split: str, counted: Iterable[tuple[str, list[Any]]], options: str, uri: str) -> None:
    """Writes a split's statistics.

    Args:
        split: its name.
        counted: the first shard's name and the accumulators of each of its tasks, as `count` returns them.
        options: as in `count`.
        uri: folder of the statistics.
    """
    generators = stats_impl.get_generators(tfdv.StatsOptions.from_json(options), in_memory=True)
    # In the order of the rows, because sketches are approximate and depend a little on the order of adding.
    in_order = (accumulators for _, accumulators in sorted(counted, key=lambda item: item[0]))
    result = stats_impl.extract_statistics_output(reduce(partial(_added, generators), in_order), generators)
    folder = f"{uri}/Split-{split}"
    tf.io.gfile.makedirs(folder)
    with tf.io.gfile.GFile(f"{folder}/{tfx_executor.DEFAULT_FILE_NAME}", "wb") as file:
        file.write(result.SerializeToString())
