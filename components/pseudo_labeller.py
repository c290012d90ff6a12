"""PseudoLabeller: unlabelled rows as more training rows: those that the probe is sure of, or all by label spreading.

The teacher is the probe of the same run: it was fitted on the training rows, its penalty and its temperature on the
validation rows, and it has seen no test row. A row gets its label where the calibrated probability reaches the
threshold (Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks", 2013;
the threshold as in Sohn et al., "FixMatch", NeurIPS 2020). Or all rows begin with what the probe says, and their labels
spread along rows that are alike (models/spreading.py). Splits, statistics and figures do not see these rows.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from bertline.components import pretrained, probe_head, pseudo_rows, spreadsheet, unlabelled
from bertline.components.artifacts import PSEUDO_FILE, Backbone, ProbeHead, PseudoLabels
from bertline.components.examples import Table, read_splits
from bertline.components.labelling import pool
from bertline.components.labelling.pool import Candidate
from bertline.components.labelling.vectors import TextVectors
from bertline.components.labels import read_labels
from bertline.components.options import DataOptions
from bertline.components.probe_head import Probed
from bertline.errors import UserError
from bertline.models import calibration, features, spreading
from bertline.models.features import LABEL, ROW_ID, SOURCE, TEXT, TEXT_PAIR
from bertline.models.recipe import ModelOptions

TRAIN, VALIDATION, _ = features.SPLITS
CHUNK = 4096  # rows that are embedded at a time
COLUMNS = (ROW_ID, SOURCE, LABEL, features.PROBABILITY, TEXT, TEXT_PAIR)  # of PSEUDO_FILE
SHOWN_LABELS = 5
SPREAD, MOST_SPREAD = "spread", 50_000  # each row is compared with all others: half a minute, and 77 MB of vectors


@component
def PseudoLabeller(
    examples: InputArtifact[standard_artifacts.Examples],
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    head: InputArtifact[ProbeHead],
    rows: OutputArtifact[PseudoLabels],
    source: Parameter[str],
    labels: Parameter[str],
    threshold: Parameter[float],
    data: Parameter[str],
    model_options: Parameter[str],
    precision: Parameter[str],
    base_folder: Parameter[str],
    backbone: InputArtifact[Backbone] = None,
) -> None:
    """Labels rows of files, and tokenises those that the probe is sure of.

    Args:
        examples: raw Examples of ingestion, all splits: their texts are no new rows.
        transform_graph: the tokenisation, and the labels.
        head: the probe.
        rows: Split-train of transformed Examples, and PSEUDO_FILE, a line per row.
        source: `train.unlabelled`.
        labels: `train.pseudo_labels`.
        threshold: `train.pseudo_threshold`.
        data: DataOptions as JSON: how the files are read.
        model_options: a ModelOptions as JSON.
        precision: `train.precision`, as the Embedder has it.
        base_folder: where relative paths start.
        backbone: the Pretrainer's weights; None for the configured ones.

    Raises:
        UserError: a file cannot be read, has rows of the test split, no row reaches the threshold, or there are more
            rows than labels can spread over.
    """
    options = DataOptions.model_validate_json(data)
    names_of_labels, probed = read_labels(transform_graph.uri), probe_head.read(head.uri)
    tables = read_splits(examples)
    temperature = temperature_of(probed, tables[VALIDATION], names_of_labels)
    encoder = TextVectors(pretrained.model_of(ModelOptions.model_validate_json(model_options), backbone), precision)
    with unlabelled.opened("train.unlabelled", source, options, tables, base_folder) as new:
        if labels == SPREAD:
            sure, best = spread_over(new.rows, encoder, probed, temperature, tables[TRAIN], names_of_labels), 0.0
        else:
            sure, best = surest(new.rows, encoder, probed, temperature, threshold)
    if not sure and not best:
        raise unlabelled.none_new("train.unlabelled", source, new.counts)
    if not sure:
        raise UserError(
            f"train.pseudo_threshold: no row of {source} reaches {threshold:g}; the surest has {best:.3f}. Set it "
            "lower, or leave train.unlabelled out."
        )
    rows_of = [Labelled(row, names_of_labels[label], probability) for row, label, probability in sure]
    unlabelled.tokenise(rows.uri, transform_graph.uri, ((each.row, each.label) for each in rows_of))
    _write_provenance(rows.uri, rows_of, new.files)
    rows.set_string_custom_property(pseudo_rows.ASKED, pseudo_rows.asked_by(source, labels, threshold))
    by = "labelled by spreading" if labels == SPREAD else f"with {threshold:g} or more"
    rows.set_string_custom_property("summary", summary(rows_of, new.counts, by))


class Labelled(NamedTuple):
    """A row, the label that it gets, and how probable that is."""

    row: Candidate
    label: str
    probability: float

    def source(self, names: Sequence[str]) -> str:
        """FILE:ROW."""
        return f"{names[self.row.place.file]}:{self.row.place.row}"


def temperature_of(probed: Probed, validation: Table, labels: list[str]) -> float:
    """What the probe's logits are divided by, fitted on the validation rows."""
    truth = np.array([labels.index(name) for name in validation[LABEL]])
    return calibration.fit_temperature(probed.validation_logits, truth).value


