import csv
import json

import factories
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tfx.types import standard_artifacts

from bertline.components import probe_head, spreadsheet, training_record, vectors
from bertline.components.artifacts import (
    PSEUDO_FILE,
    VARIANTS_FILE,
    Embeddings,
    LabelReport,
    ProbeHead,
    PseudoLabels,
    Variants,
)
from bertline.components.evaluation import write_metrics
from bertline.components.label_quality import LabelQuality, describe
from bertline.components.splitting import text_key
from bertline.models.probe import Probe

CLASSES = list(factories.MOODS)
LEAK = "my item arrived broken and it was awful and late and the refund was late as well"


def answers(path, labels, meant):
    """What a model that is sure of what the rows mean answered, as the Evaluator leaves it."""
    index = [CLASSES.index(label) for label in meant]
    probabilities = np.full((len(labels), len(CLASSES)), 0.05, np.float32)
    probabilities[np.arange(len(labels)), index] = 0.9
    path.parent.mkdir(exist_ok=True)
    columns = {"label": labels, "predicted": meant, "probabilities": list(probabilities)}
    pq.write_table(pa.table(columns), path)
    rows = factories.answers(CLASSES, index, index, probabilities)
    write_metrics(str(path.parent), factories.metrics(rows))


def run(folder, splits, meant, classes=CLASSES, **more):
    examples, _ = factories.raw_examples(folder, splits, classes)
    given = {split: [row[-1] for row in rows] for split, rows in splits.items()}
    logits(folder, given["validation"], meant["validation"])
    answers(folder / "evaluation/predictions-test.parquet", given["test"], meant["test"])
    report = judge(folder, examples, **more)
    figures = json.loads((folder / "report/label_quality.json").read_text())
    tables = [spreadsheet.read(str(folder / "report" / name)) for name in ("label_issues.csv", "near_duplicates.csv")]
    return report, figures, *tables


def logits(folder, labels, meant):
    """The same of the validation rows, as the Trainer and the Exporter leave it: logits, and a temperature of 2."""
    index = [CLASSES.index(label) for label in meant]
    probabilities = np.full((len(labels), len(CLASSES)), 0.05)
    probabilities[np.arange(len(labels)), index] = 0.9
    left = training_record.ValidationLogits(labels, 2 * np.log(probabilities))
    training_record.write_logits(str(folder / "run"), left)
    factories.write_export_record(folder / "model", temperature=2.0)


def judge(folder, examples, **more):
    """Runs the stage; returns its report."""
    kinds = {"model_run": standard_artifacts.ModelRun, "model": standard_artifacts.Model,
             "evaluation": standard_artifacts.ModelEvaluation, "report": LabelReport}  # fmt: skip
    made = {name: kind() for name, kind in kinds.items()}
    for name, each in made.items():
        each.uri = str(folder / name.removeprefix("model_"))
    (folder / "report").mkdir()
    LabelQuality.test_call(examples=examples, **made, **more)
    return made["report"]


def clean(rows=300):
    return [(text, label) for text, label, _ in factories.reviews(rows)]


def split(rows):
    splits = {"train": rows[:240], "validation": rows[240:270], "test": rows[270:]}
    return splits, {name: [label for _, label in part] for name, part in splits.items()}


def test_a_clean_data_set_has_nothing_to_report(tmp_path):
    report, figures, issues, pairs = run(tmp_path, *split(clean()))
    assert issues == pairs == []
    assert {name: each["rows"] for name, each in figures["issues"].items()} == {
        "test": 30, "validation": 30, "train": 240
    }  # fmt: skip
    assert report.get_string_custom_property("summary") == (
        "0 probable label errors (0 test, 0 validation, 0 train); 0 test rows have a near-duplicate in train"
    )


def test_further_training_rows_are_compared_with_what_judges(tmp_path):
    splits, meant = split(clean())
    splits["test"][0], splits["validation"][3] = (LEAK, "negative"), (LEAK + "?", "negative")
    meant["test"][0] = meant["validation"][3] = "negative"
    row = {"row_id": "5e" * 16, "source": "more.csv:7", "text": LEAK + " ...", "text_pair": ""}
    pseudo, made = PseudoLabels(), Variants()
    for artifact, name in ((pseudo, "pseudo"), (made, "made")):
        artifact.uri = str(tmp_path / name)
        (tmp_path / name).mkdir()
    spreadsheet.write(
        f"{pseudo.uri}/{PSEUDO_FILE}", [*row, "label", "probability"], [[*row.values(), "positive", 0.97]]
    )
    of_train = {**row, "row_id": text_key(splits["train"][0][0]).row_id, "text": splits["train"][0][0] + " ."}
    spreadsheet.write(f"{made.uri}/{VARIANTS_FILE}", list(of_train), [list(of_train.values())])
    _, figures, _, pairs = run(tmp_path, splits, meant, variants=made, pseudo_labels=pseudo)
    sides = [(pair["first_split"], pair["first_source"], pair["first_label"], pair["second_split"]) for pair in pairs]
    leaked = ("pseudo-labelled", "more.csv:7", "positive")
    assert sides == [
        (*leaked, "test"),
        ("validation", pairs[1]["first_source"], "negative", "test"),
        (*leaked, "validation"),
    ]
    assert figures["test_without_near_duplicates_of_train"]["left_out"] == 1


