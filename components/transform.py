"""Transform: text to token ids and label to its index, as a graph that training, evaluation and serving share."""

from __future__ import annotations

import functools
import json
from typing import Any

import tensorflow_transform as tft
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform import impl_helper
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io, schema_utils
from tfx import components as tfx_components
from tfx import types
from tfx.dsl.components.base import base_beam_executor, executor_spec
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import io_utils
from tfx_bsl.tfxio import tf_example_record

from bertline.components import learned_vocabulary, tokenisation
from bertline.components.labels import LABELS_FILE, read_labels
from bertline.components.options import DataOptions
from bertline.components.token_graph import TokenGraph
from bertline.models import families
from bertline.models.features import SPLITS
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
    """The graph, see TokenGraph; a label that is missing, as in serving, gets -1."""
    options = ModelOptions.model_validate_json(custom_config["model"])
    # Tracked, since SentencePiece's model is a resource, which must be saved with the graph.
    tokenizer = tft.make_and_track_object(
        lambda: families.of(options).tokenizer(options, custom_config["learned"]), "tokenizer"
    )
    several = custom_config["multi_label"]
    return TokenGraph(tokenizer, custom_config["labels"], pair=custom_config["pair"], multi_label=several)(inputs)


class Executor(base_beam_executor.BaseBeamExecutor):
    """Makes the graph with ingestion's labels and a learned vocabulary, and applies it in a Beam pass of our own."""

    def Do(self, input_dict, output_dict, exec_properties):
        """See the base class."""
        source = artifact_utils.get_single_uri(input_dict["examples"])
        graph = artifact_utils.get_single_uri(output_dict["transform_graph"])
        written = artifact_utils.get_single_instance(output_dict["transformed_examples"])
        schema_file = io_utils.get_only_uri_in_dir(artifact_utils.get_single_uri(input_dict["schema"]))
        config = json.loads(exec_properties["custom_config"])
        config |= {"labels": read_labels(source), "learned": graph}
        options = ModelOptions.model_validate_json(config["model"])
        learned_vocabulary.write(graph, source, options, pair=config["pair"])
        write_graph(graph, io_utils.SchemaReader().read(schema_file), config)
        fileio.copy(f"{source}/{LABELS_FILE}", f"{graph}/{LABELS_FILE}")  # the indices mean nothing without it
        with self._make_beam_pipeline() as pipeline:
            tokenisation.tokenise(pipeline, graph, source, written.uri)
        written.split_names = artifact_utils.encode_split_names(list(SPLITS))
        written.set_string_custom_property("summary", _summary(written.uri))


def write_graph(folder: str, schema: schema_pb2.Schema, config: dict[str, Any]) -> None:
    """Writes preprocessing_fn as TransformGraph, with its metadata.

    TFX's own executor does the same where the graph has nothing to learn from the rows. It takes a lookup table for a
    sign that the graph has, and then spends seconds on a Beam pipeline that looks at the rows.

    Args:
        folder: of the TransformGraph.
        schema: of the raw Examples.
        config: what preprocessing_fn gets as custom_config.
    """
    metadata_io.write_metadata(
        dataset_metadata.DatasetMetadata(schema), f"{folder}/{tft.TFTransformOutput.RAW_METADATA_DIR}"
    )
    rows = tf_example_record.TFExampleRecord(file_pattern="", schema=schema)  # for the types only: it opens no file
    impl_helper.analyze_in_place(
        functools.partial(preprocessing_fn, custom_config=config),
        force_tf_compat_v1=False,
        feature_specs=schema_utils.schema_as_feature_spec(schema).feature_spec,
        type_specs=rows.TensorAdapter().OriginalTypeSpecs(),
        transform_output_path=folder,
    )


class Transform(tfx_components.Transform):
    """TFX's Transform with our executor."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)


def _summary(target: str) -> str:
    """Such as "6,000 train, 1,000 validation, 2,000 test, 33 tokens on average"."""
    with fileio.open(f"{target}/{tokenisation.COUNTS_FILE}", "r") as file:
        counts = json.loads(file.read())
    rows, tokens = (sum(split[name] for split in counts.values()) for name in ("rows", "tokens"))
    listed = ", ".join(f"{split['rows']:,} {name}" for name, split in counts.items())
    return f"{listed}, {tokens / max(rows, 1):.0f} tokens on average"
