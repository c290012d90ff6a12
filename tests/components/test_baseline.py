import factories
import pyarrow.parquet as pq

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
    assert answers.get_string_custom_property("summary").startswith("TF-IDF with logistic regression: accuracy 1.000")


def test_the_second_text_of_a_pair_counts():
    pairs = [("the item", word, mood) for mood, words in factories.MOODS.items() for word in words for _ in range(2)]
    columns = dict(zip(("text", "text_pair", "label"), map(list, zip(*pairs, strict=True)), strict=True))
    assert baseline.fit_and_answer(columns, columns) == columns["label"]
