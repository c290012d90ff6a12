"""Embedding and BiLSTM as a family."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import tensorflow as tf

from bertline.errors import UserError
from bertline.models.bilstm import classifier, vocabulary
from bertline.models.bilstm.classifier import Classifier
from bertline.models.bilstm.tokenizer import Tokenizer
from bertline.models.pooling import Pooling
from bertline.models.recipe import ModelOptions
from bertline.models.targets import check_labels


class Bilstm:
    """Words or characters of the training rows, and an LSTM from each end; methods as in bertline.models.family."""

    name = "bilstm"
    more_words = "lower model.bilstm.min_count, or raise model.bilstm.vocabulary"

    def describe(self, options: ModelOptions) -> str:
        """For a model card."""
        sizes = options.bilstm
        return (
            f"embedding ({sizes.embedding}) and bidirectional LSTM ({sizes.units} units each way), trained from random "
            f"weights over the {'words' if sizes.tokens == 'auto' else sizes.tokens} of the training rows"
        )

    def source(self, options: ModelOptions) -> str:
        """What a run starts from."""
        del options
        return "none: vocabulary and weights are made of the training rows"

    def learn(self, options: ModelOptions, texts: Iterable[tf.Tensor], folder: str, section: str = "model") -> None:
        """Writes the most frequent tokens of the texts."""
        sizes = options.bilstm
        learned = vocabulary.learn(
            texts, sizes.tokens, size=sizes.vocabulary, min_count=sizes.min_count, section=section
        )
        vocabulary.write(_file(folder), learned)

    def vocabulary(self, options: ModelOptions, learned: str | None = None) -> Path:
        """The file that `learn` wrote."""
        del options
        return Path(_file(learned))

    def tokenizer(self, options: ModelOptions, learned: str | None = None) -> Tokenizer:
        """Words or characters by the learned vocabulary."""
        tokens = vocabulary.read(_file(learned))
        return Tokenizer(tokens, options.bilstm.tokens, max_length=options.max_length)

    def pooling(self, options: ModelOptions) -> Pooling:
        """Of no use here."""
        del options
        return Classifier.pooling

    def digest(self, options: ModelOptions, learned: str | None = None) -> str:
        """Of the vocabulary, where it is learned; there are no other files."""
        del options
        content = "\n".join(vocabulary.read(_file(learned))) if learned else ""
        return hashlib.sha256(f"{self.name} {content}".encode()).hexdigest()

    def build(
        self, options: ModelOptions, labels: int, *, seed: int, multi_label: bool = False, learned: str | None = None
    ) -> Classifier:
        """A classifier with random weights."""
        check_labels(labels)
        return Classifier(
            vocabulary.read(_file(learned)),
            labels,
            options.bilstm,
            dropout=options.dropout,
            seed=seed,
            multi_label=multi_label,
        )

    def load(self, folder: Path) -> Classifier:
        """See classifier.load."""
        return classifier.load(folder)


def _file(learned: str | None) -> str:
    if learned is None:
        raise UserError(
            "model.family: bilstm learns its vocabulary and its vectors from the rows of a run, and this needs them "
            "before one; use pretrained weights (leave model.family out) for it"
        )
    return f"{learned}/{vocabulary.FILE}"
