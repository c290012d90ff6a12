"""The first step of `bertline init`: looks at all rows of the data."""

from __future__ import annotations

import codecs
import os
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bertline.components.data import formats, task_files
from bertline.components.data.decoding import SNIFFED_BYTES, UTF16_MARKS
from bertline.components.data.file_kinds import UnknownFormat
from bertline.components.data.packing import open_bytes
from bertline.components.data.reader import FOLDERS, SourceFile
from bertline.components.data.rows import BAD_BYTES, BROKEN_LINE, ZERO_BYTE, Row, printable
from bertline.components.options import DataOptions, MultiLabel, Query
from bertline.errors import UserError
from bertline.models import packages
from bertline.models.features import SPLITS
from bertline.pipeline.init import encoding as encodings
from bertline.pipeline.init import layout as layouts
from bertline.pipeline.init.layout import Layout

MOST_VALUES = 1000  # counted of a column; one of more different values is not taken for a label
SAMPLED_ROWS = 20_000  # kept whole; the 99th percentile of their lengths is then sure to a few per cent
TRAIN = SPLITS[0]
SAMPLE_SEED = 17  # the same sample for the same file
ZERO_BYTES = 0.01  # share from which they are UTF-16's, which has one in each line break; fewer are accidents
LISTED_FILES = 3  # on the screen
TOLERATED_BAD_BYTES = 0.01  # a share of rows up to this are accidents, and go to quarantine


@dataclass
class Column:
    """What the values of a column are like.

    Attributes:
        filled: rows that have a value.
        characters: of all values together.
        values: value -> rows, exact for up to MOST_VALUES different ones.
        many: there are more than MOST_VALUES.
    """

    filled: int = 0
    characters: int = 0
    values: Counter[str] = field(default_factory=Counter)
    many: bool = False

    def add(self, value: str | None) -> None:
        """Counts one value."""
        value = (value or "").strip()
        if not value:
            return
        self.filled += 1
        self.characters += len(value)
        if not self.many:
            self.values[value] += 1
            self.many = len(self.values) > MOST_VALUES

    @property
    def mean_characters(self) -> float:
        """Average length of the values that are there."""
        return self.characters / max(self.filled, 1)


