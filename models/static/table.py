"""The table of a vocabulary's vectors, distilled from a transformer, as Model2Vec does it.

Tulkens and van Dongen, "Model2Vec: Fast State-of-the-Art Static Embeddings", 2024 (the package model2vec 0.10, module
`distill.inference`): each token of the vocabulary goes through the encoder by itself, between the special tokens, and
is pooled as a row would be. PCA turns and shortens the vectors. Then each is multiplied by the weight a / (a + p) of
SIF (Arora, Liang and Ma, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings", ICLR 2017), where Zipf's law
gives p, the token's frequency: 1 / (rank + 1), made to sum to 1. The rank counts from 1 the tokens that stand for a
part of a text, in the order of the vocabulary: frequent pieces have low ids, but for single characters, which come
first.

Two things are our own. Tokens that stand in no text, or in every text, get vectors of zeros. And the table is scaled as
a whole, so that the recipe suits all backbones.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import tensorflow as tf

from bertline.errors import UserError
from bertline.models.dataset import Rows
from bertline.models.embeddings import FrozenEncoder
from bertline.models.pooling import Pooling

if TYPE_CHECKING:
    from bertline.models.bert.classifier import Classifier
    from bertline.models.family import Tokenizer
    from bertline.models.recipe import ModelOptions, StaticOptions

FORM = 2  # of the table; counted up when the same options give another one
LENGTH = 1.0  # root mean square of a number in the table
_log = logging.getLogger(__name__)


class Spells(Protocol):
    """What a family has that vectors can be distilled from, beside the methods of Family."""

    def spelling(self, options: ModelOptions) -> np.ndarray:
        """Which ids of the vocabulary stand for a part of a text, bool [vocabulary]; the others are special."""


def distilled(
    encoder: Classifier, spelling: np.ndarray, tokenizer: Tokenizer, options: StaticOptions, section: str
) -> np.ndarray:
    """The table of an encoder's vocabulary.

    Args:
        encoder: a classifier with BERT's network; its head is not used, and it stays as it is.
        spelling: see Spells.spelling.
        tokenizer: the encoder's, which says what stands around a text.
        options: the table's dimensions and weights.
        section: of the config that has them, for errors.

    Returns:
        float32 [words of the network, dimensions].

    Raises:
        UserError: there are more dimensions than the encoder's vectors have, or than tokens.
    """
    ids = np.flatnonzero(spelling)
    if options.dimensions > encoder.width:
        raise UserError(
            f"{section}.dimensions: {options.dimensions} are more than the {encoder.width} of the vectors that they "
            f"are distilled from; set it to {encoder.width} or less"
        )
    if options.dimensions > len(ids):
        raise UserError(
            f"{section}.dimensions: {options.dimensions} are more than the {len(ids):,} tokens; set it lower"
        )
    vectors = weighted(reduced(_token_vectors(encoder, ids, tokenizer), options.dimensions), options.sif)
    table = np.zeros((encoder.packed(tf.float32).words.shape[0], options.dimensions), np.float32)
    table[ids] = vectors * (LENGTH / np.sqrt(np.mean(np.square(vectors))))
    return table


def reduced(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    """The first principal components of vectors [tokens, hidden], float64 [tokens, dimensions]."""
    from sklearn.decomposition import PCA

    return PCA(dimensions, svd_solver="covariance_eigh").fit_transform(vectors.astype(np.float64))


def weighted(vectors: np.ndarray, sif: float | None) -> np.ndarray:
    """Vectors [tokens, dimensions], the most frequent token first, times its weight; as they are where sif is None."""
    return vectors if sif is None else vectors * weights(len(vectors), sif)[:, None]


def weights(tokens: int, sif: float) -> np.ndarray:
    """The weight of each of so many tokens, the most frequent first, float64 [tokens]."""
    frequency = 1 / np.arange(2, tokens + 2)
    return sif / (sif + frequency / frequency.sum())


def _token_vectors(encoder: Classifier, ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Each token's pooled vector, float32 [tokens, hidden], at the length that the encoder gives it."""
    frame = tokenizer(tf.constant([""]))[0].values.numpy()  # such as [CLS] [SEP]
    rows = np.tile(np.append(frame, 0), (len(ids), 1))
    rows[:, -2], rows[:, -1] = ids, frame[-1]
    pooling, encoder.pooling = encoder.pooling, Pooling(encoder.pooling.kind)
    try:
        encode = FrozenEncoder(encoder, tf.float32)
    finally:
        encoder.pooling = pooling
    ragged = tf.RaggedTensor.from_tensor(tf.constant(rows, tf.int32))
    return encode(Rows(ragged, None, np.zeros(len(ids), np.int32)))


# === Kept between runs ===


def kept(digest: str) -> Path:
    """The file of a table that was distilled before, in the user's folder of caches.

    Args:
        digest: of all that the table depends on, but for FORM.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(f"{FORM} {digest}".encode()).hexdigest()
    return home / "bertline" / "static" / f"{name}.npy"


def read(file: Path) -> np.ndarray | None:
    """The table that `keep` wrote; None where there is none."""
    return np.load(file, allow_pickle=False) if file.is_file() else None


def keep(file: Path, table: np.ndarray) -> None:
    """Writes a table for later runs. Where that cannot be, a later run distils it again."""
    unfinished = file.with_name(f"{file.stem}.{os.getpid()}.npy")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(unfinished, table, allow_pickle=False)
        unfinished.replace(file)
    except OSError as error:
        _log.warning("%s cannot be written: %s. The next run distils the table again.", file, error)
