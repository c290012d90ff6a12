"""The options of `bertline stream`, each default with its reason beside it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from bertline.components.options import Duration, check_database, duration_text
from bertline.components.variables import REFERENCE
from bertline.models.recipe import Section

DAY = timedelta(days=1)

Paths = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class StreamModel(Section):
    """One of the models that score each text. Without `folder` and `address` it is the task's own newest version."""

    # A SavedModel that bertline exported, or a folder of versions, of which the newest answers, also one that comes
    # while the stream runs. Relative to the config, or an address such as gs://BUCKET/PATH
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


class KafkaOptions(Section):
    """Topics whose records are JSON objects, read through librdkafka."""

    topics: list[str] = Field(min_length=1)  # all partitions that they have at the start are read
    servers: str  # HOST:PORT, or several with commas between them
    # Further settings of librdkafka, such as security.protocol. ${NAME} stands for a variable of the environment; a
    # password itself is refused
    settings: dict[str, str] = Field(default_factory=dict)

    @field_validator("settings")
    @classmethod
    def _settings_hold_no_password(cls, settings: dict[str, str]) -> dict[str, str]:
        for name, value in settings.items():
            if re.search("password|secret|token|pem$", name) and not REFERENCE.fullmatch(value):
                raise ValueError(f"{name}: write ${{NAME}} here, and set that variable in the environment")
        return settings


class SurgeOptions(Section):
    """When `bertline stream` raises an alarm, and who is told."""

    # Alarms a month that may be expected where nothing changes, over all entities and labels
    false_alarms: PositiveFloat = 1.0
    # The past that says what is likely: eight of each hour of each weekday. A year ago people wrote of other things
    history: Duration = timedelta(days=56)
    least_history: Duration = timedelta(days=14)  # two of each weekday; with less nobody is alarmed
    # The newest past is left out, so that a surge does not become usual while it lasts
    left_out: Duration = timedelta(days=1)
    # Fewer texts are no surge, however unlikely: one text about what nobody wrote of is unlikely too
    least_texts: PositiveInt = 5
    # Who is told, as apprise's addresses: json://HOST/PATH, mailto://..., slack://... ${NAME} stands for a variable of
    # the environment, such as a token
    notify: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _history_has_room(self) -> SurgeOptions:
        if self.least_history > self.history:
            raise ValueError("least_history: longer than history itself; set it to at most that")
        return self


class StreamOptions(Section):
    """What `bertline stream` reads, looks for and stores; see docs/streams.md."""

    # Files that grow, folders of such files (new ones are found), or - for stdin. Relative to the config
    source: Paths = Field(default_factory=list)
    kafka: KafkaOptions | None = None  # topics to read, beside the sources or in their place
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
    # How old a text may become, by its own time. Then it goes, as do records in quarantine that came as long ago.
    # Counts and surges stay, without texts. null keeps all: how long is allowed, only you know
    keep: Duration | None = None
    window: Duration = timedelta(hours=1)  # texts are counted, and surges looked for, by the hour: news fades in hours
    # A window is judged this long after its end, by the times of the texts, so that late ones are in it
    late: Duration = timedelta(minutes=5)
    # A time further ahead of this machine's clock is wrong: one text from 2099 would end all windows until then
    ahead: Duration = timedelta(hours=1)
    # Texts that are scored and stored together. Sorted by length they cost less than one by one, and a killed process
    # scores them again
    batch: PositiveInt = 1024
    surge: SurgeOptions = SurgeOptions()
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
    def _texts_stay_until_people_are_told(self) -> StreamOptions:
        least = self.window + self.late + DAY
        if self.keep is not None and self.keep < least:
            raise ValueError(
                f"keep: at least {duration_text(least)}: a window is judged when it is over, and people are told of "
                "its texts for a day"
            )
        return self

    @model_validator(mode="after")
    def _sources_are_different(self) -> StreamOptions:
        if len(set(self.source)) < len(self.source):
            raise ValueError("source: the same source twice; leave one out")
        return self
