import random
import re

import factories
import pyarrow.parquet as pq
from sklearn.metrics import accuracy_score

from bertline.components import baseline
from bertline.components.artifacts import BaselineAnswers


def test_the_baseline_learns_which_words_go_with_a_label(tmp_path):
    rows = [(text, label) for text, label, _ in factories.reviews(120)]
    splits = {"train": rows[:90], "validation": rows[90:100], "test": rows[100:]}
    examples, _ = factories.raw_examples(tmp_path, splits, list(factories.MOODS))
    answers = BaselineAnswers()
    answers.uri = str(tmp_path)
    baseline.Baseline.test_call(examples=examples, answers=answers)
    assert pq.read_table(tmp_path / "answers-test.parquet")["predicted"].to_pylist() == [
        label for _, label in rows[100:]
    ]
    said = answers.get_string_custom_property("summary")
    assert re.fullmatch(
        r"TF-IDF with logistic regression: accuracy 1\.000, in \d+\.\d s \(words and characters, C \d+\)", said
    )


def columns(rows):
    texts, labels = zip(*rows, strict=True)
    return {"text": list(texts), "text_pair": [""] * len(texts), "label": list(labels)}


def test_the_second_text_of_a_pair_counts():
    pairs = [("the item", word, mood) for mood, words in factories.MOODS.items() for word in words for _ in range(2)]
    table = dict(zip(("text", "text_pair", "label"), map(list, zip(*pairs, strict=True)), strict=True))
    fitted = baseline.fit(table, table)
    assert list(fitted.classifier.predict(baseline.texts(table))) == table["label"]


def test_characters_tell_where_words_are_not_spaced():
    """Each text is one run of characters, so that no word stands in two texts."""
    generator = random.Random(17)
    signs = {"pos": ["\u771f\u597d", "\u559c\u6b22"], "neg": ["\u5931\u671b", "\u592a\u5dee"]}

    def text(label):
        filler = [chr(generator.randrange(0x4E00, 0x5E00)) for _ in range(12)]
        filler.insert(generator.randrange(12), generator.choice(signs[label]))
        return "".join(filler)

    rows = [(text(label), label) for _ in range(150) for label in signs]
    fitted = baseline.fit(columns(rows[:200]), columns(rows[200:250]))
    assert fitted.words == "characters"
    test = columns(rows[250:])
    assert accuracy_score(test["label"], fitted.classifier.predict(baseline.texts(test))) > 0.95


def test_the_validation_rows_choose_the_strength():
    """Of a word that goes with its label two times in three, a weak penalty learns the exceptions by heart."""
    generator = random.Random(17)

    def rows(count, noise):
        for number in range(count):
            label = "ab"[number % 2]
            told = label if generator.random() > noise else "ab"[1 - number % 2]
            yield " ".join([f"sign{told}", *(f"word{generator.randrange(300)}" for _ in range(8))]), label

    train = columns(rows(400, 0.33))
    assert baseline.fit(train, columns(rows(200, 0.33))).strength == 1
    assert baseline.fit(train, train).strength == 30


def test_a_label_with_one_row_is_learnt_from_among_many_rows(monkeypatch):
    monkeypatch.setattr(baseline, "CHOOSING_ROWS", 10)
    rows = [*((f"common words {number}", "usual") for number in range(200)), ("something rare", "rare")] * 2
    fitted = baseline.fit(columns(rows), columns(rows))
    assert list(fitted.classifier.classes_) == ["rare", "usual"]
    assert list(fitted.classifier.predict(["something rare "])) == ["rare"]


def test_many_rows_of_many_labels_are_fitted_in_seconds():
    """4,000 rows x 60 labels: a regression over all of them took minutes."""
    generator = random.Random(17)
    rows = []
    for number in range(4000):
        sign = f"sign{number % 60}" if generator.random() < 0.9 else ""
        rows.append((" ".join([sign, *(f"word{generator.randrange(900)}" for _ in range(8))]), f"label{number % 60}"))
    fitted = baseline.fit(columns(rows[:3600]), columns(rows[3600:3800]))
    assert fitted.kind == "support vector machines"
    test = columns(rows[3800:])
    assert accuracy_score(test["label"], fitted.classifier.predict(baseline.texts(test))) > 0.8
