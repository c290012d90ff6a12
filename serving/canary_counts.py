"""What is counted of a canary: sums that a restart of the server reads back from the version's canary.json."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

STEP = 1.05  # a latency is known to within 5%, which decides nothing
FASTEST = 1e-4  # seconds; what is faster counts as this


class Latencies(Counter[int]):
    """How many requests took how long: bucket -> requests. A bucket is 5% wider than the one before."""

    def add(self, seconds: float) -> None:
        """Counts a request."""
        self[_bucket(seconds)] += 1

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the requests was answered, to within a bucket; 0 without requests."""
        left = share * self.total()
        for bucket, requests in sorted(self.items()):
            left -= requests
            if left <= 0:
                return FASTEST * STEP ** (bucket + 1)
        return 0.0

    def slower_than(self, seconds: float) -> int:
        """The requests in the buckets above that of `seconds`."""
        return sum(requests for bucket, requests in self.items() if bucket > _bucket(seconds))


def _bucket(seconds: float) -> int:
    return max(math.floor(math.log(max(seconds, FASTEST) / FASTEST, STEP)), 0)


@dataclass
class Counts:
    """Of one canary against one stable version.

    Attributes:
        seconds: that the canary has been tried, while a server ran.
        requests: that the canary answered or failed.
        errors: gRPC's code -> of these, those that failed where the stable version answered.
        canary: how long the canary took.
        stable: how long the stable version took, of the requests that it answered itself.
        texts: that both versions answered.
        agreeing: of these, those with the same labels.
        difference: sum over these of the canary's confidence less that of the stable version.
        difference_squared: sum of its squares.
    """

    seconds: float = 0.0
    requests: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    canary: Latencies = field(default_factory=Latencies)
    stable: Latencies = field(default_factory=Latencies)
    texts: int = 0
    agreeing: int = 0
    difference: float = 0.0
    difference_squared: float = 0.0

    def add_pair(self, agree: Sequence[bool], differences: Sequence[float]) -> None:
        """Counts texts that both versions answered.

        Args:
            agree: whether the labels are the same, for each text.
            differences: the canary's confidence less that of the stable version, for each text.
        """
        self.texts += len(agree)
        self.agreeing += sum(agree)
        self.difference += sum(differences)
        self.difference_squared += sum(difference**2 for difference in differences)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    @classmethod
    def of_dict(cls, values: dict[str, Any]) -> Counts:
        """From what `as_dict` gave.

        Raises:
            TypeError: it is no such dictionary; also ValueError and AttributeError.
        """
        latencies = {
            name: Latencies({int(bucket): number for bucket, number in values[name].items()})
            for name in ("canary", "stable")
            if name in values
        }
        return cls(**(values | latencies | {"errors": Counter(values.get("errors", {}))}))
