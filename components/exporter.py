"""Exporter: writes the SavedModel that is evaluated, pushed and served, from the weights that training left."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from bertline.components import estimates, export_record, label_sets, training_record
from bertline.components.artifacts import Weights
from bertline.components.export_record import Calibration, ExportRecord, Threshold
from bertline.components.labels import read_labels
from bertline.components.token_graph import TokenGraph
from bertline.components.transformed_labels import is_multi_label, numbers_of
from bertline.errors import UserError
from bertline.models import calibration, compression, ensemble, families, portable, signatures, thresholds
from bertline.models.features import SEGMENT_IDS
from bertline.models.recipe import ExportOptions, ModelOptions
from bertline.serving import storage

NOT_ASKED = "export.calibrate is none"


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
    Both take little from them, a choice among a few epochs and one number. The test rows show whether it holds. For a
    multi-label model, the temperature and the threshold of each label are fitted on them.

    Args:
        weights: the Trainer's, or a student's, which may have a vocabulary of its own.
        model_run: the logits of the validation rows, which the temperature is fitted on.
        transform_graph: the tokenisation, which becomes part of the model unless the weights have their own.
        model: the SavedModel, export.json, and with `also` the folder onnx/. Float property, where it is set:
            `abstain`, the probability below which it abstains.
        model_options: a ModelOptions as JSON, which names the vocabulary.
        options: an ExportOptions as JSON.

    Raises:
        UserError: no answer could be below the threshold, the vocabulary is gone, or the model cannot be written as
            ONNX.
    """
    export(
        weights.uri,
        model_run.uri,
        transform_graph.uri,
        model,
        ModelOptions.model_validate_json(model_options),
        ExportOptions.model_validate_json(options),
    )


def export(
    weights: str,
    model_run: str,
    transform_graph: str,
    model: standard_artifacts.Model,
    model_options: ModelOptions,
    options: ExportOptions,
) -> None:
    """The stage's work, for the StudentExporter too.

    Args:
        weights: folder of the Weights artifact.
        model_run: folder of the ModelRun.
        transform_graph: folder of the TransformGraph.
        model: gets the SavedModel.
        model_options: name the vocabulary.
        options: of the export.
    """
    labels = read_labels(transform_graph)
    check_abstention(options.abstain, labels)
    validation = training_record.read_logits(model_run)
    calibrated = calibrate(validation, labels, options.calibrate)
    tuned = tune(validation, labels, calibrated) if np.ndim(calibrated.temperature) else None
    values = None if tuned is None else [tuned[label].value for label in labels]
    source = Source(Path(weights), transform_graph, model_options, options, calibrated.temperature, values)
    folder = Path(path_utils.serving_model_dir(model.uri))
    write_saved_model(folder, source)
    also = {}
    if "onnx" in options.also:
        beside = Path(model.uri) / export_record.ONNX_FOLDER
        write_onnx(beside, source)
        also["onnx"] = storage.size(beside)
    record = ExportRecord(
        dtype=options.dtype, abstain=options.abstain, calibration=calibrated, thresholds=tuned, also=also
    )
    export_record.write(model.uri, record)
    if options.abstain is not None:
        model.set_float_custom_property("abstain", options.abstain)
    model.set_string_custom_property("summary", describe(record, storage.size(folder)))


class Source(NamedTuple):
    """What a model is exported from.

    Attributes:
        weights: folder of the trained weights.
        transform_graph: folder of Transform's output.
        model: names the vocabulary.
        options: dtype and threshold.
        temperature: what the logits are divided by.
        thresholds: of a multi-label model, in the order of the labels.
    """

    weights: Path
    transform_graph: str
    model: ModelOptions
    options: ExportOptions
    temperature: calibration.Temperatures = 1.0
    thresholds: list[float] | None = None


def write_saved_model(folder: Path, source: Source) -> None:
    """Fills the folder with the SavedModel."""
    weights, transform_graph, model, options, temperature, thresholds = source
    own = compression.options_of(model, weights)
    family, labels = families.of(own), read_labels(transform_graph)
    learned = compression.learned(transform_graph, weights)
    tokenizer = family.tokenizer(own, learned)
    spec = tft.TFTransformOutput(transform_graph).transformed_feature_spec()
    pair, several = SEGMENT_IDS in spec, is_multi_label(spec)
    served = signatures.ServedModel(
        ensemble.load(family, weights),
        Path(transform_graph),
        family.vocabulary(own, learned),
        tokenizer.unknown,
        labels,
        dtype=tf.as_dtype(options.dtype),
        pair=pair,
        temperature=temperature,
        thresholds=thresholds,
        abstain=options.abstain,
        tokens=None if own is model else TokenGraph(tokenizer, labels, pair=pair, multi_label=several),
    )
    signatures.export(served, folder)


