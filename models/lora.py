"""LoRA: low-rank factors beside frozen kernels (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2022).

A product x W becomes x W + (alpha / rank) x A B, with A [in, rank] drawn at random and B [rank, out] zero at the start,
so that training begins where the pretrained weights are. Only A, B and the head are trained. At the end W + (alpha /
rank) A B takes the place of W, so what is exported and served has no trace of it and costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from bertline.errors import UserError
from bertline.models.bert.classifier import Classifier
from bertline.models.bert.encoder import Adapter, LayerAdapters
from bertline.models.recipe import LoraOptions, LoraTarget

_PROJECTIONS: tuple[LoraTarget, ...] = ("query", "key", "value")  # one product in the encoder, in this order


@dataclass(frozen=True)
class Factors:
    """The factors beside one kernel.

    Attributes:
        kernel: the frozen kernel; in the attention of shape [hidden, heads, hidden / heads] or the reverse.
        down: A of the paper, [in, rank].
        up: B of the paper, [rank, out].
    """

    kernel: keras.Variable
    down: keras.Variable
    up: keras.Variable


class Lora:
    """The factors of a classifier.

    Args:
        model: the classifier.
        options: rank, alpha, targets, dropout.
        seed: of the first factors.

    Raises:
        UserError: the rank is above the width of the network.
    """

    def __init__(self, model: Classifier, options: LoraOptions, seed: int):
        hidden = model.backbone.hidden_dim
        if options.rank > hidden:
            raise UserError(
                f"train.lora.rank: {options.rank} is above the backbone's width of {hidden}; 4 to 64 are usual"
            )
        self._options, self._hidden = options, hidden
        self._layers = [
            {target: self._factors(layer, target, [seed, at]) for target in options.targets}
            for at, layer in enumerate(model.backbone.transformer_layers)
        ]

    def _factors(self, layer: keras.layers.Layer, target: LoraTarget, seed: list[int]) -> Factors:
        kernel = _dense(layer, target).kernel
        first = kernel.shape[0] if target in ("up", "down") else self._hidden
        last = kernel.shape[-1] if target in ("up", "down") else self._hidden
        draw = np.random.default_rng([*seed, _TARGETS.index(target)])
        bound = first**-0.5  # a dense layer's usual start, as the paper's code has it
        down = draw.uniform(-bound, bound, [first, self._options.rank]).astype(np.float32)
        up = np.zeros([self._options.rank, last], np.float32)
        return Factors(kernel, keras.Variable(down, name="lora_down"), keras.Variable(up, name="lora_up"))

    @property
    def variables(self) -> list[keras.Variable]:
        """All factors, in the order of layers and targets."""
        return [variable for _, factors in self._named() for variable in (factors.down, factors.up)]

    def adapters(self, dtype: tf.DType) -> list[LayerAdapters]:
        """Each layer's factors as the encoder takes them, in the dtype of its products."""
        return [self._layer_adapters(factors, dtype) for factors in self._layers]

    def merge(self) -> None:
        """Adds each product of factors to its kernel and clears the factors. The model computes the same as before."""
        for _, factors in self._named():
            product = self._scale * tf.matmul(factors.down.value, factors.up.value)
            factors.kernel.assign_add(tf.reshape(product, factors.kernel.shape))
            factors.up.assign(tf.zeros_like(factors.up.value))

    def arrays(self) -> dict[str, np.ndarray]:
        """The factors by name, such as "0/query/down", and the scale of their product."""
        named = {
            f"{name}/{part}": getattr(factors, part).numpy()
            for name, factors in self._named()
            for part in ("down", "up")
        }
        return {"scale": np.float32(self._scale), **named}

    @property
    def _scale(self) -> float:
        return self._options.alpha / self._options.rank

    def _named(self) -> Iterator[tuple[str, Factors]]:
        for at, targets in enumerate(self._layers):
            for target, factors in targets.items():
                yield f"{at}/{target}", factors

    def _layer_adapters(self, factors: dict[LoraTarget, Factors], dtype: tf.DType) -> LayerAdapters:
        def adapter(*targets: LoraTarget) -> Adapter | None:
            beside = [(slot, factors[target]) for slot, target in enumerate(targets) if target in factors]
            if not beside:
                return None
            width = self._hidden
            # Targets that share a product: their A side by side, each B in its own columns of the result.
            down = tf.concat([each.down.value for _, each in beside], axis=1)
            last = len(targets) - 1
            ups = [tf.pad(each.up.value, [[0, 0], [slot * width, (last - slot) * width]]) for slot, each in beside]
            up = tf.concat(ups, axis=0) * self._scale
            return Adapter(tf.cast(down, dtype), tf.cast(up, dtype), self._options.dropout)

        return LayerAdapters(adapter(*_PROJECTIONS), adapter("output"), adapter("up"), adapter("down"))


_TARGETS: tuple[LoraTarget, ...] = (*_PROJECTIONS, "output", "up", "down")


def _dense(layer: keras.layers.Layer, target: LoraTarget) -> keras.layers.Layer:
    """The layer of the kernel that a target names."""
    attention = layer._self_attention_layer
    return {
        "query": attention.query_dense,
        "key": attention.key_dense,
        "value": attention.value_dense,
        "output": attention.output_dense,
        "up": layer._feedforward_intermediate_dense,
        "down": layer._feedforward_output_dense,
    }[target]
