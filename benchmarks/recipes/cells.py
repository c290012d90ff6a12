"""Results side by side: the cells of the table, and one method less another on the same rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np

from benchmarks.recipes import methods
from benchmarks.recipes.results import Result
from bertline.pipeline.init.recipe import Rule, choose


class Difference(NamedTuple):
    """One method's accuracy less another's.

    Attributes:
        value: in [-1, 1], the mean over the seeds that both have.
        error: its standard error over the test rows. How much it varies with the seed is the table's spread.
    """

    value: float
    error: float

    @property
    def verdict(self) -> str:
        """Whether it is more than one standard error: above, level or below."""
        return "above" if self.value > self.error else "below" if self.value < -self.error else "level"


@dataclass(frozen=True)
class Cell:
    """All results of a set at a size.

    Attributes:
        set, size: which.
        results: method -> its results, a seed each.
    """

    set: str
    size: str
    results: dict[str, list[Result]]

    @property
    def any(self) -> Result:
        """One of the results, for what is the same in all."""
        return next(iter(self.results.values()))[0]

    @property
    def rows_a_label(self) -> float:
        """Training rows for each label, on average."""
        return self.any.train_rows / self.any.labels

    @property
    def rule(self) -> Rule:
        """By which `bertline init` chooses here."""
        return choose(self.any.train_rows, self.any.labels)

    @property
    def by_init(self) -> str:
        """The method that `bertline init` writes."""
        return methods.by_init(self.any.train_rows, self.any.labels, foreign=self.any.foreign)

    @property
    def rivals(self) -> tuple[str, str, str]:
        """TF-IDF, the probe on the weights that `bertline init` proposes, and Transformers."""
        return methods.TFIDF, methods.probe_of(foreign=self.any.foreign), methods.TRANSFORMERS

    def mean(self, method: str, figure: str = "accuracy") -> float:
        """Over the seeds."""
        return mean(getattr(result, figure) for result in self.results[method])

    def spread(self, method: str, figure: str = "accuracy") -> float | None:
        """Standard deviation over the seeds; None of one."""
        values = [getattr(result, figure) for result in self.results[method]]
        return stdev(values) if len(values) > 1 else None

    def seconds(self, method: str) -> str:
        """The mean over the seeds on the processor that most of them ran on, and which it was if not AVX512_BF16."""
        by_cpu = defaultdict(list)
        for result in self.results[method]:
            by_cpu[result.cpu].append(result.seconds)
        cpu, seconds = max(by_cpu.items(), key=lambda each: len(each[1]))
        return f"{mean(seconds):,.0f}" + ("" if cpu == "AVX512_BF16" else f" ({cpu})")

    def difference(self, method: str, other: str) -> Difference | None:
        """One method less another; None where no seed has both."""
        pairs = [
            (own, rival)
            for own in self.results.get(method, ())
            for rival in self.results.get(other, ())
            if own.seed == rival.seed
        ]
        if not pairs:
            return None
        by_row = np.mean([own.hits() - rival.hits() for own, rival in pairs], axis=0)
        return Difference(float(by_row.mean()), float(by_row.std(ddof=1) / np.sqrt(len(by_row))))

    def best_rival(self) -> tuple[str, Difference] | None:
        """The best of the rivals, and init's recipe less it; None where init's recipe was not measured."""
        found = {rival: self.difference(self.by_init, rival) for rival in self.rivals if rival != self.by_init}
        measured = {rival: difference for rival, difference in found.items() if difference}
        return min(measured.items(), key=lambda each: each[1].value) if measured else None


def cells_of(results: Iterable[Result]) -> list[Cell]:
    """The results by set and size, few rows first."""
    grouped: dict[tuple[str, str], dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        grouped[result.set, result.size][result.method].append(result)
    cells = [Cell(*key, {name: list(found) for name, found in by_method.items()}) for key, by_method in grouped.items()]
    return sorted(cells, key=lambda cell: (cell.set, cell.any.train_rows))
