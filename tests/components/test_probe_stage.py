import csv
import shutil
from pathlib import Path

import keras_hub
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from factories import MOODS, raw_examples, reviews, tiny_model_options, transformed, write_csv
from tfx.types import standard_artifacts

from bertline.components import (
    embedder,
    probe,
    probe_head,
    pseudo_labeller,
    splitting,
    spreadsheet,
    trainer,
    training_record,
    unlabelled,
    vectors,
)
from bertline.components.artifacts import PSEUDO_FILE, BaselineAnswers, Embeddings, ProbeHead, PseudoLabels, Weights
from bertline.components.embedder import Embedder
from bertline.components.labelling import pool
from bertline.components.labelling.pool import Candidate, Counts, Place
from bertline.components.options import DataOptions
from bertline.components.probe import Probe
from bertline.components.pseudo_labeller import PseudoLabeller
from bertline.components.splitting import text_key
from bertline.components.trainer import Trainer
from bertline.errors import UserError
from bertline.models import features
from bertline.models.bert import backbone, classifier
from bertline.models.bert.encoder import Batch, Encoder, pack
from bertline.models.dataset import read_rows
from bertline.models.recipe import ModelOptions, TrainOptions

LABELS = list(MOODS)


def artifact(kind, folder):
    made = kind()
    made.uri = str(folder)
    folder.mkdir(parents=True)
    return made


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """The folder, the model options, and what ingestion and Transform leave of 360 reviews."""
    folder = tmp_path_factory.mktemp("probe")
    # The mean of random word vectors tells which words a text has, so a probe can learn the moods.
    options = pretrained(folder)
    rows = [(text, label) for text, label, _ in reviews(360)]
    splits = {"train": rows[:260], "validation": rows[260:300], "test": rows[300:]}
    examples, schema = raw_examples(folder, splits, LABELS)
    return folder, options, examples, *transformed(folder, options, examples, schema)


def pretrained(folder):
    """A tiny BERT as a folder of keras-hub's: its weights are the same whoever loads it."""
    drawn = tiny_model_options(folder)
    words = (folder / "vocab.txt").read_text().split()
    backbone.load(drawn).save_to_preset(folder / "preset")
    keras_hub.models.BertTokenizer(words, lowercase=True).save_to_preset(folder / "preset")
    return ModelOptions(backbone=str(folder / "preset"), max_length=16, pooling="mean")


def embed(line, folder, train_rows=0):
    _, options, _, graph, tokens = line
    embeddings = artifact(Embeddings, folder)
    Embedder.test_call(
        transform_graph=graph,
        transformed_examples=tokens,
        embeddings=embeddings,
        model_options=options.model_dump_json(),
        precision="float32",
        train_rows=train_rows,
    )
    return embeddings


@pytest.fixture(scope="module")
def probed(line):
    """The Probe's answers and head."""
    folder, options, examples, graph, _ = line
    answers, head = artifact(BaselineAnswers, folder / "answers"), artifact(ProbeHead, folder / "head")
    Probe.test_call(
        embeddings=embed(line, folder / "embeddings"),
        examples=examples,
        transform_graph=graph,
        answers=answers,
        head=head,
        model_options=options.model_dump_json(),
        class_weights="none",
    )
    return answers, head


def test_it_answers_the_test_rows(line, probed):
    answers, head = probed
    predicted = pq.read_table(f"{answers.uri}/answers-test.parquet")["predicted"].to_pylist()
    right = np.mean([one == label for one, (_, label, _) in zip(predicted, reviews(360)[300:], strict=True)])
    assert right > 0.8
    summary = head.get_string_custom_property("summary")
    assert summary.startswith(f"frozen encoder with logistic regression: accuracy {right:.3f}, C ")


def test_a_sample_of_the_training_rows(line, probed, tmp_path):
    folder = line[0]
    embeddings = embed(line, tmp_path / "embeddings", train_rows=50)
    some, whole = (vectors.read(uri, "train") for uri in (embeddings.uri, str(folder / "embeddings")))
    assert len(some.places) == 50 < len(whole.places) == 260
    np.testing.assert_allclose(some.vectors, whole.vectors[some.places], atol=1e-5)
    np.testing.assert_array_equal(some.labels, whole.labels[some.places])
    assert len(vectors.read(embeddings.uri, "test").labels) == 60
    assert list(embedder.sample(5, 9)) == [0, 1, 2, 3, 4]


