"""The verdicts between an evaluated model and its push: pure functions on metrics and answers.

A floor or a ceiling for one figure of all rows (accuracy, macro-F1, calibration, size) is held against the figure
itself. A comparison, of two models or of a slice with all rows, blocks only if even the favourable bound of the
difference is beyond the margin. That bound holds with the config's `certainty`, so luck seldom blocks a model. Beating
TF-IDF is judged more strictly: even the unfavourable bound must be above the margin.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bertline.components import estimates
from bertline.components.answers import Answers
from bertline.components.evaluation import Comparison, Difference, Differences, Metrics, RankingFigures, figure_name
from bertline.components.options import FairnessGates, GateOptions, RankingGates, SliceGates
from bertline.errors import UserError


@dataclass(frozen=True)
class Verdict:
    """What one gate says of a model.

    Attributes:
        gate: the gate in words, such as "accuracy >= 0.8".
        value: the model's figure, as the screen shows it.
        bound: what the value is held against, as the screen shows it.
        passed: whether the model may pass.
        reason: why it may not; "" if it passed.
        kind: the gate's key in the config, such as "not_worse_by" or "slices.accuracy".
        metric: the figure, such as "accuracy"; "" where it does not come from the rows.
        slice: the slice; "" for all rows.
        interval: bounds of the value: the 95% interval of a figure, or bounds of a difference, each of which holds with
            the config's `certainty`.
        note: what else a person should know, such as a cross-check.
        missing: by how much the bound was missed, in the value's unit; 0 if the model passed.
    """

    gate: str
    value: str
    bound: str
    passed: bool
    reason: str = ""
    kind: str = ""
    metric: str = ""
    slice: str = ""
    interval: estimates.Interval | None = None
    note: str = ""
    missing: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The verdict for JSON."""
        return asdict(self)


def judge(metrics: Metrics, answers: Answers, options: GateOptions) -> list[Verdict]:
    """The verdicts of all configured gates.

    Args:
        metrics: the candidate's.
        answers: the candidate's, and those of the models that it is compared with.
        options: the config's gates.

    Raises:
        UserError: the fairness gates name a label that the model lacks.
    """
    return [*_of_all_rows(metrics, options), *judge_answers(answers, options)]


def judge_answers(answers: Answers, options: GateOptions) -> list[Verdict]:
    """The verdicts of the gates that compare rows: with other models, of slices, of groups of people; as in judge."""
    verdicts = []
    if options.beats_baseline_by is not None and answers.tfidf is not None:
        verdicts.append(
            _beats(answers, answers.tfidf, "beats_baseline_by", options.beats_baseline_by, options.certainty)
        )
    if options.beats_probe_by is not None and answers.probe is not None:
        verdicts.append(_beats(answers, answers.probe, "beats_probe_by", options.beats_probe_by, options.certainty))
    if options.not_worse_by is not None and answers.previous is not None:
        version = answers.version
        verdicts.append(
            not_worse(answers, answers.previous, version, options.not_worse_by, options.certainty, kind="version ")
        )
    verdicts += _of_slices(answers, options.slices, options.certainty)
    if options.fairness:
        verdicts += _of_groups(answers, options.fairness, options.slices.minimum_rows, options.certainty)
    return verdicts


# === All rows ===


def _of_all_rows(metrics: Metrics, options: GateOptions) -> Iterator[Verdict]:
    for kind in ("accuracy", "subset_accuracy", "micro_f1", "macro_f1"):
        if (bound := getattr(options, kind)) is not None:
            figure = kind.removeprefix("subset_")
            yield _floor(kind, getattr(metrics, figure), bound, getattr(metrics.intervals, figure))
    for label, bound in options.label_f1.items():
        yield _label_floor(metrics, label, bound)
    if options.max_calibration_error is not None:
        yield _calibrated(metrics, options.max_calibration_error)
    if options.max_size is not None:
        yield _small(metrics.model_bytes, options.max_size)
    if options.beats_majority:
        yield _beats_constant(metrics) if metrics.multi_label else _beats_majority(metrics)
    if metrics.ranking:
        version = metrics.last_blessed.version if metrics.last_blessed else ""
        yield from _of_ranking(metrics.ranking, options.ranking, version, options.certainty)


