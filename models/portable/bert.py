"""BERT's forward pass as ONNX nodes: what bertline.models.bert.inference computes, on padded rows and in float32."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bertline.models.bert.encoder import Bottleneck, Encoder, Layer, Weights
from bertline.models.portable.graph import FLOAT, Graph, Inputs

_FAR_BELOW = 1e4  # any score; the softmax of it is 0
_SMALL = 1e-12  # no vector is shorter when it is scaled, as in tf.math.l2_normalize


def logits(graph: Graph, inputs: Inputs, encoder: Encoder, weights: Weights) -> str:
    """Adds the network.

    Args:
        graph: to be added to.
        inputs: of the graph.
        encoder: the architecture.
        weights: packed in float32.

    Returns:
        the name of the logits, float32 [batch, labels].
    """
    return _Network(graph, inputs, encoder, weights).logits()


class _Network:
    """One network's nodes. Values are float32; x is [batch, tokens, hidden]."""

    def __init__(self, graph: Graph, inputs: Inputs, encoder: Encoder, weights: Weights):
        self._graph, self._inputs, self._encoder, self._weights = graph, inputs, encoder, weights
        self._heads, (self._width, self._hidden) = encoder.heads, weights.layers[0].output_kernel.shape
        self._batch = graph.add("Shape", inputs.ids, start=0, end=1)
        self._tokens = graph.add("Shape", inputs.ids, start=1, end=2)
        self._own = graph.add("Cast", inputs.mask, to=FLOAT)  # [batch, tokens]

    def logits(self) -> str:
        add, pooling = self._graph.add, self._encoder.pooling
        x, bias = self._embedded(), self._bias()
        *before, last = self._weights.layers
        for layer in before:
            x = self._layer(layer, x, x, bias)
        pooled = self._first(last, x, bias) if pooling.of_first_token else self._mean(self._layer(last, x, x, bias))
        if pooling.kind == "pooler":
            pooled = add("Tanh", self._affine(pooled, self._weights.pooler_kernel, self._weights.pooler_bias))
        if pooling.normalised:
            squares = add("ReduceSum", add("Mul", pooled, pooled), self._graph.numbers(-1))
            length = add("Sqrt", add("Max", squares, self._constant(_SMALL)))
            pooled = add("Mul", add("Div", pooled, length), self._constant(pooling.gain(self._hidden)))
        return self._affine(pooled, self._weights.head_kernel, self._weights.head_bias)

    def _embedded(self) -> str:
        add, graph, weights = self._graph.add, self._graph, self._weights
        words = add("Gather", self._constant(weights.words), self._inputs.ids)
        # Rows longer than the table find too few positions, which the addition refuses.
        places = add("Slice", self._constant(weights.positions), graph.numbers(0), self._tokens, graph.numbers(0))
        x = add("Add", words, places)
        if self._inputs.segments:
            segments = add("Gather", self._constant(weights.segments), self._inputs.segments)
        else:
            segments = self._constant(np.asarray(weights.segments)[0])
        x = add("Add", x, segments)
        if weights.prompt is not None:
            x = add("Concat", x, self._in_each_row(weights.prompt), axis=1)
        x = self._norm(x, weights.gamma, weights.beta)
        if weights.projection_kernel is None:
            return x
        return self._affine(x, weights.projection_kernel, weights.projection_bias)

    def _bias(self) -> str:
        """What is added to the scores, [batch, 1, 1, tokens]."""
        add, mask = self._graph.add, self._own
        if (prompt := self._weights.prompt) is not None:
            mask = add("Concat", mask, self._in_each_row(np.ones(prompt.shape[0])), axis=1)
        far = add("Mul", add("Sub", mask, self._constant(1)), self._constant(_FAR_BELOW))
        return add("Unsqueeze", far, self._graph.numbers(1, 2))

    def _layer(self, layer: Layer, x: str, queries: str, bias: str) -> str:
        """A layer's result for the queries, which are all of x or some of its tokens."""
        add, added = self._graph.add, layer.additions
        attended = self._affine(self._attended(layer, x, queries, bias), layer.output_kernel, layer.output_bias)
        attended = self._narrowed(attended, added.attention)
        x = self._norm(add("Add", attended, queries), layer.attention_gamma, layer.attention_beta)
        up = self._gelu(self._affine(x, layer.up_kernel, layer.up_bias))
        down = self._narrowed(self._affine(up, layer.down_kernel, layer.down_bias), added.feedforward)
        x = add("Add", down, x)
        if (again := added.after_norm) is not None:
            normed = self._norm(x, layer.feedforward_gamma, layer.feedforward_beta)
            narrow = add("Relu", self._affine(normed, again.down, again.down_bias))
            x = add("Add", self._affine(narrow, again.up, again.up_bias), x)
        return self._norm(x, layer.feedforward_gamma, layer.feedforward_beta)

    def _attended(self, layer: Layer, x: str, queries: str, bias: str) -> str:
        add, graph, added = self._graph.add, self._graph, layer.additions
        kernels = np.split(np.asarray(layer.qkv_kernel), 3, axis=1)
        biases = np.split(np.asarray(layer.qkv_bias), 3)
        query, key, value = (
            self._by_head(self._affine(each, kernel, offset))
            for each, kernel, offset in zip((queries, x, x), kernels, biases, strict=True)
        )
        if added.keys is not None:
            key, value = (
                add("Concat", self._prefix(prefix), each, axis=2)
                for prefix, each in ((added.keys, key), (added.values, value))
            )
            seen = self._in_each_row(np.zeros((1, 1, added.keys.shape[0])))
            bias = add("Concat", seen, bias, axis=3)
        scores = add("MatMul", query, add("Transpose", key, perm=[0, 1, 3, 2]))
        scores = add("Add", add("Mul", scores, self._constant(self._encoder.scale)), bias)
        context = add("Transpose", add("MatMul", add("Softmax", scores, axis=-1), value), perm=[0, 2, 1, 3])
        return add("Reshape", context, graph.numbers(0, 0, self._width))

    def _by_head(self, x: str) -> str:
        """[batch, tokens, hidden] to [batch, heads, tokens, hidden / heads]."""
        shape = self._graph.numbers(0, 0, self._heads, self._width // self._heads)
        return self._graph.add("Transpose", self._graph.add("Reshape", x, shape), perm=[0, 2, 1, 3])

    def _prefix(self, numbers: Any) -> str:
        """Keys or values, [prefix, hidden], as [batch, heads, prefix, hidden / heads]."""
        array = np.asarray(numbers)
        by_head = array.reshape(len(array), self._heads, self._hidden // self._heads).transpose(1, 0, 2)
        return self._in_each_row(by_head)

    def _in_each_row(self, numbers: Any) -> str:
        """The same numbers in each row, [batch, ...]."""
        array = np.asarray(numbers)[None]
        shape = self._graph.add("Concat", self._batch, self._graph.numbers(*array.shape[1:]), axis=0)
        return self._graph.add("Expand", self._constant(array), shape)

    def _first(self, last: Layer, x: str, bias: str) -> str:
        """The last layer's result for each row's first token only, [batch, hidden]."""
        numbers = self._graph.numbers
        first = self._graph.add("Slice", x, numbers(0), numbers(1), numbers(1))
        return self._graph.add("Squeeze", self._layer(last, x, first, bias), numbers(1))

    def _mean(self, x: str) -> str:
        """The mean of each row's own tokens, [batch, hidden]."""
        add, numbers = self._graph.add, self._graph.numbers
        if self._weights.prompt is not None:
            x = add("Slice", x, numbers(0), self._tokens, numbers(1))
        sums = add("ReduceSum", add("Mul", x, add("Unsqueeze", self._own, numbers(2))), numbers(1), keepdims=0)
        counts = add("Max", add("ReduceSum", self._own, numbers(1)), self._constant(1))
        return add("Div", sums, counts)

    def _affine(self, x: str, kernel: Any, offset: Any) -> str:
        return self._graph.add("Add", self._graph.add("MatMul", x, self._constant(kernel)), self._constant(offset))

    def _narrowed(self, x: str, bottleneck: Bottleneck | None) -> str:
        """x, and what a bottleneck adds to it."""
        if bottleneck is None:
            return x
        narrow = self._gelu(self._affine(x, bottleneck.down, bottleneck.down_bias))
        return self._graph.add("Add", x, self._affine(narrow, bottleneck.up, bottleneck.up_bias))

    def _norm(self, x: str, gamma: Any, beta: Any) -> str:
        return self._graph.add(
            "LayerNormalization", x, self._constant(gamma), self._constant(beta), epsilon=self._encoder.epsilon
        )

    def _gelu(self, x: str) -> str:
        add, constant = self._graph.add, self._constant
        if self._encoder.approximate_gelu:
            cube = add("Mul", add("Mul", add("Mul", x, x), x), constant(0.044715))
            inner = add("Tanh", add("Mul", add("Add", x, cube), constant(math.sqrt(2 / math.pi))))
        else:  # in the form that ONNX Runtime fuses
            inner = add("Erf", add("Div", x, constant(math.sqrt(2))))
        return add("Mul", add("Mul", x, add("Add", inner, constant(1))), constant(0.5))

    def _constant(self, value: Any) -> str:
        return self._graph.constant(value)
