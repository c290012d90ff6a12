"""The classifier: keras-hub's BERT text classifier and its pooling; training and export share its variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from bertline.errors import UserError
from bertline.models import additions, saved_classifier
from bertline.models.bert import backbone as pretrained
from bertline.models.bert import encoder, network, pruning
from bertline.models.bert.inference import FrozenClassifier
from bertline.models.bert.network import Network
from bertline.models.dataset import Rows
from bertline.models.int8 import product_dtype
from bertline.models.kept import Importance, Kept
from bertline.models.network_size import NetworkSize
from bertline.models.pooling import POOLER, Pooling
from bertline.models.recipe import ModelOptions
from bertline.models.saved_classifier import BERT, WEIGHTS
from bertline.models.targets import check_labels


class Classifier(keras_hub.models.BertTextClassifier):
    """A BERT with a head. Its layers, and so its saved weights, are keras-hub's.

    Args:
        backbone: the network below.
        labels: how many logits it gives.
        dropout: share of the head's features dropped while training.
        pooling: how a row's tokens become one vector. With another one than BERT's pooler, the pooler is not trained.
        multi_label: whether a row has any number of labels, and so each logit a probability of its own (sigmoid).
        heads: how many of each layer's attention heads are computed, the first ones; None for all.

    Attributes:
        additions: what a method left beside the network's own weights (see bertline.models.additions); empty for most.
    """

    def __init__(
        self,
        backbone: Network,
        labels: int,
        *,
        dropout: float,
        pooling: Pooling = POOLER,
        multi_label: bool = False,
        heads: int | None = None,
    ):
        super().__init__(backbone, labels, dropout=dropout, dtype="float32")
        self.pooling, self.multi_label, self.heads = pooling, multi_label, heads or backbone.num_heads
        self.additions: Mapping[str, np.ndarray] = MappingProxyType({})  # Keras would turn a dict into one of its own
        backbone.pooled_dense.trainable = pooling.kind == "pooler"

    def set_head(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        """Gives the head its weights: kernel [hidden, labels] and bias [labels]."""
        self.output_dense.kernel.assign(kernel)
        self.output_dense.bias.assign(bias)

    @property
    def width(self) -> int:
        """Of the vector that the head reads."""
        return self.backbone.hidden_dim

    def resized(self, **sizes: int) -> Classifier:
        """A classifier of the same kind with new weights; `sizes` are those of the network that differ."""
        kind = {"dropout": self.dropout, "pooling": self.pooling, "multi_label": self.multi_label, "heads": self.heads}
        return Classifier(network.like(self.backbone, **sizes), self.num_classes, **kind)

    def importance(self, rows: Rows, seed: int) -> Importance:
        """See pruning.importance."""
        return pruning.importance(self, rows, seed)

    def shortened(self, kept: Kept) -> Classifier:
        """A copy with a part of the network; it must have no additions, which belong to layers."""
        made = self.resized(**pruning.sizes(self.backbone, kept))
        made.heads = self.heads if kept.heads is None else len(kept.heads[0])
        pruning.copy(made, self, kept)
        return made

    @property
    def size(self) -> NetworkSize:
        """See NetworkSize."""
        below = self.backbone
        return NetworkSize(
            below.num_layers,
            below.hidden_dim,
            below.max_sequence_length,
            heads=self.heads,
            units=below.intermediate_dim,
            embedding=None if network.projection(below) is None else below.embedding_dim,
        )

    @property
    def by_depth(self) -> list[list[keras.Variable]]:
        """The embeddings, then the layers; the pooler is above them all, beside the head."""
        below = self.backbone
        layers = [list(layer.trainable_variables) for layer in below.transformer_layers]
        above = [*below.pooled_dense.trainable_variables, *(each for layer in layers for each in layer)]
        others = {id(variable) for variable in above}
        return [[each for each in below.trainable_variables if id(each) not in others], *layers]

    @property
    def pretrained(self) -> list[keras.Variable]:
        """All but the head's."""
        return list(self.backbone.trainable_variables)

    def penalty(self) -> None:
        """Nothing."""

    def encoder(self) -> encoder.Encoder:
        """The fast forward pass over packed weights."""
        return encoder.Encoder.of(self)

    def packed(self, dtype: tf.DType) -> encoder.Weights:
        """The weights as the encoder takes them, with the additions; see encoder.pack."""
        return encoder.pack(self, dtype)

    def frozen(self, dtype: tf.DType) -> FrozenClassifier:
        """The forward pass that is exported, with a copy of the weights."""
        return FrozenClassifier(self.encoder(), self.packed(product_dtype(dtype)), dtype)

    def write(self, folder: Path, labels: Sequence[str], *, backbone_digest: str) -> None:
        """See `save`."""
        save(self, folder, labels, backbone_digest=backbone_digest)

    def take_weights(self, folder: Path, labels: Sequence[str], *, backbone_digest: str) -> None:
        """See the function of this name."""
        take_weights(self, folder, labels, backbone_digest=backbone_digest)

    def call(self, inputs: dict[str, Any], training: bool | None = None, mask: Any = None) -> Any:
        """Logits, float32 [batch, labels], of token_ids, segment_ids and padding_mask, int32 [batch, tokens].

        Raises:
            UserError: the classifier has additions, which only bertline.models.bert.encoder computes.
        """
        del mask
        if self.additions:
            raise UserError(
                "keras-hub's layers know nothing of what the method added: use bertline.models.bert.encoder"
            )
        outputs, ops = self.backbone(inputs, training=training), keras.ops
        tokens = outputs["sequence_output"]
        if self.pooling.kind == "mean":
            real = ops.cast(inputs["padding_mask"], "float32")[:, :, None]
            pooled = ops.sum(tokens * real, axis=1) / ops.maximum(ops.sum(real, axis=1), 1.0)
        else:
            pooled = tokens[:, 0] if self.pooling.kind == "cls" else outputs["pooled_output"]
        if self.pooling.normalised:
            pooled = ops.normalize(pooled, axis=-1)
        return self.output_dense(self.output_dropout(self.pooling.features(pooled), training=training))


