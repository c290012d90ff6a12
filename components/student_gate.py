"""StudentGate: does the student replace its teacher? From here on the line has one model, whichever it is."""

import json
import time
from typing import NamedTuple

import numpy as np
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import path_utils

from bertline.components import artifacts, compression_report, copies, estimates, gates
from bertline.components.answers import Answers
from bertline.components.artifacts import Weights
from bertline.components.compression_report import CompressionReport, Side
from bertline.components.evaluator import check_labels, predict
from bertline.components.examples import SERIALIZED, Table, read_examples
from bertline.components.gates import Verdict
from bertline.components.options import CompressOptions, EvaluateOptions, StudentGates
from bertline.models import features
from bertline.serving import storage
from bertline.serving.calls import Call
from bertline.serving.servable import Servable

TIMED_BATCHES = 12  # pairs of them; their spread says how far the ratio can be trusted
TIMED_TEXTS = 50  # one at a time, for the median


@component
def StudentGate(
    examples: InputArtifact[standard_artifacts.Examples],
    teacher: InputArtifact[standard_artifacts.Model],
    teacher_weights: InputArtifact[Weights],
    teacher_run: InputArtifact[standard_artifacts.ModelRun],
    student: InputArtifact[standard_artifacts.Model],
    student_weights: InputArtifact[Weights],
    student_run: InputArtifact[standard_artifacts.ModelRun],
    model: OutputArtifact[standard_artifacts.Model],
    weights: OutputArtifact[Weights],
    model_run: OutputArtifact[standard_artifacts.ModelRun],
    report: OutputArtifact[artifacts.CompressionReport],
    options: Parameter[str],
    evaluate: Parameter[str],
    keep: Parameter[str],
    multi_label: Parameter[int] = 0,
) -> None:
    """Compares both on the test rows, and passes on the student if it passes `compress.gates`, else the teacher.

    Args:
        examples: raw Examples of ingestion; the split "test" is read.
        teacher: the exported teacher.
        teacher_weights: the Trainer's.
        teacher_run: the Trainer's.
        student: the exported student.
        student_weights: the Compressor's.
        student_run: the Compressor's.
        model: the one that goes on.
        weights: of the same.
        model_run: of the same.
        report: compression.json; the property `verdicts` lists the gates as JSON.
        options: CompressOptions as JSON.
        evaluate: EvaluateOptions as JSON: the batch size, and how sure a comparison must be to block.
        keep: kept columns as a JSON list.
        multi_label: whether (1) rows have any number of labels.
    """
    evaluation = EvaluateOptions.model_validate_json(evaluate)
    split = artifact_utils.get_split_uri([examples], "test")
    table = read_examples(split, json.loads(keep), multi_label=bool(multi_label))
    pair = {"teacher": teacher, "student": student}
    folders = {name: path_utils.serving_model_path(each.uri) for name, each in pair.items()}
    rows = {name: predict(folder, table, evaluation.batch_size)[0] for name, folder in folders.items()}
    check_labels(rows["teacher"], table[features.LABEL])
    timed = measure(folders["teacher"], folders["student"], table, evaluation.batch_size)
    trade = compare(
        compression_report.read_steps(student_weights.uri),
        {name: side(rows[name], storage.size(folders[name]), timed[name]) for name in pair},
        rows,
        timed,
        CompressOptions.model_validate_json(options).gates,
        evaluation.gates.certainty,
    )
    compression_report.write(report.uri, trade)
    report.set_string_custom_property("verdicts", json.dumps(trade.verdicts))
    report.set_string_custom_property("summary", trade.described)
    taken = {
        "student": (student, student_weights, student_run),
        "teacher": (teacher, teacher_weights, teacher_run),
    }[trade.chosen]
    for source, target in zip(taken, (model, weights, model_run), strict=True):
        copies.copy(source, target)


# === Time ===


class Timing(NamedTuple):
    """What a model took for the same batches and texts as the other one."""

    seconds: np.ndarray  # float64 [batches]
    rows: int  # in all batches together
    p50_ms: float  # of one text


def measure(teacher: str, student: str, table: Table, batch_size: int) -> dict[str, Timing]:
    """Times both on the same rows, in turns, so that a machine whose speed drifts is as slow for both.

    Args:
        teacher: folder of the SavedModel.
        student: the same.
        table: the rows, as read_examples gives them.
        batch_size: rows of a call.
    """
    records = table[SERIALIZED]
    lengths = [sum(map(len, texts)) for texts in zip(table[features.TEXT], table[features.TEXT_PAIR], strict=True)]
    order = sorted(range(len(records)), key=lengths.__getitem__)
    batches = [
        np.array([records[row] for row in order[start : start + batch_size]], object)
        for start in range(0, len(order), batch_size)
    ]
    chosen = np.unique(np.linspace(0, len(batches) - 1, min(TIMED_BATCHES, len(batches))).round().astype(int))
    places = np.linspace(0, len(order) - 1, TIMED_TEXTS).round().astype(int)
    both = [_Timed(teacher), _Timed(student)]
    timed = [batches[place] for place in chosen]
    in_batches = np.array([_in_turns(both, batch, turn) for turn, batch in enumerate(timed)])
    singles = [np.array([records[order[place]]], object) for place in places]
    alone = np.array([_in_turns(both, single, turn) for turn, single in enumerate(singles)])
    rows = sum(map(len, timed))
    timings = {
        name: Timing(in_batches[:, at], rows, float(np.median(alone[:, at])) * 1e3)
        for at, name in enumerate(("teacher", "student"))
    }
    for each in both:
        each.close()
    return timings


