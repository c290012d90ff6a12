"""The options of the stages around the model, each default with its reason beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Discriminator,
    Field,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from bertline.components import spans
from bertline.components.data import spellings
from bertline.components.variables import REFERENCE
from bertline.models import features
from bertline.models.recipe import (
    OF_FAMILY,
    BilstmOptions,
    DistillOptions,
    Section,
    StaticOptions,
    StudentFamily,
)
from bertline.serving.storage import is_remote

Share = Annotated[float, Field(ge=0, le=1)]
LabelName = Annotated[str, AfterValidator(spellings.composed)]


def _as_iso_duration(value: Any) -> Any:
    """45m, 2h, 90s, 1h30m or 7d as ISO 8601 writes them, which pydantic reads."""
    if isinstance(value, timedelta):
        return value
    text = str(value).strip().upper().removeprefix("P").replace("T", "")
    match = re.fullmatch(r"(?=\d)(\d{1,6}D)?((?:\d+H)?(?:\d+M)?(?:\d+S)?)", text)
    if not match:
        raise ValueError("write numbers with their units: 90s, 45m, 2h or 1h30m, or 7d for days")
    return f"P{match[1] or '0D'}T{match[2] or '0S'}"


def duration_text(duration: timedelta) -> str:
    """Such as 1h30m."""
    minutes, seconds = divmod(int(duration.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    parts = zip((hours, minutes, seconds), "hms", strict=True)
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"


# A length of time, such as 45m
Duration = Annotated[
    timedelta,
    BeforeValidator(_as_iso_duration),
    Field(gt=timedelta(0)),
    PlainSerializer(duration_text, return_type=str),
]


class SplitShares(Section):
    """Each split's share of the distinct texts, by the hash of the text.

    A share that is left out is what the other two leave. A split with files of its own needs none: its share goes to
    the other splits, in their proportions.
    """

    train: Share = 0.8  # most rows go here, since each makes the model better
    validation: Share = 0.1  # chooses the epoch and the temperature, for which some hundred rows are enough
    test: Share = 0.1  # decides at the gates: 1,000 rows say an accuracy to within 2 to 3 points, 10,000 within 1
    # Of text pairs: rows with the same text, or the same text_pair, go to one split together, such as all candidates
    # for one query. null splits row by row, which shares out rows most evenly
    group: Literal["text", "text_pair"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_rest(cls, shares: Any) -> Any:
        if not isinstance(shares, dict):
            return shares
        named = {name: share for name, share in shares.items() if name != "group"}
        missing = [name for name in features.SPLITS if name not in named]
        written = [share for share in named.values() if isinstance(share, int | float)]
        rest = round(1 - sum(written), 6)
        if not named or len(written) < len(named) or rest < 0 or not (len(missing) == 1 or rest == 0):
            return shares
        return {**shares, **dict.fromkeys(missing, rest)}

    @model_validator(mode="after")
    def _shares_add_up(self) -> SplitShares:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6 or not self.train:
            raise ValueError(
                f"train {self.train:g}, validation {self.validation:g} and test {self.test:g} add up to {total:g}; "
                "they must add up to 1, with train above 0, such as {train: 0.8, validation: 0.1, test: 0.1}"
            )
        return self


class RowLimits(Section):
    """The most rows that a split takes, a sample by the hash of the text. null takes all rows."""

    train: PositiveInt | None = None  # for a quick trial, or where more rows no longer make the model better
    validation: PositiveInt | None = None  # the epoch and the temperature are chosen on them
    test: PositiveInt | None = None  # 2,000 rows leave an accuracy uncertain by 2 points either way


class MultiLabel(Section):
    """Rows with any number of labels, and how a file writes them: set one of `separator`, `columns` and `lists`."""

    separator: str | None = None  # what stands between the labels in a cell of data.label, such as "|"
    # A column for each label, which holds 1 (or true, yes) in the rows that have it, else 0. Takes the place of
    # data.label
    columns: list[str] | None = None
    lists: bool = False  # data.label holds lists: of JSON or Parquet, or as a text such as ["health", "tech"]
    # What an empty cell of data.label says: that someone forgot the labels, or that the row has none. An empty list
    # and a row of zeros always say the latter
    empty: Literal["quarantine", "no_label"] = "quarantine"

    @model_validator(mode="after")
    def _one_way_is_named(self) -> MultiLabel:
        if (self.separator is not None) + (self.columns is not None) + self.lists != 1:
            raise ValueError('set exactly one of separator, columns and lists, such as {separator: "|"}')
        if self.separator is not None and not self.separator:
            raise ValueError('separator: name what stands between two labels, such as "|"')
        if self.columns is not None and (len(self.columns) < 2 or len(set(self.columns)) < len(self.columns)):
            raise ValueError("columns: list at least two different columns, one for each label")
        if self.columns is not None and self.empty == "no_label":
            raise ValueError("empty: with columns each cell says 0 or 1; correct the cells that say neither")
        return self


SET_BY_THE_RUN = {"set_by": "the run"}  # marks a field that is no key of the file


def check_database(url: str) -> None:
    """Raises ValueError where an address is no database's, or holds a password."""
    if not re.match(r"[a-zA-Z][\w+]*://", url):
        raise ValueError("not a database's address; expected one such as postgresql://USER@HOST/DATABASE")
    userinfo, has_user, _ = url.partition("://")[2].rpartition("@")
    secrets = [userinfo.partition(":")[2]] if has_user else []
    secrets += re.findall(r"[?&]\w*(?:password|passwd|pwd|token|secret)\w*=([^&]*)", url, re.IGNORECASE)
    if any(secret and not REFERENCE.fullmatch(secret) for secret in secrets):
        raise ValueError(
            "an address with a password in it; write ${NAME} in its place, and set that variable in the environment"
        )


