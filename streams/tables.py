"""The tables of a stream in a database, with SQLAlchemy's names."""

from __future__ import annotations

import datetime
from typing import Any

import sqlalchemy as sa


class Utc(sa.TypeDecorator):
    """A time in UTC, which SQLite and PostgreSQL store alike."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime.datetime | None, dialect: Any) -> datetime.datetime | None:
        """Into the database."""
        return value and value.astimezone(datetime.UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime.datetime | None, dialect: Any) -> datetime.datetime | None:
        """Out of it."""
        return value and value.replace(tzinfo=datetime.UTC)


METADATA = sa.MetaData()

# One row a text. `answers` by model: label (or labels), version, probabilities by label
TEXTS = sa.Table(
    "stream_texts",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("time", Utc, nullable=False, index=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),  # of the line, or the offset in a topic
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("entities", sa.JSON, nullable=False),
    sa.Column("answers", sa.JSON, nullable=False),
)
# Which texts name an entity, for the texts behind an alarm
MENTIONS = sa.Table(
    "stream_mentions",
    METADATA,
    sa.Column("entity", sa.Text, primary_key=True),
    sa.Column("time", Utc, primary_key=True),
    sa.Column("text_id", sa.Text, primary_key=True),
)
# Texts of a window by entity, model and label; "" stands for any
COUNTS = sa.Table(
    "stream_counts",
    METADATA,
    sa.Column("start", Utc, primary_key=True),
    sa.Column("entity", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("label", sa.Text, primary_key=True),
    sa.Column("texts", sa.BigInteger, nullable=False),
)
QUARANTINE = sa.Table(
    "stream_quarantine",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("line", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),  # the record's bytes, as they came
    sa.Column("came", Utc, nullable=False),
)
# A window in which a series was beyond what is likely. `entity`, `model` and `label` as in the counts; of a share
# `label` is what counts as negative, and `of` the texts that it is a share of
SURGES = sa.Table(
    "stream_surges",
    METADATA,
    sa.Column("start", Utc, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),  # count or share
    sa.Column("entity", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("label", sa.Text, primary_key=True),
    sa.Column("texts", sa.BigInteger, nullable=False),
    sa.Column("of", sa.BigInteger, nullable=False),
    sa.Column("expected", sa.Float, nullable=False),
    sa.Column("upper", sa.Float, nullable=False),
    sa.Column("chance", sa.Float, nullable=False),
    sa.Column("since", Utc, nullable=False),  # the first of the windows without a gap
    sa.Column("ids", sa.JSON, nullable=False),  # of texts that show it
    sa.Column("told", sa.Boolean, nullable=False),  # whether people know, or need not know
)
# Where each source was read to; `batch` is that of the rows that brought it there
PLACES = sa.Table(
    "stream_places",
    METADATA,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("place", sa.Text, nullable=False),
    sa.Column("batch", sa.Text, nullable=False),
)
