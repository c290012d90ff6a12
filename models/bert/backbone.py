"""The pretrained weights and their vocabulary: where they come from, and what is checked of them."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras_hub

from bertline.errors import UserError
from bertline.models import backbone_folder as folders
from bertline.models import tokenizer_settings
from bertline.models.bert import backbone_config, hugging_face, network
from bertline.models.bert.network import Network
from bertline.models.bert.tokenizer import read_lines
from bertline.models.pooling import POOLER, Pooling, of_folder, without_pooler
from bertline.models.recipe import ModelOptions, RandomBert

# Folders of these have a vocab.txt of wordpieces and BERT's network: config.json's model_type.
KINDS = ("bert", "distilbert", "electra")
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
        UserError: the backbone cannot be found, a pinned file differs from its sha256, there is no vocab.txt, or its
            tokenizer reads texts in a way that TensorFlow Text does not.
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
    return Vocabulary(folder / "vocab.txt", tokenizer_settings.wordpiece(folder).lowercase)


def load(options: ModelOptions) -> Network:
    """The backbone with its weights: float32 variables, and `options.dropout` in each layer.

    Raises:
        UserError: the backbone cannot be found or is no BERT, a pinned file differs from its sha256, there are no
            safetensors, or the backbone has fewer positions than max_length.
    """
    source = options.backbone
    made = _random(source, options) if isinstance(source, RandomBert) else _pretrained(source, options)
    if options.max_length > made.max_sequence_length:
        raise UserError(
            f"max_length {options.max_length} is more than the {made.max_sequence_length} positions of the "
            f"backbone {source!r}; set max_length to {made.max_sequence_length} or less"
        )
    return made


def pooling(options: ModelOptions) -> Pooling:
    """How the backbone's token vectors become one; of the weights only the names are read.

    It is as the folder says, else BERT's pooler. Where the weights have none, it is the mean.

    Raises:
        UserError: the backbone cannot be found, it says to pool in a way that is not known here, or its weights are
            damaged.
    """
    folder = local_folder(options)
    pooled = of_folder(folder, options.pooling)
    if pooled.kind == "pooler" and folder and _is_hugging_face(folder) and not hugging_face.has_pooler(folder):
        return without_pooler(pooled, options.pooling)
    return pooled


def kind(options: ModelOptions) -> str:
    """The model_type that the backbone's folder says; "bert" where it says none, or there is no folder.

    Raises:
        UserError: the backbone cannot be found.
    """
    folder = local_folder(options)
    values = folders.read_config(folder / folders.CONFIG) if folder else {}
    return values.get("model_type", "bert")


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
        if _is_hugging_face(folder) and (said_by := tokenizer_settings.wordpiece(folder).file):
            paths.add(said_by)
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


def _random(size: RandomBert, options: ModelOptions) -> Network:
    words = _check_random(size, options)
    count = backbone_config.parameters(size.layers, size.hidden, size.intermediate, words, _positions(options))
    backbone_config.check_memory("model.backbone", count)
    return network.build(
        vocabulary_size=words,
        num_layers=size.layers,
        num_heads=size.heads,
        hidden_dim=size.hidden,
        intermediate_dim=size.intermediate,
        dropout=options.dropout,
        max_sequence_length=_positions(options),
    )


def _check_random(size: RandomBert, options: ModelOptions) -> int:
    """How many wordpieces there are; UserError where no machine could build a network of these sizes."""
    path = vocabulary(options).path
    words = len(read_lines(path))
    backbone_config.check_random(size, _positions(options), path, words)
    return words


def _positions(options: ModelOptions) -> int:
    """The positions of random weights: at least BERT's own 512."""
    return max(options.max_length, 512)


def _pretrained(source: str, options: ModelOptions) -> Network:
    folder = folders.find(source)
    folders.check_pins(folder, source, options.sha256)
    if folder is not None and _is_hugging_face(folder):
        return hugging_face.read(folder, dropout=options.dropout)
    backbone = keras_hub.models.BertBackbone.from_preset(
        str(folder or source), dropout=options.dropout, dtype="float32"
    )
    if not isinstance(backbone, keras_hub.models.BertBackbone):
        raise UserError(f"{source!r} is a {type(backbone).__name__}; the line fine-tunes BERT")
    return backbone


def _is_hugging_face(folder: Path) -> bool:
    config = folder / "config.json"
    values = folders.read_config(config)
    model_type = values.get("model_type")
    if model_type not in (None, *KINDS):
        raise UserError(f"{config}: model_type is {model_type!r}, which is none of {', '.join(KINDS)}")
    if model_type is None:
        backbone_config.check_keras_hub(config, values)
    else:
        words = folder / "vocab.txt"
        backbone_config.check_hugging_face(config, values, len(read_lines(words)) if words.is_file() else None)
    return model_type is not None
