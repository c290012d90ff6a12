"""What a family of models is to everything else: the line knows one only by these protocols.

A family turns texts into ids by its own vocabulary, builds and keeps a classifier, and gives its forward pass in two
forms: over weights that are trained or differentiated, and frozen for the SavedModel. bertline.models.families has the
families and finds the one that a backbone is of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from bertline.models.network_size import NetworkSize
from bertline.models.pooling import Pooling
from bertline.models.recipe import ModelOptions


class Batch(NamedTuple):
    """Rows padded to the longest of them."""

    token_ids: tf.Tensor  # int [batch, tokens]
    segment_ids: tf.Tensor | None  # int [batch, tokens]; None: all 0
    lengths: tf.Tensor  # int32 [batch]: how many ids of a row are not padding
    move: tf.Tensor | None = None  # float32 [batch, tokens, embedding]: added to the word embeddings, in training only


class Pieces(NamedTuple):
    """Where the tokens of a text come from, each [batch, (pieces)]."""

    starts: tf.RaggedTensor  # int64: the first byte of the original text; below 0 for what stands before the text
    ends: tf.RaggedTensor  # int64: one past the last byte


class Tokenizer(Protocol):
    """Turns texts into ids, as TensorFlow ops that TF Serving has too.

    Attributes:
        max_length: the most ids in a row, special tokens included.
        mask: the id of the token that stands for a word which is not told.
        unknown: the id of the token that stands for what the vocabulary lacks.
        between: special tokens between the two texts of a pair.
    """

    max_length: int
    mask: int
    unknown: int
    between: int

    def __call__(
        self, text: tf.Tensor, text_pair: tf.Tensor | None = None
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor | None]:
        """Tokenises texts, string [batch].

        Returns:
            token ids, int64 [batch, (tokens)], never longer than `max_length`; and segment ids of the same shape, None
            without a pair.
        """

    def pieces(self, text: tf.Tensor, text_pair: tf.Tensor | None = None) -> list[Pieces]:
        """Where each token between the special ones comes from, for each of the texts."""

    def lengths(self, text: tf.Tensor, text_pair: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """How many ids the texts would take if they were not shortened, and how many are unknown; int64 [batch]."""


class Weights(Protocol):
    """The weights of a classifier, packed for its encoder: a named tuple.

    Attributes:
        words: the word embeddings, [vocabulary, hidden]. Explanations put other ones in their place.
    """

    words: tf.Tensor

    def _replace(self, **changes: tf.Tensor) -> Weights: ...


class Encoder(Protocol):
    """The forward pass over packed weights, for training, validation and explanations."""

    def logits(self, weights: Weights, batch: Batch, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Logits, float32 [batch, labels]; with a seed, int64 [2], as training computes them, with dropout."""

    def vectors(self, weights: Weights, batch: Batch) -> tf.Tensor:
        """The rows' pooled vectors, float32 [batch, hidden]."""


class LayeredEncoder(Encoder, Protocol):
    """The forward pass of a network whose layers can be fewer: a student learns from the states after them."""

    def logits_and_states(
        self, weights: Weights, batch: Batch, seed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """As `logits`, and the tokens' vectors after each layer, float32 [batch x tokens, hidden]."""


class Frozen(Protocol):
    """The forward pass as it is exported: a tf.Module."""

    def logits(self, batch: Batch) -> tf.Tensor:
        """Logits, float32 [batch, labels]."""

    def vectors(self, batch: Batch) -> tf.Tensor:
        """The rows' pooled vectors, float32 [batch, hidden]."""

    def vectors_and_logits(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Both, from one pass."""


class Classifier(Protocol):
    """A network with a head: a Keras model.

    Attributes:
        multi_label: whether a row has any number of labels.
        num_classes: its labels.
        pooling: how a row's tokens become one vector.
        width: of that vector.
        variables: all of its keras variables.
        trainable_variables: those that training from end to end changes.
        by_depth: of these, without the head's: those of the embeddings, then those of each layer.
        pretrained: those that come with weights of their own.
        size: what methods of training are measured by.
        additions: what a method left beside the network's own weights.
    """

    multi_label: bool
    num_classes: int
    pooling: Pooling
    width: int
    variables: list[Any]
    trainable_variables: list[Any]
    by_depth: list[list[Any]]
    pretrained: list[Any]
    size: NetworkSize
    additions: Mapping[str, np.ndarray]

    def penalty(self) -> tf.Tensor | None:
        """What is added to the loss that is minimised, float32 scalar; None for nothing."""

    def set_head(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        """Gives the head its weights: kernel [hidden, labels] and bias [labels]."""

    def encoder(self) -> Encoder:
        """Its forward pass over packed weights."""

    def packed(self, dtype: tf.DType) -> Weights:
        """Its weights with products in the dtype; gradients flow back to the variables."""

    def write(self, folder: Path, labels: Sequence[str], *, backbone_digest: str) -> None:
        """Writes the weights and what else `Family.load` and `take_weights` need."""

    def take_weights(self, folder: Path, labels: Sequence[str], *, backbone_digest: str) -> None:
        """Takes the weights of a classifier that was written; UserError where they do not fit."""

    def frozen(self, dtype: tf.DType) -> Frozen:
        """Its forward pass with a copy of its weights, in the dtype."""


class Family(Protocol):
    """A family of models.

    Attributes:
        name: for people.
        more_words: what to do where the vocabulary lacks too many words, for a message.

    A vocabulary can be learned from the training rows. Then it lies in the folder `learned`, local or remote, beside
    Transform's graph; families whose weights bring one do not look at it.
    """

    name: str
    more_words: str

    def describe(self, options: ModelOptions) -> str:
        """The network and its weights in words, for a model card; reads nothing."""

    def source(self, options: ModelOptions) -> str:
        """What a run starts from, in words; UserError where it is missing."""

    def learn(self, options: ModelOptions, texts: Iterable[tf.Tensor], folder: str, section: str = "model") -> None:
        """Writes the vocabulary of training texts, string [batch] each, into the folder.

        A family whose weights bring one reads no text and writes nothing. Errors name keys of the config's section.
        """

    def vocabulary(self, options: ModelOptions, learned: str | None = None) -> Path:
        """The file of the tokens, which goes into the SavedModel for people and tools; reads no weights."""

    def tokenizer(self, options: ModelOptions, learned: str | None = None) -> Tokenizer:
        """The tokenizer of the options; reads no weights. UserError where it is learned, and no folder is named."""

    def pooling(self, options: ModelOptions) -> Pooling:
        """How the backbone's token vectors become one; reads no weights."""

    def digest(self, options: ModelOptions, learned: str | None = None) -> str:
        """SHA-256 of all that training starts from, in hex; the learned vocabulary counts where it is named."""

    def build(
        self, options: ModelOptions, labels: int, *, seed: int, multi_label: bool = False, learned: str | None = None
    ) -> Classifier:
        """The classifier that training starts from: the backbone, if there is one, and a head from the seed."""

    def load(self, folder: Path) -> Classifier:
        """The classifier that `Classifier.write` wrote."""
