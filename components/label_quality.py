"""LabelQuality: labels that are probably wrong, and texts that stand almost alike in two splits.

The model is not run: its answers to the test rows are the Evaluator's, those to the validation rows come from the
logits that the Trainer left. The training rows, which it has seen, are judged across folds by a logistic regression: on
the Embedder's vectors where the line has them, and on TF-IDF where it has none or where rows have several labels.
"""

import json
from typing import Any

import numpy as np
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_artifacts

from bertline.components import (
    baseline,
    estimates,
    export_record,
    label_issues,
    label_set_issues,
    near_duplicates,
    probe_head,
    spreadsheet,
    training_record,
    vectors,
)
from bertline.components.answers import read_answers, shown
from bertline.components.artifacts import (
    ISSUES_FILE,
    LABEL_SUMMARY_FILE,
    NEAR_DUPLICATES_FILE,
    PSEUDO_FILE,
    VARIANTS_FILE,
    Embeddings,
    LabelReport,
    ProbeHead,
    PseudoLabels,
    Variants,
)
from bertline.components.evaluation import read_metrics
from bertline.components.examples import SERIALIZED, Table, check_order, read_examples
from bertline.models import calibration, features

TRAIN, VALIDATION, TEST = features.SPLITS
PSEUDO_LABELLED, VARIANTS = "pseudo-labelled", "variants"  # where a near-duplicate stands that is no row of a split
ISSUE_COLUMNS = ("split", "source", "row_id", "label", "suggested", "score", "by", "text", "text_pair")
SIDE_COLUMNS = ("split", "source", "row_id", "label", "text", "text_pair")
PAIR_COLUMNS = ("similarity", *(f"{side}_{name}" for side in ("first", "second") for name in SIDE_COLUMNS))


