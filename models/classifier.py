"""The classifier: keras-hub's BERT text classifier, whose variables training and export share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import keras_hub

from bertline.errors import UserError
from bertline.models.backbone import approximate_gelu, set_gelu

_CONFIG, _WEIGHTS = "classifier.json", "classifier.weights.h5"


def build(
    backbone: keras_hub.models.BertBackbone, labels: int, *, dropout: float, seed: int
) -> keras_hub.models.BertTextClassifier:
    """A classifier over the backbone; its head is drawn from the seed.

    Returns:
        a model that takes token_ids, segment_ids and padding_mask, int32 [batch, tokens], and gives logits, float32
        [batch, labels].

    Raises:
        UserError: fewer than two labels.
    """
    if labels < 2:
        raise UserError(f"a classifier needs at least two labels, not {labels}")
    model = keras_hub.models.BertTextClassifier(backbone, labels, dropout=dropout, dtype="float32")
    # keras-hub's own initializer has no seed.
    initial = keras.initializers.TruncatedNormal(stddev=0.02, seed=seed)
    model.output_dense.kernel.assign(initial(model.output_dense.kernel.shape))
    return model


def save(
    model: keras_hub.models.BertTextClassifier, folder: Path, labels: Sequence[str], *, backbone_digest: str
) -> None:
    """Writes the weights and what else `load` and `take_weights` need.

    Args:
        model: the trained classifier.
        folder: is made where it is missing.
        labels: names in the order of the model's logits.
        backbone_digest: of the backbone that training started from (see backbone.digest).
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "labels": list(labels),
        "dropout": model.dropout,
        "backbone_digest": backbone_digest,
        "approximate_gelu": approximate_gelu(model.backbone),
        "backbone": {
            key: getattr(model.backbone, key)
            for key in (
                "vocabulary_size",
                "num_layers",
                "num_heads",
                "hidden_dim",
                "intermediate_dim",
                "dropout",
                "max_sequence_length",
                "num_segments",
            )
        },
    }
    (folder / _CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    model.save_weights(folder / _WEIGHTS)


def take_weights(
    model: keras_hub.models.BertTextClassifier, folder: Path, labels: Sequence[str], *, backbone_digest: str
) -> None:
    """Gives a classifier the weights of the one that `save` wrote.

    Args:
        model: the classifier; it keeps its dropout.
        folder: where the other was saved.
        labels: names in the order of the model's logits.
        backbone_digest: of the model's backbone. Two backbones can have layers of the same sizes.

    Raises:
        UserError: the saved classifier has other labels or another backbone.
    """
    saved = _read_config(folder)
    if saved["labels"] != list(labels):
        raise UserError(f"it knows the labels {', '.join(saved['labels'])}, and the data have {', '.join(labels)}")
    if "backbone_digest" not in saved:
        raise UserError("an earlier bertline pushed it, which did not record its backbone")
    if saved["backbone_digest"] != backbone_digest:
        raise UserError("it was trained from another backbone than model.backbone, or from other files of it")
    model.load_weights(folder / _WEIGHTS)


def load(folder: Path, *, temperature: float = 1.0) -> keras_hub.models.BertTextClassifier:
    """The classifier that `save` wrote.

    Args:
        folder: where it was saved.
        temperature: its logits are divided by this. With the temperature that it is served at, the softmax of the
            logits is what the served model answers.

    Raises:
        UserError: the folder holds no saved classifier.
    """
    config = _read_config(folder)
    backbone = keras_hub.models.BertBackbone(**config["backbone"], dtype="float32")
    set_gelu(backbone, approximate=config["approximate_gelu"])
    labels = len(config["labels"])
    model = keras_hub.models.BertTextClassifier(backbone, labels, dropout=config["dropout"], dtype="float32")
    model.load_weights(folder / _WEIGHTS)
    for variable in (model.output_dense.kernel, model.output_dense.bias):
        variable.assign(variable / temperature)
    return model


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / _CONFIG).is_file():
        raise UserError(f"{folder}: holds no {_CONFIG}; expected a folder written by the Trainer")
    return json.loads((folder / _CONFIG).read_text())