def _floor(kind: str, value: float, bound: float, interval: estimates.Interval) -> Verdict:
    passed = value >= bound
    return Verdict(
        f"{kind} >= {bound:g}",
        f"{value:.3f}",
        f"{bound:g}",
        passed,
        "" if passed else f"{kind} {value:.3f} is below the config's floor of {bound:g}",
        kind=kind,
        metric=kind,
        interval=interval,
        missing=max(bound - value, 0.0),
    )


def _label_floor(metrics: Metrics, label: str, bound: float) -> Verdict:
    if label not in metrics.classes:
        raise UserError(
            f"evaluate.gates.label_f1: the model has no label {label!r}; its labels are {', '.join(metrics.classes)}."
        )
    value = metrics.per_class[label].f1
    passed = value is not None and value >= bound
    shown = "none" if value is None else f"{value:.3f}"
    fault = f"F1 of {label} is {shown}, below the config's floor of {bound:g}"
    if value is None:
        fault = f"no test row has the label {label} or is given it, so that its F1 is not known"
    return Verdict(
        f"{label}: F1 >= {bound:g}",
        shown,
        f"{bound:g}",
        passed,
        "" if passed else fault,
        kind="label_f1",
        metric=f"F1 of {label}",
        missing=max(bound - (value or 0.0), 0.0),
    )


def _calibrated(metrics: Metrics, bound: float) -> Verdict:
    value = metrics.calibration_error
    passed = value <= bound
    return Verdict(
        f"calibration error <= {bound:g}",
        f"{value:.3f}",
        f"{bound:g}",
        passed,
        "" if passed else f"the probabilities are off by {value:.3f} on average (ECE); {bound:g} is allowed",
        kind="max_calibration_error",
        metric="calibration_error",
        interval=metrics.intervals.calibration_error,
        missing=max(value - bound, 0.0),
    )


def _small(size: int, bound: int) -> Verdict:
    passed = size <= bound
    shown, allowed = (f"{each / 1e6:,.1f} MB" for each in (size, bound))
    return Verdict(
        f"size <= {allowed}",
        shown,
        allowed,
        passed,
        "" if passed else f"the exported model has {shown}; {allowed} is allowed",
        kind="max_size",
        missing=max(size - bound, 0.0),
    )


def _beats_majority(metrics: Metrics) -> Verdict:
    """Better than always answering the commonest label.

    That answer's accuracy is the label's share of the rows. Its balanced accuracy is 1 / labels, as is that of any
    answer that ignores the text. So accuracy must reach the share, and the lower bound of balanced accuracy must be
    above chance.
    """
    share, chance = metrics.majority_share, 1 / metrics.labels_present
    low = metrics.intervals.balanced_accuracy[0]
    reason, missing = "", 0.0
    if metrics.accuracy < share:
        missing = share - metrics.accuracy
        reason = f"accuracy {metrics.accuracy:.3f} is below {share:.3f}, that of always answering the commonest label"
    elif low <= chance:
        missing = chance - low
        reason = (
            f"balanced accuracy may be as low as {low:.3f}: no better than {chance:.3f}, that of any one fixed answer"
        )
    return Verdict(
        "beats the commonest label",
        f"{metrics.accuracy:.3f}",
        f"{share:.3f}",
        not reason,
        reason,
        kind="beats_majority",
        metric="accuracy",
        interval=metrics.intervals.accuracy,
        missing=missing,
    )


def _beats_constant(metrics: Metrics) -> Verdict:
    """Better than any set of labels that is the same for all rows.

    The best of these, some of the commonest labels, has a micro-F1 that micro-F1 must reach. Any of them has a balanced
    accuracy of one half, as has any answer that ignores the text. The lower bound of balanced accuracy must be above.
    """
    best, low = metrics.multi_label.constant_micro_f1, metrics.intervals.balanced_accuracy[0]
    reason, missing = "", 0.0
    if metrics.micro_f1 < best:
        missing = best - metrics.micro_f1
        reason = f"micro-F1 {metrics.micro_f1:.3f} is below {best:.3f}, that of always giving the commonest labels"
    elif low <= 0.5:
        missing = 0.5 - low
        reason = f"balanced accuracy may be as low as {low:.3f}: no better than 0.5, that of any one fixed answer"
    return Verdict(
        "beats the commonest labels",
        f"{metrics.micro_f1:.3f}",
        f"{best:.3f}",
        not reason,
        reason,
        kind="beats_majority",
        metric="micro_f1",
        interval=metrics.intervals.micro_f1,
        missing=missing,
    )


