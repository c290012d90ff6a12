"""Which versions of one model are served: watches its folder, loads, warms, swaps and unloads."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from bertline.errors import UserError
from bertline.serving import memory, releases
from bertline.serving.protos import FileSystemStoragePathSourceConfig, ModelVersionStatus

if TYPE_CHECKING:
    from bertline.serving.servable import Servable

log = logging.getLogger("bertline.serving")

VersionPolicy = FileSystemStoragePathSourceConfig.ServableVersionPolicy

START = ModelVersionStatus.START
LOADING = ModelVersionStatus.LOADING
AVAILABLE = ModelVersionStatus.AVAILABLE
UNLOADING = ModelVersionStatus.UNLOADING
END = ModelVersionStatus.END


@dataclass(frozen=True)
class Polling:
    """How often to look at folders, and how often to retry a version that does not load.

    Args:
        seconds: time between two looks; 0 looks once.
        max_load_retries: how often to retry a version that failed and has not changed since.
        retry_seconds: time between retries.
    """

    seconds: float = 1.0  # TF Serving's default; listing a folder costs next to nothing
    max_load_retries: int = 5
    retry_seconds: float = 60.0


def complete_versions(folder: Path) -> dict[int, list[Path]]:
    """See `releases.whole_versions`; the folders as local paths."""
    return {version: [Path(path) for path in paths] for version, paths in releases.whole_versions(folder).items()}


@dataclass
class VersionState:
    """A version's state, as GetModelStatus reports it."""

    state: int
    code: int = 0  # grpc status code: 0 is OK
    message: str = ""


@dataclass
class _Slot:
    """A loaded version with the number of requests it is answering."""

    servable: Servable
    requests: int = 0
    idle: threading.Event = field(default_factory=threading.Event)
    retired: bool = False


@dataclass
class _Failure:
    """A version that did not load."""

    stamp: tuple[int, int]  # of its files then
    tries: int
    at: float  # monotonic


