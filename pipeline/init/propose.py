"""The second step of `bertline init`: chooses the settings from the survey, each with its reason."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from bertline.components.data import spellings
from bertline.components.data.delimited import SPANS_LINES
from bertline.components.data.file_kinds import ENDINGS
from bertline.components.data.packing import without_packing
from bertline.components.data.rows import printable
from bertline.components.options import DataOptions, Query
from bertline.errors import UserError
from bertline.models import packages
from bertline.pipeline.init import budget as budgets
from bertline.pipeline.init import recipe, several, weights
from bertline.pipeline.init.budget import Budget
from bertline.pipeline.init.columns import Columns, choose_columns
from bertline.pipeline.init.survey import MOST_VALUES, Survey

# === What the proposals rest on ===

FEW_ROWS = 10  # with fewer, about one row of the label falls in test, and its score means nothing
IMBALANCE = 10  # commonest label to rarest, from which accuracy says little about the rare ones
LISTED_LABELS, LONGEST_LABEL = 8, 40  # on the screen
LISTED_COLUMNS = 12  # on the screen
MANY_LABELS = 20  # beyond, their names are not listed in the config

LONGEST = 512  # positions of the backbones that are proposed
DEFAULTS = DataOptions(source=["."])


# The split -> the key of its source.
SOURCES = {
    "train": ("data", "source"),
    "validation": ("data", "validation_source"),
    "test": ("data", "test_source"),
}


class Setting(NamedTuple):
    """A line of the config.

    Attributes:
        path: its sections and its key.
        value: what the config says; those of SOURCES are an absolute path, package://NAME/PATH, or a query.
        reason: the comment behind it.
        remark: the comment on the line above it.
        proposed: the line itself is a comment too, for a person to decide on.
    """

    path: tuple[str, ...]
    value: Any = None
    reason: str = ""
    remark: str = ""
    proposed: bool = False


@dataclass(frozen=True)
class Proposal:
    """A config in the making.

    Attributes:
        name: the task's name, from the file's.
        settings: in the order in which they are written.
        findings: lines for the screen.
        warnings: lines for the screen.
    """

    name: str
    settings: list[Setting]
    findings: list[str]
    warnings: list[str]


class Drafted(NamedTuple):
    """A proposal, and what its weights were chosen by."""

    proposal: Proposal
    weights: weights.Choice
    texts: list[tuple[str, ...]]


def propose(
    survey: Survey, *, text: Sequence[str] = (), label: str | None = None, budget: Budget = Budget()
) -> Proposal:
    """Chooses the settings of a task.

    Args:
        survey: of its rows.
        text: the text column, or several to join, where the guess is wrong.
        label: the label column, where the guess is wrong.
        budget: how fast and how small the model must be.

    Raises:
        UserError: the rows are no labelled text, as `write_config` lists it, or no model keeps to the budget.
    """
    found = several.find(survey, text, label)
    proposal, chosen, texts = _propose_several(survey, found) if found else _propose_one(survey, text, label)
    return proposal if budget == Budget() else _within(budget, proposal, chosen, texts)


def _propose_one(survey: Survey, text: Sequence[str], label: str | None) -> Drafted:
    """The settings where a row has one label."""
    columns = choose_columns(survey, text, label)
    alike = spellings.alike(_spelt(survey, columns.label))
    labels = _labels(survey, columns.label, alike)
    texts = columns.texts(survey, DEFAULTS)
    chosen = weights.choose(texts)
    name = task_name(survey.source)
    proposal = Proposal(
        name=name,
        settings=[
            Setting(("name",), name),
            *_data(survey, columns, labels, alike),
            *_model(chosen),
            *_train(labels, _train_rows(survey, labels), _not_measured(columns, chosen)),
            *_evaluate(texts, labels),
        ],
        findings=_findings(survey, columns, labels),
        warnings=[
            *survey.warnings,
            *_spelling_warnings(survey, columns.label),
            *label_warnings(labels),
            *chosen.warnings,
        ],
    )
    return Drafted(proposal, chosen, texts)


def _propose_several(survey: Survey, found: several.Several) -> Drafted:
    """The settings where rows have several labels."""
    columns, named = found.columns, "columns" in found.multi_label
    spelt = {} if named else _composed(found.labels)
    alike = spellings.alike(spelt)
    labels = found.labels if named else spellings.renamed(spelt, alike.certain)
    if len(labels) < 2:
        raise UserError(f"Only one label ({', '.join(map(repr, labels))}): a classifier needs at least two.")
    name, texts = task_name(survey.source), columns.texts(survey, DEFAULTS)
    chosen = weights.choose(texts)
    data = _data(survey, columns, {}, alike)
    place = next(number for number, setting in enumerate(data) if setting.path == ("data", "label"))
    multi_label = Setting(("data", "multi_label"), found.multi_label, found.reason)
    data[place : place + 1] = [multi_label] if named else [data[place], multi_label]
    shown = ", ".join(f"{label} {rows:,}" for label, rows in list(labels.items())[:LISTED_LABELS])
    *findings, _ = _findings(survey, columns, labels)
    warnings = [*survey.warnings, *spellings.warnings(spelt), *label_warnings(labels), *chosen.warnings]
    proposal = Proposal(
        name=name,
        settings=[
            Setting(("name",), name),
            *data,
            *_model(chosen),
            *_train(
                labels, _train_rows(survey, {"": survey.rows}), _not_measured(columns, chosen, several_labels=True)
            ),
            *_evaluate(texts, labels, several_labels=True),
        ],
        findings=[*findings, f"several labels per row, {len(labels)} labels: {shown}"],
        warnings=warnings,
    )
    return Drafted(proposal, chosen, texts)


def _within(budget: Budget, proposal: Proposal, chosen: weights.Choice, texts: list[tuple[str, ...]]) -> Proposal:
    """The proposal with what makes its model as fast and as small as is asked for, and the gates that check it."""
    folder = packages.resolve(chosen.backbone) if chosen.backbone.startswith(packages.SCHEME) else Path(chosen.backbone)
    middle = int(numpy.percentile(chosen.pieces.lengths, 50, method="inverted_cdf"))
    tokens = min(middle, propose_max_length(chosen.pieces.lengths))
    option, sentence = budgets.choose(budget, budgets.Weights(folder, tuple(texts), tokens))
    settings = proposal.settings
    if option.family != "auto":  # each has a recipe of its own
        settings = [each for each in settings if each.path[0] != "train"]
    if option.family == "bilstm":  # what belongs to pretrained weights
        gone = ("backbone", "sha256", "pooling")
        settings = [each for each in settings if each.path[0] != "model" or each.path[1] not in gone]
    added = [Setting(path, *setting) for path, setting in option.values.items()]
    if budget.size is not None:
        added.append(Setting(("evaluate", "gates", "max_size"), f"{budget.size / 1e6:g}MB", "--size"))
    if budget.p50_ms is not None:
        added.append(
            Setting(("canary", "max_p50_ms"), budget.p50_ms, "--p50-ms, of a request on the machine that runs")
        )
    added[0] = added[0]._replace(remark=sentence)
    return replace(proposal, settings=[*settings, *added], findings=[*proposal.findings, sentence])


def task_name(source: str | Query) -> str:
    """A name for the task, from that of its data: a file's or a table's."""
    if isinstance(source, Query):
        table = re.search(r"\bfrom\s+([\w.\"`]+)", source.query, re.IGNORECASE)
        source = re.sub(r"[\"`]", "", table[1]).rpartition(".")[2] if table else source.url.rpartition("/")[2]
    stem = Path(without_packing(Path(source.rstrip("/*")).name))
    while stem.suffix.lower() in ENDINGS:
        stem = Path(stem.stem)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(stem)).strip("-._").lower()
    return name[:63] or "task"


# === Labels ===


def _spelt(survey: Survey, label: str) -> dict[str, int]:
    """The labels as `run` reads them, with their rows."""
    return _composed(survey.columns[label].values)


def _composed(labels: Mapping[str, int]) -> dict[str, int]:
    rows: Counter[str] = Counter()
    for value, count in labels.items():
        rows[spellings.composed(value)] += count
    del rows[""]  # what cannot be seen is no label
    return dict(rows)


def _spelling_warnings(survey: Survey, label: str) -> list[str]:
    """What to know of labels that look the same."""
    values = survey.columns[label].values
    recomposed = sum(rows for value, rows in values.items() if spellings.is_recomposed(value))
    warnings = [f"{recomposed:,} {spellings.RECOMPOSED}"] if recomposed else []
    return [*warnings, *spellings.warnings(_spelt(survey, label))]


def _labels(survey: Survey, label: str, alike: spellings.Alike) -> dict[str, int]:
    """A label's name -> its rows, commonest first. Labels that no eye can tell apart are one."""
    column = survey.columns[label]
    if column.many or len(column.values) > max(column.filled / 2, 2):
        count = f"over {MOST_VALUES:,}" if column.many else f"{len(column.values):,}"
        raise UserError(
            f"The column {label!r} has {count} different values in {column.filled:,} rows: that is no label. Name the "
            "right one with --label."
        )
    labels = spellings.renamed(_spelt(survey, label), alike.certain)
    if len(labels) < 2:
        only = ", ".join(map(repr, labels)) or "none"
        raise UserError(
            f"The column {label!r} holds only one label ({only}): a classifier needs at least two. Name the right "
            "column with --label, or add rows of another label."
        )
    return labels


