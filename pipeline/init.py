"""`bertline init`: looks at a file of labelled text and proposes a config for it, each number with its reason."""

from __future__ import annotations

import math
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import chardet
import numpy
import yaml

from bertline.components.data import formats, task_files
from bertline.components.data.decoding import UTF16_MARKS
from bertline.components.data.reader import SourceFile
from bertline.components.data.rows import BAD_BYTES, BROKEN_LINE, Row
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.models import packages
from bertline.models.recipe import ModelOptions, TrainOptions

# === What the proposals rest on ===

TEXT_NAMES = (
    *("text", "tweet", "review", "sentence", "comment", "message", "content", "body", "utterance", "query", "question"),
    *("document", "post", "description", "headline", "title", "premise"),
)
LABEL_NAMES = (
    *("label", "class", "category", "sentiment", "target", "intent", "topic", "emotion", "stance", "rating", "stars"),
    *("polarity", "tag", "type", "y"),
)
PAIRS = (("premise", "hypothesis"), ("question", "answer"), ("question", "passage"), ("query", "document"))

MOST_LABELS = 1000  # a column of more values is not taken for a label
SAMPLE = 20_000  # texts whose wordpieces are counted: the 99th percentile is then sure to a few per cent
FEW_ROWS = 10  # with fewer, about one row of the label falls in test, and its score means nothing
IMBALANCE = 10  # commonest label to rarest, from which accuracy says little about the rare ones
BAD_BYTES_LEFT_OUT = 0.01  # rows not in UTF-8 up to this share are left in quarantine, as the accidents they are
SURE_ENCODING = 0.5  # chardet's confidence

# Few labels need some 400 steps of a batch to level off, tens of labels some 32 a label.
LEAST_STEPS, STEPS_A_LABEL = 400, 32
FEWEST_EPOCHS, MOST_EPOCHS = 2, 40
MANY_LABELS = 20  # from here on the new head is large, and the upper rate gets it moving within the first epochs
LONGEST = 512  # positions of the default backbone

# As the authors of the default weights publish them: the package is a stranger's, so the hash is trusted, not its name.
PINS = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}


@dataclass(frozen=True)
class Proposal:
    """A config in the making, and what it was made from.

    Attributes:
      name: the task's name, from the file's.
      path: the file or folder looked at, absolute, or package://NAME/PATH.
      columns: text, text_pair (or None), label, and candidates to keep for slices.
      encoding, on_bad_bytes: as in DataOptions.
      labels: a label's name -> its rows, commonest first.
      tokens: percentiles of the wordpieces a row, special tokens included: p50, p95, p99.
      truncated: share of rows longer than max_length.
      max_length, epochs, learning_rate, patience, length_buckets: as in the sections of the config.
      findings: for the screen, a line each.
      warnings: for the screen, a line each.
    """

    name: str
    path: str
    text: str
    text_pair: str | None
    label: str
    slices: list[str]
    folders: bool
    encoding: str
    on_bad_bytes: str
    labels: dict[str, int]
    tokens: dict[str, int]
    truncated: float
    max_length: int
    epochs: int
    learning_rate: float
    patience: int
    length_buckets: list[int]
    findings: list[str]
    warnings: list[str]


