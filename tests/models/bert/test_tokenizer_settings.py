"""What a folder says of its tokenizer is done, or refused in words: never ignored."""

import json

import bert_folder as tiny
import pytest
import tensorflow as tf

from bertline.errors import UserError
from bertline.models import families
from bertline.models.recipe import ModelOptions

NORMALIZER = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
WHOLE = {
    "normalizer": {**NORMALIZER, "strip_accents": None, "lowercase": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "model": {"type": "WordPiece", "continuing_subword_prefix": "##"},
}
CAT, UNKNOWN = tiny.WORDS.index("cat"), 1


def written(folder, own=None, whole=None, config=None):
    """A folder without weights: config.json, vocab.txt, and what is named of the tokenizer's own files."""
    folder.mkdir(exist_ok=True)
    said = {"model_type": "bert", "vocab_size": len(tiny.WORDS), **(config or {})}
    contents = {"config.json": said, "tokenizer_config.json": own, "tokenizer.json": whole}
    for name, content in contents.items():
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    (folder / "vocab.txt").write_text("\n".join(tiny.WORDS) + "\n")
    return ModelOptions(backbone=str(folder), max_length=20)


def ids_of(options, text):
    return families.of(options).tokenizer(options)(tf.constant([text]))[0].to_list()[0][1:-1]


def with_normalizer(**changes):
    return {**WHOLE, "normalizer": {**WHOLE["normalizer"], **changes}}


@pytest.mark.parametrize(
    ("own", "whole", "lowercase"),
    [
        (None, None, True),
        ({"do_lower_case": False}, None, False),
        ({"do_lower_case": False, "strip_accents": False, "never_split": ["[MASK]"]}, None, False),
        ({"do_lower_case": True, "strip_accents": True, "tokenizer_class": "ElectraTokenizerFast"}, None, True),
        (None, with_normalizer(lowercase=False), False),
        ({"model_max_length": 512}, with_normalizer(lowercase=False, strip_accents=False), False),
        ({"do_lower_case": True}, with_normalizer(lowercase=False), True),
        (
            {"do_lower_case": True, "tokenizer_class": "PreTrainedTokenizerFast"},
            with_normalizer(lowercase=False),
            False,
        ),
        ({"do_lower_case": None}, None, True),
    ],
)
def test_capitals_are_read_as_the_folder_says(tmp_path, own, whole, lowercase):
    assert ids_of(written(tmp_path, own, whole), "Càt cat") == [CAT if lowercase else UNKNOWN, CAT]


@pytest.mark.parametrize(
    ("own", "whole", "words"),
    [
        ({"strip_accents": False}, None, "tokenizer_config.json: strip_accents is false: .*keeps accents"),
        ({"do_lower_case": False, "strip_accents": True}, None, "strip_accents is true: .*keeps capitals"),
        ({"tokenize_chinese_chars": False}, None, "tokenize_chinese_chars is false: .*Chinese"),
        ({"tokenizer_class": "BertJapaneseTokenizer"}, None, "tokenizer_class is 'BertJapaneseTokenizer'"),
        ({"word_tokenizer_type": "mecab"}, None, 'word_tokenizer_type is "mecab": here it is basic'),
        ({"subword_tokenizer_type": "character"}, None, "subword_tokenizer_type"),
        ({"do_basic_tokenize": False}, None, "do_basic_tokenize is false"),
        ({"never_split": ["flight"]}, None, r'never_split is \["flight"\]'),
        ({"do_lower_case": "no"}, None, "do_lower_case is 'no', and must be true or false"),
        (None, with_normalizer(strip_accents=False), "tokenizer.json: strip_accents is false"),
        (None, with_normalizer(clean_text=False), "clean_text is false"),
        (None, {**WHOLE, "normalizer": {"type": "NFKC"}}, 'normalizer is "NFKC": a BERT\'s is BertNormalizer'),
        (None, {**WHOLE, "pre_tokenizer": {"type": "Whitespace"}}, 'pre_tokenizer is "Whitespace"'),
        (None, {**WHOLE, "model": {"type": "BPE"}}, 'model is "BPE"'),
    ],
)
def test_what_tensorflow_text_cannot_do_is_refused(tmp_path, own, whole, words):
    options = written(tmp_path, own, whole)
    with pytest.raises(UserError, match=words):
        families.of(options).tokenizer(options)


def test_the_class_may_stand_in_config_json(tmp_path):
    options = written(tmp_path, config={"tokenizer_class": "BertJapaneseTokenizer"})
    with pytest.raises(UserError, match=r"config\.json: tokenizer_class is 'BertJapaneseTokenizer'"):
        families.of(options).tokenizer(options)


def test_windows_line_ends_change_no_word(tmp_path):
    options = written(tmp_path)
    (tmp_path / "vocab.txt").write_bytes("\r\n".join([*tiny.WORDS, ""]).encode())
    assert ids_of(options, "the cat sat") == [tiny.WORDS.index(word) for word in ("the", "cat", "sat")]


def test_damaged_files_are_named(tmp_path):
    options = written(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("<html>")
    with pytest.raises(UserError, match=r"tokenizer_config\.json: not JSON"):
        families.of(options).tokenizer(options)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "vocab.txt").write_bytes(b"[UNK]\n\xff\n")
    with pytest.raises(UserError, match=r"vocab\.txt: not in UTF-8 \(invalid start byte at byte 6\)"):
        families.of(options).tokenizer(options)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": ["bert"]}, r"model_type is \['bert'\], and must be a word"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"vocab_size": 61}, "vocab_size is 61, and .* has 30 wordpieces: 31 vectors have no wordpiece"),
        ({"vocab_size": 543}, "513 vectors have no wordpiece, so the vocabulary is another model's"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, config, words):
    options = written(tmp_path, config=config)
    with pytest.raises(UserError, match=words):
        families.of(options).tokenizer(options)


def test_a_table_may_be_padded(tmp_path):
    assert ids_of(written(tmp_path, config={"vocab_size": 32, "position_embedding_type": "absolute"}), "cat") == [CAT]