class Query(Section):
    """Rows of a database. `bertline run` writes them to Parquet below its root, and reads them from there."""

    # As SQLAlchemy has it: postgresql://USER@HOST/DATABASE, sqlite:///FILE ... ${NAME} stands for a variable of the
    # environment, such as a password; a password itself is refused
    url: str
    # One SELECT. Rows in another order are read anew, so end it in ORDER BY
    query: str = Field(min_length=1)
    # A cheap query whose answer changes with the rows, such as SELECT count(*), max(id) FROM reviews. `bertline watch`
    # asks it at each look
    changes: str | None = None
    file: str | None = Field(default=None, json_schema_extra=SET_BY_THE_RUN)  # absolute, where the rows are

    @field_validator("url")
    @classmethod
    def _url_names_a_database_and_no_password(cls, url: str) -> str:
        check_database(url)
        return url

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if key != "file" or value}

    def __str__(self) -> str:
        """For people; the password is not known here."""
        return f"{self.query} ({self.url})"


def _kind(source: Any) -> str:
    return "Query" if isinstance(source, dict | Query) else "str"


Source = Annotated[Annotated[str, Tag("str")] | Annotated[Query, Tag("Query")], Discriminator(_kind)]
Sources = Annotated[
    list[Source], BeforeValidator(lambda value: [value] if isinstance(value, str | dict | Query) else value)
]


