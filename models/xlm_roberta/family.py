"""XLM-RoBERTa and its kin as a family."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bertline.models.bert import classifier
from bertline.models.bert.classifier import Classifier
from bertline.models.bert.family import Bert
from bertline.models.pooling import Pooling
from bertline.models.recipe import ModelOptions
from bertline.models.xlm_roberta import backbone
from bertline.models.xlm_roberta.tokenizer import Tokenizer
from bertline.models.xlm_roberta.vocabulary import UNKNOWN, input_prefix


class XlmRoberta(Bert):
    """BERT's network over a SentencePiece vocabulary. Once built, its classifier is saved and loaded as BERT's is."""

    name = "xlm_roberta"

    def vocabulary(self, options: ModelOptions, learned: str | None = None) -> Path:
        """The sentencepiece.bpe.model."""
        del learned
        return backbone.vocabulary(options).path

    def tokenizer(self, options: ModelOptions, learned: str | None = None) -> Tokenizer:
        """SentencePiece, with the folder's input prefix."""
        del learned
        words = backbone.vocabulary(options)
        return Tokenizer(words, max_length=options.max_length, prefix=input_prefix(words.path.parent))

    def spelling(self, options: ModelOptions) -> np.ndarray:
        """See static.table.Spells: all but <s>, <pad>, </s>, <unk> and <mask>."""
        ids = np.arange(backbone.vocabulary(options).ids)
        return (ids > UNKNOWN) & (ids < ids[-1])

    def pooling(self, options: ModelOptions) -> Pooling:
        """As the folder says."""
        return backbone.pooling_of(options)

    def digest(self, options: ModelOptions, learned: str | None = None) -> str:
        """Of the weights, the vocabulary, the prefix and the pooling."""
        del learned
        return backbone.digest(options)

    def build(
        self, options: ModelOptions, labels: int, *, seed: int, multi_label: bool = False, learned: str | None = None
    ) -> Classifier:
        """The pretrained network with a new head."""
        del learned
        return classifier.build(
            backbone.load(options),
            labels,
            dropout=options.dropout,
            seed=seed,
            pooling=self.pooling(options),
            multi_label=multi_label,
        )
