"""BERT's network in Keras, with random weights: keras-hub's BERT, or ELECTRA where tables are narrower than layers."""

from __future__ import annotations

from typing import Any

import keras
import keras_hub

# keras-hub's two forms. Their layers have the same names; ELECTRA's projects the embeddings to the layers' width.
Network = keras_hub.models.BertBackbone | keras_hub.models.ElectraBackbone

_SIZES = (
    *("vocabulary_size", "num_layers", "num_heads", "hidden_dim", "intermediate_dim"),
    *("dropout", "max_sequence_length", "num_segments"),
)


def build(*, vocabulary_size: int, hidden_dim: int, embedding_dim: int | None = None, **sizes: Any) -> Network:
    """A network with float32 variables.

    Args:
        vocabulary_size: rows of the word table.
        hidden_dim: width of the layers.
        embedding_dim: width of the tables; None for the layers'.
        sizes: the rest of keras-hub's sizes.
    """
    if embedding_dim in (None, hidden_dim):
        return keras_hub.models.BertBackbone(
            vocabulary_size=vocabulary_size, hidden_dim=hidden_dim, **sizes, dtype="float32"
        )
    return keras_hub.models.ElectraBackbone(
        vocab_size=vocabulary_size, hidden_dim=hidden_dim, embedding_dim=embedding_dim, **sizes, dtype="float32"
    )


def sizes(network: Network) -> dict[str, Any]:
    """What `build` makes a network of the same sizes from; `embedding_dim` only where the embeddings are projected."""
    known = {"vocabulary_size": network.token_embedding.input_dim}
    known |= {name: getattr(network, name) for name in _SIZES if name not in known}
    return known | ({"embedding_dim": network.embedding_dim} if projection(network) is not None else {})


def projection(network: Network) -> keras.layers.Dense | None:
    """The layer between the embeddings' LayerNorm and the first transformer layer; None for BERT, which has none."""
    return getattr(network, "embeddings_projection", None)


def like(network: Network, **changes: Any) -> Network:
    """A network with new weights that computes the same of them; `changes` are sizes that differ."""
    made = build(**{**sizes(network), **changes})
    set_gelu(made, approximate=approximate_gelu(network))
    set_epsilon(made, epsilon(network))
    return made


def set_gelu(network: Network, *, approximate: bool) -> None:
    """Sets GELU's form in all layers. keras-hub builds the approximation; most BERTs were trained with erf."""
    for layer in network.transformer_layers:
        layer._feedforward_intermediate_dense.activation = _gelu_approximate if approximate else keras.activations.gelu


def approximate_gelu(network: Network) -> bool:
    """Whether the network computes GELU by its tanh approximation."""
    return network.transformer_layers[0]._feedforward_intermediate_dense.activation is not keras.activations.gelu


def set_epsilon(network: Network, epsilon: float) -> None:
    """Sets what every LayerNorm adds to the variance. keras-hub builds 1e-12; some weights were trained with more."""
    network.embeddings_layer_norm.epsilon = epsilon
    for layer in network.transformer_layers:
        layer._self_attention_layer_norm.epsilon = layer._feedforward_layer_norm.epsilon = epsilon


def epsilon(network: Network) -> float:
    """What every LayerNorm adds to the variance."""
    return network.embeddings_layer_norm.epsilon


def _gelu_approximate(x):
    return keras.activations.gelu(x, approximate=True)
