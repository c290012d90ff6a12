"""What a stream leaves in its database: a batch's rows, counts and places in one transaction, or nothing of it."""

from __future__ import annotations

import datetime
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bertline.components.data import sql
from bertline.errors import UserError
from bertline.streams import scoring
from bertline.streams.texts import Refused, Text

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

REPEATED = "repeated id"
SECONDS_TO_LOCK = 30  # that a writer of SQLite waits for another one
FORGOTTEN = 10_000  # texts that are removed at once, in some tenths of a second
ROWS_PER_STATEMENT = 500  # SQLite takes 32,766 values in a statement

# Keys beside those of places: the length of a window, the process that reads, the next window to judge, and since when
# something is counted
OWN = "own:"
WINDOW, READER, JUDGED, SINCE = (f"{OWN}{name}" for name in ("window", "reader", "judged", "since:"))
ANY = ""  # stands for any entity, model or label in a count


class Series(NamedTuple):
    """What is counted: the texts that name an entity, that a model gives a label, or both. ANY leaves it open."""

    entity: str = ANY
    model: str = ANY
    label: str = ANY


class Scored(NamedTuple):
    """A text with its entities, and its answers by model: label or labels, version, probabilities."""

    text: Text
    entities: list[str]
    answers: dict[str, dict[str, Any]]

    def series(self) -> Iterator[Series]:
        """The series that count it."""
        given = [(model, label) for model, answer in self.answers.items() for label in scoring.labels(answer)]
        for entity in (ANY, *self.entities):
            for model, label in [(ANY, ANY), *given]:
                yield Series(entity, model, label)


@dataclass
class Batch:
    """What is stored together.

    Attributes:
        scored: the texts.
        refused: what goes to quarantine.
        moves: of the places; see sources.Portion.
        key: by which a batch is known, if the answer to its commit is lost.
    """

    scored: list[Scored] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    moves: Mapping[str, str | None] = field(default_factory=dict)
    key: str = field(default_factory=lambda: uuid.uuid4().hex)


class Away(Exception):
    """The database does not answer. It may come back."""


