"""Evaluator: one batched pass of the exported model over the test rows, TFMA's metrics on it, and the gates."""

import json
import os
import time
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import path_utils

from bertline.components import answers, estimates, gates
from bertline.components.artifacts import BASELINE_FILE, METRICS_FILE, PREDICTIONS_FILE, BaselineAnswers
from bertline.components.options import EvaluateOptions
from bertline.errors import UserError
from bertline.models import calibration, features
from bertline.serving.calls import Call
from bertline.serving.servable import Servable

ANSWERS = (features.PREDICTED_LABEL, features.PROBABILITIES, features.CLASSES)

CANDIDATE, LAST_BLESSED = "candidate", "last_blessed"


@component(use_beam=True)
def Evaluator(
    examples: InputArtifact[standard_artifacts.Examples],
    model: InputArtifact[standard_artifacts.Model],
    last_blessed: InputArtifact[standard_artifacts.Model],
    evaluation: OutputArtifact[standard_artifacts.ModelEvaluation],
    blessing: OutputArtifact[standard_artifacts.ModelBlessing],
    options: Parameter[str],
    keep: Parameter[str],
    tfidf: InputArtifact[BaselineAnswers] = None,
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Evaluates the exported model on the test rows and gates it.

    Args:
      examples: raw Examples of ingestion; the split "test" is read.
      model: the Trainer's; its SavedModel's serving_default signature answers, at the temperature of its property.
      last_blessed: the last blessed model (LastBlessed's output), or an artifact whose property `present` is 0.
      evaluation: TFMA's results, metrics.json and predictions-test.parquet.
      blessing: BLESSED or NOT_BLESSED; the property `verdicts` lists every gate as JSON.
      options: EvaluateOptions as JSON.
      keep: kept columns as a JSON list.
      tfidf: the baseline's answers; None where the config leaves it out.
      beam_pipeline: given by TFX; TFMA counts in it.
    """
    evaluate_options = EvaluateOptions.model_validate_json(options)
    table = read_rows(artifact_utils.get_split_uri([examples], "test"), json.loads(keep))
    candidate = predict(path_utils.serving_model_path(model.uri), table, evaluate_options.batch_size)
    previous = None
    if last_blessed.get_int_custom_property("present"):
        previous = predict(path_utils.serving_model_path(last_blessed.uri), table, evaluate_options.batch_size)
    table |= answer_columns(candidate, previous)
    if tfidf:
        table[answers.TFIDF] = read_baseline(f"{tfidf.uri}/{BASELINE_FILE}", table)
    write_predictions(os.path.join(evaluation.uri, PREDICTIONS_FILE), table)

    results = run_tfma(beam_pipeline, table, candidate, previous, evaluate_options, evaluation.uri)
    metrics = summarise(table, candidate, results[CANDIDATE])
    metrics["calibration"] = calibrated(table, candidate, model.get_float_custom_property("temperature"))
    if candidate.abstained is not None:
        metrics["abstain"] = abstention(table, candidate, model.get_float_custom_property("abstain"))
    metrics["model_bytes"] = folder_bytes(path_utils.serving_model_path(model.uri))
    version = last_blessed.get_string_custom_property("version")
    rows = answers.from_table(table, candidate.classes, version, evaluate_options)
    metrics |= estimates.probability_scores(rows.labels, candidate.probabilities)
    for name, inside in rows.slices.items():
        metrics["slices"][name] |= estimates.probability_scores(rows.labels[inside], candidate.probabilities[inside])
    certainty = evaluate_options.gates.certainty
    if previous:
        compared = gates.compare(rows, rows.previous, certainty)
        metrics["last_blessed"] = {**results[LAST_BLESSED]["overall"], "version": version, "comparison": compared}
    if tfidf:
        metrics["tfidf"] = gates.compare(rows, rows.tfidf, certainty)
    with open(os.path.join(evaluation.uri, METRICS_FILE), "w", encoding="utf-8") as file:
        json.dump(metrics, file, indent=2)

    verdicts = gates.judge(metrics, rows, evaluate_options.gates)
    bless(blessing, verdicts)
    evaluation.set_string_custom_property("summary", describe(metrics))


# === Rows and predictions ===


class Predictions:
    """What a model answered.

    Attributes:
      seconds: that the answers took, loading the model left out.
      classes: the label names, in the order of the columns of `probabilities`.
      labels: predicted label names, [rows].
      probabilities: float32, [rows, labels].
      abstained: bool, [rows], of a model that abstains; else None.
    """

    def __init__(
        self,
        classes: list[str],
        labels: list[str],
        probabilities: np.ndarray,
        seconds: float = 0.0,
        abstained: np.ndarray | None = None,
    ):
        self.classes, self.labels, self.probabilities, self.seconds = classes, labels, probabilities, seconds
        self.abstained = abstained


def read_rows(folder: str, keep: list[str]) -> dict[str, list[Any]]:
    """Reads a split of raw Examples: a list a feature, and the serialized Examples without their label."""
    files = sorted(tf.io.gfile.glob(os.path.join(folder, "*")))
    records = list(tf.data.TFRecordDataset(files, compression_type="GZIP").as_numpy_iterator())
    if not records:
        raise UserError("the test split has no rows to evaluate on; give data.split.test a larger share.")
    spec = {
        name: tf.io.FixedLenFeature([], tf.string, default_value="")
        for name in {features.TEXT, features.TEXT_PAIR, features.LABEL, features.ROW_ID, features.SOURCE, *keep}
    }
    parsed = tf.io.parse_example(tf.constant(records), spec)
    table: dict[str, list[Any]] = {
        name: [value.decode("utf-8", "replace") for value in column.numpy()] for name, column in parsed.items()
    }
    table["examples"] = records
    return table


def predict(saved_model: str, table: dict[str, list[Any]], batch_size: int) -> Predictions:
    """Asks the SavedModel's serving_default signature for every row, in batches of texts of like length.

    It runs in a session, as in a server: there TensorFlow fuses ops that a call of the loaded function leaves alone,
    and what is measured should be what is served.
    """
    servable = Servable(saved_model, "candidate", 0)
    signature = servable.signatures["serving_default"]
    asked = [*ANSWERS, *([features.ABSTAINED] if features.ABSTAINED in signature.outputs else [])]
    outputs = {name: signature.outputs[name].name for name in asked}
    records = table["examples"]
    order = sorted(range(len(records)), key=lambda row: len(table[features.TEXT][row]))
    probabilities: np.ndarray | None = None
    labels = [""] * len(records)
    abstained = np.zeros(len(records), bool) if features.ABSTAINED in outputs else None
    classes: list[str] = []
    began = time.monotonic()
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        fed = np.array([records[row] for row in rows], object)
        answer = servable.run(Call({signature.inputs["examples"].name: fed}, tuple(outputs.values())))
        if probabilities is None:
            classes = [name.decode() for name in answer[outputs[features.CLASSES]][0]]
            probabilities = np.zeros((len(records), len(classes)), np.float32)
        probabilities[rows] = answer[outputs[features.PROBABILITIES]]
        if abstained is not None:
            abstained[rows] = answer[outputs[features.ABSTAINED]]
        for row, label in zip(rows, answer[outputs[features.PREDICTED_LABEL]], strict=True):
            labels[row] = label.decode()
    servable.close()
    return Predictions(classes, labels, probabilities, time.monotonic() - began, abstained)


def read_baseline(path: str, table: dict[str, list[Any]]) -> list[str]:
    """The baseline's answers, label names [rows], in the order of the table."""
    answers = pq.read_table(path).to_pydict()
    by_row = dict(zip(answers[features.ROW_ID], answers["predicted"], strict=True))
    return [by_row[row_id] for row_id in table[features.ROW_ID]]


def folder_bytes(folder: str) -> int:
    """Bytes of all files below a folder, local or remote."""
    return sum(
        tf.io.gfile.stat(f"{parent}/{name}").length for parent, _, names in tf.io.gfile.walk(folder) for name in names
    )


def answer_columns(candidate: Predictions, previous: Predictions | None) -> dict[str, list[Any]]:
    """The models' answers as columns of the test rows.

    Returns:
      The candidate's `predicted`, its `probability` and the `probabilities` of all labels, `abstained` where it may;
      the last blessed model's `previous` where there is one.
    """
    columns = {
        "predicted": candidate.labels,
        "probability": candidate.probabilities.max(-1),
        "probabilities": list(candidate.probabilities),
    }
    if candidate.abstained is not None:
        columns[features.ABSTAINED] = candidate.abstained
    return columns | ({answers.PREVIOUS: previous.labels} if previous else {})


def write_predictions(path: str, table: dict[str, list[Any]]) -> None:
    """Writes the test rows and what was answered to them as Parquet."""
    pq.write_table(pa.table({name: values for name, values in table.items() if name != "examples"}), path)


# === TFMA ===


def run_tfma(
    beam_pipeline: beam.Pipeline,
    table: dict[str, list[Any]],
    candidate: Predictions,
    last_blessed: Predictions | None,
    options: EvaluateOptions,
    folder: str,
) -> dict[str, dict[str, Any]]:
    """Computes all metrics and slices with TFMA, writes its results into `folder` and returns them.

    Returns:
      For each model ("candidate", "last_blessed"): `overall`, `per_class` and `slices`, numbers by metric name.
    """
    models = {CANDIDATE: candidate, **({LAST_BLESSED: last_blessed} if last_blessed else {})}
    slices = answers.slice_columns(table, options)
    eval_config = _eval_config(list(models), len(candidate.classes), list(slices))
    batch = record_batch(table, models, candidate.classes, slices)
    analyse(beam_pipeline, batch, eval_config, folder)
    return {name: _read_results(folder, name, candidate.classes, len(models) > 1) for name in models}


def analyse(beam_pipeline: beam.Pipeline, batch: pa.RecordBatch, eval_config: Any, folder: str) -> None:
    """Runs TFMA over one batch of answers, as record_batch makes it, and writes its metrics and plots into `folder`."""
    # Validations are our gates' business: only metrics and plots are written.
    paths = {kind: os.path.join(folder, kind) for kind in (tfma.METRICS_KEY, tfma.PLOTS_KEY)}
    with beam_pipeline as pipeline:
        _ = (
            pipeline
            | beam.Create([batch])
            | tfma.ExtractEvaluateAndWriteResults(
                eval_config=eval_config,
                extractors=tfma.default_extractors(eval_config=eval_config),
                output_path=folder,
                writers=[
                    tfma.writers.MetricsPlotsAndValidationsWriter(output_paths=paths, eval_config=eval_config),
                    tfma.writers.EvalConfigWriter(folder, eval_config=eval_config),
                ],
            )
        )


def record_batch(
    table: dict[str, list[Any]], models: dict[str, Predictions], classes: list[str], slices: dict[str, list[str]]
) -> pa.RecordBatch:
    """One Arrow batch: label index, each model's probabilities and one-hot decision, and the slice columns."""
    index = {name: position for position, name in enumerate(classes)}
    unknown = sorted(set(table[features.LABEL]) - set(index))
    if unknown:
        raise UserError(f"the test rows have labels that the model was not trained on: {', '.join(unknown[:5])}.")
    columns = {features.LABEL_ID: pa.array([[index[name]] for name in table[features.LABEL]], pa.list_(pa.int64()))}
    for name, predictions in models.items():
        probabilities, decisions = _aligned(predictions, classes)
        columns[f"{name}_probabilities"] = pa.array(list(probabilities), pa.list_(pa.float32()))
        columns[f"{name}_decision"] = pa.array(list(decisions), pa.list_(pa.float32()))
    for name, values in slices.items():
        columns[name] = pa.array([[value] for value in values], pa.list_(pa.string()))
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def _aligned(predictions: Predictions, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and one-hot decisions, float32 [rows, labels], in the order of `classes`.

    The last blessed model may have been trained on other labels: one that only it knows gets no column, so
    that answering it counts as wrong.
    """
    rows = len(predictions.labels)
    probabilities = np.zeros((rows, len(classes)), np.float32)
    decisions = np.zeros((rows, len(classes)), np.float32)
    answered = np.array(predictions.labels)
    for column, name in enumerate(classes):
        if name in predictions.classes:
            probabilities[:, column] = predictions.probabilities[:, predictions.classes.index(name)]
        decisions[:, column] = answered == name
    return probabilities, decisions


def _eval_config(models: list[str], labels: int, slice_keys: list[str]) -> Any:
    """TFMA's config: rank metrics on the probabilities, counting metrics on the one-hot decision.

    TFMA binarises by a threshold, which is not the answer of the highest probability; on the one-hot decision a
    threshold of one half is.
    """

    def metric(name: str, **config: Any) -> Any:
        return config_pb2.MetricConfig(class_name=name, config=json.dumps(config) if config else "")

    outputs = ("probabilities", "decision")
    per_class = config_pb2.BinarizationOptions(class_ids={"values": list(range(labels))})
    weights = dict.fromkeys(range(labels), 1.0)
    spec = config_pb2.MetricsSpec
    aggregate = config_pb2.AggregationOptions
    counted = ("Precision", "Recall", "F1Score")
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                name=name if len(models) > 1 else "",
                prediction_keys={output: f"{name}_{output}" for output in outputs},
                label_keys=dict.fromkeys(outputs, features.LABEL_ID),
            )
            for name in models
        ],
        slicing_specs=[config_pb2.SlicingSpec(), *(config_pb2.SlicingSpec(feature_keys=[key]) for key in slice_keys)],
        metrics_specs=[
            spec(
                output_names=["probabilities"],
                metrics=[
                    metric("ExampleCount"),
                    metric("SparseCategoricalCrossentropy"),
                    metric("MultiClassConfusionMatrixPlot"),
                ],
            ),
            spec(
                output_names=["probabilities"],
                aggregate=aggregate(macro_average=True, class_weights=weights),
                metrics=[metric("AUC")],
            ),
            spec(
                output_names=["decision"],
                metrics=[metric("SparseCategoricalAccuracy")],
            ),
            spec(
                output_names=["decision"],
                binarize=per_class,
                metrics=[metric(name, thresholds=[0.5]) for name in counted],
            ),
        ],
    )


def _read_results(folder: str, model: str, classes: list[str], named: bool) -> dict[str, Any]:
    """TFMA's numbers of one model, by slice ("" is all rows) and, for all rows, by class."""
    result = tfma.load_eval_result(folder, model_name=model if named else None)
    by_slice = {_slice_name(key): outputs for key, outputs in result.slicing_metrics}
    overall = _flat(by_slice.pop(""), classes)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    for key, outputs in result.plots:
        if not key:
            matrices = outputs["probabilities"][""]["multiClassConfusionMatrixAtThresholds"]["matrices"]
            for entry in matrices[0]["entries"]:
                cell = entry.get("actualClassId", 0), entry.get("predictedClassId", 0)
                confusion[cell] = round(entry["numWeightedExamples"])
    per_class = overall.pop("per_class")
    f1 = [per_class[name]["f1"] or 0.0 for name in classes]
    overall["weighted_f1"] = float(np.average(f1, weights=confusion.sum(-1)))
    slices = {name: _flat(outputs, classes) for name, outputs in sorted(by_slice.items())}
    return {"overall": overall, "per_class": per_class, "slices": slices, "confusion": confusion}


# TFMA's name of a metric -> ours
METRIC_NAMES = {
    "example_count": "rows",
    "sparse_categorical_accuracy": "accuracy",
    "sparse_categorical_crossentropy": "loss",
    "macro_average: true\n_auc": "macro_auc",
    "precision": "precision",
    "recall": "recall",
    "f1_score": "f1",
}


def _flat(outputs: dict[str, Any], classes: list[str]) -> dict[str, Any]:
    """Metrics of a slice by our names, those of each class under "per_class".

    The averages of F1 follow from TFMA's F1 of each class: asking TFMA for them would count every row again. Where each
    row has one label, micro F1 is the accuracy.
    """
    flat: dict[str, Any] = {"per_class": {name: {} for name in classes}}
    for by_class in outputs.values():
        for class_key, metrics in by_class.items():
            target = flat["per_class"][classes[int(class_key.removeprefix("classId:"))]] if class_key else flat
            for name, value in metrics.items():
                # TFMA gives "NaN" for a ratio of nothing.
                target[METRIC_NAMES[name]] = None if value["doubleValue"] == "NaN" else value["doubleValue"]
    # As in scikit-learn, a class without true or predicted rows does not count.
    flat["macro_f1"] = float(np.mean([each["f1"] for each in flat["per_class"].values() if each["f1"] is not None]))
    flat["micro_f1"] = flat["accuracy"]
    return flat


def _slice_name(key: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{name}={value}" for name, value in key)


# === Metrics and blessing ===


def summarise(table: dict[str, list[Any]], predictions: Predictions, results: dict[str, Any]) -> dict[str, Any]:
    """What metrics.json holds: TFMA's numbers, their 95% intervals, and the share of the commonest label."""
    confusion = results["confusion"]
    rows_per_label = confusion.sum(-1)
    right = np.array(predictions.labels) == np.array(table[features.LABEL])
    error, error_interval = estimates.calibration_error(predictions.probabilities.max(-1), right)
    return {
        **results["overall"],
        "rows": len(table[features.LABEL]),
        "calibration_error": error,
        "intervals": {**estimates.intervals(confusion), "calibration_error": error_interval},
        "majority_share": float(rows_per_label.max() / rows_per_label.sum()),
        "labels_present": int((rows_per_label > 0).sum()),
        "per_class": results["per_class"],
        "slices": results["slices"],
        "classes": predictions.classes,
        "confusion": confusion.tolist(),
        "inference_seconds": predictions.seconds,
    }


def calibrated(table: dict[str, list[Any]], predictions: Predictions, temperature: float) -> dict[str, Any]:
    """The test rows' log loss and calibration error `before` (from p and T, exactly) and `after` the `temperature`."""
    index = {name: position for position, name in enumerate(predictions.classes)}
    labels, given = (np.array([index[name] for name in names]) for names in (table[features.LABEL], predictions.labels))
    raw = calibration.unscaled(predictions.probabilities, temperature)
    return {
        "temperature": temperature,
        "before": estimates.calibration(labels, given, raw),
        "after": estimates.calibration(labels, given, predictions.probabilities),
    }


def abstention(table: dict[str, list[Any]], predictions: Predictions, threshold: float) -> dict[str, Any]:
    """What abstaining below the `threshold` leaves.

    Returns:
      `rows` answered, their share of all as `coverage`, and their `accuracy`, None where none is answered.
    """
    answered = ~predictions.abstained
    right = np.array(predictions.labels) == np.array(table[features.LABEL])
    return {
        "threshold": threshold,
        "rows": int(answered.sum()),
        "coverage": float(answered.mean()),
        "accuracy": float(right[answered].mean()) if answered.any() else None,
    }


def bless(blessing: standard_artifacts.ModelBlessing, verdicts: list[gates.Verdict]) -> None:
    """Writes the blessing as TFX does, with the verdicts beside it."""
    blessed = all(verdict.passed for verdict in verdicts)
    with open(os.path.join(blessing.uri, "BLESSED" if blessed else "NOT_BLESSED"), "w", encoding="utf-8"):
        pass
    blessing.set_int_custom_property("blessed", int(blessed))
    blessing.set_string_custom_property("verdicts", json.dumps([verdict.as_dict() for verdict in verdicts]))


def describe(metrics: dict[str, Any]) -> str:
    """The screen's line: accuracy and macro F1 with their intervals, and how far ahead of the last one that is."""
    shown = []
    for key, name in (("accuracy", "accuracy"), ("macro_f1", "macro-F1")):
        low, high = metrics["intervals"][key]
        shown.append(f"{name} {metrics[key]:.3f} ({low:.3f} to {high:.3f})")
    if "tfidf" in metrics:
        shown.append(f"{metrics['tfidf']['differences']['accuracy']['value']:+.3f} over TF-IDF")
    if "abstain" in metrics:
        answered = metrics["abstain"]
        accuracy = "" if answered["accuracy"] is None else f", {answered['accuracy']:.3f} of these right"
        shown.append(f"at {answered['threshold']:g} answers {answered['coverage']:.1%}{accuracy}")
    return "  ".join(shown)