def label_warnings(labels: dict[str, int]) -> list[str]:
    """What to know of labels (name -> rows) before training on them."""
    warnings = []
    (commonest, most), (rarest, least) = max(labels.items(), key=_rows), min(labels.items(), key=_rows)
    if most >= IMBALANCE * least:
        warnings.append(
            f"imbalance: {most:,} rows of {commonest!r} for {least:,} of {rarest!r}; watch macro_f1, not accuracy, "
            "and try train.class_weights: balanced if the rare labels matter"
        )
    few = [name for name, rows in labels.items() if rows < FEW_ROWS]
    if few:
        shown = ", ".join(map(_shown, few[:5])) + (", ..." if len(few) > 5 else "")
        have = "label has" if len(few) == 1 else "labels have"
        warnings.append(f"{len(few)} {have} fewer than {FEW_ROWS} rows ({shown}): test may hold none of them")
    return warnings


def _shown(label: str) -> str:
    """The label on the screen: with escapes where it could move the cursor, and not longer than a line takes."""
    short = label if len(label) <= LONGEST_LABEL else label[:LONGEST_LABEL] + "..."
    return short if short.isprintable() else repr(short)


def _rows(label: tuple[str, int]) -> int:
    return label[1]


def _findings(survey: Survey, columns: Columns, labels: dict[str, int]) -> list[str]:
    pair = f" with {columns.text_pair!r}" if columns.text_pair else ""
    shown = ", ".join(f"{_shown(name)} {count:,}" for name, count in list(labels.items())[:LISTED_LABELS])
    more = f", and {len(labels) - LISTED_LABELS} more" if len(labels) > LISTED_LABELS else ""
    mean = sum(survey.columns[name].mean_characters for name in columns.text)
    texts = " and ".join(map(repr, columns.text)) + (" joined" if len(columns.text) > 1 else "")
    return [
        *_files_found(survey),
        *_layout_found(survey),
        f"{survey.rows:,} rows; columns: {', '.join(map(printable, survey.names[:LISTED_COLUMNS]))}",
        *([f"lists, which are not read: {', '.join(map(printable, survey.lists))}"] if survey.lists else []),
        f"text: {texts}{pair}, {mean:.0f} characters on average",
        f"label: {columns.label!r}, {len(labels)} labels: {shown}{more}",
    ]


