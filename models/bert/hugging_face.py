"""Networks of BERT's shape in the Hugging Face layout: what each kind calls its sizes and its weights.

Reading and writing a folder go by the same names. Kinds differ in names, and in what they lack: DistilBERT (Sanh et
al. 2019) has no segments and no pooler, ELECTRA's discriminator (Clark et al. 2020) no pooler either, and its small one
has tables narrower than its layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import tensorflow as tf

from bertline.errors import UserError
from bertline.models import backbone_folder
from bertline.models.bert import backbone_config, network
from bertline.models.bert.network import Network

# Hugging Face's names for GELU -> whether it is the approximation by tanh
_ACTIVATIONS = {"gelu": False, "gelu_new": True, "gelu_pytorch_tanh": True}
_SEGMENTS = 2  # of a config.json that does not say, and of a network that knows none
# Before the names of a network that is a part of a classifier or of a language model.
_PREFIXES = ("roberta.", "bert.", "distilbert.", "electra.")
# LayerNorm's, in files that were converted from TensorFlow, as bert-base-uncased's
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_POOLER, _PROJECTION = "pooler.dense", "embeddings_project"
_SEGMENT_TABLE = "embeddings.token_type_embeddings.weight"


class LayerNames(NamedTuple):
    """What the parts of a transformer layer are called."""

    layer: str = "encoder.layer"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    norm: str = "output.LayerNorm"


class Kind(NamedTuple):
    """One model_type.

    Attributes:
        layers: the names of a layer's parts.
        activation: config.json's key of it.
        segments: whether there is a table of them.
    """

    layers: LayerNames = LayerNames()
    activation: str = "hidden_act"
    segments: bool = True


KINDS = {
    "bert": Kind(),
    "distilbert": Kind(
        LayerNames(
            layer="transformer.layer",
            query="attention.q_lin",
            key="attention.k_lin",
            value="attention.v_lin",
            output="attention.out_lin",
            attention_norm="sa_layer_norm",
            up="ffn.lin1",
            down="ffn.lin2",
            norm="output_layer_norm",
        ),
        activation="activation",
        segments=False,
    ),
    "electra": Kind(),
    "xlm-roberta": Kind(),
}


def read(folder: Path, *, dropout: float, unused_positions: int = 0) -> Network:
    """The network of a folder with its weights: float32 variables.

    Args:
        folder: its model_type is one of KINDS.
        dropout: in each layer.
        unused_positions: how many of the table's first rows no token ever gets; they are left out.

    Raises:
        UserError: config.json lacks a size or has an activation that is not known here, there are no safetensors, the
            machine has too little memory, or a weight is missing or has another shape.
    """
    backbone_folder.check_safetensors(folder)
    file = folder / backbone_folder.CONFIG
    config = backbone_folder.read_config(file)
    kind, keys = KINDS[config["model_type"]], backbone_config.keys_of(config)
    missing = [key for key in keys.values() if key not in config]
    if missing:
        raise UserError(f"{file}: lacks {', '.join(missing)}; fetch the folder again")
    backbone_config.check_memory(str(file), backbone_config.parameters_of(config, keys))
    made = network.build(
        vocabulary_size=config[keys["words"]],
        num_layers=config[keys["layers"]],
        num_heads=config[keys["heads"]],
        hidden_dim=config[keys["hidden"]],
        embedding_dim=config.get(keys["embedding"]) if "embedding" in keys else None,
        intermediate_dim=config[keys["intermediate"]],
        dropout=dropout,
        max_sequence_length=config[keys["positions"]] - unused_positions,
        num_segments=config.get("type_vocab_size", _SEGMENTS),
    )
    _as_configured(made, kind, file, config)
    _fill(made, kind, Tensors(folder), unused_positions)
    return made


def has_pooler(folder: Path) -> bool:
    """Whether the folder's weights have BERT's pooler; language models' and sentence encoders' are often without it."""
    return f"{_POOLER}.weight" in Tensors(folder)


def tensors(made: Network, *, pooler: bool) -> dict[str, np.ndarray]:
    """A BERT's weights by the names that Hugging Face gives them, kernels as [out, in].

    Args:
        made: without a projection.
        pooler: whether it is among them.
    """
    written = {name: variable.numpy() for name, variable in _tables(made).items()}
    for name, norm in _norms(made, KINDS["bert"].layers):
        written |= {f"{name}.weight": norm.gamma.numpy(), f"{name}.bias": norm.beta.numpy()}
    for name, dense in _denses(made, KINDS["bert"].layers):
        if name != _POOLER or pooler:
            bias = dense.bias.numpy().reshape(-1)
            # [hidden, heads, hidden / heads] and [heads, hidden / heads, hidden] are [in, out] with one of them split.
            written |= {f"{name}.weight": dense.kernel.numpy().reshape(-1, len(bias)).T, f"{name}.bias": bias}
    return written


class Tensors:
    """The weights of a folder by their names, in one safetensors file or several.

    The names are without what stands before them in a whole classifier or language model, and LayerNorm's are weight
    and bias whatever the file calls them.

    Raises:
        UserError: a file is damaged.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        files = [_opened(path) for path in sorted(folder.glob("model*.safetensors"))]
        self._files = {_plain(name): (file, name) for file in files for name in file.keys()}  # noqa: SIM118

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> np.ndarray:
        """A weight, float32.

        Raises:
            UserError: there is none.
        """
        if name not in self._files:
            raise UserError(
                f"{self._folder}: the weights lack {name}: they are of another family, or cut short. "
                "Fetch the folder again"
            )
        file, full = self._files[name]
        return tf.cast(file.get_tensor(full), tf.float32).numpy()