def test_answers_in_another_order_are_refused(line, probed, tmp_path):
    folder, options, examples, graph, _ = line
    shuffled = artifact(Embeddings, tmp_path / "embeddings")
    for split in ("train", "validation", "test"):
        rows = vectors.read(str(folder / "embeddings"), split)
        vectors.write(shuffled.uri, split, vectors.Vectors(rows.vectors[::-1], rows.labels[::-1], rows.places))
    with pytest.raises(ValueError, match="not in the order of ingestion's rows"):
        Probe.test_call(
            embeddings=shuffled,
            examples=examples,
            transform_graph=graph,
            answers=artifact(BaselineAnswers, tmp_path / "answers"),
            head=artifact(ProbeHead, tmp_path / "head"),
            model_options=options.model_dump_json(),
            class_weights="balanced",
        )


# === The Trainer ===


def train(line, folder, recipe, **inputs):
    _, options, _, graph, tokens = line
    weights, run = artifact(Weights, folder / "weights"), artifact(standard_artifacts.ModelRun, folder / "run")
    Trainer.test_call(
        transform_graph=graph,
        transformed_examples=tokens,
        weights=weights,
        model_run=run,
        model_options=options.model_dump_json(),
        train_options=recipe.model_dump_json(),
        checkpoint_dir=str(folder / "checkpoints"),
        **inputs,
    )
    return weights, run


def logits(weights, rows):
    model = classifier.load(weights)
    batch = Batch(rows.token_ids.to_tensor(), None, tf.cast(rows.token_ids.row_lengths(), tf.int32))
    return Encoder.of(model).logits(pack(model, tf.float32), batch)


def test_the_method_probe_serves_the_probe(line, probed, tmp_path):
    recipe = TrainOptions(method="probe", precision="float32")
    weights, run = train(line, tmp_path, recipe, probe=probed[1])
    validation, test = (
        read_rows(line[0] / "transformed" / f"Split-{split}", pair=False) for split in ("validation", "test")
    )
    left = training_record.read_logits(run.uri)
    np.testing.assert_allclose(left.logits, logits(tmp_path / "weights", validation), atol=1e-3)
    answered = [LABELS[label] for label in logits(tmp_path / "weights", test).numpy().argmax(-1)]
    assert answered == pq.read_table(f"{probed[0].uri}/answers-test.parquet")["predicted"].to_pylist()
    history = training_record.read_history(run.uri)
    assert history["best_epoch"] == len(history["epochs"]) == 1
    head = probe_head.read(probed[1].uri).head
    assert history["epochs"][0]["validation_loss"] == head.validation_loss
    assert weights.get_string_custom_property("summary") == (
        f"the probe's head on the frozen encoder, validation loss {head.validation_loss:.2f}, "
        f"accuracy {head.validation_accuracy:.3f}"
    )
    with pytest.raises(UserError, match="compiled without a probe"):
        train(line, tmp_path / "none", recipe)


def test_fine_tuning_starts_from_the_probes_head(line, probed, tmp_path):
    recipe = TrainOptions(epochs=1, learning_rate=1e-7, precision="float32")
    weights, run = train(line, tmp_path / "probe", recipe, probe=probed[1])
    _, random = train(line, tmp_path / "random", recipe)
    started, drawn = (training_record.read_history(each.uri)["epochs"][0] for each in (run, random))
    head = probe_head.read(probed[1].uri).head
    assert started["validation_loss"] == pytest.approx(head.validation_loss, abs=1e-3)
    assert drawn["validation_loss"] > head.validation_loss + 0.2
    assert weights.get_string_custom_property("summary").startswith("from the probe: best epoch 1 of 1")


def test_the_head_reads_vectors_of_length_1_at_its_own_scale():
    rows = vectors.Vectors(np.full((1, 4), 0.5, np.float32), np.array([1]), np.array([0]))
    pooling = probe.Pooling("mean", normalised=True)
    np.testing.assert_allclose(probe.labelled(rows, pooling).features, 1.0)


def test_labels_of_a_row_are_given_from_their_tuned_thresholds():
    logits = np.linspace(-4, 4, 40)[:, None].astype(np.float32)
    given = probe.answers_of(logits, logits, (logits > -2).astype(np.int32))
    np.testing.assert_array_equal(given, logits > -2)
    np.testing.assert_array_equal(probe.answers_of(np.eye(3), np.eye(3), np.arange(3)), [0, 1, 2])


