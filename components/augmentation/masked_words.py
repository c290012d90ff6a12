"""Words that a masked language model puts in the place of others (Wu et al. 2019, without their labels)."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from bertline.components.augmentation.eda import times
from bertline.components.augmentation.words import Words, is_plain
from bertline.errors import UserError
from bertline.models import families
from bertline.models.bert import backbone as weights
from bertline.models.bert import classifier, masked_lm
from bertline.models.bert.backbone_config import masked_lm_fault
from bertline.models.bert.masked_lm import MaskedLm
from bertline.models.bert.tokenizer import MASK, SEPARATOR, START, Tokenizer, read_vocabulary
from bertline.models.family import Batch
from bertline.models.recipe import ModelOptions

LIKELIEST = 10  # words that are drawn from, by their probability; further down they no longer fit
BATCH = 32  # texts


class _Gaps(NamedTuple):
    """A text with gaps: its words, the places of those that are masked, the ids, and where the masks are in them."""

    words: Words
    places: list[int]
    ids: list[int]
    masks: list[int]


class MaskedWords:
    """Masks n = share x l of a text's l words, and draws others from what the network finds likeliest there.

    Args:
        options: name the backbone.
        share: of the words.
        dtype: of the matrix products.

    Raises:
        UserError: the backbone is no BERT, has no masked-LM head, or its vocabulary no [MASK].
    """

    def __init__(self, options: ModelOptions, share: float, dtype: tf.DType):
        if families.of(options) is not families.BERT:
            raise UserError("train.augment.operations: masked_lm: only BERTs can do it; take it out")
        if fault := masked_lm_fault(weights.kind(options)):
            raise UserError(f"train.augment.operations: masked_lm: {fault}")
        head = masked_lm.head_of(weights.local_folder(options))
        words = weights.vocabulary(options)
        self._vocabulary = read_vocabulary(words.path)
        if head is None or MASK not in self._vocabulary:
            raise UserError(
                "train.augment.operations: masked_lm needs weights with a masked-LM head, and those of model.backbone "
                "have none. Add `pretrain: {}`, which trains one on your texts, or take masked_lm out"
            )
        self._share, self._dtype, self._most = share, dtype, options.max_length
        self._tokenizer = Tokenizer(words.path, lowercase=words.lowercase, max_length=options.max_length)
        # Only whole words of letters take another's place.
        self._unfit = np.array([not word.isalpha() for word in self._vocabulary])
        self._masked = MaskedLm(classifier.from_options(options, 2, seed=0), head, 0)
        ids = tf.TensorSpec([None, None], tf.int32)
        spec = [ids, tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, None], tf.bool)]
        self._fill = tf.function(self._filled, input_signature=spec, autograph=False)

    def __call__(self, texts: list[str], chances: list[Random]) -> list[str | None]:
        """A changed text for each, or None where there is no word to change; see operations.Operation."""
        gaps = self._with_gaps(texts, chances)
        changed: list[str | None] = [None] * len(texts)
        order = sorted((place for place, gap in enumerate(gaps) if gap.masks), key=lambda place: len(gaps[place].ids))
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            logits = self._logits([gaps[place] for place in part])
            for place in part:
                own, logits = np.split(logits, [len(gaps[place].masks)])
                changed[place] = self._with_others(gaps[place], own, chances[place])
        return changed

    def _with_gaps(self, texts: list[str], chances: list[Random]) -> list[_Gaps]:
        split, pieces = [], []
        for text, chance in zip(texts, chances, strict=True):
            words = Words(text)
            plain = [place for place in range(len(words)) if is_plain(words[place])]
            places = sorted(chance.sample(plain, min(times(len(words), self._share), len(plain))))
            bounds = [-1, *places, len(words)]
            # A word stands between spaces and punctuation, where BERT's tokenizer splits too: the parts by themselves
            # have the ids that they have in the text.
            parts = ["".join(words.parts[2 * before + 2 : 2 * after + 1]) for before, after in pairwise(bounds)]
            split.append((words, places, len(parts)))
            pieces += parts
        ids, _ = self._tokenizer(tf.constant(pieces))
        inner = iter([row[1:-1] for row in ids.to_list()])
        return [self._joined(words, places, [next(inner) for _ in range(count)]) for words, places, count in split]

    def _joined(self, words: Words, places: list[int], parts: list[list[int]]) -> _Gaps:
        ids, masks = [self._tokenizer.id(START)], []
        for position, part in enumerate(parts):
            if position:
                masks.append(len(ids))
                ids.append(self._tokenizer.id(MASK))
            ids += part
        ids = [*ids[: self._most - 1], self._tokenizer.id(SEPARATOR)]
        kept = [mask for mask in masks if mask < len(ids) - 1]
        return _Gaps(words, places[: len(kept)], ids, kept)

    def _logits(self, gaps: list[_Gaps]) -> np.ndarray:
        """Logits of all words at each mask, float32 [masks, vocabulary], text by text."""
        longest = max(len(gap.ids) for gap in gaps)
        ids, chosen = np.zeros((len(gaps), longest), np.int32), np.zeros((len(gaps), longest), bool)
        for row, gap in enumerate(gaps):
            ids[row, : len(gap.ids)] = gap.ids
            chosen[row, gap.masks] = True
        return self._fill(ids, np.array([len(gap.ids) for gap in gaps], np.int32), chosen).numpy()

    def _filled(self, ids: tf.Tensor, lengths: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
        return self._masked.at(Batch(ids, None, lengths), chosen, self._dtype, None)

    def _with_others(self, gaps: _Gaps, logits: np.ndarray, chance: Random) -> str:
        for place, scores in zip(gaps.places, logits, strict=True):
            old = gaps.words[place]
            scores = np.where(self._unfit, -np.inf, scores)
            likeliest = np.argsort(-scores, kind="stable")[: LIKELIEST + 1]
            others = [number for number in likeliest if self._vocabulary[number].lower() != old.lower()][:LIKELIEST]
            shares = np.exp(scores[others] - scores[others].max())
            (drawn,) = chance.choices(others, shares.tolist())
            word = self._vocabulary[drawn]
            gaps.words[place] = word[:1].upper() + word[1:] if old[:1].isupper() else word
        return str(gaps.words)
