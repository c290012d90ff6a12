"""The pretrained weights of a folder in the Hugging Face layout with a SentencePiece vocabulary.

The network is BERT's, and so is its Keras form. Two things are read differently. XLM-RoBERTa counts positions from
padding_idx + 1, and the rows of its table before that are never used: they are left out here. It knows one segment,
whose vector is added to every token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import safetensors
import tensorflow as tf

from bertline.errors import UserError
from bertline.models import backbone_folder, pooling
from bertline.models.bert import backbone_config
from bertline.models.bert.backbone import as_configured
from bertline.models.pooling import Pooling
from bertline.models.recipe import ModelOptions
from bertline.models.xlm_roberta import vocabulary as vocabularies
from bertline.models.xlm_roberta.vocabulary import FILE, UNUSED_POSITIONS, Vocabulary

_FILES = ("config.json", "model*.safetensors", *backbone_folder.SAFE_WEIGHTS[1:], FILE)
# A vocabulary that covers less of the table is another model's; real ones leave a few rows unused.
LEAST_OF_THE_TABLE = 0.5
_SIZES = (*backbone_config.HUGGING_FACE.values(), "type_vocab_size")


def folder(options: ModelOptions) -> Path:
    """The backbone's folder, looked at.

    Raises:
        UserError: it is missing, a pinned file differs from its sha256, or its files do not belong together.
    """
    place = backbone_folder.find(options.backbone)
    backbone_folder.check_pins(place, options.backbone, options.sha256)
    file = place / backbone_folder.CONFIG
    config = backbone_folder.read_config(file)
    words = vocabularies.read_vocabulary(place / FILE).ids
    backbone_config.check_hugging_face(file, config, None)
    missing = [key for key in _SIZES if key not in config]
    if missing:
        raise UserError(f"{file}: lacks {', '.join(missing)}; fetch the folder again")
    rows = config["vocab_size"]
    if not LEAST_OF_THE_TABLE * rows <= words <= rows:
        raise UserError(
            f"{file}: vocab_size is {rows:,}, and {place / FILE} makes {words:,} ids: the two files must belong "
            "together; fetch the folder again"
        )
    return place


def vocabulary(options: ModelOptions) -> Vocabulary:
    """The vocabulary of the backbone; reads no weights. Errors as `folder`."""
    return vocabularies.read_vocabulary(folder(options) / FILE)


def pooling_of(options: ModelOptions) -> Pooling:
    """How the backbone's token vectors become one; reads no weights.

    It is as the folder says, else the mean: XLM-RoBERTa was trained without a pooler, so there is none to go on from.

    Raises:
        UserError: the backbone cannot be found, or it says to pool in a way that is not known here.
    """
    found = pooling.of_folder(backbone_folder.find(options.backbone), options.pooling)
    return found if found.kind != "pooler" else Pooling("cls" if options.pooling == "cls" else "mean")


def digest(options: ModelOptions) -> str:
    """SHA-256 of what the backbone is made of, in hex: its files, the prefix and the pooling. Errors as `folder`."""
    place = folder(options)
    summed = hashlib.sha256(f"prefix {vocabularies.input_prefix(place)!r}\npooling {pooling_of(options)}".encode())
    for path in sorted({path for pattern in _FILES for path in place.glob(pattern) if path.is_file()}):
        summed.update(f"\n{path.name} {backbone_folder.sha256(path)}".encode())
    return summed.hexdigest()


def load(options: ModelOptions) -> keras_hub.models.BertBackbone:
    """The backbone with its weights: float32 variables, and `options.dropout` in each layer.

    Raises:
        UserError: as `folder`; or there are no safetensors, a weight is missing or has another shape, or the backbone
            has fewer positions than max_length.
    """
    place = folder(options)
    backbone_folder.check_safetensors(place)
    file = place / backbone_folder.CONFIG
    config = backbone_folder.read_config(file)
    unused = UNUSED_POSITIONS[config["model_type"]]
    positions = config["max_position_embeddings"] - unused
    if options.max_length > positions:
        raise UserError(
            f"max_length {options.max_length} is more than the {positions} positions of the backbone "
            f"{options.backbone!r}; set max_length to {positions} or less"
        )
    count = backbone_config.parameters_of(config, backbone_config.HUGGING_FACE)
    backbone_config.check_memory(str(file), count)
    network = keras_hub.models.BertBackbone(
        vocabulary_size=config["vocab_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        hidden_dim=config["hidden_size"],
        intermediate_dim=config["intermediate_size"],
        dropout=options.dropout,
        max_sequence_length=positions,
        num_segments=config["type_vocab_size"],
        dtype="float32",
    )
    as_configured(network, file, config)
    _fill(network, _Tensors(place), unused)
    return network


class _Tensors:
    """The weights of a folder by their names, in one safetensors file or several."""

    def __init__(self, place: Path):
        self._place = place
        files = [safetensors.safe_open(path, framework="tf") for path in sorted(place.glob("model*.safetensors"))]
        # A whole classifier or language model has its name before each weight's.
        self._files = {_bare(name): (file, name) for file in files for name in file.keys()}  # noqa: SIM118

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> np.ndarray:
        """A weight, float32."""
        if name not in self._files:
            raise UserError(
                f"{self._place}: the weights lack {name}: they are of another family, or cut short. "
                "Fetch the folder again"
            )
        file, full = self._files[name]
        return tf.cast(file.get_tensor(full), tf.float32).numpy()


def _bare(name: str) -> str:
    for prefix in ("roberta.", "bert."):
        name = name.removeprefix(prefix)
    return name


def _fill(network: keras_hub.models.BertBackbone, tensors: _Tensors, unused: int) -> None:
    """Gives the network the weights."""
    for variable, name, value in _weights(network, tensors, unused):
        shape = tuple(variable.shape)
        if value.size != np.prod(shape):
            raise UserError(
                f"the weight {name} has {value.size:,} numbers, and config.json's sizes make {np.prod(shape):,}: "
                "the two files must belong together; fetch the folder again"
            )
        variable.assign(value.reshape(shape))


def _weights(network: Any, tensors: _Tensors, unused: int) -> Iterator[tuple[Any, str, np.ndarray]]:
    """Each variable with its weight's name and value, kernels as [in, out]."""
    embeddings = "embeddings.{}_embeddings.weight".format
    yield network.token_embedding.embeddings, embeddings("word"), tensors[embeddings("word")]
    places = network.position_embedding.position_embeddings
    yield places, embeddings("position"), tensors[embeddings("position")][unused:]
    yield network.segment_embedding.embeddings, embeddings("token_type"), tensors[embeddings("token_type")]
    yield from _norm(network.embeddings_layer_norm, "embeddings.LayerNorm", tensors)
    for number, block in enumerate(network.transformer_layers):
        layer, attention = f"encoder.layer.{number}", block._self_attention_layer
        for part in ("query", "key", "value"):
            yield from _dense(getattr(attention, f"{part}_dense"), f"{layer}.attention.self.{part}", tensors)
        yield from _dense(attention.output_dense, f"{layer}.attention.output.dense", tensors)
        yield from _norm(block._self_attention_layer_norm, f"{layer}.attention.output.LayerNorm", tensors)
        yield from _dense(block._feedforward_intermediate_dense, f"{layer}.intermediate.dense", tensors)
        yield from _dense(block._feedforward_output_dense, f"{layer}.output.dense", tensors)
        yield from _norm(block._feedforward_layer_norm, f"{layer}.output.LayerNorm", tensors)
    if "pooler.dense.weight" in tensors:  # sentence encoders are often kept without it
        yield from _dense(network.pooled_dense, "pooler.dense", tensors)


def _dense(layer: Any, name: str, tensors: _Tensors) -> Iterator[tuple[Any, str, np.ndarray]]:
    yield layer.kernel, f"{name}.weight", tensors[f"{name}.weight"].T
    yield layer.bias, f"{name}.bias", tensors[f"{name}.bias"]


def _norm(layer: Any, name: str, tensors: _Tensors) -> Iterator[tuple[Any, str, np.ndarray]]:
    yield layer.gamma, f"{name}.weight", tensors[f"{name}.weight"]
    yield layer.beta, f"{name}.bias", tensors[f"{name}.bias"]
