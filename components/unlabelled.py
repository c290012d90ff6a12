"""Rows without labels that a training may read: the new ones of files, which no split has.

The PseudoLabeller gives them labels. A student learns what its teacher answers to them, and needs none.
"""

from __future__ import annotations

import filecmp
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from bertline.components import added_rows
from bertline.components.data import task_files
from bertline.components.examples import Table
from bertline.components.labelling import pool
from bertline.components.labelling.pool import Candidate
from bertline.components.object_store import local_copy
from bertline.components.options import DataOptions
from bertline.components.scoring.cut import Source
from bertline.components.splitting import split_by_hash, text_key, text_keys
from bertline.errors import UserError
from bertline.models import features
from bertline.models.features import LABEL, TEXT, TEXT_PAIR

TRAIN, VALIDATION, TEST = features.SPLITS


class NewRows(NamedTuple):
    """The new rows of files.

    Attributes:
        files: their names, by the index in a row's place.
        rows: each once, in the order of the files.
        counts: of those that are read so far.
    """

    files: list[str]
    rows: Iterator[Candidate]
    counts: pool.Counts


@contextmanager
def opened(
    key: str,
    source: str,
    options: DataOptions,
    tables: Mapping[str, Table],
    base_folder: str,
    more_known: Mapping[str, str] | None = None,
) -> Iterator[NewRows]:
    """The new rows of files, which can be read within the block.

    Args:
        key: of the config that names the files, such as "train.unlabelled", for the errors.
        source: the files.
        options: of the task: how they are read.
        tables: ingestion's rows by split.
        base_folder: where relative paths start, local or remote.
        more_known: the key of the text of each further row that is no new one -> where it stands.

    Raises:
        UserError: a file cannot be read, or has rows of the test split.
    """
    with local_copy(base_folder, lambda copy: [file.path for file in pool.files_of(source, options, copy)]) as folder:
        sources, counts = pool.look(key, source, options, folder), pool.Counts()
        known = {**(more_known or {}), **keys_of(tables)}
        if options.test_source:
            check_no_test_rows(pool.candidates(sources, options, frozenset(), pool.Counts()), known, key, source)
        candidates = pool.candidates(sources, options, frozenset(), counts)
        rows = new_rows(candidates, known, counts, options, groups_of(tables, options.split.group))
        yield NewRows([each.file.name for each in sources], rows, counts)


def check(key: str, source: str, options: DataOptions, base_folder: str) -> list[Source]:
    """Looks at the files before anything is trained; arguments as those of `opened`.

    Where hashes split the rows, those of the test split that the files hold are left out later, and counted: rows that
    were chosen by `bertline to-label` come back with labels, and some of them become test rows. Rows of a test file
    that the config names are no such accident.

    Raises:
        UserError: as `pool.look`; a file is one of the data's, or has rows of `data.test_source`.
    """
    sources = pool.look(key, source, options, base_folder)
    read_here = options.with_queries(lambda _: None)  # what queries give is not here yet
    for own in task_files.of_task(read_here, base_folder):
        for other in sources:
            if other.file.member == own.member and filecmp.cmp(other.file.path, own.path, shallow=False):
                raise UserError(
                    f"{key}: {other.file.name} is {own.name} of the data, byte for byte: its rows are known, and the "
                    "test rows must stay unseen. Name a file of other rows."
                )
    if read_here.test_source:
        named = pool.known(task_files.by_split(read_here, base_folder)[TEST], read_here)
        candidates = pool.candidates(sources, options, frozenset(), pool.Counts())
        check_no_test_rows(candidates, dict.fromkeys(named.row_ids, TEST), key, source)
    return sources


def keys_of(tables: Mapping[str, Table]) -> dict[str, str]:
    """The key of each row's text -> the row's split."""
    known = {}
    for split, table in tables.items():
        known |= dict.fromkeys((key.row_id for key in text_keys(table[TEXT], table[TEXT_PAIR])), split)
    return known


def groups_of(tables: Mapping[str, Table], group: str | None) -> dict[str, str]:
    """The key of each group of validation and test rows -> their split; {} where rows have no groups."""
    column = {"text": TEXT, "text_pair": TEXT_PAIR, None: None}[group]
    return {text_key(text).row_id: split for split in (VALIDATION, TEST) for text in tables[split].get(column, [])}


def check_no_test_rows(candidates: Iterator[Candidate], known: Mapping[str, str], key: str, source: str) -> None:
    """Raises UserError where rows of the test split are among the unlabelled ones."""
    leaked = sum(known.get(row.row_id) == TEST for row in candidates)
    if leaked:
        raise UserError(
            f"{key}: {leaked:,} rows of {source} are rows of the test split: training on them would flatter "
            "the figures. Take them out, or name a file of other rows."
        )


def new_rows(
    candidates: Iterator[Candidate],
    known: Mapping[str, str],
    counts: pool.Counts,
    options: DataOptions,
    judging: Mapping[str, str],
) -> Iterator[Candidate]:
    """The rows that stand in no split, and whose group stands in none that judges; the others are counted.

    A row that its hash would put into validation or test is left out too. Once it has a label, it will judge the model
    that is trained now, as the last blessed one, beside the next.

    Args:
        candidates: rows of the files.
        known: the key of each text that is no new one -> where it stands.
        counts: is filled in.
        options: of the task: its groups and its split.
        judging: the key of each group of validation and test rows -> their split.
    """
    for row in candidates:
        if row.row_id in known:
            counts.left_out[f"in {known[row.row_id]}"] += 1
        elif (group := options.split.group) and (split := judging.get(text_key(getattr(row, group)).row_id)):
            counts.left_out[f"with a {group} of {split}"] += 1
        elif (split := split_by_hash(row.text, row.text_pair, options)) != TRAIN:
            counts.left_out[f"that would be {split} rows"] += 1
        else:
            yield row


def told(counts: pool.Counts) -> str:
    """Which rows were left out, such as "; left out: 31 in train"; "" where none was."""
    left_out = [f"{count:,} {why}" for why, count in counts.left_out.items()]
    left_out += [f"{len(counts.refused):,} unreadable"] if counts.refused else []
    return f"; left out: {', '.join(left_out)}" if left_out else ""


def none_new(key: str, source: str, counts: pool.Counts) -> UserError:
    """The error where there is no new row."""
    return UserError(
        f"{key}: {source} has no new row without a label: {counts.rows:,} rows{told(counts)}. Name other files, or "
        "leave it out."
    )


def tokenise(target: str, graph: str, rows: Iterable[tuple[Candidate, str]]) -> None:
    """Writes rows into Split-train of a folder, tokenised as ingestion's are.

    Args:
        target: the folder.
        graph: folder of the TransformGraph.
        rows: each with its label; "" for none.
    """
    spec = tft.TFTransformOutput(graph).raw_feature_spec()
    # Kept columns, which training ignores, and the places of labels, of which the schema can ask for a fixed number.
    empty = {name: [""] * int(np.prod(getattr(feature, "shape", ()))) for name, feature in spec.items()}

    def example(row: Candidate, label: str) -> tf.train.Example:
        values = empty | {TEXT: [row.text], **({LABEL: [label]} if label else {})}
        if row.text_pair is not None:
            values[TEXT_PAIR] = [row.text_pair]
        made = tf.train.Example()
        for feature, texts in values.items():
            made.features.feature[feature].bytes_list.value.extend(text.encode() for text in texts)
        return made

    added_rows.write(target, graph, (example(*each) for each in rows))
