"""Validation: statistics, schema and anomalies by TFX, and a gate that stops the line."""

import json
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2
from tfx import components as tfx_components
from tfx import types
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.base import base_node
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_artifacts

from bertline.components import learned_vocabulary, text_statistics
from bertline.components.artifacts import DataReport
from bertline.components.options import DataOptions, ValidationOptions
from bertline.components.reviewed_schema import ReviewedSchema
from bertline.components.statistics import StatisticsGen
from bertline.errors import UserError
from bertline.models import families
from bertline.models.features import LABEL, RESERVED, TEXT, TEXT_PAIR
from bertline.models.recipe import ModelOptions

STATISTICS_FILE = "text_statistics.json"
ANOMALIES_FILE = "SchemaDiff.pb"  # TFX's name for it in each split's folder

STOPPING = {
    "error": {anomalies_pb2.AnomalyInfo.ERROR},
    "warning": {anomalies_pb2.AnomalyInfo.ERROR, anomalies_pb2.AnomalyInfo.WARNING},
    "never": set(),
}

# === TFX's own components, set up for text ===


def statistics_gen(examples: types.BaseChannel, data: DataOptions) -> StatisticsGen:
    """StatisticsGen for texts, label and kept columns. Row ids and sources are ours, and say nothing about the data."""
    names = [TEXT, *([TEXT_PAIR] if data.text_pair else []), LABEL]
    names += [name for name in data.keep if name not in RESERVED]
    return StatisticsGen(
        examples=examples, stats_options=tfdv.StatsOptions(feature_allowlist=list(dict.fromkeys(names)))
    )


def schema_gen(statistics: types.BaseChannel, validation: ValidationOptions, base_folder: str) -> base_node.BaseNode:
    """The component whose output is the `schema`: inferred from the statistics, or the reviewed file if one is named.

    Args:
        statistics: output of StatisticsGen.
        validation: names the reviewed file.
        base_folder: where its relative path starts.

    Raises:
        UserError: the reviewed file is no schema, or lacks the text or the label.
    """
    if validation.schema_file is None:
        # Every row has exactly one value per feature, so the shapes are known and Transform reads dense tensors.
        return tfx_components.SchemaGen(statistics=statistics, infer_feature_shape=True)
    return ReviewedSchema(contents=_reviewed(Path(base_folder) / validation.schema_file))


def _reviewed(path: Path) -> str:
    try:
        contents = path.read_text(encoding="utf-8")
        schema = text_format.Parse(contents, schema_pb2.Schema())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"validation.schema_file: {path} cannot be read: {error}. Correct the path.") from error
    except text_format.ParseError as error:
        raise UserError(
            f"validation.schema_file: {path} is not a schema in protobuf's text form: {error}. Start from the "
            "schema.pbtxt that a run without schema_file infers."
        ) from error
    known = {feature.name for feature in schema.feature}
    for name in (TEXT, LABEL):
        if name not in known:
            raise UserError(
                f"validation.schema_file: {path} has no feature {name!r} (it has {', '.join(sorted(known))}). "
                "Start from the schema.pbtxt that a run without schema_file infers."
            )
    return contents


# === The gate ===