class DataOptions(Section):
    """What to read, which columns, and how to split."""

    # One or several: paths, globs, folders of data files at any depth, folders with a folder per class, or
    # package://NAME/PATH. Relative paths start at the config's folder. A database's rows: {url: ..., query: ...}
    source: Sources = Field(min_length=1)
    # {SPAN} in a source stands for the number of a portion: data-{SPAN}/ or reviews-{SPAN}.csv.gz. This many of the
    # newest portions are read, a window that rolls on as portions arrive; null reads all
    newest_spans: PositiveInt | None = None
    validation_source: Sources | None = None  # files for this split; null takes it from `source`
    test_source: Sources | None = None  # files for this split; null takes it from `source`
    # Files whose rows only train, such as corrections-{SPAN}.jsonl, which `bertline feedback` writes: they are no fair
    # sample, so none comes into the test rows, on which models are compared. Those with {SPAN} need not be there yet
    train_source: Sources | None = None
    # auto goes by the file's first bytes and its name. lines is a file per label, named after it, with a text per line
    format: Literal["auto", "csv", "tsv", "jsonl", "json", "parquet", "arrow", "xlsx", "folders", "lines"] = "auto"
    sheet: str | None = None  # of Excel workbooks; null takes the first one
    # Quotes in CSV and TSV: standard takes them as marks around a field, as RFC 4180 has it, none as characters like
    # others. auto reads each file in both ways, and takes none where quotes would swallow rows
    quoting: Literal["auto", "standard", "none"] = "auto"
    # The character between two fields of CSV and TSV files, such as ";". null takes the comma in CSV, the tab in TSV. A
    # first line such as `sep=;` in a file itself goes first
    delimiter: str | None = None
    # Names of all columns, for CSV, TSV and Excel files whose first line is a row. null takes them from that line
    header: list[str] | None = Field(default=None, min_length=2)
    # The column of the text. Several, such as [title, body], are joined in this order; empty ones are left out
    text: str | list[str] = "text"
    # Stands between joined columns. The model reads a space like any white space, and lines for `bertline predict` can
    # hold one
    text_separator: str = " "
    text_pair: str | None = None  # the column of a second text, which is read together with the first
    label: str = "label"  # the column of the label
    multi_label: MultiLabel | None = None  # for rows with any number of labels; null: each row has exactly one
    labels: list[LabelName] | None = None  # rows with another label go to quarantine; null takes all labels, sorted
    # A label as the files spell it -> the name that counts, such as {TRUE: "true", "0": negative}. null leaves its rows
    # out, or with multi_label the label. `bertline init` proposes entries for labels that look the same
    label_map: dict[LabelName, LabelName | None] = Field(default_factory=dict)
    keep: list[str] = Field(default_factory=list)  # other columns, for evaluate.slices and the fairness gates
    encoding: str = "utf-8"  # as Python names it; a byte order mark is accepted
    # Bytes that are not in the encoding: put the row in quarantine, or replace them by U+FFFD and go on
    on_bad_bytes: Literal["quarantine", "replace"] = "quarantine"
    split: SplitShares = SplitShares()
    limits: RowLimits = RowLimits()
    max_quarantined: Share = 0.05  # a larger share of rows in quarantine points at a wrong config and stops the run

    @model_validator(mode="after")
    def _spans_can_be_matched(self) -> DataOptions:
        for source in self.sources:
            if isinstance(source, str):
                spans.check(source)
        paths = [source for source in self.source if isinstance(source, str)]
        if self.newest_spans and not any(spans.PLACEHOLDER in path for path in paths):
            raise ValueError("newest_spans needs a source with {SPAN} in it, such as data-{SPAN}/ or data-{SPAN}.csv")
        return self

    @model_validator(mode="after")
    def _only_pairs_are_grouped(self) -> DataOptions:
        if self.split.group and not self.text_pair:
            raise ValueError(
                "split.group: rows with the same text are one row already; it is for text pairs, so name the second "
                "text's column in text_pair, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _no_split_is_empty(self) -> DataOptions:
        for split, source in (("validation", self.validation_source), ("test", self.test_source)):
            if not getattr(self.split, split) and not source:
                raise ValueError(
                    f"split: no share is left for {split}; give it one, such as {{train: 0.8, validation: 0.1, "
                    f"test: 0.1}}, or name its files in {split}_source"
                )
        return self

    @field_validator("delimiter")
    @classmethod
    def _delimiter_is_no_letter(cls, delimiter: str | None) -> str | None:
        if delimiter is not None and (len(delimiter) != 1 or delimiter.isalnum() or delimiter in ' "\r\n'):
            raise ValueError('use one character that is no letter, digit, space or quote, such as ";" or "\\t"')
        return delimiter

    @field_validator("text")
    @classmethod
    def _some_text(cls, text: str | list[str]) -> str | list[str]:
        if not text:
            raise ValueError("name a column, or several to join")
        return text

    @property
    def sources(self) -> list[Source]:
        """Those of all splits."""
        more = (self.validation_source, self.test_source, self.train_source)
        return [*self.source, *(source for sources in more for source in sources or [])]

    @property
    def queries(self) -> list[Query]:
        """The sources that are a database's."""
        return [source for source in self.sources if isinstance(source, Query)]

    def with_queries(self, replace: Callable[[Query], Query | None]) -> DataOptions:
        """The same with other queries; None leaves one out."""

        def replaced(sources: list[Source] | None) -> list[Source] | None:
            each = [replace(source) if isinstance(source, Query) else source for source in sources or []]
            return None if sources is None else [source for source in each if source is not None]

        keys = ("source", "validation_source", "test_source", "train_source")
        return self.model_copy(update={key: replaced(getattr(self, key)) for key in keys})

    @property
    def text_columns(self) -> list[str]:
        """The columns that make the text, in the order in which they are joined."""
        return [self.text] if isinstance(self.text, str) else self.text

    @model_validator(mode="after")
    def _header_has_the_columns(self) -> DataOptions:
        for name in self.header or []:
            if self.header.count(name) > 1:
                raise ValueError(f"header: {name!r} is there {self.header.count(name)} times; give each its own name")
        return self

    @model_validator(mode="after")
    def _names_are_distinct(self) -> DataOptions:
        single = {features.TEXT_PAIR: self.text_pair}
        single |= {} if self.label_columns else {features.LABEL: self.label}
        used = single | ({features.TEXT: self.text} if isinstance(self.text, str) else {})
        names = [*self.text_columns, *(name for name in single.values() if name), *self.label_columns]
        if len(set(names)) < len(names):
            labels = "multi_label.columns" if self.label_columns else "label"
            raise ValueError(f"text, text_pair and {labels} must be different columns, not {', '.join(names)}")
        for name in self.keep:
            if name in features.RESERVED and used.get(name) != name:
                raise ValueError(f"keep: bertline uses the name {name!r} itself; rename the column in the file")
        if self.labels is not None and (len(self.labels) < 2 or len(set(self.labels)) < len(self.labels)):
            raise ValueError("labels: list at least two different labels, or leave it out to take those found")
        return self

    @model_validator(mode="after")
    def _several_labels_fit(self) -> DataOptions:
        if self.multi_label and self.format in ("folders", "lines"):
            raise ValueError("multi_label: with format: folders a text has the one label of its folder; take one out")
        if self.label_columns and self.labels is not None:
            raise ValueError("labels: with multi_label.columns the columns are the labels; leave data.labels out")
        if self.label_columns and self.label_map:
            raise ValueError("label_map: with multi_label.columns the columns are the labels; rename them in the file")
        return self

    @property
    def label_columns(self) -> list[str]:
        """The columns of multi_label.columns; [] where data.label has the labels."""
        return (self.multi_label.columns if self.multi_label else None) or []

    @property
    def known_labels(self) -> list[str] | None:
        """The labels that the config names, in their order; None where those of the rows are taken."""
        return self.labels or self.label_columns or None

    @model_validator(mode="after")
    def _the_map_ends_at_labels(self) -> DataOptions:
        for spelling, name in self.label_map.items():
            if name == "":
                raise ValueError(f"label_map: {spelling!r} has no name; write null to leave its rows out")
            further = self.label_map.get(name, name) if name is not None else None
            if further != name:
                end = "null" if further is None else repr(further)
                raise ValueError(
                    f"label_map: {spelling!r} becomes {name!r}, which becomes {end}; write what {spelling!r} is to "
                    "be, since each label is looked up once"
                )
            if self.labels is not None and name is not None and name not in self.labels:
                raise ValueError(f"label_map: {spelling!r} becomes {name!r}, which is not among labels; add it there")
            if self.labels is not None and spelling in self.labels and spelling != name:
                raise ValueError(f"labels: no row can have {spelling!r}, which label_map changes; remove it from one")
        return self


class ValidationOptions(Section):
    """When the data stop the line."""

    schema_file: str | None = None  # a reviewed schema.pbtxt; null infers a schema from the training rows
    # Severities of TFDV's anomalies: "error" stops only on errors, "warning" on both, "never" only reports
    stop_on: Literal["error", "warning", "never"] = "error"
    max_truncated: Share = 0.5  # share of texts longer than model.max_length; above it most texts lose their end
    # Share of wordpieces that the vocabulary lacks. Above it the model does not know the language of the texts
    max_out_of_vocabulary: Share = 0.25


class SliceGates(Section):
    """What each slice must reach: the columns of `slices`, and the buckets of text length. null switches a gate off."""

    minimum_rows: PositiveInt = 100  # a smaller slice blocks nothing: its accuracy is uncertain by ten points
    # The least accuracy of each slice, judged with `certainty`. With data.multi_label it is subset accuracy, here and
    # in the next two
    accuracy: Share | None = None
    max_gap: Share | None = None  # a slice's accuracy may be this far below that of all rows, judged with `certainty`
    # Accuracy that a slice may lose against the last blessed model, with `certainty` over all slices together. Larger
    # than for all rows: a loss of two points on a slice seldom justifies the wait for another model.
    not_worse_by: Share | None = 0.02


class FairnessGates(Section):
    """How far the groups of people in a kept column may differ, by fairlearn's metrics."""

    column: str  # in data.keep; groups with fewer rows than slices.minimum_rows are left out
    label: LabelName  # the answer that favours a person
    equal_opportunity: Share | None = None  # largest difference between groups in the recall of that label
    demographic_parity: Share | None = None  # largest difference between groups in the share that gets that label

    @model_validator(mode="after")
    def _a_gap_is_bounded(self) -> FairnessGates:
        if self.equal_opportunity is None and self.demographic_parity is None:
            raise ValueError(
                "set equal_opportunity, demographic_parity or both to the largest gap allowed, such as 0.1"
            )
        return self


class RankingGates(Section):
    """What the order of each query's candidates must reach; with evaluate.ranking. null switches a gate off."""

    mrr: Share | None = None  # the least mean reciprocal rank: of the first candidate that fits
    ndcg: Share | None = None  # the least nDCG, which looks at all candidates that fit
    precision_at: dict[PositiveInt, Share] = Field(
        default_factory=dict
    )  # k -> the least share that fits of the first k
    # MRR and nDCG that may be lost against the last blessed model on the same queries, judged with `certainty`. Larger
    # than for accuracy, as there are fewer queries than rows
    not_worse_by: Share | None = 0.005


class GateOptions(Section):
    """What a model must reach before it is pushed. null switches a gate off."""

    accuracy: Share | None = None  # the least on the test rows; only you know what the task needs
    # With data.multi_label, in place of accuracy: the least share of test rows that get exactly their labels
    subset_accuracy: Share | None = None
    micro_f1: Share | None = None  # with data.multi_label: the same for the F1 of all rows and labels together
    macro_f1: Share | None = None  # the same for the mean F1 over the labels, which counts rare labels fully
    label_f1: dict[str, Share] = Field(default_factory=dict)  # label -> its least F1, for the labels that must not fail
    # Accuracy and macro-F1 that may be lost against the last blessed model on the same rows. This is the loss that one
    # does not mind; `certainty` deals with luck.
    not_worse_by: Share | None = 0.002
    # How sure a comparison must be to block. 0.95 blocks one model in twenty that is worse by exactly `not_worse_by`.
    certainty: float = Field(default=0.95, ge=0.5, lt=1)
    beats_majority: bool = True  # better than always answering the commonest label
    beats_baseline_by: Share | None = None  # lead in accuracy and macro-F1 over TF-IDF with logistic regression
    beats_probe_by: Share | None = None  # the same over the probe: what fine-tuning must add to be worth its minutes
    max_calibration_error: Share | None = None  # ECE; on 2,000 rows a perfectly calibrated model has some 0.02
    max_size: ByteSize | None = None  # of the exported SavedModel, such as 200 MB
    slices: SliceGates = SliceGates()
    fairness: FairnessGates | None = None
    ranking: RankingGates = RankingGates()


class RankingOptions(Section):
    """That the rows are a query (data.text) and a candidate for it (data.text_pair) each; see docs/ranking.md."""

    label: LabelName  # the label of a candidate that fits; its probability puts the candidates in order
    at: list[PositiveInt] = Field(default_factory=lambda: [1, 3, 10])  # the k of precision at k: what a page shows


class StudentGates(Section):
    """What a student must reach to take its teacher's place. null switches a gate off."""

    # Accuracy and macro-F1 that may be lost against the teacher on the same test rows, as evaluate.gates.not_worse_by
    # judges a loss. A point is what most would give for half the time.
    not_worse_by: Share | None = 0.01
    # How many times the teacher's examples a second, as measured on the same batches of test rows in turns. Only you
    # know what is worth a change; a trimmed vocabulary makes nothing faster.
    faster_by: float | None = Field(default=None, gt=0)
    smaller_by: float | None = Field(default=None, gt=0)  # how many times fewer bytes the SavedModel must have


class CompressOptions(Section):
    """A smaller or faster student of the trained model, its teacher: docs/compression.md."""

    # used: only the wordpieces that the training and validation rows and the texts of `unlabelled` use, and those that
    # can spell every other word.
    # whole keeps all: a user may meet texts unlike the training rows, whose words are then cut into more pieces.
    vocabulary: Literal["whole", "used"] = "whole"
    # Fewer layers than the teacher, taken from it and trained by distillation; a layer's time is saved with it. Half of
    # them is the usual first try. null keeps all
    layers: PositiveInt | None = None
    # Narrower hidden states: so many of their dimensions, those that matter most to the training rows. A multiple of a
    # head's width, as heads keep theirs. Half is the usual first try. null keeps all
    hidden: PositiveInt | None = None
    # Fewer attention heads in each layer, those that matter most to the training rows. null keeps all, or as many as
    # hidden has room for
    heads: PositiveInt | None = None
    # Fewer feed-forward units in each layer, chosen as the heads are. Half of both halves a layer's products. null
    # keeps all
    units: PositiveInt | None = None
    # A student of another family, which learns from the teacher's answers: `static` is made of the teacher's own
    # vocabulary, `bilstm` of the words of the training rows. Much faster, and less accurate. null for none
    family: StudentFamily | None = None
    static: StaticOptions = StaticOptions()  # with family: static, as model.static
    bilstm: BilstmOptions = BilstmOptions()  # with family: bilstm, as model.bilstm
    distill: DistillOptions = DistillOptions()  # how the student is trained; with any of the keys above but vocabulary
    # A file of rows without labels (or a folder, a pattern), read as data.source is. The student learns what the
    # teacher answers to them too, and so needs no labels; the teacher does not see them. null: none
    unlabelled: str | None = None
    gates: StudentGates = StudentGates()

    @property
    def makes_student(self) -> bool:
        """Whether there is anything to be done."""
        return self.vocabulary == "used" or self.trains_student

    @property
    def trains_student(self) -> bool:
        """Whether the student is trained, by distillation."""
        return bool(self.cut) or self.family is not None

    @property
    def cut(self) -> dict[str, int]:
        """What there is less of in a student of the same family: its key, and how many are left."""
        keys = ("layers", "hidden", "heads", "units")
        return {key: count for key in keys if (count := getattr(self, key)) is not None}

    @property
    def without_gates(self) -> CompressOptions:
        """What the student itself depends on."""
        return self.model_copy(update={"gates": StudentGates()})

    @model_validator(mode="before")
    @classmethod
    def _distillation_as_the_family_needs_it(cls, values: Any) -> Any:
        family, own = (values.get(key) for key in ("family", "distill")) if isinstance(values, dict) else (None, None)
        usual = OF_FAMILY.get(family) if isinstance(family, str) else None
        if not usual or not isinstance(own or {}, dict):
            return values
        return {**values, "distill": {**usual["train"], "hidden_weight": 0.0, **(own or {})}}

    @model_validator(mode="after")
    def _a_family_comes_with_its_own_keys(self) -> CompressOptions:
        for name, default in (("static", StaticOptions()), ("bilstm", BilstmOptions())):
            if self.family != name and getattr(self, name) != default:
                raise ValueError(f"{name}: it goes with family: {name}; take one out")
        if self.family and self.cut:
            keys = ", ".join(self.cut)
            raise ValueError(f"{keys}: a student of the family {self.family} has none of its teacher's; take one out")
        if self.family and self.distill.hidden_weight:
            raise ValueError(
                f"distill.hidden_weight: a student of the family {self.family} has no layers to compare; leave it out"
            )
        if self.family == "bilstm" and self.vocabulary == "used":
            raise ValueError("vocabulary: used: a bilstm learns a vocabulary of its own; leave it out")
        return self

    @model_validator(mode="after")
    def _gates_have_a_student(self) -> CompressOptions:
        if not self.makes_student and self.gates != StudentGates():
            raise ValueError(
                "gates: there is no student that they could judge; set layers, hidden, heads, units, family or "
                "vocabulary: used"
            )
        of_training = {"distill": self.distill != DistillOptions(), "unlabelled": self.unlabelled is not None}
        for key in (key for key, is_set in of_training.items() if is_set and not self.trains_student):
            raise ValueError(
                f"{key}: it trains a student with less of its teacher's network, or of another family; set layers, "
                "hidden, heads, units or family, or leave it out"
            )
        return self


class EvaluateOptions(Section):
    """How the model is evaluated."""

    batch_size: PositiveInt = 64  # rows per call of the model; BERT runs out of memory at 1,000
    slices: list[str] = Field(default_factory=list)  # columns of data.keep; each value is a slice
    # Bounds in characters; the buckets of text length are slices too. [] for none
    length_buckets: list[PositiveInt] = Field(default_factory=lambda: [50, 100, 200])
    baseline: bool = True  # fit TF-IDF with logistic regression on the same rows, to know whether BERT is worth it
    # Fit a logistic regression on the frozen encoder, to know what fine-tuning adds. null does where the backbone is
    # pretrained, as random weights know nothing yet.
    probe: bool | None = None
    ranking: RankingOptions | None = None  # MRR, nDCG and precision at k by query; null: rows are no candidates
    gates: GateOptions = GateOptions()

    @model_validator(mode="after")
    def _the_gates_baseline_is_there(self) -> EvaluateOptions:
        if self.gates.beats_baseline_by is not None and not self.baseline:
            raise ValueError("gates.beats_baseline_by needs the baseline: take out `baseline: false`")
        if self.gates.beats_probe_by is not None and self.probe is False:
            raise ValueError("gates.beats_probe_by needs the probe: take out `probe: false`")
        ranking = self.gates.ranking
        if not self.ranking and (ranking.mrr or ranking.ndcg or ranking.precision_at):
            raise ValueError("gates.ranking needs to know which candidates fit: set ranking: {label: LABEL}")
        return self


class CanaryOptions(Section):
    """The fresh server's exam before the push."""

    rows: PositiveInt = 200  # test rows that the server must answer as the evaluation did; a few seconds
    # Latency gates, in milliseconds of a request with one text, on this machine; null: only shown. The line itself
    # keeps the machine busy, so leave room.
    max_p50_ms: PositiveFloat | None = None
    max_p99_ms: PositiveFloat | None = None  # as max_p50_ms, for the slowest 1%


class Range(Section):
    """Numbers from `low` to `high`, both included."""

    low: float  # the least that is tried
    high: float  # the most
    log: bool = False  # as likely between 1e-5 and 1e-4 as between 1e-4 and 1e-3: for rates, whose factors matter

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low:g} has no logarithm; set it above 0, or leave log out")
        return self


