import pytest

from bertline.models import words
from bertline.models.bert.tokenizer import Tokenizer

#            0        1        2        3        4    5      6      7       8      9    10    11     12   13
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "##s", "sat", "cafe", "!", "don", "'", "t", "##x"]


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return lambda max_length=12: Tokenizer(path, lowercase=True, max_length=max_length)


@pytest.mark.parametrize(
    ("text", "ids", "found"),
    [
        ("The cats sat!", [2, 4, 5, 6, 7, 9, 3], [("The", (1,)), ("cats", (2, 3)), ("sat!", (4, 5))]),
        ("don't", [2, 10, 11, 12, 3], [("don't", (1, 2, 3))]),
        # Accents are bytes of their own in one spelling and combined ones in the other.
        ("CAFÉ cafe\u0301 sat", [2, 8, 8, 7, 3], [("CAFÉ", (1,)), ("cafe\u0301", (2,)), ("sat", (3,))]),
        ("😀 cats😀 sat", [2, 1, 1, 7, 3], [("😀", (1,)), ("cats😀", (2,)), ("sat", (3,))]),
        ("你好the", [2, 1, 1, 4, 3], [("你", (1,)), ("好", (2,)), ("the", (3,))]),
        ("see\thttp://t.co\u3000!", [2, 1, 1, 1, 1], [("see", (1,)), ("http://t.co", None), ("!", None)]),
        # A zero-width space is read as nothing, alone and within a word.
        ("\u200b ca\u200bts", [2, 5, 6, 3], [("\u200b", ()), ("ca\u200bts", (1, 2))]),
        ("the <script>the", [2, 4, 1, 1, 1, 4, 3], [("the", (1,)), ("<script>the", (2, 3, 4, 5))]),
        ("\ud800 the", [2, 1, 4, 3], [("\ud800", (1,)), ("the", (2,))]),  # as a broken command line gives
        ("", [2, 3], []),
        (" \n ", [2, 3], []),
    ],
)
def test_words_keep_their_place_in_the_users_text(tokenizer, text, ids, found):
    reading = words.read(tokenizer(), text)
    assert reading.ids.tolist()[: len(ids)] == ids
    assert [text[word.start : word.end] for word in reading.words] == [word for word, _ in found]
    for word, (_, tokens) in zip(reading.words, found, strict=True):
        assert tokens is None or word.tokens == tokens


def test_every_token_but_the_special_ones_is_of_one_word(tokenizer):
    reading = words.read(tokenizer(40), "http://t.co/the?cat=1 don't!!! 你sat한국어 \u2028the\x1cthe\x85a\u00adb")
    assert sorted(token for word in reading.words for token in word.tokens) == [*range(1, len(reading.ids) - 1)]


def test_words_that_were_cut_off_have_no_token(tokenizer):
    reading = words.read(tokenizer(5), "the cats sat the")
    assert reading.ids.tolist() == [2, 4, 5, 6, 3]
    assert [word.tokens for word in reading.words] == [(1,), (2, 3), (), ()]


def test_the_words_of_a_pair_are_counted_on_past_the_separator(tokenizer):
    reading = words.read(tokenizer(8), "the the the the", "sat é sat")
    assert reading.ids.tolist() == [2, 4, 4, 4, 3, 7, 1, 3]
    assert reading.segments.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert [(word.part, word.start, word.end, word.tokens) for word in reading.words] == [
        (0, 0, 3, (1,)),
        (0, 4, 7, (2,)),
        (0, 8, 11, (3,)),
        (0, 12, 15, ()),
        (1, 0, 3, (5,)),
        (1, 4, 5, (6,)),
        (1, 6, 9, ()),
    ]