def _files_found(survey: Survey) -> list[str]:
    """What a folder or a glob turned out to be; nothing for one file."""
    if sum(survey.files.values()) == 1:
        return []
    kind = "text files in class folders" if survey.folders else "data files"
    if len(survey.files) == 1:
        return [f"{survey.files['train']:,} {kind}"]
    return [
        "a part per split: " + ", ".join(f"{split} {count:,}" for split, count in survey.files.items()) + f" {kind}"
    ]


def _layout_found(survey: Survey) -> list[str]:
    """What is not usual in a CSV or TSV file."""
    delimiter, header, why = survey.layout
    lines = [f"fields separated by {delimiter!r}"] if delimiter else []
    return (
        [*lines, f"no line of column names: {why}; names for {len(header)} columns are proposed"] if header else lines
    )


# === data ===


def _data(survey: Survey, columns: Columns, labels: dict[str, int], alike: spellings.Alike) -> list[Setting]:
    plain = isinstance(survey.source, Query) or survey.source.startswith(packages.SCHEME)
    relative = "" if plain else "relative to this file"
    settings = [
        Setting(path, survey.sources[split], relative) for split, path in SOURCES.items() if split in survey.sources
    ]
    if survey.sheet is not None:
        settings.append(Setting(("data", "sheet"), survey.sheet, "the first of several that are not empty"))
    if survey.folders:
        settings.append(Setting(("data", "format"), "folders", "a folder per label, a text file per row"))
    else:
        settings += _layout(survey)
        several = len(columns.text) > 1
        reason = "joined with a space between them, as a title often tells the label" if several else ""
        settings.append(Setting(("data", "text"), columns.text if several else columns.text[0], reason))
        if columns.text_pair:
            reason = "the two texts are read together, as one row"
            settings.append(Setting(("data", "text_pair"), columns.text_pair, reason))
        settings.append(Setting(("data", "label"), columns.label))
    settings += _label_settings(labels, alike)
    if survey.encoding != "utf-8":
        words = [f"a guess, tried on all rows: {', '.join(survey.encoding_words)}"] if survey.encoding_words else []
        if survey.utf8_lines:
            words.append(f"{survey.utf8_lines:,} lines are UTF-8 nevertheless, and are read wrong")
        settings.append(Setting(("data", "encoding"), survey.encoding, "; ".join(words)))
    if survey.on_bad_bytes != "quarantine":
        reason = "too many rows to lose; U+FFFD stands in for such bytes"
        settings.append(Setting(("data", "on_bad_bytes"), survey.on_bad_bytes, reason))
    if survey.plain_quotes and survey.one_quoting:
        settings.append(Setting(("data", "quoting"), "none", "a quote is a character: as a mark it would swallow rows"))
    elif survey.doubts[SPANS_LINES] and survey.one_quoting:
        settings.append(Setting(("data", "quoting"), "standard", "some quoted fields span lines: check these rows"))
    split = DataOptions.model_fields["split"].default.model_dump(exclude={"group"})
    return [*settings, Setting(("data", "split"), split, "by the hash of the text", _slicing(columns.slices))]