class Versions:
    """Serves the versions in a folder that its policy wants; new ones replace old ones without dropping a request.

    A version that does not load does not disturb those that are served. It is retried: at once when its files change,
    otherwise a few times. Under the policy "latest" the next older version that loads takes its place. When all
    versions vanish from the folder, the loaded ones stay in service.

    Args:
        folder: the serving folder, with one folder per version.
        load: makes a Servable from (path, version), loaded and warm.
        polling: how often to look.
        policy: latest (by default only the newest), all, or specific versions.
    """

    def __init__(
        self,
        folder: Path,
        load: Callable[[Path, int], Servable],
        polling: Polling,
        policy: VersionPolicy | None = None,
    ):
        self.folder = folder
        self._policies = [policy or VersionPolicy()]  # two while one prepares to replace the other
        self._load = load
        self._polling = polling
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._slots: dict[int, _Slot] = {}
        self._states: dict[int, VersionState] = {}
        self._failures: dict[int, _Failure] = {}
        self._paths: dict[int, Path] = {}  # of the versions that the last look found
        self._doubles: set[Path] = set()  # folders whose number another one has, as logged
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="version-watcher", daemon=True)

    def start(self) -> None:
        """Loads the versions wanted, then goes on watching. An empty folder is no error: versions may come.

        Raises:
            UserError: there are versions and none of them loads; the message is that of the newest.
        """
        self.refresh()
        if not self._slots and self._states:
            raise UserError(self._states[max(self._states)].message)
        if not self._slots:
            log.warning("%s holds no complete version yet; waiting for one", self.folder)
        if self._polling.seconds:
            self._thread.start()

    def stop(self) -> None:
        """Stops watching, and unloads every version once its requests are answered.

        TensorFlow cannot be stopped while it loads a version. That one is dropped as soon as it has loaded.
        """
        self._stop.set()
        for slot in self._withdraw(set()):
            self._unload(slot)

    def states(self) -> dict[int, VersionState]:
        """Version -> state, of every version seen."""
        with self._lock:
            return dict(self._states)

    def loaded(self) -> list[int]:
        """The versions that answer requests, ascending."""
        with self._lock:
            return sorted(self._slots)

    @contextmanager
    def acquire(self, version: int | None) -> Iterator[Servable | None]:
        """The servable for a request, kept loaded until the block ends; None if the version is not served.

        Args:
            version: the version wanted; None for the newest.
        """
        with self._lock:
            wanted = max(self._slots, default=None) if version is None else version
            slot = self._slots.get(wanted)
            if slot is not None:
                slot.requests += 1
        try:
            yield slot.servable if slot else None
        finally:
            if slot is not None:
                self._release(slot)

    def prepare(self, policy: VersionPolicy) -> list[int]:
        """Loads what another policy wants, in addition to what is served, until `adopt` chooses a policy.

        Returns:
            The versions that will answer once the policy is adopted, ascending.
        """
        with self._refreshing:
            self._policies.append(policy)
            versions = self._take_up(self._look(), policy)
        return sorted(versions) or self.loaded()

    def adopt(self, policy: VersionPolicy) -> None:
        """Serves what this policy wants, and nothing else."""
        self._policies = [policy]
        self.refresh()

    def refresh(self) -> None:
        """Looks at the folder once: loads what the policy wants, then unloads what it no longer wants."""
        with self._refreshing:
            if self._stop.is_set():
                return
            on_disk = self._look()
            serving = set().union(*(self._take_up(on_disk, policy) for policy in self._policies))
            if not serving:
                return  # the old versions are better than none
            for slot in self._withdraw(serving):  # in a thread: a slow request must not delay the next version
                threading.Thread(target=self._unload, args=(slot,), name="version-unloader", daemon=True).start()

    def _look(self) -> list[int]:
        """The whole versions in the folder, ascending; says once which folder of a number is not served."""
        whole = complete_versions(self.folder)
        for version, (path, *others) in whole.items():
            for other in set(others) - self._doubles:
                log.warning(
                    "%s: version %d is served from %s, and not from %s, which has the same number",
                    self.folder, version, path.name, other.name,
                )  # fmt: skip
                self._doubles.add(other)
        self._paths = {version: paths[0] for version, paths in whole.items()}
        return list(whole)

    def _take_up(self, on_disk: Sequence[int], policy: VersionPolicy) -> set[int]:
        """The versions that a policy serves, loaded."""
        if policy.WhichOneof("policy_choice") in ("all", "specific"):
            wanted = [v for v in on_disk if policy.HasField("all") or v in policy.specific.versions]
            for version in wanted:
                if version not in self._states:
                    self._set(version, START)
            return {version for version in wanted if self._is_loaded(version)}
        serving: set[int] = set()
        for version in reversed(on_disk):
            if len(serving) == (policy.latest.num_versions or 1):
                break
            if self._is_loaded(version):
                serving.add(version)
        return serving

    def _is_loaded(self, version: int) -> bool:
        """Whether the version can answer; loads it if it is not loaded."""
        if self._stop.is_set():
            return False
        with self._lock:
            if version in self._slots:
                return True
        try:
            stamp = self._stamp(version)
        except OSError as error:  # it vanished, or is being written
            log.info("%s cannot be looked at: %s", self._paths[version], error)
            return False
        failure = self._failures.get(version)
        if failure and failure.stamp == stamp:
            late = time.monotonic() - failure.at >= self._polling.retry_seconds
            if failure.tries > self._polling.max_load_retries or not late:
                return False
        return self._try(version, stamp)

    def _try(self, version: int, stamp: tuple[int, int]) -> bool:
        """Loads and warms a version and puts it into service; False if it does not load."""
        self._set(version, LOADING)
        log.info("loading %s", self._paths[version])
        try:
            servable = self._load(self._paths[version], version)
        except Exception as error:
            before = self._failures.get(version)
            tries = before.tries + 1 if before and before.stamp == stamp else 1
            self._failures[version] = _Failure(stamp, tries, time.monotonic())
            self._set(version, END, grpc.StatusCode.UNKNOWN.value[0], f"version {version} did not load: {error}")
            log.exception("%s did not load", self._paths[version])
            return False
        self._failures.pop(version, None)
        with self._lock:
            stopped = self._stop.is_set()
            if not stopped:
                self._slots[version] = _Slot(servable)
            self._states[version] = VersionState(END if stopped else AVAILABLE)
        if stopped:
            servable.close()
            return False
        log.info("serving %s", self._paths[version])
        return True

    def _withdraw(self, serving: set[int]) -> list[_Slot]:
        """Takes all other versions out of service for new requests."""
        with self._lock:
            withdrawn = [self._slots.pop(version) for version in list(self._slots) if version not in serving]
            for slot in withdrawn:
                self._states[slot.servable.version] = VersionState(UNLOADING)
                slot.retired = True
                if not slot.requests:
                    slot.idle.set()
        return withdrawn

    def _unload(self, slot: _Slot) -> None:
        """Waits for the requests that a withdrawn version is still answering, then frees it."""
        version = slot.servable.version
        slot.idle.wait()
        slot.servable.close()
        del slot.servable
        gc.collect()  # a loaded graph is full of cycles
        memory.give_back()
        with self._lock:
            if version not in self._slots:  # it has not come back meanwhile
                self._states[version] = VersionState(END)
        log.info("version %d of %s unloaded", version, self.folder)

    def _release(self, slot: _Slot) -> None:
        with self._lock:
            slot.requests -= 1
            if slot.retired and not slot.requests:
                slot.idle.set()

    def _watch(self) -> None:
        while not self._stop.wait(self._polling.seconds):
            try:
                self.refresh()
            except Exception:
                log.exception("looking at %s failed; what is served stays", self.folder)

    def _set(self, version: int, state: int, code: int = 0, message: str = "") -> None:
        with self._lock:
            self._states[version] = VersionState(state, code, message)

    def _stamp(self, version: int) -> tuple[int, int]:
        """The newest modification time (ns) and the bytes of all files: it changes with any file of the version."""
        statuses = [file.lstat() for file in self._paths[version].rglob("*")]
        return (max((s.st_mtime_ns for s in statuses), default=0), sum(s.st_size for s in statuses))
