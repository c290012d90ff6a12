"""Making a student of a trained classifier, its teacher: a smaller vocabulary, less of the network, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import tensorflow as tf

from bertline.errors import UserError
from bertline.models import families, network_size
from bertline.models.dataset import Rows
from bertline.models.distillation import kept_layers
from bertline.models.family import Classifier, LayeredEncoder
from bertline.models.kept import Importance, Kept
from bertline.models.recipe import ModelOptions

STUDENT = "student.json"  # in the Weights of a student of another family: the ModelOptions that make it
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
    """What a classifier has whose layers can be fewer and narrower, beside the methods of Classifier."""

    def importance(self, rows: Rows, seed: int) -> Importance:
        """How much each head, unit and hidden dimension matters to rows, of which the seed draws some."""

    def shortened(self, kept: Kept) -> Classifier:
        """A copy with a part of it."""

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
    folder = Path(weights)
    if (folder / STUDENT).is_file():
        options = ModelOptions.model_validate_json((folder / STUDENT).read_text(encoding="utf-8"))
    own = folder / VOCABULARY
    return options.model_copy(update={"backbone": str(own), "sha256": {}}) if own.is_dir() else options


def learned(graph: str | None, weights: str | Path) -> str | None:
    """The folder of the vocabulary that trained weights have learned: their own, of a student of another family.

    Args:
        graph: folder of the TransformGraph, where that of all others lies, if there is one.
        weights: folder of a Weights artifact.
    """
    return str(weights) if (Path(weights) / STUDENT).is_file() else graph


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


def kept_of(teacher: Classifier, wanted: Mapping[str, int], rows: Rows, seed: int) -> Kept:
    """What a student keeps: layers spread evenly, and of all else what matters most.

    Args:
        teacher: one network.
        wanted: how many `layers` there are to be, how many `heads` and `units` in each, and how many dimensions of the
            `hidden` states; all of what is not named, except the heads for which these have no room.
        rows: training rows, which show what matters.
        seed: draws some of them.

    Raises:
        UserError: the teacher has no layers to take from, or not more of something than are wanted.
    """
    one = next(iter(wanted))
    if not isinstance(teacher, Shortens):
        raise UserError(f"compress.{one}: the teacher's network has no layers to take from; leave it out")
    size = teacher.size
    if misfit := network_size.student_misfit(wanted, size):
        raise UserError(misfit)
    if teacher.additions:
        raise UserError(f"compress.{one}: train.method left parts beside the teacher's layers; use full or lora")
    kept = Kept(kept_layers(size.layers, wanted.get("layers", size.layers)))
    if not set(wanted) - {"layers"}:
        return kept
    # Of the whole teacher: without the layers that are left out, no answer is right before the student is trained.
    scores = teacher.importance(rows, seed)
    if "hidden" in wanted:
        wanted = {"heads": wanted["hidden"] * size.heads // size.hidden, **wanted}
        kept = kept._replace(hidden=_most(scores.hidden[None], wanted["hidden"])[0])
    parts = [part for part in ("heads", "units") if part in wanted]
    return kept._replace(**{part: _most(getattr(scores, part)[kept.layers], wanted[part]) for part in parts})


def _most(scores: np.ndarray, count: int) -> list[list[int]]:
    """The places of the largest scores of each row, in order."""
    return np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :count], axis=1).tolist()


def renumbered(rows: Rows, kept: np.ndarray) -> Rows:
    """Rows whose ids are all kept, with the new ids.

    Args:
        rows: with ids of the whole vocabulary.
        kept: see Trimmed.
    """
    ids = rows.token_ids
    new = np.searchsorted(kept, ids.flat_values.numpy()).astype(np.int32)
    return replace(rows, token_ids=ids.with_flat_values(new))
