"""The sizes in a backbone's config.json, checked before anything of that size is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil

from bertline.errors import UserError
from bertline.models.recipe import MOST, RandomBert

GIB = 1 << 30
# More than any BERT has; beyond it a file is damaged.
MOST_PARAMETERS = 50_000_000_000
# Rows of a word table that may have no wordpiece: tables are padded to a multiple of 8, 64 or 128, some to one of 512,
# and a few tokens may be added. The cased vocabulary of BERT is 1,526 shorter than the uncased one. A vocabulary that
# covers less of a table than the share is another model's, however small the table.
MOST_UNUSED, LEAST_OF_THE_TABLE = 512, 0.5
_MOST = {**MOST, "embedding": MOST["hidden"]}
# Each size's key in a config.json of Hugging Face, by what most kinds call it and by what a model_type does, and in one
# of keras-hub, below "config".
HUGGING_FACE = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "words": "vocab_size",
    "positions": "max_position_embeddings",
}
OF_KIND = {
    "distilbert": {
        "layers": "n_layers",
        "hidden": "dim",
        "heads": "n_heads",
        "intermediate": "hidden_dim",
        "words": "vocab_size",
        "positions": "max_position_embeddings",
    },
    "electra": {**HUGGING_FACE, "embedding": "embedding_size"},
}
KERAS_HUB = {
    "layers": "num_layers",
    "hidden": "hidden_dim",
    "heads": "num_heads",
    "intermediate": "intermediate_dim",
    "words": "vocabulary_size",
    "positions": "max_sequence_length",
}


def masked_lm_fault(kind: str | None) -> str | None:
    """Why weights of a model_type cannot guess masked words, and the way out; None where they can."""
    if kind != "electra":  # its discriminator tells which words were put in the place of others
        return None
    return (
        "ELECTRA was not trained to guess masked words, so it cannot go on with that; take it out, or name a BERT in "
        "model.backbone"
    )


def keys_of(values: dict[str, Any]) -> dict[str, str]:
    """Each size's key in a config.json of Hugging Face that holds these values."""
    return OF_KIND.get(values.get("model_type"), HUGGING_FACE)


def check_hugging_face(file: Path, values: dict[str, Any], words: int | None) -> None:
    """Checks the sizes of Hugging Face's config.json.

    Args:
        file: the config.json.
        values: what it holds.
        words: lines of the folder's vocab.txt; None where there is none.

    Raises:
        UserError: a size is absurd, the sizes contradict each other, or positions are not absolute; the message names
            the file and the key.
    """
    _check(file, values, keys_of(values))
    positions = values.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise UserError(
            f"{file}: position_embedding_type is {positions!r:.40}, and the network here has only absolute positions. "
            "Take other weights in model.backbone; docs/families.md says which"
        )
    size = values.get("vocab_size")
    if words is None or size is None:
        return
    fault = "the last ones have no vector" if words > size else ""
    if words < max(size - MOST_UNUSED, LEAST_OF_THE_TABLE * size):
        fault = f"{size - words:,} vectors have no wordpiece, so the vocabulary is another model's"
    if fault:
        raise UserError(
            f"{file}: vocab_size is {size:,}, and {file.with_name('vocab.txt')} has {words:,} wordpieces: {fault}. "
            "The two files must belong together; fetch the folder again"
        )


def check_keras_hub(file: Path, values: dict[str, Any]) -> None:
    """Checks the sizes of keras-hub's config.json; arguments and errors as those of `check_hugging_face`."""
    inner = values.get("config")
    _check(file, inner if isinstance(inner, dict) else {}, KERAS_HUB)


def check_random(size: RandomBert, positions: int, vocabulary: Path, words: int) -> None:
    """Checks that random weights of these sizes can be.

    Args:
        size: of the network.
        positions: that it has.
        vocabulary: the file of its wordpieces.
        words: how many there are.

    Raises:
        UserError: they are more than any BERT has.
    """
    if words > MOST["words"]:
        raise UserError(f"{vocabulary}: {words:,} lines are more wordpieces than any BERT has; name another vocabulary")
    count = parameters(size.layers, size.hidden, size.intermediate, words, positions)
    if count > MOST_PARAMETERS:
        raise UserError(
            f"model.backbone: its sizes, with the {words:,} wordpieces of {vocabulary}, make {count:,} parameters, "
            f"more than {MOST_PARAMETERS:,}: make hidden, intermediate or layers smaller"
        )


def check_memory(where: str, count: int) -> None:
    """Checks that so many float32 parameters fit this machine.

    Raises:
        UserError: they take more memory than it has; the message begins with `where`.
    """
    needed, there = 4 * count, psutil.virtual_memory().total
    if needed > there:
        raise UserError(
            f"{where}: its {count:,} parameters take {needed / GIB:,.0f} GiB, and this machine has "
            f"{there / GIB:,.0f} GiB of memory: choose a smaller backbone, or train where there is more"
        )


def _check(file: Path, values: dict[str, Any], keys: dict[str, str]) -> None:
    sizes = {size: values[key] for size, key in keys.items() if key in values}  # without a key it is BERT's own
    for size, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST[size]:
            raise UserError(
                f"{file}: {keys[size]} is {value!r:.50}: it must be a whole number from 1 to {_MOST[size]:,}. The file "
                "is damaged or of another model; fetch the folder again"
            )
    if {"hidden", "heads"} <= set(sizes) and sizes["hidden"] % sizes["heads"]:
        raise UserError(
            f"{file}: {keys['hidden']} ({sizes['hidden']}) must be a multiple of {keys['heads']} ({sizes['heads']}); "
            "fetch the folder again"
        )
    count = parameters_of(values, keys)
    if count > MOST_PARAMETERS:
        raise UserError(
            f"{file}: its sizes make {count:,} parameters, more than {MOST_PARAMETERS:,}: no BERT is as large. The "
            "file is damaged; fetch the folder again"
        )


def parameters_of(values: dict[str, Any], keys: dict[str, str]) -> int:
    """About how many numbers a BERT of a config.json has; 0 where it does not say all sizes."""
    sizes = {size: values[key] for size, key in keys.items() if size != "heads" and key in values}
    return parameters(**sizes) if len(sizes) == len(keys) - 1 else 0


def parameters(
    layers: int, hidden: int, intermediate: int, words: int, positions: int, embedding: int | None = None
) -> int:
    """About how many numbers a BERT of these sizes has."""
    return (words + positions) * (embedding or hidden) + layers * (4 * hidden * hidden + 2 * hidden * intermediate)
