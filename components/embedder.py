"""Embedder: the rows' vectors by the frozen pretrained encoder, computed once for all that reads them."""

import time
from pathlib import Path

import numpy as np
import tensorflow_transform as tft
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from bertline.components import pretrained, vectors
from bertline.components.artifacts import Backbone, Embeddings
from bertline.components.labels import read_labels
from bertline.components.transformed_labels import is_multi_label
from bertline.components.vectors import Vectors
from bertline.models import families, hardware
from bertline.models.dataset import read_rows
from bertline.models.embeddings import FrozenEncoder
from bertline.models.features import SEGMENT_IDS, SPLITS
from bertline.models.recipe import ModelOptions

SEED = 1  # of the sample of training rows


@component
def Embedder(
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    transformed_examples: InputArtifact[standard_artifacts.Examples],
    embeddings: OutputArtifact[Embeddings],
    model_options: Parameter[str],
    precision: Parameter[str],
    train_rows: Parameter[int],
    backbone: InputArtifact[Backbone] = None,
) -> None:
    """Embeds the rows of all splits; no weight is trained.

    Args:
        transform_graph: Transform's graph, which says whether rows are pairs.
        transformed_examples: token ids and label ids of all splits.
        embeddings: see bertline.components.vectors.
        model_options: a ModelOptions as JSON.
        precision: `train.precision`; the vectors are those that training begins with.
        train_rows: at most so many training rows are embedded, an even sample; 0 for all.
        backbone: the Pretrainer's weights; None for the configured ones.

    Raises:
        UserError: a split is empty, or the backbone cannot be read.
    """
    options = pretrained.model_of(ModelOptions.model_validate_json(model_options), backbone)
    spec = tft.TFTransformOutput(transform_graph.uri).transformed_feature_spec()
    labels = len(read_labels(transform_graph.uri)) if is_multi_label(spec) else None
    began = time.monotonic()
    # The number of labels does not matter, as only the layers below the head are used.
    encoder = FrozenEncoder(families.of(options).build(options, 2, seed=SEED), hardware.compute_dtype(precision))
    total = 0
    for split in SPLITS:
        rows = read_rows(Path(transformed_examples.uri) / f"Split-{split}", pair=SEGMENT_IDS in spec, labels=labels)
        places = sample(len(rows), train_rows if split == "train" else 0)
        part = rows.take(places)
        vectors.write(embeddings.uri, split, Vectors(encoder(part), part.labels, places))
        total += len(places)
    speed = total / (time.monotonic() - began)
    embeddings.set_string_custom_property("summary", f"{total:,} rows embedded, {speed:.0f} examples/s")


def sample(rows: int, most: int) -> np.ndarray:
    """The places of an even sample, sorted int64 [at most `most`]; of all rows where most is 0 or enough."""
    if not most or rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(SEED).choice(rows, most, replace=False))
