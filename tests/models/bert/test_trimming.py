import numpy as np
import pytest
import tensorflow as tf
from tiny_bert import LENGTHS, SEGMENTS, TOKENS, frozen, tiny_classifier

from bertline.models.bert import trimming
from bertline.models.bert.backbone import Vocabulary
from bertline.models.bert.tokenizer import Tokenizer
from bertline.models.pooling import Pooling

#            0        1            2        3        4        5         6      7      8       9      10
WORDS = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cats", "cat", "##s", "##at", "##ats"]
WORDS += ["c", "a", "t", "s", "##a", "##t", "好", "猫猫", "dogs", "##ogs"]


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return Vocabulary(path, lowercase=True)


def pieces(folder, *texts):
    """The wordpieces of texts by a vocab.txt, without the special ones at both ends."""
    words = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    ids, _ = Tokenizer(folder / "vocab.txt", lowercase=True, max_length=64)(tf.constant(texts))
    return [[words[place] for place in row[1:-1]] for row in ids.to_list()]


def test_used_special_and_single_pieces_stay_and_what_they_cannot_spell(vocabulary):
    stay = [WORDS[place] for place in trimming.kept(vocabulary, np.array([3, 4, 10]))]
    # "dogs" has letters that no piece has, so it must stay to be known; "cats", "cat" and "##at" can be spelt
    assert stay == [
        *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "##s", "##ats"),
        *("c", "a", "t", "s", "##a", "##t", "好", "猫猫", "dogs", "##ogs"),
    ]


def test_texts_whose_pieces_stay_are_cut_as_before_and_no_word_becomes_unknown(vocabulary, tmp_path):
    used = np.array([WORDS.index(word) for word in ("cat", "##s")])  # of texts such as "tats cat"
    ids = trimming.kept(vocabulary, used)
    folder = tmp_path / "own"
    trimming.write_vocabulary(vocabulary, ids, folder)
    assert pieces(tmp_path, "cat as tat") == [["cat", "a", "##s", "t", "##at"]]
    assert pieces(folder, "cat as tat") == [["cat", "a", "##s", "t", "##a", "##t"]]
    assert pieces(folder, "cats dogs dog") == [["cat", "##s", "dogs", "[UNK]"]]
    assert pieces(tmp_path, "dog") == [["[UNK]"]]


@pytest.mark.parametrize(("inside", "spelt"), [("##c", True), ("##x", False)], ids=["its_form", "no_form"])
def test_a_new_word_is_spelt_where_each_letter_has_its_form_inside_words(tmp_path, inside, spelt):
    words = ["[UNK]", "[CLS]", "[SEP]", "ab", "##cd", "##bc", "a", "##b", "##d", inside]
    words = [word for word in words if spelt or word != "##d"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    whole = Vocabulary(tmp_path / "vocab.txt", lowercase=True)
    trimming.write_vocabulary(whole, trimming.kept(whole, np.array([], int)), tmp_path / "own")
    assert pieces(tmp_path, "abcd") == [["ab", "##cd"]]
    assert pieces(tmp_path / "own", "abcd") == [["a", "##b", "##c", "##d"] if spelt else ["[UNK]"]]


def test_a_trimmed_classifier_gives_the_same_logits_for_the_new_ids():
    model = tiny_classifier(approximate=True, pooling=Pooling("mean", normalised=True))
    ids = np.array([0, 1, 2, 3, 4, 5, 6, 7, 9])  # 8 stands in one row
    small = trimming.trimmed(model, ids)
    new = tf.constant(np.searchsorted(ids, TOKENS).astype(np.int32))
    rows = [1, 2]  # without an 8
    whole, part = frozen(model)(TOKENS, SEGMENTS, LENGTHS), frozen(small)(new, SEGMENTS, LENGTHS)
    assert np.array_equal(tf.gather(whole, rows), tf.gather(part, rows))
    assert small.backbone.token_embedding.embeddings.shape[0] == 9
