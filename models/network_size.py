"""The size of a backbone's network, and what of a recipe does not fit it or its family, without Keras or weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bertline.errors import UserError
from bertline.models import packages
from bertline.models.bert.backbone_config import KERAS_HUB, keys_of, parameters, parameters_of
from bertline.models.bert.backbone_config import masked_lm_fault as of_kind
from bertline.models.recipe import METHODS, BilstmOptions, ModelOptions, RandomBert, StaticOptions, TrainOptions
from bertline.models.xlm_roberta.vocabulary import FILE as SENTENCEPIECE
from bertline.models.xlm_roberta.vocabulary import UNUSED_POSITIONS


class NetworkSize(NamedTuple):
    """What a method and its options are measured by."""

    layers: int
    hidden: int
    positions: int | None = None  # tokens that it can take at once; None for any number
    methods: tuple[str, ...] = METHODS  # that it can be trained by
    heads: int | None = None  # of each layer's attention; None where there is none
    units: int | None = None  # of each layer's feed-forward part
    embedding: int | None = None  # width of the tables, where a projection widens it to hidden; else None


class Weights(NamedTuple):
    """How many weights a network has, and how many rows of them are vectors of words."""

    all: int
    words: int


def read(options: ModelOptions) -> NetworkSize | None:
    """The size that a backbone's config.json states; None where there is none to read here.

    That is so for what keras-hub fetches, for a folder that only the machine that trains has, and for a damaged one,
    which the stages that read it name.
    """
    if options.family == "bilstm":
        return of_bilstm(options.bilstm)
    if options.family == "static":
        return of_static(options.static)
    return of_backbone(options)


def of_backbone(options: ModelOptions) -> NetworkSize | None:
    """The same of the backbone, whatever is made of it."""
    source = options.backbone
    if isinstance(source, RandomBert):
        positions = max(options.max_length, 512)
        return NetworkSize(source.layers, source.hidden, positions, heads=source.heads, units=source.intermediate)
    values = _config(source)
    for keys, stated in _stated(values):
        names = {"layers": "layers", "hidden": "hidden", "positions": "positions"}
        names |= {"heads": "heads", "units": "intermediate"}
        sizes = {own: stated.get(keys[name]) for own, name in names.items()}
        if all(isinstance(size, int) and size > 0 for size in sizes.values()):
            size = NetworkSize(**sizes)
            unused, tables = UNUSED_POSITIONS.get(values.get("model_type"), 0), stated.get(keys.get("embedding"))
            size = size._replace(positions=size.positions - unused, embedding=None if tables == size.hidden else tables)
            return None if size.hidden % size.heads else size
    return None


def weights(options: ModelOptions) -> Weights | None:
    """About how many weights the backbone has, without biases, LayerNorms and pooler; None as of `read`."""
    source = options.backbone
    if isinstance(source, RandomBert):
        file = _folder(source.vocabulary)
        words = file.read_bytes().count(b"\n") if file and file.is_file() else 0
        sizes = (source.layers, source.hidden, source.intermediate, words, max(options.max_length, 512))
        return Weights(parameters(*sizes), words) if words else None
    for keys, stated in _stated(_config(source)):
        if all(isinstance(stated.get(key), int) for key in keys.values()):
            return Weights(parameters_of(stated, keys), stated[keys["words"]])
    return None


def of_bilstm(options: BilstmOptions) -> NetworkSize:
    """One layer as wide as both directions; only all of its weights can be trained."""
    return NetworkSize(1, 2 * options.units, methods=("full",))


def of_static(options: StaticOptions) -> NetworkSize:
    """One hidden layer; as bilstm."""
    return NetworkSize(1, options.hidden, methods=("full",))


def has_sentencepiece(options: ModelOptions) -> bool:
    """Whether the backbone's folder, if it can be looked at here, has a SentencePiece vocabulary."""
    folder = _folder(options.backbone) if isinstance(options.backbone, str) else None
    return folder is not None and (folder / SENTENCEPIECE).is_file()


def masked_lm_fault(options: ModelOptions) -> str | None:
    """See backbone_config.masked_lm_fault; None too where no config.json can be read here."""
    return None if isinstance(options.backbone, RandomBert) else of_kind(_config(options.backbone).get("model_type"))


