"""The pretrained weights of a folder in the Hugging Face layout with a SentencePiece vocabulary.

The network is BERT's, and so is its Keras form. Two things are read differently. XLM-RoBERTa counts positions from
padding_idx + 1, and the rows of its table before that are never used: they are left out here. It knows one segment,
whose vector is added to every token.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from bertline.errors import UserError
from bertline.models import backbone_folder, pooling, tokenizer_settings
from bertline.models.bert import backbone_config, hugging_face
from bertline.models.bert.network import Network
from bertline.models.pooling import Pooling
from bertline.models.recipe import ModelOptions
from bertline.models.xlm_roberta import vocabulary as vocabularies
from bertline.models.xlm_roberta.vocabulary import FILE, UNUSED_POSITIONS, Vocabulary

_FILES = ("config.json", "model*.safetensors", *backbone_folder.SAFE_WEIGHTS[1:], FILE)
_SIZES = (*backbone_config.HUGGING_FACE.values(), "type_vocab_size")


def folder(options: ModelOptions) -> Path:
    """The backbone's folder, looked at.

    Raises:
        UserError: it is missing, a pinned file differs from its sha256, or its files do not belong together, or
            its tokenizer does more than its SentencePiece model.
    """
    place = backbone_folder.find(options.backbone)
    backbone_folder.check_pins(place, options.backbone, options.sha256)
    file = place / backbone_folder.CONFIG
    config = backbone_folder.read_config(file)
    words = vocabularies.read_vocabulary(place / FILE).ids
    backbone_config.check_hugging_face(file, config, None)
    tokenizer_settings.check_sentencepiece(place)
    missing = [key for key in _SIZES if key not in config]
    if missing:
        raise UserError(f"{file}: lacks {', '.join(missing)}; fetch the folder again")
    rows = config["vocab_size"]
    if not backbone_config.LEAST_OF_THE_TABLE * rows <= words <= rows:
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
    return pooling.without_pooler(found, options.pooling)


def digest(options: ModelOptions) -> str:
    """SHA-256 of what the backbone is made of, in hex: its files, the prefix and the pooling. Errors as `folder`."""
    place = folder(options)
    summed = hashlib.sha256(f"prefix {vocabularies.input_prefix(place)!r}\npooling {pooling_of(options)}".encode())
    for path in sorted({path for pattern in _FILES for path in place.glob(pattern) if path.is_file()}):
        summed.update(f"\n{path.name} {backbone_folder.sha256(path)}".encode())
    return summed.hexdigest()


def load(options: ModelOptions) -> Network:
    """The backbone with its weights: float32 variables, and `options.dropout` in each layer.

    Raises:
        UserError: as `folder`; or there are no safetensors, a weight is missing or has another shape, or the backbone
            has fewer positions than max_length.
    """
    place = folder(options)
    config = backbone_folder.read_config(place / backbone_folder.CONFIG)
    unused = UNUSED_POSITIONS[config["model_type"]]
    positions = config["max_position_embeddings"] - unused
    if options.max_length > positions:
        raise UserError(
            f"max_length {options.max_length} is more than the {positions} positions of the backbone "
            f"{options.backbone!r}; set max_length to {positions} or less"
        )
    return hugging_face.read(place, dropout=options.dropout, unused_positions=unused)
