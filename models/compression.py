"""Making a student of a trained classifier, its teacher: a smaller vocabulary, fewer layers, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import tensorflow as tf

from bertline.errors import UserError
from bertline.models import families
from bertline.models.dataset import Rows
from bertline.models.distillation import kept_layers
from bertline.models.family import Classifier, LayeredEncoder
from bertline.models.recipe import ModelOptions

VOCABULARY = "vocabulary"  # in a student's Weights: a folder as a backbone's, without weights


@runtime_checkable
class Trims(Protocol):
    """What a family has whose vocabulary can be trimmed, beside the methods of Family."""

    def kept_tokens(self, options: ModelOptions, used: np.ndarray) -> np.ndarray:
        """The ids that stay of the vocabulary, int64 [kept], where texts use those of `used`, int [some]."""

    def trimmed(self, model: Classifier, kept: np.ndarray) -> Classifier:
        """The classifier with the word embeddings of these ids, int64 [kept]."""

    def write_vocabulary(self, options: ModelOptions, kept: np.ndarray, folder: Path) -> None:
        """Writes the vocabulary of these ids into the folder, in the layout of a backbone's."""


@runtime_checkable
class Shortens(Protocol):
    """What a classifier has whose layers can be fewer, beside the methods of Classifier."""

    def shortened(self, layers: Sequence[int]) -> Classifier:
        """A copy with some of its layers, counted from 0."""

    def encoder(self) -> LayeredEncoder:
        """Its forward pass, which gives the states after each layer too."""


class Trimmed(NamedTuple):
    """A teacher with a part of its vocabulary."""

    members: list[Classifier]
    kept: np.ndarray  # int64 [kept], ids of the whole vocabulary in the order of the new ids
    whole: int  # word embeddings that the teacher had


def options_of(options: ModelOptions, weights: str | Path) -> ModelOptions:
    """The options by which a family finds the vocabulary of trained weights: their own, where they have one.

    Args:
        options: the config's, which name the teacher's vocabulary.
        weights: folder of a Weights artifact.
    """
    own = Path(weights) / VOCABULARY
    return options.model_copy(update={"backbone": str(own), "sha256": {}}) if own.is_dir() else options


def trim(members: Sequence[Classifier], options: ModelOptions, splits: Sequence[Rows], folder: Path) -> Trimmed:
    """The teacher with the part of the vocabulary that rows use; it gives these rows the same logits.

    Args:
        members: of the teacher.
        options: name the vocabulary.
        splits: the rows.
        folder: of the student's weights, which gets the vocabulary.

    Raises:
        UserError: the family's vocabulary cannot be trimmed.
    """
    family = families.of(options)
    if not isinstance(family, Trims):
        raise UserError(
            f"compress.vocabulary: used: weights of the family {family.name} cannot lose a part of their vocabulary; "
            "BERTs with a vocab.txt can. Leave it out"
        )
    used = np.unique(np.concatenate([rows.token_ids.flat_values.numpy() for rows in splits]))
    kept = family.kept_tokens(options, used)
    family.write_vocabulary(options, kept, folder / VOCABULARY)
    whole = int(members[0].packed(tf.float32).words.shape[0])
    return Trimmed([family.trimmed(member, kept) for member in members], kept, whole)


def layers_of(teacher: Classifier, layers: int) -> list[int]:
    """Which of the teacher's layers a student keeps, counted from 0.

    Raises:
        UserError: the teacher has no layers to leave out, or not more than these.
    """
    if not isinstance(teacher, Shortens):
        raise UserError("compress.layers: the teacher's network has no layers that could be left out; take it out")
    before = teacher.size.layers
    if layers >= before:
        raise UserError(f"compress.layers: {layers} are not fewer than the teacher's {before}; set it lower")
    if teacher.additions:
        raise UserError("compress.layers: train.method left parts beside the teacher's layers; use full or lora")
    return kept_layers(before, layers)


def renumbered(rows: Rows, kept: np.ndarray) -> Rows:
    """Rows whose ids are all kept, with the new ids.

    Args:
        rows: with ids of the whole vocabulary.
        kept: see Trimmed.
    """
    ids = rows.token_ids
    new = np.searchsorted(kept, ids.flat_values.numpy()).astype(np.int32)
    return replace(rows, token_ids=ids.with_flat_values(new))