# === Candidates in order ===


def _of_ranking(figures: RankingFigures, options: RankingGates, version: str, certainty: float) -> Iterator[Verdict]:
    floors = {"mrr": options.mrr, "ndcg": options.ndcg}
    floors |= {f"precision_at_{k}": bound for k, bound in options.precision_at.items()}
    for figure, bound in floors.items():
        if bound is not None:
            value, name = figures.by_figure()[figure], figure_name(figure)
            passed = value >= bound
            reason = f"{name} {value:.3f} over {figures.queries:,} queries is below the config's floor of {bound:g}"
            yield Verdict(
                f"{name} >= {bound:g}",
                f"{value:.3f}",
                f"{bound:g}",
                passed,
                "" if passed else reason,
                kind=f"ranking.{'precision_at' if figure.startswith('precision_at') else figure}",
                metric=figure,
                interval=figures.intervals[figure],
                missing=max(bound - value, 0.0),
            )
    if options.not_worse_by is not None and figures.leads:
        yield _ranks_not_worse(figures, options.not_worse_by, version, certainty)


def _ranks_not_worse(figures: RankingFigures, margin: float, version: str, certainty: float) -> Verdict:
    """Blocks where MRR or nDCG is surely lower by more than the margin."""
    metric, worst = min(figures.leads.items(), key=lambda named: named[1].high)
    passed = worst.high >= -margin
    reason = (
        f"{figure_name(metric)} fell by {-worst.value:.3f} against version {version} on the same {figures.queries:,} "
        f"queries, with {certainty:.0%} certainty by more than {-worst.high:.3f}; a loss of {margin:g} is allowed"
    )
    return Verdict(
        f"ranks not worse than {version}",
        f"{worst.value:+.3f}",
        f"-{margin:g}",
        passed,
        "" if passed else reason,
        kind="ranking.not_worse_by",
        metric=metric,
        interval=(worst.low, worst.high),
        missing=max(-margin - worst.high, 0.0),
    )


# === Against another model, on the same rows ===


Part = np.ndarray | slice  # of the rows: bool [rows], or
ALL_ROWS = slice(None)


def compare(answers: Answers, theirs: np.ndarray, certainty: float, inside: Part = ALL_ROWS) -> Comparison:
    """What metrics.json says of another model on the same rows.

    Args:
        answers: ours.
        theirs: the other model's answers, in the form of `answers.predicted`.
        certainty: that each bound of a difference holds with.
        inside: bool [rows], the rows to compare on.
    """
    won, lost, p = estimates.mcnemar(answers.right[inside], answers.matches(theirs)[inside])
    return Comparison(
        **answers.scores(theirs, inside),
        certainty=certainty,
        differences=differences(answers, theirs, certainty, inside),
        rows_won=won,
        rows_lost=lost,
        mcnemar_p=p,
    )


def differences(answers: Answers, theirs: np.ndarray, certainty: float, inside: Part = ALL_ROWS) -> Differences:
    """Our figures less another model's, by a paired bootstrap of the rows; arguments as in compare."""
    resampled = answers.paired_differences(theirs, inside)
    bounds = {name: estimates.percentile_interval(drawn, certainty) for name, (_, drawn) in resampled.items()}
    return Differences(
        **{
            name: Difference(value=value, low=bounds[name][0], high=bounds[name][1])
            for name, (value, _) in resampled.items()
        }
    )


def _cross_check(answers: Answers, theirs: np.ndarray, inside: Part = ALL_ROWS) -> str:
    """McNemar's exact test of the accuracies, in words; arguments as in compare."""
    won, lost, p = estimates.mcnemar(answers.right[inside], answers.matches(theirs)[inside])
    return f"{won:,} rows won, {lost:,} lost, McNemar p {p:.2g}"


