"""Baseline: TF-IDF with a linear classifier on the same rows. A BERT has to beat it to be worth its cost."""

import re
import time
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from bertline.components import label_set_baseline
from bertline.components.artifacts import BASELINE_FILE, BaselineAnswers
from bertline.components.examples import read_splits
from bertline.components.label_set_baseline import Penalised
from bertline.models import features

# Inverse strengths of the penalty. The best was 3 to 30 on tweets, news and Chinese reviews; beyond them all lost.
STRENGTHS = (1.0, 3.0, 10.0, 30.0)
USUAL_STRENGTH, USUAL_MARGIN_STRENGTH = 10.0, 0.3  # where no validation rows choose one
# A regression over all labels at once takes minutes beyond so many rows x labels. On 26,939 rows of 77 labels a support
# vector machine for each label against the rest took a quarter of the time of a regression for each, and was right in
# 49.7% of 3,000 rows instead of 48.4%.
MOST_LOGITS = 200_000
MARGIN_STRENGTHS = (0.1, 0.3, 1.0)  # of the support vector machines; 0.3 was the best there
CHOOSING_ROWS = 6000  # more training rows seldom choose another strength, and each strength takes a fit
# Pieces of one character count too: in a tweet they are emoticons and punctuation marks.
TOKENS = r"(?u)\b\w+\b|[^\w\s]"
# Characters within words add half a point on tweets. On more text than this words have learned it, and they cost most.
MOST_CHARACTERS = 10_000_000
# Letters of scripts that put no spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, Japanese, Chinese.
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d"
    "\U00020000-\U0003ffff]"
)
SEED = 17
REGRESSION, MARGINS = "logistic regression", "support vector machines"


@component
def Baseline(
    examples: InputArtifact[standard_artifacts.Examples],
    answers: OutputArtifact[BaselineAnswers],
    multi_label: Parameter[int] = 0,
) -> None:
    """Fits the baseline on the training rows and answers the test rows.

    Args:
        examples: raw Examples of ingestion. The validation rows choose the strength of the penalty and, where rows have
            any number of labels, the thresholds.
        answers: the answer to each test row, in BASELINE_FILE: columns `row_id` and `predicted`.
        multi_label: whether (1) rows have any number of labels. Then each label is fitted against the rest.
    """
    train, validation, test = read_splits(examples, multi_label=bool(multi_label)).values()
    began = time.monotonic()
    if multi_label:
        labelled = ((texts(rows), rows[features.LABEL]) for rows in (train, validation))
        vectorizer, words = _vectorizer(texts(train))
        penalised = Penalised(_regression, STRENGTHS)
        predicted, strength = label_set_baseline.fit_and_answer(vectorizer, penalised, *labelled, texts(test))
        kind = REGRESSION
        chosen = f" ({words}, C {strength:g})"
    else:
        fitted = fit(train, validation)
        predicted, kind = [str(label) for label in fitted.classifier.predict(texts(test))], fitted.kind
        chosen = f" ({fitted.words}, C {fitted.strength:g})"
    seconds = time.monotonic() - began
    columns = {features.ROW_ID: test[features.ROW_ID], "predicted": predicted}
    pq.write_table(pa.table(columns), f"{answers.uri}/{BASELINE_FILE}")
    pairs = zip(predicted, test[features.LABEL], strict=True)
    accuracy = sum(answered == label for answered, label in pairs) / len(predicted)
    figure = "subset accuracy" if multi_label else "accuracy"
    answers.set_string_custom_property(
        "summary", f"TF-IDF with {kind}: {figure} {accuracy:.3f}, in {seconds:.1f} s{chosen}"
    )


class Fitted(NamedTuple):
    """scikit-learn's pipeline from texts to labels, what it is, what it reads of a text, and its chosen strength."""

    classifier: Any
    kind: str
    words: str
    strength: float