@component
def LabelQuality(
    examples: InputArtifact[standard_artifacts.Examples],
    model_run: InputArtifact[standard_artifacts.ModelRun],
    model: InputArtifact[standard_artifacts.Model],
    evaluation: InputArtifact[standard_artifacts.ModelEvaluation],
    report: OutputArtifact[LabelReport],
    embeddings: InputArtifact[Embeddings] = None,
    head: InputArtifact[ProbeHead] = None,
    variants: InputArtifact[Variants] = None,
    pseudo_labels: InputArtifact[PseudoLabels] = None,
) -> None:
    """Looks for wrong labels in all splits, and for near-duplicates across them; stops nothing.

    Args:
        examples: raw Examples of ingestion.
        model_run: the logits of the validation rows.
        model: the exported model's export.json; its temperature makes probabilities of these logits.
        evaluation: the Evaluator's answers to the test rows, and metrics.json.
        report: label_issues.csv, near_duplicates.csv and label_quality.json.
        embeddings: the Embedder's vectors, which judge the training rows; None for TF-IDF.
        head: the probe on them, for the strength of its penalty.
        variants: further training rows, which can be near-duplicates too; None for none.
        pseudo_labels: as the variants.
    """
    metrics = read_metrics(evaluation.uri)
    classes, several = metrics.classes, metrics.multi_label is not None
    tables = {split: _rows(examples, split, several) for split in features.SPLITS}
    test = read_answers(evaluation.uri, classes)
    check_order(test.names(test.labels), tables[TEST])
    validation = training_record.read_logits(model_run.uri)
    check_order(validation.labels, tables[VALIDATION])
    temperature = export_record.read(model.uri).calibration.temperature
    probabilities = calibration.probabilities(validation.logits, temperature)
    judges = label_set_issues if several else label_issues
    more = {"embedded": _embedded(embeddings, head, tables[TRAIN], classes)} if embeddings and not several else {}
    issues = {
        TEST: judges.judge(tables[TEST][features.LABEL], test.probabilities, classes),
        VALIDATION: judges.judge(tables[VALIDATION][features.LABEL], probabilities, classes),
        TRAIN: judges.judge_training(tables[TRAIN], **more),
    }
    if several:
        for table in tables.values():
            table[features.LABEL] = [shown(labels) for labels in table[features.LABEL]]
    added = added_rows(tables[TRAIN], variants, pseudo_labels)
    texts = [{split: baseline.texts(table) for split, table in each.items()} for each in (tables, added)]
    twins, tables = near_duplicates.find(*texts), tables | added
    figures = summarise(issues, twins, tables, test.right)

    spreadsheet.write(f"{report.uri}/{ISSUES_FILE}", ISSUE_COLUMNS, issue_rows(issues, tables))
    spreadsheet.write(f"{report.uri}/{NEAR_DUPLICATES_FILE}", PAIR_COLUMNS, pair_rows(twins, tables))
    with fileio.open(f"{report.uri}/{LABEL_SUMMARY_FILE}", "w") as file:
        file.write(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    report.set_string_custom_property("summary", describe(figures))


def _rows(examples: standard_artifacts.Examples, split: str, several: bool) -> Table:
    table = read_examples(artifact_utils.get_split_uri([examples], split), [], multi_label=several)
    del table[SERIALIZED]
    return table


def added_rows(train: Table, variants: Variants | None, pseudo_labels: PseudoLabels | None) -> dict[str, Table]:
    """The further training rows by what they are; a variant has the label of its row."""
    labels = dict(zip(train[features.ROW_ID], train[features.LABEL], strict=True))
    added = {}
    for name, artifact, file in (
        (PSEUDO_LABELLED, pseudo_labels, PSEUDO_FILE),
        (VARIANTS, variants, VARIANTS_FILE),
    ):
        if artifact:
            rows = [
                {features.LABEL: labels.get(row[features.ROW_ID]), **row}
                for row in spreadsheet.read(f"{artifact.uri}/{file}")
            ]
            added[name] = {column: [row[column] for row in rows] for column in (*_PLACE, features.LABEL)}
    return added


def _embedded(embeddings: Embeddings, head: ProbeHead, table: Table, classes: list[str]) -> label_issues.Embedded:
    """The training rows' vectors, for which it is checked that they are of these rows."""
    rows = vectors.read(embeddings.uri, TRAIN)
    labels = [table[features.LABEL][place] for place in rows.places]
    check_order([classes[label] for label in rows.labels], {features.LABEL: labels})
    return label_issues.Embedded(rows.vectors, rows.places, probe_head.read(head.uri).head.strength)


# === The files ===


def issue_rows(issues: dict[str, label_issues.SplitIssues], tables: dict[str, Table]) -> list[list[Any]]:
    """The rows of label_issues.csv, lowest score first; columns as ISSUE_COLUMNS."""
    rows = []
    for split, of_split in issues.items():
        table = tables[split]
        for issue in of_split.issues:
            source, row_id, text, pair = (table[name][issue.row] for name in _PLACE)
            verdict = [issue.label, issue.suggested, round(issue.score, 6), of_split.by]
            rows.append([split, source, row_id, *verdict, text, pair])
    return sorted(rows, key=lambda row: row[ISSUE_COLUMNS.index("score")])


_PLACE = (features.SOURCE, features.ROW_ID, features.TEXT, features.TEXT_PAIR)


def pair_rows(twins: near_duplicates.Twins, tables: dict[str, Table]) -> list[list[Any]]:
    """The rows of near_duplicates.csv, the most alike first; columns as PAIR_COLUMNS."""

    def side(row: near_duplicates.Row) -> list[str]:
        return [row.split, *(tables[row.split][name][row.position] for name in SIDE_COLUMNS[1:])]

    return [[round(pair.similarity, 6), *side(pair.first), *side(pair.second)] for pair in twins.pairs]


# === The figures ===


def summarise(
    issues: dict[str, label_issues.SplitIssues],
    twins: near_duplicates.Twins,
    tables: dict[str, Table],
    right: np.ndarray,
) -> dict[str, Any]:
    """What label_quality.json holds.

    Args:
        issues: by split.
        twins: pairs of near-duplicates.
        tables: by split.
        right: bool [test rows], whether the model's answer is the label.

    Returns:
        `issues`: by split the number of `rows` judged, the number `found`, `by` which model, and a `note`.
        `near_duplicates`: the number of `pairs`, whether all candidates were compared (`complete`), `by_splits` the
        rows of the later split that have a twin in the earlier one, and the `contradicting` pairs, whose labels differ.
        `test_without_near_duplicates_of_train`: the `rows` left, their `accuracy` and its `interval`, or None. The
        variants and pseudo-labelled rows that were trained on count as train here.
    """
    leaked = {
        pair.second.position for pair in twins.pairs if pair.first.split != VALIDATION and pair.second.split == TEST
    }
    kept = np.array([row not in leaked for row in range(len(right))])
    rows, hits = int(kept.sum()), int(right[kept].sum())
    return {
        "issues": {
            split: {"rows": each.rows, "found": len(each.issues), "by": each.by, "note": each.note}
            for split, each in issues.items()
        },
        "near_duplicates": {
            "pairs": len(twins.pairs),
            "threshold": near_duplicates.THRESHOLD,
            "complete": twins.complete,
            "by_splits": _by_splits(twins),
            "contradicting": sum(_label(pair.first, tables) != _label(pair.second, tables) for pair in twins.pairs),
        },
        "test_without_near_duplicates_of_train": {
            "left_out": len(leaked),
            "rows": rows,
            "accuracy": hits / rows if rows else None,
            "interval": estimates.share_interval(hits, rows) if rows else None,
        },
    }


def _label(row: near_duplicates.Row, tables: dict[str, Table]) -> str:
    return tables[row.split][features.LABEL][row.position]


def _by_splits(twins: near_duplicates.Twins) -> dict[str, int]:
    """Such as {"train, test": 97}: 97 test rows have a near-duplicate in train."""
    rows: dict[str, set[int]] = {}
    for pair in twins.pairs:
        rows.setdefault(f"{pair.first.split}, {pair.second.split}", set()).add(pair.second.position)
    return {splits: len(positions) for splits, positions in sorted(rows.items())}


def describe(figures: dict[str, Any]) -> str:
    """The screen's line: how many labels are probably wrong, and how far near-duplicates of training rows flatter."""
    issues = figures["issues"]
    by_split = ", ".join(f"{each['found']:,} {split}" for split, each in issues.items())
    total = sum(each["found"] for each in issues.values())
    rest = figures["test_without_near_duplicates_of_train"]
    leak = f"{rest['left_out']:,} test rows have a near-duplicate in train"
    if rest["left_out"] and rest["accuracy"] is not None:
        leak += f", accuracy without them {rest['accuracy']:.3f}"
    return f"{total:,} probable label errors ({by_split}); {leak}"