def not_worse(
    answers: Answers, theirs: np.ndarray, name: str, margin: float, certainty: float, *, kind: str = ""
) -> Verdict:
    """Blocks where accuracy, macro-F1 or, of several labels, micro-F1 is surely lower by more than the margin.

    Args:
        answers: ours.
        theirs: the other model's, in the form of `answers.predicted`.
        name: the other model's.
        margin: the loss that is allowed.
        certainty: that the loss must be larger with, to block.
        kind: what stands before the name in a sentence, such as "version ".
    """
    metric, worst = min(differences(answers, theirs, certainty).named(), key=lambda named: named[1].high)
    passed = worst.high >= -margin
    figure = figure_name(metric, multi_label=answers.multi_label)
    reason = (
        f"{figure} fell by {-worst.value:.3f} against {kind}{name} on the same rows, with "
        f"{certainty:.0%} certainty by more than {-worst.high:.3f}; a loss of {margin:g} is allowed"
    )
    return Verdict(
        f"not worse than {name}",
        f"{worst.value:+.3f}",
        f"-{margin:g}",
        passed,
        "" if passed else reason,
        kind="not_worse_by",
        metric=metric,
        interval=(worst.low, worst.high),
        note=_cross_check(answers, theirs),
        missing=max(-margin - worst.high, 0.0),
    )


_BEATEN = {  # the gate's key -> the other model's short name, and what it is
    "beats_baseline_by": ("TF-IDF", "TF-IDF with logistic regression"),
    "beats_probe_by": ("the probe", "the frozen encoder with logistic regression"),
}


def _beats(answers: Answers, theirs: np.ndarray, kind: str, margin: float, certainty: float) -> Verdict:
    """Blocks unless accuracy, macro-F1 and, of several labels, micro-F1 are, with certainty, above by the margin."""
    name, long_name = _BEATEN[kind]
    metric, worst = min(differences(answers, theirs, certainty).named(), key=lambda named: named[1].low)
    passed = worst.low > margin
    figure = figure_name(metric, multi_label=answers.multi_label)
    reason = (
        f"{figure} is {worst.value:+.3f} from that of {long_name} on the same rows, "
        f"with {certainty:.0%} certainty only above {worst.low:+.3f}; the gate asks for {margin:+g}"
    )
    return Verdict(
        f"beats {name} by {margin:g}",
        f"{worst.value:+.3f}",
        f"{margin:+g}",
        passed,
        "" if passed else reason,
        kind=kind,
        metric=metric,
        interval=(worst.low, worst.high),
        note=_cross_check(answers, theirs),
        missing=max(margin - worst.low, 0.0),
    )


# === Slices ===


def _of_slices(answers: Answers, options: SliceGates, certainty: float) -> Iterator[Verdict]:
    """One verdict per gate: of all slices that do not pass, or else of the slice nearest to the bound.

    Among many slices, one misses a bound by luck more often than a single slice would. So each slice is held to a
    certainty that leaves 1 - certainty for all slices together (Bonferroni's correction, Dunn 1961).
    """
    large = {name: inside for name, inside in answers.slices.items() if inside.sum() >= options.minimum_rows}
    if not large:
        return
    each = 1 - (1 - certainty) / len(large)
    gates = (
        (_slice_floor, options.accuracy),
        (_slice_gap, options.max_gap),
        (_slice_not_worse, options.not_worse_by if answers.previous is not None else None),
    )
    for gate, bound in gates:
        if bound is not None:
            verdicts = [gate(answers, name, inside, bound, each) for name, inside in large.items()]
            blocking = [verdict for verdict in verdicts if not verdict.passed]
            yield from blocking or [min(verdicts, key=lambda verdict: verdict.interval[1])]


def _slice_floor(answers: Answers, name: str, inside: np.ndarray, bound: float, certainty: float) -> Verdict:
    rows, hits = int(inside.sum()), int(answers.right[inside].sum())
    low, high = estimates.share_interval(hits, rows, certainty)
    passed = high >= bound
    reason = f"accuracy {hits / rows:.3f} on the {rows:,} rows of {name}, at most {high:.3f}; the floor is {bound:g}"
    return Verdict(
        f"{name}: accuracy >= {bound:g}",
        f"{hits / rows:.3f}",
        f"{bound:g}",
        passed,
        "" if passed else reason,
        kind="slices.accuracy",
        metric="accuracy",
        slice=name,
        interval=(low, high),
        missing=max(bound - high, 0.0),
    )


