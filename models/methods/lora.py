"""LoRA: low-rank factors beside frozen kernels (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2022).

A product x W becomes x W + (alpha / rank) x A B, with A [in, rank] drawn at random and B [rank, out] zero at the start,
so that training begins where the pretrained weights are. Only A, B and the head are trained. At the end W + (alpha /
rank) A B takes the place of W, so what is exported and served has no trace of it and costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import keras
import numpy as np
import tensorflow as tf

from bertline.models.bert.classifier import Classifier
from bertline.models.bert.encoder import Additions, LayerAdditions, LowRank, Weights, pack
from bertline.models.methods.method import Length, Method
from bertline.models.recipe import LoraTarget, TrainOptions

_PROJECTIONS: tuple[LoraTarget, ...] = ("query", "key", "value")  # one product in the encoder, in this order
_TARGETS: tuple[LoraTarget, ...] = get_args(LoraTarget)


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

    @property
    def variables(self) -> dict[str, keras.Variable]:
        """What is trained, by the name under which it is kept."""
        return {"down": self.down, "up": self.up}

    def product(self, scale: float) -> tuple[tf.Tensor, tf.Tensor]:
        """Two matrices, [in, rank] and [rank, out], whose product is what the kernel gets."""
        return self.down.value, self.up.value * scale

    def clear(self) -> None:
        """Makes the product zero."""
        self.up.assign(tf.zeros_like(self.up.value))


class LowRankMethod(Method):
    """Factors beside the kernels that the method's targets name, and the head."""

    def __init__(self, model: Classifier, options: TrainOptions, length: Length):
        self.factors = self._made(model, options)
        super().__init__(model, options, length)

    # A method's own, in the subclasses.

    def _made(self, model: Classifier, options: TrainOptions) -> list[dict[LoraTarget, Factors]]:
        """The factors by layer and target."""
        raise NotImplementedError

    scale: float  # of the factors' product
    dropout: float  # of what the factors read

    @property
    def factor_variables(self) -> list[keras.Variable]:
        """All factors, in the order of layers and targets."""
        return [variable for _, factors in self.named() for variable in factors.variables.values()]

    def _chosen(self) -> list[keras.Variable]:
        return [*self.factor_variables, *self.head]

    def named(self) -> Iterator[tuple[str, Factors]]:
        """The factors by the kernel's name, such as "0/query"."""
        for at, targets in enumerate(self.factors):
            for target, factors in targets.items():
                yield f"{at}/{target}", factors

    def pack(self, dtype: tf.DType) -> Weights:
        """The network with the factors beside its kernels."""
        layers = tuple(self._layer_additions(factors, dtype) for factors in self.factors)
        return pack(self.model, dtype, Additions(layers))

    def finish(self) -> dict[str, np.ndarray]:
        """Adds each product of factors to its kernel and clears the factors.

        Returns:
            the factors by name, such as "0/query/down", and the scale of their product.
        """
        kept = self.arrays()
        for _, factors in self.named():
            product = tf.matmul(*factors.product(self.scale))
            factors.kernel.assign_add(tf.reshape(product, factors.kernel.shape))
            factors.clear()
        return kept

    def arrays(self) -> dict[str, np.ndarray]:
        """The factors by name and their scale, as `finish` returns them."""
        named = {
            f"{name}/{part}": variable.numpy()
            for name, factors in self.named()
            for part, variable in factors.variables.items()
        }
        return {"scale": np.float32(self.scale), **named}

    def _layer_additions(self, factors: dict[LoraTarget, Factors], dtype: tf.DType) -> LayerAdditions:
        width = self.model.backbone.hidden_dim

        def beside(*targets: LoraTarget) -> LowRank | None:
            products = [
                (slot, factors[name].product(self.scale)) for slot, name in enumerate(targets) if name in factors
            ]
            if not products:
                return None
            # Targets that share a product: their A side by side, each B in its own columns of the result.
            down = tf.concat([down for _, (down, _) in products], axis=1)
            last = len(targets) - 1
            ups = [tf.pad(up, [[0, 0], [slot * width, (last - slot) * width]]) for slot, (_, up) in products]
            return LowRank(tf.cast(down, dtype), tf.cast(tf.concat(ups, axis=0), dtype), self.dropout)

        return LayerAdditions(beside(*_PROJECTIONS), beside("output"), beside("up"), beside("down"))


class Lora(LowRankMethod):
    """LoRA's factors and the head (Hu et al. 2022)."""

    def __init__(self, model: Classifier, options: TrainOptions, length: Length):
        self.scale, self.dropout = options.lora.alpha / options.lora.rank, options.lora.dropout
        super().__init__(model, options, length)

    def _made(self, model: Classifier, options: TrainOptions) -> list[dict[LoraTarget, Factors]]:
        rank = options.lora.rank

        def drawn(kernel: keras.Variable, first: int, last: int, draw: np.random.Generator) -> Factors:
            bound = first**-0.5  # a dense layer's usual start, as the paper's code has it
            down = draw.uniform(-bound, bound, [first, rank]).astype(np.float32)
            up = np.zeros([rank, last], np.float32)
            return Factors(kernel, keras.Variable(down, name="lora_down"), keras.Variable(up, name="lora_up"))

        return beside_kernels(model, options.lora.targets, options.seed, drawn)


def beside_kernels(
    model: Classifier, targets: Sequence[LoraTarget], seed: int, drawn
) -> list[dict[LoraTarget, Factors]]:
    """Factors for the targets' kernels, by layer and target.

    Args:
        model: the classifier.
        targets: which kernels of each layer.
        seed: of the first factors.
        drawn: makes them of a kernel, how many numbers it reads and gives, and a source of random numbers.
    """
    hidden = model.backbone.hidden_dim

    def factors(layer: keras.layers.Layer, at: int, target: LoraTarget) -> Factors:
        kernel = _dense(layer, target).kernel
        feedforward = target in ("up", "down")  # an attention's kernel has an axis more, by head
        first, last = (kernel.shape[0], kernel.shape[-1]) if feedforward else (hidden, hidden)
        return drawn(kernel, first, last, np.random.default_rng([seed, at, _TARGETS.index(target)]))

    layers = enumerate(model.backbone.transformer_layers)
    return [{target: factors(layer, at, target) for target in targets} for at, layer in layers]


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