def surest(
    rows: Iterator[Candidate], encoder: TextVectors, probed: Probed, temperature: float, threshold: float
) -> tuple[list[tuple[Candidate, int, float]], float]:
    """The rows whose probability reaches the threshold, with label and probability; and the largest of all rows."""
    sure, best = [], 0.0
    while chunk := list(islice(rows, CHUNK)):
        pairs = None if chunk[0].text_pair is None else [row.text_pair for row in chunk]
        logits = probed.head.logits(encoder.features([row.text for row in chunk], pairs))
        probabilities = calibration.probabilities(logits, temperature)
        labels, top = probabilities.argmax(axis=1), probabilities.max(axis=1)
        best = max(best, float(top.max()))
        sure += [(chunk[place], int(labels[place]), float(top[place])) for place in np.flatnonzero(top >= threshold)]
    return sure, best


def spread_over(
    rows: Iterator[Candidate],
    encoder: TextVectors,
    probed: Probed,
    temperature: float,
    training: Table,
    labels: Sequence[str],
) -> list[tuple[Candidate, int, float]]:
    """All rows, with the labels that have spread to them from the probe and the training rows, and their shares.

    Raises:
        UserError: there are more than MOST_SPREAD rows, those of training counted.
    """
    new = list(islice(rows, MOST_SPREAD))
    if not new:
        return []
    if len(new) + len(training[TEXT]) > MOST_SPREAD:
        raise UserError(
            f"train.pseudo_labels: spread compares each row with all others, and takes {MOST_SPREAD:,} rows at most, "
            "those of training counted. Name fewer rows in train.unlabelled, or leave pseudo_labels out."
        )
    texts, pairs = [*training[TEXT], *(row.text for row in new)], None
    if new[0].text_pair is not None:
        pairs = [*training[TEXT_PAIR], *(row.text_pair for row in new)]
    vectors = encoder.features(texts, pairs)
    start = calibration.probabilities(probed.head.logits(vectors), temperature)
    known = [labels.index(name) for name in training[LABEL]]
    start[: len(known)] = 0
    start[np.arange(len(known)), known] = spreading.KNOWN
    shares = spreading.spread(vectors, start)[len(known) :]
    return [(row, int(share.argmax()), float(share.max())) for row, share in zip(new, shares, strict=True)]


# === What is written ===


def _write_provenance(target: str, rows: list[Labelled], names: Sequence[str]) -> None:
    lines = (
        [each.row.row_id, each.source(names), each.label, round(each.probability, 6), each.row.text,
         each.row.text_pair or ""]
        for each in rows
    )  # fmt: skip
    spreadsheet.write(f"{target}/{PSEUDO_FILE}", COLUMNS, lines)


def summary(rows: list[Labelled], counts: pool.Counts, by: str) -> str:
    """The screen's line, such as "1,204 of 20,000 rows with 0.95 or more: 700 negative, 504 positive; ..."."""
    by_label = Counter(each.label for each in rows).most_common()
    shown = [f"{count:,} {label}" for label, count in by_label[:SHOWN_LABELS]]
    more = len(by_label) - len(shown)
    shown += [f"{more} more labels"] if more > 0 else []
    return f"{len(rows):,} of {counts.rows:,} rows {by}: {', '.join(shown)}{unlabelled.told(counts)}"