def propose(path: str | Path, *, text: str | None = None, label: str | None = None) -> Proposal:
    """Looks at all rows of a file and proposes a config.

    Args:
        path: file, folder with a folder a class, glob, or package://NAME/PATH.
        text: the text column, where the guess is wrong.
        label: the label column, where the guess is wrong.

    Raises:
        UserError: nothing is there or it is no labelled text: empty, binary, without a text or a label column, with
            one label only, or with as many labels as rows.
    """
    source = re.sub(r"^package:/+", packages.SCHEME, str(path))  # pathlib joins the two slashes
    files = _files(source)
    survey = _survey(files)
    text, text_pair, label = _choose_columns(survey, text, label)
    labels = _labels(survey, label)
    texts = [tuple(row[survey.names.index(name)] for name in (text, text_pair) if name) for row in survey.sample]
    lengths = token_lengths(texts)
    max_length = propose_max_length(lengths)
    rows = sum(labels.values())
    epochs, learning_rate = propose_recipe(int(rows * DataOptions.model_fields["split"].default.train), len(labels))
    characters = numpy.asarray([sum(map(len, parts)) for parts in texts])
    return Proposal(
        name=_name(source),
        path=source if source.startswith(packages.SCHEME) else str(Path(source).absolute()),
        text=text,
        text_pair=text_pair,
        label=label,
        slices=_slice_candidates(survey, {text, text_pair, label}),
        folders=files[0].format == "folders",
        encoding=survey.encoding,
        on_bad_bytes=survey.on_bad_bytes,
        labels=labels,
        tokens={
            f"p{percent}": int(numpy.percentile(lengths, percent, method="inverted_cdf")) for percent in (50, 95, 99)
        },
        truncated=float((lengths > max_length).mean()),
        max_length=max_length,
        epochs=epochs,
        learning_rate=learning_rate,
        patience=max(TrainOptions.model_fields["patience"].default, epochs // 5),
        length_buckets=_round_thirds(characters),
        findings=_findings(survey, text, text_pair, label, labels),
        warnings=[*survey.warnings, *label_warnings(labels)],
    )


# === Looking at the file ===


@dataclass
class Column:
    """What the values of a column are like."""

    filled: int = 0
    characters: int = 0
    values: Counter[str] = field(default_factory=Counter)  # exact up to MOST_LABELS different ones
    many: bool = False  # more than MOST_LABELS

    def add(self, value: str | None) -> None:
        """Counts one value."""
        value = (value or "").strip()
        if not value:
            return
        self.filled += 1
        self.characters += len(value)
        if not self.many:
            self.values[value] += 1
            self.many = len(self.values) > MOST_LABELS

    @property
    def mean_characters(self) -> float:
        """Of the values that are there."""
        return self.characters / max(self.filled, 1)


@dataclass
class Survey:
    """What a look at all rows of all files found."""

    names: list[str]
    encoding: str = "utf-8"
    on_bad_bytes: str = "quarantine"
    rows: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    columns: dict[str, Column] = field(default_factory=dict)
    sample: list[tuple[str, ...]] = field(default_factory=list)  # values in the order of the names
    warnings: list[str] = field(default_factory=list)


def _files(source: str) -> list[SourceFile]:
    if not source.startswith(packages.SCHEME) and not re.search(r"[*?\[]", source) and not Path(source).exists():
        raise UserError(f"{source}: no such file or folder.")
    return task_files.expand([source], os.getcwd())


def _survey(files: list[SourceFile]) -> Survey:
    encoding = "utf-16" if _is_utf16(files[0]) else "utf-8"
    survey = _read(files, encoding, "quarantine")
    bad = survey.faults[BAD_BYTES]
    if bad > BAD_BYTES_LEFT_OUT * survey.rows:
        guess = _guess_encoding(files[0])
        survey = _read(files, guess or encoding, "quarantine" if guess else "replace")
        taken = f"read as {guess}: check some rows" if guess else "the bytes that are not are replaced by U+FFFD"
        survey.warnings.append(f"{bad:,} of {survey.rows:,} rows are not {encoding.upper()}; {taken}")
    elif bad:
        survey.warnings.append(
            f"{bad:,} of {survey.rows:,} rows hold bytes that are not {encoding.upper()}: quarantine"
        )
    if broken := survey.faults[BROKEN_LINE]:
        survey.warnings.append(f"{broken:,} broken lines: they will go to quarantine")
    if not survey.sample:
        raise UserError(f"{files[0].name}: no usable row among {survey.rows:,}; the first line must name the columns.")
    return survey


def _is_utf16(file: SourceFile) -> bool:
    with open(file.path, "rb") as stream:
        return stream.read(2) in UTF16_MARKS


def _guess_encoding(file: SourceFile) -> str | None:
    with open(file.path, "rb") as stream:
        guess = chardet.detect(stream.read(1 << 20))
    usable = guess["encoding"] and guess["confidence"] >= SURE_ENCODING
    return guess["encoding"].lower() if usable and not guess["encoding"].lower().startswith("utf-8") else None


def _read(files: list[SourceFile], encoding: str, on_bad_bytes: str) -> Survey:
    options = DataOptions(source=["."], encoding=encoding, on_bad_bytes=on_bad_bytes)
    names = list(dict.fromkeys(formats.columns(files[0], options)))
    survey = Survey(names, encoding, on_bad_bytes, columns={name: Column() for name in names})
    chosen = random.Random(17)  # the same sample for the same file
    for row in _rows(files, options, names):
        survey.rows += 1
        if row.fault:
            survey.faults[row.fault.reason] += 1
            continue
        for name, value in zip(names, row.values, strict=True):
            survey.columns[name].add(value)
        _keep_in_sample(survey, tuple(value or "" for value in row.values), chosen)
    return survey


def _rows(files: list[SourceFile], options: DataOptions, names: list[str]) -> Iterator[Row]:
    for file in files:
        yield from formats.read(file, options, names)


def _keep_in_sample(survey: Survey, values: tuple[str, ...], chosen: random.Random) -> None:
    """Reservoir sampling: every row of the file has the same chance, in constant memory."""
    if len(survey.sample) < SAMPLE:
        survey.sample.append(values)
    elif (place := chosen.randrange(survey.rows)) < SAMPLE:
        survey.sample[place] = values


# === Choosing the columns ===


def _choose_columns(survey: Survey, text: str | None, label: str | None) -> tuple[str, str | None, str]:
    for option, name in (("--text", text), ("--label", label)):
        if name is not None and name not in survey.names:
            raise UserError(f"{option} {name}: no such column. Columns: {', '.join(map(repr, survey.names))}.")
    if len(survey.names) < 2:
        raise UserError(
            f"Only one column, {survey.names[0][:80]!r}: a text and a label are needed. "
            "Where the columns are separated by other than commas, save the file as .csv with commas or .tsv with tabs."
        )
    label = label or _guess_label(survey, text)
    pair = _guess_pair(survey, label) if text is None else None
    if pair:
        return pair[0], pair[1], label
    return text or _guess_text(survey, label), None, label


def _guess_label(survey: Survey, text: str | None) -> str:
    """The column of few values that is named like a label, else the one of fewest values that are not numbers."""
    candidates = [name for name in survey.names if name != text and _could_be_label(survey, name)]
    if not candidates:
        raise UserError(f"No column looks like a label (few different values, each several times). {_seen(survey)}")
    return min(
        candidates, key=lambda name: (_rank(name, LABEL_NAMES), _are_fractions(survey, name), _spread(survey, name))
    )


def _could_be_label(survey: Survey, name: str) -> bool:
    column = survey.columns[name]
    named = _rank(name, LABEL_NAMES) < len(LABEL_NAMES)
    # A column named like a label is taken even where it turns out to have one value: the error then says so.
    repeated = 2 <= len(column.values) <= column.filled / 2 or named
    return bool(column.filled) and not column.many and repeated


def _are_fractions(survey: Survey, name: str) -> bool:
    return all(re.fullmatch(r"-?\d*\.\d+", value) for value in survey.columns[name].values)


def _spread(survey: Survey, name: str) -> int:
    return len(survey.columns[name].values)


def _guess_text(survey: Survey, label: str) -> str:
    """The column named like a text, unless another one's values are three times as long; else the longest."""
    candidates = [name for name in survey.names if name != label and _could_be_text(survey, name)]
    if not candidates:
        raise UserError(f"No column looks like text (words, most rows different). {_seen(survey)}")
    longest = max(candidates, key=lambda name: survey.columns[name].mean_characters)
    named = min(candidates, key=lambda name: _rank(name, TEXT_NAMES))
    long_enough = survey.columns[named].mean_characters * 3 >= survey.columns[longest].mean_characters
    return named if _rank(named, TEXT_NAMES) < len(TEXT_NAMES) and long_enough else longest


def _could_be_text(survey: Survey, name: str) -> bool:
    place = survey.names.index(name)
    values = [row[place] for row in survey.sample if row[place].strip()]
    # \w without digits and underscore: letters of any script, and Chinese texts hold no spaces.
    lettered = sum(bool(re.search(r"[^\W\d_]{2}", value)) for value in values)
    worded = sum(len(value.split()) > 1 or not value.isascii() for value in values)
    return bool(values) and lettered > 0.5 * len(values) and worded > 0.3 * len(values)


def _guess_pair(survey: Survey, label: str) -> tuple[str, str] | None:
    names = {name.lower(): name for name in survey.names if name != label and _could_be_text(survey, name)}
    numbered = [(name, re.sub(r"(1|a)$", lambda end: {"1": "2", "a": "b"}[end[0]], name)) for name in names]
    for first, second in (*PAIRS, *numbered):
        if first != second and first in names and second in names:
            return names[first], names[second]
    return None


def _rank(name: str, known: tuple[str, ...]) -> int:
    """Place of the first known word that the column's name is or holds; len(known) where there is none."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((place for place, word in enumerate(known) if word in words), len(known))


def _seen(survey: Survey) -> str:
    def seen(name: str) -> str:
        column = survey.columns[name]
        values = f"over {MOST_LABELS}" if column.many else str(len(column.values))
        return f"{name!r} ({values} different values, {column.mean_characters:.0f} characters on average)"

    shown = ", ".join(seen(name) for name in survey.names[:10])
    return f"Columns: {shown}. Name them with --text and --label, or correct the file."


def _slice_candidates(survey: Survey, used: set[str | None]) -> list[str]:
    """Other columns of 2 to 20 values that nearly all rows have."""
    few = [name for name in survey.names if name not in used and 2 <= _spread(survey, name) <= 20]
    return sorted(name for name in few if survey.columns[name].filled >= 0.9 * survey.rows)


# === The labels ===


def _labels(survey: Survey, label: str) -> dict[str, int]:
    column = survey.columns[label]
    if column.many or len(column.values) > max(column.filled / 2, 2):
        raise UserError(
            f"The column {label!r} has {len(column.values):,} different values in {column.filled:,} rows: "
            "that is no label. Name the right one with --label."
        )
    if len(column.values) < 2:
        only = ", ".join(map(repr, column.values)) or "none"
        raise UserError(f"The column {label!r} holds one label only ({only}): a classifier needs at least two.")
    if label in column.values:
        raise UserError(
            f"The first line looks like a row, not like column names ({label!r} is also a label). Add a line."
        )
    return dict(column.values.most_common())


def label_warnings(labels: dict[str, int]) -> list[str]:
    """What to know of labels (name -> rows) before training on them."""
    warnings = []
    (commonest, most), (rarest, least) = max(labels.items(), key=_count), min(labels.items(), key=_count)
    if most >= IMBALANCE * least:
        warnings.append(
            f"imbalance: {most:,} rows of {commonest!r} for {least:,} of {rarest!r}; watch macro_f1, not accuracy, "
            "and try train.class_weights: balanced if the rare labels matter"
        )
    few = [name for name, rows in labels.items() if rows < FEW_ROWS]
    if few:
        shown = ", ".join(few[:5]) + (", ..." if len(few) > 5 else "")
        warnings.append(f"{len(few)} labels have fewer than {FEW_ROWS} rows ({shown}): test may hold none of them")
    return warnings


def _count(item: tuple[str, int]) -> int:
    return item[1]


# === The numbers ===


def token_lengths(texts: list[tuple[str, ...]]) -> numpy.ndarray:
    """Wordpieces of each row by the default backbone's vocabulary, special tokens included: int64 [rows].

    Args:
        texts: one text a row, or two for pairs.
    """
    from bertline.models.tokenizer import Tokenizer

    folder = packages.resolve(ModelOptions.model_fields["backbone"].default)
    tokenizer = Tokenizer(folder / "vocab.txt", lowercase=True, max_length=2**30)
    columns = [list(column) for column in zip(*texts, strict=True)]
    batches = [
        tokenizer(*(column[start : start + 1000] for column in columns))[0].row_lengths().numpy()
        for start in range(0, len(texts), 1000)
    ]
    return numpy.concatenate(batches)


def propose_max_length(lengths: numpy.ndarray) -> int:
    """The 99th percentile rounded up to a multiple of 16, at most what the backbone can take."""
    return int(min(LONGEST, 16 * math.ceil(numpy.percentile(lengths, 99, method="inverted_cdf") / 16)))


def propose_recipe(rows: int, labels: int) -> tuple[int, float]:
    """Epochs and learning rate: enough steps for the labels to be told apart, however few the rows.

    Args:
        rows: of training.
        labels: number of classes.
    """
    steps = max(LEAST_STEPS, STEPS_A_LABEL * labels)
    steps_an_epoch = math.ceil(rows / TrainOptions.model_fields["batch_size"].default)
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(steps / max(steps_an_epoch, 1))))
    rate = TrainOptions.model_fields["learning_rate"].default
    return epochs, 2 * rate if labels >= MANY_LABELS else rate


def _round_thirds(characters: numpy.ndarray) -> list[int]:
    """Two lengths that cut the rows in thirds, to two digits."""
    cuts = [float(cut) for cut in numpy.percentile(characters, (33, 67))]
    rounded = [round(cut, 1 - math.floor(math.log10(cut))) if cut >= 1 else 1 for cut in cuts]
    return sorted({max(1, int(cut)) for cut in rounded})


def _name(source: str) -> str:
    stem = Path(source.rstrip("/*")).name
    while Path(stem).suffix.lower() in {".gz", *formats.ENDINGS}:
        stem = Path(stem).stem
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._").lower()
    return name[:63] or "task"


def _findings(survey: Survey, text: str, text_pair: str | None, label: str, labels: dict[str, int]) -> list[str]:
    pair = f" with {text_pair!r}" if text_pair else ""
    shown = ", ".join(f"{name} {count:,}" for name, count in list(labels.items())[:8])
    more = f", and {len(labels) - 8} more" if len(labels) > 8 else ""
    return [
        f"{survey.rows:,} rows; columns: {', '.join(survey.names[:12])}",
        f"text: {text!r}{pair}, {survey.columns[text].mean_characters:.0f} characters on average",
        f"label: {label!r}, {len(labels)} labels: {shown}{more}",
    ]


# === Writing it ===


def write(proposal: Proposal, target: str | Path, *, force: bool = False) -> None:
    """Writes the config.

    Args:
        proposal: what to write.
        target: the config's file; its folder is made where it is missing.
        force: replace a file that is there.

    Raises:
        UserError: the file is there already and `force` is not set.
    """
    target = Path(target)
    if target.exists() and not force:
        raise UserError(f"{target} exists already; --force replaces it, --output FILE writes another one.")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(render(proposal, target), encoding="utf-8")


def render(proposal: Proposal, target: Path) -> str:
    """The config as commented YAML, its paths relative to the target's folder."""
    return "\n".join(
        [*_head(proposal), *_data(proposal, target), *_model(proposal), *_train(proposal), *_gates(proposal)]
    )


def _yaml(value: object) -> str:
    """A value on one line, quoted where YAML would take it for something else."""
    return (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9).removesuffix("\n...\n").strip()
    )