@dataclass
class Survey:
    """What a look at all rows of all files found.

    Attributes:
        source: what was looked at: an absolute path or glob, package://NAME/PATH, or a query.
        sources: the split -> its source of the same kind, of the rows that were looked at.
        offered: splits other than train that a folder has beside it -> their sources.
        files: the split -> how many files it has.
        folders: it is a folder per class.
        names: the columns, each once.
        repeated: those that the first file has twice or more, of which the first is read.
        encoding, on_bad_bytes: how the files were read, as in DataOptions.
        layout: the delimiter and the header, as they are to be written down.
        format: as it is to be written down where the file's name does not tell it; "" where it does.
        encoding_words: where the encoding is a guess, a few words as it reads them.
        utf8_lines: where it is a guess, the lines beyond ASCII that are UTF-8 nevertheless.
        read_files: the files as they were read, train's first.
        first_fault: of all rows, with its file and row.
        file_rows: rows of each file, train's files first.
        rows: all rows, those with a fault too.
        faults: reason -> rows.
        doubts: what may be wrong with a row -> rows.
        plain_quotes: names of the files in which quotes are characters like others.
        one_quoting: these are all files, or none.
        columns: name -> what its values are like.
        lists: columns that hold lists, and are not read -> what they hold.
        label_lists: the column whose lists are a row's labels, which is read as JSON; "" for none.
        sheet: the sheet that is read of a workbook with several that are not empty.
        sample: SAMPLED_ROWS rows at most, each row's values in the order of `names`, "" where it has none.
        warnings: lines for the screen.
    """

    source: str | Query
    folders: bool
    names: list[str]
    encoding: str
    on_bad_bytes: str
    layout: Layout = layouts.USUAL
    format: str = ""
    sources: dict[str, str | Query] = field(default_factory=dict)
    offered: dict[str, str] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    encoding_words: list[str] = field(default_factory=list)
    utf8_lines: int = 0
    repeated: set[str] = field(default_factory=set)
    read_files: list[SourceFile] = field(default_factory=list)
    first_fault: str = ""
    file_rows: list[int] = field(default_factory=list)
    rows: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    doubts: Counter[str] = field(default_factory=Counter)
    plain_quotes: list[str] = field(default_factory=list)
    one_quoting: bool = True
    columns: dict[str, Column] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=dict)
    label_lists: str = ""
    sheet: str | None = None
    sample: list[tuple[str, ...]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def sampled(self, name: str) -> list[str]:
        """A column's values in the sampled rows."""
        place = self.names.index(name)
        return [values[place] for values in self.sample]

    @property
    def unreadable_names(self) -> list[str]:
        """Columns whose names hold bytes that are not in the encoding."""
        return [name for name in self.names if printable(name) != name]


def take_survey(
    source: str | Path,
    header: list[str] | None = None,
    given: Mapping[str, str] | None = None,
    label_lists: str = "",
) -> Survey:
    """Looks at all rows of the data.

    Of a folder with a folder or a file per split these are the training rows; `offered` then names the other splits.

    Args:
        source: file, folder with a folder per class, glob, or package://NAME/PATH.
        header: names of the columns, where the person gives them; [] says that the first line names them.
        given: a split other than train -> the source of its rows, which are looked at too.
        label_lists: the column whose lists are a row's labels; "" for none.

    Raises:
        UserError: nothing is there, or no row of it can be used.
    """
    address = re.sub(r"^package:/+", packages.SCHEME, str(source))  # pathlib joins the two slashes
    if not address.startswith(packages.SCHEME):
        place, _ = task_files.without_member(address, os.getcwd())
        if not re.search(r"[*?\[]", address) and not Path(place).exists():
            raise UserError(f"{address}: no such file or folder. Correct the path.")
        address = str(Path(address).absolute())
    offered = task_files.split_sources(address, os.getcwd())
    sources = {TRAIN: offered.pop(TRAIN, address), **(given or {})}
    format, by_split = _expanded(sources)
    files = [file for members in by_split.values() for file in members]
    _refuse_mixed_formats(by_split)
    labels = {"label": label_lists, "multi_label": {"lists": True}} if label_lists else {}
    options = DataOptions(source=["."], encoding=_unicode(files[0]), **labels)
    layout = layouts.look(files, options, header)
    options = options.model_copy(update={"delimiter": layout.delimiter, "header": layout.header})
    survey = _read_as_they_are(address, files, options)
    survey.layout, survey.format = layout, format.replace("auto", "")
    survey.sources, survey.offered, survey.label_lists = sources, offered, label_lists
    if offered and (others := task_files.of_no_split(address, os.getcwd())):
        survey.warnings.append(f"of no split, and left out: {', '.join(others)}")
    survey.files = {split: len(members) for split, members in by_split.items()}
    for reason in (BROKEN_LINE, ZERO_BYTE):
        if count := survey.faults[reason]:
            rows = "row" if count == 1 else "rows"
            survey.warnings.append(f"{count:,} {rows} with a {reason} will go to quarantine")
    if survey.plain_quotes:
        survey.warnings.append(
            f"quotes in {', '.join(survey.plain_quotes[:LISTED_FILES])} are read as plain characters: read as marks "
            "around a field, they would take rows into texts"
        )
    survey.warnings.extend(f"{count:,} {doubt}" for doubt, count in survey.doubts.items())
    survey.warnings.extend(note for file in survey.read_files for note in file.notes)
    if not survey.sample:
        if survey.first_fault:
            raise UserError(f"No usable row among {survey.rows:,}. The first fault: {survey.first_fault}.")
        raise UserError(
            f"{files[0].name}: no usable row; the first line must name the columns, and rows must follow it."
        )
    return survey


def _refuse_mixed_formats(by_split: dict[str, list[SourceFile]]) -> None:
    """Raises UserError where some splits have class folders and others data files."""
    kinds = {split: members[0] for split, members in by_split.items()}
    folders = [file for file in kinds.values() if file.format == FOLDERS]
    if folders and len(folders) < len(kinds):
        other = next(file for file in kinds.values() if file.format != FOLDERS)
        raise UserError(
            f"The folders of the splits differ: {folders[0].name} is a text in a class folder, {other.name} a data "
            "file. Bring them into one form."
        )


def _expanded(sources: dict[str, str]) -> tuple[str, dict[str, list[SourceFile]]]:
    """The format to write down, and the files of each split.

    It is "auto", or "csv" for text whose name tells no format, such as the .txt of spreadsheets.
    """
    format = "auto"
    try:
        by_split = {split: task_files.expand([source], os.getcwd()) for split, source in sources.items()}
    except UnknownFormat:
        format = "csv"
        by_split = {split: task_files.expand([source], os.getcwd(), format) for split, source in sources.items()}
    return format, by_split


def _read_as_they_are(source: str, files: list[SourceFile], options: DataOptions) -> Survey:
    """Reads the files as UTF-8, UTF-16 or UTF-32; again in another encoding where they are none of these.

    Raises:
        UserError: one file is UTF-8 and another one is not.
    """
    encoding = options.encoding
    survey = _read(source, files, options)
    bad = survey.faults[BAD_BYTES]
    if not bad and not survey.unreadable_names:
        return survey
    not_so = _not_in(encoding, survey)
    # What is no text says itself what its bytes are; UTF-16 has a mark.
    may_be_other = encoding == "utf-8" and formats.is_text(files[0])
    guess = encodings.guess(files) if may_be_other else None
    if guess:
        survey = _read(source, files, options.model_copy(update={"encoding": guess.name}))
        survey.encoding_words, survey.utf8_lines = guess.words, guess.utf8_lines
        survey.warnings.append(f"{not_so}: read as {guess.name}{_as_in(guess.words)}. Check some rows")
        if guess.utf8_lines:
            survey.warnings.append(
                f"{guess.utf8_lines:,} lines are UTF-8 nevertheless: {guess.name} reads their letters wrong. Bring the "
                "file into one encoding"
            )
        if left := survey.faults[BAD_BYTES]:
            survey.warnings.append(f"{left:,} rows hold bytes that are not {guess.name}: they will go to quarantine")
    elif bad > TOLERATED_BAD_BYTES * survey.rows:
        if may_be_other:
            encodings.refuse_two_encodings(files)
        survey = _read(source, files, options.model_copy(update={"on_bad_bytes": "replace"}))
        survey.warnings.append(
            f"{not_so}, and no other encoding reads them well: the bytes that are not are replaced by U+FFFD. "
            "Set data.encoding if you know the file's"
        )
    elif bad:
        survey.warnings.append(
            f"{bad:,} of {survey.rows:,} rows hold bytes that are not {encoding.upper()}: they will go to quarantine"
        )
    else:
        survey.warnings.append(not_so)
    return survey


def _not_in(encoding: str, survey: Survey) -> str:
    name, bad = encoding.upper(), survey.faults[BAD_BYTES]
    header = f"the line of column names is not {name}" if survey.unreadable_names else ""
    rows = f"{bad:,} of {survey.rows:,} rows are not {name}" if bad else ""
    return " and ".join(filter(None, (rows, header)))


def _as_in(words: list[str]) -> str:
    return f", as in {', '.join(words)}" if words else ""


def _unicode(file: SourceFile) -> str:
    """The encoding by the byte order mark, or by the zero bytes of UTF-16 without one; else UTF-8, as for no text."""
    if not formats.is_text(file):
        return "utf-8"
    with open_bytes(file) as stream:
        start = stream.read(SNIFFED_BYTES)
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if start.startswith(UTF16_MARKS):
        return "utf-16"
    if start.count(0) < ZERO_BYTES * len(start):
        return "utf-8"
    return max(("utf-8", "utf-16-le", "utf-16-be"), key=lambda name: _line_breaks(start, name))


def _line_breaks(start: bytes, encoding: str) -> int:
    """Line breaks of a file's first bytes; 0 where they are no text in the encoding, or hold zero bytes in it."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(start)
    except UnicodeDecodeError:
        return 0
    return 0 if "\0" in text else len(re.findall(r"[\r\n]", text))


# Names that people give to columns of lists of labels.
LIST_NAMES = re.compile(r"(label|tag|topic|categor(y|ie)|class(e)?|intent|emotion)s?", re.IGNORECASE)


def _with_lists_of_labels(file: SourceFile, options: DataOptions) -> DataOptions:
    """The options that read a column of lists of labels, where the file has one by its name."""
    if name := next((name for name in formats.lists(file, options) if LIST_NAMES.fullmatch(name)), None):
        return options.model_copy(update={"label": name, "multi_label": MultiLabel(lists=True)})
    return options


def _read(source: str, files: list[SourceFile], options: DataOptions) -> Survey:
    options = _with_lists_of_labels(files[0], options)
    columns_found = Counter(formats.columns(files[0], options))
    names = list(columns_found)
    files = [formats.settled(file, options) for file in files]
    columns = {name: Column() for name in names}
    folders = files[0].format == FOLDERS
    survey = Survey(source, folders, names, options.encoding, options.on_bad_bytes, columns=columns)
    generator = random.Random(SAMPLE_SEED)
    survey.plain_quotes = [Path(file.path).name for file in files if file.quoting == "none"]
    survey.read_files = files
    survey.lists = {name: held for name, held in formats.lists(files[0], options).items() if name not in names}
    survey.sheet = files[0].sheet
    survey.repeated = {name for name, count in columns_found.items() if count > 1}
    survey.file_rows = [0] * len(files)
    survey.one_quoting = len(survey.plain_quotes) in (0, len(files))
    for number, row in _rows(files, options, names):
        survey.rows += 1
        survey.file_rows[number] += 1
        if row.fault and not survey.first_fault:
            survey.first_fault = f"{files[number].name}, row {row.number}: {row.fault.detail}"
        if row.doubt:
            survey.doubts[row.doubt] += 1
        if row.fault:
            survey.faults[row.fault.reason] += 1
            continue
        for name, value in zip(names, row.values, strict=True):
            columns[name].add(value)
        _keep_in_sample(survey, tuple(value or "" for value in row.values), generator)
    return survey


def _rows(files: list[SourceFile], options: DataOptions, names: list[str]) -> Iterator[tuple[int, Row]]:
    """The rows of all files, each with its file's number."""
    for number, file in enumerate(files):
        for row in formats.read(file, options, names):
            yield number, row


def _keep_in_sample(survey: Survey, values: tuple[str, ...], generator: random.Random) -> None:
    """Reservoir sampling: every row of the file has the same chance, in constant memory."""
    if len(survey.sample) < SAMPLED_ROWS:
        survey.sample.append(values)
    elif (place := generator.randrange(survey.rows)) < SAMPLED_ROWS:
        survey.sample[place] = values
