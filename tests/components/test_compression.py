"""From the Trainer's weights to the model that goes on: Compressor, StudentExporter and StudentGate in turn."""

import dataclasses
import filecmp
import functools
import json
import re
import shutil
import string
from pathlib import Path

import factories
import numpy as np
import pytest
import tensorflow as tf
from factories import MOODS, raw_examples, tiny_model_options, trained_weights, transformed
from tfx.types import standard_artifacts

from bertline.components import (
    artifacts,
    compression_report,
    compressor,
    exporter,
    other_family,
    student_exporter,
    student_gate,
    trainer,
    training_record,
)
from bertline.components import explainer as explain
from bertline.components.labelling.pool import Candidate, Place
from bertline.components.options import CompressOptions, DataOptions, EvaluateOptions
from bertline.components.training_record import ValidationLogits
from bertline.errors import UserError
from bertline.models import families
from bertline.models.bert import classifier
from bertline.models.dataset import NO_LABEL, Rows, joined
from bertline.models.family import Batch
from bertline.models.history import Epoch, History
from bertline.models.recipe import ExportOptions, ModelOptions, TrainOptions
from bertline.pipeline import config as configs
from bertline.pipeline import stage_files
from bertline.pipeline.stages import Node
from bertline.serving import ops as serving_ops
from bertline.serving import storage

LABELS = list(MOODS)
KEYWORDS = {"awful": 0, "ordered": 1, "great": 2}
SEEN = ["it was great", "it was awful", "i ordered it"]
NEW = "great thanks 2024 awful perfect great"  # "thanks", "perfect" and the number are in no row that was trained on


def artifact(kind, folder):
    made = kind()
    made.uri = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return made


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """The teacher: what ingestion, Transform, the Trainer and the Exporter leave of a model whose answers are known."""
    folder = tmp_path_factory.mktemp("compression")
    options = tiny_model_options(folder, dropout=0.0)
    options = options.model_copy(update={"backbone": options.backbone.model_copy(update={"layers": 2})})
    with open(folder / "vocab.txt", "a", encoding="utf-8") as file:
        letters = string.ascii_lowercase
        syllables = [first + second for first in letters for second in letters if first + second not in ("it", "my")]
        file.write("".join(f"{piece}\n##{piece}\n" for piece in [*letters, *syllables]))
    rows = [(text, label) for text, label in zip(SEEN, ("positive", "negative", "neutral"), strict=True)]
    splits = {"train": rows, "validation": rows, "test": [*rows, (NEW, "positive")] * 20}
    examples, schema = raw_examples(folder, splits, LABELS)
    graph, tokens = transformed(folder, options, examples, schema)
    weights = artifact(artifacts.Weights, folder / "weights")
    run = artifact(standard_artifacts.ModelRun, folder / "model_run")
    trained_weights(folder / "weights", options, KEYWORDS)
    training_record.write_history(run.uri, [History([Epoch(1, 0.1, 0.1, 1.0)], 1, precision="float32")])
    training_record.write_logits(run.uri, ValidationLogits(["positive", "negative", "neutral"], np.eye(3)[[2, 0, 1]]))
    model = artifact(standard_artifacts.Model, folder / "model")
    common = {"transform_graph": graph, "model_options": options.model_dump_json()}
    export = {**common, "options": ExportOptions().model_dump_json()}
    exporter.Exporter.test_call(weights=weights, model_run=run, model=model, **export)
    return {
        "common": common,
        "export": export,
        "examples": examples,
        "tokens": tokens,
        "weights": weights,
        "run": run,
        "model": model,
    }


def compress(line, folder, weights, run, options, batch_size=32, **more):
    recipe = TrainOptions(batch_size=batch_size, precision="float32", tensorboard=False, patience=100)
    compressor.Compressor.test_call(
        teacher=line["weights"],
        teacher_run=line["run"],
        transformed_examples=line["tokens"],
        weights=weights,
        model_run=run,
        train_options=recipe.model_dump_json(),
        options=options.model_dump_json(),
        checkpoint_dir=str(folder / "checkpoints"),
        examples=line["examples"],
        **line["common"],
        **more,
    )


