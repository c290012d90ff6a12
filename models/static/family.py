"""Static token embeddings as a family."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from bertline.models import network_size
from bertline.models.family import Family, Tokenizer
from bertline.models.pooling import Pooling
from bertline.models.recipe import ModelOptions
from bertline.models.static import classifier, table
from bertline.models.static.classifier import Classifier
from bertline.models.targets import check_labels

DISTILLED_AT = 64  # tokens: enough for a prefix and one token


class Static:
    """The vocabulary of a transformer, each token with a vector of its own; methods as in bertline.models.family.

    Args:
        of_backbone: finds the family of the options' backbone.
    """

    name = "static"
    more_words = "choose a backbone for the language of the texts (model.backbone)"

    def __init__(self, of_backbone: Callable[[ModelOptions], Family]):
        self._of_backbone = of_backbone

    def describe(self, options: ModelOptions) -> str:
        """For a model card."""
        sizes = options.static
        tuned = "fine-tuned" if sizes.train_embeddings else "as they are"
        return (
            f"token embeddings ({sizes.dimensions} numbers each, {tuned}), their mean and a hidden layer of "
            f"{sizes.hidden}; the embeddings are distilled from {options.backbone}"
        )

    def source(self, options: ModelOptions) -> str:
        """The backbone's folder."""
        return f"{self._of_backbone(options).source(options)}, whose vocabulary is distilled"

    def learn(self, options: ModelOptions, texts: Iterable[tf.Tensor], folder: str, section: str = "model") -> None:
        """Nothing: the backbone brings the vocabulary."""

    def vocabulary(self, options: ModelOptions, learned: str | None = None) -> Path:
        """The backbone's."""
        return self._of_backbone(options).vocabulary(options, learned)

    def tokenizer(self, options: ModelOptions, learned: str | None = None) -> Tokenizer:
        """The backbone's."""
        return self._of_backbone(options).tokenizer(options, learned)

    def pooling(self, options: ModelOptions) -> Pooling:
        """The mean; `model.pooling` says how the backbone's vectors are pooled."""
        del options
        return Classifier.pooling

    def digest(self, options: ModelOptions, learned: str | None = None) -> str:
        """Of the backbone, and of how its vocabulary is distilled."""
        whole = self._of_backbone(options).digest(options, learned)
        sizes = options.static.model_dump_json(include={"dimensions", "sif"})
        return hashlib.sha256(f"{self.name} {whole} {sizes}".encode()).hexdigest()

    def build(
        self, options: ModelOptions, labels: int, *, seed: int, multi_label: bool = False, learned: str | None = None
    ) -> Classifier:
        """A classifier with the distilled token vectors and two random layers."""
        check_labels(labels)
        return classifier.with_table(self.table(options, learned), options, labels, seed=seed, multi_label=multi_label)

    def table(self, options: ModelOptions, learned: str | None = None) -> np.ndarray:
        """The backbone's vocabulary as vectors, float32 [words, dimensions]; distilled once for all runs.

        Raises:
            UserError: the backbone cannot be read, or has fewer dimensions.
        """
        file = table.kept(self.digest(options, learned))
        if (vectors := table.read(file)) is None:
            family = self._of_backbone(options)
            # The table does not depend on the rows' length: one token goes in at a time, in a frame that may hold a
            # prefix. Neither the head nor dropout is used.
            alone = options.model_copy(update={"family": "auto", "max_length": _length(options)})
            whole = family.build(alone, 2, seed=0, learned=learned)
            tokenizer = family.tokenizer(alone, learned)
            vectors = table.distilled(whole, family.spelling(alone), tokenizer, options.static, "model.static")
            table.keep(file, vectors)
        return vectors

    def load(self, folder: Path) -> Classifier:
        """See classifier.load."""
        return classifier.load(folder)


def _length(options: ModelOptions) -> int:
    """The `max_length` that the backbone is built and read with: DISTILLED_AT, or its positions where it has less."""
    size = network_size.of_backbone(options)
    return min(DISTILLED_AT, size.positions or DISTILLED_AT) if size else DISTILLED_AT
