"""Which heads, feed-forward units and hidden dimensions of a trained BERT matter, and a network with only these.

Michel, Levy and Neubig, "Are Sixteen Heads Really Better than One?", NeurIPS 2019: a head's importance is the mean over
rows of |d loss / d mask| for a mask on the head. Here it is the same for a mask on a unit. Such a mask scales the rows
of the kernel that reads the head or the unit, so its gradient is the sum of kernel x gradient there. The hidden states
have one mask for all layers (Xia, Zhong and Chen, "Structured Pruning Learns Compact and Accurate Models", ACL 2022),
since residuals carry a dimension from each layer to the next. It scales what each LayerNorm writes, so its gradient is
the sum of gamma x gradient and beta x gradient over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bertline.models import targets
from bertline.models.bert import network
from bertline.models.bert.encoder import Weights
from bertline.models.bert.network import Network
from bertline.models.dataset import Batches, Rows
from bertline.models.family import Batch
from bertline.models.kept import Importance, Kept

_ROWS = 256  # one at a time, since gradients of a batch cancel out; half a minute with MiniLM on two cores


def importance(model: Any, rows: Rows, seed: int) -> Importance:
    """The importance of a trained classifier's heads, units and hidden dimensions.

    Args:
        model: the classifier.
        rows: training rows; some of them are looked at.
        seed: draws them.
    """
    encoder, weights = model.encoder(), model.packed(tf.float32)
    target = targets.of(rows.labels, model.num_classes, balanced=False)
    kernels = [kernel for layer in weights.layers for kernel in (layer.output_kernel, layer.down_kernel)]
    writers = list(_writers(weights))
    watched = [*kernels, *writers]

    def of_row(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(watched)
            logits = encoder.logits(weights, Batch(batch["token_ids"], batch.get("segment_ids"), batch["lengths"]))
            loss = target.losses(batch["labels"], logits)
        products = [one * gradient for one, gradient in zip(watched, tape.gradient(loss, watched), strict=True)]
        of_inputs = [tf.reduce_sum(product, axis=1) for product in products[: len(kernels)]]
        by_head = tf.reshape(tf.stack(of_inputs[::2]), [len(weights.layers), encoder.heads, -1])
        of_outputs = [tf.reshape(product, [-1, product.shape[-1]]) for product in products[len(kernels) :]]
        of_hidden = tf.reduce_sum(tf.concat(of_outputs, axis=0), axis=0)
        return tf.abs(tf.reduce_sum(by_head, axis=2)), tf.abs(tf.stack(of_inputs[1::2])), tf.abs(of_hidden)

    dataset = Batches(rows, 1).shuffled(seed, 0).take(_ROWS)
    compiled = tf.function(of_row, input_signature=[dataset.element_spec], autograph=False)
    of_rows = zip(*map(compiled, dataset), strict=True)
    return Importance(*(np.mean([each.numpy() for each in some], axis=0, dtype=np.float64) for some in of_rows))


def _writers(weights: Weights) -> Iterator[tf.Tensor]:
    """The weights whose last axis is that of the hidden states, at each place where these come to be."""
    projected = weights.projection_kernel is not None
    yield weights.projection_kernel if projected else weights.gamma
    yield weights.projection_bias if projected else weights.beta
    for layer in weights.layers:
        yield from (layer.attention_gamma, layer.attention_beta, layer.feedforward_gamma, layer.feedforward_beta)


def sizes(backbone: Network, kept: Kept) -> dict[str, int]:
    """The sizes of a network with a part of another's, as far as they differ; heads are as wide as before."""
    changes = {"num_layers": len(kept.layers)}
    if kept.units is not None:
        changes["intermediate_dim"] = len(kept.units[0])
    if kept.hidden is not None:
        width = len(kept.hidden)
        changes |= {"hidden_dim": width, "num_heads": width * backbone.num_heads // backbone.hidden_dim}
    return changes


def copy(made: Any, source: Any, kept: Kept) -> None:
    """Copies the weights of what is kept.

    keras-hub's attention has as many heads as the hidden states have room for, so those that are kept come first and
    the rest is zero; `heads` of the classifier says how many are computed. Its feed-forward part has as many units as
    are kept.

    Args:
        made: the classifier that gets them, of `sizes`.
        source: the classifier.
        kept: what stays.
    """
    _copy(_around(made), _around(source), {"hidden": kept.hidden})
    for number, at in enumerate(kept.layers):
        layers = (_of_layer(each.backbone.transformer_layers[place]) for each, place in ((made, number), (source, at)))
        parts = {"heads": kept.heads and kept.heads[number], "units": kept.units and kept.units[number]}
        _copy(*layers, {"hidden": kept.hidden, **parts})


Axes = Iterator[tuple[Any, tuple[str, ...]]]  # variables, and what each of their axes counts


def _copy(made: Axes, source: Axes, kept: Mapping[str, Sequence[int] | None]) -> None:
    for (own, axes), (variable, _) in zip(made, source, strict=True):
        values = variable.numpy()
        for axis, part in enumerate(axes):
            if kept.get(part) is not None:
                values = np.take(values, kept[part], axis)
        own.assign(np.pad(values, [(0, wanted - there) for wanted, there in zip(own.shape, values.shape, strict=True)]))


def _around(model: Any) -> Axes:
    """What stands below and above the layers."""
    below, projection = model.backbone, network.projection(model.backbone)
    width = "hidden" if projection is None else "embedding"
    yield below.token_embedding.embeddings, ("words", width)
    yield below.position_embedding.position_embeddings, ("positions", width)
    yield below.segment_embedding.embeddings, ("segments", width)
    yield from _norm(below.embeddings_layer_norm, width)
    if projection is not None:
        yield from _dense(projection, width, "hidden")
    yield from _dense(below.pooled_dense, "hidden", "hidden")
    yield from _dense(model.output_dense, "hidden", "labels")


def _of_layer(layer: Any) -> Axes:
    attention = layer._self_attention_layer
    for dense in (attention.query_dense, attention.key_dense, attention.value_dense):
        yield dense.kernel, ("hidden", "heads", "width")
        yield dense.bias, ("heads", "width")
    yield attention.output_dense.kernel, ("heads", "width", "hidden")
    yield attention.output_dense.bias, ("hidden",)
    yield from _norm(layer._self_attention_layer_norm, "hidden")
    yield from _dense(layer._feedforward_intermediate_dense, "hidden", "units")
    yield from _dense(layer._feedforward_output_dense, "units", "hidden")
    yield from _norm(layer._feedforward_layer_norm, "hidden")


def _dense(layer: Any, reads: str, writes: str) -> Axes:
    yield layer.kernel, (reads, writes)
    yield layer.bias, (writes,)


def _norm(layer: Any, width: str) -> Axes:
    yield layer.gamma, (width,)
    yield layer.beta, (width,)
