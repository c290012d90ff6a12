"""TensorFlow Model Analysis (TFMA) on the answers of one or two models: what it counts, by slice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from bertline.components import answers
from bertline.components.answers import Answers
from bertline.components.evaluation import Cell
from bertline.models import features
from bertline.models.features import CANDIDATE, TFMA_OUTPUTS
from bertline.serving import storage

# TFMA counts each class of a row on its own: 400 classes took 259 s and 4 GB for 227 rows. The review page counts
# classes from the confusion matrix; with more labels than this, only TFMA's own page does without.
BINARIZED_LABELS = 20
BATCH_FILE, BATCH_ROWS = "answers.arrow", 1000  # what TFMA's workers read; rows of an Arrow batch


@dataclass(frozen=True)
class Counts:
    """What TFMA counts on all rows or on a slice.

    Attributes:
        rows: how many rows.
        accuracy: share of right answers.
        confusion: the cells of the confusion matrix that have rows.
    """

    rows: int
    accuracy: float
    confusion: list[Cell]


def run_tfma(
    beam_pipeline: beam.Pipeline, models: dict[str, Answers], slices: dict[str, list[str]], folder: str
) -> dict[str, dict[str, Counts]]:
    """Runs TFMA, writes its results into `folder` and returns them.

    Args:
        beam_pipeline: to count in.
        models: each model's answers to the same rows, by CANDIDATE and, where there is one, LAST_BLESSED.
        slices: the columns that slice the rows, str [rows] each.
        folder: where TFMA's results go.

    Returns:
        For each model its counts by slice name; "" is all rows. Of multi-label rows there are none, as TFMA has no
        confusion of sets of labels: its precision, recall and F1 of each label are in its own files.
    """
    candidate = models[CANDIDATE]
    config = eval_config(list(models), len(candidate.classes), list(slices), multi_label=candidate.multi_label)
    analyse(beam_pipeline, record_batch(models, slices), config, folder)
    tf.io.gfile.remove(os.path.join(folder, BATCH_FILE))
    if candidate.multi_label:
        return {name: {} for name in models}
    return {name: _read(folder, name if len(models) > 1 else None) for name in models}


def analyse(beam_pipeline: beam.Pipeline, batch: pa.RecordBatch, config: config_pb2.EvalConfig, folder: str) -> None:
    """Runs TFMA over one batch of answers, as record_batch makes it, and writes its metrics and plots into `folder`.

    The workers read the batch from BATCH_FILE in `folder`. As a part of the pipeline it would be compressed anew for
    each of Beam's stages: two minutes for 5,000 rows of 1,000 labels.
    """
    # Validations are our gates' business: only metrics and plots are written.
    paths = {kind: os.path.join(folder, kind) for kind in (tfma.METRICS_KEY, tfma.PLOTS_KEY)}
    file = os.path.join(folder, BATCH_FILE)
    with storage.open_file(file, "wb") as stream, pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_table(pa.Table.from_batches([batch]), BATCH_ROWS)
    with beam_pipeline as pipeline:
        _ = (
            pipeline
            | beam.Create([file])
            | beam.FlatMap(_read_batches)
            | tfma.ExtractEvaluateAndWriteResults(
                eval_config=config,
                extractors=tfma.default_extractors(eval_config=config),
                output_path=folder,
                writers=[
                    tfma.writers.MetricsPlotsAndValidationsWriter(output_paths=paths, eval_config=config),
                    tfma.writers.EvalConfigWriter(folder, eval_config=config),
                ],
            )
        )


def _read_batches(file: str) -> Iterator[pa.RecordBatch]:
    with storage.open_file(file, "rb") as stream, pa.ipc.open_file(stream) as reader:
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def record_batch(models: dict[str, Answers], slices: dict[str, list[str]]) -> pa.RecordBatch:
    """One Arrow batch: label index, each model's probabilities and one-hot decision, and the slice columns.

    Of multi-label rows, label and decision are 1 or 0 for each label.
    """
    candidate = models[CANDIDATE]
    labels = answers.arrow_lists(candidate.labels) if candidate.multi_label else _single(candidate.labels)
    columns: dict[str, pa.Array] = {features.LABEL_ID: labels}
    for name, rows in models.items():
        for output, values in zip(TFMA_OUTPUTS, _aligned(rows, candidate.classes), strict=True):
            columns[f"{name}_{output}"] = answers.arrow_lists(values)
    columns |= {name: _single(values) for name, values in slices.items()}
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def _single(values: Any) -> pa.ListArray:
    """A column with a list of one value per row."""
    return pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1, dtype=np.int32)), pa.array(values))


def _aligned(rows: Answers, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and one-hot decisions, float32 [rows, labels], in the order of `classes`.

    The last blessed model may have been trained on other labels. A label that only it knows gets no column, so
    answering it counts as wrong.
    """
    probabilities = np.zeros((len(rows.predicted), len(classes)), np.float32)
    decisions = np.zeros_like(probabilities)
    for column, name in enumerate(classes):
        if name in rows.classes:
            theirs = rows.classes.index(name)
            probabilities[:, column] = rows.probabilities[:, theirs]
            decisions[:, column] = rows.having(theirs)[1]
    return probabilities, decisions


