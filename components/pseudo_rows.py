"""What an artifact of pseudo-labels says of itself, for the stages that read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertline.models.recipe import TrainOptions

if TYPE_CHECKING:
    from bertline.components.artifacts import PseudoLabels

ASKED = "asked"  # property of the artifact: what `asked_by` gives


def asked_by(source: str, labels: str, threshold: float) -> str:
    """What rows are asked for by."""
    return f"{source} {labels} {threshold!r}"


def asked(recipe: TrainOptions) -> str | None:
    """What the recipe asks for rows by; None where it asks for none."""
    if recipe.unlabelled is None:
        return None
    return asked_by(recipe.unlabelled, recipe.pseudo_labels, recipe.pseudo_threshold)


def answered(rows: PseudoLabels) -> str:
    """What the rows were asked for by."""
    return rows.get_string_custom_property(ASKED)