class TuneOptions(Section):
    """The search for better hyperparameters: docs/tuning.md."""

    # Each run of the line searches before it trains, and trains with the best. false: only `bertline tune` searches. A
    # search takes as long as its trials, and what it finds mostly holds for the next rows too
    every_run: bool = False
    trials: PositiveInt = 20  # in all; TPE has learned the space after some ten, and each is a training
    # For all trials together, such as 45m, 2h or 1h30m. What comes first ends the search; null: the trials do
    time: Duration | None = None
    # Key of `train` -> what it may be: a list, such as {train.batch_size: [16, 32]}, or a range, such as
    # {train.learning_rate: {low: 1e-5, high: 1e-3, log: true}}. {} takes what suits the number of rows and labels
    space: dict[str, Range | list[bool | int | float | str]] = Field(default_factory=dict)


class TrackingOptions(Section):
    """The experiment tracker that is told of each run. Keys come only from the environment."""

    tool: Literal["tensorboard", "mlflow", "wandb"] | None = None  # null: no tracker, and none is imported
    # MLflow's tracking URI, or a W&B server. null: MLFLOW_TRACKING_URI or else files in ROOT/mlruns; WANDB_BASE_URL or
    # else wandb.ai
    address: str | None = None
    project: str | None = None  # MLflow's experiment, W&B's project; null: the config's name
    review_page: bool = False  # send the review page too, to MLflow or W&B; it holds texts of the test rows

    @model_validator(mode="after")
    def _the_address_is_used_and_holds_no_secret(self) -> TrackingOptions:
        if self.address and self.tool not in ("mlflow", "wandb"):
            raise ValueError("address: only mlflow and wandb have one; TensorBoard's files are in ROOT/tensorboard")
        if self.address and urlsplit(self.address).password:
            raise ValueError("address: take the password out; set MLFLOW_TRACKING_PASSWORD in the environment instead")
        return self


