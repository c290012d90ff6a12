"""The reference model: keras-hub's BERT text classifier, whose variables training and export share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import keras
import keras_hub

from bertline.models.backbone import approximate_gelu, set_gelu

_CONFIG, _WEIGHTS = "classifier.json", "classifier.weights.h5"


def build(
    backbone: keras_hub.models.BertBackbone, labels: int, *, dropout: float, seed: int
) -> keras_hub.models.BertTextClassifier:
    """A classifier over the backbone; its head is drawn from the seed.

    Returns:
        a model from token_ids, segment_ids and padding_mask, int32 [batch, tokens], to logits, float32 [batch, labels].

    Raises:
        ValueError: fewer than two labels.
    """
    if labels < 2:
        raise ValueError(f"a classifier needs at least two labels, not {labels}")
    model = keras_hub.models.BertTextClassifier(backbone, labels, dropout=dropout, dtype="float32")
    # keras-hub's own initializer has no seed.
    initial = keras.initializers.TruncatedNormal(stddev=0.02, seed=seed)
    model.output_dense.kernel.assign(initial(model.output_dense.kernel.shape))
    return model


def save(
    model: keras_hub.models.BertTextClassifier, folder: Path, labels: Sequence[str], *, temperature: float = 1.0
) -> None:
    """Writes what `load` needs into the folder: the weights as trained, and what their logits are to be divided by."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "labels": list(labels),
        "dropout": model.dropout,
        "temperature": temperature,
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


def take_weights(model: keras_hub.models.BertTextClassifier, folder: Path, labels: Sequence[str]) -> None:
    """Gives a classifier the weights of the one that `save` wrote.

    Args:
        model: of the same backbone; its dropout is its own.
        folder: where the other was saved.
        labels: names in the order of the model's logits.

    Raises:
        ValueError: the other has other labels, or layers of other sizes.
    """
    saved = json.loads((folder / _CONFIG).read_text())
    if saved["labels"] != list(labels):
        raise ValueError(f"it knows the labels {', '.join(saved['labels'])}, and the data have {', '.join(labels)}")
    try:
        model.load_weights(folder / _WEIGHTS)
    except ValueError as error:
        raise ValueError("its layers have other sizes than those of model.backbone") from error


def load(folder: Path) -> keras_hub.models.BertTextClassifier:
    """The classifier that `save` wrote, its logits divided by the temperature: their softmax is what the model serves.

    Raises:
        ValueError: the folder holds no saved classifier.
    """
    if not (folder / _CONFIG).is_file():
        raise ValueError(f"{folder}: holds no {_CONFIG}; expected a folder written by the Trainer")
    config = json.loads((folder / _CONFIG).read_text())
    backbone = keras_hub.models.BertBackbone(**config["backbone"], dtype="float32")
    set_gelu(backbone, approximate=config["approximate_gelu"])
    labels = len(config["labels"])
    model = keras_hub.models.BertTextClassifier(backbone, labels, dropout=config["dropout"], dtype="float32")
    model.load_weights(folder / _WEIGHTS)
    for variable in (model.output_dense.kernel, model.output_dense.bias):
        variable.assign(variable / config["temperature"])
    return model