class Store:
    """The database of a stream.

    Args:
        url: `stream.database`; None for an SQLite file in a folder.
        base: where the path of an SQLite file starts.
        folder: of the default file, made where it is missing.
        window: the length of a window, by which texts are counted.

    Raises:
        UserError: SQLAlchemy or a driver is missing, or the address is none.
        Away: the database does not answer.
    """

    def __init__(self, url: str | None, base: Path, folder: Path, window: datetime.timedelta):
        try:
            import sqlalchemy
        except ImportError:
            raise UserError("a stream's database needs SQLAlchemy: pip install 'bertline[stream]'") from None
        from bertline.streams import tables

        if url is None:
            folder.mkdir(parents=True, exist_ok=True)
        self.name = url or f"sqlite:///{folder / 'stream.db'}"
        self._window, self._sa, self._tables = window, sqlalchemy, tables
        self._engine, self._secrets = sql.connecting(
            self.name, "stream.database", lambda address: _of_sqlite_file(address, base)
        )
        self._kind = self._engine.dialect.name
        if self._kind not in ("sqlite", "postgresql"):
            raise UserError(f"stream.database: {self._kind} is not one of those that work here: sqlite, postgresql.")
        if self._kind == "sqlite":
            sqlalchemy.event.listen(self._engine, "connect", _erasing)
        with self._connected() as connection:
            tables.METADATA.create_all(connection)
            self._check_window(connection)
            self._take_over(connection)

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """A transaction for the length of a block."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except self._sa.exc.DBAPIError as error:
            words = sql.said(error, self._secrets)
            if isinstance(error, self._sa.exc.OperationalError | self._sa.exc.InterfaceError):
                raise Away(f"stream.database: {self.name} does not answer: {words}") from None
            raise UserError(f"stream.database: {self.name} refuses: {words}") from None

    def _check_window(self, connection: Connection) -> None:
        """Raises UserError where the counts of the database are of other windows."""
        places, words = self._tables.PLACES, str(int(self._window.total_seconds()))
        before = connection.execute(self._sa.select(places.c.place).where(places.c.key == WINDOW)).scalar()
        if before is None:
            connection.execute(places.insert().values(key=WINDOW, place=words, batch=""))
        elif before != words:
            raise UserError(
                f"stream.window: the counts in {self.name} are of {before} seconds each, not of {words}. Set it back, "
                "or name another stream.database and read the sources again."
            )

    def _take_over(self, connection: Connection) -> None:
        """Makes this process the one that reads. An older one can store no more."""
        self._reader = uuid.uuid4().hex
        insert = self._upsert(self._tables.PLACES).values(key=READER, place=self._reader, batch="")
        connection.execute(insert.on_conflict_do_update(index_elements=["key"], set_={"place": self._reader}))

    def _check_reader(self, connection: Connection) -> None:
        """Raises UserError where another process reads; else none can take over before this transaction ends."""
        places = self._tables.PLACES
        update = places.update().where(places.c.key == READER, places.c.place == self._reader)
        if connection.execute(update.values(place=self._reader)).rowcount != 1:
            raise UserError(
                f"another process reads into {self.name} since this one began, and one is enough. Nothing was lost or "
                "stored twice."
            )

    def places(self) -> dict[str, str]:
        """Where the sources were read to: key -> JSON."""
        places = self._tables.PLACES
        with self._connected() as connection:
            own = places.c.key.startswith(OWN, autoescape=True)
            rows = connection.execute(self._sa.select(places.c.key, places.c.place).where(~own))
            return {row.key: row.place for row in rows}

    def window_of(self, time: datetime.datetime) -> datetime.datetime:
        """The start of the window that a time is in."""
        epoch = datetime.datetime(1970, 1, 5, tzinfo=datetime.UTC)  # a Monday
        return epoch + (time - epoch) // self._window * self._window

    def add(self, batch: Batch) -> int:
        """Stores a batch; returns how many of its texts were refused because their id came before.

        Raises:
            Away: the database does not answer. Nothing of the batch is stored, or all is: `add` it again.
            UserError: another process has read on from the same place.
        """
        with self._connected() as connection:
            self._check_reader(connection)
            if self._is_stored(connection, batch):
                return 0
            self._move(connection, batch)
            new, repeated = self._new(connection, batch.scored)
            self._insert(connection, self._tables.TEXTS, [_text_row(each) for each in new])
            mentions = [
                {"entity": entity, "time": each.text.time, "text_id": each.text.id}
                for each in new
                for entity in each.entities
            ]
            self._insert(connection, self._tables.MENTIONS, mentions)
            self._count(connection, new)
            now = datetime.datetime.now(datetime.UTC)
            refused = [
                dict(zip(("source", "line", "reason", "detail", "content"), each, strict=True), came=now)
                for each in (*batch.refused, *repeated)
            ]
            self._insert(connection, self._tables.QUARANTINE, refused)
        return len(repeated)

    def _is_stored(self, connection: Connection, batch: Batch) -> bool:
        places = self._tables.PLACES
        stored = self._sa.select(places.c.key).where(places.c.batch == batch.key).limit(1)
        return connection.execute(stored).first() is not None

    def _move(self, connection: Connection, batch: Batch) -> None:
        places = self._tables.PLACES
        for key, after in batch.moves.items():
            if after is None:
                connection.execute(places.delete().where(places.c.key == key))
            else:
                insert = self._upsert(places).values(key=key, place=after, batch=batch.key)
                grown = {"place": after, "batch": batch.key}
                connection.execute(insert.on_conflict_do_update(index_elements=["key"], set_=grown))

    def _new(self, connection: Connection, scored: Sequence[Scored]) -> tuple[list[Scored], list[Refused]]:
        """The texts whose ids are new, and the others as refusals."""
        texts = self._tables.TEXTS
        known: set[str] = set()
        ids = [each.text.id for each in scored]
        for start in range(0, len(ids), ROWS_PER_STATEMENT):
            some = ids[start : start + ROWS_PER_STATEMENT]
            known |= set(connection.execute(self._sa.select(texts.c.id).where(texts.c.id.in_(some))).scalars())
        new, repeated = [], []
        for each in scored:
            if each.text.id in known:
                text = each.text
                detail = f"the id {text.id!r} came before; that text was counted"
                repeated.append(Refused(text.source, text.number, REPEATED, detail, text.text.encode()))
            else:
                known.add(each.text.id)
                new.append(each)
        return new, repeated

    def _insert(self, connection: Connection, table: Any, rows: list[dict[str, Any]]) -> None:
        if rows:
            connection.execute(table.insert(), rows)

    def _count(self, connection: Connection, new: Sequence[Scored]) -> None:
        counts = self._tables.COUNTS
        added = Counter((self.window_of(each.text.time), series) for each in new for series in each.series())
        if not added:
            return
        rows = [
            {"start": start, "entity": series.entity, "model": series.model, "label": series.label, "texts": texts}
            for (start, series), texts in sorted(added.items())  # in one order: two writers do not wait for each other
        ]
        insert = self._upsert(counts)
        keys = [counts.c.start, counts.c.entity, counts.c.model, counts.c.label]
        grown = {"texts": counts.c.texts + insert.excluded.texts}
        connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=grown), rows)

    def _upsert(self, table: Any) -> Any:
        """An INSERT that knows ON CONFLICT, which both databases have in the same words."""
        from sqlalchemy.dialects import postgresql, sqlite

        return {"sqlite": sqlite, "postgresql": postgresql}[self._kind].insert(table)

    # === What the alarms go by ===

    def newest(self) -> datetime.datetime | None:
        """The newest time of a text; of its window, if all texts are gone; None before the first."""
        with self._connected() as connection:
            return self._newest(connection)

    def _newest(self, connection: Connection) -> datetime.datetime | None:
        for column in (self._tables.TEXTS.c.time, self._tables.COUNTS.c.start):
            if newest := connection.execute(self._sa.select(self._sa.func.max(column))).scalar():
                return newest
        return None

    def first(self) -> datetime.datetime | None:
        """The start of the first window."""
        with self._connected() as connection:
            return connection.execute(self._sa.select(self._sa.func.min(self._tables.COUNTS.c.start))).scalar()

    def since(self, names: Sequence[str]) -> dict[str, datetime.datetime | None]:
        """Since when things are counted: those that are new here, from now on; None: from the first text on.

        What is no longer among the names is not counted any more. If it comes back, it is new.
        """
        places = self._tables.PLACES
        with self._connected() as connection:
            newest = self._newest(connection)
            mine = places.c.key.startswith(SINCE, autoescape=True)
            rows = connection.execute(self._sa.select(places.c.key, places.c.place).where(mine))
            known = {row.key.removeprefix(SINCE): row.place for row in rows}
            gone = [SINCE + name for name in known if name not in set(names)]
            for start in range(0, len(gone), ROWS_PER_STATEMENT):
                connection.execute(places.delete().where(places.c.key.in_(gone[start : start + ROWS_PER_STATEMENT])))
            new = {name: newest.isoformat() if newest else "" for name in names if name not in known}
            rows = [{"key": SINCE + name, "place": place, "batch": ""} for name, place in new.items()]
            self._insert(connection, places, rows)
        known |= new
        return {name: datetime.datetime.fromisoformat(known[name]) if known[name] else None for name in names}

    def judged(self) -> datetime.datetime | None:
        """The start of the next window to judge; None before the first."""
        places = self._tables.PLACES
        with self._connected() as connection:
            said = connection.execute(self._sa.select(places.c.place).where(places.c.key == JUDGED)).scalar()
        return said and datetime.datetime.fromisoformat(said)

    def counts(self, start: datetime.datetime, end: datetime.datetime) -> dict[Series, dict[datetime.datetime, int]]:
        """Texts by series and start of the window, for windows from `start` on and before `end`."""
        counts = self._tables.COUNTS
        found: dict[Series, dict[datetime.datetime, int]] = {}
        with self._connected() as connection:
            asked = self._sa.select(counts).where(counts.c.start >= start, counts.c.start < end)
            for row in connection.execute(asked):
                found.setdefault(Series(row.entity, row.model, row.label), {})[row.start] = row.texts
        return found

    def texts(self, entity: str, start: datetime.datetime, end: datetime.datetime, most: int) -> list[dict[str, Any]]:
        """The first texts of a time, of those that name an entity or, with ANY, of all."""
        texts, mentions = self._tables.TEXTS, self._tables.MENTIONS
        asked = self._sa.select(texts).where(texts.c.time >= start, texts.c.time < end)
        if entity != ANY:
            named = self._sa.and_(mentions.c.text_id == texts.c.id, mentions.c.entity == entity)
            within = self._sa.and_(mentions.c.time >= start, mentions.c.time < end)
            asked = asked.join(mentions, self._sa.and_(named, within))
        with self._connected() as connection:
            rows = connection.execute(asked.order_by(texts.c.time, texts.c.id).limit(most))
            return [row._asdict() for row in rows]

    def texts_by_id(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Texts in the order of their ids; those that somebody removed are missing."""
        texts = self._tables.TEXTS
        with self._connected() as connection:
            found = connection.execute(self._sa.select(texts).where(texts.c.id.in_(list(ids))))
            rows = {row.id: row._asdict() for row in found}
        return [rows[each] for each in ids if each in rows]

    def add_surges(self, surges: Sequence[Mapping[str, Any]], judged: datetime.datetime) -> None:
        """Stores surges, and that all windows before `judged` are judged, together.

        Raises:
            Away: the database does not answer; the same windows are judged again.
            UserError: another process judges them.
        """
        insert = self._upsert(self._tables.PLACES).values(key=JUDGED, place=judged.isoformat(), batch="")
        with self._connected() as connection:
            self._check_reader(connection)
            connection.execute(insert.on_conflict_do_update(index_elements=["key"], set_={"place": judged.isoformat()}))
            self._insert(connection, self._tables.SURGES, [dict(surge) for surge in surges])

    def surges(self, since: datetime.datetime | None = None, untold: bool = False) -> list[dict[str, Any]]:
        """Surges from a time on, the oldest first; only those that people must still be told of, if asked for."""
        surges = self._tables.SURGES
        asked = self._sa.select(surges).order_by(surges.c.start, surges.c.chance)
        asked = asked.where(surges.c.start >= since) if since else asked
        asked = asked.where(~surges.c.told) if untold else asked
        with self._connected() as connection:
            return [row._asdict() for row in connection.execute(asked)]

    def told(self, surge: Mapping[str, Any]) -> None:
        """Notes that people were told."""
        surges = self._tables.SURGES
        same = [surges.c[name] == surge[name] for name in ("start", "kind", "entity", "model", "label")]
        with self._connected() as connection:
            connection.execute(surges.update().where(*same).values(told=True))

    def forget(self, before: datetime.datetime) -> int:
        """Removes the oldest texts of a time before that, FORGOTTEN at most, and what came to quarantine before it.

        Returns:
            The number of texts removed.

        Raises:
            Away: the database does not answer.
            UserError: another process reads.
        """
        texts, mentions, quarantine = self._tables.TEXTS, self._tables.MENTIONS, self._tables.QUARANTINE
        with self._connected() as connection:
            self._check_reader(connection)
            old = self._sa.select(texts.c.id, texts.c.time).where(texts.c.time < before)
            rows = connection.execute(old.order_by(texts.c.time, texts.c.id).limit(FORGOTTEN)).all()
            for start in range(0, len(rows), ROWS_PER_STATEMENT):
                ids = [row.id for row in rows[start : start + ROWS_PER_STATEMENT]]
                connection.execute(texts.delete().where(texts.c.id.in_(ids)))
            if rows:
                # Those of texts of the very same time that stay for the next call are not needed: they are as old.
                connection.execute(mentions.delete().where(mentions.c.time <= rows[-1].time))
            connection.execute(quarantine.delete().where(quarantine.c.came < before))
        return len(rows)

    def close(self) -> None:
        """Frees what it holds."""
        self._engine.dispose()


def _erasing(connection: Any, _: Any) -> None:
    """From the first row on, or letters that SQLite moves to another page stay behind in the file."""
    connection.execute("PRAGMA secure_delete = ON")


def _of_sqlite_file(address: URL, base: Path) -> URL:
    path = (base / Path(address.database or "").expanduser()).absolute()
    return address.set(database=str(path), query={"timeout": str(SECONDS_TO_LOCK), **address.query})


def _text_row(each: Scored) -> dict[str, Any]:
    return {**each.text._asdict(), "entities": each.entities, "answers": each.answers}
