"""Augmenter: variants of the training rows, which only the Trainer reads.

It runs behind Transform, so splits, statistics, the baseline, the probe and the judges of labels see the rows as they
came in. A variant whose text is a row already, in any split, is left out: no test text gets into training.
"""

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import tensorflow as tf
import xxhash
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from bertline.components import added_rows, pretrained, splitting, spreadsheet
from bertline.components.added_rows import TRAIN
from bertline.components.artifacts import VARIANTS_FILE, Backbone, Variants
from bertline.components.augmentation import operations
from bertline.components.augmentation.masked_words import MaskedWords
from bertline.components.augmentation.operations import Operation
from bertline.components.examples import Table, read_splits
from bertline.components.object_store import local_copy
from bertline.components.variants import COLUMNS, OPTIONS
from bertline.errors import UserError
from bertline.models import hardware
from bertline.models.features import ROW_ID, SERIALIZED, SOURCE, TEXT, TEXT_PAIR
from bertline.models.recipe import AugmentOptions, ModelOptions

UNCHANGED = "the operation had nothing to change"
THERE = "its text is a row already"


@component
def Augmenter(
    examples: InputArtifact[standard_artifacts.Examples],
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    variants: OutputArtifact[Variants],
    options: Parameter[str],
    model_options: Parameter[str],
    precision: Parameter[str],
    base_folder: Parameter[str],
    backbone: InputArtifact[Backbone] = None,
) -> None:
    """Makes variants of the training rows and tokenises them.

    Args:
        examples: raw Examples of ingestion, all splits.
        transform_graph: the tokenisation.
        variants: Split-train of transformed Examples, and VARIANTS_FILE: a row per variant, with the row that it was
            made of and the operation.
        options: an AugmentOptions as JSON.
        model_options: a ModelOptions as JSON, which names the weights of the operation masked_lm.
        precision: `train.precision`, of that operation.
        base_folder: where relative paths start.
        backbone: the Pretrainer's weights; None for the configured ones.

    Raises:
        UserError: a file or a package is missing, the command fails, or no variant is left.
    """
    recipe = AugmentOptions.model_validate_json(options)
    tables = read_splits(examples, multi_label=True)
    rows = tables[TRAIN]

    def fill() -> MaskedWords:
        model = pretrained.model_of(ModelOptions.model_validate_json(model_options), backbone)
        return MaskedWords(model, recipe.share, hardware.compute_dtype(precision))

    with local_copy(base_folder, lambda folder: operations.files(recipe, folder)) as folder:
        made = list(_made(rows, recipe, operations.of(recipe, folder, fill)))
    known = {key for table in tables.values() for key in splitting.text_keys(table[TEXT], table[TEXT_PAIR])}
    kept, left_out = _without_known(made, known)
    if not kept:
        raise UserError(f"train.augment: none of {len(made):,} variants is of use: {_listed(left_out)}")
    added_rows.write(variants.uri, transform_graph.uri, _examples(rows, kept))
    _write_provenance(variants.uri, rows, kept)
    variants.set_string_custom_property(OPTIONS, options)
    variants.set_string_custom_property("summary", summary(len(rows[SERIALIZED]), kept, left_out))


class Variant(NamedTuple):
    """A variant of a training row: the row's place, the operation, and the texts, one or the two of a pair.

    Without texts the operation had nothing to change.
    """

    place: int
    operation: str
    texts: tuple[str, ...] | None


def _made(rows: Table, recipe: AugmentOptions, changes: dict[str, Operation]) -> Iterator[Variant]:
    """The variants, one round after the other; in each round every row gets one."""
    sides = [rows[TEXT], rows[TEXT_PAIR]] if any(rows[TEXT_PAIR]) else [rows[TEXT]]
    # The key of a row's text is its id, so what is drawn for a row does not depend on the other rows.
    starts = [_number(recipe.seed, key.row_id) for key in splitting.text_keys(rows[TEXT], rows[TEXT_PAIR])]
    for number in range(recipe.variants):
        turns = [recipe.operations[(start + number) % len(recipe.operations)] for start in starts]
        for name in recipe.operations:
            places = [place for place, turn in enumerate(turns) if turn == name]
            if not places:
                continue
            changed = []
            for position, side in enumerate(sides):  # both texts of a pair are changed, each by draws of its own
                chances = [Random(_number(starts[place], number, position)) for place in places]
                changed.append(changes[name]([side[place] for place in places], chances, recipe.seed + number))
            for place, *texts in zip(places, *changed, strict=True):
                whole = tuple(text or side[place] for text, side in zip(texts, sides, strict=True))
                yield Variant(place, name, whole if any(texts) else None)


def _number(*parts: int | str) -> int:
    """A number that only the parts decide."""
    return xxhash.xxh3_64_intdigest(" ".join(map(str, parts)).encode())


def _without_known(made: list[Variant], known: set[splitting.TextKey]) -> tuple[list[Variant], Counter[str]]:
    """The variants that are new texts, and how many are left out for which reason."""
    kept, left_out, seen = [], Counter(), set(known)
    for variant in made:
        if variant.texts is None:
            left_out[UNCHANGED] += 1
            continue
        key = splitting.text_key(*variant.texts)
        if key in seen:
            left_out[THERE] += 1
            continue
        seen.add(key)
        kept.append(variant)
    # In the order of the rows: what is drawn does not depend on how many rows there are.
    return sorted(kept, key=lambda variant: variant.place), left_out


def _examples(rows: Table, kept: list[Variant]) -> Iterator[tf.train.Example]:
    """The raw Example of each variant: its row's, with other texts."""
    for variant in kept:
        example = tf.train.Example.FromString(rows[SERIALIZED][variant.place])
        for feature, text in zip((TEXT, TEXT_PAIR), variant.texts, strict=False):
            example.features.feature[feature].bytes_list.value[:] = [text.encode()]
        yield example


def _write_provenance(target: str, rows: Table, kept: list[Variant]) -> None:
    def row(variant: Variant) -> list[str]:
        source = [rows[name][variant.place] for name in (ROW_ID, SOURCE)]
        text, pair = (*variant.texts, "")[:2]
        return [*source, variant.operation, text, pair, rows[TEXT][variant.place]]

    spreadsheet.write(f"{target}/{VARIANTS_FILE}", COLUMNS, map(row, kept))


def summary(rows: int, kept: list[Variant], left_out: Counter[str]) -> str:
    """The screen's line, such as "5,981 variants of 1,500 rows: 3,000 swap, 2,981 delete; 19 left out: ..."."""
    by_operation = Counter(variant.operation for variant in kept)
    made = ", ".join(f"{count:,} {name}" for name, count in sorted(by_operation.items()))
    aside = f"; {left_out.total():,} left out: {_listed(left_out)}" if left_out else ""
    return f"{len(kept):,} variants of {rows:,} training rows: {made}{aside}"


def _listed(left_out: Counter[str]) -> str:
    return ", ".join(f"{count:,} because {reason}" for reason, count in left_out.most_common())
