"""Explainer: which words the surest wrong answers rest on, for the review page."""

import json
import time
from pathlib import Path
from typing import Any

import tensorflow_transform as tft
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.io import fileio
from tfx.types import standard_artifacts

from bertline.components import export_record
from bertline.components.answers import read_answers
from bertline.components.artifacts import ATTRIBUTIONS_FILE, Attributions, Weights
from bertline.components.evaluation import read_metrics
from bertline.components.review_page import figures, label_sets
from bertline.models import attributions as attribution
from bertline.models import compression, ensemble, families, features
from bertline.models.recipe import ModelOptions


@component
def Explainer(
    weights: InputArtifact[Weights],
    model: InputArtifact[standard_artifacts.Model],
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    evaluation: InputArtifact[standard_artifacts.ModelEvaluation],
    attributions: OutputArtifact[Attributions],
    model_options: Parameter[str],
) -> None:
    """Explains the answers that the review page lists as most confidently wrong.

    Args:
        weights: the trained classifier, whose answers are explained.
        model: the exported model; scores are taken at its temperature.
        transform_graph: says whether rows are pairs.
        evaluation: metrics.json and predictions-test.parquet.
        attributions: ATTRIBUTIONS_FILE.
        model_options: a ModelOptions as JSON, which names the vocabulary.

    Raises:
        UserError: the vocabulary is gone.
    """
    began = time.monotonic()
    classes = read_metrics(evaluation.uri).classes
    answers = read_answers(evaluation.uri, classes)
    rows = label_sets.mistakes(answers) if answers.multi_label else figures.confidently_wrong(answers)
    explained = {}
    if rows:
        paired = is_paired(transform_graph.uri)
        options = ModelOptions.model_validate_json(model_options)
        explainer = load(weights.uri, model.uri, options, transform_graph.uri)
        for row in rows:
            pair = row[features.TEXT_PAIR] if paired else None
            explained[row[features.ROW_ID]] = explain(explainer, row[features.TEXT], pair, row["answered"], classes)
    with fileio.open(f"{attributions.uri}/{ATTRIBUTIONS_FILE}", "w") as file:
        file.write(json.dumps({"tolerance": attribution.TOLERANCE, "rows": explained}, indent=1) + "\n")
    attributions.set_string_custom_property("summary", describe(explained, time.monotonic() - began))


def load(weights: str, model: str, options: ModelOptions, learned: str | None = None) -> attribution.Explainer:
    """An explainer of the trained classifier.

    Args:
        weights: folder of a Weights artifact.
        model: folder of the Model artifact that was exported from it; scores are taken at its temperature.
        options: names the vocabulary.
        learned: folder of the TransformGraph artifact, where a learned vocabulary lies.

    Raises:
        UserError: the weights or the vocabulary are gone.
    """
    own = compression.options_of(options, weights)
    family = families.of(own)
    tokenizer = family.tokenizer(own, compression.learned(learned, weights))
    temperature = export_record.read(model).calibration.temperature
    return attribution.Explainer(ensemble.load(family, Path(weights)), tokenizer, temperature)


def is_paired(transform_graph: str) -> bool:
    """Whether the rows of a TransformGraph artifact's folder are pairs of texts."""
    return features.SEGMENT_IDS in tft.TFTransformOutput(transform_graph).transformed_feature_spec()


def explain(
    explainer: attribution.Explainer, text: str, pair: str | None, label: str, classes: list[str]
) -> dict[str, Any]:
    """A row's attributions as ATTRIBUTIONS_FILE has them.

    Returns:
        `label`; in log-odds its `score`, the `reference` (the score with the words masked) and the `residual`;
        `complete`, whether the residual is small enough; and `words`, each with `part` (0, or 1 in the second text),
        `start`, `end` and `value`, which is null where the model did not read the word.
    """
    reading = explainer.read(text, pair)
    (explained,) = explainer.integrated_gradients(reading, [classes.index(label)])
    return {
        "label": label,
        "score": explained.score,
        "reference": explained.reference,
        "residual": explained.residual,
        "complete": explained.complete,
        "words": [
            {"part": word.part, "start": word.start, "end": word.end, "value": float(value) if word.tokens else None}
            for word, value in zip(reading.words, explained.values, strict=True)
        ],
    }


def describe(explained: dict[str, dict[str, Any]], seconds: float) -> str:
    """The screen's line, such as "25 wrong answers explained in 4.1 s, words add up to within 1.2%"."""
    if not explained:
        return "no wrong answer to explain"
    rows = explained.values()
    missed = max(abs(row["residual"]) / max(abs(row["score"] - row["reference"]), 1.0) for row in rows)
    incomplete = sum(not row["complete"] for row in rows)
    aside = f", {incomplete} of them not within {attribution.TOLERANCE:.0%}" if incomplete else ""
    return f"{len(rows)} wrong answers explained in {seconds:.1f} s, words add up to within {missed:.1%}{aside}"
