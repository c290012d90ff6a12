"""Records of what a model was asked and what it answered, for `bertline monitor` and `bertline feedback`.

A request costs the server a draw and a place in a queue. A thread makes the rows, masks and writes them. What it cannot
keep up with, mask or write is dropped and counted: a full or slow disk is never in the way of an answer.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from bertline.serving import masking
from bertline.serving.recording import ID, Entry, RecordOptions

PART_ROWS = 20_000  # some 16 MB with embeddings of 384 numbers
PART_SECONDS = 60.0  # what a crash may lose; shorter ones would make thousands of small files a day
WAITING_BYTES = 32 << 20  # 20,000 rows with embeddings: a disk may stand still for some seconds
GATHER_SECONDS = 0.1  # between two looks at what waits: a thread that wakes at each request takes more of the processor
WAITING_TEXTS = 200  # requests that wait; beyond them texts are left out, since masking one takes some 1.5 ms
CLOSE_SECONDS = 10.0  # the most that what waits may hold up a server's end

# Why records are dropped.
TOO_MUCH, TOO_LARGE, NOT_WRITTEN, NOT_READ, ENDED = "too_much", "too_large", "not_written", "not_read", "ended"

log = logging.getLogger("bertline.serving")


class Recorder:
    """Records each request with a given probability. Usable from many threads.

    Args:
        options: where, what and how much.
        count: gets the number of rows that were written, or dropped and why ("" for written).

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, options: RecordOptions, count: Callable[[int, str], None] = lambda rows, why: None):
        self.options = options
        self._count = count
        from bertline.serving import record_files  # pyarrow, which a server or client without records does not load

        self._columns = record_files.SCHEMA.names
        self._parts = record_files.Parts(options.folder, options.days, options.most_bytes)
        self._waiting: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._closed_at: float | None = None
        self._dropped = 0
        self._closing = threading.Event()
        if options.texts or options.columns:
            masking.prepare()
        self._thread = threading.Thread(target=self._keep_writing, name="records", daemon=True)
        self._thread.start()

    def begin(self, own_id: str | None = None) -> Entry | None:
        """The entry of a request that has come; None if it is not to be recorded.

        Args:
            own_id: what the caller calls it. Another is given where there is none, or none that fits ID.
        """
        if self.options.rate < 1 and random.random() >= self.options.rate:
            return None
        return Entry(own_id if own_id and ID.fullmatch(own_id) else os.urandom(8).hex())

    def end(self, entry: Entry, model: str, status: str, seconds: float) -> None:
        """Hands over an entry whose request has been answered. Never waits, never raises."""
        entry.model, entry.status, entry.milliseconds = model, status, 1000 * seconds
        with self._lock:
            why = ENDED if self._closed_at is not None else ""
            if not why and self._waiting_bytes + entry.size > WAITING_BYTES:
                why = TOO_MUCH
            if not why:
                self._waiting_bytes += entry.size
                self._waiting.put(entry)
        if why:
            self._drop(1, why)

    def leave_out(self) -> None:
        """Counts a request that is too large to be recorded."""
        self._drop(1, TOO_LARGE)

    def close(self) -> None:
        """Writes what waits, for at most CLOSE_SECONDS."""
        with self._lock:
            if self._closed_at is not None:
                return
            self._closed_at = time.monotonic()
        self._waiting.put(None)
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)

    def _keep_writing(self) -> None:
        self._prune()  # what grew too old while nothing was served: there may be no request for days
        part, due = _Part(self._columns), None
        while True:
            try:
                entry = self._waiting.get(timeout=None if due is None else max(due - time.monotonic(), 0.0))
            except queue.Empty:
                self._write(part)
                part, due = _Part(self._columns), None
                continue
            if entry is None:
                break
            self._add(part, entry)
            if due is None:
                due = time.monotonic() + PART_SECONDS
            if part.rows >= PART_ROWS:
                self._write(part)
                part, due = _Part(self._columns), None
            if self._waiting.empty():
                self._closing.wait(GATHER_SECONDS)
        self._write(part)

    def _add(self, part: _Part, entry: Entry) -> None:
        try:
            if self._closed_at is not None and time.monotonic() > self._closed_at + CLOSE_SECONDS:
                self._drop(1, ENDED)
            else:
                part.add(entry, self._waiting.qsize() < WAITING_TEXTS)
        except Exception as error:  # of any kind: no request may end the thread. The error's words may quote a text
            self._drop(1, NOT_READ, type(error).__name__)
        finally:
            with self._lock:
                self._waiting_bytes -= entry.size

    def _write(self, part: _Part) -> None:
        if not part.rows:
            return
        try:
            self._parts.write(part.columns)
        except Exception as error:  # a full disk, most of all; whatever it is, the next part may be written
            self._drop(part.rows, NOT_WRITTEN, getattr(error, "strerror", None) or type(error).__name__)
        else:
            self._count(part.rows, "")
        self._prune()

    def _prune(self) -> None:
        try:
            self._parts.prune()
        except OSError as error:
            log.warning("records: old ones stay in %s: %s", self.options.folder, error.strerror)

    def _drop(self, rows: int, why: str, words: str = "") -> None:
        self._count(rows, why)
        with self._lock:  # requests are dropped in many threads
            before = self._dropped
            self._dropped = now = before + rows
        if before.bit_length() < now.bit_length():  # at 1, 2, 4, 8 ...: soon, but not for every request
            reason = f"{why}: {words}" if words else why
            log.warning("%d records dropped so far, the last ones: %s", now, reason)


class _Part:
    """Rows that wait to be written, in lists by column."""

    def __init__(self, columns: list[str]):
        self.columns: dict[str, list[Any]] = {name: [] for name in columns}
        self.rows = 0

    def add(self, entry: Entry, keep_texts: bool) -> None:
        """Adds the rows of an entry."""
        content = entry.content(keep_texts) if entry.content else {"characters": [None]}
        rows = len(content["characters"])
        same = {
            "time": int(entry.time * 1_000_000),
            "model": entry.model,
            "version": entry.version,
            "signature": entry.signature,
            "status": entry.status,
            "milliseconds": entry.milliseconds,
        }
        content = {"id": entry.row_ids(rows), **{name: [value] * rows for name, value in same.items()}, **content}
        for name, column in self.columns.items():
            column.extend(content.get(name) or [None] * rows)
        self.rows += rows