@component(use_beam=True)
def DataGate(
    examples: InputArtifact[standard_artifacts.Examples],
    schema: InputArtifact[standard_artifacts.Schema],
    anomalies: InputArtifact[standard_artifacts.ExampleAnomalies],
    report: OutputArtifact[DataReport],
    data: Parameter[str],
    validation: Parameter[str],
    model: Parameter[str],
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Stops the line on anomalies, and on texts that the model would not see whole or would not understand.

    Args:
        examples: raw Examples.
        schema: the schema that they should fit.
        anomalies: ExampleValidator's.
        report: text_statistics.json: each split's rows, token counts, share truncated, share out of vocabulary, labels.
        data: DataOptions as JSON.
        validation: ValidationOptions as JSON.
        model: ModelOptions as JSON; its vocabulary counts the tokens.
        beam_pipeline: given by TFX.

    Raises:
        UserError: there is an anomaly of the configured severity, or a share is above its bound.
    """
    rules = ValidationOptions.model_validate_json(validation)
    anomalies_of = _read_anomalies(anomalies)
    stop = why_anomalous(anomalies_of, _read_schema(schema), rules)
    if stop:
        raise UserError(stop)
    options = ModelOptions.model_validate_json(model)
    pair = DataOptions.model_validate_json(data).text_pair is not None
    target = f"{report.uri}/{STATISTICS_FILE}"
    learned_vocabulary.write(report.uri, examples.uri, options, pair=pair)
    with beam_pipeline as pipeline:
        text_statistics.measure(pipeline, examples.uri, options, pair=pair, target=target, learned=report.uri)
    with fileio.open(target, "r") as stream:
        texts = json.loads(stream.read())
    stop = why_unreadable(texts, rules, options)
    if stop:
        raise UserError(stop)
    count = sum(map(len, anomalies_of.values()))
    report.set_string_custom_property(
        "summary",
        f"schema {'differs' if count else 'ok'}, {count} {'anomaly' if count == 1 else 'anomalies'}, "
        f"{texts['truncated']:.1%} of texts truncated at {options.max_length} tokens, "
        f"{texts['out_of_vocabulary']:.1%} out of vocabulary",
    )


# === Anomalies ===


def _read_anomalies(anomalies: standard_artifacts.ExampleAnomalies) -> dict[str, dict[str, Any]]:
    """A split's name -> a feature's name -> AnomalyInfo."""
    anomalies_of = {}
    for split in artifact_utils.decode_split_names(anomalies.split_names):
        message = anomalies_pb2.Anomalies()
        with fileio.open(f"{anomalies.uri}/Split-{split}/{ANOMALIES_FILE}", "rb") as stream:
            message.ParseFromString(stream.read())
        anomalies_of[split] = dict(message.anomaly_info)
        if message.HasField("dataset_anomaly_info"):
            anomalies_of[split]["the whole split"] = message.dataset_anomaly_info
    return anomalies_of


def _read_schema(schema: standard_artifacts.Schema) -> schema_pb2.Schema:
    with fileio.open(f"{schema.uri}/schema.pbtxt", "r") as stream:
        return text_format.Parse(stream.read(), schema_pb2.Schema())


def why_anomalous(
    anomalies_of: dict[str, dict[str, Any]], schema: schema_pb2.Schema, rules: ValidationOptions
) -> str | None:
    """The anomalies that stop the line, each with its column, its split and what was expected; None without any.

    Args:
        anomalies_of: a split's name -> a feature's name -> AnomalyInfo.
        schema: what was expected.
        rules: say which severities stop the line.
    """
    lines = []
    for split, features in anomalies_of.items():
        for name, anomaly in sorted(features.items()):
            if anomaly.severity in STOPPING[rules.stop_on]:
                severity = anomaly.Severity.Name(anomaly.severity).lower()
                description = f"{anomaly.short_description}: {anomaly.description}".strip().rstrip(".")
                lines.append(f"  {name} in {split} ({severity}): {description}.{_expected(schema, name)}")
    if not lines:
        return None
    source = rules.schema_file or "the schema inferred from the data"
    return "\n".join(
        [
            f"The rows do not fit {source}:",
            *lines,
            "Correct the rows. If the data are right, correct the schema instead (validation.schema_file), or let "
            f"anomalies pass (validation.stop_on is {rules.stop_on}).",
        ]
    )


def _expected(schema: schema_pb2.Schema, name: str) -> str:
    """What the schema expects of a feature, in words. TFDV's description says only what was there."""
    feature = next((feature for feature in schema.feature if feature.name == name), None)
    if feature is None:
        return " Expected: no such column."
    domain = feature.string_domain
    if feature.domain:
        domain = next((item for item in schema.string_domain if item.name == feature.domain), domain)
    if domain.value:
        shown = ", ".join(domain.value[:20]) + (", ..." if len(domain.value) > 20 else "")
        return f" Expected: one of {shown}."
    return f" Expected: {schema_pb2.FeatureType.Name(feature.type).lower()}, in every row."


# === Texts ===


def why_unreadable(texts: dict[str, Any], rules: ValidationOptions, model: ModelOptions) -> str | None:
    """Why too little of the texts would reach the model, with the way out; None where enough of them does."""
    if texts["truncated"] > rules.max_truncated:
        tokens = texts["splits"]["train"]["tokens"]
        return (
            f"{texts['truncated']:.1%} of the texts are longer than model.max_length ({model.max_length} tokens), "
            f"more than validation.max_truncated ({rules.max_truncated:.1%}) allows. The median training text has "
            f"{tokens['p50']} tokens, 95% have at most {tokens['p95']}. Raise model.max_length; or, if the start of "
            "a text says enough, raise validation.max_truncated."
        )
    if texts["out_of_vocabulary"] > rules.max_out_of_vocabulary:
        family = families.of(model)
        worst = max((split["most_unknown"] for split in texts["splits"].values()), key=len)
        return (
            f"{texts['out_of_vocabulary']:.1%} of the wordpieces are not in the vocabulary ({family.describe(model)}), "
            f"more than validation.max_out_of_vocabulary ({rules.max_out_of_vocabulary:.1%}) allows, as in {worst!r}. "
            f"{family.more_words[0].upper()}{family.more_words[1:]}, or check data.encoding."
        )
    return None
