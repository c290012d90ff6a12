"""The file of a split's vectors, which the Embedder writes and the probe reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bertline.serving import storage


@dataclass(frozen=True)
class Vectors:
    """The rows of a split, in its order.

    Attributes:
        vectors: float32 [rows, hidden], pooled as `model.pooling` says.
        labels: int32 [rows], indices into the labels; of multi-label rows [rows, labels], 1 or 0.
        places: int64 [rows], their places in the split: of the training rows there may be only a sample.
    """

    vectors: np.ndarray
    labels: np.ndarray
    places: np.ndarray


def write(folder: str, split: str, rows: Vectors) -> None:
    """Writes a split's file into the artifact's folder, local or remote."""
    with storage.open_file(_path(folder, split), "wb") as file:
        np.savez(file, vectors=rows.vectors, labels=rows.labels, places=rows.places)


def read(folder: str, split: str) -> Vectors:
    """Reads a split's file."""
    with storage.open_file(_path(folder, split), "rb") as file, np.load(file, allow_pickle=False) as arrays:
        return Vectors(arrays["vectors"], arrays["labels"], arrays["places"])


def _path(folder: str, split: str) -> str:
    return f"{folder}/vectors-{split}.npz"