def compressed(line, folder, options):
    """The student: its Weights, ModelRun and Model."""
    weights = artifact(artifacts.Weights, folder / "weights")
    run = artifact(standard_artifacts.ModelRun, folder / "run")
    model = artifact(standard_artifacts.Model, folder / "model")
    compress(line, folder, weights, run, options)
    student_exporter.StudentExporter.test_call(weights=weights, model_run=run, model=model, **line["export"])
    return weights, run, model


def judged(line, folder, student, options):
    """What the gate passes on, and its report."""
    outputs = {
        "model": artifact(standard_artifacts.Model, folder / "chosen"),
        "weights": artifact(artifacts.Weights, folder / "chosen-weights"),
        "model_run": artifact(standard_artifacts.ModelRun, folder / "chosen-run"),
        "report": artifact(artifacts.CompressionReport, folder / "report"),
    }
    student_gate.StudentGate.test_call(
        examples=line["examples"],
        teacher=line["model"],
        teacher_weights=line["weights"],
        teacher_run=line["run"],
        **dict(zip(("student_weights", "student_run", "student"), student, strict=True)),
        **outputs,
        options=options.model_dump_json(),
        evaluate=EvaluateOptions().model_dump_json(),
        keep="[]",
    )
    return outputs, compression_report.read(outputs["report"].uri)


@pytest.fixture(scope="module")
def trimmed(line, tmp_path_factory):
    return compressed(line, tmp_path_factory.mktemp("trimmed"), CompressOptions(vocabulary="used"))


def answers(model, *texts):
    return loaded(model.uri).signatures["monitored"](text=tf.constant(texts))


@functools.cache
def loaded(folder):
    return tf.saved_model.load(f"{folder}/Format-Serving")


def test_a_trimmed_student_gives_seen_texts_the_same_answers_and_spells_new_words(line, trimmed):
    weights, run, model = trimmed
    words = (tf.io.gfile.GFile(f"{weights.uri}/vocabulary/vocab.txt").read()).split()
    assert set(words) >= {"[PAD]", "[UNK]", "[MASK]", "it", "was", "great", "awful", "ordered", "2", "##4"}
    assert not {"the", "my", "love", "refund", "thanks"} & set(words)
    whole, part = (answers(each, *SEEN) for each in (line["model"], model))
    assert np.array_equal(whole["probabilities"], part["probabilities"])
    assert np.array_equal(whole["pieces"], part["pieces"])
    new = answers(model, NEW)
    assert new["unknown"].numpy().tolist() == [0]
    assert new["pieces"].numpy()[0] > answers(line["model"], NEW)["pieces"].numpy()[0]
    assert weights.get_string_custom_property("summary") == f"{len(words)} of 1,443 wordpieces"
    assert training_record.read_history(run.uri) == training_record.read_history(line["run"].uri)
    assert compression_report.read_steps(weights.uri).wordpieces.after == len(words)


def test_fewer_layers_are_distilled_from_the_trimmed_teacher(line, tmp_path):
    weights = artifact(artifacts.Weights, tmp_path / "weights")
    run = artifact(standard_artifacts.ModelRun, tmp_path / "run")
    options = CompressOptions(vocabulary="used", layers=1, distill={"epochs": 2})
    recipe = {"batch_size": 1, "precision": "float32", "tensorboard": False, "patience": 100}
    tuned = json.dumps({"train": recipe})
    line["run"].set_string_custom_property("tuned", tuned)  # by a search of the same run
    compress(line, tmp_path, weights, run, options)
    assert run.get_string_custom_property("tuned") == tuned  # the card and the tracker go by it
    student = classifier.load(tmp_path / "weights")
    words = Path(weights.uri, "vocabulary/vocab.txt").read_text(encoding="utf-8").split()
    assert (student.backbone.num_layers, student.backbone.vocabulary_size) == (1, len(words))
    assert weights.get_string_custom_property("summary") == f"1 of 2 layers, {len(words)} of 1,443 wordpieces"
    history = training_record.read_history(run.uri)
    assert len(history["epochs"]) == 2
    assert history["step"] == 2 * len(SEEN)  # of one row each, as the search has found
    assert training_record.read_logits(run.uri).logits.argmax(-1).tolist() == [2, 0, 1]  # as the teacher answers
    assert not list((tmp_path / "checkpoints").iterdir())