class LogOptions(Section):
    """What `bertline serve` keeps of each request and its answer, for `bertline monitor`; see docs/monitoring.md."""

    # Share of the requests; 1 keeps a record of each. 0 is off: what people send is kept only where somebody says so
    rate: Share = 0.0
    # Keep the texts too, with personal data masked. Without them alarms show no texts, and feedback must bring its own
    texts: bool = False
    # Keep the vector that the model makes of each text, 2 bytes per number: new kinds of text are found by it
    embeddings: bool = True
    columns: list[str] = Field(default_factory=list)  # features of tf.Examples to keep, masked, such as a shop
    days: PositiveInt = 30  # after which they are removed: a month of windows to compare with
    max_size: ByteSize = ByteSize(1_000_000_000)  # of all of them, a million with embeddings; the oldest go first
    folder: str | None = None  # null: runs/NAME/records


class TrafficCanary(Section):
    """How `bertline serve` tries a pushed version in traffic before it serves it; see docs/serving/canary.md."""

    # Of the callers whose requests the new version answers. A tenth meets a bad one, and an hour of traffic judges it;
    # beyond a half the version before would be the one that is tried
    share: float = Field(default=0.1, gt=0, le=0.5)
    # The version before answers everything, and the new one the same texts beside it: nobody meets a bad version, and
    # each request costs twice
    shadow: bool = False
    # The header, or gRPC metadata, whose value keeps a caller on one version, such as a session's. Requests without it
    # go by their own bytes: the same request meets the same version
    key: str = "x-session-id"
    # What is tried at least, such as 90s, 1h or 2d, while a server runs: long enough to meet the texts of more than one
    # moment
    at_least: Duration = Field(default=timedelta(hours=1), alias="for")
    # Requests that the new version answers at least: 500 without an error bound the errors at 0.7%
    minimum_requests: PositiveInt = 500
    # 1 less the probability that a version beyond one of the bounds is promoted, and that one within all of them is
    # withdrawn; over all looks together
    certainty: float = Field(default=0.95, gt=0.5, lt=1)
    # The most of its requests that may fail where the version before answers. No caller meets these errors: the version
    # before answers in its place
    most_errors: float = Field(default=0.01, gt=0, lt=1)
    # By what factor its p95 may be above that of the version before: the load of a day makes smaller differences
    slower_by: float = Field(default=1.5, ge=1)
    # The least share of the texts to which both give the same labels. A model of newer rows changes its mind on some
    # texts, one with mixed-up labels on most
    agreement: float = Field(default=0.8, gt=0, lt=1)
    # By how much the mean probability of its answers may be below that of the version before: of a calibrated model it
    # is the model's own estimate of its accuracy
    less_confident: float = Field(default=0.1, gt=0, le=1)
    # By how much the accuracy on labelled answers may be below that of the version before, where `bertline feedback`
    # has brought labels
    less_accurate: float = Field(default=0.03, gt=0, le=1)
    # Labelled answers of each version that a promotion waits for; to know accuracy within 3 points takes some 2,000. 0
    # waits for none: the labels that come can only withdraw
    minimum_labels: NonNegativeInt = 0
    # After which the version before answers in place of the new one, and the request counts as an error
    patience: Duration = timedelta(seconds=5)

    @field_validator("key")
    @classmethod
    def _the_key_is_a_header(cls, key: str) -> str:
        if not re.fullmatch(r"[a-z0-9_.-]+", key) or key.endswith("-bin"):
            raise ValueError("write a header's name in lower case, such as x-session-id; -bin is for binary ones")
        return key

    @model_validator(mode="after")
    def _the_first_look_can_be_certain(self) -> TrafficCanary:
        # The first look spends half of the error: so many requests without a fault bound the share of faults
        for name, faults in (("most_errors", self.most_errors), ("agreement", 1 - self.agreement)):
            needed = math.ceil(math.log((1 - self.certainty) / 2) / math.log(1 - faults))
            if self.minimum_requests < needed:
                raise ValueError(
                    f"minimum_requests: {self.minimum_requests} requests cannot show {name} {getattr(self, name):g} "
                    f"with certainty {self.certainty:g}, even without a fault; it takes {needed}"
                )
        return self


