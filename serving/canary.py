"""A new version in traffic: which requests it answers, and what is counted of it beside the stable version.

A request that names no version goes to the canary when the hash of its key falls into the canary's share: one caller,
one version. Whatever fails at the canary is answered by the stable version, so that no request fails by it. What one of
them has answered, the other is asked beside it, at leisure: such runs are few at a time, and what they cannot keep up
with is dropped and counted. Requests that name a version or a label go where they say, and are not counted here.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from bertline.serving.canary_answers import Said
from bertline.serving.canary_counts import Counts
from bertline.serving.canary_plan import CanaryPlan
from bertline.serving.errors import Overloaded, RequestError, frames
from bertline.serving.metrics import CanaryFigures
from bertline.serving.models import Models
from bertline.serving.protos import ModelSpec
from bertline.serving.recording import Entry

if TYPE_CHECKING:
    from bertline.serving.records import Recorder
    from bertline.serving.servable import Servable

log = logging.getLogger("bertline.serving")

STABLE, CANARY = "stable", "canary"  # version labels, as any TF Serving client may ask for them
SHADOW = "shadow"
BESIDE = 2  # runs beside the answers at a time: they take turns with the answers in the model's queue
WAITING = 64  # such runs that wait; a quiet second makes up for a burst
WAITING_BYTES = 16 << 20  # that their requests hold

# servable, what it says, entry of its record -> its response
Run = Callable[["Servable", Said | None, Entry | None], Awaitable[Any]]


@dataclass(frozen=True)
class Trial:
    """What is served: a snapshot that is replaced as a whole.

    Attributes:
        stable: the version that answers; None as long as there is none.
        canary: the version that is tried; None without one.
        counts: of the canary against the stable version.
    """

    stable: int | None = None
    canary: int | None = None
    counts: Counts = field(default_factory=Counts)


class Canary:
    """Sends the requests of one model to its stable version or its canary, and counts. For one event loop.

    Args:
        models: that are served.
        model: the name of the one model.
        plan: the share and the limits.
        figures: where it is counted for people.

    Attributes:
        recorder: keeps what a canary answers beside; None keeps nothing.
        trial: what is served now; set from another thread.
        lock: held while `trial.counts` changes, or is read.
    """

    def __init__(self, models: Models, model: str, plan: CanaryPlan, figures: CanaryFigures):
        self.plan = plan
        self.recorder: Recorder | None = None
        self.trial = Trial()
        self.lock = threading.Lock()
        self._models, self._model, self._figures = models, model, figures
        self._tasks: set[asyncio.Task] = set()
        self._turns = asyncio.Semaphore(BESIDE)
        self._waiting_bytes = 0
        self._timed_out_at = 0.0  # when the last timeout that counts ended

    # === Where a request goes ===

    def routes(self, spec: ModelSpec) -> bool:
        """Whether a request leaves the version to the server."""
        return spec.name == self._model and not spec.HasField("version") and not spec.version_label

    def key(self, own: str | None, content: bytes | bytearray) -> bytes:
        """What decides between versions: the caller's own key, else a digest of the request's content as it was sent.

        A digest, since the key outlives the content, which may be large.
        """
        return hashlib.blake2b(content, digest_size=16).digest() if own is None else own.encode()

    @contextmanager
    def acquire(self, spec: ModelSpec, key: bytes | None) -> Iterator[Servable]:
        """The servable for a request that `routes`, kept loaded until the block ends; errors as `Models.acquire`.

        Args:
            spec: of the request.
            key: as `key` gives it; None for the stable version.
        """
        trial = self.trial
        versions = [trial.stable, None]  # None, the newest: a version may be gone since the folder was looked at
        if trial.canary and not self.plan.shadow and key is not None and self._is_of_canary(trial.canary, key):
            versions.insert(0, trial.canary)
        with ExitStack() as held:
            yield self._first_loaded(held, versions)

    def _first_loaded(self, held: ExitStack, versions: list[int | None]) -> Servable:
        *wanted, last = versions
        for version in wanted:
            if version in self._models.loaded(self._model):
                try:
                    return held.enter_context(self._models.acquire(self._spec(version)))
                except RequestError:  # unloaded a moment ago
                    continue
        return held.enter_context(self._models.acquire(self._spec(last)))

    def _is_of_canary(self, version: int, key: bytes) -> bool:
        """Whether a key belongs to the canary. The version is part of the hash, so each canary gets other callers."""
        digest = hashlib.blake2b(key, digest_size=8, key=str(version).encode()).digest()
        return int.from_bytes(digest) < self.plan.share * 2**64

    def _spec(self, version: int | None) -> ModelSpec:
        spec = ModelSpec(name=self._model)
        if version is not None:
            spec.version.value = version
        return spec

    # === What comes of it ===

    async def answer(
        self, run: Run, beside: Run, servable: Servable, entry: Entry | None, size: int, seconds: float | None = None
    ) -> tuple[Any, Servable]:
        """The response to a request that `routes`, and the servable that gave it.

        Args:
            run: answers it, as part of the request.
            beside: answers it once more, when the request has gone.
            servable: that it was sent to.
            entry: of its record, or None.
            size: bytes of the request.
            seconds: that its caller waits, as far as the server is told; None without an end.
        """
        trial = self.trial
        if servable.version == trial.canary:
            return await self._answer_by_canary(trial, run, beside, servable, entry, size, seconds)
        if servable.version != trial.stable:  # decided since it was sent there
            return await self._answer_by_stable(trial, run, entry)
        if trial.canary is None:
            return await run(servable, None, entry), servable
        said, began = Said(), time.perf_counter()
        try:
            response = await run(servable, said, entry)
        except asyncio.CancelledError:  # a caller who waits no longer has met at least this latency
            self._count_latency(trial, STABLE, began)
            raise
        self._count_latency(trial, STABLE, began)
        self._figures.count_request(self._model, STABLE)
        if self.plan.shadow:
            self._begin_beside(trial, trial.canary, beside, said, entry, size)
        return response, servable

    async def _answer_by_stable(self, trial: Trial, run: Run, entry: Entry | None) -> tuple[Any, Servable]:
        """The stable version may be gone as well: a promotion meanwhile unloads it."""
        with ExitStack() as held:
            stable = self._first_loaded(held, [trial.stable, None])
            return await run(stable, None, entry), stable

    async def _answer_by_canary(
        self,
        trial: Trial,
        run: Run,
        beside: Run,
        servable: Servable,
        entry: Entry | None,
        size: int,
        seconds: float | None,
    ) -> tuple[Any, Servable]:
        patience = self.plan.patience
        if seconds is not None and seconds < 2 * patience:  # half of it is left to the stable version
            patience = seconds / 2
            if patience < self._usual_latency(trial):
                return await self._answer_by_stable(trial, run, entry)
        said, began = Said(), time.perf_counter()
        try:
            async with asyncio.timeout(patience):
                response = await run(servable, said, entry)
        except asyncio.CancelledError:
            self._count_latency(trial, CANARY, began)
            raise
        except Exception as error:  # whatever it is, the stable version may do better
            failed = time.perf_counter()
            answer = await self._answer_by_stable(trial, run, entry)  # its own error means: the request is at fault
            self._count_failure(trial, error, began, failed, patience)
            return answer
        self._count_latency(trial, CANARY, began)
        self._figures.count_request(self._model, CANARY)
        self._begin_beside(trial, trial.stable, beside, said, entry, size)
        return response, servable

    def _usual_latency(self, trial: Trial) -> float:
        """Seconds within which the stable version answers 95% of the requests; 0 before it has answered any."""
        with self.lock:
            return trial.counts.stable.quantile(0.95)

    def _count_failure(self, trial: Trial, error: Exception, began: float, failed: float, patience: float) -> None:
        """Counts what the canary did not answer and the stable version did, after it, where that tells them apart."""
        if isinstance(error, Overloaded):  # there was no room in the server, for whatever version
            return
        if isinstance(error, TimeoutError):
            if patience < self.plan.patience:  # the caller's hurry is no error, but it has met at least this latency
                self._count_latency(trial, CANARY, began, failed)
                return
            if time.perf_counter() - failed >= patience:  # where the stable version is as slow, it is the machine
                return
        self._count_error(trial, error, began, failed)

    def _count_latency(self, trial: Trial, by: str, began: float, ended: float | None = None) -> None:
        seconds = (time.perf_counter() if ended is None else ended) - began
        with self.lock:
            (trial.counts.canary if by == CANARY else trial.counts.stable).add(seconds)
            trial.counts.requests += by == CANARY

    def _count_error(self, trial: Trial, error: Exception, began: float, failed: float) -> None:
        """Counts a request that failed at the canary and not at the stable version.

        Timeouts that overlap in time count once: one moment in which the canary stands still, however many requests
        meet it. The others count for nothing.
        """
        code = error.code if isinstance(error, RequestError) else grpc.StatusCode.INTERNAL
        if isinstance(error, TimeoutError):
            if began < self._timed_out_at:
                return
            code, self._timed_out_at = grpc.StatusCode.DEADLINE_EXCEEDED, failed
        elif not isinstance(error, RequestError):
            log.error("version %d, the canary, failed: %s", trial.canary, frames(error))
        with self.lock:
            trial.counts.requests += 1
            trial.counts.errors[code.name] += 1
            trial.counts.canary.add(failed - began)
        self._figures.count_error(self._model, code)

    # === Beside the answers ===

    def _begin_beside(self, trial: Trial, version: int, run: Run, said: Said, entry: Entry | None, size: int) -> None:
        """Has the other version answer as well, unless too many wait for that already."""
        if not self.plan.shadow and not said.labels:
            return  # nothing to compare
        if len(self._tasks) >= WAITING or self._waiting_bytes + size > WAITING_BYTES:
            self._figures.count_dropped(self._model)
            return
        self._waiting_bytes += size
        other = Entry(entry.id, entry.time) if entry and self.recorder else None
        task = asyncio.get_running_loop().create_task(self._beside(trial, version, run, said, other))
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._end_beside(task, size))

    def _end_beside(self, task: asyncio.Task, size: int) -> None:
        self._tasks.discard(task)
        self._waiting_bytes -= size
        if not task.cancelled() and (error := task.exception()):
            log.error("comparing versions failed: %s", frames(error))

    async def _beside(self, trial: Trial, version: int, run: Run, said: Said, entry: Entry | None) -> None:
        async with self._turns:
            if self.trial is not trial:
                return  # decided meanwhile
            other, began = Said(), time.perf_counter()
            code = grpc.StatusCode.OK
            try:
                with self._models.acquire(self._spec(version)) as servable:
                    async with asyncio.timeout(self.plan.patience):
                        await run(servable, other, entry)
            except Exception as error:
                if not self.plan.shadow or isinstance(error, Overloaded):  # which says nothing about the canary
                    self._figures.count_dropped(self._model)
                    return
                code = error.code if isinstance(error, RequestError) else grpc.StatusCode.INTERNAL
                self._count_error(trial, error, began, time.perf_counter())
            else:
                self._count_beside(trial, said, other, began)
            if entry:
                self.recorder.end(entry, self._model, code.name, time.perf_counter() - began)

    def _count_beside(self, trial: Trial, said: Said, other: Said, began: float) -> None:
        if self.plan.shadow:
            self._count_latency(trial, CANARY, began)
            self._figures.count_request(self._model, SHADOW)
        own, stable = (other, said) if self.plan.shadow else (said, other)
        if not own.labels or len(own.labels) != len(stable.labels):
            return
        agree = [mine == theirs for mine, theirs in zip(own.labels, stable.labels, strict=True)]
        with self.lock:
            trial.counts.add_pair(agree, (own.confidence - stable.confidence).tolist())
        self._figures.count_texts(self._model, sum(agree), len(agree) - sum(agree))

    def close(self) -> None:
        """Drops what waits. In the event loop's thread."""
        for task in self._tasks:
            task.cancel()