def _label_settings(labels: dict[str, int], alike: spellings.Alike) -> list[Setting]:
    """Which labels count, and which spellings are one label."""
    key, settings = ("data", "label_map"), []
    if alike.certain:
        settings.append(Setting(key, alike.certain, "no eye can tell these apart: each is the label behind it"))
    if alike.likely:
        instead = ", in place of the line above" if alike.certain else ""
        settings.append(
            Setting(key, alike.names, remark=f"Do these mean the same? Then write{instead}:", proposed=True)
        )
    elif labels and len(labels) <= MANY_LABELS and min(labels.values()) >= FEW_ROWS:
        settings.append(Setting(("data", "labels"), sorted(labels), "a row with any other label goes to quarantine"))
    return settings


def _layout(survey: Survey) -> list[Setting]:
    """Format, delimiter and header, where they are not what `run` takes them for."""
    delimiter, header, why = survey.layout
    settings = []
    if survey.format:
        settings.append(Setting(("data", "format"), survey.format, "the file's name does not tell it"))
    if delimiter:
        reason = "between fields: with it the rows agree most on their number of fields"
        settings.append(Setting(("data", "delimiter"), delimiter, reason))
    if header:
        settings.append(Setting(("data", "header"), header, why))
    return settings


def _slicing(columns: list[str]) -> str:
    """What the person could add to see the accuracy for each value of other columns."""
    if not columns:
        return ""
    listed = ", ".join(json.dumps(name, ensure_ascii=not name.isprintable()) for name in columns)
    return f"keep: [{listed}] would let evaluate.slices score each of their values"


# === model ===


def _model(chosen: weights.Choice) -> list[Setting]:
    lengths = chosen.pieces.lengths
    half, most = (int(numpy.percentile(lengths, share, method="inverted_cdf")) for share in (50, 99))
    max_length = propose_max_length(lengths)
    truncated = float((lengths > max_length).mean())
    reason = f"99% of the texts have at most {most} wordpieces (half have at most {half})"
    if truncated > 0.01:
        reason = (
            f"the most this BERT takes; {truncated:.0%} of the texts are longer and lose their end. "
            "128 trains several times faster, and is enough where a text's beginning tells its label"
        )
    settings = [
        Setting(("model", "backbone"), chosen.backbone, chosen.reason),
        *(Setting(("model", "sha256", file), pin, "as the authors publish it") for file, pin in chosen.pins.items()),
        Setting(("model", "max_length"), max_length, reason),
        Setting(("model", "pooling"), "auto", recipe.WHY_POOLING),
    ]
    if truncated > 0.4:
        settings.append(Setting(("validation", "max_truncated"), 1.0, "long texts are cut on purpose: see max_length"))
    return settings


