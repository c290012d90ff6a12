"""Probe: a logistic regression on the frozen encoder's vectors. Fine-tuning has to beat it."""

import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import special
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts

from bertline.components import probe_head, vectors
from bertline.components.artifacts import BASELINE_FILE, BaselineAnswers, Embeddings, ProbeHead
from bertline.components.examples import check_order, read_examples
from bertline.components.labels import read_labels
from bertline.components.probe_head import Probed
from bertline.components.transformed_labels import names_of
from bertline.components.vectors import Vectors
from bertline.models import families, features, probe, thresholds
from bertline.models.pooling import Pooling
from bertline.models.recipe import ModelOptions


@component
def Probe(
    embeddings: InputArtifact[Embeddings],
    examples: InputArtifact[standard_artifacts.Examples],
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    answers: OutputArtifact[BaselineAnswers],
    head: OutputArtifact[ProbeHead],
    model_options: Parameter[str],
    class_weights: Parameter[str],
) -> None:
    """Fits the probe on the training rows; the validation rows choose its penalty, and it answers the test rows.

    Args:
        embeddings: the Embedder's.
        examples: raw Examples of ingestion; the split "test" is read.
        transform_graph: the label names.
        answers: the answer to each test row, in BASELINE_FILE: columns `row_id` and `predicted`.
        head: see probe_head.
        model_options: a ModelOptions as JSON, which names the pooling.
        class_weights: `train.class_weights`.

    Raises:
        UserError: the training rows have only one label.
    """
    labels = read_labels(transform_graph.uri)
    options = ModelOptions.model_validate_json(model_options)
    pooling = families.of(options).pooling(options)
    train, validation, test = (labelled(vectors.read(embeddings.uri, split), pooling) for split in features.SPLITS)
    began = time.monotonic()
    fitted = probe.fit(train, validation, len(labels), balanced=class_weights == "balanced")
    seconds = time.monotonic() - began
    logits = fitted.logits(validation.features)
    probe_head.write(head.uri, Probed(fitted, logits))

    several = test.labels.ndim == 2
    table = read_examples(artifact_utils.get_split_uri([examples], "test"), [], multi_label=several)
    truth = names_of(test.labels, labels)
    check_order(truth, table)
    given = answers_of(fitted.logits(test.features), logits, validation.labels)
    predicted = names_of(given, labels)
    columns = {features.ROW_ID: table[features.ROW_ID], "predicted": predicted}
    pq.write_table(pa.table(columns), f"{answers.uri}/{BASELINE_FILE}")
    accuracy = sum(answered == label for answered, label in zip(predicted, truth, strict=True)) / len(truth)
    figure = "subset accuracy" if several else "accuracy"
    head.set_string_custom_property(
        "summary",
        f"frozen encoder with logistic regression: {figure} {accuracy:.3f}, C {fitted.strength:g}, in {seconds:.1f} s",
    )


def answers_of(logits: np.ndarray, validation_logits: np.ndarray, validation_labels: np.ndarray) -> np.ndarray:
    """The label of each row, int64 [rows], or its labels, bool [rows, labels].

    As for the model that it is compared with, the threshold of each label is tuned on the validation rows.

    Args:
        logits: float32 [rows, labels].
        validation_logits: the same of the validation rows.
        validation_labels: int [rows] or [rows, labels], as dataset.Rows has them.
    """
    if validation_labels.ndim == 1:
        return logits.argmax(-1)
    tuned = thresholds.tune(special.expit(validation_logits), validation_labels == 1)
    return special.expit(logits) >= np.array([each.value for each in tuned])


def labelled(rows: Vectors, pooling: Pooling) -> probe.LabelledFeatures:
    """The rows as the head reads them."""
    return probe.LabelledFeatures(rows.vectors * np.float32(pooling.gain(rows.vectors.shape[1])), rows.labels)
