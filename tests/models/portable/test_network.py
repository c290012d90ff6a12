import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from scipy.special import expit, softmax
from test_methods import EACH, chosen, moved
from tiny_bert import LENGTHS, SEGMENTS, TOKENS, frozen, tiny_classifier

from bertline.models import ensemble
from bertline.models.kept import Kept
from bertline.models.pooling import POOLER, Pooling
from bertline.models.portable import families, folder, graph

ROWS = {
    "input_ids": TOKENS.numpy().astype(np.int64),
    "token_type_ids": SEGMENTS.numpy().astype(np.int64),
    "attention_mask": tf.sequence_mask(LENGTHS, TOKENS.shape[1], tf.int64).numpy(),
}
ONE_LABEL = folder.Answers(["a", "b", "c"], temperature=1.0, thresholds=None, abstain=None, pair=True)


def written(path, members, answers=ONE_LABEL, **more):
    """The checked file's session."""
    graph.write(folder.model(families.Bert(), members, answers, {"labels": answers.labels}), path, **more)
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4  # a refused row is in an error of its own
    return onnxruntime.InferenceSession(path, quiet)


def run(session, rows=ROWS):
    return dict(zip([each.name for each in session.get_outputs()], session.run(None, rows), strict=True))


@pytest.mark.parametrize(
    "name", [name for name in EACH if name in ("bitfit", "lora", "houlsby", "pfeiffer", "prompt", "prefix")]
)
def test_every_methods_model_answers_as_the_served_one(name, tmp_path):
    pooling = {"prefix": Pooling("cls", normalised=True), "prompt": Pooling("mean"), "pfeiffer": Pooling("mean", True)}
    model = tiny_classifier(pooling=pooling.get(name, POOLER), approximate=name == "bitfit")
    method = moved(chosen(model, **EACH[name]))
    method.finish()
    served = frozen(model)(TOKENS, SEGMENTS, LENGTHS)
    assert np.ptp(served[:, 0]) > 0.01  # the rows differ, or the test would show nothing
    answers = run(written(tmp_path / "model.onnx", [model]))
    np.testing.assert_allclose(answers["logits"], served, atol=1e-4)
    np.testing.assert_allclose(answers["probabilities"], softmax(served, axis=-1), atol=1e-5)


@pytest.mark.parametrize("hidden", [None, [0, 2, 3, 7]], ids=["whole", "narrow"])
def test_a_pruned_models_answers_are_the_served_ones(tmp_path, hidden):
    kept = Kept([0, 1], [[1], [0]], [[0], [3]], hidden)
    model = tiny_classifier(pooling=Pooling("cls", normalised=True)).shortened(kept)
    answers = run(written(tmp_path / "model.onnx", [model]))
    np.testing.assert_allclose(answers["logits"], frozen(model)(TOKENS, SEGMENTS, LENGTHS), atol=1e-4)


def test_any_batch_and_length_and_the_padding_does_not_matter(tmp_path):
    model = tiny_classifier(pooling=Pooling("mean"))
    session = written(tmp_path / "model.onnx", [model])
    together = run(session)["logits"]
    for row, length in enumerate(LENGTHS.numpy()):
        alone = {name: values[row : row + 1, :length] for name, values in ROWS.items()}
        np.testing.assert_allclose(run(session, alone)["logits"], together[row : row + 1], atol=1e-5)
    wide = {name: np.pad(values, [(0, 0), (0, 4)]) for name, values in ROWS.items()}
    np.testing.assert_allclose(run(session, wide)["logits"], together, atol=1e-5)
    with pytest.raises(Exception, match="12 by 13"):
        run(session, {name: np.pad(values, [(0, 0), (0, 7)]) for name, values in ROWS.items()})  # 12 positions


@pytest.mark.parametrize("several", [False, True], ids=["one label", "labels"])
def test_an_ensemble_is_the_mean_at_its_temperatures(several, tmp_path):
    members = [tiny_classifier(pooling=Pooling("mean")) for _ in range(3)]
    for factor, member in zip((1, -2, 60), members, strict=True):  # the last is as sure as float32 can be
        member.output_dense.kernel.assign(factor * member.output_dense.kernel)
    temperature = [0.5, 2.0, 3.0] if several else 1.7
    thresholds = [0.5, 0.2, 0.9] if several else None
    answers = ONE_LABEL._replace(temperature=temperature, thresholds=thresholds)
    alone = [frozen(member)(TOKENS, SEGMENTS, LENGTHS) for member in members]
    expected = ensemble.mean(alone, multi_label=several) / np.array(temperature)
    found = run(written(tmp_path / "model.onnx", members, answers))
    np.testing.assert_allclose(found["logits"], expected, atol=1e-4, rtol=1e-5)
    probabilities = expit(expected) if several else softmax(expected, axis=-1)
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-5)


def test_the_file_tells_its_labels_and_older_programs_read_it(tmp_path):
    session = written(tmp_path / "model.onnx", [tiny_classifier()])
    assert session.get_modelmeta().custom_metadata_map == {"labels": '["a", "b", "c"]'}
    model = onnx.load(tmp_path / "model.onnx")
    # ONNX Runtime 1.17 reads IR 9 and opset 20: https://onnxruntime.ai/docs/reference/compatibility.html
    assert model.ir_version <= 9
    assert [(each.domain, each.version <= 20) for each in model.opset_import] == [("", True)]


def test_the_weights_of_a_model_beyond_2_gib_lie_beside_it(tmp_path):
    model = tiny_classifier()
    whole = run(written(tmp_path / "model.onnx", [model]))
    apart = run(written(tmp_path / "large.onnx", [model], most_bytes=2000))
    assert (tmp_path / graph.WEIGHTS_FILE).stat().st_size > 1024
    np.testing.assert_array_equal(apart["logits"], whole["logits"])
