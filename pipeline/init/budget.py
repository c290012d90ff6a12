"""`bertline init --p50-ms --size`: the least that must be given up for a model as fast and as small as is asked for.

Bytes are counted from the sizes of the network. Milliseconds are measured, on this machine, with random weights: of two
short networks, since each layer takes as long as the next.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from bertline.errors import UserError
from bertline.models.bert import backbone_config
from bertline.models.recipe import BilstmOptions, StaticOptions
from bertline.pipeline.init import wordpieces

# What a request takes beside the network: gRPC, the server's Python and the tokenizer. One measurement: the canary's
# median for a network of one thin layer, whose own share is a few tenths, was 1.9 ms on two busy cores.
SERVER_MS = 1.5
# Of a SavedModel beside the weights: the tokenizer's own tables, the graph, biases and the files of Transform. They are
# 2.6 MB of MiniLM's.
GRAPH_BYTES = 3_000_000


class Stored(NamedTuple):
    """A dtype of `export.dtype`.

    Attributes:
        bytes: of a number.
        computes: the dtype of the products.
        reason: why it may be taken, for the config.
    """

    bytes: float
    computes: str
    reason: str = ""


# From the one that changes nothing to the one that rounds most.
DTYPES = {
    "float32": Stored(4, "float32"),
    "bfloat16": Stored(2, "bfloat16", "half the bytes; it moves a probability by about 0.001"),
    # a scale for each 64 numbers
    "int8": Stored(1 + 4 / 64, "float32", "about a quarter of the bytes, computed in float32: docs/compression.md"),
}
SHORT, LONGER = 1, 3  # layers of the networks that are timed


Values = dict[tuple[str, ...], tuple[Any, str]]


class Budget(NamedTuple):
    """What a user asks for; None where it is not asked.

    Attributes:
        p50_ms: the most milliseconds that half of the requests with one text may take, on this machine.
        size: the most bytes of the SavedModel.
    """

    p50_ms: float | None = None
    size: int | None = None

    def holds(self, option: Option) -> bool:
        """Whether a model is as small and as fast."""
        small = self.size is None or option.size <= self.size
        return small and (self.p50_ms is None or option.p50_ms <= self.p50_ms)


class Option(NamedTuple):
    """A way to be smaller or faster.

    Attributes:
        words: of it, for the screen.
        size: bytes of the SavedModel, as far as they can be counted before it is made.
        p50_ms: of a request; 0 where no time is asked for.
        values: path in the config -> value and its reason.
        family: of the model, as `model.family`.
    """

    words: str
    size: int
    p50_ms: float
    values: Values
    family: str = "auto"

    def described(self, budget: Budget) -> str:
        """Such as "3 of 6 layers in bfloat16, about 37 MB, 2.9 ms"."""
        parts = [f"about {self.size / 1e6:.0f} MB"] if budget.size is not None else []
        parts += [f"{self.p50_ms:.1f} ms"] if budget.p50_ms is not None else []
        return f"{self.words}, {', '.join(parts)}"


class Weights(NamedTuple):
    """The pretrained weights that are proposed, and the texts in their vocabulary.

    Attributes:
        folder: of the weights.
        texts: one per row, or two for pairs.
        tokens: of a text in the middle.
    """

    folder: Path
    texts: tuple[tuple[str, ...], ...]
    tokens: int


def choose(budget: Budget, weights: Weights) -> tuple[Option, str]:
    """The first option within the budget, in the order in which they give up more, and a sentence on it.

    Raises:
        UserError: none is.
    """
    refused: list[Option] = []
    for option in _options(budget, weights):
        if budget.holds(option):
            return option, _sentence(budget, option, refused, weights.tokens)
        refused.append(option)
    listed = "; ".join(option.described(budget) for option in (refused[0], *refused[-2:]))
    raise UserError(
        f"No model keeps to {_asked(budget)}: {listed}{_where(budget, weights.tokens)}. Ask for less, or leave the "
        "option out and see what a model gives first."
    )


def _sentence(budget: Budget, option: Option, refused: list[Option], tokens: int) -> str:
    whole = f"; {refused[0].described(budget)}" if refused else ""
    return f"for {_asked(budget)}: {option.described(budget)}{whole}{_where(budget, tokens)}"


def _asked(budget: Budget) -> str:
    parts = [f"--p50-ms {budget.p50_ms:g}"] if budget.p50_ms is not None else []
    parts += [f"--size {budget.size / 1e6:g}MB"] if budget.size is not None else []
    return " and ".join(parts)


def _where(budget: Budget, tokens: int) -> str:
    if budget.p50_ms is None:
        return ""
    return f" (measured here with a text of {tokens} tokens; {SERVER_MS:g} ms of each are the server's)"


# === The options ===


def _options(budget: Budget, weights: Weights) -> Iterator[Option]:
    """From the whole model to the least one.

    Rounding numbers and leaving out words that no row has cost next to nothing, so they come before fewer layers. Then
    come a model without attention and, last, one without pretrained weights.
    """
    sizes = _sizes(weights.folder)
    timed = cache(lambda dtype: _times(sizes, dtype, weights.tokens))
    for layers in range(sizes["layers"], 0, -1):
        for words in _vocabularies(budget, weights, sizes["words"]):
            for dtype, stored in DTYPES.items():
                if dtype == "bfloat16" and budget.p50_ms is None and not _multiplies_bfloat16():
                    continue
                p50_ms = timed(stored.computes)(layers) if budget.p50_ms is not None else 0.0
                yield _of_bert(sizes, layers, dtype, words, p50_ms)
    yield from _static(budget, weights, sizes["words"])
    yield _bilstm(weights)


@cache
def _multiplies_bfloat16() -> bool:
    """Whether bfloat16 is faster than float32 here. Elsewhere it is slower, which only a measured time would show."""
    from bertline.models import hardware  # TensorFlow comes with it

    return hardware.describe().precision == "mixed_bfloat16"


def _vocabularies(budget: Budget, weights: Weights, whole: int) -> Iterator[int]:
    """How many wordpieces a model could keep; fewer make it no faster."""
    yield whole
    if budget.size is not None and (weights.folder / "vocab.txt").is_file():
        yield _used_words(weights)


@cache
def _used_words(weights: Weights) -> int:
    """How many wordpieces `compress.vocabulary: used` would leave."""
    from bertline.models.bert import trimming  # TensorFlow comes with it
    from bertline.models.bert.backbone import Vocabulary

    file = weights.folder / "vocab.txt"
    return len(trimming.kept(Vocabulary(file, lowercase=True), wordpieces.used(weights.texts, file)))


def _of_bert(sizes: dict[str, int], layers: int, dtype: str, words: int, p50_ms: float) -> Option:
    steps = [f"{'all' if layers == sizes['layers'] else layers} of {sizes['layers']} layers in {dtype}"]
    values = _exported(dtype)
    if layers < sizes["layers"]:
        values["compress", "layers"] = (layers, f"of {sizes['layers']}, distilled from the whole network")
    if words < sizes["words"]:
        values["compress", "vocabulary"] = (
            "used",
            f"{words:,} of {sizes['words']:,} wordpieces: those of your rows, and what spells others",
        )
        steps.append("with only the wordpieces of your rows")
    hidden, intermediate = sizes["hidden"], sizes["intermediate"]
    in_dtype = backbone_config.parameters(layers, hidden, intermediate, words, positions=0)
    size = DTYPES[dtype].bytes * in_dtype + DTYPES["float32"].bytes * sizes["positions"] * hidden + GRAPH_BYTES
    return Option(" ".join(steps), int(size), p50_ms, values)


def _exported(dtype: str) -> Values:
    return {} if dtype == "float32" else {("export", "dtype"): (dtype, DTYPES[dtype].reason)}


def _static(budget: Budget, weights: Weights, words: int) -> Iterator[Option]:
    """A vector for each wordpiece of the weights, in float32 and in int8; bfloat16 is no faster for it."""
    from bertline.pipeline.init import trial

    sizes = StaticOptions()
    time = SERVER_MS + trial.of_static(weights.tokens) if budget.p50_ms is not None else 0.0
    numbers = (words + sizes.hidden) * sizes.dimensions
    for dtype in ("float32", "int8"):
        values = {("model", "family"): ("static", "a vector per token, distilled from the backbone: docs/families.md")}
        size = int(DTYPES[dtype].bytes * numbers) + GRAPH_BYTES
        yield Option(f"static in {dtype}", size, time, {**values, **_exported(dtype)}, family="static")


def _bilstm(weights: Weights) -> Option:
    """A network that the training rows alone teach."""
    from bertline.pipeline.init import trial

    time, words = trial.of_bilstm([text for row in weights.texts for text in row], weights.tokens)
    options = BilstmOptions()
    lstm = 8 * options.units * (options.embedding + options.units + 1)
    size = 4 * (words * options.embedding + lstm) + GRAPH_BYTES
    values = {("model", "family"): ("bilstm", "no pretrained weights: it knows only what your rows say")}
    return Option("bilstm", size, SERVER_MS + time, values, family="bilstm")


def _times(sizes: dict[str, int], dtype: str, tokens: int) -> Callable[[int], float]:
    """The milliseconds of a request by the network's layers: a line through two that are measured."""
    from bertline.pipeline.init import trial  # TensorFlow comes with it

    network = {name: sizes[name] for name in ("hidden", "heads", "intermediate")}
    short, longer = trial.of_berts([{**network, "layers": layers} for layers in (SHORT, LONGER)], dtype, tokens)
    each = max((longer - short) / (LONGER - SHORT), 0.0)
    return lambda layers: SERVER_MS + short + (layers - SHORT) * each


def _sizes(folder: Path) -> dict[str, int]:
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {size: int(values[key]) for size, key in backbone_config.keys_of(values).items()}
