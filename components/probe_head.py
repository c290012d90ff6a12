"""The file of the probe: its head, which the Trainer starts from or keeps, its figures and its validation logits."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

import numpy as np

from bertline.models.probe import Probe
from bertline.serving import storage

_FILE = "probe.npz"


@dataclass(frozen=True)
class Probed:
    """What the file holds.

    Attributes:
        head: the fitted probe.
        validation_logits: its logits of the validation rows, float32 [rows, labels], in the order of the split.
    """

    head: Probe
    validation_logits: np.ndarray

    @property
    def digest(self) -> str:
        """SHA-256 of the head, in hex: trainings that start from different ones are different."""
        return hashlib.sha256(self.head.kernel.tobytes() + self.head.bias.tobytes()).hexdigest()


def write(folder: str, probed: Probed) -> None:
    """Writes the file into the artifact's folder, local or remote."""
    with storage.open_file(f"{folder}/{_FILE}", "wb") as file:
        np.savez(file, validation_logits=probed.validation_logits, **asdict(probed.head))


def read(folder: str) -> Probed:
    """Reads what `write` wrote."""
    with storage.open_file(f"{folder}/{_FILE}", "rb") as file, np.load(file, allow_pickle=False) as arrays:
        logits, kernel, bias = (arrays[name] for name in ("validation_logits", "kernel", "bias"))
        names = ("strength", "train_loss", "validation_loss", "validation_accuracy")
        return Probed(Probe(kernel, bias, *(float(arrays[name]) for name in names)), logits)