def fit(train: dict[str, list[Any]], validation: dict[str, list[Any]]) -> Fitted:
    """Fits the baseline, with the inverse strength of the penalty that does best on the validation rows.

    The best has the highest sum of accuracy and macro-F1, which are what the gate compares.

    Args:
        train: columns `text`, `text_pair` and `label`, each [rows].
        validation: the same.
    """
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.pipeline import make_pipeline

    train_texts, labels = texts(train), np.asarray(train[features.LABEL])
    vectorizer, words = _vectorizer(train_texts)
    rows, held_out = vectorizer.fit_transform(train_texts), vectorizer.transform(texts(validation))
    expected, sample = validation[features.LABEL], _sample(labels)

    many = len(labels) * len(set(labels)) > MOST_LOGITS
    linear, kind, strengths = (_margins, MARGINS, MARGIN_STRENGTHS) if many else (_regression, REGRESSION, STRENGTHS)

    def score(strength: float) -> float:
        answered = linear(strength).fit(rows[sample], labels[sample]).predict(held_out)
        return accuracy_score(expected, answered) + f1_score(expected, answered, average="macro", zero_division=0)

    strength = max(strengths, key=score)
    return Fitted(make_pipeline(vectorizer, linear(strength).fit(rows, labels)), kind, words, strength)


def classifier(train_texts: list[str], labels: int = 0) -> Any:
    """scikit-learn's pipeline from texts like these to labels, not fitted, with the usual strength.

    Args:
        train_texts: texts, [rows].
        labels: how many there are. By default a regression comes back, however many rows there are; its
            `decision_function` gives logits. Beyond MOST_LOGITS rows x labels it gives margins.
    """
    from sklearn.pipeline import make_pipeline

    many = len(train_texts) * labels > MOST_LOGITS
    linear = _margins(USUAL_MARGIN_STRENGTH) if many else _regression(USUAL_STRENGTH)
    return make_pipeline(_vectorizer(train_texts)[0], linear)


def texts(rows: dict[str, list[Any]]) -> list[str]:
    """The texts of rows, the two of a pair in one, [rows]; columns `text` and `text_pair`."""
    return [f"{text} {pair}" for text, pair in zip(rows[features.TEXT], rows[features.TEXT_PAIR], strict=True)]


def _vectorizer(train_texts: list[str]) -> tuple[Any, str]:
    """What suits the texts, not fitted, and its name: n-grams of words, of characters, or of both."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    # N-grams that only one row has teach nothing, and would be three quarters of the columns. In float32 the fit takes
    # a third of the time, for the same answers.
    counted = {"sublinear_tf": True, "min_df": 2, "dtype": np.float32}
    if _unspaced(train_texts):
        return TfidfVectorizer(analyzer="char", ngram_range=(1, 3), **counted), "characters"
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=TOKENS, **counted)
    if sum(map(len, train_texts)) > MOST_CHARACTERS:
        return words, "words"
    # Within words: endings, stems, and words that are spelt wrong.
    return make_union(words, TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), **counted)), "words and characters"


def _unspaced(train_texts: list[str]) -> bool:
    """Whether most letters are of scripts that put no spaces between words."""
    sample = "".join(train_texts[:: max(1, len(train_texts) // 1000)])
    return len(UNSPACED.findall(sample)) > 0.5 * sum(map(str.isalpha, sample))


def _regression(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    # newton-cg found the same optimum in a tenth of the time of scikit-learn's default.
    return LogisticRegression(C=strength, solver="newton-cg", tol=1e-3)


def _margins(strength: float) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(C=strength, tol=1e-2, random_state=SEED)


def _sample(labels: np.ndarray) -> np.ndarray:
    """Rows that the strength is chosen with, int64: CHOOSING_ROWS at most, and the first row of each label."""
    firsts = np.unique(labels, return_index=True)[1]
    return np.union1d(np.random.default_rng(SEED).permutation(len(labels))[:CHOOSING_ROWS], firsts)
