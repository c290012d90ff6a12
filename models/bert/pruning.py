"""Which attention heads and feed-forward units of a trained BERT matter, and a layer with only these.

Michel, Levy and Neubig, "Are Sixteen Heads Really Better than One?", NeurIPS 2019: a head's importance is the mean over
rows of |d loss / d mask| for a mask on the head. Here it is the same for a mask on a unit. Such a mask scales the rows
of the kernel that reads the head or the unit, so its gradient is the sum of kernel x gradient there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bertline.models import targets
from bertline.models.dataset import Batches, Rows
from bertline.models.family import Batch
from bertline.models.kept import Importance

_ROWS = 256  # one at a time, since gradients of a batch cancel out; half a minute with MiniLM on two cores


def importance(model: Any, rows: Rows, seed: int) -> Importance:
    """The importance of a trained classifier's heads and units.

    Args:
        model: the classifier.
        rows: training rows; some of them are looked at.
        seed: draws them.
    """
    encoder, weights = model.encoder(), model.packed(tf.float32)
    target = targets.of(rows.labels, model.num_classes, balanced=False)
    kernels = [kernel for layer in weights.layers for kernel in (layer.output_kernel, layer.down_kernel)]

    def of_row(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(kernels)
            logits = encoder.logits(weights, Batch(batch["token_ids"], batch.get("segment_ids"), batch["lengths"]))
            loss = target.losses(batch["labels"], logits)
        of_inputs = [
            tf.reduce_sum(kernel * gradient, axis=1)
            for kernel, gradient in zip(kernels, tape.gradient(loss, kernels), strict=True)
        ]
        by_head = tf.reshape(tf.stack(of_inputs[::2]), [len(weights.layers), encoder.heads, -1])
        return tf.abs(tf.reduce_sum(by_head, axis=2)), tf.abs(tf.stack(of_inputs[1::2]))

    dataset = Batches(rows, 1).shuffled(seed, 0).take(_ROWS)
    compiled = tf.function(of_row, input_signature=[dataset.element_spec], autograph=False)
    heads, units = zip(*map(compiled, dataset), strict=True)
    return Importance(*(np.mean([each.numpy() for each in some], axis=0, dtype=np.float64) for some in (heads, units)))


def copy_layer(made: Any, source: Any, kept: Mapping[str, Sequence[int] | None]) -> None:
    """Copies a transformer layer's weights.

    keras-hub's attention has all heads, so those that are kept come first and the rest is zero; `heads` of the
    classifier says how many are computed. Its feed-forward part has as many units as are kept.

    Args:
        made: gets them.
        source: the layer.
        kept: the `heads` and `units` that stay; None for all.
    """
    cut = {id(variable): (kept[part], axis) for variable, part, axis in _parts(source) if kept[part] is not None}
    for own, variable in zip(made.variables, source.variables, strict=True):
        values = variable.numpy()
        if id(variable) in cut:
            places, axis = cut[id(variable)]
            values = np.take(values, places, axis)
            missing = own.shape[axis] - len(places)
            values = np.pad(values, [(0, missing if at == axis else 0) for at in range(values.ndim)])
        own.assign(values)


def _parts(layer: Any) -> Iterator[tuple[Any, str, int]]:
    """The variables that have heads or units, and along which axis."""
    attention = layer._self_attention_layer
    for dense in (attention.query_dense, attention.key_dense, attention.value_dense):
        yield dense.kernel, "heads", 1
        yield dense.bias, "heads", 0
    yield attention.output_dense.kernel, "heads", 0
    yield layer._feedforward_intermediate_dense.kernel, "units", 1
    yield layer._feedforward_intermediate_dense.bias, "units", 0
    yield layer._feedforward_output_dense.kernel, "units", 0
