"""Evaluator: one batched pass of the exported model over the test rows, TFMA's counts on it, and the gates."""

import json
import os
import time
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import path_utils

from bertline.components import estimates, export_record, gates, label_set_figures, label_sets, ranking
from bertline.components.answers import (
    PREDICTED,
    PREVIOUS,
    PROBE,
    TFIDF,
    Answers,
    LabelSetAnswers,
    indices,
    multi_hot,
    slice_columns,
    write_answers,
)
from bertline.components.artifacts import BASELINE_FILE, BaselineAnswers
from bertline.components.evaluation import (
    Abstention,
    Calibration,
    ClassScores,
    Comparison,
    Intervals,
    LastBlessed,
    Metrics,
    SliceFigures,
    figure_name,
    write_metrics,
)
from bertline.components.examples import SERIALIZED, Table, read_examples
from bertline.components.options import EvaluateOptions
from bertline.components.tfma_counts import Counts, run_tfma
from bertline.errors import UserError
from bertline.models import calibration, features
from bertline.models.features import CANDIDATE, LAST_BLESSED
from bertline.serving import storage
from bertline.serving.calls import Call
from bertline.serving.servable import Servable

OUTPUTS = (features.PROBABILITIES, features.CLASSES)  # of every model; it has the others by its kind
OWN_OUTPUTS = (features.PREDICTED_LABEL, features.ABSTAINED, features.ASSIGNED)


