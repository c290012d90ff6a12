"""Which words an answer rests on, by integrated gradients on the word embeddings.

Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017. The score of a label is its log-odds,
log p / (1 - p), of the probability p that the model serves: there, what words say adds up, and near certainty it does
not flatten as a probability does. The embeddings of a row's words are led on a straight line from a baseline, which
says nothing, to what they are; the slope of the score along the line, summed over it, is what each token adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras_hub
import numpy as np
import tensorflow as tf

from bertline.models import words
from bertline.models.encoder import Batch, Encoder, pack
from bertline.models.tokenizer import Tokenizer
from bertline.models.words import Reading

# The wordpiece that a BERT was trained to take for a word it is not told. So the baseline is the text with its words
# masked, a place the network has seen; a vector of zeros, or [PAD], is none. The special tokens stay as they are.
BASELINE = "[MASK]"
# What the attributions may miss of the score's difference from the baseline. The paper asks for 5%; of a difference
# below 1, which is no evidence either way, it is 5% of 1.
TOLERANCE = 0.05
# Where on the line the gradient is taken. Cut where it misses, tweets end with some 20; of 17 spaced evenly one row
# in eight missed more than 5%, of 33 none.
FIRST_POINTS, MOST_POINTS = 9, 257
TOKENS_AT_ONCE = 1024  # kept with all their activations until the gradient is known: 2 GB in a BERT-base of 512 tokens


@dataclass(frozen=True)
class Attribution:
    """What the words of a row add to the score of a label.

    Attributes:
        label: its index.
        values: float64 [words], in log-odds; 0 for a word that the model does not read.
        score: the label's log-odds.
        baseline: the same without the words.
    """

    label: int
    values: np.ndarray
    score: float
    baseline: float

    @property
    def residual(self) -> float:
        """The score's difference from the baseline less the sum of the values: 0 if they are exact (completeness)."""
        return self.score - self.baseline - float(self.values.sum())

    @property
    def complete(self) -> bool:
        """Whether the residual is within TOLERANCE."""
        return bool(abs(self.residual) <= _allowed(self.score - self.baseline))