class _Timed:
    """A SavedModel in a session, as a server has it."""

    def __init__(self, folder: str):
        self._servable = Servable(folder, "timed", 0)
        signature = self._servable.signatures["serving_default"]
        self._input = signature.inputs["examples"].name
        self._outputs = (signature.outputs[features.PROBABILITIES].name,)
        self.close = self._servable.close

    def seconds(self, records: np.ndarray) -> float:
        """What it takes to answer some serialized Examples, [rows]: the better of two times.

        The first time at a shape is not what a server's users wait for.
        """
        call = Call({self._input: records}, self._outputs)

        def once() -> float:
            began = time.perf_counter()
            self._servable.run(call)
            return time.perf_counter() - began

        return min(once(), once())


def _in_turns(both: list[_Timed], records: np.ndarray, turn: int) -> list[float]:
    """The seconds of both, the teacher's first; every second time the student begins."""
    first = turn % 2
    taken = {place: both[place].seconds(records) for place in (first, 1 - first)}
    return [taken[0], taken[1]]


# === Judgement ===


def side(rows: Answers, size: int, timed: Timing) -> Side:
    """A model's figures.

    Args:
        rows: its answers to the test rows.
        size: bytes of its SavedModel.
        timed: its times.
    """
    scores = rows.scores(rows.predicted)
    return Side(
        **scores,
        interval=estimates.share_interval(int(rows.right.sum()), len(rows.right)),
        p50_ms=timed.p50_ms,
        examples_per_second=timed.rows / float(timed.seconds.sum()),
        bytes=size,
    )


def compare(
    steps: compression_report.Steps,
    sides: dict[str, Side],
    rows: dict[str, Answers],
    timed: dict[str, Timing],
    options: StudentGates,
    certainty: float,
) -> CompressionReport:
    """Student against teacher.

    Args:
        steps: what was done.
        sides: both models' figures, as "teacher" and "student"; so the next two.
        rows: their answers to the test rows.
        timed: their times, of the same batches.
        options: the gates.
        certainty: that a bound holds with.
    """
    student, teacher = rows["student"], rows["teacher"].predicted
    ratio, bounds = faster(timed["teacher"].seconds, timed["student"].seconds, certainty)
    smaller = sides["teacher"].bytes / sides["student"].bytes
    verdicts = []
    if options.not_worse_by is not None:
        verdicts.append(gates.not_worse(student, teacher, "the teacher", options.not_worse_by, certainty))
    if options.faster_by is not None:
        verdicts.append(_fast(ratio, bounds, options.faster_by))
    if options.smaller_by is not None:
        verdicts.append(_small(smaller, options.smaller_by))
    return CompressionReport(
        steps=steps,
        **sides,
        comparison=gates.compare(student, teacher, certainty),
        faster=ratio,
        faster_bounds=bounds,
        smaller=smaller,
        verdicts=[verdict.as_dict() for verdict in verdicts],
        chosen="student" if all(verdict.passed for verdict in verdicts) else "teacher",
    )


def faster(teacher: np.ndarray, student: np.ndarray, certainty: float) -> tuple[float, estimates.Interval]:
    """How many times the examples a second, and its bounds from resampled pairs of batches.

    Args:
        teacher: seconds of each batch, float64 [batches].
        student: of the same batches.
        certainty: that each bound holds with.
    """
    drawn = estimates.bootstrap(
        lambda counts: (counts @ teacher) / (counts @ student), np.ones(len(teacher), np.int64), width=1
    )
    return float(teacher.sum() / student.sum()), estimates.percentile_interval(drawn, certainty)


def _fast(ratio: float, bounds: estimates.Interval, least: float) -> Verdict:
    # The ratio itself counts. Its bounds say how much the machine's speed drifted: by the upper one a student would
    # pass that was slower than asked, and by the lower one a busy machine would refuse what an idle one passes.
    passed = ratio >= least
    reason = f"the student answers {ratio:.2f} times the examples a second of the teacher; the gate asks for {least:g}"
    return Verdict(
        f"{least:g} times as fast",
        f"{ratio:.2f}x",
        f"{least:g}x",
        passed,
        "" if passed else reason,
        kind="compress.gates.faster_by",
        interval=bounds,
        missing=max(least - ratio, 0.0),
    )


def _small(ratio: float, least: float) -> Verdict:
    passed = ratio >= least
    return Verdict(
        f"{least:g} times as small",
        f"{ratio:.2f}x",
        f"{least:g}x",
        passed,
        "" if passed else f"the teacher has {ratio:.2f} times the bytes of the student; the gate asks for {least:g}",
        kind="compress.gates.smaller_by",
        missing=max(least - ratio, 0.0),
    )
