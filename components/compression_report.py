"""What compressing did: the steps that made the student, and compression.json, the trade of student against teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from bertline.components.evaluation import Comparison, Figures, Interval
from bertline.models.network_size import NetworkSize
from bertline.serving import storage

STEPS_FILE = "compression-steps.json"  # in the student's Weights
REPORT_FILE = "compression.json"  # in the StudentGate's CompressionReport


class Cut(Figures):
    """How many there were, and how many are left."""

    before: int
    after: int


class Steps(Figures):
    """What was done to the teacher; None for a step that was not taken.

    Attributes:
        network: of another family, in words.
        layers: of the network.
        hidden: dimensions of its hidden states.
        heads: of each layer's attention.
        units: of each layer's feed-forward part.
        wordpieces: of the vocabulary.
        texts: without labels that the student has learned from too, in words.
    """

    network: str | None = None
    layers: Cut | None = None
    hidden: Cut | None = None
    heads: Cut | None = None
    units: Cut | None = None
    wordpieces: Cut | None = None
    texts: str | None = None

    @property
    def described(self) -> str:
        """Such as "7,210 of 30,522 wordpieces"."""
        named = {"hidden dimensions" if name == "hidden" else name: cut for name, cut in self if isinstance(cut, Cut)}
        parts = [f"{cut.after:,} of {cut.before:,} {name}" for name, cut in named.items()]
        return ", ".join(filter(None, [self.network, *parts, self.texts]))


def cuts(before: NetworkSize, after: NetworkSize) -> dict[str, Cut]:
    """Of which parts of the network a student has less, by the names of `Steps`."""
    sizes = {key: (getattr(before, key), getattr(after, key)) for key in ("layers", "hidden", "heads", "units")}
    return {key: Cut(before=whole, after=part) for key, (whole, part) in sizes.items() if part < whole}


class Side(Figures):
    """The teacher or the student.

    Attributes:
        accuracy: on the test rows; of multi-label rows subset accuracy.
        interval: its 95% interval.
        macro_f1: on the same rows.
        micro_f1: of multi-label rows; else None.
        p50_ms: median of the milliseconds that one text takes in the server's session, without the network.
        examples_per_second: in batches of rows of similar length.
        bytes: of the SavedModel.
    """

    accuracy: float
    interval: Interval
    macro_f1: float
    micro_f1: float | None = None
    p50_ms: float
    examples_per_second: float
    bytes: int


class CompressionReport(Figures):
    """The trade.

    Attributes:
        steps: what was done.
        teacher: as it was trained.
        student: as it would be pushed.
        comparison: the student's answers less the teacher's, on the same test rows.
        faster: how many times the examples a second; `faster_bounds` each hold with the config's certainty.
        faster_bounds: see there.
        smaller: how many times fewer bytes.
        verdicts: of `compress.gates`, as gates.Verdict.as_dict gives them.
        chosen: which of the two goes on to the line's gates.
    """

    steps: Steps
    teacher: Side
    student: Side
    comparison: Comparison
    faster: float
    faster_bounds: Interval
    smaller: float
    verdicts: list[dict[str, Any]]
    chosen: Literal["student", "teacher"]

    @property
    def described(self) -> str:
        """The screen's line."""
        difference = self.comparison.differences.micro_f1 or self.comparison.differences.accuracy
        name = "micro-F1" if self.comparison.differences.micro_f1 else "accuracy"
        end = "" if self.chosen == "student" else ": the teacher is kept"
        return (
            f"{self.steps.described}  {name} {difference.value:+.3f}, {self.faster:.1f} times as fast, "
            f"{self.student.bytes / 1e6:.0f} MB of {self.teacher.bytes / 1e6:.0f} MB{end}"
        )

    def of_release(self) -> dict[str, Any]:
        """What release.json tells of the teacher."""
        return {
            "steps": self.steps.model_dump(exclude_none=True),
            "teacher": self.teacher.model_dump(exclude_none=True),
            "student": self.student.model_dump(exclude_none=True),
            "chosen": self.chosen,
        }


def write_steps(folder: Path, steps: Steps) -> None:
    """Writes STEPS_FILE beside a student's weights."""
    (folder / STEPS_FILE).write_text(steps.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_steps(folder: str) -> Steps:
    """Reads what `write_steps` wrote."""
    return Steps.model_validate_json(storage.read_text(f"{folder}/{STEPS_FILE}"))


def write(folder: str, report: CompressionReport) -> None:
    """Writes REPORT_FILE into a CompressionReport artifact's folder."""
    with storage.open_file(f"{folder}/{REPORT_FILE}", "w") as file:
        file.write(report.model_dump_json(indent=1) + "\n")


def read(folder: str) -> CompressionReport:
    """Reads what `write` wrote."""
    return CompressionReport.model_validate_json(storage.read_text(f"{folder}/{REPORT_FILE}"))
