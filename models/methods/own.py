"""The methods that train weights of the network itself."""

from __future__ import annotations

import keras

from bertline.models.family import Classifier
from bertline.models.methods.method import Length, Method
from bertline.models.recipe import TrainOptions

_BIASES = frozenset({"bias", "beta"})  # LayerNorm's beta is its bias


class Full(Method):
    """All weights (Devlin et al. 2019), each layer by its own rate."""

    def __init__(self, model: Classifier, options: TrainOptions, length: Length):
        self.depths, self.top = _depths(model), len(model.by_depth)
        super().__init__(model, options, length)
        self.rates = [options.layer_decay ** (self.top - self.depth(variable)) for variable in self.variables]

    def _chosen(self) -> list[keras.Variable]:
        return list(self.model.trainable_variables)

    def depth(self, variable: keras.Variable) -> int:
        """0 for the embeddings, then the layers from 1; that of pooler and head is above them all."""
        return self.depths.get(id(variable), self.top)


class Encoder(Full):
    """All weights but the head's, which is fitted once they are trained: see models/contrastive.py."""

    def _chosen(self) -> list[keras.Variable]:
        head = {id(variable) for variable in self.head}
        return [each for each in super()._chosen() if id(each) not in head]


class TopLayers(Full):
    """The last layers, the pooler and the head (Lee, Tang and Lin 2019)."""

    def _chosen(self) -> list[keras.Variable]:
        lowest = self.top - self.options.top_layers
        return [each for each in super()._chosen() if self.depth(each) >= lowest]


class BitFit(Full):
    """The biases and the head (Ben Zaken, Goldberg and Ravfogel 2022)."""

    def _chosen(self) -> list[keras.Variable]:
        head = {id(variable) for variable in self.head}
        return [each for each in super()._chosen() if each.name in _BIASES or id(each) in head]


class Gradual(Full):
    """The head and the pooler first, then one layer more at a time, and the embeddings last.

    Gradual unfreezing (Howard and Ruder, "Universal Language Model Fine-tuning", ACL 2018, section 3.3): to train all
    layers at once lets the first, random gradients overwrite what pretraining taught the lowest. In the paper a layer
    is opened per epoch; `train.unfreeze_epochs` says how many epochs lie between two. A closed layer gets no gradients,
    and nothing is computed backwards below the lowest open one. What the training never opens gets no moments either.
    """

    def __init__(self, model: Classifier, options: TrainOptions, length: Length):
        super().__init__(model, options, length)
        self.opens = [self._opens(variable) for variable in self.variables]
        self.settled = max(self.opens)

    def _chosen(self) -> list[keras.Variable]:
        steps = self.length.epochs * self.length.steps
        return [each for each in super()._chosen() if self._opens(each) < steps]

    def _opens(self, variable: keras.Variable) -> int:
        epochs, steps = self.length
        # Without a number the embeddings are opened halfway, so that all layers have as long again together.
        apart = self.options.unfreeze_epochs or epochs / 2 / self.top
        return round((self.top - self.depth(variable)) * apart * steps)


def _depths(model: Classifier) -> dict[int, int]:
    """The depth of each variable by its id: 0 for the embeddings, then the layers from 1; not of pooler and head."""
    return {id(variable): depth for depth, group in enumerate(model.by_depth) for variable in group}
