"""Which weights a method trains, and how fast each of them.

- full: all of them (Devlin et al. 2019).
- top_layers: the last layers and the head; what lies below keeps what pretraining taught it, and costs no gradients
  (Lee, Tang and Lin, "What Would Elsa Do? Freezing Layers During Transformer Fine-Tuning", 2019).
- bitfit: the biases and the head (Ben Zaken, Goldberg and Ravfogel, "BitFit", ACL 2022).
- lora: low-rank factors beside the kernels, and the head; see models/lora.py.

With `layer_decay` each layer learns more slowly than the one above it, as lower layers hold what all tasks share
(Howard and Ruder, "Universal Language Model Fine-tuning", ACL 2018; Clark et al., "ELECTRA", ICLR 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import keras

from bertline.errors import UserError
from bertline.models.bert.classifier import Classifier
from bertline.models.lora import Lora
from bertline.models.recipe import TrainOptions

_BITFIT = frozenset({"bias", "beta"})  # LayerNorm's beta is its bias


@dataclass(frozen=True)
class Trained:
    """What a method trains.

    Attributes:
        variables: they alone get gradients and moments.
        rates: what the learning rate of each is multiplied by.
        lora: the factors among them; None for the other methods.
    """

    variables: list[keras.Variable]
    rates: list[float]
    lora: Lora | None = None

    @property
    def weights(self) -> int:
        """How many numbers are trained."""
        return sum(int(variable.value.shape.num_elements()) for variable in self.variables)


def choose(model: Classifier, options: TrainOptions) -> Trained:
    """The variables of the options' method; called inside the distribution strategy's scope.

    Raises:
        UserError: the network has fewer layers than the method asks for, or is narrower than the rank.
    """
    layers = model.backbone.num_layers
    if options.method == "top_layers" and options.top_layers >= layers:
        raise UserError(
            f"train.top_layers: {options.top_layers} of {layers} layers leave none frozen; set it below {layers}, or "
            "train.method: full"
        )
    depths = _depths(model)
    head = list(model.output_dense.trainable_variables)
    lora = None
    if options.method == "lora":
        lora = Lora(model, options.lora, options.seed)
        variables = [*lora.variables, *head]
    elif options.method == "bitfit":
        names = {id(variable) for variable in head}
        variables = [each for each in model.trainable_variables if each.name in _BITFIT or id(each) in names]
    else:
        lowest = layers - options.top_layers + 1 if options.method == "top_layers" else 0
        variables = [each for each in model.trainable_variables if depths.get(id(each), layers + 1) >= lowest]
    top = layers + 1
    return Trained(variables, [options.layer_decay ** (top - depths.get(id(each), top)) for each in variables], lora)


def _depths(model: Classifier) -> dict[int, int]:
    """The depth of each variable by its id: 0 for the embeddings, then the layers from 1; not of pooler and head."""
    network = model.backbone
    depths = {id(variable): 0 for variable in network.trainable_variables}
    depths |= {
        id(variable): depth
        for depth, layer in enumerate(network.transformer_layers, start=1)
        for variable in layer.trainable_variables
    }
    for variable in network.pooled_dense.trainable_variables:
        del depths[id(variable)]
    return depths
