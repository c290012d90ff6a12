"""Labels that are probably missing from rows with any number of them, or probably wrong: each label on its own.

A label is a question with two answers, which cleanlab judges as any other two labels. This is how cleanlab itself
treats several labels per row (its multilabel_classification module).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bertline.components import baseline, label_issues, label_set_baseline
from bertline.components.answers import multi_hot, shown
from bertline.components.label_issues import FOLDS, SEED, TFIDF, THIS_MODEL, TRAIN_ROWS, Issue, SplitIssues
from bertline.models import calibration, features

HAS, LACKS = "has it", "lacks it"


def judge(labels: list[list[str]], probabilities: np.ndarray, classes: list[str], by: str = THIS_MODEL) -> SplitIssues:
    """Issues by probabilities for rows that their model was not trained on.

    Args:
        labels: the names of each row's labels, [rows].
        probabilities: float [rows, labels].
        classes: the names of the columns of `probabilities`.
        by: whose probabilities they are.

    Returns:
        An issue per row: the labels that it has and those that it probably should have, with the score of the surest
        error among them.
    """
    held = multi_hot(labels, classes)
    wrong, scores = np.zeros_like(held), np.ones(len(labels))
    judged = np.flatnonzero(held.any(0) & ~held.all(0))
    for label in judged:
        both = np.stack([1.0 - probabilities[:, label], probabilities[:, label]], axis=1)
        names = [HAS if has else LACKS for has in held[:, label]]
        for issue in label_issues.find(names, both, [LACKS, HAS]):
            wrong[issue.row, label] = True
            scores[issue.row] = min(scores[issue.row], issue.score)
    rows = np.flatnonzero(wrong.any(-1))
    rows = rows[np.argsort(scores[rows], kind="stable")]
    issues = [
        Issue(int(row), shown(labels[row]), shown(_named(held[row] ^ wrong[row], classes)), float(scores[row]))
        for row in rows
    ]
    left_out = len(classes) - len(judged)
    note = f"labels that no row has, or all rows have, were left out: {left_out:,}" if left_out else ""
    return SplitIssues(by, len(labels), issues, note)


def _named(held: np.ndarray, classes: list[str]) -> list[str]:
    return [classes[label] for label in np.flatnonzero(held)]


def judge_training(table: dict[str, list[Any]]) -> SplitIssues:
    """Issues among the training rows, by TF-IDF with a logistic regression per label, fitted on the other folds.

    Args:
        table: columns `text`, `text_pair`, `label` (a list per row) and `row_id`, each [rows].
    """
    rows, notes = list(range(len(table[features.LABEL]))), []
    if len(rows) > TRAIN_ROWS:
        notes.append(f"{TRAIN_ROWS:,} of {len(rows):,} rows were judged")
        # By the hash of the text: the same rows in every run.
        rows = sorted(sorted(rows, key=lambda row: table[features.ROW_ID][row])[:TRAIN_ROWS])
    labels = [table[features.LABEL][row] for row in rows]
    part = {name: [table[name][row] for row in rows] for name in (features.TEXT, features.TEXT_PAIR)}
    every = sorted({label for of_row in labels for label in of_row})
    held = multi_hot(labels, every)
    classes = [name for name, of in zip(every, held.sum(0), strict=True) if FOLDS <= of <= len(rows) - FOLDS]
    if rare := len(every) - len(classes):
        notes.append(f"labels of fewer than {FOLDS} rows, or of nearly all, were left out: {rare:,}")
    if not classes or len(rows) < FOLDS:
        return SplitIssues(TFIDF, note="; ".join([*notes, f"no label has {FOLDS} rows, so none was judged"]))
    try:
        probabilities = _out_of_fold(baseline.texts(part), labels, classes)
    except label_issues.NoWords as error:
        return SplitIssues(TFIDF, note="; ".join([*notes, f"none was judged: {error}"]))
    kept = [[label for label in of_row if label in classes] for of_row in labels]
    judged = judge(kept, probabilities, classes, TFIDF)
    issues = [Issue(rows[each.row], each.label, each.suggested, each.score) for each in judged.issues]
    return SplitIssues(TFIDF, len(rows), issues, "; ".join(notes))


def _out_of_fold(texts: list[str], labels: list[list[str]], classes: list[str]) -> np.ndarray:
    """Probabilities, float64 [rows, labels], at temperatures as in label_issues; each row's by a model without it.

    Raises:
        NoWords: no word stands in two rows of a fold.
    """
    from sklearn.model_selection import KFold

    probabilities, held = np.zeros((len(texts), len(classes))), multi_hot(labels, classes)
    for train, test in KFold(FOLDS, shuffle=True, random_state=SEED).split(texts):
        vectorizer, regression = baseline.classifier(texts)
        with label_issues.no_words_in_words():
            matrix = vectorizer.fit_transform([texts[row] for row in train])
        fitted = label_set_baseline.fitted(regression, matrix, held[train])
        probabilities[test] = fitted.predict_proba(vectorizer.transform([texts[row] for row in test]))
    tiny = np.finfo(np.float64).eps
    clipped = np.clip(probabilities, tiny, 1 - tiny)
    logits = np.log(clipped / (1 - clipped))
    temperatures = calibration.fit_temperatures(logits, held)
    return calibration.probabilities(logits, [each.value for each in temperatures])
