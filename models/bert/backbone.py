"""The pretrained weights and their vocabulary: where they come from, and what is checked of them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import keras_hub

from bertline.errors import UserError
from bertline.models import backbone_folder as folders
from bertline.models.bert import backbone_config
from bertline.models.pooling import POOLER, Pooling, of_folder
from bertline.models.recipe import ModelOptions, RandomBert

# Hugging Face's names for GELU -> whether it is the approximation by tanh
_ACTIVATIONS = {"gelu": False, "gelu_new": True, "gelu_pytorch_tanh": True}
# The files that are read of a folder. Anything else in it changes no model.
_HUGGING_FACE_FILES = (
    "config.json",
    "model*.safetensors",
    *folders.SAFE_WEIGHTS[1:],
    "tokenizer_config.json",
    "vocab.txt",
)
_KERAS_HUB_FILES = ("config.json", "metadata.json", "model*.h5", "model.weights.json", "tokenizer.json", "assets/**/*")


@dataclass(frozen=True)
class Vocabulary:
    """The wordpieces that belong to the weights."""

    path: Path  # a vocab.txt, one wordpiece a line
    lowercase: bool


def vocabulary(options: ModelOptions) -> Vocabulary:
    """The vocabulary of the backbone; reads no weights.

    Raises:
        UserError: the backbone cannot be found, a pinned file differs from its sha256, or there is no vocab.txt.
    """
    source = options.backbone
    if isinstance(source, RandomBert):
        return Vocabulary(folders.local_path(source.vocabulary, "vocabulary"), source.lowercase)
    folder = folders.find(source)
    folders.check_pins(folder, source, options.sha256)
    if folder is None or not _is_hugging_face(folder):
        tokenizer = keras_hub.models.BertTokenizer.from_preset(str(folder or source))
        assets = Path(tempfile.mkdtemp(prefix="bertline-vocabulary-"))
        tokenizer.save_assets(assets)
        return Vocabulary(assets / "vocabulary.txt", tokenizer.lowercase)
    if not (folder / "vocab.txt").is_file():
        raise UserError(
            f"{folder}: holds neither vocab.txt, as a BERT does, nor sentencepiece.bpe.model, as XLM-RoBERTa and its "
            "kin do. Fetch the vocabulary too"
        )
    settings = folder / "tokenizer_config.json"
    lowercase = json.loads(settings.read_text()).get("do_lower_case", True) if settings.is_file() else True
    return Vocabulary(folder / "vocab.txt", lowercase)


def load(options: ModelOptions) -> keras_hub.models.BertBackbone:
    """The backbone with its weights: float32 variables, and `options.dropout` in each layer.

    Raises:
        UserError: the backbone cannot be found or is no BERT, a pinned file differs from its sha256, there are no
            safetensors, or the backbone has fewer positions than max_length.
    """
    source = options.backbone
    network = _random(source, options) if isinstance(source, RandomBert) else _pretrained(source, options)
    if options.max_length > network.max_sequence_length:
        raise UserError(
            f"max_length {options.max_length} is more than the {network.max_sequence_length} positions of the "
            f"backbone {source!r}; set max_length to {network.max_sequence_length} or less"
        )
    return network


def pooling(options: ModelOptions) -> Pooling:
    """How the backbone's token vectors become one; reads no weights.

    Raises:
        UserError: the backbone cannot be found, or it says to pool in a way that is not known here.
    """
    return of_folder(local_folder(options), options.pooling)


def digest(options: ModelOptions) -> str:
    """SHA-256 of what the backbone is made of, in hex. Equal contents give equal digests, wherever they lie.

    For a folder the digest covers the weights, their config, the vocabulary and the tokenizer's settings; for random
    weights their sizes and the vocabulary. For what keras-hub fetches (a preset, kaggle://) it covers the name.
    It also covers the pooling, where that is not BERT's own.

    Raises:
        UserError: the backbone cannot be found, or the sizes in its config.json are absurd.
    """
    source = options.backbone
    summed, files = hashlib.sha256(), {}
    if isinstance(source, RandomBert):
        _check_random(source, options)
        summed.update(f"{source.model_dump_json(exclude={'vocabulary'})} {_positions(options)}".encode())
        files = {"vocab.txt": vocabulary(options).path}
    elif folder := folders.find(source):
        patterns = _HUGGING_FACE_FILES if _is_hugging_face(folder) else _KERAS_HUB_FILES
        paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
        files = {str(path.relative_to(folder)): path for path in paths}
    else:
        summed.update(source.encode())
    for name, path in sorted(files.items()):
        summed.update(f"\n{name} {folders.sha256(path)}".encode())
    if (pooled := pooling(options)) != POOLER:
        summed.update(f"\npooling {pooled}".encode())
    return summed.hexdigest()


def local_folder(options: ModelOptions) -> Path | None:
    """The backbone's folder; None for random weights and for what keras-hub fetches.

    Raises:
        UserError: the backbone cannot be found.
    """
    return None if isinstance(options.backbone, RandomBert) else folders.find(options.backbone)


def set_gelu(network: keras_hub.models.BertBackbone, *, approximate: bool) -> None:
    """Sets GELU's form in all layers. keras-hub builds the approximation; most BERTs were trained with erf."""
    for layer in network.transformer_layers:
        layer._feedforward_intermediate_dense.activation = _gelu_approximate if approximate else keras.activations.gelu


def approximate_gelu(network: keras_hub.models.BertBackbone) -> bool:
    """Whether the network computes GELU by its tanh approximation."""
    return network.transformer_layers[0]._feedforward_intermediate_dense.activation is not keras.activations.gelu


def set_epsilon(network: keras_hub.models.BertBackbone, epsilon: float) -> None:
    """Sets what every LayerNorm adds to the variance. keras-hub builds 1e-12; some weights were trained with more."""
    network.embeddings_layer_norm.epsilon = epsilon
    for layer in network.transformer_layers:
        layer._self_attention_layer_norm.epsilon = layer._feedforward_layer_norm.epsilon = epsilon


def epsilon(network: keras_hub.models.BertBackbone) -> float:
    """What every LayerNorm adds to the variance."""
    return network.embeddings_layer_norm.epsilon


def _gelu_approximate(x):
    return keras.activations.gelu(x, approximate=True)


def _random(size: RandomBert, options: ModelOptions) -> keras_hub.models.BertBackbone:
    words = _check_random(size, options)
    count = backbone_config.parameters(size.layers, size.hidden, size.intermediate, words, _positions(options))
    backbone_config.check_memory("model.backbone", count)
    return keras_hub.models.BertBackbone(
        vocabulary_size=words,
        num_layers=size.layers,
        num_heads=size.heads,
        hidden_dim=size.hidden,
        intermediate_dim=size.intermediate,
        dropout=options.dropout,
        max_sequence_length=_positions(options),
        dtype="float32",
    )


def _check_random(size: RandomBert, options: ModelOptions) -> int:
    """How many wordpieces there are; UserError where no machine could build a network of these sizes."""
    path = vocabulary(options).path
    words = len(_words(path))
    backbone_config.check_random(size, _positions(options), path, words)
    return words


def _words(path: Path) -> list[bytes]:
    return path.read_bytes().removesuffix(b"\n").split(b"\n")


def _positions(options: ModelOptions) -> int:
    """The positions of random weights: at least BERT's own 512."""
    return max(options.max_length, 512)


def _pretrained(source: str, options: ModelOptions) -> keras_hub.models.BertBackbone:
    folder = folders.find(source)
    folders.check_pins(folder, source, options.sha256)
    local_hugging_face = folder is not None and _is_hugging_face(folder)
    if local_hugging_face:
        folders.check_safetensors(folder)
        file = folder / "config.json"
        count = backbone_config.parameters_of(folders.read_config(file), backbone_config.HUGGING_FACE)
        backbone_config.check_memory(str(file), count)
    backbone = keras_hub.models.BertBackbone.from_preset(
        str(folder or source), dropout=options.dropout, dtype="float32"
    )
    if not isinstance(backbone, keras_hub.models.BertBackbone):
        raise UserError(f"{source!r} is a {type(backbone).__name__}; the line fine-tunes BERT")
    if local_hugging_face:
        as_configured(backbone, file, folders.read_config(file))
    return backbone


def as_configured(network: keras_hub.models.BertBackbone, file: Path, config: dict[str, Any]) -> None:
    """Gives the network what a config.json of Hugging Face says beside the sizes.

    Args:
        network: is changed.
        file: the config.json, for the message.
        config: what it holds.

    Raises:
        UserError: its activation is not known here.
    """
    name = config.get("hidden_act", "gelu")
    if name not in _ACTIVATIONS:
        raise UserError(f"{file}: hidden_act {name!r} is not one of {', '.join(_ACTIVATIONS)}")
    set_gelu(network, approximate=_ACTIVATIONS[name])
    set_epsilon(network, float(config.get("layer_norm_eps", 1e-12)))


def _is_hugging_face(folder: Path) -> bool:
    config = folder / "config.json"
    values = folders.read_config(config)
    model_type = values.get("model_type")
    if model_type not in (None, "bert"):
        raise UserError(f"{config}: model_type is {model_type!r}; the line fine-tunes 'bert'")
    if model_type is None:
        backbone_config.check_keras_hub(config, values)
    else:
        words = folder / "vocab.txt"
        backbone_config.check_hugging_face(config, values, len(_words(words)) if words.is_file() else None)
    return model_type == "bert"
