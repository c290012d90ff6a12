import json

import pytest
import sentencepiece
import tensorflow as tf
import xlm_roberta_folder as tiny

from bertline.errors import UserError
from bertline.models import words
from bertline.models.xlm_roberta.tokenizer import Tokenizer
from bertline.models.xlm_roberta.vocabulary import input_prefix, read_vocabulary

TEXTS = [
    "  The cat   sat! ",
    "",
    "这本书很好，好的世界",
    "ﬁne ① ＡＢＣ",  # as NFKC writes them: fine 1 ABC
    "a\u200bb\tc\u3000d\ne",
    "Où est la gare, s'il vous plaît? 駅はどこですか 🚆🚆",
    "Привет, мир",
]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    corpus = [*TEXTS[:5], *TEXTS[2:3] * 20, "the cat sat on the mat", "这本书 很好 世界"] * 3
    path = tiny.write_vocabulary(tmp_path_factory.mktemp("words") / "sentencepiece.bpe.model", corpus, pieces=90)
    return read_vocabulary(path)


def fairseq_ids(vocabulary, text):
    """As Hugging Face documents XLM-R's ids: SentencePiece's own and one more; <unk> is 3."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model)
    return [number + 1 if number else 3 for number in processor.encode(text)]


@pytest.mark.parametrize("prefix", ["", "query: "])
def test_ids_are_sentencepieces_own_and_one_more(vocabulary, prefix):
    ids, segments = Tokenizer(vocabulary, max_length=64, prefix=prefix)(tf.constant(TEXTS))
    assert ids.to_list() == [[0, *fairseq_ids(vocabulary, prefix + text), 2] for text in TEXTS]
    assert segments is None
    assert any(3 in row for row in ids.to_list())  # the train is not in the vocabulary


def test_a_pair_has_two_ends_between_its_texts_and_no_segments(vocabulary):
    first, second = fairseq_ids(vocabulary, "query: " + TEXTS[0]), fairseq_ids(vocabulary, TEXTS[2])
    ids, segments = Tokenizer(vocabulary, max_length=64, prefix="query: ")(
        tf.constant([TEXTS[0]]), tf.constant([TEXTS[2]])
    )
    assert ids.to_list() == [[0, *first, 2, 2, *second, 2]]
    assert segments.to_list() == [[0] * len(ids.to_list()[0])]


def test_long_rows_are_cut_and_counted_whole(vocabulary):
    tokenizer = Tokenizer(vocabulary, max_length=9)
    text, pair = tf.constant(["cat " * 50]), tf.constant(["sat"])
    whole, end = fairseq_ids(vocabulary, "cat " * 50), fairseq_ids(vocabulary, "sat")
    assert tokenizer(text)[0].to_list() == [[0, *whole[:7], 2]]
    kept = 5 - min(len(end), 5 // 2)
    assert tokenizer(text, pair)[0].to_list() == [[0, *whole[:kept], 2, 2, *end[: 5 - kept], 2]]
    assert [tensor.numpy().tolist() for tensor in tokenizer.lengths(text, pair)] == [[len(whole) + len(end) + 4], [0]]
    assert tokenizer.lengths(tf.constant(["🚆"]))[1].numpy().tolist() == [1]


def test_the_ids_of_the_tables_ends(vocabulary):
    pieces = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model).get_piece_size()
    assert (vocabulary.ids, vocabulary.mask) == (pieces + 2, pieces + 1)  # 250,000 pieces: <mask> is 250,001 in XLM-R


@pytest.mark.parametrize("prefix", ["", "query: "])
def test_every_piece_belongs_to_the_word_that_a_reader_sees(vocabulary, prefix):
    tokenizer = Tokenizer(vocabulary, max_length=64, prefix=prefix)
    text = "  the   cat! 好 sat"
    reading = words.read(tokenizer, text)
    assert [text[word.start : word.end] for word in reading.words] == ["the", "cat!", "好", "sat"]
    first = 1 + len(fairseq_ids(vocabulary, prefix)) if prefix else 1
    tokens = [token for word in reading.words for token in word.tokens]
    assert tokens == [*range(first, len(reading.ids) - 1)]
    assert all(word.tokens for word in reading.words)


def test_characters_that_share_a_piece_are_one_word(vocabulary):
    reading = words.read(Tokenizer(vocabulary, max_length=64), TEXTS[2])
    shown = [TEXTS[2][word.start : word.end] for word in reading.words]
    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model)
    assert "".join(shown) == TEXTS[2]
    assert any(len(word) > 1 for word in shown), processor.encode(TEXTS[2], out_type=str)


def test_the_words_of_a_pair_and_those_that_were_cut_off(vocabulary):
    reading = words.read(Tokenizer(vocabulary, max_length=12), "cat " * 20, "sat")
    second = [word for word in reading.words if word.part == 1]
    assert [word.tokens[-1] for word in second] == [len(reading.ids) - 2]
    assert not reading.words[19].tokens


@pytest.mark.parametrize(
    ("settings", "prefix"),
    [
        ({"prompts": {"query": "query: ", "passage": "passage: "}}, "query: "),
        ({"prompts": {"query": "query: ", "classification": "task: "}}, "task: "),
        ({"prompts": {"query": "query: ", "sts": "x"}, "default_prompt_name": "sts"}, "x"),
        ({"prompts": {"retrieval": "find: "}}, ""),
        ({"prompts": {}}, ""),
        ({}, ""),
    ],
)
def test_the_prefix_is_the_folders(tmp_path, settings, prefix):
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    assert input_prefix(tmp_path) == prefix


def test_a_folder_without_prompts_has_no_prefix(tmp_path):
    assert input_prefix(tmp_path) == ""


@pytest.mark.parametrize("text", ["[]", "{", '{"default_prompt_name": "a", "prompts": {}}'])
def test_broken_prompts_are_refused(tmp_path, text):
    (tmp_path / "config_sentence_transformers.json").write_text(text)
    with pytest.raises(UserError, match=r"config_sentence_transformers\.json: "):
        input_prefix(tmp_path)


def test_what_is_no_vocabulary_of_this_kind_is_refused(tmp_path):
    path = tmp_path / "sentencepiece.bpe.model"
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match=r"sentencepiece\.bpe\.model: no SentencePiece model"):
        read_vocabulary(path)
