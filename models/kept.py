"""What of a teacher's network its student keeps, and what that is chosen by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Kept(NamedTuple):
    """Layers, and what stays of each of them; all are counted from 0, and None stands for all.

    Attributes:
        layers: in the order of the network.
        heads: of each of these layers, the same number.
        units: of each of these layers' feed-forward parts, the same number.
        hidden: dimensions of the hidden states, the same after all layers. Heads keep their width, so `heads` says
            which ones there is room for.
    """

    layers: Sequence[int]
    heads: Sequence[Sequence[int]] | None = None
    units: Sequence[Sequence[int]] | None = None
    hidden: Sequence[int] | None = None


class Importance(NamedTuple):
    """How much each head, each unit and each dimension of the hidden states of a network matters."""

    heads: np.ndarray  # float64 [layers, heads]
    units: np.ndarray  # float64 [layers, units]
    hidden: np.ndarray  # float64 [hidden]
