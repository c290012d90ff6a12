"""What a server does with a pushed version before it trusts it. Needs neither numpy nor scipy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CanaryPlan:
    """How a new version is tried in traffic, and by what it is judged; `serve.canary` of the config has the reasons.

    Args:
        share: of the keys whose requests the canary answers, 0 to 0.5; without effect where it shadows.
        shadow: whether the stable version answers everything, and the canary the same texts beside it.
        key: the header, or gRPC metadata, whose value keeps a caller on one version.
        seconds: that a canary is tried at least.
        minimum_requests: that a canary answers at least before it is promoted.
        certainty: 1 less the probability of a wrong promotion, and of a wrong withdrawal.
        most_errors: the most of the canary's requests that may fail where the stable version answers, 0 to 1.
        slower_by: factor by which the canary's p95 may be above that of the stable version.
        agreement: the least share of the texts to which both give the same labels, 0 to 1.
        less_confident: by how much the mean probability of the answers may fall, 0 to 1.
        less_accurate: by how much the accuracy on labelled answers may fall, 0 to 1.
        minimum_labels: labelled answers of each version that a promotion waits for; 0 waits for none.
        patience: seconds after which the stable version answers in place of the canary.
    """

    share: float
    shadow: bool
    key: str
    seconds: float
    minimum_requests: int
    certainty: float
    most_errors: float
    slower_by: float
    agreement: float
    less_confident: float
    less_accurate: float
    minimum_labels: int
    patience: float