def propose_max_length(lengths: numpy.ndarray) -> int:
    """The 99th percentile of the texts' wordpieces, rounded up to a multiple of 16, at most what the backbone takes."""
    return int(min(LONGEST, 16 * math.ceil(numpy.percentile(lengths, 99, method="inverted_cdf") / 16)))


# === train ===


def _train_rows(survey: Survey, labels: dict[str, int]) -> int:
    """Rows to train on: those of the source, without the shares of splits that have no source of their own."""
    shares = DataOptions.model_fields["split"].default.model_dump(exclude={"group"})
    given = sum(share for split, share in shares.items() if split == "train" or split not in survey.sources)
    in_source = sum(survey.file_rows[: survey.files["train"]]) / max(survey.rows, 1)
    return int(round(sum(labels.values()) * in_source * shares["train"] / given, 6))


def _not_measured(columns: Columns, chosen: weights.Choice, *, several_labels: bool = False) -> str:
    longest = propose_max_length(chosen.pieces.lengths)
    return recipe.not_measured(several_labels=several_labels, pairs=bool(columns.text_pair), max_length=longest)


def _train(labels: dict[str, int], rows: int, not_measured: str) -> list[Setting]:
    rule = recipe.choose(rows, len(labels))
    options, row = rule.options, f'docs/recipes.md, row "{rule.name}"'
    row += f"; not measured: {not_measured}" if not_measured else ""
    steps = math.ceil(rows / options.batch_size) * options.epochs
    why_steps = f"{steps:,} steps at most of {options.batch_size} rows, for {rows:,} rows and {len(labels)} labels"
    method = Setting(("train", "method"), options.method, row)
    if options.method == "probe":
        return [method]
    return [
        method,
        Setting(("train", "epochs"), options.epochs, why_steps),
        Setting(("train", "patience"), options.patience, "epochs without a better validation loss end it before"),
        Setting(("train", "learning_rate"), options.learning_rate, recipe.WHY_RATE),
    ]


# === evaluate ===


def _evaluate(texts: list[tuple[str, ...]], labels: dict[str, int], several_labels: bool = False) -> list[Setting]:
    commonest, rows = max(labels.items(), key=_rows)
    share = rows / sum(labels.values())
    characters = numpy.asarray([sum(map(len, parts)) for parts in texts])
    gates = {
        "beats_majority": (True, f"always answering {commonest!r} has an accuracy of {share:.2f}", GATES),
        "not_worse_by": (0.002, "than the last model pushed, on the same rows; luck is allowed for besides"),
        "accuracy": (None, "", FLOORS),
        "macro_f1": (None,),
        "beats_baseline_by": (None, "0 blocks a BERT that is no better than TF-IDF with logistic regression"),
        "max_calibration_error": (None, "such as 0.1: beyond it, 90% sure means less than 80%"),
        "slices": ({"accuracy": None, "not_worse_by": 0.02}, "of each slice of 100 rows or more, text lengths too"),
    }
    if several_labels:
        floors = {"subset_accuracy": (None, "of rows that get exactly their labels", FLOORS), "micro_f1": (None,)}
        rest = {name: setting for name, setting in gates.items() if name not in ("beats_majority", "accuracy")}
        beats = (True, "always giving the commonest labels", GATES)
        gates = {"beats_majority": beats, "not_worse_by": rest.pop("not_worse_by"), **floors, **rest}
    return [
        Setting(("evaluate", "length_buckets"), _thirds(characters), "characters; they cut the rows in thirds"),
        *(Setting(("evaluate", "gates", name), *setting) for name, setting in gates.items()),
    ]


GATES = (
    "A model that fails one of these is not pushed. There are more (size, latency, groups of people): docs/gates.md."
)
FLOORS = "Floors: run once, look at the score and its interval, then write what the task cannot do without."


def _thirds(characters: numpy.ndarray) -> list[int]:
    """Two lengths that cut the rows in thirds, to two digits."""
    cuts = [float(cut) for cut in numpy.percentile(characters, (33, 67))]
    rounded = [round(cut, 1 - math.floor(math.log10(cut))) if cut >= 1 else 1 for cut in cuts]
    return sorted({max(1, int(cut)) for cut in rounded})