CUTS = {
    "1 of 2 heads, 5 of 128 units": {"heads": 1, "units": 5},
    "32 of 64 hidden dimensions, 1 of 2 heads": {"hidden": 32},
    "1 of 2 layers, 32 of 64 hidden dimensions, 1 of 2 heads, 5 of 128 units": {"layers": 1, "hidden": 32, "units": 5},
}


@pytest.mark.parametrize("summary", CUTS)
def test_a_cut_student_is_distilled_and_exported(line, tmp_path, summary):
    options = CompressOptions(**CUTS[summary], distill={"epochs": 1})
    weights, _, model = compressed(line, tmp_path, options)
    student = classifier.load(tmp_path / "weights")
    assert weights.get_string_custom_property("summary") == summary
    sizes = [student.size._asdict()[key] for key in CUTS[summary]]
    assert sizes == list(CUTS[summary].values())
    assert [1_443, student.size.hidden] in shapes(model)  # of the word table; all other weights are in the graph
    assert storage.size(model.uri) < storage.size(line["model"].uri)
    expected = tf.nn.softmax(student.encoder().logits(student.packed(tf.float32), batch_of(line, SEEN)))
    export = exporter.export_record.read(model.uri)
    served = answers(model, *SEEN)["probabilities"].numpy() ** export.calibration.temperature
    np.testing.assert_allclose(served / served.sum(-1, keepdims=True), expected, atol=1e-5)


def shapes(model):
    """Of a SavedModel's variables."""
    return [shape for _, shape in tf.train.list_variables(f"{model.uri}/Format-Serving/variables/variables")]


def batch_of(line, texts):
    """Texts as the network takes them."""
    options = ModelOptions.model_validate_json(line["common"]["model_options"])
    ids, _ = families.of(options).tokenizer(options)(tf.constant(texts))
    return Batch(ids.to_tensor(), None, tf.cast(ids.row_lengths(), tf.int32))