def _head(proposal: Proposal) -> list[str]:
    return [
        "# Written by `bertline init` after a look at all rows. Every number is a proposal, with its reason beside it.",
        "# `bertline config FILE` shows all settings; `bertline run FILE` trains, checks and pushes a model.",
        f"name: {_yaml(proposal.name)}",
    ]


def _data(proposal: Proposal, target: Path) -> list[str]:
    if proposal.path.startswith(packages.SCHEME):
        lines = ["data:", f"  source: {_yaml(proposal.path)}"]
    else:
        source = os.path.relpath(proposal.path, target.parent.absolute())
        lines = ["data:", f"  source: {_yaml(source)}  # relative to this file"]
    if proposal.folders:
        lines.append("  format: folders  # a folder a label, a text file a row")
    else:
        lines.append(f"  text: {_yaml(proposal.text)}")
        if proposal.text_pair:
            lines.append(f"  text_pair: {_yaml(proposal.text_pair)}  # the two texts are read together, as one row")
        lines.append(f"  label: {_yaml(proposal.label)}")
    if len(proposal.labels) <= MANY_LABELS and min(proposal.labels.values()) >= FEW_ROWS:
        lines.append(f"  labels: {_yaml(sorted(proposal.labels))}  # a row with any other label goes to quarantine")
    if proposal.encoding != "utf-8":
        lines.append(f"  encoding: {_yaml(proposal.encoding)}")
    if proposal.on_bad_bytes != "quarantine":
        lines.append(
            f"  on_bad_bytes: {proposal.on_bad_bytes}  # too many rows to lose; U+FFFD stands in for such bytes"
        )
    if proposal.slices:
        lines.append(f"  # keep: {_yaml(proposal.slices)} would let evaluate.slices score these columns' values apart")
    lines.append("  split: {train: 0.8, validation: 0.1, test: 0.1}  # by the hash of the text")
    return lines


