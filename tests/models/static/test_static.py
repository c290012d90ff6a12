"""Static token embeddings: their distillation against Model2Vec's numbers, the network against Keras's layers."""

import json

import numpy as np
import pytest
import tensorflow as tf
import xlm_roberta_folder as tiny
from factories import reviews, tiny_backbone

from bertline.errors import UserError
from bertline.models import families
from bertline.models.family import Batch
from bertline.models.recipe import ModelOptions
from bertline.models.static import table


@pytest.fixture(autouse=True)
def _caches_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """The folder of a BERT of the reviews' words, 64 wide."""
    return str(tiny_backbone(tmp_path_factory.mktemp("bert")))


def options(backbone, **static):
    sizes = {"dimensions": 6, "hidden": 5, **static}
    return ModelOptions(family="static", backbone=backbone, static=sizes, max_length=16, dropout=0.2)


# === The table ===


def test_reduced_and_weighted_vectors_are_those_of_model2vec():
    """The numbers are those that apply_pca(vectors, 2) * compute_weights(8, 0.01) of model2vec 0.10.0 gives."""
    vectors = np.array(
        [
            [2.04, -2.56, 0.42, -0.57],
            [-0.45, -0.22, -2.02, -0.23],
            [-0.87, 3.32, 0.23, -0.35],
            [-0.28, -0.67, -1.06, -0.39],
            [0.48, -0.24, 0.96, -0.2],
            [0.02, 1.55, 0.55, -0.51],
            [-0.18, 0.54, 1.94, -0.27],
            [-0.24, 1.0, -0.89, -0.29],
        ]
    )
    weights = [0.035289, 0.052015, 0.068171, 0.083786, 0.098886, 0.113497, 0.127641, 0.141341]
    assert np.allclose(table.weights(8, 0.01), weights, atol=1e-6)
    expected = np.array(
        [
            [0.121064, -0.024711],
            [0.020374, 0.110981],
            [-0.212097, -0.011178],
            [0.069901, 0.099653],
            [0.064598, -0.096454],
            [-0.130015, -0.06635],
            [-0.046493, -0.230957],
            [-0.097368, 0.128714],
        ]
    )
    given = table.weighted(table.reduced(vectors, 2), 0.01)
    signs = np.sign((given * expected).sum(0))  # a component may point either way
    assert np.allclose(given * signs, expected, atol=1e-6)


def test_each_token_is_encoded_alone_and_special_ones_get_zeros(backbone):
    made = options(backbone, dimensions=37, sif=None)  # of 38 words, so that nothing is lost
    vectors, encoder = families.STATIC.table(made), families.BERT.build(made, 2, seed=0)
    tokenizer = families.STATIC.tokenizer(made)
    rows = tokenizer(tf.constant(["great", "late", "love", "refund"]))[0].to_tensor()  # one token each
    assert not vectors[rows[0, ::2].numpy()].any()
    by_row = encoder.frozen(tf.float32).vectors(Batch(rows, None, tf.fill([4], 3))).numpy()
    # All components only turn the vectors and scale them, so that distances keep their ratios.
    mine, theirs = (np.linalg.norm(each[1:] - each[0], axis=1) for each in (vectors[rows[:, 1].numpy()], by_row))
    assert np.allclose(mine / mine[0], theirs / theirs[0], rtol=1e-3)
    assert np.sqrt(np.mean(np.square(vectors[vectors.any(axis=1)]))) == pytest.approx(table.LENGTH, rel=1e-5)


def test_the_table_is_distilled_once(backbone, monkeypatch):
    made = options(backbone)
    first = families.STATIC.table(made)
    monkeypatch.setattr(table, "distilled", None)
    assert np.array_equal(families.STATIC.table(made), first)
    assert np.array_equal(families.STATIC.table(options(backbone, hidden=9)), first)
    with pytest.raises(TypeError):  # other dimensions are another table
        families.STATIC.table(options(backbone, dimensions=5))


@pytest.mark.parametrize("max_length", [4, 600])
def test_the_table_does_not_depend_on_the_length_of_rows(backbone, max_length):
    """The backbone has 512 positions, which only it needs; a cached table is read whatever the length."""
    expected = table.distilled(*_whole(backbone), options(backbone).static, "model.static")
    long = options(backbone).model_copy(update={"max_length": max_length})
    assert np.allclose(families.STATIC.table(long), expected, atol=1e-5)


def _whole(backbone):
    bert = options(backbone).model_copy(update={"family": "auto"})
    return families.BERT.build(bert, 2, seed=0), families.BERT.spelling(bert), families.BERT.tokenizer(bert)


def test_where_the_cache_cannot_be_written_the_table_is_made_all_the_same(backbone, tmp_path, monkeypatch, caplog):
    (tmp_path / "cache").write_text("no folder")
    assert families.STATIC.table(options(backbone)).shape[1] == 6
    assert "The next run distils the table again" in caplog.text


def test_more_dimensions_than_the_backbone_has_are_refused(backbone):
    with pytest.raises(UserError, match=r"^model\.static\.dimensions: 65 are more than the 64 of the vectors"):
        families.STATIC.table(options(backbone, dimensions=65))


