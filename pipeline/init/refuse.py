"""What `run` would refuse of a proposal, said by `bertline init`, which then writes no config."""

from __future__ import annotations

from pydantic import ValidationError

from bertline.components.data import formats
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.pipeline.init.propose import Proposal
from bertline.pipeline.init.survey import Survey


def refuse_as_run_does(survey: Survey, proposal: Proposal) -> None:
    """Applies the checks that `run` makes before it trains, as far as the survey can tell their result.

    Raises:
        UserError: the config would not load, a file lacks a column or has it twice, or more rows than
            `data.max_quarantined` cannot be used.
    """
    data = {setting.path[1]: setting.value for setting in proposal.settings if setting.path[0] == "data"}
    try:
        options = DataOptions.model_validate(data)
    except ValidationError as error:
        faults = (fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        raise UserError(f"`run` would refuse the config: data: {'; '.join(faults)}.") from None
    for file in survey.read_files:
        formats.check(file, options)
    _refuse_too_many_unusable(survey, options)


def _refuse_too_many_unusable(survey: Survey, options: DataOptions) -> None:
    faulty = survey.faults.total()
    readable = survey.rows - faulty
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
    parts += [f"{most:,} x nothing in column {column!r}"] if most else []
    first = f" The first fault: {survey.first_fault}." if survey.first_fault else ""
    raise UserError(
        f"{faulty + most:,} of {survey.rows:,} rows cannot be used ({', '.join(parts)}); data.max_quarantined allows "
        f"{options.max_quarantined:.0%}.{first} Correct the file, or name other columns with --text and --label."
    )
