"""Everything that is looked at in a window: what it is held against, by how much it differs, and how sure that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow.compute as pc

from bertline.components import answers as rows_of_answers
from bertline.monitoring import accuracy, shifts, telling_apart
from bertline.monitoring.reference import Reference
from bertline.monitoring.windows import Window

TEST_ROWS, BEFORE = "the test rows", "the windows before"
LEAST_ERRORS = 0.01  # a share of requests that fail anew, from which it is an alarm
LEAST_MEASURED = 30  # labelled answers from which an accuracy is measured
LABELS, CONFIDENCE, LENGTH, UNKNOWN = "labels", "confidence", "length", "unknown wordpieces"
ABSTAINED, TEXTS, ERRORS, LATENCY = "abstained", "texts", "errors", "latency"
SLOW = 0.95  # the quantile of the windows before beyond which an answer is slow: of the slowest few, chance decides
ESTIMATED, MEASURED = "estimated accuracy", "measured accuracy"
NUMBERS = {CONFIDENCE: "confidence", LENGTH: "characters", UNKNOWN: "unknown"}  # the look -> the arrays' name


@dataclass(frozen=True)
class Look:
    """One thing that was looked at.

    Attributes:
        name: what.
        against: what it is held against, TEST_ROWS or BEFORE.
        words: what moved and by how much.
        distance: the share of the texts that moved, or the accuracy lost, 0 to 1; of latency by what share it grew.
        least: the distance from which it may be an alarm.
        p_value: how likely it is where nothing has changed.
        rows: gives the rows of the window that show it, the most telling first.
    """

    name: str
    against: str
    words: str
    distance: float
    least: float
    p_value: float
    rows: Callable[[], np.ndarray] = lambda: np.zeros(0, np.int64)

    @property
    def key(self) -> str:
        """Tells this look from all others, in every window."""
        return f"{self.name} against {self.against}"


def of_shares(window: Window, reference: Reference, before: Sequence[Window], least: float) -> Iterator[Look]:
    """Shares of labels, confidence, length, unknown wordpieces, abstained and kept columns."""
    yield from _of_labels(window, reference, before, least)
    for name, attribute in NUMBERS.items():
        yield from _of_number(name, attribute, window, reference, before, least)
    both = [getattr(each, ABSTAINED) for each in (window, reference)]
    if not any(np.isnan(values).all() for values in both):
        names = ["answered", "abstained"]
        categories = [_whole(each.abstained) for each in (window, reference, *before)]
        yield from _compared(ABSTAINED, names, *categories[:2], categories[2:], least)
    for column in window.columns:
        yield from _of_column(column, window, reference, before, least)


def _of_labels(window: Window, reference: Reference, before: Sequence[Window], least: float) -> Iterator[Look]:
    sets = [each.labels for each in (window, reference, *before)]
    if sets[0].ndim == 1:
        yield from _compared(LABELS, reference.classes, sets[0], sets[1], sets[2:], least)
        return
    kinds, codes = np.unique(np.concatenate(sets), axis=0, return_inverse=True)
    names = [rows_of_answers.shown([reference.classes[place] for place in np.flatnonzero(kind)]) for kind in kinds]
    now, then, *others = np.split(codes.ravel(), np.cumsum([len(each) for each in sets])[:-1])
    yield from _compared(LABELS, names, now, then, others, least)


def _of_number(
    name: str, attribute: str, window: Window, reference: Reference, before: Sequence[Window], least: float
) -> Iterator[Look]:
    now, then = getattr(window, attribute), getattr(reference, attribute)
    bounds = shifts.edges(then)
    if not len(bounds) or np.isnan(now).all():
        return
    categories = [shifts.bins(getattr(each, attribute), bounds) for each in (window, reference, *before)]
    names = [f"{_figure(name, low)} to {_figure(name, high)}" for low, high in _ranges(bounds, then)]
    medians = {
        TEST_ROWS: np.nanmedian(then),
        BEFORE: np.median([np.nanmedian(getattr(each, attribute)) for each in before]) if before else np.nan,
    }
    for look in _compared(name, names, *categories[:2], categories[2:], least):
        middle = f"median {_figure(name, medians[look.against])} -> {_figure(name, np.nanmedian(now))}"
        yield _replaced(look, f"{middle}, {look.words}")


def _of_column(
    column: str, window: Window, reference: Reference, before: Sequence[Window], least: float
) -> Iterator[Look]:
    counts = [each.columns.get(column, Counter()) for each in (window, *before)]
    then = Counter(map(str, reference.columns.get(column, [])))
    names = sorted({value for count in (*counts, then) for value in count})
    now, *others = (np.array([count[value] for value in names]) for count in counts)
    yield from _of_counts(
        f"column {column}", names, now, np.array([then[value] for value in names]), others, least, lambda _: _none
    )


def _compared(
    name: str, names: Sequence[str], now: np.ndarray, then: np.ndarray, before: Sequence[np.ndarray], least: float
) -> Iterator[Look]:
    """Categories, int [rows] with -1 for unknown, against the test rows and the windows before."""
    size = len(names)
    counts = [shifts.counted(each, size) for each in (now, then, *before)]

    def rows_of(grown: int) -> Callable[[], np.ndarray]:
        return lambda: np.random.default_rng(0).permutation(np.flatnonzero(now == grown))

    yield from _of_counts(name, names, counts[0], counts[1], counts[2:], least, rows_of)


def _of_counts(
    name: str,
    names: Sequence[str],
    now: np.ndarray,
    then: np.ndarray,
    before: Sequence[np.ndarray],
    least: float,
    rows_of: Callable[[int], Callable[[], np.ndarray]],
) -> Iterator[Look]:
    sides = {TEST_ROWS: then, BEFORE: np.sum(before, axis=0) if len(before) else np.zeros_like(now)}
    for against, others in sides.items():
        if not now.sum() or not others.sum():
            continue
        shift = shifts.shift(now, others, before)
        was, is_now = (float(counts[shift.grown] / counts.sum()) for counts in (others, now))
        words = f"{names[shift.grown]} {was:.1%} -> {is_now:.1%}"
        yield Look(name, against, words, shift.distance, least, shift.p_value, rows_of(shift.grown))


def of_texts(
    window: Window, reference: Reference, before: Sequence[Window], least: float
) -> Iterator[tuple[Look, list[str]]]:
    """Whether the texts themselves are told apart, by their vectors or else by their words; and by which words."""
    chosen = _even(window.rows)
    now = window.read(chosen, ("embedding", "text"))
    sides = {TEST_ROWS: (reference.embedding, reference.texts), BEFORE: _pooled(before)}
    for against, (vectors, texts) in sides.items():
        ours, places = _vectors(now), chosen
        known = [text for text in now["text"].to_pylist() if text is not None]
        if ours is None or vectors is None:
            if len(known) < len(chosen) or len(texts) < telling_apart.WORDS:
                continue
            ours, vectors = telling_apart.vectors_of_words(known, texts[: telling_apart.MOST_ROWS])
        if min(ours.shape[0], vectors.shape[0]) < 2 * telling_apart.WORDS:
            continue
        told = telling_apart.tell_apart(ours, vectors[: telling_apart.MOST_ROWS])
        low, high = told.interval
        words = f"a classifier tells them apart with AUC {told.area:.3f} ({low:.3f} to {high:.3f})"
        if window.rows > len(chosen):
            words += f", by an even sample of {len(chosen):,} of {window.rows:,}"
        stranger = places[np.argsort(-told.scores)]
        distance = max(2 * told.area - 1, 0.0)
        look = Look(TEXTS, against, words, distance, least, told.p_value, lambda rows=stranger: rows)
        has_texts = len(known) == len(chosen) and len(texts) >= telling_apart.WORDS
        yield look, telling_apart.words_apart(known, texts[: telling_apart.MOST_ROWS]) if has_texts else []


def _even(rows: int) -> np.ndarray:
    """At most MOST_ROWS rows, evenly spread."""
    return np.unique(np.linspace(0, rows - 1, min(rows, telling_apart.MOST_ROWS)).astype(np.int64))


def _vectors(table) -> np.ndarray | None:
    """float32 [rows, hidden]; None unless every row has a vector, all of them of one length."""
    column = table["embedding"].combine_chunks()
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if column.null_count or len(lengths) != 1 or not lengths[0]:
        return None
    return pc.list_flatten(column).to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(column), -1)


def _pooled(before: Sequence[Window]) -> tuple[np.ndarray | None, list[str]]:
    """Vectors and texts of an even sample of the windows before."""
    vectors, texts = [], []
    for window in before:
        rows = _even(window.rows)
        rows = rows[:: max(1, -(-len(rows) * len(before) // telling_apart.MOST_ROWS))]
        table = window.read(rows, ("embedding", "text"))
        vectors.append(_vectors(table))
        texts += [text for text in table["text"].to_pylist() if text is not None]
    complete = vectors and all(each is not None for each in vectors)
    return (np.concatenate(vectors) if complete else None), texts


def of_errors(window: Window, before: Sequence[Window]) -> Iterator[Look]:
    """Whether more requests fail than before."""
    now, then = (
        np.array([sum(each.rows for each in windows), sum(each.failed for each in windows)])
        for windows in ((window,), before)
    )
    if not then.sum() or not now.sum():
        return
    counts = [np.array([each.rows, each.failed]) for each in before]
    shift = shifts.shift(now, then, counts)
    was, is_now = float(then[1] / then.sum()), float(now[1] / now.sum())
    codes = ", ".join(f"{code} {count:,}" for code, count in window.statuses.most_common() if code != "OK")
    p_value = shift.p_value if is_now > was else 1.0
    words = f"{was:.2%} -> {is_now:.2%} of the requests fail{f' ({codes})' if codes else ''}"
    yield Look(ERRORS, BEFORE, words, max(is_now - was, 0.0), LEAST_ERRORS, p_value)


def of_latency(window: Window, before: Sequence[Window], least: float) -> Iterator[Look]:
    """Whether more answers are slow than before: slower than all but the slowest 20th of the windows before.

    At least two windows tell how much the share of slow answers differs from one to the next anyway. The texts of one
    request are as fast as each other, which these differences hold too.

    Args:
        window: the window.
        before: the windows before it.
        least: by what share the time beyond which an answer is slow must have grown, such as 0.5.
    """
    now, *others = (each.milliseconds[~np.isnan(each.milliseconds)] for each in (window, *before))
    others = [each for each in others if len(each)]
    if not len(now) or len(others) < 2:
        return
    was, is_now = (float(np.quantile(each, SLOW)) for each in (np.concatenate(others), now))
    counts = [np.array([(each <= was).sum(), (each > was).sum()]) for each in (now, *others)]
    then = np.sum(counts[1:], axis=0)
    shift = shifts.shift(counts[0], then, counts[1:])
    shares = [float(each[1] / each.sum()) for each in (then, counts[0])]
    words = (
        f"p{SLOW * 100:.0f} {was:.0f} -> {is_now:.0f} ms; {shares[0]:.1%} -> {shares[1]:.1%} of the answers take "
        f"longer than {was:.0f} ms"
    )
    p_value = shift.p_value if shares[1] > shares[0] else 1.0
    grown = max(is_now / was - 1, 0.0) if was else 0.0
    slowest = np.argsort(-np.nan_to_num(window.milliseconds), kind="stable")
    yield Look(LATENCY, BEFORE, words, grown, least, p_value, lambda: slowest)


def of_accuracy(
    window: Window, reference: Reference, least: float, right: np.ndarray
) -> Iterator[tuple[Look, float, tuple[float, float]]]:
    """The estimated accuracy, and the measured one once labels are there; each with its figure and interval.

    Args:
        window: the window.
        reference: the test rows.
        least: the accuracy lost from which it may be an alarm.
        right: bool [labelled rows], whether the answers whose labels have come were right.
    """
    known = float(reference.right.mean())
    found = accuracy.estimate(window.confidence, reference.confidence, reference.right)
    low, high = found.interval
    words = f"{known:.3f} -> {found.accuracy:.3f} ({low:.3f} to {high:.3f})"
    unsure = np.argsort(window.confidence, kind="stable")
    look = Look(ESTIMATED, TEST_ROWS, words, max(-found.difference, 0.0), least, found.p_value, lambda: unsure)
    yield look, found.accuracy, found.interval
    if len(right) >= LEAST_MEASURED:
        share = float(right.mean())
        interval, p_value = accuracy.measured(int(right.sum()), len(right), reference.right)
        words = (
            f"{known:.3f} -> {share:.3f} ({interval[0]:.3f} to {interval[1]:.3f}) of {len(right):,} labelled answers"
        )
        yield Look(MEASURED, TEST_ROWS, words, max(known - share, 0.0), least, p_value), share, interval


def _whole(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), -1, values).astype(np.int64)


def _none() -> np.ndarray:
    return np.zeros(0, np.int64)


def _ranges(bounds: np.ndarray, values: np.ndarray) -> list[tuple[float, float]]:
    ends = [float(np.nanmin(values)), *bounds.tolist(), float(np.nanmax(values))]
    return list(pairwise(ends))


def _figure(name: str, value: float) -> str:
    return f"{value:.0f}" if name == LENGTH else f"{value:.1%}" if name == UNKNOWN else f"{value:.2f}"


def _replaced(look: Look, words: str) -> Look:
    return Look(look.name, look.against, words, look.distance, look.least, look.p_value, look.rows)