# === Pseudo-labels ===


ALL_TRAIN = {"train": 1 - 2e-6, "validation": 1e-6, "test": 1e-6}  # no hash puts a row into a split that judges


def pseudo(line, probed, folder, texts, threshold=0.9, labels="sure", **data):
    """What the PseudoLabeller leaves of a file of texts."""
    _, options, examples, graph, _ = line
    (folder / "data").mkdir(parents=True)
    with open(folder / "data/new.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    rows = artifact(PseudoLabels, folder / "pseudo")
    PseudoLabeller.test_call(
        examples=examples,
        transform_graph=graph,
        head=probed[1],
        rows=rows,
        source="new.csv",
        labels=labels,
        threshold=threshold,
        data=DataOptions(**{"source": "x", "split": ALL_TRAIN, **data}).model_dump_json(),
        model_options=options.model_dump_json(),
        precision="float32",
        base_folder=str(folder / "data"),
    )
    return rows


def test_sure_rows_become_training_rows_with_their_source(line, probed, tmp_path):
    _, options, _, graph, tokens = line
    new = [text for text, _, _ in reviews(80, seed=5)]
    known = {text for text, _, _ in reviews(360)}
    fresh = [text for text in new if text not in known]
    train, validation = reviews(1)[0][0], reviews(261)[260][0]
    rows = pseudo(line, probed, tmp_path, [*fresh, fresh[0], train, validation])
    kept = spreadsheet.read(f"{rows.uri}/{PSEUDO_FILE}")
    truth = {text: label for text, label, _ in reviews(80, seed=5)}
    assert 0 < len(kept) <= len(fresh)
    right = sum(truth[row["text"]] == row["label"] for row in kept) / len(kept)
    assert right > 0.9 and all(float(row["probability"]) >= 0.9 for row in kept)
    for row in kept:
        assert row["source"] == f"new.csv:{fresh.index(row['text']) + 1}"
    read = read_rows(Path(rows.uri) / "Split-train", pair=False)
    assert [LABELS[label] for label in read.labels] == [row["label"] for row in kept]
    task = trainer.read_task(graph.uri, tokens.uri, options, more=[rows.uri])
    assert len(task.train) == 260 + len(kept) and len(task.validation) == 40
    summary = rows.get_string_custom_property("summary")
    assert f"{len(kept):,} of {len(fresh) + 3:,} rows with 0.9 or more" in summary
    assert "1 in train" in summary and "1 in validation" in summary and "1 repeated" in summary


def test_labels_spread_over_all_rows(line, probed, tmp_path, monkeypatch):
    known = {text for text, _, _ in reviews(360)}
    truth = {text: label for text, label, _ in reviews(80, seed=5) if text not in known}
    rows = pseudo(line, probed, tmp_path / "all", [*truth, reviews(1)[0][0]], labels="spread")
    kept = spreadsheet.read(f"{rows.uri}/{PSEUDO_FILE}")
    assert [row["text"] for row in kept] == list(truth)
    assert sum(truth[row["text"]] == row["label"] for row in kept) / len(kept) > 0.85
    summary = rows.get_string_custom_property("summary")
    assert f"{len(truth):,} of {len(truth) + 1:,} rows labelled by spreading: " in summary and "1 in train" in summary
    with pytest.raises(UserError, match=r"new\.csv has no new row without a label"):
        pseudo(line, probed, tmp_path / "known", [reviews(1)[0][0]], labels="spread")
    monkeypatch.setattr(pseudo_labeller, "MOST_SPREAD", 261)  # 260 are training rows
    with pytest.raises(UserError, match="takes 261 rows at most"):
        pseudo(line, probed, tmp_path / "many", list(truth)[:2], labels="spread")


def test_rows_of_the_test_split_and_a_threshold_out_of_reach_are_refused(line, probed, tmp_path):
    tested = reviews(360)[359][0]
    with pytest.raises(UserError, match=r"1 rows of new\.csv are rows of the test split"):
        pseudo(line, probed, tmp_path / "leak", ["great fun", f"  {tested} "], test_source="test.csv")
    with pytest.raises(UserError, match=r"no row of new\.csv reaches 0\.9999"):
        pseudo(line, probed, tmp_path / "high", ["plot", "of"], threshold=0.99999)


def test_rows_that_hashes_put_into_test_are_left_out_and_counted(line, probed, tmp_path):
    """Those that came back from labelling, and those that would judge once they do."""
    tested = [text for text, _, _ in reviews(360)[300:303]]
    known = {text for text, _, _ in reviews(360)}
    new = {text for text, _, _ in reviews(80, seed=5)} - known
    options = DataOptions(source="x")
    falls = {text: splitting.split_by_hash(text, None, options) for text in new}
    usual = DataOptions.model_fields["split"].default
    rows = pseudo(line, probed, tmp_path, [*tested, *falls], labels="spread", split=usual.model_dump())
    kept = {row["text"] for row in spreadsheet.read(f"{rows.uri}/{PSEUDO_FILE}")}
    assert kept == {text for text, split in falls.items() if split == "train"} != set(falls)
    summary = rows.get_string_custom_property("summary")
    assert "3 in test" in summary and f"{list(falls.values()).count('test')} that would be test rows" in summary


def test_files_of_the_data_and_of_its_test_rows_are_refused_before_anything_runs(tmp_path):
    rows = [(text, label) for text, label, _ in reviews(20)]
    write_csv(tmp_path / "data.csv", rows, ("text", "label"))
    write_csv(tmp_path / "test.csv", [("held out", "good"), ("and this", "bad")], ("text", "label"))
    write_csv(tmp_path / "more.csv", [("held  out",), ("new",)], ("text",))
    shutil.copy(tmp_path / "data.csv", tmp_path / "copy.csv")
    options, folder = DataOptions(source="data.csv"), str(tmp_path)
    with pytest.raises(UserError, match=r"^compress.unlabelled: copy.csv is data.csv of the data, byte for byte"):
        unlabelled.check("compress.unlabelled", "copy.csv", options, folder)
    assert [each.file.name for each in unlabelled.check("k", "more.csv", options, folder)] == ["more.csv"]
    named = DataOptions(source="data.csv", test_source="test.csv")
    with pytest.raises(UserError, match=r"^train.unlabelled: 1 rows of more.csv are rows of the test split"):
        unlabelled.check("train.unlabelled", "more.csv", named, folder)


def test_files_without_a_row_of_use_are_named(line, probed, tmp_path):
    with pytest.raises(UserError, match=r"new.csv has no new row without a label: 1 rows; left out: 1 in train"):
        pseudo(line, probed, tmp_path / "known", [reviews(1)[0][0]])
    (tmp_path / "other.csv").write_text("\ufeffwords\nhello\n", encoding="utf-8")
    (tmp_path / "empty.csv").touch()
    options = DataOptions(source="x")
    with pytest.raises(
        UserError, match=r"train.unlabelled: other.csv: no column 'text'.*rename the column. Found: 'words'"
    ):
        pool.look("train.unlabelled", "other.csv", options, str(tmp_path))
    with pytest.raises(UserError, match=r"train.unlabelled: empty.csv: the file is empty"):
        pool.look("train.unlabelled", "empty.csv", options, str(tmp_path))
    with pytest.raises(UserError, match=r"train.unlabelled: .*none.csv"):
        pool.look("train.unlabelled", "none.csv", options, str(tmp_path))


def test_rows_of_a_group_that_judges_are_left_out():
    def row(text, pair):
        return Candidate(Place(0, 1), text_key(text, pair).row_id, text, pair)

    query, answer = features.TEXT, features.TEXT_PAIR
    tables = {
        "train": {query: ["late"], answer: ["sorry"]},
        "validation": {query: ["gone"], answer: ["ok"]},
        "test": {query: ["lost"], answer: ["ok"]},
    }
    rows = [row("late", "refund"), row("lost", "refund"), row("gone", "refund"), row("lost", "ok"), row("new", "ok")]
    known = unlabelled.keys_of(tables)
    left = {}
    for group, expected in (
        (None, ["late", "lost", "gone", "new"]),
        ("text", ["late", "new"]),
        ("text_pair", rows[:3]),
    ):
        counts = Counts()
        options = DataOptions(source="x", text_pair="pair", split={**ALL_TRAIN, "group": group})
        judging = unlabelled.groups_of(tables, group)
        kept = list(unlabelled.new_rows(iter(rows), known, counts, options, judging))
        assert kept == expected or [each.text for each in kept] == expected
        left[group] = dict(counts.left_out)
    assert left["text"] == {"in test": 1, "with a text of test": 1, "with a text of validation": 1}
    assert left["text_pair"] == {"in test": 1, "with a text_pair of test": 1}
