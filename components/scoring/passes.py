"""The pass over the parts, for Beam to spread over its workers. This module imports no TFX."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.options.pipeline_options import PipelineOptions

from bertline.components import shards
from bertline.components.answers import arrow_lists
from bertline.components.data.rows import excerpt
from bertline.components.scoring import parts
from bertline.components.scoring.models import REFUSED, Answers, Model
from bertline.components.scoring.parts import Parts
from bertline.errors import UserError


def score(job: Parts, numbers: Sequence[int], model: Model, arguments: list[str]) -> None:
    """Answers parts.

    Args:
        job: their folder.
        numbers: of the parts.
        model: what answers.
        arguments: Beam's command line.

    Raises:
        UserError: the workers wrote to another machine's disk.
    """
    if not numbers:
        return
    with beam.Pipeline(options=PipelineOptions(arguments)) as pipeline:
        _ = shards.spread(pipeline, list(numbers)) | "Score" >> beam.ParDo(_Score(job.folder, model))
    missing = sorted(set(numbers) - job.answered())
    if missing:
        raise UserError(
            f"{job.path(parts.ANSWERS, missing[0])} is not there, and Beam says that it was written: its workers do "
            "not see this folder. Write the output to a folder that all of them share; see docs/beam.md."
        )


class _Score(beam.DoFn):
    """Answers a part. Beam may call it twice for a part: again when a worker was lost, or twice at a time."""

    def __init__(self, folder: str, model: Model):
        self._job, self._model = Parts(folder), model

    def setup(self) -> None:
        """Loads the model, once per worker."""
        self._scorer = self._model.load()

    def process(self, part: int) -> Iterator[None]:
        """Writes the answers, after which the rows are not needed any more."""
        if not self._job.has(parts.ANSWERS, part):
            if not self._job.has(parts.ROWS, part):
                raise UserError(
                    f"{self._job.path(parts.ROWS, part)}: a Beam worker does not see it. Write the output to a folder "
                    "that all workers share; see docs/beam.md."
                )
            rows = self._job.read(parts.ROWS, part)
            self._job.write(parts.ANSWERS, part, self._answered(rows))
        self._job.forget_rows(part)
        yield from ()

    def teardown(self) -> None:
        """Frees the model."""
        self._scorer.close()

    def _answered(self, rows: pa.Table) -> pa.Table:
        good = pc.is_null(rows[parts.REASON])
        asked = rows.filter(good)
        texts, pairs = asked[parts.TEXT].to_pylist(), asked[parts.TEXT_PAIR].to_pylist()
        answers = None
        if texts:
            answers = self._scorer.answer(texts, pairs if pairs[0] is not None else None)
        # What is answered is scattered over all rows; the others have nulls.
        places = np.full(rows.num_rows, -1)
        places[np.asarray(good)] = np.arange(asked.num_rows)
        if answers:
            places[np.isin(places, list(answers.faults))] = -1
        table = rows.drop_columns([parts.TEXT, parts.TEXT_PAIR])
        if answers and answers.faults:
            table = _with_faults(table, answers.faults, np.flatnonzero(np.asarray(good)), texts)
        return _with_answers(table, answers, pa.array(places, mask=places < 0))


def _with_faults(table: pa.Table, faults: dict[int, str], rows: np.ndarray, texts: Sequence[str]) -> pa.Table:
    """With the server's reasons, by the place among the asked texts, in the columns of the fault."""
    columns = {name: table[name].to_pylist() for name in (parts.REASON, parts.DETAIL, parts.EXCERPT)}
    for place, detail in faults.items():
        for name, value in zip(columns, (REFUSED, detail, excerpt(texts[place])), strict=True):
            columns[name][rows[place]] = value
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
    return table


def _with_answers(table: pa.Table, answers: Answers | None, places: pa.Array) -> pa.Table:
    """With the columns of the answers; `places` has the place of each row's answer, or null."""
    if answers is None:
        answers = Answers([], [], np.zeros((0, 0), np.float32))
    rows, classes = answers.probabilities.shape
    # That of the one label; a set of labels has none
    best = answers.probabilities.max(axis=1) if classes and not answers.multi_label else [None] * rows
    columns = {
        parts.LABELS: pa.array(answers.labels, pa.list_(pa.string())),
        parts.PROBABILITY: pa.array(best, pa.float32()),
        parts.PROBABILITIES: arrow_lists(answers.probabilities),
        parts.ABSTAINED: pa.array(answers.abstained or [None] * rows, pa.bool_()),
    }
    for name, values in columns.items():
        table = table.append_column(name, values.take(places))
    return table.replace_schema_metadata(
        {parts.CLASSES: json.dumps(answers.classes), parts.MULTI_LABEL: json.dumps(answers.multi_label)}
    )
