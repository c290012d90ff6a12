"""Pooling: how the vectors of a row's tokens become one vector of the row.

Weights work best when they are pooled as they were trained. BERT's own pretraining put a dense layer with tanh, the
pooler, on [CLS] (Devlin et al. 2019). Sentence encoders are trained on the mean of the tokens or on [CLS] as it is,
often scaled to length 1 (Reimers and Gurevych, "Sentence-BERT", EMNLP 2019). Their folders say which, in the files that
sentence-transformers reads: modules.json, and the config.json of each module's folder.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tensorflow as tf

from bertline.errors import UserError
from bertline.models.backbone_folder import read_config, read_json

MODULES = "modules.json"
_MODES = {"cls": "cls", "cls_token": "cls", "mean": "mean", "mean_tokens": "mean"}  # sentence-transformers' names
_FLAG = "pooling_mode_"


@dataclass(frozen=True)
class Pooling:
    """How a row's vector is made.

    Attributes:
        kind: of the first token, [CLS], through BERT's pooler; of that token as it is; or the mean of all tokens.
        normalised: the vector is scaled to length 1.
    """

    kind: Literal["pooler", "cls", "mean"] = "pooler"
    normalised: bool = False

    def __str__(self) -> str:
        """Such as "mean, length 1"."""
        return f"{self.kind}, length 1" if self.normalised else self.kind

    @property
    def of_first_token(self) -> bool:
        """Whether the other tokens' last vectors are not read."""
        return self.kind != "mean"

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `Pooling(**fields)` reads it."""
        return asdict(self)

    def features(self, vectors: tf.Tensor) -> tf.Tensor:
        """What the head reads of rows' vectors, float32 [rows, hidden].

        A vector of length 1 is made as long as one whose numbers have a mean square of 1. BERT's small initial weights,
        and AdamW's steps, which do not depend on the size of a gradient, suit numbers of this size.
        """
        return vectors * self.gain(vectors.shape[-1])

    def gain(self, hidden: int) -> float:
        """What `features` multiplies by."""
        return hidden**0.5 if self.normalised else 1.0


POOLER = Pooling()


def of_folder(folder: Path | None, wanted: str) -> Pooling:
    """The pooling that a backbone gets.

    Args:
        folder: of the backbone; None where it has no local one.
        wanted: `model.pooling`. "cls" is BERT's pooler where the folder does not say that [CLS] was trained without it.

    Raises:
        UserError: wanted is "auto", and sentence-transformers computes the folder's vectors in a way that is not known
            here; or a file that says which is damaged.
    """
    modules = _modules(folder) if folder is not None and (folder / MODULES).is_file() else {}
    trained = _trained(folder, modules) if modules else POOLER
    if wanted == "auto":
        if trained is None or (set(modules) - {"Transformer", "Pooling", "Normalize"}):
            names = ", ".join(modules)
            raise UserError(
                f"{folder}/{MODULES}: sentence-transformers makes its vectors by {names}, and not by the mean or "
                "[CLS] alone. Set model.pooling: mean or cls to fine-tune the weights with that"
            )
        return trained
    normalised = "Normalize" in modules
    if wanted == "mean":
        return Pooling("mean", normalised)
    return Pooling("cls", normalised) if trained is not None and trained.kind == "cls" else POOLER


def without_pooler(found: Pooling, wanted: str) -> Pooling:
    """The pooling that a backbone without BERT's pooler gets.

    Args:
        found: what `of_folder` gave.
        wanted: `model.pooling`.

    Returns:
        the first token as it is where that is wanted; the mean of all tokens in the pooler's place.
    """
    return found if found.kind != "pooler" else Pooling("cls" if wanted == "cls" else "mean", found.normalised)


def _modules(folder: Path) -> dict[str, str]:
    """The modules of a sentence encoder, in order: the last part of the type's name -> the module's folder.

    Raises:
        UserError: the file is damaged.
    """
    modules = read_json(folder / MODULES)
    try:
        return {str(module["type"]).rpartition(".")[2]: str(module["path"]) for module in modules}
    except (TypeError, KeyError):
        raise UserError(
            f"{folder / MODULES}: expected a list of modules, each with its type and its path; fetch the backbone's "
            "folder again"
        ) from None


def _trained(folder: Path, modules: dict[str, str]) -> Pooling | None:
    """The pooling that the folder names; None for one that is not known here."""
    if "Pooling" not in modules:
        return None
    path = folder / modules["Pooling"] / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}/{MODULES} names {path}, which is missing; copy the whole folder")
    config = read_config(path)
    flags = {name.removeprefix(_FLAG) for name, value in config.items() if name.startswith(_FLAG) and value is True}
    mode = config.get("pooling_mode")
    modes = flags or (mode if isinstance(mode, list) else [mode])
    kinds = {_MODES.get(str(each), "") for each in modes}
    kind = kinds.pop() if len(kinds) == 1 else ""
    return Pooling(kind, "Normalize" in modules) if kind else None
