import json

import pytest
import tensorflow as tf
import tokenizers
import without_tensorflow
from factories import MOODS, keyword_classifier, tiny_model_options

from bertline.errors import UserError
from bertline.models import families
from bertline.models.portable import families as portable_families
from bertline.models.portable import folder

KEYWORDS = {"awful": 0, "ordered": 1, "great": 2}
SEVERAL = folder.Answers(
    list(MOODS), temperature=[1.0, 2.0, 0.5], thresholds=[0.5, 0.25, 0.75], abstain=None, pair=True
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A model of pairs with several labels, its options and its folder."""
    top = tmp_path_factory.mktemp("folder")
    options = tiny_model_options(top, dropout=0.0)
    folder.write(top / "onnx", [keyword_classifier(options, KEYWORDS)], families.BERT, options, SEVERAL)
    return options, top / "onnx"


def test_long_pairs_are_cut_as_the_served_model_cuts_them(written):
    options, path = written
    lengths = [0, 1, 5, 6, 7, 8, 30]  # max_length is 16, which leaves 13
    pairs = [("great " * first, "awful " * second) for first in lengths for second in lengths]
    ids, segments = families.BERT.tokenizer(options)(*(tf.constant(texts) for texts in zip(*pairs, strict=True)))
    rows = without_tensorflow.encode_pairs(path, pairs)
    masks = [row.attention_mask for row in rows]
    for name, expected in {"ids": ids, "type_ids": segments}.items():
        found = [getattr(row, name)[: sum(mask)] for row, mask in zip(rows, masks, strict=True)]
        assert found == expected.to_list()


def test_labels_json_says_what_makes_the_answer(written):
    _, path = written
    facts = json.loads((path / "labels.json").read_text())
    assert (facts["multi_label"], facts["thresholds"]) == (True, dict(zip(MOODS, [0.5, 0.25, 0.75], strict=True)))
    assert (facts["temperature"], facts["pair"], facts["second_keeps"]) == ([1.0, 2.0, 0.5], True, 6)


def test_a_tokenizer_that_reads_otherwise_is_not_written(tmp_path, monkeypatch):
    options = tiny_model_options(tmp_path)
    made = tokenizers.BertWordPieceTokenizer(options.backbone.vocabulary, lowercase=True)
    monkeypatch.setattr(portable_families.Bert, "tokenizer", lambda self, options: (made, None))
    with pytest.raises(UserError, match="otherwise than the served model"):
        folder.write(tmp_path / "onnx", [], families.BERT, options, SEVERAL)
    assert not (tmp_path / "onnx").exists()


def test_a_family_that_cannot_be_written_is_refused_before_anything_is_trained(written, monkeypatch):
    options, _ = written
    portable_families.check(options)
    monkeypatch.setattr(type(families.BERT), "name", "words")
    with pytest.raises(UserError, match="family words cannot be written as ONNX"):
        portable_families.check(options)
