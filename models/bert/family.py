"""BERT as a family."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from bertline.models.bert import backbone, classifier, trimming
from bertline.models.bert.classifier import Classifier
from bertline.models.bert.tokenizer import Tokenizer, read_vocabulary
from bertline.models.pooling import Pooling
from bertline.models.recipe import ModelOptions, RandomBert


class Bert:
    """BERT, DistilBERT and ELECTRA with WordPiece; methods as in Family, compression.Trims and static.table.Spells."""

    name = "bert"
    more_words = "choose a backbone for the language of the texts (model.backbone)"

    def describe(self, options: ModelOptions) -> str:
        """The backbone as the config names it."""
        source = options.backbone
        if isinstance(source, RandomBert):
            size = f"{source.layers} layers, {source.hidden} hidden, {source.heads} heads"
            return f"BERT with random initial weights ({size})"
        hashes = "".join(f"; {name} sha256 {digest}" for name, digest in options.sha256.items())
        return f"BERT, fine-tuned from {source}{hashes}"

    def source(self, options: ModelOptions) -> str:
        """The folder, or the vocabulary of random weights."""
        path = self.vocabulary(options)
        if isinstance(options.backbone, RandomBert):
            return f"random weights, vocabulary {path}"
        return f"{path.parent}{', files as pinned' if options.sha256 else ''}"

    def learn(self, options: ModelOptions, texts: Iterable[tf.Tensor], folder: str, section: str = "model") -> None:
        """Nothing: the weights bring their vocabulary."""

    def vocabulary(self, options: ModelOptions, learned: str | None = None) -> Path:
        """The vocab.txt."""
        del learned
        return backbone.vocabulary(options).path

    def tokenizer(self, options: ModelOptions, learned: str | None = None) -> Tokenizer:
        """WordPiece."""
        del learned
        words = backbone.vocabulary(options)
        return Tokenizer(words.path, lowercase=words.lowercase, max_length=options.max_length)

    def pooling(self, options: ModelOptions) -> Pooling:
        """As the folder says."""
        return backbone.pooling(options)

    def digest(self, options: ModelOptions, learned: str | None = None) -> str:
        """Of the weights, the vocabulary and the pooling."""
        del learned
        return backbone.digest(options)

    def build(
        self, options: ModelOptions, labels: int, *, seed: int, multi_label: bool = False, learned: str | None = None
    ) -> Classifier:
        """The pretrained network with a new head."""
        del learned
        return classifier.from_options(options, labels, seed=seed, multi_label=multi_label)

    def load(self, folder: Path) -> Classifier:
        """See classifier.load."""
        return classifier.load(folder)

    def spelling(self, options: ModelOptions) -> np.ndarray:
        """See static.table.Spells: all but [CLS], [unused7] and their like."""
        words = read_vocabulary(self.vocabulary(options))
        return np.array([not trimming.bracketed(word) for word in words])

    def kept_tokens(self, options: ModelOptions, used: np.ndarray) -> np.ndarray:
        """See trimming.kept."""
        return trimming.kept(backbone.vocabulary(options), used)

    def trimmed(self, model: Classifier, kept: np.ndarray) -> Classifier:
        """See trimming.trimmed."""
        return trimming.trimmed(model, kept)

    def write_vocabulary(self, options: ModelOptions, kept: np.ndarray, folder: Path) -> None:
        """See trimming.write_vocabulary."""
        trimming.write_vocabulary(backbone.vocabulary(options), kept, folder)
