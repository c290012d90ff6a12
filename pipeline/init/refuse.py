"""Makes the checks of `run` on a proposal, so that `bertline init` writes no config that `run` would refuse."""

from __future__ import annotations

from typing import Any

import numpy
from pydantic import ValidationError

from bertline.components import splitting
from bertline.components.data import formats
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.models.features import SPLITS
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
    report = _ingested_sample(survey, options)
    _refuse_too_many_unusable(survey, options, report["quarantined"].get(splitting.OTHER_LABEL, 0))
    if len(survey.sources) == 1 and _sampled_all(survey):
        _refuse_empty_split(report)


def _sampled_all(survey: Survey) -> bool:
    return survey.rows - survey.faults.total() == len(survey.sample)


def _ingested_sample(survey: Survey, options: DataOptions) -> dict[str, Any]:
    """What the run's own report would say of the sampled rows, if all of them were split by hash."""
    columns = [survey.sampled(name) for name in (options.text, options.text_pair, options.label) if name]
    rows = [(parts, label.strip()) for *parts, label in zip(*columns, strict=True)]
    usable = [bool(label) and all(part.strip() for part in parts) for parts, label in rows]
    names = sorted({label for (_, label), good in zip(rows, usable, strict=True) if good})
    places = {name: place for place, name in enumerate(names)}
    surveyed = splitting.Survey(
        task=0,
        file=0,
        places=numpy.arange(len(rows)),
        keys=numpy.asarray([splitting.text_key(*parts) for parts, _ in rows], numpy.uint64),
        labels=numpy.asarray([places.get(label, -1) for _, label in rows], numpy.int32),
        names=names,
        # Which reason it is does not matter here.
        reasons=numpy.where(usable, 0, 1 + splitting.REASONS.index(splitting.MISSING_LABEL)).astype(numpy.uint8),
    )
    settled = splitting.settle([surveyed], [splitting.TRAIN], options)
    agreement = splitting.agree(splitting.summarise(settled, options), options)
    _, counts = splitting.finish(settled, agreement)
    return splitting.report(counts, agreement, options)


def _refuse_empty_split(report: dict[str, Any]) -> None:
    sizes = {split: sum(report["splits"][split].values()) for split in SPLITS}
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
    missing = {
        column: readable - survey.columns[column].filled
        for column in (options.text, options.text_pair, options.label)
        if column
    }
    column, most = max(missing.items(), key=lambda item: item[1])
    if faulty + most <= options.max_quarantined * survey.rows:
        return
    parts = [f"{count:,} x {reason}" for reason, count in survey.faults.most_common()]
    least = "At least " if contradictory and not _sampled_all(survey) else ""
    parts += [f"{contradictory:,} x {splitting.OTHER_LABEL}"] if contradictory else []
    parts += [f"{most:,} x nothing in column {column!r}"] if most else []
    first = f" The first fault: {survey.first_fault}." if survey.first_fault else ""
    raise UserError(
        f"{least}{faulty + most:,} of {survey.rows:,} rows cannot be used ({', '.join(parts)}); data.max_quarantined "
        f"allows {options.max_quarantined:.0%}.{first} Correct the file, or name other columns with --text and --label."
    )