def _slice_gap(answers: Answers, name: str, inside: np.ndarray, bound: float, certainty: float) -> Verdict:
    gap, drawn = estimates.gap_to_the_whole(answers.right, inside)
    # A slice below all rows is shown as negative, like a loss. 0.0 - x, as -0.0 would show a sign.
    low, high = (0.0 - each for each in estimates.percentile_interval(drawn, certainty)[::-1])
    passed = high >= -bound
    reason = (
        f"accuracy on the {int(inside.sum()):,} rows of {name} is {gap:.3f} below that of all rows, surely more than "
        f"{-high:.3f}; {bound:g} is allowed"
    )
    return Verdict(
        f"{name}: near all rows",
        f"{0.0 - gap:+.3f}",
        f"{-bound:g}",
        passed,
        "" if passed else reason,
        kind="slices.max_gap",
        metric="accuracy",
        slice=name,
        interval=(low, high),
        missing=max(-bound - high, 0.0),
    )


def _slice_not_worse(answers: Answers, name: str, inside: np.ndarray, bound: float, certainty: float) -> Verdict:
    lost = differences(answers, answers.previous, certainty, inside).accuracy
    passed = lost.high >= -bound
    reason = (
        f"accuracy on the {int(inside.sum()):,} rows of {name} fell by {-lost.value:.3f} against version "
        f"{answers.version}, surely by more than {-lost.high:.3f}; a loss of {bound:g} is allowed"
    )
    return Verdict(
        f"{name}: not worse than {answers.version}",
        f"{lost.value:+.3f}",
        f"{-bound:g}",
        passed,
        "" if passed else reason,
        kind="slices.not_worse_by",
        metric="accuracy",
        slice=name,
        interval=(lost.low, lost.high),
        note=_cross_check(answers, answers.previous, inside),
        missing=max(-bound - lost.high, 0.0),
    )


# === Groups of people ===


def _of_groups(answers: Answers, options: FairnessGates, minimum_rows: int, certainty: float) -> Iterator[Verdict]:
    if options.label not in answers.classes:
        raise UserError(
            f"evaluate.gates.fairness.label: the model has no label {options.label!r}; "
            f"its labels are {', '.join(answers.classes)}."
        )
    positive, given = answers.having(answers.classes.index(options.label))
    # Recall counts only the rows of the favourable label, so a group must have enough of these.
    for kind, bound, counted in (
        ("equal_opportunity", options.equal_opportunity, positive),
        ("demographic_parity", options.demographic_parity, np.ones_like(positive)),
    ):
        if bound is None:
            continue
        names, counts = np.unique(answers.groups[counted], return_counts=True)
        inside = np.isin(answers.groups, names[counts >= minimum_rows])
        gate = f"{options.column}: {kind.replace('_', ' ')} <= {bound:g}"
        if (counts >= minimum_rows).sum() < 2:
            note = f"fewer than two groups have {minimum_rows} rows that count: not judged"
            yield Verdict(gate, "-", f"{bound:g}", True, kind=f"fairness.{kind}", slice=options.column, note=note)
            continue
        gaps = estimates.group_gaps(positive[inside], given[inside], answers.groups[inside], certainty)
        yield _fair(gate, kind, bound, gaps[kind], options, certainty)


def _fair(
    gate: str, kind: str, bound: float, gap: tuple[float, estimates.Interval], options: FairnessGates, certainty: float
) -> Verdict:
    value, (low, high) = gap
    passed = low <= bound
    rate = "recall of" if kind == "equal_opportunity" else "share answered"
    reason = (
        f"the groups of {options.column} differ by {value:.3f} in the {rate} {options.label}, with {certainty:.0%} "
        f"certainty by more than {low:.3f}; {bound:g} is allowed"
    )
    return Verdict(
        gate,
        f"{value:.3f}",
        f"{bound:g}",
        passed,
        "" if passed else reason,
        kind=f"fairness.{kind}",
        metric=kind,
        slice=options.column,
        interval=(low, high),
        missing=max(low - bound, 0.0),
    )
