"""A strong bag of n-grams: TF-IDF with logistic regression, features and C chosen on the validation rows."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

from rows import add_file_arguments, read_rows, report, score, write_predictions
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion

# Inverse strength of the penalty, half a decade apart: the best was 10 on tweets and 3 on news, well inside.
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


def vectorizers() -> Iterator[tuple[str, TfidfVectorizer | FeatureUnion]]:
    """Yields the feature sets that compete on the validation rows."""
    # Pieces of one character count too: in a tweet they are emoticons and marks.
    words = {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b|[^\w\s]", "sublinear_tf": True}
    characters = {"analyzer": "char_wb", "ngram_range": (3, 5), "min_df": 2, "sublinear_tf": True}
    # Where a script puts no spaces between words, a sentence is one of the words above.
    unspaced = {"analyzer": "char", "ngram_range": (1, 3), "min_df": 2, "sublinear_tf": True}
    yield "words", TfidfVectorizer(**words)
    yield (
        "words and characters",
        FeatureUnion([("words", TfidfVectorizer(**words)), ("characters", TfidfVectorizer(**characters))]),
    )
    yield "characters", TfidfVectorizer(**unspaced)


def main() -> None:
    """Fits every candidate on the training rows, keeps the best on validation and scores it on test."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_file_arguments(parser)
    arguments = parser.parse_args()
    started, processor = time.perf_counter(), time.process_time()
    splits = read_rows(arguments.rows)
    texts = {split: [f"{row['text']} {row.get('text_pair', '')}" for row in rows] for split, rows in splits.items()}
    labels = {split: [row["label"] for row in rows] for split, rows in splits.items()}

    best: tuple[float, dict[str, object], list[str]] | None = None
    for features, vectorizer in vectorizers():
        train = vectorizer.fit_transform(texts["train"])
        validation, test = vectorizer.transform(texts["validation"]), vectorizer.transform(texts["test"])
        # Each strength starts from zero: from the last one's solution the solver stops at once, within its tolerance.
        classifier = LogisticRegression(max_iter=1000)
        for strength in STRENGTHS:
            classifier.set_params(C=strength).fit(train, labels["train"])
            accuracy = score(labels["validation"], classifier.predict(validation))["accuracy"]
            if best is None or accuracy > best[0]:
                best = accuracy, {"features": features, "C": strength}, list(classifier.predict(test))
    validation_accuracy, chosen, predicted = best
    write_predictions(arguments.predictions, splits["test"], [predicted])
    report(
        {"runs": [score(labels["test"], predicted)], "chosen": chosen, "validation_accuracy": validation_accuracy}
        | {"seconds": time.perf_counter() - started, "processor_seconds": time.process_time() - processor}
    )


if __name__ == "__main__":
    main()
