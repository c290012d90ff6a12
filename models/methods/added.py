"""The methods that leave parts beside the network's weights: bottlenecks, a prompt, prefixes (see models/additions.py).

What they add cannot be merged into the kernels, so the classifier, its saved weights and the served graph carry it. The
network's own weights stay as they are (but for Houlsby's LayerNorms), so that several tasks can share them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import keras
import numpy as np
import tensorflow as tf

from bertline.errors import UserError
from bertline.models import additions
from bertline.models.bert.classifier import Classifier
from bertline.models.bert.encoder import Weights, pack, unpacked
from bertline.models.methods.method import Length, Method
from bertline.models.recipe import TrainOptions

_STDDEV = 0.02  # BERT's own


class Added(Method):
    """New variables and the head; everything else stays as it is.

    A warm start goes on from the additions of the last blessed model, if they are the same in kind and size.

    Raises:
        UserError: they are not.
    """

    def __init__(self, model: Classifier, options: TrainOptions, length: Length):
        drawn = self._drawn(model, options, np.random.default_rng(options.seed))
        arrays = self._kept(model, options, drawn)
        # The optimizer spares biases the weight decay, and knows them by their name.
        kinds = {name: "bias" if name.endswith("bias") else name.rpartition("/")[2] for name in arrays}
        self.own = {name: keras.Variable(array, name=kinds[name]) for name, array in arrays.items()}
        super().__init__(model, options, length)

    def _drawn(self, model: Classifier, options: TrainOptions, draw: np.random.Generator) -> dict[str, np.ndarray]:
        """The additions that training starts from, by the names of bertline.models.additions."""
        raise NotImplementedError

    def _kept(self, model: Classifier, options: TrainOptions, drawn: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The additions of the model, where a warm start brought some; otherwise those that were drawn."""
        if not model.additions:
            return drawn
        if additions.shapes(model.additions) != additions.shapes(drawn):
            raise UserError(
                f"train.warm_start: what train.method: {options.method} added to the last blessed model has another "
                "kind or size than it has now. Set it as it was, or train.warm_start: false"
            )
        return model.additions

    def _check_additions(self) -> None:
        """They have been taken."""

    def _chosen(self) -> list[keras.Variable]:
        return [*self.own.values(), *self.head]

    def tensors(self) -> dict[str, tf.Tensor]:
        """The additions as they stand, by the names of bertline.models.additions."""
        return {name: variable.value for name, variable in self.own.items()}

    def pack(self, dtype: tf.DType) -> Weights:
        """The network with the additions."""
        return pack(self.model, dtype, unpacked(self.tensors(), self.model.backbone.num_layers, dtype))

    def finish(self) -> dict[str, np.ndarray]:
        """Gives the additions to the model, which saves them with its weights."""
        self.model.additions = MappingProxyType({name: np.asarray(value) for name, value in self.tensors().items()})
        return {}


class Adapters(Added):
    """Bottlenecks in each layer, which begin close to adding nothing, and the head.

    houlsby: two in a layer, after the attention's projection and after the feed-forward part, each before its residual;
    the LayerNorms are trained too (Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019; GELU as
    in the authors' code). pfeiffer: one, which reads the layer's result, and is added to the sum under the last
    LayerNorm (Pfeiffer et al., "MAD-X", EMNLP 2020, equation 1; "AdapterFusion", EACL 2021); ReLU.
    """

    def _drawn(self, model: Classifier, options: TrainOptions, draw: np.random.Generator) -> dict[str, np.ndarray]:
        hidden, size = model.backbone.hidden_dim, options.adapters.size
        shapes = {"down": (hidden, size), "down_bias": (size,), "up": (size, hidden), "up_bias": (hidden,)}
        places = ("attention", "feedforward") if options.adapters.kind == "houlsby" else ("after_norm",)
        stddev = 0.01  # Houlsby et al. found that up to 0.01 all is well, and that it gets worse above it

        def drawn(part: str) -> np.ndarray:
            shape = shapes[part]
            return (np.zeros(shape) if part.endswith("bias") else _truncated(draw, stddev, shape)).astype(np.float32)

        return {
            f"{at}/{place}/{part}": drawn(part)
            for at in range(model.backbone.num_layers)
            for place in places
            for part in additions.PARTS
        }

    def _chosen(self) -> list[keras.Variable]:
        if self.options.adapters.kind == "pfeiffer":
            return super()._chosen()
        norms = [
            variable
            for layer in self.model.backbone.transformer_layers
            for norm in (layer._self_attention_layer_norm, layer._feedforward_layer_norm)
            for variable in norm.trainable_variables
        ]
        return [*self.own.values(), *norms, *self.head]