@component(use_beam=True)
def Evaluator(
    examples: InputArtifact[standard_artifacts.Examples],
    model: InputArtifact[standard_artifacts.Model],
    last_blessed: InputArtifact[standard_artifacts.Model],
    evaluation: OutputArtifact[standard_artifacts.ModelEvaluation],
    blessing: OutputArtifact[standard_artifacts.ModelBlessing],
    options: Parameter[str],
    keep: Parameter[str],
    multi_label: Parameter[int] = 0,
    tfidf: InputArtifact[BaselineAnswers] = None,
    probe: InputArtifact[BaselineAnswers] = None,
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Evaluates the exported model on the test rows and gates it.

    Args:
        examples: raw Examples of ingestion; the split "test" is read.
        model: the Exporter's; its SavedModel's serving_default signature answers. export.json has its temperature.
        last_blessed: the last blessed model (LastBlessed's output), or an artifact whose property `present` is 0.
        evaluation: TFMA's results, metrics.json and predictions-test.parquet.
        blessing: BLESSED or NOT_BLESSED; the property `verdicts` lists every gate as JSON.
        options: EvaluateOptions as JSON.
        keep: kept columns as a JSON list.
        multi_label: whether (1) rows have any number of labels.
        tfidf: TF-IDF's answers; None where the config leaves it out.
        probe: the probe's; None where there is none, or where it is the model itself.
        beam_pipeline: TFX passes it; TFMA counts in it.
    """
    evaluate_options = EvaluateOptions.model_validate_json(options)
    split = artifact_utils.get_split_uri([examples], "test")
    table = read_examples(split, json.loads(keep), multi_label=bool(multi_label))
    saved_model = path_utils.serving_model_path(model.uri)
    candidate, seconds = predict(saved_model, table, evaluate_options.batch_size)
    check_labels(candidate, table[features.LABEL])
    models, others, version, aside = {CANDIDATE: candidate}, {}, "", ""
    if last_blessed.get_int_custom_property("present"):
        version = last_blessed.get_string_custom_property("version")
        previous, _ = predict(path_utils.serving_model_path(last_blessed.uri), table, evaluate_options.batch_size)
        if previous.multi_label == candidate.multi_label:
            models[LAST_BLESSED], others[PREVIOUS] = previous, previous.names(previous.predicted)
        else:
            kind = "several labels" if previous.multi_label else "one label"
            aside = f"  not compared with {version}, which gives {kind} per row"
    for name, theirs in ((TFIDF, tfidf), (PROBE, probe)):
        if theirs:
            others[name] = read_baseline(f"{theirs.uri}/{BASELINE_FILE}", table[features.ROW_ID])
    rows = candidate.beside(others, version).sliced(evaluate_options)
    write_answers(evaluation.uri, rows)

    counts = run_tfma(beam_pipeline, models, slice_columns(rows.table, evaluate_options), evaluation.uri)[CANDIDATE]
    threshold = None if rows.abstained is None else model.get_float_custom_property("abstain")
    export = export_record.read(model.uri)
    of_all = label_set_figures.all_rows(rows, export.thresholds) if rows.multi_label else all_rows(rows, counts)
    metrics = Metrics(
        **of_all,
        model_bytes=storage.size(saved_model),
        inference_seconds=seconds,
        calibration=calibrated(rows, export.calibration.temperature),
        abstain=None if threshold is None else abstention(rows, threshold),
        ranking=ranking.figures(rows, models.get(LAST_BLESSED), evaluate_options) if evaluate_options.ranking else None,
        **comparisons(rows, evaluate_options.gates.certainty),
    )
    write_metrics(evaluation.uri, metrics)

    bless(blessing, gates.judge(metrics, rows, evaluate_options.gates))
    evaluation.set_string_custom_property("summary", describe(metrics) + aside)


# === Answers ===


def predict(saved_model: str, table: Table, batch_size: int) -> tuple[Answers, float]:
    """Asks the SavedModel's serving_default signature about every row, in batches of texts of similar length.

    It runs in a session, as in a server. There TensorFlow fuses ops that a call of the loaded function does not fuse,
    and the figures should be those of what is served.

    Args:
        saved_model: folder of the SavedModel.
        table: the rows, as read_examples gives them.
        batch_size: rows per call.

    Returns:
        The rows with the model's answers, and the seconds that these took, without loading the model.
    """
    servable = Servable(saved_model, "candidate", 0)
    signature = servable.signatures["serving_default"]
    wanted = [*OUTPUTS, *(name for name in OWN_OUTPUTS if name in signature.outputs)]
    outputs = {name: signature.outputs[name].name for name in wanted}
    records = table[SERIALIZED]
    order = sorted(range(len(records)), key=lambda row: len(table[features.TEXT][row]))
    batches = []
    began = time.monotonic()
    for start in range(0, len(order), batch_size):
        fed = np.array([records[row] for row in order[start : start + batch_size]], object)
        answer = servable.run(Call({signature.inputs["examples"].name: fed}, tuple(outputs.values())))
        batches.append({name: answer[output] for name, output in outputs.items()})
    seconds = time.monotonic() - began
    servable.close()
    classes = [name.decode() for name in batches[0][features.CLASSES][0]]

    def in_order(name: str) -> np.ndarray:
        return np.concatenate([batch[name] for batch in batches])[np.argsort(order)]

    columns = {name: column for name, column in table.items() if name not in (SERIALIZED, features.LABEL)}
    if features.ASSIGNED in outputs:
        answers = LabelSetAnswers(
            classes,
            labels=multi_hot(table[features.LABEL], classes),
            predicted=in_order(features.ASSIGNED),
            probabilities=in_order(features.PROBABILITIES),
            columns=columns,
        )
        return answers, seconds
    predicted = [name.decode() for name in in_order(features.PREDICTED_LABEL)]
    return Answers(
        classes,
        labels=indices(table[features.LABEL], classes),
        predicted=indices(predicted, classes),
        probabilities=in_order(features.PROBABILITIES),
        columns=columns,
        abstained=in_order(features.ABSTAINED) if features.ABSTAINED in outputs else None,
    ), seconds


def check_labels(rows: Answers, names: list[Any]) -> None:
    """Raises UserError where a row has a label that the model was not trained on; names: the labels', [rows]."""
    present = {label for of_row in names for label in of_row} if rows.multi_label else set(names)
    if unknown := sorted(present - set(rows.classes)):
        raise UserError(f"the test rows have labels that the model was not trained on: {', '.join(unknown[:5])}.")


def read_baseline(path: str, row_ids: list[str]) -> list[Any]:
    """TF-IDF's or the probe's answers in the order of `row_ids`: the label's name, or of multi-label rows a list."""
    table = pq.read_table(path).to_pydict()
    by_row = dict(zip(table[features.ROW_ID], table[PREDICTED], strict=True))
    return [by_row[row_id] for row_id in row_ids]


# === Figures ===


def all_rows(rows: Answers, counts: dict[str, Counts]) -> dict[str, object]:
    """The fields of Metrics that follow from the model's answers.

    Args:
        rows: the model's answers, with the slices that TFMA counted.
        counts: by slice name; "" is all rows.
    """
    whole = counts[""]
    error, error_interval = estimates.calibration_error(rows.confidence, rows.right)
    rows_per_label = rows.confusion.sum(-1)
    return {
        **dict(slice_figures(rows, whole)),
        "calibration_error": error,
        "intervals": Intervals(**estimates.intervals(rows.confusion), calibration_error=error_interval),
        "majority_share": float(rows_per_label.max() / rows_per_label.sum()),
        "labels_present": int((rows_per_label > 0).sum()),
        "classes": rows.classes,
        "confusion": whole.confusion,
        "slices": {name: slice_figures(rows, counts[name], inside) for name, inside in rows.slices.items()},
    }


def slice_figures(rows: Answers, counts: Counts, inside: np.ndarray | slice = gates.ALL_ROWS) -> SliceFigures:
    """The figures of the rows `inside`, bool [rows], from TFMA's counts of them and the probabilities."""
    true, answered, cell_rows = np.array(counts.confusion).T
    by_class = estimates.class_counts(cell_rows, true, answered, len(rows.classes))
    scores = zip(by_class.precision, by_class.recall, by_class.f1, strict=True)
    return SliceFigures(
        rows=counts.rows,
        accuracy=counts.accuracy,
        macro_f1=float(np.nanmean(by_class.f1)),  # as in scikit-learn, a class without true or predicted rows is out
        weighted_f1=float(np.average(np.nan_to_num(by_class.f1), weights=by_class.true)),
        micro_f1=counts.accuracy,
        per_class={
            name: ClassScores(precision=_score(precision), recall=_score(recall), f1=_score(f1))
            for name, (precision, recall, f1) in zip(rows.classes, scores, strict=True)
        },
        **estimates.probability_scores(rows.labels[inside], rows.probabilities[inside]),
    )


def _score(value: float) -> float | None:
    """A ratio; None for one of nothing."""
    return None if np.isnan(value) else float(value)


def calibrated(rows: Answers, temperature: calibration.Temperatures) -> Calibration:
    """Log loss and calibration error before (from p and T, exactly) and after the temperature."""
    raw = calibration.unscaled(rows.probabilities, temperature)
    if rows.multi_label:
        before, after = (label_sets.calibration(rows.labels, scores) for scores in (raw, rows.probabilities))
        return Calibration(temperature=temperature, before=before, after=after)
    return Calibration(
        temperature=temperature,
        before=estimates.calibration(rows.labels, rows.predicted, raw),
        after=estimates.calibration(rows.labels, rows.predicted, rows.probabilities),
    )


def abstention(rows: Answers, threshold: float) -> Abstention:
    """What the model's abstaining below the threshold leaves."""
    answered = ~rows.abstained
    return Abstention(
        threshold=threshold,
        rows=int(answered.sum()),
        coverage=float(answered.mean()),
        accuracy=float(rows.right[answered].mean()) if answered.any() else None,
    )


def comparisons(rows: Answers, certainty: float) -> dict[str, LastBlessed | Comparison]:
    """The fields of Metrics on the other models that answered the same rows."""
    found: dict[str, LastBlessed | Comparison] = {}
    if rows.previous is not None:
        compared = gates.compare(rows, rows.previous, certainty)
        found["last_blessed"] = LastBlessed(version=rows.version, comparison=compared)
    if rows.tfidf is not None:
        found["tfidf"] = gates.compare(rows, rows.tfidf, certainty)
    if rows.probe is not None:
        found["probe"] = gates.compare(rows, rows.probe, certainty)
    return found


# === Blessing ===


def bless(blessing: standard_artifacts.ModelBlessing, verdicts: list[gates.Verdict]) -> None:
    """Writes the blessing as TFX does, with the verdicts beside it."""
    blessed = all(verdict.passed for verdict in verdicts)
    with open(os.path.join(blessing.uri, "BLESSED" if blessed else "NOT_BLESSED"), "w", encoding="utf-8"):
        pass
    blessing.set_int_custom_property("blessed", int(blessed))
    blessing.set_string_custom_property("verdicts", json.dumps([verdict.as_dict() for verdict in verdicts]))


def describe(metrics: Metrics) -> str:
    """The screen's line: the main figures with intervals, the leads over other models, and what abstaining leaves."""
    several = metrics.multi_label is not None
    shown = []
    for figure in ("micro_f1", "macro_f1", "accuracy") if several else ("accuracy", "macro_f1"):
        low, high = getattr(metrics.intervals, figure)
        name = figure_name(figure, multi_label=several)
        shown.append(f"{name} {getattr(metrics, figure):.3f} ({low:.3f} to {high:.3f})")
    if metrics.ranking:
        first = next(iter(metrics.ranking.precision_at), None)
        for figure in ("mrr", "ndcg", *([f"precision_at_{first}"] if first else [])):
            shown.append(f"{figure_name(figure)} {metrics.ranking.by_figure()[figure]:.3f}")
        shown[-1] += f" over {metrics.ranking.queries:,} queries"
    for name, other in (("TF-IDF", metrics.tfidf), ("the probe", metrics.probe)):
        if other:
            lead = other.differences.micro_f1 or other.differences.accuracy
            shown.append(f"{lead.value:+.3f} over {name}")
    if metrics.abstain:
        accuracy = "" if metrics.abstain.accuracy is None else f", {metrics.abstain.accuracy:.3f} of these right"
        shown.append(f"at {metrics.abstain.threshold:g} answers {metrics.abstain.coverage:.1%}{accuracy}")
    return "  ".join(shown)
