"""`bertline init`: looks at a file of labelled text and writes a config for it, with the reason beside each number.

`survey` looks at the file, `propose` chooses the settings, `refuse` makes the checks of `run`, and `render` writes the
YAML. None of them imports TensorFlow, so that a person who is about to start waits for no library. Only `budget` may do
so, where a time or a size is asked for.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bertline.components.data import sql
from bertline.components.options import Query
from bertline.errors import UserError
from bertline.models.features import SPLITS
from bertline.pipeline.init import beside, several
from bertline.pipeline.init.budget import Budget
from bertline.pipeline.init.columns import choose_columns
from bertline.pipeline.init.propose import propose
from bertline.pipeline.init.refuse import refuse_as_run_does
from bertline.pipeline.init.render import render
from bertline.pipeline.init.survey import Survey, take_survey


class Written(NamedTuple):
    """A config that was written, and lines to show: what was found, and what to be warned of."""

    path: Path
    findings: list[str]
    warnings: list[str]


def write_config(
    source: str | Path | Query,
    target: str | Path | None = None,
    *,
    text: str | Sequence[str] = (),
    label: str | None = None,
    header: list[str] | None = None,
    budget: Budget = Budget(),
    force: bool = False,
) -> Written:
    """Looks at all rows of the data and writes a config for them.

    Args:
        source: file, folder with a folder per class, glob, package://NAME/PATH, or a database's query.
        target: the config's file, by default configs/NAME.yaml; its folder is made where it is missing.
        text: the text column, or several to join, where the guess is wrong.
        label: the label column, where the guess is wrong.
        header: names of the columns, where the first line is a row; [] where it names them. None looks at it.
        budget: how fast and how small the model must be.
        force: replace a file that is there.

    Raises:
        UserError: nothing is there or it is no labelled text: empty, binary, without a text or a label column, with
            only one label, with as many labels as rows, or anything else that `run` would refuse. Or the target
            exists and `force` is not set. Or no model keeps to the budget.
    """
    text = [text] if isinstance(text, str) else text
    with _rows(source) as place:
        survey = _with_lists(take_survey(place, header), header, label)
        if isinstance(source, Query):
            survey.source, survey.sources = source, {SPLITS[0]: source}
        survey = _with_splits_beside(survey, header, text, label)
        proposal = propose(survey, text=text, label=label, budget=budget)
        refuse_as_run_does(survey, proposal)
    path = Path(target) if target else Path("configs") / f"{proposal.name}.yaml"
    if path.exists() and not force:
        raise UserError(f"{path} exists already; --force replaces it, --output FILE writes another one.")
    content = render(proposal, path.parent)  # before the file is opened: what fails must not leave half of one
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Written(path, proposal.findings, proposal.warnings)


def _with_lists(survey: Survey, header: list[str] | None, label: str | None) -> Survey:
    """The survey, made again with the lists of labels where a column holds them."""
    name = several.lists_of_labels(survey, label)
    if not name:
        return survey
    again = take_survey(survey.source, header, label_lists=name)
    multi_label = several.options_of(again, name).multi_label
    return again if multi_label and multi_label.lists else survey


def _with_splits_beside(survey: Survey, header: list[str] | None, text: Sequence[str], label: str | None) -> Survey:
    """The survey, made again with the test and validation files beside the training rows, where there are any."""
    given, warnings = beside.usable(survey, choose_columns(survey, text, label))
    if given:
        survey = take_survey(survey.source, header, given, survey.label_lists)
    survey.warnings += warnings
    return survey


@contextmanager
def _rows(source: str | Path | Query) -> Iterator[str | Path]:
    """Where the rows are: a query's in a file for the length of the block. An SQLite file's path starts here."""
    if not isinstance(source, Query):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="bertline-query-") as folder:
        yield sql.fetch(source, os.getcwd(), Path(folder))
