"""Probe: a logistic regression on the frozen encoder's vectors. Fine-tuning has to beat it."""

import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts

from bertline.components import probe_head, vectors
from bertline.components.artifacts import BASELINE_FILE, BaselineAnswers, Embeddings, ProbeHead
from bertline.components.examples import check_order, read_examples
from bertline.components.labels import read_labels
from bertline.components.probe_head import Probed
from bertline.components.vectors import Vectors
from bertline.models import backbone, features, probe
from bertline.models.dataset import balanced_weights
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
    pooling = backbone.pooling(ModelOptions.model_validate_json(model_options))
    train, validation, test = (vectors.read(embeddings.uri, split) for split in features.SPLITS)
    began = time.monotonic()
    weights = balanced_weights(train.labels, len(labels)) if class_weights == "balanced" else np.ones(len(labels))
    rows = labelled(validation, pooling, weights)
    fitted = probe.fit(labelled(train, pooling, weights), rows, len(labels))
    seconds = time.monotonic() - began
    probe_head.write(head.uri, Probed(fitted, fitted.logits(rows.features)))

    table = read_examples(artifact_utils.get_split_uri([examples], "test"), [])
    check_order([labels[label] for label in test.labels], table)
    predicted = fitted.logits(labelled(test, pooling, weights).features).argmax(-1)
    columns = {features.ROW_ID: table[features.ROW_ID], "predicted": [labels[label] for label in predicted]}
    pq.write_table(pa.table(columns), f"{answers.uri}/{BASELINE_FILE}")
    accuracy = float(np.mean(predicted == test.labels))
    head.set_string_custom_property(
        "summary",
        f"frozen encoder with logistic regression: accuracy {accuracy:.3f}, C {fitted.strength:g}, in {seconds:.1f} s",
    )


def labelled(rows: Vectors, pooling: Pooling, weights: np.ndarray) -> probe.LabelledFeatures:
    """The rows as the head reads them; weights: how much a row of each label counts, float [labels]."""
    gain = np.float32(pooling.gain(rows.vectors.shape[1]))
    return probe.LabelledFeatures(rows.vectors * gain, rows.labels, weights[rows.labels])
