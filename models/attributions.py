"""Which words an answer rests on, by integrated gradients on the word embeddings.

Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017. The score of a label is its log-odds,
log p / (1 - p), where p is the probability that the model serves. Contributions of words add up in log-odds, and near
certainty log-odds do not flatten as a probability does. The embeddings of a row's words move on a straight line from a
reference, which says nothing, to what they are. The slope of the score, summed along the line, is what each token adds.
The paper calls the reference a baseline; in bertline that word means TF-IDF.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from bertline.models import ensemble, words
from bertline.models.family import Batch, Classifier, Tokenizer
from bertline.models.words import Reading

# The reference is the text with its words masked and its special tokens as they are. In pretraining the weights have
# seen the mask in place of words that they had to guess, and never a vector of zeros there, or padding.
# The share of the score's difference from the reference that the attributions may miss. The paper asks for 5%. Where
# the difference is below 1, which is no evidence either way, 5% of 1 counts.
TOLERANCE = 0.05
# Points of the line where the gradient is taken. The line is cut finer where the sum is off, and tweets end with some
# 20 points. With 17 evenly spaced points one row in eight missed more than 5%, with 33 none.
FIRST_POINTS, MOST_POINTS = 9, 257
TOKENS_AT_ONCE = 1024  # all their activations are kept for the gradient: 2 GB in a BERT-base with 512 tokens


@dataclass(frozen=True)
class Attribution:
    """What the words of a row add to the score of a label.

    Attributes:
        label: its index.
        values: float64 [words], in log-odds; 0 for a word that the model does not read.
        score: the label's log-odds.
        reference: its log-odds with the words masked.
    """

    label: int
    values: np.ndarray
    score: float
    reference: float

    @property
    def residual(self) -> float:
        """What the values miss of the score's difference from the reference; 0 if they are exact (completeness)."""
        return self.score - self.reference - float(self.values.sum())

    @property
    def complete(self) -> bool:
        """Whether the residual is within TOLERANCE."""
        return bool(abs(self.residual) <= _allowed(self.score - self.reference))


