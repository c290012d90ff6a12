import json
from pathlib import Path

import apache_beam as beam
import factories
import pytest
import tensorflow as tf
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx import types
from tfx.components.example_validator.executor import Executor as Validator
from tfx.components.schema_gen.executor import Executor as Schemer
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import standard_artifacts

from bertline.components import validation
from bertline.components.artifacts import DataReport
from bertline.components.options import DataOptions, ValidationOptions
from bertline.components.statistics import Executor as Counter
from bertline.errors import UserError
from bertline.models.recipe import ModelOptions, RandomBert

IN_MEMORY = BaseBeamExecutor.Context(beam_pipeline_args=list(factories.BEAM))
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "##s"]
# Wordpieces with [CLS] and [SEP]: 4, 5, 6 of which 2 unknown, 4.
ROWS = [("good film", "pos"), ("bad films", "neg"), ("good xyz xyz film", "pos"), ("bad film", "neg")]


@pytest.fixture
def model(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return ModelOptions(backbone=RandomBert(vocabulary=str(tmp_path / "vocab.txt")), max_length=5)


def write_examples(folder, splits):
    examples = standard_artifacts.Examples()
    examples.uri = str(folder / "examples")
    examples.splits = list(splits)
    for split, rows in splits.items():
        (folder / "examples" / f"Split-{split}").mkdir(parents=True)
        with tf.io.TFRecordWriter(f"{examples.uri}/Split-{split}/data_tfrecord-0.gz", "GZIP") as writer:
            for text, label in rows:
                example = tf.train.Example()
                for name, value in (("text", text), ("label", label), ("row_id", text)):
                    example.features.feature[name].bytes_list.value.append(value.encode())
                writer.write(example.SerializeToString())
    return examples


def artifact(kind, folder, name):
    made = kind()
    made.uri = str(folder / name)
    (folder / name).mkdir(exist_ok=True)
    return made


def inspect(folder, splits, model, reviewed=None, **rules):
    """Runs statistics, schema, validator and gate as the line does; returns the report."""
    examples = write_examples(folder, splits)
    channel = types.Channel(type=standard_artifacts.Examples).set_artifacts([examples])
    properties = validation.statistics_gen(channel, DataOptions(source=["."])).exec_properties
    statistics = artifact(standard_artifacts.ExampleStatistics, folder, "statistics")
    Counter(IN_MEMORY).Do({"examples": [examples]}, {"statistics": [statistics]}, properties)
    schema = artifact(standard_artifacts.Schema, folder, "schema")
    if reviewed:
        validation.ReviewedSchema.test_call(schema=schema, contents=reviewed)
    else:
        Schemer().Do({"statistics": [statistics]}, {"schema": [schema]}, {"infer_feature_shape": 1})
    anomalies = artifact(standard_artifacts.ExampleAnomalies, folder, "anomalies")
    Validator().Do({"statistics": [statistics], "schema": [schema]}, {"anomalies": [anomalies]}, {})
    report = artifact(DataReport, folder, "report")
    validation.DataGate.test_call(
        examples=examples,
        schema=schema,
        anomalies=anomalies,
        report=report,
        data=DataOptions(source=["."]).model_dump_json(),
        validation=ValidationOptions(**rules).model_dump_json(),
        model=model.model_dump_json(),
        beam_pipeline=beam.Pipeline(argv=list(factories.BEAM)),
    )
    return report


def same(rows=ROWS):
    return {"train": rows, "validation": rows, "test": rows}


def test_texts_are_counted_by_the_models_own_tokenizer(tmp_path, model):
    report = inspect(tmp_path, same(), model)
    found = json.loads(Path(report.uri, "text_statistics.json").read_text())
    train = found["splits"]["train"]
    assert train["tokens"] == {"mean": 4.75, "p50": 4, "p90": 6, "p95": 6, "p99": 6, "p100": 6}
    assert train["histogram"][0] == {"from": 0, "rows": 4}
    assert (train["truncated_rows"], train["wordpieces"], train["unknown_wordpieces"]) == (1, 11, 2)
    assert train["labels"] == {"neg": {"rows": 2, "share": 0.5}, "pos": {"rows": 2, "share": 0.5}}
    assert (found["truncated"], round(found["out_of_vocabulary"], 3)) == (0.25, 0.182)
    assert report.get_string_custom_property("summary") == (
        "schema ok, 0 anomalies, 25.0% of texts truncated at 5 tokens, 18.2% out of vocabulary"
    )


def test_too_much_truncated_says_how_long_the_texts_are(tmp_path, model):
    with pytest.raises(UserError, match=r"25.0% of the texts are longer than model.max_length \(5 tokens\).*at most 6"):
        inspect(tmp_path, same(), model, max_truncated=0.2)


def test_too_much_out_of_vocabulary_shows_a_text(tmp_path, model):
    with pytest.raises(UserError, match=r"18.2% of the wordpieces.*'good xyz xyz film'.*model.backbone"):
        inspect(tmp_path, same(), model, max_out_of_vocabulary=0.1)


# === Anomalies ===

REVIEWED = """
feature { name: "text" type: BYTES presence { min_fraction: 1.0 } shape { dim { size: 1 } } }
feature { name: "label" type: BYTES domain: "label" presence { min_fraction: 1.0 } shape { dim { size: 1 } } }
string_domain { name: "label" value: "neg" value: "pos" }
"""


def test_a_label_outside_the_reviewed_schema_stops_the_line_in_words(tmp_path, model):
    splits = same() | {"test": [*ROWS, ("good film", "positive")]}
    with pytest.raises(UserError) as stop:
        inspect(tmp_path, splits, model, reviewed=REVIEWED)
    first, second, _ = str(stop.value).split("\n")
    assert first == "The rows do not fit the schema inferred from the data:"
    assert second.startswith("  label in test (error): Unexpected string values:")
    assert second.endswith("positive (~20%). Expected: one of neg, pos.")


def test_the_severity_that_stops_is_configured(tmp_path, model):
    splits = same() | {"test": [*ROWS, ("good film", "positive")]}
    report = inspect(tmp_path, splits, model, reviewed=REVIEWED, stop_on="never")
    assert report.get_string_custom_property("summary").startswith("schema differs, 1 anomaly,")


@pytest.mark.parametrize(("stop_on", "stops"), [("error", False), ("warning", True), ("never", False)])
def test_warnings_stop_only_if_configured(stop_on, stops):
    warning = anomalies_pb2.AnomalyInfo(severity=anomalies_pb2.AnomalyInfo.WARNING, short_description="New column")
    found = {"train": {"mood": warning}}
    said = validation.why_anomalous(found, validation.schema_pb2.Schema(), ValidationOptions(stop_on=stop_on))
    assert (said is not None) == stops
    if stops:
        assert "mood in train (warning): New column" in said
        assert "Expected: no such column." in said


# === The schema's component ===


def test_a_reviewed_schema_is_carried_by_its_contents(tmp_path):
    statistics = types.Channel(type=standard_artifacts.ExampleStatistics)
    (tmp_path / "schema.pbtxt").write_text(REVIEWED)
    rules = ValidationOptions(schema_file="schema.pbtxt")
    assert validation.schema_gen(statistics, rules, str(tmp_path)).exec_properties["contents"] == REVIEWED
    for contents, said in (("feature {", "not a schema"), ('feature { name: "text" }', "no feature 'label'")):
        (tmp_path / "schema.pbtxt").write_text(contents)
        with pytest.raises(UserError, match=said):
            validation.schema_gen(statistics, rules, str(tmp_path))
