import pytest
import tensorflow as tf

from bertline.errors import UserError
from bertline.models.bert.tokenizer import Tokenizer, read_vocabulary

#            0        1        2        3        4    5      6      7       8     9    10
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "##s", "sat", "好", "!", "cafe"]


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return path


def tokenizer(vocabulary, max_length=8, lowercase=True):
    return Tokenizer(vocabulary, lowercase=lowercase, max_length=max_length)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("The cats sat!", [2, 4, 5, 6, 7, 9, 3]),
        ("", [2, 3]),
        ("你好", [2, 1, 8, 3]),  # each Chinese character is a word
        ("cat😀", [2, 1, 3]),  # an emoji in a word makes the word unknown, as in BERT's own tokenizer
        ("Café", [2, 10, 3]),  # accents are stripped where the weights are uncased
        ("the " * 25_000, [2, 4, 4, 4, 4, 4, 4, 3]),  # 100,000 characters
        ("x" * 100_000, [2, 1, 3]),
    ],
)
def test_ids(vocabulary, text, ids):
    token_ids, segment_ids = tokenizer(vocabulary)(tf.constant([text]))
    assert token_ids.to_list() == [ids]
    assert segment_ids is None


def test_cased_vocabulary_keeps_case(vocabulary):
    assert tokenizer(vocabulary, lowercase=False)(tf.constant(["The the"]))[0].to_list() == [[2, 1, 4, 3]]


@pytest.mark.parametrize(
    ("text", "pair", "ids", "segments"),
    [
        ("the cat", "sat", [2, 4, 5, 3, 7, 3], [0, 0, 0, 0, 1, 1]),
        ("the the the the the the", "sat", [2, 4, 4, 4, 4, 3, 7, 3], [0, 0, 0, 0, 0, 0, 1, 1]),
        ("cat", "sat sat sat sat sat sat", [2, 5, 3, 7, 7, 7, 7, 3], [0, 0, 0, 1, 1, 1, 1, 1]),
        ("the the the the", "sat sat sat sat", [2, 4, 4, 4, 3, 7, 7, 3], [0, 0, 0, 0, 0, 1, 1, 1]),
        ("", "", [2, 3, 3], [0, 0, 1]),
    ],
)
def test_pairs_lose_tokens_of_the_longer_text_first(vocabulary, text, pair, ids, segments):
    token_ids, segment_ids = tokenizer(vocabulary)(tf.constant([text]), tf.constant([pair]))
    assert token_ids.to_list() == [ids]
    assert segment_ids.to_list() == [segments]


def test_rows_of_a_batch_do_not_touch_each_other(vocabulary):
    token_ids, _ = tokenizer(vocabulary)(tf.constant(["the cat", "", "sat"]))
    assert token_ids.to_list() == [[2, 4, 5, 3], [2, 3], [2, 7, 3]]


def test_the_graph_needs_no_file(vocabulary, tmp_path):
    module = tf.Module()
    tokenise = tokenizer(vocabulary)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def ids(text):
        return tokenise(text)[0].to_tensor()

    module.ids = ids
    tf.saved_model.save(module, str(tmp_path / "saved"))
    vocabulary.unlink()
    assert tf.saved_model.load(str(tmp_path / "saved")).ids(tf.constant(["the cat"])).numpy().tolist() == [[2, 4, 5, 3]]


def test_line_separators_inside_a_wordpiece_are_no_line_ends(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("[UNK]\n[CLS]\n[SEP]\n\u2028\nthe\n".encode())
    assert read_vocabulary(path)[3:] == ["\u2028", "the"]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["a", "b"], r"lack \[UNK\], \[CLS\], \[SEP\]"), ([*WORDS, "cat"], "'cat' appears 2 times")],
)
def test_a_wrong_vocabulary_is_refused(tmp_path, words, message):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_vocabulary(path)


def test_lengths_are_those_of_the_whole_texts(vocabulary):
    lengths, unknown = tokenizer(vocabulary).lengths(tf.constant(["the " * 9 + "dog", "", "cat 😀"]))
    assert (lengths.numpy().tolist(), unknown.numpy().tolist()) == ([12, 2, 4], [1, 0, 1])
    lengths, unknown = tokenizer(vocabulary).lengths(tf.constant(["the dog"]), tf.constant(["dog sat sat"]))
    assert (lengths.numpy().tolist(), unknown.numpy().tolist()) == ([8], [2])
