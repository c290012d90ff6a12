"""The signature that answers as `text` does and tells, beside the answer, what `bertline monitor` needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bertline.serving.calls import Call
from bertline.serving.protos import SignatureDef

TEXT, MONITORED = "text", "monitored"  # signatures of an exported model
# What MONITORED gives beside the outputs of TEXT: a vector float16 [batch, hidden], and int32 [batch] each, the
# wordpieces and those among them that the vocabulary lacks.
EMBEDDING, PIECES, UNKNOWN = "embedding", "pieces", "unknown"


class Monitored(NamedTuple):
    """How a call of TEXT becomes one of MONITORED, in the graph's tensor names.

    Every such call fetches all of MONITORED's outputs, so that all of them share batches.

    Attributes:
        feeds: TEXT's input -> MONITORED's.
        fetches: TEXT's output -> MONITORED's.
        aliases: the output's name in the signature -> MONITORED's tensor.
    """

    feeds: dict[str, str]
    fetches: dict[str, str]
    aliases: dict[str, str]

    @classmethod
    def of(cls, signatures: Mapping[str, SignatureDef]) -> Monitored | None:
        """None for a model without both signatures, or with others under these names."""
        if not {TEXT, MONITORED} <= set(signatures):
            return None
        text, monitored = signatures[TEXT], signatures[MONITORED]
        if set(text.inputs) != set(monitored.inputs) or not set(text.outputs) <= set(monitored.outputs):
            return None
        return cls(
            feeds={text.inputs[name].name: monitored.inputs[name].name for name in text.inputs},
            fetches={text.outputs[name].name: monitored.outputs[name].name for name in text.outputs},
            aliases={name: info.name for name, info in monitored.outputs.items()},
        )

    def call(self, call: Call) -> Call:
        """The call of MONITORED for a call of TEXT."""
        return Call({self.feeds[name]: feed for name, feed in call.feeds.items()}, tuple(self.aliases.values()))

    def answer(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What TEXT would have given."""
        return {own: outputs[theirs] for own, theirs in self.fetches.items()}
