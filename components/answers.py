"""The test rows with their labels and what each model answered, and the Parquet file that holds them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertline.components import estimates, label_sets
from bertline.components.options import EvaluateOptions
from bertline.models import features
from bertline.models.features import LENGTH_BUCKET, PREDICTED, PREVIOUS, PROBABILITY, PROBE, TFIDF
from bertline.serving import storage

PREDICTIONS_FILE = "predictions-test.parquet"  # in the Evaluator's ModelEvaluation


@dataclass(frozen=True)
class Answers:
    """Test rows with their labels and what each model answered.

    Labels and answers are indices of `classes`; `len(classes)` stands for a label that is none of them.

    Attributes:
        classes: label names, in the order of the columns of `probabilities`.
        labels: int64 [rows], the true labels.
        predicted: int64 [rows], the model's answers.
        probabilities: float32 [rows, labels].
        columns: the rows' other columns by name, each [rows]: text, text_pair, row_id, source, what ingestion keeps,
            and as PREVIOUS, TFIDF and PROBE the label names that these models answered.
        abstained: bool [rows], of a model that abstains; else None.
        version: the last blessed model's; "" without one.
        slices: slice name to bool [rows], see `sliced`.
        groups: str [rows], the fairness gates' column; None without.
    """

    classes: list[str]
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    columns: dict[str, list[Any]] = field(default_factory=dict)
    abstained: np.ndarray | None = None
    version: str = ""
    slices: dict[str, np.ndarray] = field(default_factory=dict)
    groups: np.ndarray | None = None

    multi_label: ClassVar[bool] = False

    @property
    def right(self) -> np.ndarray:
        """bool [rows], whether the model's answer is the label."""
        return self.matches(self.predicted)

    def matches(self, answers: np.ndarray) -> np.ndarray:
        """bool [rows], whether answers, in the form of `predicted`, are the labels."""
        return answers == self.labels

    @property
    def decisions(self) -> tuple[np.ndarray, np.ndarray]:
        """The probabilities that are to be calibrated, float64 [decisions], and whether they are about what is so."""
        return self.confidence, self.right

    @property
    def distances(self) -> np.ndarray:
        """float64 [rows], how far each answer is from the right one: by how much its label is the more probable."""
        return self.confidence - self.probabilities[np.arange(len(self.labels)), self.labels]

    def having(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Whether each row has a label, and whether the model gives it that label: bool [rows] each."""
        return self.labels == label, self.predicted == label

    @property
    def confidence(self) -> np.ndarray:
        """float64 [rows], the probability of each row's answer."""
        return self.probabilities[np.arange(len(self.predicted)), self.predicted].astype(np.float64)

    @property
    def confusion(self) -> np.ndarray:
        """int64 [labels, labels], rows are true labels, columns the model's answers."""
        size = len(self.classes)
        return np.bincount(self.labels * size + self.predicted, minlength=size * size).reshape(size, size)

    @cached_property
    def previous(self) -> np.ndarray | None:
        """int64 [rows], the last blessed model's answers; None without one."""
        return self._others(PREVIOUS)

    @cached_property
    def tfidf(self) -> np.ndarray | None:
        """int64 [rows], TF-IDF's answers; None without them."""
        return self._others(TFIDF)

    @cached_property
    def probe(self) -> np.ndarray | None:
        """int64 [rows], the probe's answers; None without them."""
        return self._others(PROBE)

    def _others(self, column: str) -> np.ndarray | None:
        return indices(self.columns[column], self.classes) if column in self.columns else None

    @property
    def table(self) -> dict[str, list[Any]]:
        """The rows' columns by name, their labels' names among them. Each [rows]."""
        return {**self.columns, features.LABEL: self.names(self.labels)}

    def names(self, labels: np.ndarray) -> list[Any]:
        """The names of labels, int [rows], that are all of `classes`."""
        return [self.classes[label] for label in labels]

    # === Against another model's answers, in the form of `predicted` ===

    def scores(self, theirs: np.ndarray, inside: np.ndarray | slice = slice(None)) -> dict[str, float]:
        """Accuracy and macro-F1 of `theirs` on the rows `inside`, bool [rows]; see estimates.scores."""
        return estimates.scores(self.labels[inside], theirs[inside], len(self.classes))

    def paired_differences(
        self, theirs: np.ndarray, inside: np.ndarray | slice = slice(None)
    ) -> dict[str, tuple[float, np.ndarray]]:
        """Our scores less theirs, on the rows `inside`, bool [rows]; see estimates.paired_differences."""
        return estimates.paired_differences(
            self.labels[inside], self.predicted[inside], theirs[inside], len(self.classes)
        )

    def beside(self, others: dict[str, list[Any]], version: str) -> Answers:
        """The same rows with what other models answered.

        Args:
            others: as `names` gives them, [rows], by PREVIOUS, TFIDF and PROBE.
            version: of the last blessed model; "" without one.
        """
        return replace(self, columns=self.columns | others, version=version)

    def sliced(self, options: EvaluateOptions) -> Answers:
        """The same rows with the slices and the fairness gates' groups that the options name."""
        slices = {}
        for name, values in slice_columns(self.table, options).items():
            column = np.array(values)
            slices |= {f"{name}={value}": column == value for value in np.unique(column)}
        fairness = options.gates.fairness
        return replace(self, slices=slices, groups=np.array(self.table[fairness.column]) if fairness else None)


NO_LABEL = "no label"  # the slice of rows without labels


@dataclass(frozen=True)
class LabelSetAnswers(Answers):
    """Test rows with any number of labels, and what each model answered.

    Attributes:
        labels: bool [rows, labels], the labels that the rows have.
        predicted: bool [rows, labels], those that the model gives them.
    """

    multi_label: ClassVar[bool] = True

    def matches(self, answers: np.ndarray) -> np.ndarray:
        """bool [rows], whether answers, bool [rows, labels], are exactly the labels."""
        return (answers == self.labels).all(-1)

    def having(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """See Answers."""
        return self.labels[:, label], self.predicted[:, label]

    @property
    def confidence(self) -> np.ndarray:
        """float64 [rows], the probability of exactly the labels given, as far as labels are independent."""
        scores = self.probabilities.astype(np.float64)
        return np.where(self.predicted, scores, 1.0 - scores).prod(-1)

    @property
    def distances(self) -> np.ndarray:
        """See Answers: of each wrong decision how far the probability is from what is so, added up."""
        wrong = self.labels != self.predicted
        return np.where(wrong, np.abs(self.labels - self.probabilities.astype(np.float64)), 0.0).sum(-1)

    @property
    def decisions(self) -> tuple[np.ndarray, np.ndarray]:
        """See Answers: of each row and label, the probability, and whether the row has the label."""
        return self.probabilities.ravel().astype(np.float64), self.labels.ravel()

    @property
    def confusion(self) -> np.ndarray:
        """A row has no single label that could be taken for another one."""
        raise TypeError("rows with several labels have no confusion matrix")

    def _others(self, column: str) -> np.ndarray | None:
        # A label that only the other model knows is left out, in its favour.
        return multi_hot(self.columns[column], self.classes) if column in self.columns else None

    @property
    def table(self) -> dict[str, list[Any]]:
        """See Answers; a row's labels in one text."""
        return {**self.columns, features.LABEL: [shown(names) for names in self.names(self.labels)]}

    def names(self, labels: np.ndarray) -> list[Any]:
        """The names of the labels of each row, from bool [rows, labels]."""
        return [[self.classes[label] for label in np.flatnonzero(of_row)] for of_row in labels]

    def scores(self, theirs: np.ndarray, inside: np.ndarray | slice = slice(None)) -> dict[str, float]:
        """Subset accuracy, macro and micro F1 of `theirs`, bool [rows, labels]; see Answers."""
        return label_sets.scores(self.labels[inside], theirs[inside])

    def paired_differences(
        self, theirs: np.ndarray, inside: np.ndarray | slice = slice(None)
    ) -> dict[str, tuple[float, np.ndarray]]:
        """See Answers and label_sets.paired_differences."""
        return label_sets.paired_differences(self.labels[inside], self.predicted[inside], theirs[inside])


def shown(answer: str | list[str]) -> str:
    """A label, or the labels of a row, in one text."""
    return answer if isinstance(answer, str) else ", ".join(answer) or NO_LABEL


def multi_hot(names: list[list[str]], classes: list[str]) -> np.ndarray:
    """Which of the classes each row's names hold, bool [rows, labels]; names that are none of them are left out."""
    index = {name: position for position, name in enumerate(classes)}
    held = np.zeros((len(names), len(classes)), bool)
    for row, of_row in enumerate(names):
        held[row, [index[name] for name in of_row if name in index]] = True
    return held


def indices(names: list[str], classes: list[str]) -> np.ndarray:
    """The position of each name among the classes, int64 [rows]; len(classes) for a name that is none of them."""
    index = {name: position for position, name in enumerate(classes)}
    return np.array([index.get(name, len(index)) for name in names], np.int64)


def slice_columns(columns: dict[str, list[Any]], options: EvaluateOptions) -> dict[str, list[str]]:
    """The columns that slice the rows: the config's, and the bucket of each text's length. Each [rows]."""
    slicing = {name: columns[name] for name in options.slices}
    if options.length_buckets:
        slicing[LENGTH_BUCKET] = [length_bucket(len(text), options.length_buckets) for text in columns[features.TEXT]]
    return slicing


def length_bucket(characters: int, bounds: list[int]) -> str:
    """The text-length slice of a text, such as "0-49", "50-99" or "100+" characters."""
    lower = 0
    for bound in sorted(bounds):
        if characters < bound:
            return f"{lower}-{bound - 1}"
        lower = bound
    return f"{lower}+"


# === The file ===


def write_answers(folder: str, rows: Answers) -> None:
    """Writes PREDICTIONS_FILE into an evaluation's folder: the rows' columns, names of labels and answers, figures."""
    columns = {
        **{name: _arrow(rows, name, column) for name, column in rows.columns.items()},
        features.LABEL: _arrow(rows, features.LABEL, rows.names(rows.labels)),
        PREDICTED: _arrow(rows, PREDICTED, rows.names(rows.predicted)),
        PROBABILITY: rows.confidence.astype(np.float32),
        features.PROBABILITIES: arrow_lists(rows.probabilities),
    }
    if rows.abstained is not None:
        columns[features.ABSTAINED] = rows.abstained
    with storage.open_file(f"{folder}/{PREDICTIONS_FILE}", "wb") as file:
        pq.write_table(pa.table(columns), file)


def read_answers(folder: str, classes: list[str], version: str = "") -> Answers:
    """Reads PREDICTIONS_FILE from an evaluation's folder, local or remote.

    Args:
        folder: of the evaluation.
        classes: the label names in the order of the probabilities, as metrics.json has them.
        version: of the last blessed model; "" without one.
    """
    with storage.open_file(f"{folder}/{PREDICTIONS_FILE}", "rb") as file:
        table = pq.read_table(file)
    scores = _probabilities(table)
    columns = table.drop_columns([features.PROBABILITIES]).to_pydict()
    columns.pop(PROBABILITY, None)  # it follows from the probabilities
    abstained = columns.pop(features.ABSTAINED, None)
    if pa.types.is_list(table.schema.field(features.LABEL).type):
        return LabelSetAnswers(
            classes,
            labels=multi_hot(columns.pop(features.LABEL), classes),
            predicted=multi_hot(columns.pop(PREDICTED), classes),
            probabilities=scores,
            columns=columns,
            version=version,
        )
    return Answers(
        classes,
        labels=indices(columns.pop(features.LABEL), classes),
        predicted=indices(columns.pop(PREDICTED), classes),
        probabilities=scores,
        columns=columns,
        abstained=None if abstained is None else np.array(abstained, bool),
        version=version,
    )


def _arrow(rows: Answers, name: str, column: list[Any]) -> list[Any] | pa.Array:
    """A column for Arrow, which cannot tell what lists hold where all of them are empty."""
    holds_names = name in (features.LABEL, PREDICTED, PREVIOUS, TFIDF)
    return pa.array(column, pa.list_(pa.string())) if rows.multi_label and holds_names else column


def _probabilities(table: pa.Table) -> np.ndarray:
    """The probabilities, float32 [rows, labels], without a list of Python numbers, which takes ten times the memory."""
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table[features.PROBABILITIES].chunks]
    return np.concatenate(flat).astype(np.float32, copy=False).reshape(table.num_rows, -1)


def arrow_lists(values: np.ndarray) -> pa.ListArray:
    """float32 [rows, labels] as an Arrow column with a list per row."""
    rows, labels = values.shape
    flat = pa.array(np.ascontiguousarray(values, np.float32).ravel())
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * labels), flat)
