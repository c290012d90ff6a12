"""Baseline: TF-IDF with logistic regression on the same rows. A BERT has to beat it to be worth its cost."""

import re
import time
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts

from bertline.components import label_set_baseline
from bertline.components.artifacts import BASELINE_FILE, BaselineAnswers
from bertline.components.examples import read_examples
from bertline.components.label_set_baseline import Penalised
from bertline.models import features

# Inverse strengths of the penalty. The best was 3 to 30 on tweets, news and Chinese reviews; beyond them all lost.
STRENGTHS = (1.0, 3.0, 10.0, 30.0)
USUAL_STRENGTH = 10.0  # where no validation rows choose one
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
    train, validation, test = (
        read_examples(artifact_utils.get_split_uri([examples], split), [], multi_label=bool(multi_label))
        for split in features.SPLITS
    )
    began = time.monotonic()
    if multi_label:
        labelled = ((texts(rows), rows[features.LABEL]) for rows in (train, validation))
        vectorizer, words = _vectorizer(texts(train))
        penalised = Penalised(_regression, STRENGTHS)
        predicted, strength = label_set_baseline.fit_and_answer(vectorizer, penalised, *labelled, texts(test))
        chosen = f" ({words}, C {strength:g})"
    else:
        fitted = fit(train, validation)
        predicted = [str(label) for label in fitted.classifier.predict(texts(test))]
        chosen = f" ({fitted.words}, C {fitted.strength:g})"
    seconds = time.monotonic() - began
    columns = {features.ROW_ID: test[features.ROW_ID], "predicted": predicted}
    pq.write_table(pa.table(columns), f"{answers.uri}/{BASELINE_FILE}")
    pairs = zip(predicted, test[features.LABEL], strict=True)
    accuracy = sum(answered == label for answered, label in pairs) / len(predicted)
    figure = "subset accuracy" if multi_label else "accuracy"
    answers.set_string_custom_property(
        "summary", f"TF-IDF with logistic regression: {figure} {accuracy:.3f}, in {seconds:.1f} s{chosen}"
    )


class Fitted(NamedTuple):
    """scikit-learn's pipeline from texts to labels, what it reads of a text, and the strength that was chosen."""

    classifier: Any
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

    def score(strength: float) -> float:
        answered = _regression(strength).fit(rows[sample], labels[sample]).predict(held_out)
        return accuracy_score(expected, answered) + f1_score(expected, answered, average="macro", zero_division=0)

    strength = max(STRENGTHS, key=score)
    return Fitted(make_pipeline(vectorizer, _regression(strength).fit(rows, labels)), words, strength)


def classifier(train_texts: list[str]) -> Any:
    """scikit-learn's pipeline from texts like these to labels, not fitted, with the usual strength."""
    from sklearn.pipeline import make_pipeline

    return make_pipeline(_vectorizer(train_texts)[0], _regression(USUAL_STRENGTH))


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


def _sample(labels: np.ndarray) -> np.ndarray:
    """Rows that the strength is chosen with, int64: CHOOSING_ROWS at most, and the first row of each label."""
    firsts = np.unique(labels, return_index=True)[1]
    return np.union1d(np.random.default_rng(SEED).permutation(len(labels))[:CHOOSING_ROWS], firsts)
