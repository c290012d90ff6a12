"""Candidates of queries, scored in one pass and put in order: the most probable to fit comes first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from bertline.components import ingestion
from bertline.components.data import formats
from bertline.components.data.rows import Fault
from bertline.components.scoring import output
from bertline.components.scoring.cut import Sources, text_columns
from bertline.components.scoring.models import REFUSED, Scorer
from bertline.components.splitting import text_key
from bertline.errors import UserError
from bertline.serving import storage

QUERY, RANK, SCORE, FILE, ROW = "query", "rank", "score", "file", "row"  # columns of an output


class Candidate(NamedTuple):
    """A row of the files: its query, its own text, and its columns as the files have them."""

    file: str
    row: int
    query: str
    text: str
    values: tuple[str | None, ...]


class Refused(NamedTuple):
    """A row that cannot be ranked."""

    file: str
    row: int
    fault: Fault


class Ranked(NamedTuple):
    """A candidate in its place.

    Attributes:
        rank: among those of its query, from 1.
        score: the probability that it fits.
        candidate: the row.
    """

    rank: int
    score: float
    candidate: Candidate


def read(sources: Sources, query: str | None) -> Iterator[Candidate | Refused]:
    """The rows of the files, in order.

    Args:
        sources: the files. With a `query` its options name the candidates' column as the text, else the queries' as the
            text and the candidates' as the second text.
        query: that all rows are candidates for; None where each row has its own.

    Raises:
        UserError: a file turns out to be damaged.
    """
    for file, columns in sources.files:
        of_text = text_columns(sources.options)
        names = list(dict.fromkeys([*columns, *of_text]))
        for row in formats.read(file, sources.options, names):
            if row.fault:
                yield Refused(file.name, row.number, row.fault)
                continue
            named = dict(zip(names, row.values, strict=True))
            text, pair, fault = ingestion.texts([named[name] for name in of_text], sources.options)
            if fault:
                yield Refused(file.name, row.number, fault)
                continue
            own, candidate = (text, pair) if query is None else (query, text)
            kept = tuple(named.get(name) for name in sources.columns)
            yield Candidate(file.name, row.number, own, candidate or "", kept)


def order(candidates: Sequence[Candidate], scorer: Scorer, label: str) -> tuple[list[list[Ranked]], list[Refused]]:
    """Scores all candidates in one pass, and puts those of each query in order.

    Queries come in the order of the files; candidates with the same score too.

    Args:
        candidates: at least one.
        scorer: answers pairs.
        label: of a candidate that fits.

    Returns:
        The candidates of each query, and those that the scorer refused.

    Raises:
        UserError: the model has no such label.
    """
    answers = scorer.answer([each.query for each in candidates], [each.text for each in candidates])
    refused = [
        Refused(candidates[row].file, candidates[row].row, Fault(REFUSED, fault, candidates[row].text))
        for row, fault in answers.faults.items()
    ]
    if len(refused) == len(candidates):
        return [], refused
    if label not in answers.classes:
        raise UserError(f"the model has no label {label!r}: its labels are {', '.join(answers.classes)}.")
    scores = answers.probabilities[:, answers.classes.index(label)]
    by_query: dict[str, list[int]] = {}
    for row, candidate in enumerate(candidates):
        if row not in answers.faults:
            by_query.setdefault(text_key(candidate.query).row_id, []).append(row)
    ranked = []
    for rows in by_query.values():
        best_first = np.array(rows)[np.argsort(-scores[rows], kind="stable")]
        ranked.append([Ranked(rank, float(scores[row]), candidates[row]) for rank, row in enumerate(best_first, 1)])
    return ranked, refused


# === The file ===


class _Layout(NamedTuple):
    """What output's writers ask of a layout."""

    schema: pa.Schema
    classes: list[str]
    probabilities: bool = False
    separator: str | None = None


def write(path: Path, ranked: Sequence[Sequence[Ranked]], columns: Sequence[str], *, guard: bool) -> int:
    """Writes the candidates in order, whole or not at all.

    Args:
        path: ends in one of output.WRITERS; replaced if it is there.
        ranked: the candidates of each query.
        columns: the files', which are in the output too; one that is called like ours gets another name.
        guard: whether a CSV file is written so that no spreadsheet runs a cell.

    Returns:
        The cells of a CSV file that got an apostrophe.
    """
    own = [(QUERY, pa.large_string()), (RANK, pa.int64()), (SCORE, pa.float32())]
    own += [(FILE, pa.string()), (ROW, pa.int64())]
    names = _renamed(columns, [name for name, _ in own])
    schema = pa.schema([*own, *((name, pa.large_string()) for name in names)])
    rows: list[tuple[Any, ...]] = [
        (each.candidate.query, each.rank, each.score, each.candidate.file, each.candidate.row, *each.candidate.values)
        for of_query in ranked
        for each in of_query
    ]
    values = zip(*rows, strict=True) if rows else ((),) * len(schema)
    table = pa.table([pa.array(column, field.type) for column, field in zip(values, schema, strict=True)], schema)
    try:
        with storage.writing_whole(path) as unfinished, open(unfinished, "wb") as stream:
            writer = output.WRITERS[output.check(path)](stream, _Layout(schema, []), guard)
            writer.write(table)
            writer.close()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    return writer.guarded


def _renamed(columns: Sequence[str], taken: Sequence[str]) -> list[str]:
    names = list(taken)
    for column in columns:
        while column in names:
            column = f"{output.INPUT}{column}"
        names.append(column)
    return names[len(taken) :]
