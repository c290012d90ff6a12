"""The folder of a backbone, whatever its family: where it is, its pinned files, and what its config.json says it is."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import huggingface_hub
import keras_hub
from huggingface_hub.errors import HfHubHTTPError

from bertline.errors import UserError
from bertline.models import packages

SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
CONFIG = "config.json"
HUB = "hf://"
# Of a folder on the hub: what some family or keras-hub reads, and neither pickles nor other libraries' weights.
FETCHED = (
    *(CONFIG, "*.safetensors", "*.safetensors.index.json", "vocab.txt", "tokenizer_config.json"),
    *("sentencepiece.bpe.model", "modules.json", "config_sentence_transformers.json", "1_Pooling/config.json"),
    *("metadata.json", "model*.h5", "model.weights.json", "tokenizer.json", "assets/**"),
)


def find(source: str) -> Path | None:
    """The backbone's local folder; None for what keras-hub finds by itself (a preset's name, or kaggle://).

    Raises:
        UserError: there is no such folder, no preset of this name, or Hugging Face's hub does not give it.
    """
    if source.startswith(HUB):
        return fetched(source)
    if source.startswith(("kaggle://", "modelscope://")):
        return None
    if source.startswith(packages.SCHEME) or "/" in source or Path(source).is_dir():
        return local_path(source, "backbone")
    if source in keras_hub.models.BertBackbone.presets:
        return None
    raise UserError(
        f"backbone {source!r} is neither a folder nor a keras-hub preset; presets: "
        f"{', '.join(sorted(keras_hub.models.BertBackbone.presets))}"
    )


@functools.cache
def fetched(source: str) -> Path:
    """The folder of hf://OWNER/NAME or hf://OWNER/NAME@REVISION in the hub's own cache, where it stays for later runs.

    Raises:
        UserError: there is no such address, or the hub cannot be reached and the folder is not in the cache.
    """
    name, _, revision = source.removeprefix(HUB).partition("@")
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=list(FETCHED)))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UserError(
            f"backbone {source!r}: Hugging Face's hub does not give it: {str(error).splitlines()[0]}. Check the "
            "address; without a network, name a folder that holds the files"
        ) from error


def local_path(source: str, key: str) -> Path:
    """The file or folder of a path or a package:// address.

    Args:
        source: the path or address.
        key: what it is, for the message.

    Raises:
        UserError: there is none.
    """
    path = packages.resolve(source) if source.startswith(packages.SCHEME) else Path(source)
    if not path.exists():
        raise UserError(f"{key} {source!r}: there is no such file or folder")
    return path


def read_config(file: Path) -> dict[str, Any]:
    """What a config.json, or another of a folder's files with settings, holds.

    Raises:
        UserError: it is missing, cannot be read, holds no JSON object, or a model_type that is no word; the message
            names the file.
    """
    if not file.is_file():
        raise UserError(
            f"{file.parent}: holds no {file.name}; expected a folder in the Hugging Face layout, or keras-hub's"
        )
    values = read_json(file)
    if not isinstance(values, dict):
        raise UserError(f"{file}: holds no backbone's settings but a {type(values).__name__}; fetch the folder again")
    kind = values.get("model_type")
    if not isinstance(kind, str | None):
        raise UserError(f"{file}: model_type is {kind!r:.50}, and must be a word such as bert; fetch the folder again")
    return values


def read_json(file: Path) -> Any:
    """What a file of a backbone's folder holds.

    Raises:
        UserError: it cannot be read, or is not JSON; the message names the file.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise UserError(f"{file}: not JSON: {reason}; fetch the backbone's folder again") from None


def sha256(path: Path) -> str:
    """Of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_pins(folder: Path | None, source: str, pins: dict[str, str]) -> None:
    """Checks the files that `model.sha256` pins.

    Args:
        folder: the backbone's; None where keras-hub fetches it.
        source: how the config names it.
        pins: file name -> sha256 in hex.

    Raises:
        UserError: a file is missing or another one.
    """
    if pins and folder is None:
        raise UserError(f"sha256: pins are for folders, package:// and hf://; {source!r} is fetched by keras-hub")
    for name, expected in pins.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"sha256: {path} is pinned but does not exist")
        actual = sha256(path)
        if actual != expected.lower():
            raise UserError(
                f"{path} is not the pinned file: expected sha256 {expected}, found {actual}. Install the right file, "
                f"or change the pin under model.sha256 if you trust this one"
            )


def check_safetensors(folder: Path) -> None:
    """Raises UserError where the folder's weights are not in safetensors."""
    if not any((folder / name).is_file() for name in SAFE_WEIGHTS):
        pickles = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "none at all"
        raise UserError(
            f"{folder}: weights must be in model.safetensors, found {pickles}. Pickles can run code and are never "
            f"loaded; convert them with safetensors first"
        )
