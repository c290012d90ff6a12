"""Baseline: TF-IDF with logistic regression on the same rows. A BERT has to beat it to be worth its cost."""

import time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts

from bertline.components import label_set_baseline
from bertline.components.artifacts import BASELINE_FILE, BaselineAnswers
from bertline.components.examples import read_examples
from bertline.models import features

# The inverse strength of the penalty. 10 did best on the demo's tweets; on news 3 did, by less than half a point.
STRENGTH = 10.0
# Pieces of one character count too: in a tweet they are emoticons and punctuation marks.
TOKENS = r"(?u)\b\w+\b|[^\w\s]"


@component
def Baseline(
    examples: InputArtifact[standard_artifacts.Examples],
    answers: OutputArtifact[BaselineAnswers],
    multi_label: Parameter[int] = 0,
) -> None:
    """Fits the baseline on the training rows and answers the test rows.

    Args:
        examples: raw Examples of ingestion; of multi-label rows the validation rows are read too, for the thresholds.
        answers: the answer to each test row, in BASELINE_FILE: columns `row_id` and `predicted`.
        multi_label: whether (1) rows have any number of labels. Then each label is fitted against the rest.
    """
    train, validation, test = (
        read_examples(artifact_utils.get_split_uri([examples], split), [], multi_label=bool(multi_label))
        for split in features.SPLITS
    )
    began = time.monotonic()
    if multi_label:
        labelled = ((texts(rows), rows[features.LABEL]) for rows in (train, validation))
        predicted = label_set_baseline.fit_and_answer(classifier(), *labelled, texts(test))
    else:
        predicted = fit_and_answer(train, test)
    seconds = time.monotonic() - began
    columns = {features.ROW_ID: test[features.ROW_ID], "predicted": predicted}
    pq.write_table(pa.table(columns), f"{answers.uri}/{BASELINE_FILE}")
    pairs = zip(predicted, test[features.LABEL], strict=True)
    accuracy = sum(answered == label for answered, label in pairs) / len(predicted)
    figure = "subset accuracy" if multi_label else "accuracy"
    answers.set_string_custom_property(
        "summary", f"TF-IDF with logistic regression: {figure} {accuracy:.3f}, in {seconds:.1f} s"
    )


def fit_and_answer(train: dict[str, list[Any]], test: dict[str, list[Any]]) -> list[str]:
    """The baseline's answers to the test rows, [rows]: one fit, on words and pairs of neighbouring words.

    Args:
        train: columns `text`, `text_pair` and `label`, each [rows].
        test: columns `text` and `text_pair`, each [rows].
    """
    fitted = classifier().fit(texts(train), train[features.LABEL])
    return [str(label) for label in fitted.predict(texts(test))]


def classifier() -> Any:
    """scikit-learn's pipeline from texts to labels, not fitted."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(
        # Words that only one row has teach nothing, and would be three quarters of the columns.
        TfidfVectorizer(ngram_range=(1, 2), token_pattern=TOKENS, sublinear_tf=True, min_df=2),
        # newton-cg found the same optimum in a tenth of the time of scikit-learn's default.
        LogisticRegression(C=STRENGTH, solver="newton-cg", tol=1e-3),
    )


def texts(rows: dict[str, list[Any]]) -> list[str]:
    """The texts of rows, the two of a pair in one, [rows]; columns `text` and `text_pair`."""
    return [f"{text} {pair}" for text, pair in zip(rows[features.TEXT], rows[features.TEXT_PAIR], strict=True)]