class Prompt(Added):
    """Virtual tokens that stand in every row, as word embeddings, and the head.

    Lester, Al-Rfou and Constant, "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021. They start as
    the embeddings of words drawn from the vocabulary. T5, which the paper tunes, knows no absolute positions. BERT
    does, so the virtual tokens get none, and a row's own tokens keep theirs, however many virtual ones there are.
    """

    def _drawn(self, model: Classifier, options: TrainOptions, draw: np.random.Generator) -> dict[str, np.ndarray]:
        table = pack(model, tf.float32).words
        words = draw.integers(0, table.shape[0], options.prompt.tokens)
        return {additions.PROMPT: tf.gather(table, words).numpy()}


class Prefix(Added):
    """Keys and values in each layer, which every row's tokens attend to, and the head.

    Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021. As in the paper they are
    trained through a reparametrisation, since they are unstable to train by themselves: a smaller matrix, one row per
    place of the prefix, and a network of one tanh layer that makes all layers' keys and values of a row. After training
    only what it made is kept.
    """

    def _drawn(self, model: Classifier, options: TrainOptions, draw: np.random.Generator) -> dict[str, np.ndarray]:
        hidden, tokens = model.backbone.hidden_dim, options.prefix.tokens
        names = [f"{at}/{part}" for at in range(model.backbone.num_layers) for part in ("keys", "values")]
        return {name: _normal(draw, (tokens, hidden)) for name in names}

    def _kept(self, model: Classifier, options: TrainOptions, drawn: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        kept = super()._kept(model, options, drawn)
        self._names, middle = list(kept), options.prefix.reparametrise
        # What a warm start brings has no network behind it any more, and goes on without one.
        self._through = middle is not None and not model.additions
        if not self._through:
            return kept
        hidden, draw = model.backbone.hidden_dim, np.random.default_rng([options.seed, 1])
        out = len(kept) * hidden
        return {
            "start": _normal(draw, (options.prefix.tokens, hidden), 1.0),
            "inner": _glorot(draw, hidden, middle),
            "inner_bias": np.zeros(middle, np.float32),
            "outer": _glorot(draw, middle, out),
            "outer_bias": np.zeros(out, np.float32),
        }

    def tensors(self) -> dict[str, tf.Tensor]:
        """Keys and values as they stand; where there is a reparametrisation, what it makes."""
        if not self._through:
            return super().tensors()
        start, inner, inner_bias, outer, outer_bias = (variable.value for variable in self.own.values())
        made = tf.matmul(tf.tanh(tf.matmul(start, inner) + inner_bias), outer) + outer_bias
        return dict(zip(self._names, tf.split(made, len(self._names), axis=1), strict=True))


def _normal(draw: np.random.Generator, shape: tuple[int, ...], stddev: float = _STDDEV) -> np.ndarray:
    return draw.normal(0, stddev, shape).astype(np.float32)


def _truncated(draw: np.random.Generator, stddev: float, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers; those beyond two standard deviations are set there."""
    return np.clip(draw.normal(0, stddev, shape), -2 * stddev, 2 * stddev)


def _glorot(draw: np.random.Generator, first: int, last: int) -> np.ndarray:
    bound = (6 / (first + last)) ** 0.5
    return draw.uniform(-bound, bound, (first, last)).astype(np.float32)
