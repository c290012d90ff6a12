"""The table of stages: what the wiring, the runners and the readers of past runs know of each one.

It imports no TFX, so that a command which only reads past runs stays quick. `create_pipeline` refuses to wire a stage
that has no row here.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, StrEnum
from typing import NamedTuple


class Beam(Enum):
    """Where a stage's Beam pipeline can run."""

    NONE = "the stage has none"
    ANY_ENGINE = "on every engine"
    NOT_ON_DATAFLOW = "on every engine but Dataflow, whose machines see only gs://: it writes local files beside Beam's"


class _Row(NamedTuple):
    node: str
    line: str
    beam: Beam = Beam.NONE
    always_runs: bool = False
    reports: bool = False


class Node(StrEnum):
    """A stage, in the order in which they run. A member is the id of the stage's node, a str.

    Attributes:
      line: the line on the screen that it belongs to; "" for one that runs only on a cluster.
      beam: where its Beam pipeline runs.
      always_runs: on a cluster it is never cached.
      reports: it only reports on a push that is done. Where it fails, the run ends as the push left it.
    """

    # Its answers key the cache of all others.
    FACTS = _Row("Facts", "", always_runs=True)
    EXAMPLE_GEN = _Row("ExampleGen", "ingest", Beam.ANY_ENGINE)
    STATISTICS_GEN = _Row("StatisticsGen", "validate", Beam.ANY_ENGINE)
    SCHEMA_GEN = _Row("SchemaGen", "validate")
    REVIEWED_SCHEMA = _Row("ReviewedSchema", "validate")  # in place of SchemaGen: validation.schema_file
    EXAMPLE_VALIDATOR = _Row("ExampleValidator", "validate")
    DATA_GATE = _Row("DataGate", "validate", Beam.ANY_ENGINE)
    TRANSFORM = _Row("Transform", "tokenise", Beam.ANY_ENGINE)
    BASELINE = _Row("Baseline", "baseline")
    LAST_BLESSED = _Row("LastBlessed", "train")
    TRAINER = _Row("Trainer", "train")
    EVALUATOR = _Row("Evaluator", "evaluate", Beam.NOT_ON_DATAFLOW)
    CANARY = _Row("Canary", "canary")
    MODEL_CARD = _Row("ModelCard", "push")
    # The serving folder is the world's, not the cache's. Pushing what is there already changes nothing.
    PUSHER = _Row("Pusher", "push", always_runs=True)
    # They succeed even where they fail (see `reports`), and Kubeflow would cache the outputs that they did not make.
    LABEL_QUALITY = _Row("LabelQuality", "labels", always_runs=True, reports=True)
    EXPLAINER = _Row("Explainer", "explain", always_runs=True, reports=True)
    REVIEW = _Row("Review", "review", always_runs=True, reports=True)
    TRACK = _Row("Track", "track", always_runs=True, reports=True)

    def __new__(cls, node: str, line: str, beam: Beam, always_runs: bool, reports: bool) -> Node:
        """Makes a member of a row; its value is the node's id."""
        member = str.__new__(cls, node)
        member._value_ = node
        member.line, member.beam, member.always_runs, member.reports = line, beam, always_runs, reports
        return member


def lines() -> dict[str, list[Node]]:
    """The lines of the screen in their order, and the stages of each."""
    by_line: dict[str, list[Node]] = {}
    for node in Node:
        if node.line:
            by_line.setdefault(node.line, []).append(node)
    return by_line


def check_listed(names: Iterable[str]) -> None:
    """Looks whether every stage that is wired has a row.

    Raises:
      LookupError: one has none. A local run would never launch it, and a cluster would.
    """
    if missing := sorted(set(names) - set(Node)):
        raise LookupError(f"{', '.join(missing)}: wired, and without a row in {__name__}.Node; add one")