def _stated(values: dict[str, Any]) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Where a config.json may have sizes, as Hugging Face and keras-hub write it: the key of each, and the values."""
    yield keys_of(values), values
    if isinstance(inner := values.get("config"), dict):
        yield KERAS_HUB, inner


def _config(source: str) -> dict[str, Any]:
    """A backbone's config.json; {} where there is none to read here."""
    try:
        values = json.loads((folder / "config.json").read_text("utf-8")) if (folder := _folder(source)) else {}
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) and isinstance(values.get("model_type"), str | None) else {}


def _folder(source: str) -> Path | None:
    """A local folder or one inside a package; None where there is none, or something else would fetch it."""
    try:
        return packages.resolve(source) if source.startswith(packages.SCHEME) else Path(source)
    except UserError:
        return None


def misfit(train: TrainOptions, size: NetworkSize, max_length: int | None = None) -> str | None:
    """What of the method's options the network is too small for, and the way out; None where all is well.

    Args:
        train: the recipe.
        size: of the network.
        max_length: `model.max_length`; None where it is not known.
    """
    layers, hidden, positions, methods = size[:4]
    if train.method not in methods:
        return (
            f"train.method: {train.method} changes the layers of a pretrained transformer, which this family has not; "
            f"set it to {' or '.join(methods)}, or leave model.family out"
        )
    if train.method == "top_layers" and train.top_layers >= layers:
        return (
            f"train.top_layers: {train.top_layers} of {layers} layers leave none frozen; set it below {layers}, or "
            "train.method: full"
        )
    widths = {
        "lora": ("lora.rank", train.lora.rank),
        "adalora": ("adalora.initial_rank" if train.adalora.initial_rank else "adalora.rank", train.adalora.first_rank),
        "adapters": ("adapters.size", train.adapters.size),
    }
    key, width = widths.get(train.method, ("", 0))
    if width > hidden:
        begun = " at the start (one and a half times rank)" if key == "adalora.rank" else ""
        return f"train.{key}: {width}{begun} is above the backbone's width of {hidden}; 4 to 64 are usual"
    tokens = {"prompt": train.prompt.tokens, "prefix": train.prefix.tokens}.get(train.method, 0)
    if max_length is not None and positions is not None and tokens and tokens + max_length > positions:
        return (
            f"train.{train.method}.tokens: {tokens} and model.max_length ({max_length}) are more than the {positions} "
            f"tokens that the backbone has ever seen at once; set it to {max(positions - max_length, 0)} or less, or "
            "max_length lower"
        )
    return None


def student_misfit(cut: Mapping[str, int], size: NetworkSize) -> str | None:
    """What a student cannot have of its teacher's network, and the way out; None where all is well.

    Args:
        cut: what there is to be less of -> how many are left; see CompressOptions.
        size: of the teacher, a transformer.
    """
    for key, count in cut.items():
        before = getattr(size, key)
        if key == "hidden" and (fault := _width_fault(count, size)):
            return f"compress.hidden: {count} {fault}"
        if count >= before:
            return (
                f"compress.{key}: {count} are not fewer than the {before} of model.backbone, the teacher's; "
                f"{max(before // 2, 1)} is the usual first try"
            )
    if "hidden" in cut and cut.get("heads", 0) > (room := cut["hidden"] * size.heads // size.hidden):
        return f"compress.heads: {cut['heads']} heads are wider than compress.hidden; set it to {room} or less"
    return None


def _width_fault(width: int, size: NetworkSize) -> str | None:
    """Why a student cannot have hidden states of this width, from the verb on; None where it can."""
    head = size.hidden // size.heads
    possible = [each for each in range(head, size.hidden, head) if each != size.embedding]
    if width in possible:
        return None
    if width >= size.hidden:
        reason = f"is not below the {size.hidden} of model.backbone, the teacher's"
    elif width % head:
        reason = f"is not a multiple of {head}, the width of each of the teacher's heads"
    else:
        reason = "is the width of the backbone's tables, and then there is no room for its projection to another width"
    if not possible:
        return f"{reason}; no width is left, so leave it out"
    return f"{reason}; {possible[len(possible) // 2]} is the usual first try"
