"""From records to rows in the database: a portion is read, scored and stored, and only then left behind."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bertline.streams.entities import Finder
from bertline.streams.scoring import Named, Scorers
from bertline.streams.sources import Portion, Source
from bertline.streams.store import REPEATED, Batch, Scored, Store
from bertline.streams.texts import Refused, Taker, Text


@dataclass
class Tally:
    """What became of records, for people.

    Attributes:
        read: records.
        stored: texts.
        refused: by reason.
        entities: texts by the entity that they name.
        notes: what was odd about a source.
        more: whether the source may have had more.
    """

    read: int = 0
    stored: int = 0
    refused: Counter = field(default_factory=Counter)
    entities: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    more: bool = False

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.read + other.read,
            self.stored + other.stored,
            self.refused + other.refused,
            self.entities + other.entities,
            self.notes + other.notes,
            other.more,
        )


class Engine:
    """Reads sources into a store.

    Args:
        sources: of records.
        taker: of texts from records.
        finder: of entities; None for none.
        scorers: the models.
        store: the database.
        most: records that are scored and stored together.
    """

    def __init__(
        self, sources: list[Source], taker: Taker, finder: Finder | None, scorers: Scorers, store: Store, most: int
    ):
        self.sources, self.store = sources, store
        self._taker, self._finder, self._scorers, self._most = taker, finder, scorers, most
        self._read: tuple[Source, Portion] | None = None  # what is read and not stored yet
        self._batch: Batch | None = None
        self._turn = 0

    @property
    def ended(self) -> bool:
        """Whether nothing can follow from any source."""
        return self._read is None and all(source.ended for source in self.sources)

    @property
    def caught_up(self) -> bool:
        """Whether no source has an end that is still to come."""
        return all(source.ended or not source.ends for source in self.sources)

    @property
    def models(self) -> Sequence[Named]:
        """What scores the texts."""
        return self._scorers.models

    @property
    def names(self) -> list[str]:
        """The entities that are looked for."""
        return self._finder.names if self._finder else []

    def take_up_newer(self) -> list[str]:
        """Takes up newer versions of the models; a word on each, for people."""
        return self._scorers.take_up_newer()

    def step(self) -> Tally:
        """Reads a portion of the source whose turn it is, and stores it.

        Raises:
            UserError: a server does not answer, or another process reads the same. The same portion comes next.
            store.Away: the database does not answer. The same portion comes next.
        """
        if self._read is None:
            source = self.sources[self._turn % len(self.sources)]
            self._turn += 1
            self._read = source, source.read(self._most)
        source, portion = self._read
        tally = Tally(read=len(portion.records), more=portion.more)
        if self._batch is None:
            self._batch = self._scored(portion)
        batch = self._batch
        if batch.scored or batch.refused or batch.moves:
            repeated = self.store.add(batch)
            tally.stored = len(batch.scored) - repeated
            tally.refused = Counter(refused.reason for refused in batch.refused)
            tally.refused += Counter({REPEATED: repeated})
            tally.entities = Counter(entity for scored in batch.scored for entity in scored.entities)
        source.stored(portion)
        tally.notes = portion.notes
        self._read = self._batch = None
        return tally

    def _scored(self, portion: Portion) -> Batch:
        now = datetime.datetime.now(datetime.UTC)
        taken = [self._taker.take(raw, now) for raw in portion.records]
        texts = [each for each in taken if isinstance(each, Text)]
        refused = [each for each in taken if isinstance(each, Refused)]
        answered, faults = self._scorers.answer(texts)
        scored = [
            Scored(text, self._finder.find(text.text) if self._finder else [], answers) for text, answers in answered
        ]
        return Batch(scored, [*refused, *faults], portion.moves)

    def close(self) -> None:
        """Frees sources, models and the database."""
        for each in (*self.sources, self._scorers, self.store):
            each.close()
