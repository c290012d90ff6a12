"""Whether a canary holds: bounds with a stated certainty, over any number of looks.

A look evaluates every bound. Looks come when the canary's requests have grown by a quarter, and the k-th look spends
1/(k(k+1)) of the probability of error, so that all looks together spend no more than all of it (a union bound). Two
kinds of look are counted apart:

- one that may withdraw the canary, from a few requests on. Any of the five bounds may be the one that is broken, so
  each spends a fifth.
- one that may promote it, from the plan's time and requests on. All bounds must hold, so a canary that is beyond one of
  them passes at most as often as that one errs: nothing is divided (an intersection-union test).

Shares are bounded by Clopper and Pearson's exact intervals, the difference of two accuracies by Newcombe's (1998,
method 10), the mean difference of confidence by Student's t. Requests count as independent of one another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from scipy import stats

from bertline.serving.canary_counts import Counts
from bertline.serving.canary_plan import CanaryPlan

GROWTH = 1.25  # of the requests from one look to the next
FIRST_LOOK = 20  # requests: fewer say nothing, and a canary that fails each of them goes at once
LEAST_PAIRS = 20  # texts, below which Student's t is not asked
LEAST_LABELS = 30  # labelled answers of each version, below which accuracy is not judged, as `bertline monitor` has it
TAIL = 0.05  # the requests above the p95


@dataclass
class Looks:
    """The looks of one kind.

    Attributes:
        made: how many there were.
        next: requests of the canary from which on there is another.
    """

    made: int = 0
    next: int = 0

    def begin(self, requests: int) -> float:
        """Begins a look; returns the share of the probability of error that it spends."""
        self.made += 1
        self.next = math.ceil(requests * GROWTH)
        return 1 / (self.made * (self.made + 1))


class Labelled(NamedTuple):
    """Answers of a version whose right labels have come."""

    right: int
    answers: int


@dataclass(frozen=True)
class Bound:
    """A figure of the canary, its interval, and what it must not pass.

    Attributes:
        name: errors, latency, agreement, confidence or accuracy.
        figure: as measured; nan where nothing is.
        low: the interval's lower end.
        high: its upper end.
        limit: what the figure is held against.
        is_floor: whether the limit is the least that is allowed, else the most.
        what: the figure is of, in words.
    """

    name: str
    figure: float
    low: float
    high: float
    limit: float
    is_floor: bool
    what: str

    @property
    def holds(self) -> bool:
        """Whether the figure is certainly within the limit."""
        return self.low >= self.limit if self.is_floor else self.high <= self.limit

    @property
    def broken(self) -> bool:
        """Whether the figure is certainly beyond the limit."""
        return self.high < self.limit if self.is_floor else self.low > self.limit

    def words(self) -> str:
        """Such as: agreement 0.913 (0.881 to 0.938) of 620 texts, at least 0.8."""
        if math.isnan(self.figure):
            return f"{self.name}: {self.what}"
        figures = f"{self.figure:.3f} ({self.low:.3f} to {self.high:.3f})"
        return f"{self.name} {figures} {self.what}, at {'least' if self.is_floor else 'most'} {self.limit:g}"


def bounds(
    counts: Counts, plan: CanaryPlan, error: float, labelled: tuple[Labelled, Labelled] | None = None
) -> list[Bound]:
    """The figures of a canary.

    Args:
        counts: what was counted.
        plan: the limits.
        error: probability that one end of one interval is wrong.
        labelled: of the stable version and of the canary; None where labels are not known here.
    """
    made = [_errors(counts, plan, error), _latency(counts, plan, error)]
    made += [_agreement(counts, plan, error), _confidence(counts, plan, error)]
    if labelled and min(each.answers for each in labelled) >= (plan.minimum_labels or LEAST_LABELS):
        made.append(_accuracy(*labelled, plan, error))
    elif plan.minimum_labels:
        least = min(each.answers for each in labelled) if labelled else 0
        words = f"{least} labelled answers of {plan.minimum_labels} that are wanted of each version"
        made.append(Bound("accuracy", math.nan, -1, 1, -plan.less_accurate, True, words))
    return made


def _errors(counts: Counts, plan: CanaryPlan, error: float) -> Bound:
    failed = counts.errors.total()
    codes = ", ".join(sorted(counts.errors))
    words = f"of {counts.requests} requests{f': {codes}' if codes else ''}"
    return Bound("errors", *_share(failed, counts.requests, error), plan.most_errors, False, words)


def _latency(counts: Counts, plan: CanaryPlan, error: float) -> Bound:
    usual = counts.stable.quantile(1 - TAIL)
    if not usual:
        return Bound("latency", math.nan, 0, 1, TAIL, False, "the stable version has answered nothing to compare with")
    slow, requests = counts.canary.slower_than(plan.slower_by * usual), counts.canary.total()
    words = (
        f"of {requests} requests slower than {plan.slower_by:g} times the stable version's p95 "
        f"(p95 {1000 * counts.canary.quantile(1 - TAIL):.0f} ms, stable {1000 * usual:.0f} ms)"
    )
    return Bound("latency", *_share(slow, requests, error), TAIL, False, words)


def _agreement(counts: Counts, plan: CanaryPlan, error: float) -> Bound:
    words = f"of {counts.texts} texts that both versions answered"
    return Bound("agreement", *_share(counts.agreeing, counts.texts, error), plan.agreement, True, words)


def _confidence(counts: Counts, plan: CanaryPlan, error: float) -> Bound:
    texts, words = counts.texts, f"against the stable version on {counts.texts} texts"
    mean = counts.difference / texts if texts else math.nan
    low, high = -1.0, 1.0
    if texts >= LEAST_PAIRS:
        variance = max(counts.difference_squared - texts * mean**2, 0.0) / (texts - 1)
        margin = float(stats.t.isf(error, texts - 1)) * math.sqrt(variance / texts)
        low, high = max(mean - margin, -1.0), min(mean + margin, 1.0)
    return Bound("confidence", mean, low, high, -plan.less_confident, True, words)


def _accuracy(stable: Labelled, canary: Labelled, plan: CanaryPlan, error: float) -> Bound:
    own, other = canary.right / canary.answers, stable.right / stable.answers
    own_low, own_high = _wilson(canary, error)
    other_low, other_high = _wilson(stable, error)
    low = own - other - math.hypot(own - own_low, other_high - other)
    high = own - other + math.hypot(own_high - own, other - other_low)
    words = f"against the stable version's {other:.3f} ({canary.answers} and {stable.answers} labelled answers)"
    return Bound("accuracy", own - other, low, high, -plan.less_accurate, True, words)


def _share(part: int, whole: int, error: float) -> tuple[float, float, float]:
    """A share and its exact interval; (nan, 0, 1) of nothing. Each end is a quantile of a beta distribution."""
    if not whole:
        return math.nan, 0.0, 1.0
    low = float(stats.beta.ppf(error, part, whole - part + 1)) if part else 0.0
    high = float(stats.beta.isf(error, part + 1, whole - part)) if part < whole else 1.0
    return part / whole, low, high


def _wilson(labelled: Labelled, error: float) -> tuple[float, float]:
    interval = stats.binomtest(*labelled).proportion_ci(1 - 2 * error, method="wilson")
    return float(interval.low), float(interval.high)


# === The decision ===


def may_withdraw(counts: Counts, looks: Looks) -> bool:
    """Whether a look that may withdraw the canary is due. Arguments as `to_withdraw`."""
    return counts.requests >= max(looks.next, FIRST_LOOK)


def may_promote(counts: Counts, plan: CanaryPlan, looks: Looks) -> bool:
    """Whether a look that may promote the canary is due. Arguments as `to_withdraw`."""
    return counts.seconds >= plan.seconds and counts.requests >= max(looks.next, plan.minimum_requests)


def to_withdraw(
    counts: Counts, plan: CanaryPlan, looks: Looks, labelled: tuple[Labelled, Labelled] | None = None
) -> list[Bound]:
    """The bounds that the canary certainly breaks; none where it breaks none, or no look is due.

    Args:
        counts: what was counted.
        plan: the limits.
        looks: those made so far; grows.
        labelled: as in `bounds`.
    """
    if not may_withdraw(counts, looks):
        return []
    error = (1 - plan.certainty) * looks.begin(counts.requests) / 5
    return [bound for bound in bounds(counts, plan, error, labelled) if bound.broken]


def to_promote(
    counts: Counts, plan: CanaryPlan, looks: Looks, labelled: tuple[Labelled, Labelled] | None = None
) -> list[Bound] | None:
    """The bounds that must hold, if it is time to look; None before, and between two looks. Arguments as `to_withdraw`.

    Accuracy is one of them only where the plan waits for labels: a few tell nothing within some points, and would hold
    up a version for ever.
    """
    if not may_promote(counts, plan, looks):
        return None
    error = (1 - plan.certainty) * looks.begin(counts.requests)
    return bounds(counts, plan, error, labelled if plan.minimum_labels else None)