def test_a_sentencepiece_vocabulary_is_distilled_too(tmp_path):
    tiny.write_weights(tmp_path)
    tiny.write_vocabulary(tmp_path / "sentencepiece.bpe.model", [f"{text} {text[::-1]}" for text, _, _ in reviews(900)])
    made = options(str(tmp_path))
    vectors = families.STATIC.table(made)
    assert vectors.shape == (tiny.SIZES["vocab_size"], 6)
    ids, _ = families.STATIC.tokenizer(made)(tf.constant(["great item"]))
    assert not vectors[[ids[0, 0], ids[0, -1]]].any()
    assert vectors[ids[0, 1:-1].numpy()].any(axis=1).all()


# === The network ===


@pytest.fixture
def model(backbone):
    model = families.STATIC.build(options(backbone), 3, seed=1)
    for variable in model.variables:
        variable.assign(np.random.default_rng(len(variable.path)).normal(size=variable.shape))
    return model


ROWS = Batch(tf.constant([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0]]), None, tf.constant([5, 3]))
INPUTS = {"token_ids": ROWS.token_ids, "padding_mask": tf.sequence_mask(ROWS.lengths)}


def test_its_forward_pass_and_its_gradients_are_those_of_keras(model):
    def gradients(forward):
        with tf.GradientTape() as tape:
            logits = forward()
            loss = tf.reduce_sum(tf.nn.log_softmax(logits)[:, 0])
        variables = [variable.value for variable in model.trainable_variables]
        return [logits, *(tf.convert_to_tensor(each) for each in tape.gradient(loss, variables))]

    encoder = model.encoder()
    mine, keras = (
        gradients(forward)
        for forward in (lambda: encoder.logits(model.packed(tf.float32), ROWS), lambda: model(INPUTS))
    )
    assert all(np.allclose(one, other, atol=1e-5) for one, other in zip(mine, keras, strict=True))
    vectors, logits = model.frozen(tf.float32).vectors_and_logits(ROWS)
    assert np.allclose(logits, keras[0], atol=1e-5)
    assert vectors.shape == (2, model.width)


def test_what_stands_in_the_padding_changes_nothing_and_dropout_depends_on_the_seed_alone(model):
    encoder, weights = model.encoder(), model.packed(tf.float32)
    other = ROWS._replace(token_ids=tf.constant([[2, 5, 6, 7, 3], [2, 8, 3, 9, 9]]))
    assert np.array_equal(encoder.logits(weights, ROWS), encoder.logits(weights, other))
    one, same, different = (
        encoder.logits(weights, ROWS, tf.constant([1, at], tf.int64)).numpy() for at in (3, 3, 4096)
    )
    assert np.array_equal(one, same)
    assert not np.allclose(one, different)


def test_only_the_layers_are_trained_where_the_embeddings_stay(backbone):
    model = families.STATIC.build(options(backbone, train_embeddings=False), 3, seed=1)
    assert [variable.path.split("/")[-1] for variable in model.trainable_variables] == ["kernel", "bias"] * 2
    assert model.by_depth[0] == []


# === What it keeps ===


def test_it_is_written_loaded_and_started_from(model, backbone, tmp_path):
    labels, digest = ["a", "b", "c"], families.STATIC.digest(options(backbone))
    model.write(tmp_path / "saved", labels, backbone_digest=digest)
    expected = model.frozen(tf.float32).logits(ROWS)
    assert np.array_equal(families.STATIC.load(tmp_path / "saved").frozen(tf.float32).logits(ROWS), expected)
    warm = families.STATIC.build(options(backbone), 3, seed=2)
    warm.take_weights(tmp_path / "saved", labels, backbone_digest=digest)
    assert np.array_equal(warm.frozen(tf.float32).logits(ROWS), expected)
    with pytest.raises(UserError, match=r"distilled from another model\.backbone"):
        warm.take_weights(tmp_path / "saved", labels, backbone_digest="other")
    with pytest.raises(UserError, match=r"model\.static\.hidden is 5, and that of the config is 7"):
        families.STATIC.build(options(backbone, hidden=7), 3, seed=2).take_weights(
            tmp_path / "saved", labels, backbone_digest=digest
        )
    with pytest.raises(UserError, match=r"of a network 'static', and model\.family makes a network 'bilstm'"):
        families.BILSTM.load(tmp_path / "saved")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"static": {"hidden": 8}}, "static: it goes with family: static"),
        ({"family": "bilstm", "static": {"hidden": 8}}, "static: it goes with family: static, and family is bilstm"),
        ({"family": "static", "bilstm": {"units": 8}}, "bilstm: it goes with family: bilstm, and family is static"),
    ],
)
def test_keys_that_do_not_go_with_the_family_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ModelOptions.model_validate(values)


def test_a_model_card_says_what_it_is(backbone):
    assert json.dumps(families.STATIC.describe(options(backbone)))[1:].startswith("token embeddings (6 numbers each")
