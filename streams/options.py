"""The options of `bertline stream`, each default with its reason beside it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from bertline.components.options import Duration, check_database
from bertline.models.recipe import Section

DAY = timedelta(days=1)

Paths = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class StreamModel(Section):
    """One of the models that score each text. Without `folder` and `address` it is the task's own newest version."""

    # A SavedModel that bertline exported, or a folder of versions, of which the newest answers. Relative to the config
    folder: str | None = None
    address: str | None = None  # HOST:PORT of a server; the environment's BERTLINE_API_KEY has its key
    name: str | None = None  # of the model at that address; null: the name that it has here
    # Labels whose share is watched, for all texts and for each entity. A model without them has no such share
    negative: list[str] = Field(default_factory=lambda: ["negative"])

    @model_validator(mode="after")
    def _one_place(self) -> StreamModel:
        if self.folder and self.address:
            raise ValueError("folder and address both say where the model is; leave one out")
        if self.name and not self.address:
            raise ValueError("name: it names a model at an address; set address too, or leave it out")
        return self


class StreamOptions(Section):
    """What `bertline stream` reads, looks for and stores; see docs/streams.md."""

    # Files that grow, folders of such files (new ones are found), or - for stdin. Relative to the config
    source: Paths = Field(default_factory=list)
    # auto goes by a file's ending, .jsonl or .csv or .tsv, and else by its first character: { begins JSON Lines
    format: Literal["auto", "jsonl", "csv", "tsv"] = "auto"
    text: str | None = None  # the field of the text; null: data.text. Fields in objects have dots: user.name
    # The field of the time: ISO 8601, Unix seconds or milliseconds, or as in mails. null takes the time of reading
    time: str | None = "time"
    # The field of an id. A text whose id came before is counted once, so that a source may send it twice. null: file
    # and line are the id
    id: str | None = None
    timezone: str = "UTC"  # of times that name none, and of the hours and weekdays that the alarms go by
    # A list of names to find in the texts: a CSV file with the columns name and aliases (with | between them), a JSON
    # file, or a name a line with its aliases behind it, with | between them. null looks for none
    entities: str | None = None
    models: dict[str, StreamModel] = Field(default_factory=dict)  # by the names in the database; empty: the task's own
    # sqlite:///FILE or postgresql://USER@HOST/DATABASE. ${NAME} stands for a variable of the environment, such as a
    # password. null: stream/stream.db below root
    database: str | None = None
    window: Duration = timedelta(hours=1)  # texts are counted, and surges looked for, by the hour: news fades in hours
    # A window is judged this long after its end, by the times of the texts, so that late ones are in it
    late: Duration = timedelta(minutes=5)
    # A time further ahead of this machine's clock is wrong: one text from 2099 would end all windows until then
    ahead: Duration = timedelta(hours=1)
    # Texts that are scored and stored together. Sorted by length they cost less than one by one, and a killed process
    # scores them again
    batch: PositiveInt = 1024
    every: Duration = timedelta(seconds=1)  # between two looks at files in which nothing was new

    @field_validator("timezone")
    @classmethod
    def _timezone_is_known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("not a time zone; expected one such as UTC or Europe/Berlin") from None
        return name

    @field_validator("database")
    @classmethod
    def _database_has_no_password(cls, url: str | None) -> str | None:
        if url is not None:
            check_database(url)
        return url

    @field_validator("models")
    @classmethod
    def _models_have_names(cls, models: dict[str, StreamModel]) -> dict[str, StreamModel]:
        if "" in models:
            raise ValueError("a model without a name; name it, such as sentiment")
        return models

    @field_validator("window")
    @classmethod
    def _window_fits_the_day(cls, window: timedelta) -> timedelta:
        if DAY % window and (window % DAY or window > 7 * DAY):
            raise ValueError("a day must be a whole number of windows, such as 15m, 1h or 6h; or it is 1d to 7d")
        return window

    @model_validator(mode="after")
    def _stdin_is_one(self) -> StreamOptions:
        if self.source.count("-") > 1 or len(set(self.source)) < len(self.source):
            raise ValueError("source: the same source twice; leave one out")
        return self