def from_options(options: ModelOptions, labels: int, *, seed: int, multi_label: bool = False) -> Classifier:
    """The classifier that training starts from: the pretrained backbone with its pooling, and a head from the seed.

    Raises:
        UserError: fewer than two labels, or the backbone cannot be read (see backbone.load).
    """
    below, pooling = pretrained.load(options), pretrained.pooling(options)
    return build(below, labels, dropout=options.dropout, seed=seed, pooling=pooling, multi_label=multi_label)


def build(
    backbone: Network,
    labels: int,
    *,
    dropout: float,
    seed: int,
    pooling: Pooling = POOLER,
    multi_label: bool = False,
) -> Classifier:
    """A classifier over the backbone; its head is drawn from the seed.

    Raises:
        UserError: fewer than two labels.
    """
    check_labels(labels)
    model = Classifier(backbone, labels, dropout=dropout, pooling=pooling, multi_label=multi_label)
    # keras-hub's own initializer has no seed.
    initial = keras.initializers.TruncatedNormal(stddev=0.02, seed=seed)
    model.output_dense.kernel.assign(initial(model.output_dense.kernel.shape))
    return model


def save(model: Classifier, folder: Path, labels: Sequence[str], *, backbone_digest: str) -> None:
    """Writes the weights and what else `load` and `take_weights` need.

    Args:
        model: the trained classifier.
        folder: is made where it is missing.
        labels: names in the order of the model's logits.
        backbone_digest: of the backbone that training started from (see backbone.digest).
    """
    values = {
        "additions": bool(model.additions),
        "dropout": model.dropout,
        "pooling": model.pooling.as_dict(),
        "backbone_digest": backbone_digest,
        "approximate_gelu": network.approximate_gelu(model.backbone),
        "epsilon": network.epsilon(model.backbone),
        "backbone": network.sizes(model.backbone),
        "heads": model.heads,
    }
    saved_classifier.write(folder, BERT, labels, multi_label=model.multi_label, **values)
    model.save_weights(folder / WEIGHTS)
    if model.additions:
        additions.write(folder, model.additions)


def take_weights(model: Classifier, folder: Path, labels: Sequence[str], *, backbone_digest: str) -> None:
    """Gives a classifier the weights of the one that `save` wrote.

    Args:
        model: the classifier; it keeps its dropout.
        folder: where the other was saved.
        labels: names in the order of the model's logits.
        backbone_digest: of the model's backbone. Two backbones can have layers of the same sizes.

    Raises:
        UserError: the saved classifier has other labels or another number of them per row, another pooling or backbone.
    """
    saved = saved_classifier.read(folder, BERT)
    saved_classifier.check_labels(saved, labels, multi_label=model.multi_label)
    pooling = Pooling(**saved.get("pooling", {}))
    if pooling != model.pooling:
        raise UserError(f"its pooling is {pooling}, and that of model.pooling is {model.pooling}")
    if "backbone_digest" not in saved:
        raise UserError("an earlier bertline pushed it, which did not record its backbone")
    if saved["backbone_digest"] != backbone_digest:
        raise UserError("it was trained from another backbone than model.backbone, or from other files of it")
    model.load_weights(folder / WEIGHTS)
    model.additions = _additions(folder, saved)


def load(folder: Path) -> Classifier:
    """The classifier that `save` wrote.

    Args:
        folder: where it was saved.

    Raises:
        UserError: the folder holds no saved classifier.
    """
    config = saved_classifier.read(folder, BERT)
    backbone = network.build(**config["backbone"])
    network.set_gelu(backbone, approximate=config["approximate_gelu"])
    network.set_epsilon(backbone, config.get("epsilon", 1e-12))  # earlier bertlines knew only BERT's own
    labels = len(config["labels"])
    pooling = Pooling(**config.get("pooling", {}))  # earlier bertlines knew only BERT's pooler
    model = Classifier(
        backbone,
        labels,
        dropout=config["dropout"],
        pooling=pooling,
        multi_label=config.get("multi_label", False),
        heads=config.get("heads"),  # earlier bertlines computed all
    )
    model.load_weights(folder / WEIGHTS)
    model.additions = _additions(folder, config)
    return model


def _additions(folder: Path, config: dict[str, Any]) -> Mapping[str, np.ndarray]:
    return MappingProxyType(additions.read(folder) if config.get("additions") else {})