def _model(proposal: Proposal) -> list[str]:
    length = (
        f"99% of the texts have at most {proposal.tokens['p99']} wordpieces (half at most {proposal.tokens['p50']})"
    )
    if proposal.truncated > 0.01:
        length = (
            f"the most this BERT takes; {proposal.truncated:.0%} of the texts are longer and lose their end. "
            "128 trains several times faster, and is enough where a text's beginning tells its label"
        )
    lines = [
        "model:",
        f"  backbone: {_yaml(ModelOptions.model_fields['backbone'].default)}  # MiniLM, English: 6 layers",
        "  sha256:  # as the weights' authors publish them; a file that differs is refused",
        *(f"    {file}: {digest}" for file, digest in PINS.items()),
        f"  max_length: {proposal.max_length}  # {length}",
    ]
    if proposal.truncated > 0.4:
        lines += ["validation:", "  max_truncated: 1.0  # long texts are cut on purpose: see max_length"]
    return lines


def _train(proposal: Proposal) -> list[str]:
    rows = int(0.8 * sum(proposal.labels.values()))
    batch = TrainOptions.model_fields["batch_size"].default
    steps = math.ceil(rows / batch) * proposal.epochs
    rate = "for many labels: the new head is large" if len(proposal.labels) >= MANY_LABELS else "usual for small BERTs"
    return [
        "train:",
        f"  epochs: {proposal.epochs}  # {rows:,} rows / {batch} a batch x {proposal.epochs} = {steps:,} steps at most "
        f"for {len(proposal.labels)} labels",
        f"  patience: {proposal.patience}  # training stops after so many epochs without a better validation loss",
        f"  learning_rate: {proposal.learning_rate:.0e}  # {rate}".replace("e-0", "e-"),
    ]


def _gates(proposal: Proposal) -> list[str]:
    commonest, rows = max(proposal.labels.items(), key=_count)
    share = rows / sum(proposal.labels.values())
    return [
        "evaluate:",
        f"  length_buckets: {_yaml(proposal.length_buckets)}  # characters; cut the rows in thirds",
        "  gates:  # a model that fails one is not pushed",
        f"    beats_majority: true  # always answering {_yaml(commonest)} gets an accuracy of {share:.2f}",
        "    not_worse_by: 0.002  # than the last model pushed, on the same rows; luck is allowed for besides",
        "    # Floors: run once, look at the score and its interval, then write what the task cannot do without.",
        "    accuracy: null",
        "    macro_f1: null",
        "    beats_baseline_by: null  # 0 blocks a BERT that is no better than TF-IDF with logistic regression",
        "    max_calibration_error: null  # such as 0.1: beyond it, 90% sure means less than 80%",
        "    slices: {accuracy: null, not_worse_by: 0.02}  # of each slice of 100 rows or more, text lengths too",
        "    # Size, latency, gaps between groups of people: the table of gates in the README.",
        "",
    ]
