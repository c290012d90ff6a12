"""Exporter: writes the SavedModel that is evaluated, pushed and served, from the weights that training left."""

from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from bertline.components import estimates, export_record, training_record
from bertline.components.artifacts import Weights
from bertline.components.export_record import Calibration, ExportRecord
from bertline.components.labels import read_labels
from bertline.errors import UserError
from bertline.models import backbone, calibration, classifier, signatures
from bertline.models.features import SEGMENT_IDS
from bertline.models.recipe import ExportOptions, ModelOptions
from bertline.serving import storage


@component
def Exporter(
    weights: InputArtifact[Weights],
    model_run: InputArtifact[standard_artifacts.ModelRun],
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    model: OutputArtifact[standard_artifacts.Model],
    model_options: Parameter[str],
    options: Parameter[str],
) -> None:
    """Exports the trained weights in the dtype, at the temperature and with the threshold that the options name.

    The validation rows are used twice: early stopping chose the epoch on them, and the temperature is fitted on them.
    Both take little from them, a choice among a few epochs and one number. The test rows show whether it holds.

    Args:
        weights: the Trainer's.
        model_run: the logits of the validation rows, which the temperature is fitted on.
        transform_graph: the tokenisation, which becomes part of the model.
        model: the SavedModel, and export.json. Float properties: `temperature`, what its logits are divided by, and
            where it is set `abstain`, the probability below which it abstains.
        model_options: a ModelOptions as JSON, which names the vocabulary.
        options: an ExportOptions as JSON.

    Raises:
        UserError: no answer could be below the threshold, or the vocabulary is gone.
    """
    export = ExportOptions.model_validate_json(options)
    labels = read_labels(transform_graph.uri)
    check_abstention(export.abstain, labels)
    calibrated = calibrate(training_record.read_logits(model_run.uri), labels, export.calibrate)
    folder = Path(path_utils.serving_model_dir(model.uri))
    write_saved_model(
        folder,
        Path(weights.uri),
        transform_graph.uri,
        ModelOptions.model_validate_json(model_options),
        export,
        temperature=calibrated.temperature,
    )
    record = ExportRecord(dtype=export.dtype, abstain=export.abstain, calibration=calibrated)
    export_record.write(model.uri, record)
    model.set_float_custom_property("temperature", calibrated.temperature)
    if export.abstain is not None:
        model.set_float_custom_property("abstain", export.abstain)
    model.set_string_custom_property("summary", describe(record, storage.size(folder)))


def write_saved_model(
    folder: Path,
    weights: Path,
    transform_graph: str,
    model: ModelOptions,
    options: ExportOptions,
    *,
    temperature: float,
) -> None:
    """Writes the SavedModel.

    Args:
        folder: to be filled.
        weights: folder of the trained weights.
        transform_graph: folder of Transform's output.
        model: names the vocabulary.
        options: dtype and threshold.
        temperature: what the logits are divided by.
    """
    served = signatures.ServedModel(
        classifier.load(weights),
        Path(transform_graph),
        backbone.vocabulary(model).path,
        read_labels(transform_graph),
        dtype=tf.as_dtype(options.dtype),
        pair=SEGMENT_IDS in tft.TFTransformOutput(transform_graph).transformed_feature_spec(),
        temperature=temperature,
        abstain=options.abstain,
    )
    signatures.export(served, folder)


def check_abstention(threshold: float | None, labels: list[str]) -> None:
    """Raises UserError where a threshold is so low that no answer can be below it."""
    if threshold is not None and threshold <= 1 / len(labels):
        raise UserError(
            f"export.abstain: no answer can be below {threshold:g}. With {len(labels)} labels the largest probability "
            f"is at least {1 / len(labels):.3g}. Set it higher, or leave it out."
        )


def calibrate(validation: training_record.ValidationLogits, labels: list[str], method: str) -> Calibration:
    """Fits the temperature, and measures its effect on the rows that it was fitted on.

    Args:
        validation: the validation rows' logits and labels.
        labels: names in the order of the logits.
        method: `export.calibrate`.
    """
    truth = np.array([labels.index(label) for label in validation.labels])
    if method == "none":
        temperature = calibration.Temperature(note="export.calibrate is none")
    else:
        temperature = calibration.fit_temperature(validation.logits, truth)
    answers = validation.logits.argmax(-1)
    before, after = (
        estimates.calibration(truth, answers, calibration.probabilities(validation.logits, value))
        for value in (1.0, temperature.value)
    )
    return Calibration(
        temperature=temperature.value, note=temperature.note, rows=len(truth), before=before, after=after
    )


def describe(record: ExportRecord, size: int) -> str:
    """The screen's line, such as "float32, 92 MB, temperature 1.11, abstains below 0.6"."""
    parts = [record.dtype, f"{size / 1e6:.0f} MB"]
    if record.calibration.temperature != 1:
        parts.append(f"temperature {record.calibration.temperature:.2f}")
    if record.abstain is not None:
        parts.append(f"abstains below {record.abstain:g}")
    return ", ".join(parts)
