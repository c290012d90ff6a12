"""Transform: text to token ids and label to its index, as a graph that training, evaluation and serving share."""

from __future__ import annotations

import json
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
from tfx import components as tfx_components
from tfx import types
from tfx.components.transform import executor as tfx_executor
from tfx.dsl.components.base import executor_spec
from tfx.dsl.io import fileio
from tfx.types import artifact_utils

from bertline.components import tokenisation
from bertline.components.labels import LABELS_FILE, read_labels
from bertline.components.options import DataOptions
from bertline.models import families
from bertline.models.features import LABEL, LABEL_ID, SEGMENT_IDS, SPLITS, TEXT, TEXT_PAIR, TOKEN_IDS
from bertline.models.recipe import ModelOptions


def transform(examples: types.BaseChannel, schema: types.BaseChannel, model: ModelOptions, data: DataOptions):
    """The Transform component.

    Args:
        examples: raw Examples with labels.txt at their root.
        schema: schema of the raw Examples.
        model: names the vocabulary and max_length. A package:// address stays one: no path of this machine is kept.
        data: says whether rows are pairs, and whether they have several labels.
    """
    return Transform(
        examples=examples,
        schema=schema,
        preprocessing_fn="bertline.components.transform.preprocessing_fn",
        custom_config={
            "model": model.model_dump_json(),
            "pair": data.text_pair is not None,
            "multi_label": data.multi_label is not None,
        },
        disable_analyzer_cache=True,  # there are no analyzers
        disable_statistics=True,  # StatisticsGen has counted the same rows
    )


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, Any]:
    """The graph: raw features to token_ids (and segment_ids), int64 [batch, (tokens)], and label_id, int64 [batch].

    A label that is not listed, or missing as in serving, gets -1. Of multi-label rows label_id is int64 [batch,
    labels]: 1 for the labels that the row has, else 0.
    """
    options = ModelOptions.model_validate_json(custom_config["model"])
    # Tracked, since SentencePiece's model is a resource, which must be saved with the graph.
    tokenizer = tft.make_and_track_object(lambda: families.of(options).tokenizer(options), "tokenizer")
    pair = _flat(inputs[TEXT_PAIR]) if custom_config["pair"] else None
    token_ids, segment_ids = tokenizer(_flat(inputs[TEXT]), pair)
    labels_of = _multi_hot if custom_config["multi_label"] else _label_ids
    # Sparse, because TFX writes a RaggedTensor under another name ("token_ids$ragged_values").
    outputs = {TOKEN_IDS: token_ids.to_sparse(), LABEL_ID: labels_of(inputs[LABEL], custom_config["labels"])}
    if segment_ids is not None:
        outputs[SEGMENT_IDS] = segment_ids.to_sparse()
    return outputs


class Executor(tfx_executor.Executor):
    """Makes the graph with TFX's executor and the labels of ingestion, and applies it in a Beam pass of our own.

    The graph has nothing to learn from the rows, so TFX traces it in place. Building TFX's own Beam pipeline would take
    most of the stage's time, for what TensorFlow does at 100,000 rows per second.
    """

    def Do(self, input_dict, output_dict, exec_properties):
        """See the base class."""
        source = artifact_utils.get_single_uri(input_dict["examples"])
        graph = artifact_utils.get_single_uri(output_dict["transform_graph"])
        written = artifact_utils.get_single_instance(output_dict["transformed_examples"])
        config = json.loads(exec_properties["custom_config"])
        config["labels"] = read_labels(source)
        properties = {**exec_properties, "custom_config": json.dumps(config)}
        super().Do(input_dict, {"transform_graph": output_dict["transform_graph"]}, properties)
        fileio.copy(f"{source}/{LABELS_FILE}", f"{graph}/{LABELS_FILE}")  # the indices mean nothing without it
        with self._make_beam_pipeline() as pipeline:
            tokenisation.tokenise(pipeline, graph, source, written.uri)
        written.split_names = artifact_utils.encode_split_names(list(SPLITS))
        written.set_string_custom_property("summary", _summary(written.uri))


class Transform(tfx_components.Transform):
    """TFX's Transform with our executor."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)


def _flat(value: tf.Tensor | tf.SparseTensor) -> tf.Tensor:
    """One string per row, [batch]; "" where it is missing."""
    if isinstance(value, tf.SparseTensor):
        rows = value.dense_shape[0]
        value = tf.sparse.to_dense(tf.SparseTensor(value.indices, value.values, tf.stack([rows, 1])), default_value="")
    return tf.reshape(value, [-1])


def _label_ids(labels: tf.Tensor | tf.SparseTensor, names: list[str]) -> tf.Tensor:
    """The index of each label, int64 [batch]; -1 where it is none of the names. A lookup table would be state."""
    same = tf.equal(_flat(labels)[:, None], tf.constant(names)[None])  # [batch, labels]
    return tf.where(tf.reduce_any(same, axis=1), tf.argmax(same, axis=1), -1)


def _multi_hot(labels: tf.Tensor | tf.SparseTensor, names: list[str]) -> tf.Tensor:
    """1 for each of the names that a row has, else 0: int64 [batch, labels]."""
    # The schema makes them dense where all rows have the same number of labels.
    dense = tf.sparse.to_dense(labels, default_value="") if isinstance(labels, tf.SparseTensor) else labels
    of_row = tf.reshape(dense, [tf.shape(dense)[0], -1])  # [batch, most labels of a row]
    same = tf.equal(of_row[:, :, None], tf.constant(names)[None, None])
    return tf.ensure_shape(tf.cast(tf.reduce_any(same, axis=1), tf.int64), [None, len(names)])


def _summary(target: str) -> str:
    """Such as "6,000 train, 1,000 validation, 2,000 test, 33 tokens on average"."""
    with fileio.open(f"{target}/{tokenisation.COUNTS_FILE}", "r") as file:
        counts = json.loads(file.read())
    rows, tokens = (sum(split[name] for split in counts.values()) for name in ("rows", "tokens"))
    listed = ", ".join(f"{split['rows']:,} {name}" for name, split in counts.items())
    return f"{listed}, {tokens / max(rows, 1):.0f} tokens on average"