FAMILIES = {
    "static": ({"dimensions": 8, "hidden": 8}, "a vector of 8 per token, a hidden layer of 8"),
    "bilstm": ({"embedding": 8, "units": 4, "min_count": 1}, "a bilstm of 8 per token, 4 units each way"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_of_another_family_learns_the_teachers_answers_and_is_served_with_its_own_vocabulary(
    line, tmp_path, family
):
    sizes, described = FAMILIES[family]
    distill = {"epochs": 50, "learning_rate": 0.03, "soft_share": 1.0}
    options = CompressOptions(**{"family": family, family: sizes, "distill": distill})
    weights, run, model = compressed(line, tmp_path, options)
    assert weights.get_string_custom_property("summary") == described
    assert training_record.read_logits(run.uri).logits.argmax(-1).tolist() == [2, 0, 1]  # as the teacher answers
    mine, theirs = (answers(each, *SEEN) for each in (model, line["model"]))
    assert mine["label"].numpy().tolist() == theirs["label"].numpy().tolist()
    assert serving_ops.check(Path(model.uri, "Format-Serving")) == []
    wanted = ModelOptions.model_validate_json(line["common"]["model_options"])
    explainer = explain.load(weights.uri, model.uri, wanted, line["common"]["transform_graph"].uri)
    explained = explain.explain(explainer, "it was great", None, "positive", LABELS)
    assert [word["start"] for word in explained["words"]] == [0, 3, 7]
    assert explained["complete"]
    _, report = judged(line, tmp_path, (weights, run, model), options)
    assert report.steps.described == described
    assert report.smaller > 1


@pytest.mark.parametrize("student", [{"layers": 1, "vocabulary": "used"}, {"family": "static"}, {"family": "bilstm"}])
def test_a_student_learns_what_its_teacher_answers_to_texts_without_labels(line, tmp_path, student):
    lines = ["text,label", "it was perfect,", "thanks,", "thanks,", "my refund,negative", "great awful,"]
    (tmp_path / "more.csv").write_text("\n".join(lines), encoding="utf-8")
    split = {"train": 1 - 2e-6, "validation": 1e-6, "test": 1e-6}  # no hash puts a row into a split that judges
    data = DataOptions(source="x", test_source="y", split=split)
    reading = {"data": data.model_dump_json(), "base_folder": str(tmp_path)}
    weights, run = artifact(artifacts.Weights, tmp_path / "w"), artifact(standard_artifacts.ModelRun, tmp_path / "r")
    sizes = {family: FAMILIES[family][0] for family in FAMILIES if student.get("family") == family}
    options = CompressOptions(**student, **sizes, unlabelled="more.csv", distill={"epochs": 2})
    with pytest.raises(UserError, match=r"compress.unlabelled: this line was compiled without"):
        compress(line, tmp_path, weights, run, options)
    compress(line, tmp_path, weights, run, options, batch_size=1, **reading)
    told = "3 of 5 unlabelled texts; left out: 1 repeated, 1 with a label"
    assert weights.get_string_custom_property("summary").endswith(told)
    assert training_record.read_history(run.uri)["step"] == 2 * (3 + 3)
    if "layers" in student:
        words = Path(weights.uri, "vocabulary/vocab.txt").read_text(encoding="utf-8").split()
        assert {"perfect", "thanks"} <= set(words) and "refund" not in words
    (tmp_path / "more.csv").write_text(f"text\nnew\n{NEW}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"compress.unlabelled: 1 rows of more.csv are rows of the test split"):
        compress(line, tmp_path, weights, run, options, **reading)


def test_texts_without_labels_key_the_students_cache(tmp_path):
    (tmp_path / "more.csv").write_text("text\nnew\n")
    config = {"train": {}, "data": {"source": "a.csv"}, "compress": {"layers": 1, "unlabelled": "more.csv"}}
    before = stage_files.fingerprints(config, str(tmp_path))
    (tmp_path / "more.csv").write_text("text\nnewer\n")
    after = stage_files.fingerprints(config, str(tmp_path))
    assert set(before) == set(after) == {Node.COMPRESSOR}
    assert before != after


def taught(folder, task, teacher, options, examples, texts=()):
    """The places and rows of a student of the family bilstm, and what its training left."""
    distill = {"epochs": 40, "learning_rate": 0.03, "soft_share": 1.0}
    compress = CompressOptions(family="bilstm", bilstm=FAMILIES["bilstm"][0], distill=distill)
    student = other_family.prepare(
        task, [teacher], options, compress, seed=1, folder=folder / "weights", examples=examples, texts=texts
    )
    recipe = compress.distill.recipe(TrainOptions(precision="float32", tensorboard=False, patience=100, batch_size=4))
    places = {"logs": folder / "logs", "checkpoints": str(folder / "checkpoints")}
    return student, compressor.distil_other(task, [teacher], student, recipe, compress, **places)


def test_a_student_with_its_own_vocabulary_reads_both_texts_of_a_pair(tmp_path):
    options = tiny_model_options(tmp_path, dropout=0.0)
    others = ("i love it", "my refund", "it was late")
    rows = [(text, other, label) for text, other, label in zip(SEEN, others, LABELS, strict=True)]
    examples, schema = raw_examples(tmp_path, dict.fromkeys(("train", "validation", "test"), rows), LABELS)
    graph, tokens = transformed(tmp_path, options, examples, schema, pair=True)
    task = trainer.read_task(graph.uri, tokens.uri, options)
    teacher = families.BERT.build(options, len(LABELS), seed=1)
    student, trained = taught(tmp_path, task, teacher, options, examples)
    for rows in (student.task.train, student.task.validation):
        assert [max(segments) for segments in rows.segment_ids.to_list()] == [1, 1, 1]
        assert rows.labels.tolist() == task.train.labels.tolist()
        # Three tokens around a pair, and one for each word.
        assert rows.token_ids.row_lengths().numpy().tolist() == [9, 8, 9]
    assert trained.validation_logits.shape == (3, 3)
    recipe = TrainOptions()
    student = other_family.Student(None, student.task, None, "", vocabulary="one")
    names = {
        compressor.fingerprint(task, str(tmp_path / "weights"), recipe, CompressOptions(family="bilstm"), each)
        for each in (student, student._replace(vocabulary="two"), student._replace(task=task))
    }
    assert len(names) == 3  # no training takes up the checkpoints of one that read other words


def test_a_student_learns_the_answers_to_its_own_rows_where_its_teacher_had_more(line, monkeypatch, tmp_path):
    monkeypatch.setattr(other_family.learned_vocabulary, "BATCH", 2)  # its rows are read in batches
    options = ModelOptions.model_validate_json(line["common"]["model_options"])
    shutil.copytree(Path(line["tokens"].uri, "Split-test"), tmp_path / "more" / "Split-train")
    graph = line["common"]["transform_graph"].uri
    task = trainer.read_task(graph, line["tokens"].uri, options, more=[str(tmp_path / "more")])
    teacher = classifier.load(Path(line["weights"].uri))
    read = [Candidate(Place(0, 1), "", "great it awful was", None)]
    (ids,) = tf.cast(batch_of(line, [read[0].text]).token_ids, tf.int32)
    unlabelled = Rows(
        tf.RaggedTensor.from_tensor([ids], row_splits_dtype=tf.int32), None, np.array([NO_LABEL], np.int32)
    )
    task = dataclasses.replace(task, train=joined(task.train, unlabelled))
    student, trained = taught(tmp_path, task, teacher, options, line["examples"], read)
    assert len(task.train) == 3 + 80 + 1
    assert student.places.tolist() == [0, 1, 2, 83]  # a bilstm reads raw texts, which the further rows have none of
    assert student.task.train.labels.tolist() == [2, 0, 1, NO_LABEL]
    assert student.task.train.token_ids.row_lengths().numpy().tolist() == [5, 5, 5, 6]
    assert trained.validation_logits.argmax(-1).tolist() == [2, 0, 1]  # as the teacher answers


def test_a_student_that_is_larger_than_its_teacher_is_refused(line, tmp_path):
    weights, run = artifact(artifacts.Weights, tmp_path / "w"), artifact(standard_artifacts.ModelRun, tmp_path / "r")
    options = CompressOptions(family="static", static={"dimensions": 8, "hidden": 40_000 // 2})
    with pytest.raises(UserError, match=r"the student would have [\d,]+ weights, and its teacher has [\d,]+; make"):
        compress(line, tmp_path, weights, run, options)


def test_the_student_goes_on_where_its_gates_pass(line, trimmed, tmp_path):
    options = CompressOptions(vocabulary="used", gates={"smaller_by": 1.2, "not_worse_by": 0.5})
    outputs, report = judged(line, tmp_path, trimmed, options)
    assert report.chosen == "student"
    assert [verdict["passed"] for verdict in report.verdicts] == [True, True]
    assert report.teacher.bytes > 1.2 * report.student.bytes > 0
    assert min(report.teacher.p50_ms, report.student.p50_ms, report.student.examples_per_second) > 0
    # The screen shows the first summary that it finds among a stage's outputs.
    summaries = [each.get_string_custom_property("summary") for each in outputs.values()]
    assert [summary for summary in summaries if summary] == [report.described]
    for name, made in zip(("weights", "model_run", "model"), trimmed, strict=True):
        for file in storage.files(made.uri):
            assert filecmp.cmp(f"{made.uri}/{file}", f"{outputs[name].uri}/{file}", shallow=False)
    assert json.loads(outputs["report"].get_string_custom_property("verdicts")) == report.verdicts


def test_the_teacher_is_kept_where_a_gate_fails_and_the_screen_says_why():
    report = factories.compression_report(faster_by=2.0, smaller_by=3.0)
    assert (report.chosen, report.faster, report.smaller) == ("student", 2.0, 3.0)
    told = "7,210 of 30,522 wordpieces  accuracy -0.010, 2.0 times as fast, 30 MB of 90 MB"
    assert report.described == told
    for gate, reason in (
        (
            {"faster_by": 2.01},
            "the student answers 2.00 times the examples a second of the teacher; the gate asks for 2.01",
        ),
        ({"smaller_by": 3.01}, "the teacher has 3.00 times the bytes of the student; the gate asks for 3.01"),
        ({"not_worse_by": 0.001}, "accuracy fell by 0.010 against the teacher on the same rows, with 95% certainty by"),
    ):
        blocked = factories.compression_report(**gate)
        assert blocked.chosen == "teacher"
        assert next(each["reason"] for each in blocked.verdicts if not each["passed"]).startswith(reason)
        assert blocked.described == f"{told}: the teacher is kept"


def test_the_bound_of_the_ratio_is_paired():
    # A machine that slows down fivefold slows down both: the ratio is 2 in every batch, and so its bounds.
    student = np.array([1.0, 1.2, 0.9, 5.0, 6.0, 5.5])
    ratio, bounds = student_gate.faster(2 * student, student, 0.95)
    assert (ratio, *bounds) == pytest.approx((2.0, 2.0, 2.0))
    ratio, bounds = student_gate.faster(np.array([2.0, 3.0, 1.0, 2.0]), np.ones(4), 0.95)
    assert ratio == 2.0
    assert 1.2 < bounds[0] < 2.0 < bounds[1] < 2.8


@pytest.mark.parametrize(("least", "chosen"), [(1.79, "student"), (1.81, "teacher")])
def test_a_student_must_have_been_as_fast_as_asked_however_sure_that_is(least, chosen):
    report = factories.compression_report(teacher_seconds=[0.08, 0.1, 0.26, 0.28], faster_by=least)
    assert report.faster == pytest.approx(1.8)
    assert report.faster_bounds[0] < 1.5 < 2.1 < report.faster_bounds[1]
    assert report.chosen == chosen


def test_rows_are_timed_with_others_of_their_length_both_texts_counted(monkeypatch):
    called = []

    class Timed:
        close = staticmethod(lambda: None)

        def __init__(self, folder):
            pass

        def seconds(self, records):
            called.append(list(records))
            return 1.0

    monkeypatch.setattr(student_gate, "_Timed", Timed)
    table = {"text": ["a", "b", "cc", "dd"], "text_pair": ["x" * 90, "", "y" * 80, ""]}
    student_gate.measure("teacher", "student", {**table, student_gate.SERIALIZED: list("1234")}, 2)
    assert [sorted(batch) for batch in called if len(batch) == 2][::2] == [["2", "4"], ["1", "3"]]


def test_gates_without_a_student_are_refused():
    with pytest.raises(ValueError, match="there is no student that they could judge"):
        CompressOptions(gates={"smaller_by": 2})


def test_a_student_is_smaller_than_its_teacher(tmp_path):
    config = factories.write_task(tmp_path, factories.reviews(3))
    text = config.read_text()
    config.write_text(f"{text}compress: {{layers: 1, distill: {{epochs: 2}}}}\n")
    assert configs.load(config).compress.makes_student
    for wrong, reason in (
        ("compress: {layers: 2}", "compress.layers: 2 are not fewer than the 2 of model.backbone, the teacher's; 1 is"),
        ("compress: {heads: 2}", "compress.heads: 2 are not fewer than the 2 of model.backbone, the teacher's; 1 is"),
        ("compress: {distill: {epochs: 2}}", "distill: it trains a student with less of its teacher's network, or"),
        ("compress: {vocabulary: used, unlabelled: more.csv}", "unlabelled: it trains a student with less of its"),
        (
            "compress: {layers: 1, unlabelled: ./reviews.csv}",
            "compress.unlabelled: ./reviews.csv is data.source:",
        ),
    ):
        config.write_text(f"{text}{wrong}\n")
        with pytest.raises(UserError, match=re.escape(reason)):
            configs.load(config)
    config.write_text(text.replace("train:\n", "train:\n  method: adapters\n") + "compress: {layers: 1}\n")
    with pytest.raises(UserError, match="a student with less of them cannot take over; use full or lora"):
        configs.load(config)


def test_a_family_without_trimming_is_refused_in_words(line, monkeypatch, tmp_path):
    from bertline.models import compression

    class Other:
        name = "other"

    monkeypatch.setattr(compression.families, "of", lambda options: Other())
    with pytest.raises(UserError, match="the family other cannot lose a part of their vocabulary"):
        compression.trim([], tiny_model_options(tmp_path), [], tmp_path)
