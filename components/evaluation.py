"""metrics.json: the figures of a model on the test rows, as one typed model with its only writer and reader."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from bertline.errors import UserError
from bertline.serving import storage

METRICS_FILE = "metrics.json"  # in the Evaluator's ModelEvaluation

Interval = tuple[float, float]


class Figures(BaseModel):
    """The base of every part of metrics.json: it cannot be changed, and keeps a figure that is not a number."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants", protected_namespaces=())


class ClassScores(Figures):
    """One class against the rest; None where a score is a ratio of nothing."""

    precision: float | None
    recall: float | None
    f1: float | None


class SliceFigures(Figures):
    """Figures of some of the test rows.

    Attributes:
        rows: how many they are.
        accuracy: TFMA's, as are the counts behind the next four. Of multi-label rows it is subset accuracy, the share
            of rows with exactly the right labels, and the counts are ours (see label_sets).
        macro_f1: the mean F1 of the classes that have true or predicted rows.
        weighted_f1: the mean F1 of the classes, weighted by their rows.
        micro_f1: F1 of all decisions together. It equals the accuracy where each row has one label.
        per_class: scores by label name.
        loss: the log loss in nats, scikit-learn's; of multi-label rows the mean over rows and labels.
        macro_auc: the mean area under the ROC curves, scikit-learn's; None where no class has a curve.
        sample_f1: the mean F1 of the rows; None where each row has one label.
        hamming_loss: the share of rows and labels that are decided wrongly; None where each row has one label.
    """

    rows: int
    accuracy: float
    macro_f1: float
    weighted_f1: float
    micro_f1: float
    per_class: dict[str, ClassScores]
    loss: float
    macro_auc: float | None
    sample_f1: float | None = None
    hamming_loss: float | None = None


class Intervals(Figures):
    """95% intervals; those of the last three figures only of multi-label rows."""

    accuracy: Interval
    macro_f1: Interval
    balanced_accuracy: Interval
    calibration_error: Interval
    micro_f1: Interval | None = None
    sample_f1: Interval | None = None
    hamming_loss: Interval | None = None

    def by_figure(self) -> dict[str, Interval]:
        """The interval of each figure that these rows have."""
        return {name: interval for name, interval in self if interval is not None}


class Cell(NamedTuple):
    """A cell of the confusion matrix that has rows: the indices of the true and the answered label, and the rows."""

    true: int
    answered: int
    rows: int


class Together(NamedTuple):
    """Two labels, by their indices, and the rows that have both, and that are given both.

    Where they are one label, its rows, and those that are given it.
    """

    first: int
    second: int
    rows: int
    answered: int


class MultiLabel(Figures):
    """What only the test rows of a multi-label model have.

    Attributes:
        thresholds: the probability from which a row gets a label, by label.
        untuned: the labels whose threshold is 0.5 because too few validation rows have them, each with the reason.
        unlabelled: rows without a label.
        unanswered: rows that get no label.
        constant_micro_f1: the highest micro F1 of any answer that is the same for all rows.
        together: how often labels stand together.
    """

    thresholds: dict[str, float]
    untuned: dict[str, str]
    unlabelled: int
    unanswered: int
    constant_micro_f1: float
    together: list[Together]


class CalibrationFigures(Figures):
    """How far probabilities can be trusted."""

    calibration_error: float
    log_loss: float


class Calibration(Figures):
    """The test rows' probabilities before and after the logits were divided by the temperature, or by each label's."""

    temperature: float | list[float]
    before: CalibrationFigures
    after: CalibrationFigures


class Abstention(Figures):
    """What abstaining below the model's `threshold` leaves.

    Attributes:
        threshold: the probability below which the model abstains.
        rows: rows answered.
        coverage: their share of all rows.
        accuracy: of the rows answered; None where there are none.
    """

    threshold: float
    rows: int
    coverage: float
    accuracy: float | None


class Difference(Figures):
    """A figure of this model less the other model's; `low` and `high` each hold with the comparison's certainty."""

    value: float
    low: float
    high: float


class Differences(Figures):
    """Differences of figures; `micro_f1` only of multi-label rows, where `accuracy` is subset accuracy."""

    accuracy: Difference
    macro_f1: Difference
    micro_f1: Difference | None = None

    def named(self) -> list[tuple[str, Difference]]:
        """The name of each figure with its difference."""
        return [(name, difference) for name, difference in self if difference is not None]


