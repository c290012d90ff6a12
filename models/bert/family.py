"""BERT as a family."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bertline.models.bert import backbone, classifier, trimming
from bertline.models.bert.classifier import Classifier
from bertline.models.bert.tokenizer import Tokenizer
from bertline.models.pooling import Pooling
from bertline.models.recipe import ModelOptions


class Bert:
    """BERT with a WordPiece vocabulary; the methods are those of Family and of compression.Trims."""

    name = "bert"

    def vocabulary(self, options: ModelOptions) -> Path:
        """The vocab.txt."""
        return backbone.vocabulary(options).path

    def tokenizer(self, options: ModelOptions) -> Tokenizer:
        """WordPiece."""
        words = backbone.vocabulary(options)
        return Tokenizer(words.path, lowercase=words.lowercase, max_length=options.max_length)

    def pooling(self, options: ModelOptions) -> Pooling:
        """As the folder says."""
        return backbone.pooling(options)

    def digest(self, options: ModelOptions) -> str:
        """Of the weights, the vocabulary and the pooling."""
        return backbone.digest(options)

    def build(self, options: ModelOptions, labels: int, *, seed: int, multi_label: bool = False) -> Classifier:
        """The pretrained network with a new head."""
        return classifier.from_options(options, labels, seed=seed, multi_label=multi_label)

    def load(self, folder: Path) -> Classifier:
        """See classifier.load."""
        return classifier.load(folder)

    def kept_tokens(self, options: ModelOptions, used: np.ndarray) -> np.ndarray:
        """See trimming.kept."""
        return trimming.kept(backbone.vocabulary(options), used)

    def trimmed(self, model: Classifier, kept: np.ndarray) -> Classifier:
        """See trimming.trimmed."""
        return trimming.trimmed(model, kept)

    def write_vocabulary(self, options: ModelOptions, kept: np.ndarray, folder: Path) -> None:
        """See trimming.write_vocabulary."""
        trimming.write_vocabulary(backbone.vocabulary(options), kept, folder)