def test_wrong_labels_and_near_duplicates_put_into_it_are_found_and_nothing_else(tmp_path):
    splits, meant = split(clean())
    wrong = {"test": 4, "validation": 7}
    for name, row in wrong.items():
        text, label = splits[name][row]
        splits[name][row] = (text, CLASSES[CLASSES.index(label) - 1])
    in_train = {row: splits["train"][row][1] for row in range(0, 240, 20)}
    for row, label in in_train.items():
        splits["train"][row] = (splits["train"][row][0], CLASSES[CLASSES.index(label) - 1])
    splits["train"].append((LEAK, "negative"))
    splits["test"][0] = (LEAK.upper() + "!", "positive")  # another label than in train; the model says what it means
    meant["test"][0] = "negative"
    _, figures, issues, pairs = run(tmp_path, splits, meant)

    of_the_model = [(row["split"], row["text"], row["suggested"]) for row in issues if row["by"] == "this model"]
    assert sorted(of_the_model) == sorted(
        [
            ("test", LEAK.upper() + "!", "negative"),
            ("test", splits["test"][4][0], meant["test"][4]),
            ("validation", splits["validation"][7][0], meant["validation"][7]),
        ]
    )
    assert [float(row["score"]) for row in issues] == sorted(float(row["score"]) for row in issues)
    of_train = {splits["train"][row][0]: label for row, label in in_train.items()}
    accused = {row["text"]: row["suggested"] for row in issues if row["split"] == "train"}
    assert len(accused) >= 9
    assert accused.items() <= of_train.items()
    assert figures["issues"]["test"]["found"] == 2

    assert [(row["first_split"], row["second_split"], row["similarity"]) for row in pairs] == [("train", "test", "1.0")]
    assert (pairs[0]["first_text"], pairs[0]["second_text"]) == (LEAK, LEAK.upper() + "!")
    assert (pairs[0]["first_label"], pairs[0]["second_label"]) == ("negative", "positive")
    assert figures["near_duplicates"]["by_splits"] == {"train, test": 1}
    assert figures["near_duplicates"]["contradicting"] == 1
    without = figures["test_without_near_duplicates_of_train"]
    assert (without["left_out"], without["rows"], without["accuracy"]) == (1, 29, pytest.approx(28 / 29))
    assert describe(figures).endswith("1 test rows have a near-duplicate in train, accuracy without them 0.966")


def test_texts_that_a_spreadsheet_would_run_are_marked_in_the_files(tmp_path):
    splits, meant = split(clean())
    formula = "=HYPERLINK(broken late awful refund)"
    splits["test"][0] = (formula, "positive")
    meant["test"][0] = "negative"
    _, _, issues, _ = run(tmp_path, splits, meant)
    assert [row["text"] for row in issues] == [formula]
    with open(tmp_path / "report/label_issues.csv", encoding="utf-8", newline="") as file:
        assert next(csv.DictReader(file))["text"] == "'" + formula


def test_pairs_of_texts_are_judged_as_pairs(tmp_path):
    splits = {
        name: [("about the item", text, label) for text, label in rows] for name, rows in split(clean())[0].items()
    }
    splits["test"][0] = splits["train"][0]
    meant = {name: [row[-1] for row in rows] for name, rows in splits.items()}
    _, figures, issues, pairs = run(tmp_path, splits, meant)
    assert issues == []
    assert [(row["second_text"], row["second_text_pair"]) for row in pairs] == [splits["train"][0][:2]]
    assert figures["near_duplicates"]["by_splits"] == {"train, test": 1}


def test_answers_in_another_order_are_not_taken_for_these_rows(tmp_path):
    splits, meant = split(clean())
    examples, _ = factories.raw_examples(tmp_path, splits, CLASSES)
    reversed_labels = {name: [label for _, label in part][::-1] for name, part in splits.items()}
    logits(tmp_path, reversed_labels["validation"], meant["validation"])
    answers(tmp_path / "evaluation/predictions-test.parquet", reversed_labels["test"], meant["test"])
    with pytest.raises(ValueError, match="not in the order of ingestion's rows"):
        judge(tmp_path, examples)


def embedded(folder, labels, meant):
    """Vectors of the training rows that tell what the rows mean, and a probe's head, as their stages leave them."""
    index = np.array([CLASSES.index(label) for label in meant])
    tell = np.eye(len(CLASSES))[index] + np.random.default_rng(3).normal(0, 0.1, (len(index), len(CLASSES)))
    ids = np.array([CLASSES.index(label) for label in labels], np.int32)
    vectors.write(str(folder / "vectors"), "train", vectors.Vectors(tell.astype(np.float32), ids, np.arange(len(ids))))
    empty = np.zeros((len(CLASSES), len(CLASSES)), np.float32)
    probe_head.write(str(folder / "head"), probe_head.Probed(Probe(empty, empty[0], 0.03, 1.0, 1.0, 0.3), empty))
    made = {"embeddings": Embeddings(), "head": ProbeHead()}
    made["embeddings"].uri, made["head"].uri = str(folder / "vectors"), str(folder / "head")
    return made


def test_the_embedders_vectors_judge_the_training_rows(tmp_path):
    splits, meant = split(clean())
    text, label = splits["train"][7]
    splits["train"][7] = (text, CLASSES[CLASSES.index(label) - 1])
    examples, _ = factories.raw_examples(tmp_path, splits, CLASSES)
    given = {name: [row[-1] for row in rows] for name, rows in splits.items()}
    logits(tmp_path, given["validation"], meant["validation"])
    answers(tmp_path / "evaluation/predictions-test.parquet", given["test"], meant["test"])
    with pytest.raises(ValueError, match="not in the order of ingestion's rows"):
        judge(tmp_path, examples, **embedded(tmp_path, given["train"][::-1], meant["train"]))
    (tmp_path / "report").rmdir()
    judge(tmp_path, examples, **embedded(tmp_path, given["train"], meant["train"]))
    (issue,) = spreadsheet.read(str(tmp_path / "report/label_issues.csv"))
    assert (issue["text"], issue["suggested"], issue["by"]) == (text, label, "the probe")