class Explainer:
    """Explains a classifier's answers. It computes in float32, whatever dtype is served.

    Args:
        members: the classifiers whose probabilities are averaged; mostly one. Each has embeddings of its own, and all
            move together along their lines.
        tokenizer: the members'.
        temperature: what the logits are divided by; of a multi-label model one number per label.
    """

    def __init__(self, members: Sequence[Classifier], tokenizer: Tokenizer, temperature: float | Sequence[float] = 1.0):
        self.tokenizer = tokenizer
        self._members = [(member.encoder(), member.packed(tf.float32)) for member in members]
        self._multi_label = members[0].multi_label
        self._mask = tokenizer.mask
        self._temperature = np.asarray(temperature, np.float32)

    def read(self, text: str, pair: str | None = None) -> Reading:
        """The row's tokens and words; `pair` is the second text, for a model of text pairs."""
        return words.read(self.tokenizer, text, pair)

    def probabilities(self, readings: Sequence[Reading]) -> np.ndarray:
        """The model's probabilities for rows, float32 [rows, labels]."""
        longest = max(len(reading.ids) for reading in readings)
        size = max(1, TOKENS_AT_ONCE // longest)
        batches = [_batch(readings[start : start + size]) for start in range(0, len(readings), size)]
        activation = tf.sigmoid if self._multi_label else tf.nn.softmax
        logits = (
            self._mean([encoder.logits(weights, batch) for encoder, weights in self._members]) for batch in batches
        )
        return np.concatenate([activation(each) for each in logits])

    def integrated_gradients(self, reading: Reading, labels: Sequence[int]) -> list[Attribution]:
        """What each word adds to the score of each of the labels.

        The integral is computed with trapezoids. The scores at the ends of a piece of the line say what the piece
        should add up to. Pieces that are off are cut in two, until the sum of all errors is within TOLERANCE or the
        line has MOST_POINTS points (see Attribution.complete).
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
                reference=float(scores[0, place]),
            )
            for place, label in enumerate(labels)
        ]

    def _along(self, reading: Reading, labels: tf.Tensor, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores and slopes at some points of the line from the reference (0) to the row (1).

        Returns:
            the labels' scores, float64 [points, labels], and their slopes by token, float64 [points, labels, tokens].
        """
        is_word = np.zeros((len(reading.ids), 1), bool)
        is_word[[token for word in reading.words for token in word.tokens]] = True
        size = max(1, TOKENS_AT_ONCE // len(reading.ids))
        scores, slopes = [], []
        for start in range(0, len(at), size):
            # Each token gets its own coordinate on the line. The slope by it is the slope by the embedding, times the
            # way from mask to word.
            places = tf.repeat(tf.constant(at[start : start + size, None], tf.float32), len(reading.ids), axis=1)
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(places)
                by_label = tf.unstack(self._scores(self._logits(reading, is_word, places), labels), axis=1)
            scores.append(np.stack(by_label, axis=1))
            slopes.append(np.stack([tape.gradient(score, places) for score in by_label], axis=1))
        return np.concatenate(scores).astype(np.float64), np.concatenate(slopes).astype(np.float64)

    def _logits(self, reading: Reading, is_word: np.ndarray, places: tf.Tensor) -> tf.Tensor:
        """Logits, float32 [points, labels], of the row with its tokens at some places of the line, [points, tokens]."""
        points, tokens = places.shape
        segment_ids = None if reading.segments is None else tf.tile(reading.segments[None], [points, 1])
        # The encoder looks embeddings up by id, so each token gets a row of its own in a table.
        batch = Batch(tf.reshape(tf.range(points * tokens), [points, tokens]), segment_ids, tf.fill([points], tokens))
        logits = []
        for encoder, weights in self._members:
            embeddings = tf.gather(weights.words, reading.ids)  # [tokens, hidden]
            way = tf.where(is_word, embeddings - weights.words[self._mask], 0.0)
            moved = embeddings + (places[:, :, None] - 1.0) * way  # [points, tokens, hidden]
            table = tf.reshape(moved, [-1, moved.shape[-1]])
            logits.append(encoder.logits(weights._replace(words=table), batch))
        return self._mean(logits)

    def _mean(self, logits: list[tf.Tensor]) -> tf.Tensor:
        """The logits of the members' mean at the temperature, float32 [rows, labels]."""
        return ensemble.mean(logits, multi_label=self._multi_label) / self._temperature

    def _scores(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Log-odds, float32 [rows, some], of some labels; of a multi-label model they are the label's own logit."""
        return tf.gather(logits, labels, axis=1) if self._multi_label else _log_odds(logits, labels)


def _log_odds(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Log-odds, float32 [rows, some], of some labels, int32 [some], from logits [rows, labels]."""
    others = logits[:, None] - 1e9 * tf.one_hot(labels, logits.shape[1])  # [rows, some, labels]
    return tf.gather(logits, labels, axis=1) - tf.reduce_logsumexp(others, axis=-1)


def _allowed(difference: np.ndarray | float) -> np.ndarray | float:
    """The largest residual that is allowed where a score differs so much from its reference."""
    return TOLERANCE * np.maximum(np.abs(difference), 1.0)


def _batch(readings: Sequence[Reading]) -> Batch:
    """Rows, padded to the longest."""
    lengths = [len(reading.ids) for reading in readings]
    ids = np.zeros((len(readings), max(lengths)), np.int32)
    segments = None if readings[0].segments is None else np.zeros_like(ids)
    for row, reading in enumerate(readings):
        ids[row, : lengths[row]] = reading.ids
        if segments is not None:
            segments[row, : lengths[row]] = reading.segments
    return Batch(ids, segments, tf.constant(lengths, tf.int32))
