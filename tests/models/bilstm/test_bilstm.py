"""Embedding and BiLSTM: its tokens, its network against Keras's own LSTM, and what it keeps."""

import numpy as np
import pytest
import tensorflow as tf

from bertline.errors import UserError
from bertline.models import families
from bertline.models.bilstm import vocabulary
from bertline.models.bilstm.tokenizer import Tokenizer
from bertline.models.family import Batch
from bertline.models.recipe import ModelOptions

WORDS = ["<unk>", "<s>", "</s>", "good", "film", "!", "bad", "很", "好"]


def tokens(text, kind="auto"):
    return [token.decode() for token in vocabulary.split(tf.constant([text]), kind)[0].flat_values.numpy()]


def options(**bilstm):
    return ModelOptions(family="bilstm", bilstm={"embedding": 6, "units": 5, "min_count": 1, **bilstm})


@pytest.fixture
def learned(tmp_path):
    vocabulary.write(f"{tmp_path}/{vocabulary.FILE}", WORDS)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("auto", "It's GREAT,\u00a0no? 😀", ["it", "'", "s", "great", ",", "no", "?", "😀"]),
        ("auto", "服务很好 wifi５G", ["服", "务", "很", "好", "wifi5g"]),
        ("words", "服务很好 wifi!", ["服务很好", "wifi", "!"]),
        ("characters", "Hé !", ["h", "é", "!"]),
        ("auto", "I ❤\ufe0f it \u200b 👍🏽", ["i", "❤", "it", "👍", "🏽"]),
        ("auto", " \u3000\n", []),
    ],
)
def test_a_text_is_cut_at_spaces_and_signs_and_between_characters_that_have_no_spaces(kind, text, expected):
    assert tokens(text, kind) == expected


def test_the_vocabulary_has_the_most_frequent_tokens_of_the_texts():
    texts = [tf.constant(["b a a", "c b A"]), tf.constant(["d d <unk>"])]
    assert vocabulary.learn(texts, "auto", size=6, min_count=2) == ["<unk>", "<s>", "</s>", "a", "b", "d"]
    assert vocabulary.learn(texts, "auto", size=5, min_count=2)[3:] == ["a", "b"]
    with pytest.raises(UserError, match=r"^compress\.bilstm\.min_count: no token occurs 9 times"):
        vocabulary.learn(texts, "auto", size=6, min_count=9, section="compress")
    with pytest.raises(UserError, match=r"^model\.bilstm\.min_count: no token"):
        families.BILSTM.learn(options(min_count=9), texts, "nowhere")


def test_rows_have_literal_ids_and_say_where_they_come_from():
    tokenizer = Tokenizer(WORDS, "auto", max_length=6)
    ids, segments = tokenizer(tf.constant(["A good Film!", "", "good good bad bad bad"]))
    assert (ids.to_list(), segments) == ([[1, 0, 3, 4, 5, 2], [1, 2], [1, 3, 3, 6, 6, 2]], None)
    ids, segments = tokenizer(tf.constant(["good good good"]), tf.constant(["很好"]))
    assert (ids.to_list(), segments.to_list()) == ([[1, 3, 3, 2, 7, 2]], [[0, 0, 0, 0, 1, 1]])
    lengths, unknown = tokenizer.lengths(tf.constant(["good good bad bad bad", "one two good"]))
    assert (lengths.numpy().tolist(), unknown.numpy().tolist()) == ([7, 5], [0, 2])
    (places,) = tokenizer.pieces(tf.constant(["É, bad 很"]))
    assert (places.starts.to_list(), places.ends.to_list()) == ([[0, 2, 4, 8]], [[2, 3, 7, 11]])


@pytest.fixture
def model(learned):
    model = families.BILSTM.build(options(), 3, seed=1, learned=learned)
    for variable in model.variables:  # far from 0, where a wrong gate would hardly show
        variable.assign(np.random.default_rng(len(variable.path)).normal(size=variable.shape))
    return model


ROWS = Batch(tf.constant([[1, 3, 4, 5, 2], [1, 6, 2, 0, 0]]), None, tf.constant([5, 3]))


def test_its_forward_pass_is_that_of_keras(model):
    mask = tf.sequence_mask(ROWS.lengths)
    expected = model({"token_ids": ROWS.token_ids, "padding_mask": mask})
    assert np.allclose(model.encoder().logits(model.packed(tf.float32), ROWS), expected, atol=1e-5)
    vectors, logits = model.frozen(tf.float32).vectors_and_logits(ROWS)
    assert np.allclose(logits, expected, atol=1e-5)
    assert vectors.shape == (2, model.width)


