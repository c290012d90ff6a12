import json
from importlib import util
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import without_tensorflow
from factories import MOODS, raw_examples, reviews, tiny_model_options, trained_weights, transformed
from tfx.types import standard_artifacts

from bertline.components import export_record, exporter, training_record
from bertline.components.artifacts import Weights
from bertline.components.training_record import ValidationLogits
from bertline.errors import UserError
from bertline.models import families
from bertline.models.recipe import ExportOptions

LABELS = list(MOODS)
KEYWORDS = {"awful": 0, "ordered": 1, "great": 2}
TEXTS = ["it was great", "it was awful", "i ordered it", "great great awful", "the item"]


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """What Transform and the Trainer leave: the graph, weights whose answers are known, and their validation logits."""
    folder = tmp_path_factory.mktemp("exporter")
    options = tiny_model_options(folder, dropout=0.0)
    rows = [(text, label) for text, label, _ in reviews(6)]
    graph, _ = transformed(
        folder, options, *raw_examples(folder, dict.fromkeys(["train", "validation", "test"], rows), LABELS)
    )
    made = {"weights": Weights(), "model_run": standard_artifacts.ModelRun()}
    for name, each in made.items():
        each.uri = str(folder / name)
    trained_weights(folder / "weights", options, KEYWORDS)
    training_record.write_logits(made["model_run"].uri, overconfident())
    return options, {"transform_graph": graph, **made}


def overconfident():
    """Sure of "negative" with 96% in 300 rows, and right in 240 of them."""
    return ValidationLogits(["negative"] * 240 + ["neutral"] * 60, np.tile([4.0, 0.0, 0.0], (300, 1)))


def export(line, folder, **options):
    """The stage's Model, and the SavedModel's `text` signature."""
    model_options, inputs = line
    model = standard_artifacts.Model()
    model.uri = str(folder)
    exporter.Exporter.test_call(
        **inputs,
        model=model,
        model_options=model_options.model_dump_json(),
        options=ExportOptions(**options).model_dump_json(),
    )
    return model, tf.saved_model.load(f"{folder}/Format-Serving").signatures["text"]


def test_the_defaults_give_a_calibrated_float32_model(line, tmp_path):
    model, text = export(line, tmp_path / "model")
    answers = text(text=tf.constant(TEXTS))
    assert answers["label"].numpy().tolist()[:4] == [b"positive", b"negative", b"neutral", b"positive"]
    record = export_record.read(model.uri)
    assert (record.dtype, record.abstain, record.calibration.rows) == ("float32", None, 300)
    # exp(4 / T) is to be odds of 0.8 to 0.1
    assert record.calibration.temperature == pytest.approx(4 / np.log(8), rel=1e-3)
    assert not model.has_custom_property("abstain")
    _, plain = export(line, tmp_path / "plain", calibrate="none")
    scaled = plain(text=tf.constant(TEXTS))["probabilities"].numpy() ** (1 / record.calibration.temperature)
    np.testing.assert_allclose(answers["probabilities"], scaled / scaled.sum(-1, keepdims=True), atol=1e-5)
    size = sum(path.stat().st_size for path in (tmp_path / "model/Format-Serving").rglob("*") if path.is_file())
    assert model.get_string_custom_property("summary") == f"float32, {size / 1e6:.0f} MB, temperature 1.92"


def test_dtype_threshold_and_calibration_are_the_options(line, tmp_path):
    model, text = export(line, tmp_path / "model", dtype="bfloat16", abstain=0.9, calibrate="none")
    answers = text(text=tf.constant(TEXTS))
    surest = answers["probabilities"].numpy().max(-1)
    assert answers["abstained"].numpy().tolist() == (surest < 0.9).tolist()
    assert answers["abstained"].numpy().tolist()[-1] is True  # without a keyword it knows nothing
    record = json.loads((tmp_path / "model/export.json").read_text())
    assert (record["dtype"], record["abstain"]) == ("bfloat16", 0.9)
    assert (record["calibration"]["temperature"], record["calibration"]["note"]) == (1.0, "export.calibrate is none")
    assert model.get_float_custom_property("abstain") == 0.9
    assert model.get_string_custom_property("summary").endswith("abstains below 0.9")
    _, exact = export(line, tmp_path / "exact", calibrate="none")
    difference = np.abs(exact(text=tf.constant(TEXTS))["probabilities"] - answers["probabilities"]).max()
    assert 0 < difference < 1e-2


def test_the_temperature_is_fitted_and_its_figures_are_noted():
    found = exporter.calibrate(overconfident(), LABELS, "temperature")
    sure = np.exp(4) / (np.exp(4) + 2)
    assert found.before["calibration_error"] == pytest.approx(sure - 0.8, abs=1e-6)
    assert found.after["calibration_error"] == pytest.approx(0, abs=1e-3)
    assert found.before["log_loss"] == pytest.approx(-np.log(sure) + 0.2 * 4, abs=1e-6)
    assert found.after["log_loss"] == pytest.approx(-0.8 * np.log(0.8) - 0.2 * np.log(0.1), abs=1e-6)
    few = exporter.calibrate(ValidationLogits(["neutral"] * 30, np.eye(3)[[1] * 30]), LABELS, "temperature")
    assert (few.temperature, few.rows, few.before == few.after) == (1.0, 30, True)
    assert few.note.startswith("30 validation rows are too few")


def test_a_threshold_that_no_answer_is_below_is_refused():
    exporter.check_abstention(None, ["no", "yes"])
    exporter.check_abstention(0.34, ["a", "b", "c"])
    with pytest.raises(UserError, match=r"export.abstain: no answer can be below 0.5. With 2 labels .* at least 0.5"):
        exporter.check_abstention(0.5, ["no", "yes"])


def test_onnx_answers_as_the_saved_model_without_tensorflow(line, tmp_path):
    model, text = export(line, tmp_path / "model", abstain=0.9, also=["onnx"])
    folder = tmp_path / "model/onnx"
    texts = [*TEXTS, "", "GREAT\x00 grëat \u597d \U0001f600!", "great " * 100, "x" * 101 + " awful"]
    answers = text(text=tf.constant(texts))
    labels, probabilities = without_tensorflow.run_ten_lines(folder, texts)
    np.testing.assert_allclose(probabilities, answers["probabilities"].numpy().max(-1), atol=1e-4)
    assert labels == [label.decode() for label in answers["label"].numpy()]
    record = export_record.read(model.uri)
    assert json.loads((folder / "labels.json").read_text()) == {
        "labels": LABELS,
        "multi_label": False,
        "thresholds": None,
        "abstain": 0.9,
        "temperature": record.calibration.temperature,
        "max_length": 16,
        "pair": False,
    }
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert record.also == {"onnx": size}
    assert f", ONNX {size / 1e6:.0f} MB, temperature" in model.get_string_custom_property("summary")


def test_onnx_is_refused_where_its_package_or_the_family_is_not_there(line, tmp_path, monkeypatch):
    options, inputs = line
    graph, also = inputs["transform_graph"].uri, ExportOptions(also=["onnx"])
    source = exporter.Source(Path(inputs["weights"].uri), graph, options, also)
    with monkeypatch.context() as patch:
        patch.setattr(util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"pip install 'bertline\[onnx\]'"):
            exporter.write_onnx(tmp_path / "onnx", source)
    monkeypatch.setattr(type(families.BERT), "name", "words")
    with pytest.raises(UserError, match="family words cannot be written as ONNX; those of bert and xlm_roberta can"):
        exporter.write_onnx(tmp_path / "onnx", source)
    assert not (tmp_path / "onnx").exists()