class Explainer:
    """A classifier asked why, in float32 whatever it is served in.

    Args:
        model: the classifier; the softmax of its logits is what it answers.
        tokenizer: as the model's.
    """

    def __init__(self, model: keras_hub.models.BertTextClassifier, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self._encoder, self._weights = Encoder.of(model), pack(model, tf.float32)
        self._baseline = self._weights.words[tokenizer.id(BASELINE)]

    def read(self, text: str, pair: str | None = None) -> Reading:
        """The row's tokens and words; `pair` is the second text, for a model of text pairs."""
        return words.read(self.tokenizer, text, pair)

    def probabilities(self, readings: Sequence[Reading]) -> np.ndarray:
        """What the model answers to rows, float32 [rows, labels]."""
        found = []
        longest = max(len(reading.ids) for reading in readings)
        size = max(1, TOKENS_AT_ONCE // longest)
        for start in range(0, len(readings), size):
            found.append(tf.nn.softmax(self._encoder.logits(self._weights, _batch(readings[start : start + size]))))
        return np.concatenate(found)

    def integrated_gradients(self, reading: Reading, labels: Sequence[int]) -> list[Attribution]:
        """What each word adds to the score of each of the labels.

        The integral is taken by trapezoids. The score itself says what each piece of the line should come to, so the
        line is cut finer where they differ, until what is missed of all pieces is within TOLERANCE, or for good at
        MOST_POINTS: see Attribution.complete.
        """
        labels = tf.constant(labels, tf.int32)
        at = np.linspace(0, 1, FIRST_POINTS)
        scores, slopes = self._along(reading, labels, at)  # [points, labels], [points, labels, tokens]
        while True:
            widths = np.diff(at)[:, None, None]
            pieces = widths * (slopes[1:] + slopes[:-1]) / 2  # [pieces of the line, labels, tokens]
            missed = np.abs(np.diff(scores, axis=0) - pieces.sum(-1))  # [pieces, labels]
            allowed = _allowed(scores[-1] - scores[0])  # [labels]
            if len(at) >= MOST_POINTS or (missed.sum(0) <= allowed).all():
                break
            coarse = (missed > allowed / len(missed)).any(-1)
            between = ((at[1:] + at[:-1]) / 2)[coarse]
            order = np.argsort(np.concatenate([at, between]))
            at = np.concatenate([at, between])[order]
            scores, slopes = (
                np.concatenate(both)[order]
                for both in zip((scores, slopes), self._along(reading, labels, between), strict=True)
            )
        by_token = pieces.sum(0)  # [labels, tokens]
        return [
            Attribution(
                label=int(label),
                values=np.array([by_token[place, list(word.tokens)].sum() for word in reading.words]),
                score=float(scores[-1, place]),
                baseline=float(scores[0, place]),
            )
            for place, label in enumerate(labels)
        ]

    def _along(self, reading: Reading, labels: tf.Tensor, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The line from the baseline (0) to the row (1), at some of its points.

        Returns:
            scores of the labels, float64 [points, labels], and their slopes by token, float64 [points, labels, tokens].
        """
        embeddings = tf.gather(self._weights.words, reading.ids)  # [tokens, hidden]
        is_word = np.zeros((len(reading.ids), 1), bool)
        is_word[[token for word in reading.words for token in word.tokens]] = True
        way = tf.where(is_word, embeddings - self._baseline, 0.0)
        size = max(1, TOKENS_AT_ONCE // len(reading.ids))
        scores, slopes = [], []
        for start in range(0, len(at), size):
            # A coordinate on the line for each token: the slope by it is that by the embedding, times the way.
            places = tf.repeat(tf.constant(at[start : start + size, None], tf.float32), len(reading.ids), axis=1)
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(places)
                points = embeddings + (places[:, :, None] - 1.0) * way  # [points, tokens, hidden]
                by_label = tf.unstack(_log_odds(self._logits(points, reading.segments), labels), axis=1)
            scores.append(np.stack(by_label, axis=1))
            slopes.append(np.stack([tape.gradient(score, places) for score in by_label], axis=1))
        return np.concatenate(scores).astype(np.float64), np.concatenate(slopes).astype(np.float64)

    def _logits(self, embeddings: tf.Tensor, segments: np.ndarray | None) -> tf.Tensor:
        """Logits, float32 [rows, labels], of rows given by their word embeddings, float32 [rows, tokens, hidden]."""
        rows, tokens, hidden = embeddings.shape
        # The encoder looks embeddings up by id: here each token has a table's row of its own.
        weights = self._weights._replace(words=tf.reshape(embeddings, [-1, hidden]))
        ids = tf.reshape(tf.range(rows * tokens), [rows, tokens])
        segment_ids = None if segments is None else tf.tile(segments[None], [rows, 1])
        return self._encoder.logits(weights, Batch(ids, segment_ids, tf.fill([rows], tokens)))


def _log_odds(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Log-odds of some of the labels, int32 [chosen], from logits [rows, labels]: float32 [rows, chosen]."""
    others = logits[:, None] - 1e9 * tf.one_hot(labels, logits.shape[1])  # [rows, chosen, labels]
    return tf.gather(logits, labels, axis=1) - tf.reduce_logsumexp(others, axis=-1)


def _allowed(difference: np.ndarray | float) -> np.ndarray | float:
    """The largest residual of attributions to scores that differ so much from their baselines."""
    return TOLERANCE * np.maximum(np.abs(difference), 1.0)


def _batch(readings: Sequence[Reading]) -> Batch:
    """Rows as the encoder takes them."""
    lengths = [len(reading.ids) for reading in readings]
    ids = np.zeros((len(readings), max(lengths)), np.int32)
    segments = None if readings[0].segments is None else np.zeros_like(ids)
    for row, reading in enumerate(readings):
        ids[row, : lengths[row]] = reading.ids
        if segments is not None:
            segments[row, : lengths[row]] = reading.segments
    return Batch(ids, segments, tf.constant(lengths, tf.int32))