def eval_config(
    models: list[str], labels: int, slice_keys: list[str], *, multi_label: bool = False
) -> config_pb2.EvalConfig:
    """TFMA's config: rank metrics on the probabilities, counting metrics on the one-hot decision.

    TFMA binarises by a threshold, which is not the answer of the highest probability; on the one-hot decision a
    threshold of one half is. Of multi-label rows there is no confusion matrix and no accuracy of the whole row.
    """

    def metric(name: str, **config: Any) -> config_pb2.MetricConfig:
        return config_pb2.MetricConfig(class_name=name, config=json.dumps(config) if config else "")

    of_one_label = [metric("SparseCategoricalCrossentropy"), metric("MultiClassConfusionMatrixPlot")]
    specs = [
        config_pb2.MetricsSpec(
            output_names=["probabilities"], metrics=[metric("ExampleCount"), *([] if multi_label else of_one_label)]
        )
    ]
    if not multi_label:
        specs.append(config_pb2.MetricsSpec(output_names=["decision"], metrics=[metric("SparseCategoricalAccuracy")]))
    if labels <= BINARIZED_LABELS:
        specs += [
            config_pb2.MetricsSpec(
                output_names=["probabilities"],
                aggregate=config_pb2.AggregationOptions(
                    macro_average=True, class_weights=dict.fromkeys(range(labels), 1.0)
                ),
                metrics=[metric("AUC")],
            ),
            config_pb2.MetricsSpec(
                output_names=["decision"],
                binarize=config_pb2.BinarizationOptions(class_ids={"values": list(range(labels))}),
                metrics=[metric(name, thresholds=[0.5]) for name in ("Precision", "Recall", "F1Score")],
            ),
        ]
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                name=name if len(models) > 1 else "",
                prediction_keys={output: f"{name}_{output}" for output in TFMA_OUTPUTS},
                label_keys=dict.fromkeys(TFMA_OUTPUTS, features.LABEL_ID),
            )
            for name in models
        ],
        slicing_specs=[config_pb2.SlicingSpec(), *(config_pb2.SlicingSpec(feature_keys=[key]) for key in slice_keys)],
        metrics_specs=specs,
    )


def _read(folder: str, model_name: str | None) -> dict[str, Counts]:
    result = tfma.load_eval_result(folder, model_name=model_name)
    confusion = {_slice_name(key): _cells(outputs) for key, outputs in result.plots}
    counts = {}
    for key, outputs in result.slicing_metrics:
        name = _slice_name(key)
        counts[name] = Counts(
            rows=round(outputs["probabilities"][""]["example_count"]["doubleValue"]),
            accuracy=outputs["decision"][""]["sparse_categorical_accuracy"]["doubleValue"],
            confusion=confusion[name],
        )
    return dict(sorted(counts.items()))


def _cells(outputs: dict[str, Any]) -> list[Cell]:
    (matrix,) = outputs["probabilities"][""]["multiClassConfusionMatrixAtThresholds"]["matrices"]
    cells = (
        # Protocol buffers leave out what is 0.
        Cell(entry.get("actualClassId", 0), entry.get("predictedClassId", 0), round(entry["numWeightedExamples"]))
        for entry in matrix["entries"]
    )
    return sorted(cell for cell in cells if cell.rows)


def _slice_name(key: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{name}={value}" for name, value in key)
