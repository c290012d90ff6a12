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
    module: str
    beam: Beam = Beam.NONE
    always_runs: bool = False
    reports: bool = False
    makes_model: bool = False


class Node(StrEnum):
    """A stage, in the order in which they run. A member is the id of the stage's node, a str.

    Attributes:
        line: the line on the screen that it belongs to; "" for one that runs only on a cluster.
        module: the module whose code the stage runs. A change of that code, or of code that it imports, runs the stage
            again.
        beam: where its Beam pipeline runs.
        always_runs: on a cluster it is never cached.
        reports: it only reports on a push that is done. Where it fails, the run ends as the push left it.
        makes_model: what it writes goes into the model. A change of code in the other stages makes no new version.
    """

    # Its outputs key the cache of all other stages.
    FACTS = _Row("Facts", "", "bertline.pipeline.facts_stage", always_runs=True)
    EXAMPLE_GEN = _Row("ExampleGen", "ingest", "bertline.components.example_gen", Beam.ANY_ENGINE, makes_model=True)
    STATISTICS_GEN = _Row(
        "StatisticsGen", "validate", "bertline.components.statistics", Beam.ANY_ENGINE, makes_model=True
    )
    # TFX's own SchemaGen and ExampleValidator only call TFDV.
    SCHEMA_GEN = _Row("SchemaGen", "validate", "tensorflow_data_validation", makes_model=True)
    REVIEWED_SCHEMA = _Row("ReviewedSchema", "validate", "bertline.components.reviewed_schema", makes_model=True)
    EXAMPLE_VALIDATOR = _Row("ExampleValidator", "validate", "tensorflow_data_validation")
    DATA_GATE = _Row("DataGate", "validate", "bertline.components.validation", Beam.ANY_ENGINE)
    TRANSFORM = _Row("Transform", "tokenise", "bertline.components.transform", Beam.ANY_ENGINE, makes_model=True)
    BASELINE = _Row("Baseline", "baseline", "bertline.components.baseline")
    PRETRAINER = _Row("Pretrainer", "pretrain", "bertline.components.pretrainer", makes_model=True)
    EMBEDDER = _Row("Embedder", "probe", "bertline.components.embedder", makes_model=True)
    PROBE = _Row("Probe", "probe", "bertline.components.probe", makes_model=True)
    AUGMENTER = _Row("Augmenter", "augment", "bertline.components.augmenter", makes_model=True)
    PSEUDO_LABELLER = _Row("PseudoLabeller", "pseudo", "bertline.components.pseudo_labeller", makes_model=True)
    TUNER = _Row("Tuner", "tune", "bertline.components.tuner", makes_model=True)
    LAST_BLESSED = _Row("LastBlessed", "train", "bertline.components.last_blessed")
    TRAINER = _Row("Trainer", "train", "bertline.components.trainer", makes_model=True)
    EXPORTER = _Row("Exporter", "export", "bertline.components.exporter", makes_model=True)
    COMPRESSOR = _Row("Compressor", "compress", "bertline.components.compressor", makes_model=True)
    STUDENT_EXPORTER = _Row("StudentExporter", "compress", "bertline.components.student_exporter", makes_model=True)
    STUDENT_GATE = _Row("StudentGate", "compress", "bertline.components.student_gate", makes_model=True)
    EVALUATOR = _Row("Evaluator", "evaluate", "bertline.components.evaluator", Beam.NOT_ON_DATAFLOW)
    CANARY = _Row("Canary", "canary", "bertline.components.canary")
    MODEL_CARD = _Row("ModelCard", "push", "bertline.components.model_card")
    # The serving folder changes without the cache's knowledge. Pushing a version that is there changes nothing.
    PUSHER = _Row("Pusher", "push", "bertline.components.pusher", always_runs=True)
    # They succeed even where they fail (see `reports`), and Kubeflow would cache the outputs that they did not make.
    LABEL_QUALITY = _Row("LabelQuality", "labels", "bertline.components.label_quality", always_runs=True, reports=True)
    EXPLAINER = _Row("Explainer", "explain", "bertline.components.explainer", always_runs=True, reports=True)
    REVIEW = _Row("Review", "review", "bertline.components.review", always_runs=True, reports=True)
    TRACK = _Row("Track", "track", "bertline.components.tracking", always_runs=True, reports=True)

    def __new__(cls, node: str, line: str, module: str, beam: Beam, *flags: bool) -> Node:
        """Makes a member of a row; its value is the node's id."""
        member = str.__new__(cls, node)
        member._value_ = node
        member.line, member.module, member.beam = line, module, beam
        member.always_runs, member.reports, member.makes_model = flags
        return member


def lines() -> dict[str, list[Node]]:
    """The lines of the screen in their order, and the stages of each."""
    by_line: dict[str, list[Node]] = {}
    for node in Node:
        if node.line:
            by_line.setdefault(node.line, []).append(node)
    return by_line


def check_listed(names: Iterable[str]) -> None:
    """Checks that every stage that is wired has a row.

    Raises:
        LookupError: one has none. A local run would never launch it, and a cluster would.
    """
    if missing := sorted(set(names) - set(Node)):
        raise LookupError(f"{', '.join(missing)}: wired, and without a row in {__name__}.Node; add one")