def write_onnx(folder: Path, source: Source) -> None:
    """Writes the same model for programs without TensorFlow.

    Raises:
        UserError: the package onnx is missing, or a model of this family cannot be written as ONNX.
    """
    portable.check_installed()
    from bertline.models.portable import folder as portable_folder  # brings onnx, which is an extra

    weights, transform_graph, model, options, temperature, thresholds = source
    own = compression.options_of(model, weights)
    family = families.of(own)
    answers = portable_folder.Answers(
        labels=read_labels(transform_graph),
        temperature=temperature,
        thresholds=thresholds,
        abstain=options.abstain,
        pair=SEGMENT_IDS in tft.TFTransformOutput(transform_graph).transformed_feature_spec(),
    )
    portable_folder.write(folder, ensemble.load(family, weights), family, own, answers)


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
    truth = numbers_of(validation.labels, labels)
    if truth.ndim == 2:
        return _calibrate_labels(validation.logits, truth, labels, method)
    if method == "none":
        temperature = calibration.Temperature(note=NOT_ASKED)
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


def _calibrate_labels(logits: np.ndarray, truth: np.ndarray, labels: list[str], method: str) -> Calibration:
    """The same for a multi-label model, whose rows have the labels `truth`, bool [rows, labels]."""
    if method == "none":
        temperatures = [calibration.Temperature()] * len(labels)
    else:
        temperatures = calibration.fit_temperatures(logits, truth)
    values = [each.value for each in temperatures]
    before, after = (
        label_sets.calibration(truth, calibration.probabilities(logits, at)) for at in ([1.0] * len(labels), values)
    )
    notes = [f"{label}: {each.note}" for label, each in zip(labels, temperatures, strict=True) if each.note]
    note = NOT_ASKED if method == "none" else "; ".join(notes)
    return Calibration(temperature=values, note=note, rows=len(truth), before=before, after=after)


def tune(
    validation: training_record.ValidationLogits, labels: list[str], calibrated: Calibration
) -> dict[str, Threshold]:
    """The threshold of each label of a multi-label model, tuned on the validation rows.

    Args:
        validation: the validation rows' logits and labels.
        labels: names in the order of the logits.
        calibrated: the temperatures that the model is served at.
    """
    # As the served model rounds them.
    probabilities = calibration.probabilities(validation.logits, calibrated.temperature).astype(np.float32)
    tuned = thresholds.tune(probabilities, numbers_of(validation.labels, labels))
    return {label: Threshold(value=each.value, note=each.note) for label, each in zip(labels, tuned, strict=True)}


def describe(record: ExportRecord, size: int) -> str:
    """The screen's line, such as "float32, 92 MB, temperature 1.11, abstains below 0.6"."""
    parts = [record.dtype, f"{size / 1e6:.0f} MB"]
    parts += [f"{name.upper()} {beside / 1e6:.0f} MB" for name, beside in record.also.items()]
    if record.thresholds:
        parts += _described_labels(record.calibration.temperature, record.thresholds)
    elif record.calibration.temperature != 1:
        parts.append(f"temperature {record.calibration.temperature:.2f}")
    if record.abstain is not None:
        parts.append(f"abstains below {record.abstain:g}")
    return ", ".join(parts)


def _described_labels(temperatures: list[float], tuned: dict[str, Threshold]) -> list[str]:
    """Such as "temperatures 0.80 to 1.20", "thresholds 0.31 to 0.66 (2 of 5 labels not tuned)"."""
    low, high = min(temperatures), max(temperatures)
    shown = [f"temperatures {low:.2f} to {high:.2f}"] if (low, high) != (1, 1) else []
    values, untuned = [each.value for each in tuned.values()], sum(bool(each.note) for each in tuned.values())
    aside = f" ({untuned} of {len(tuned)} labels have too few validation rows to tune it)" if untuned else ""
    return [*shown, f"thresholds {min(values):.2f} to {max(values):.2f}{aside}"]
