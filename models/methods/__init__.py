"""Methods of fine-tuning: which weights each one trains, how fast, and what it adds to the network.

- full: all weights (Devlin et al. 2019).
- top_layers: the last layers and the head; what lies below keeps what pretraining taught it, and costs no gradients
  (Lee, Tang and Lin, "What Would Elsa Do? Freezing Layers During Transformer Fine-Tuning", 2019).
- gradual: the head, then a layer more at a time; see own.Gradual.
- bitfit: the biases and the head (Ben Zaken, Goldberg and Ravfogel, "BitFit", ACL 2022).
- contrastive: all weights but the head's, by which rows have one label; see models/contrastive.py.
- lora: low-rank factors beside the kernels, and the head; see lora.py.
- adalora: factors whose rank is shared out by importance; see adalora.py.
- adapters, prompt, prefix: parts that stay beside the network's weights; see added.py.

With `layer_decay` each layer learns more slowly than the one above it, as lower layers hold what all tasks share
(Howard and Ruder, "Universal Language Model Fine-tuning", ACL 2018; Clark et al., "ELECTRA", ICLR 2020).
"""

from __future__ import annotations

from bertline.errors import UserError
from bertline.models import network_size
from bertline.models.family import Classifier
from bertline.models.methods.adalora import AdaLora
from bertline.models.methods.added import Adapters, Prefix, Prompt
from bertline.models.methods.lora import Lora
from bertline.models.methods.method import Length, Method
from bertline.models.methods.own import BitFit, Encoder, Full, Gradual, TopLayers
from bertline.models.recipe import TrainOptions

__all__ = ["Length", "Method", "choose"]

_METHODS: dict[str, type[Method]] = {
    "full": Full,
    "top_layers": TopLayers,
    "gradual": Gradual,
    "bitfit": BitFit,
    "lora": Lora,
    "adalora": AdaLora,
    "adapters": Adapters,
    "prompt": Prompt,
    "prefix": Prefix,
    "contrastive": Encoder,
}


def choose(model: Classifier, options: TrainOptions, length: Length) -> Method:
    """The options' method over a classifier; called inside the distribution strategy's scope.

    Raises:
        UserError: the network is too small for the method's options, or what a warm start brought does not fit them.
    """
    if fault := network_size.misfit(options, model.size):
        raise UserError(fault)
    return _METHODS[options.method](model, options, length)
