"""The artifact of further pre-training: a backbone's folder, which stages take instead of the configured weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bertline.models.recipe import ModelOptions
from bertline.serving import storage

if TYPE_CHECKING:
    from bertline.components.artifacts import Backbone

RECORD_FILE = "pretraining.json"  # beside the weights


@dataclass(frozen=True)
class Texts:
    """What the network was pre-trained on.

    Attributes:
        read: texts of the files and of the training rows.
        repeated: of them, those that stood there before.
        held_back: of them, those that are validation or test rows.
        refused: rows of the files that could not be read or have no text.
        trained: texts that were trained on.
        held_out: texts that only showed the loss.
    """

    read: int
    repeated: int
    held_back: int
    refused: int
    trained: int
    held_out: int


def model_of(options: ModelOptions, backbone: Backbone | None) -> ModelOptions:
    """The options with the pre-trained backbone instead of the configured one; None leaves them as they are.

    The pins are of the configured files, which the Pretrainer has checked.
    """
    return options if backbone is None else options.model_copy(update={"backbone": backbone.uri, "sha256": {}})


def record(texts: Texts, **figures: Any) -> dict[str, Any]:
    """What RECORD_FILE holds: how many texts, and the figures of the training."""
    return {"texts": asdict(texts), **figures}


def read_record(folder: str) -> dict[str, Any]:
    """Reads RECORD_FILE from the artifact's folder."""
    with storage.open_file(f"{folder}/{RECORD_FILE}", "r") as file:
        return json.load(file)


def headline(folder: str) -> dict[str, Any]:
    """What a release and its card say of it.

    Args:
        folder: the artifact's.

    Returns:
        `texts` that were trained on, `epochs`, and the masked-LM loss of held-out texts in nats, `loss_before` and
        `loss`.
    """
    told = read_record(folder)
    epochs = told["history"]["epochs"]
    return {
        "texts": told["texts"]["trained"],
        "epochs": len(epochs),
        "loss_before": told["before"]["loss"],
        "loss": epochs[-1]["validation_loss"],
    }