class Comparison(Figures):
    """Another model on the same rows.

    Attributes:
        accuracy, macro_f1, micro_f1: the other model's; micro_f1 only of multi-label rows.
        certainty: the probability with which each bound of a difference holds.
        differences: this model's figures less the other's.
        rows_won, rows_lost: rows that only this model, and only the other model, answers rightly.
        mcnemar_p: McNemar's exact test of these two numbers.
    """

    accuracy: float
    macro_f1: float
    certainty: float
    differences: Differences
    rows_won: int
    rows_lost: int
    mcnemar_p: float
    micro_f1: float | None = None


class LastBlessed(Figures):
    """The last blessed model on the same rows."""

    version: str
    comparison: Comparison


class RankingFigures(Figures):
    """How well the candidates of each query are in order; see components/ranking.py for ties.

    Attributes:
        queries: those that have a candidate that fits. The figures are means over them.
        without: queries without one, which count in no figure.
        candidates: of all queries.
        mrr: the mean reciprocal rank.
        ndcg: the mean nDCG over all candidates of a query, scikit-learn's.
        precision_at: k -> the mean share that fits of the first k.
        intervals: 95%, of `mrr`, `ndcg` and `precision_at_K`, by a bootstrap of the queries.
        leads: `mrr` and `ndcg` less the last blessed model's; None where that is not compared.
    """

    queries: int
    without: int
    candidates: int
    mrr: float
    ndcg: float
    precision_at: dict[int, float]
    intervals: dict[str, Interval]
    leads: dict[str, Difference] | None = None

    def by_figure(self) -> dict[str, float]:
        """Each figure by its name, as `intervals` has it."""
        return {"mrr": self.mrr, "ndcg": self.ndcg} | {f"precision_at_{k}": v for k, v in self.precision_at.items()}


class Metrics(SliceFigures):
    """The figures of all test rows; those of SliceFigures are theirs too.

    Attributes:
        calibration_error: the expected calibration error.
        intervals: 95% intervals of the main figures.
        majority_share: the accuracy of always answering the commonest label, or the commonest set of labels.
        labels_present: labels that some test row has.
        model_bytes: size of the exported SavedModel.
        inference_seconds: time that the answers took, without loading the model.
        classes: the label names, in the order of the model's probabilities.
        confusion: the cells of the confusion matrix that have rows; none of multi-label rows.
        slices: figures by slice name, such as "shop=north".
        calibration: what the temperature changes.
        abstain: what abstaining leaves; None for a model that always answers.
        last_blessed: None where there is no model to compare with.
        tfidf: the comparison with TF-IDF; None where the config leaves it out.
        probe: the same with the probe.
        multi_label: None where each row has one label.
        ranking: None where the config does not take the rows as candidates for queries.
    """

    calibration_error: float
    intervals: Intervals
    majority_share: float
    labels_present: int
    model_bytes: int
    inference_seconds: float
    classes: list[str]
    confusion: list[Cell]
    slices: dict[str, SliceFigures]
    calibration: Calibration
    abstain: Abstention | None = None
    last_blessed: LastBlessed | None = None
    tfidf: Comparison | None = None
    probe: Comparison | None = None
    multi_label: MultiLabel | None = None
    ranking: RankingFigures | None = None

    def headline(self) -> dict[str, float]:
        """The figures that are one number each, by name: what a release and a tracker keep."""
        own = {name: value for name, value in self if isinstance(value, int | float)}
        return own | (self.ranking.by_figure() if self.ranking else {})


def figure_name(figure: str, *, multi_label: bool = False) -> str:
    """What people call a figure, such as macro-F1; accuracy of multi-label rows is subset accuracy."""
    names = {
        "accuracy": "subset accuracy" if multi_label else "accuracy",
        "macro_f1": "macro-F1",
        "micro_f1": "micro-F1",
        "mrr": "MRR",
        "ndcg": "nDCG",
    }
    return names.get(figure) or f"precision at {figure.removeprefix('precision_at_')}"


def write_metrics(folder: str, metrics: Metrics) -> None:
    """Writes metrics.json into an evaluation's folder, local or remote."""
    with storage.open_file(f"{folder}/{METRICS_FILE}", "w") as file:
        file.write(metrics.model_dump_json(indent=1) + "\n")


def read_metrics(folder: str) -> Metrics:
    """Reads metrics.json from an evaluation's folder, local or remote.

    Raises:
        UserError: another version of bertline wrote the file.
        FileNotFoundError: it is gone.
    """
    path = f"{folder}/{METRICS_FILE}"
    text = storage.read_text(path)
    try:
        return Metrics.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is of another version of bertline ({field}: {first['msg']}); run again.") from error