class ServeOptions(Section):
    """Where the pushed model is served."""

    folder: str | None = None  # null: runs/NAME/serving
    host: str = "127.0.0.1"  # only this machine; 0.0.0.0 opens it to others, and then needs TLS and API keys
    port: int = Field(default=8500, ge=0, le=65535)  # TF Serving's own; 0 takes a free one
    # REST and Prometheus' metrics; TF Serving's documents use this port. null for neither, 0 takes a free one
    rest_port: int | None = Field(default=8501, ge=0, le=65535)
    batching_file: str | None = None  # BatchingParameters in text form; null: serving/deploy/config/batching.config
    keep_versions: NonNegativeInt = 0  # pushed versions kept in the folder; 0 keeps all
    log: LogOptions = LogOptions()
    # A pushed version first answers a share of the requests, such as {share: 0.1, for: 1h, minimum_requests: 500}, or
    # all of them unseen ({shadow: true}), and is promoted or withdrawn by what comes of it. {} takes the defaults.
    # null: each pushed version is served at once, since a canary needs traffic to be judged by
    canary: TrafficCanary | None = None
    # Rows of the test split that go into each pushed version as warm-up requests; sixteen lengths, alone and in
    # batches, take two seconds. They are real texts: 0 keeps them out of the folder. TF Serving reads at most 1,000
    # requests, which 256 rows stay below.
    warmup_rows: int = Field(default=16, ge=0, le=256)

    @model_validator(mode="after")
    def _a_canary_has_a_version_before_it(self) -> ServeOptions:
        if self.canary and self.keep_versions == 1:
            raise ValueError(
                "canary: keep_versions: 1 removes the version to go back to; keep at least 2, or 0 for all"
            )
        if self.canary and self.canary.minimum_labels and not self.log.rate:
            raise ValueError(
                "canary: minimum_labels waits for labels of recorded answers, and log.rate 0 records none: no version "
                "would ever be promoted; set log: {rate: 1}, or minimum_labels: 0"
            )
        if self.canary and self.folder and is_remote(self.folder):
            raise ValueError(
                f"canary: {self.folder} is an object store, where no version can be withdrawn in one step; on "
                "Kubernetes use KServe's canaryTrafficPercent or a gateway (docs/serving/canary.md)"
            )
        return self


class CardOptions(Section):
    """A person's words for the model card; null: the card says that nobody has written them."""

    summary: str | None = None  # what the model does, for whom
    intended_use: str | None = None  # the decisions that it may support
    out_of_scope: str | None = None  # what it must not be used for
    limits: str | None = None  # known failures, risks, and whom they would hurt
    owners: list[str] = Field(default_factory=list)  # who answers for it, with an address
    languages: list[str] = Field(default_factory=list)  # of the texts, as ISO 639 codes such as en; nobody guesses them
    # Licences as Hugging Face's model hub names them, such as apache-2.0
    license: str | None = None  # of this model
    weights_license: str | None = None  # of the weights that its training starts from
    data_license: str | None = None  # of the rows that it is trained on
