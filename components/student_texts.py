"""Texts without labels that a student learns from: all that is said of them is what its teacher answers."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from tfx.types import standard_artifacts

from bertline.components import trainer, unlabelled
from bertline.components.examples import read_splits
from bertline.components.labelling.pool import Candidate
from bertline.components.options import DataOptions
from bertline.models import features
from bertline.models.dataset import NO_LABEL, Rows

KEY = "compress.unlabelled"


class Texts(NamedTuple):
    """The texts.

    Attributes:
        read: in the order of the files.
        rows: the same as the teacher's tokens, without labels.
        described: how many there are and what was left out, such as "290 of 300 unlabelled texts; left out: 10
            repeated".
    """

    read: list[Candidate]
    rows: Rows
    described: str


def read(
    source: str,
    options: DataOptions,
    base_folder: str,
    examples: standard_artifacts.Examples,
    graph: str,
    learned_from: frozenset[str],
) -> Texts:
    """Reads the texts that are in no split, and tokenises them.

    Args:
        source: `compress.unlabelled`.
        options: of the task: how the files are read.
        base_folder: where relative paths start.
        examples: raw Examples of ingestion, all splits.
        graph: folder of the TransformGraph.
        learned_from: ids of the rows of `train.unlabelled` that the student learns from already.

    Raises:
        UserError: a file cannot be read, has rows of the test split, or there is no new text.
    """
    tables = read_splits(examples, multi_label=options.multi_label is not None)
    known = dict.fromkeys(learned_from, "train.unlabelled")
    with unlabelled.opened(KEY, source, options, tables, base_folder, known) as new:
        candidates = list(new.rows)
    if not candidates:
        raise unlabelled.none_new(KEY, source, new.counts)
    with tempfile.TemporaryDirectory(prefix="bertline-texts-") as scratch:
        unlabelled.tokenise(scratch, graph, ((candidate, "") for candidate in candidates))
        rows = trainer.read_split(graph, scratch, features.SPLITS[0])
    described = f"{len(candidates):,} of {new.counts.rows:,} unlabelled texts{unlabelled.told(new.counts)}"
    return Texts(candidates, replace(rows, labels=np.full_like(rows.labels, NO_LABEL)), described)