def _opened(path: Path) -> Any:
    try:
        return safetensors.safe_open(path, framework="tf")
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: no safetensors file, or a damaged one ({error}); fetch the folder again") from error


def _plain(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def _as_configured(made: Network, kind: Kind, file: Path, config: dict[str, Any]) -> None:
    """Gives the network what a config.json says beside the sizes."""
    name = config.get(kind.activation, "gelu")
    if name not in _ACTIVATIONS:
        raise UserError(f"{file}: {kind.activation} {name!r} is not one of {', '.join(_ACTIVATIONS)}")
    network.set_gelu(made, approximate=_ACTIVATIONS[name])
    network.set_epsilon(made, float(config.get("layer_norm_eps", 1e-12)))


def _fill(made: Network, kind: Kind, weights: Tensors, unused_positions: int) -> None:
    """Gives the network the weights."""
    for variable, name, value in _weights(made, kind, weights):
        rows = value[unused_positions:] if variable is made.position_embedding.position_embeddings else value
        shape = tuple(variable.shape)
        if rows.size != np.prod(shape):
            raise UserError(
                f"the weight {name} has {rows.size:,} numbers, and config.json's sizes make {np.prod(shape):,}: "
                "the two files must belong together; fetch the folder again"
            )
        variable.assign(rows.reshape(shape))


def _weights(made: Network, kind: Kind, weights: Tensors) -> Iterator[tuple[Any, str, np.ndarray]]:
    """Each variable with its weight's name and value, kernels as [in, out]."""
    for name, variable in _tables(made).items():
        if name == _SEGMENT_TABLE and not kind.segments:  # they start from nothing, and can learn
            yield variable, name, np.zeros(variable.shape, np.float32)
        else:
            yield variable, name, weights[name]
    for name, norm in _norms(made, kind.layers):
        yield norm.gamma, f"{name}.weight", weights[f"{name}.weight"]
        yield norm.beta, f"{name}.bias", weights[f"{name}.bias"]
    for name, dense in _denses(made, kind.layers):
        if name != _POOLER or f"{name}.weight" in weights:
            yield dense.kernel, f"{name}.weight", weights[f"{name}.weight"].T
            yield dense.bias, f"{name}.bias", weights[f"{name}.bias"]


def _tables(made: Network) -> dict[str, Any]:
    """The tables of embeddings by their names."""
    return {
        "embeddings.word_embeddings.weight": made.token_embedding.embeddings,
        "embeddings.position_embeddings.weight": made.position_embedding.position_embeddings,
        _SEGMENT_TABLE: made.segment_embedding.embeddings,
    }


def _norms(made: Network, names: LayerNames) -> Iterator[tuple[str, Any]]:
    """The LayerNorms with their names."""
    yield "embeddings.LayerNorm", made.embeddings_layer_norm
    for number, block in enumerate(made.transformer_layers):
        layer = f"{names.layer}.{number}"
        yield f"{layer}.{names.attention_norm}", block._self_attention_layer_norm
        yield f"{layer}.{names.norm}", block._feedforward_layer_norm


def _denses(made: Network, names: LayerNames) -> Iterator[tuple[str, Any]]:
    """The products with their names; the pooler is the last."""
    if (projection := network.projection(made)) is not None:
        yield _PROJECTION, projection
    for number, block in enumerate(made.transformer_layers):
        layer, attention = f"{names.layer}.{number}", block._self_attention_layer
        yield f"{layer}.{names.query}", attention.query_dense
        yield f"{layer}.{names.key}", attention.key_dense
        yield f"{layer}.{names.value}", attention.value_dense
        yield f"{layer}.{names.output}", attention.output_dense
        yield f"{layer}.{names.up}", block._feedforward_intermediate_dense
        yield f"{layer}.{names.down}", block._feedforward_output_dense
    yield _POOLER, made.pooled_dense
