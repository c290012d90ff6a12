"""Makes the checks of `run` on a proposal, so that `bertline init` writes no config that `run` would refuse."""

from __future__ import annotations

from typing import Any

import numpy
from pydantic import ValidationError

from bertline.components import splitting
from bertline.components.data import formats, label_cells, spellings
from bertline.components.data.columns import joined
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.pipeline.init.propose import Proposal
from bertline.pipeline.init.survey import Survey


def refuse_as_run_does(survey: Survey, proposal: Proposal) -> None:
    """Applies the checks that `run` makes before it trains, as far as the survey can tell their result.

    Raises:
        UserError: the config would not load, a file lacks a column or has it twice, more rows than
            `data.max_quarantined` cannot be used, or a split would be empty.
    """
    data = {setting.path[1]: setting.value for setting in proposal.settings if setting.path[0] == "data"}
    try:
        options = DataOptions.model_validate(data)
    except ValidationError as error:
        faults = (fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        raise UserError(f"`run` would refuse the config: data: {'; '.join(faults)}.") from None
    for file in survey.read_files:
        formats.check(file, options)
    sampled_all = _sampled_all(survey)
    if any(map(formats.faults_of_cells, survey.read_files)):
        _count_faults_again(survey, options)
    report = _ingested_sample(survey, options)
    _refuse_too_many_unusable(survey, options, report["quarantined"].get(splitting.OTHER_LABEL, 0))
    if len(survey.sources) == 1 and sampled_all:
        _refuse_empty_split(report)


def _count_faults_again(survey: Survey, options: DataOptions) -> None:
    """Counts the faults of rows in the columns that the config names, where the survey did not know them yet."""
    survey.faults.clear()
    survey.first_fault = ""
    for file in survey.read_files:
        for row in formats.read(file, options):
            if row.fault:
                survey.faults[row.fault.reason] += 1
                survey.first_fault = survey.first_fault or f"{file.name}, row {row.number}: {row.fault.detail}"


def label_columns(options: DataOptions) -> list[str]:
    """The columns that hold the labels."""
    return options.label_columns or [options.label]


def _sampled_all(survey: Survey) -> bool:
    return survey.rows - survey.faults.total() == len(survey.sample)


def _ingested_sample(survey: Survey, options: DataOptions) -> dict[str, Any]:
    """What the run's own report would say of the sampled rows, if all of them were split by hash."""
    sides = [options.text_columns, *([[options.text_pair]] if options.text_pair else [])]
    texts = [[joined(parts, options) for parts in zip(*map(survey.sampled, names), strict=True)] for names in sides]
    texts = list(zip(*texts, strict=True))
    cells = zip(*map(survey.sampled, label_columns(options)), strict=True)
    read = [label_cells.read(of_row, options) for of_row in cells]
    usable = [
        not of_row.unusable and all(part.strip() for part in parts) for parts, of_row in zip(texts, read, strict=True)
    ]
    sets = sorted({of_row.labels for of_row, good in zip(read, usable, strict=True) if good})
    places = {labels: place for place, labels in enumerate(sets)}
    surveyed = splitting.Survey(
        task=0,
        file=0,
        places=numpy.arange(len(texts)),
        keys=numpy.asarray(
            [splitting.row_key(parts[0], parts[1] if len(parts) > 1 else None, options) for parts in texts],
            numpy.uint64,
        ),
        labels=numpy.asarray([places.get(of_row.labels, -1) for of_row in read], numpy.int32),
        sets=sets,
        # Which reason it is does not matter here.
        reasons=numpy.where(usable, 0, 1 + splitting.REASONS.index(splitting.MISSING_LABEL)).astype(numpy.uint8),
    )
    settled = splitting.settle([surveyed], [splitting.TRAIN], options)
    agreement = splitting.agree(splitting.summarise(settled, options), options)
    _, counts = splitting.finish(settled, agreement)
    return splitting.report(counts, agreement, options)


def _refuse_empty_split(report: dict[str, Any]) -> None:
    sizes = report["split_rows"]
    empty = [split for split, rows in sizes.items() if not rows]
    if empty:
        shown = ", ".join(f"{rows} {split}" for split, rows in sizes.items())
        raise UserError(
            f"The split {empty[0]} would be empty ({shown} of {report['distinct']} distinct rows). Add rows to the "
            "file."
        )


def _refuse_too_many_unusable(survey: Survey, options: DataOptions, contradictory: int) -> None:
    """Raises UserError for more rows than `data.max_quarantined`.

    Args:
        survey: of all rows.
        options: the proposed ones.
        contradictory: rows of texts that have several labels; of the sampled rows, so that there are at least as many.
    """
    faulty = survey.faults.total() + contradictory
    readable = survey.rows - survey.faults.total()
    # A row may lack both, so that this is the least that `run` would put in quarantine.
    empty_says_none = options.multi_label is not None and options.multi_label.empty == "no_label"
    labels = [] if empty_says_none else label_columns(options)
    sides = [options.text_columns, *([name] for name in (options.text_pair, *labels) if name)]
    missing = {
        " and ".join(map(repr, names)): max(0, readable - sum(_filled(survey, name, labels) for name in names))
        for names in sides
    }
    column, most = max(missing.items(), key=lambda item: item[1])
    if faulty + most <= options.max_quarantined * survey.rows:
        return
    parts = [f"{count:,} x {reason}" for reason, count in survey.faults.most_common()]
    least = "At least " if contradictory and not _sampled_all(survey) else ""
    parts += [f"{contradictory:,} x {splitting.OTHER_LABEL}"] if contradictory else []
    parts += [f"{most:,} x nothing in column {column}"] if most else []
    first = f" The first fault: {survey.first_fault}." if survey.first_fault else ""
    raise UserError(
        f"{least}{faulty + most:,} of {survey.rows:,} rows cannot be used ({', '.join(parts)}); data.max_quarantined "
        f"allows {options.max_quarantined:.0%}.{first} Correct the file, or name other columns with --text and --label."
    )


def _filled(survey: Survey, name: str, labels: list[str]) -> int:
    """Rows that have a value in a column; of a label, one that can be seen."""
    column = survey.columns[name]
    unseen = (rows for value, rows in column.values.items() if name in labels and not spellings.composed(value))
    return column.filled - sum(unseen)
