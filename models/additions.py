"""What a method leaves beside the network's own weights, and cannot merge into them.

The classifier carries it (Classifier.additions), and so do its saved weights, the served graph and the explanations.
It is a flat mapping from names to float32 arrays. AT is the number of a layer, from 0:

- "AT/attention/PART" and "AT/feedforward/PART": the bottlenecks of Houlsby et al. 2019.
- "AT/after_norm/PART": that of Pfeiffer et al. 2020 and 2021.
- "AT/keys" and "AT/values" [prefix, hidden]: those of Li and Liang 2021, which each row's tokens attend to.
- "prompt" [virtual tokens, hidden]: the word embeddings of Lester et al. 2021. They have no position and no segment.

The PARTs of a bottleneck are down [hidden, size], down_bias [size], up [size, hidden] and up_bias [hidden].
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bertline.errors import UserError

FILE = "adapter.npz"  # beside the network's weights
PLACES = ("attention", "feedforward", "after_norm")
PARTS = ("down", "down_bias", "up", "up_bias")
PROMPT = "prompt"


def write(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes FILE into the folder."""
    np.savez(folder / FILE, **arrays)


def read(folder: Path) -> dict[str, np.ndarray]:
    """Reads what `write` wrote.

    Raises:
        UserError: the file is missing or damaged.
    """
    file = folder / FILE
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: what the weights beside it need cannot be read: {error}") from error


def shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The shapes by name: what must be equal for one training to go on from the additions of another."""
    return {name: tuple(array.shape) for name, array in arrays.items()}
