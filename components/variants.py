"""What an artifact of variants says of itself, for the stages and commands that read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertline.models.features import ROW_ID, SOURCE, TEXT, TEXT_PAIR
from bertline.models.recipe import AugmentOptions

if TYPE_CHECKING:
    from bertline.components.artifacts import Variants

OPTIONS = "options"  # property of the artifact: the AugmentOptions that made it, as JSON
# Of VARIANTS_FILE. The first two and the last are the source row's.
COLUMNS = (ROW_ID, SOURCE, "operation", TEXT, TEXT_PAIR, "original")


def made_with(variants: Variants) -> AugmentOptions:
    """The options that variants were made with."""
    return AugmentOptions.model_validate_json(variants.get_string_custom_property(OPTIONS))