def test_its_gradients_are_those_of_keras(model):
    def gradients(forward):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.nn.log_softmax(forward())[:, 0])
        return [
            tf.convert_to_tensor(each) for each in tape.gradient(loss, [v.value for v in model.trainable_variables])
        ]

    inputs = {"token_ids": ROWS.token_ids, "padding_mask": tf.sequence_mask(ROWS.lengths)}
    encoder = model.encoder()
    pairs = zip(
        gradients(lambda: encoder.logits(model.packed(tf.float32), ROWS)), gradients(lambda: model(inputs)), strict=True
    )
    assert all(np.allclose(one, other, atol=1e-4) for one, other in pairs)


def test_what_stands_in_the_padding_changes_nothing_and_dropout_depends_on_the_seed_alone(model):
    encoder, weights = model.encoder(), model.packed(tf.float32)
    other = ROWS._replace(token_ids=tf.constant([[1, 3, 4, 5, 2], [1, 6, 2, 7, 8]]))
    assert np.array_equal(encoder.logits(weights, ROWS), encoder.logits(weights, other))
    one, same, different = (
        encoder.logits(weights, ROWS, tf.constant([1, at], tf.int64)).numpy() for at in (3, 3, 4096)
    )
    assert np.array_equal(one, same)
    assert not np.allclose(one, different)


def test_it_is_written_and_loaded(model, tmp_path):
    model.write(tmp_path / "saved", ["a", "b", "c"], backbone_digest="")
    loaded = families.BILSTM.load(tmp_path / "saved")
    assert loaded.tokens == tuple(WORDS)
    assert np.array_equal(loaded.frozen(tf.float32).logits(ROWS), model.frozen(tf.float32).logits(ROWS))


def test_a_warm_start_takes_each_words_vector_to_its_new_place(model, tmp_path):
    model.write(tmp_path / "saved", ["a", "b", "c"], backbone_digest="")
    vocabulary.write(f"{tmp_path}/{vocabulary.FILE}", ["<unk>", "<s>", "</s>", "new", "bad", "good"])
    warm = families.BILSTM.build(options(), 3, seed=2, learned=str(tmp_path))
    before = warm.token_embedding.embeddings.numpy()
    warm.take_weights(tmp_path / "saved", ["a", "b", "c"], backbone_digest="")
    after, old = warm.token_embedding.embeddings.numpy(), model.token_embedding.embeddings.numpy()
    assert np.array_equal(after, [*old[:3], before[3], old[6], old[3]])
    rows = Batch(tf.constant([[1, 5, 4, 2]]), None, tf.constant([4]))
    same = Batch(tf.constant([[1, 3, 6, 2]]), None, tf.constant([4]))
    assert np.allclose(warm.frozen(tf.float32).logits(rows), model.frozen(tf.float32).logits(same), atol=1e-6)
    with pytest.raises(UserError, match="units is 5, and that of the config is 7"):
        other = families.BILSTM.build(options(units=7), 3, seed=2, learned=str(tmp_path))
        other.take_weights(tmp_path / "saved", ["a", "b", "c"], backbone_digest="")


def test_weights_of_another_family_are_refused(model, tmp_path):
    model.write(tmp_path / "saved", ["a", "b", "c"], backbone_digest="")
    with pytest.raises(UserError, match=r"of a network 'bilstm', and model.family makes a network 'bert'"):
        families.BERT.load(tmp_path / "saved")


def test_l2_counts_the_lstms_kernels_only(model):
    kernels = [v.numpy() for v in model.variables if v.name in ("kernel", "recurrent_kernel")][:4]
    assert float(model.penalty()) == pytest.approx(1e-5 * sum((kernel**2).sum() for kernel in kernels), rel=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"family": "bilstm", "backbone": "some/folder"}, "backbone: family: bilstm has no pretrained weights"),
        ({"family": "bilstm", "sha256": {"vocab.txt": "0"}}, "sha256: family: bilstm has no pretrained weights"),
        ({"family": "bilstm", "pooling": "mean"}, "pooling: family: bilstm has no pretrained weights"),
        ({"bilstm": {"units": 8}}, "bilstm: it goes with family: bilstm"),
    ],
)
def test_keys_that_do_not_go_with_the_family_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ModelOptions.model_validate(values)


def test_before_a_run_there_are_no_words():
    with pytest.raises(UserError, match="learns its vocabulary and its vectors from the rows of a run"):
        families.BILSTM.tokenizer(options())
