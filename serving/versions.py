"""Which version of the model is served: watches the serving folder, loads, swaps and unloads."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from serving import releases
from serving.protos import ModelVersionStatus

if TYPE_CHECKING:
    from serving.servable import Servable

log = logging.getLogger("bertline.serving")

LOADING = ModelVersionStatus.LOADING
AVAILABLE = ModelVersionStatus.AVAILABLE
UNLOADING = ModelVersionStatus.UNLOADING
END = ModelVersionStatus.END


def complete_versions(folder: Path) -> list[int]:
    """Versions in a serving folder that are whole, ascending: folders with a plain number and a saved_model.pb inside.

    Anything else (a push under way in a folder with a leading dot, notes, files) is passed over. A folder that is not
    there has no versions.
    """
    return [version for version in releases.versions(folder) if (folder / str(version) / "saved_model.pb").is_file()]


@dataclass
class VersionState:
    """Where a version is in its life, as GetModelStatus reports it."""

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


class Versions:
    """Serves the newest complete version in a folder; a new one replaces it without dropping a request.

    Args:
        folder: the serving folder, a folder a version.
        load: makes a Servable of (path, version), loaded and warm.
        poll_seconds: time between two looks at the folder.
    """

    def __init__(self, folder: Path, load: Callable[[Path, int], Servable], poll_seconds: float):
        self.folder = folder
        self._load = load
        self._poll_seconds = poll_seconds
        self._lock = threading.Lock()
        self._current: _Slot | None = None
        self._states: dict[int, VersionState] = {}
        self._failed: dict[int, tuple[int, int]] = {}  # version -> its stamp when it did not load
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="version-watcher", daemon=True)

    def start(self) -> None:
        """Loads the newest version that loads, then goes on watching; an empty folder is waited for.

        Raises:
            ValueError: there are versions and none of them loads; the message is the newest one's.
        """
        self.refresh()
        if self._current is None and self._states:
            raise ValueError(self._states[max(self._states)].message)
        if self._current is None:
            log.warning("%s holds no complete version yet; waiting for one", self.folder)
        self._thread.start()

    def stop(self) -> None:
        """Stops watching."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def states(self) -> dict[int, VersionState]:
        """Version -> state, of every version seen."""
        with self._lock:
            return dict(self._states)

    @contextmanager
    def acquire(self, version: int | None) -> Iterator[Servable | None]:
        """The servable for a request, kept loaded until the block ends; None where it is not being served.

        Args:
            version: the version wanted; None for the newest.
        """
        with self._lock:
            slot = self._current
            if slot is not None and version not in (None, slot.servable.version):
                slot = None
            if slot is not None:
                slot.requests += 1
        try:
            yield slot.servable if slot else None
        finally:
            if slot is not None:
                self._release(slot)

    def refresh(self) -> None:
        """Looks at the folder once, and serves the newest version there that loads."""
        on_disk = complete_versions(self.folder)
        for version in reversed(on_disk):
            if self._current is not None and version == self._current.servable.version:
                return
            if self._failed.get(version) == self._stamp(version):
                continue  # it has not changed since it failed
            if self._try(version):
                return

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            try:
                self.refresh()
            except Exception:
                log.exception("looking at %s failed; the served version stays", self.folder)

    def _try(self, version: int) -> bool:
        """Loads and warms `version`, and makes it the one that is served; False where it does not load."""
        stamp = self._stamp(version)
        self._set(version, LOADING)
        try:
            servable = self._load(self.folder / str(version), version)
        except Exception as error:
            self._failed[version] = stamp
            self._set(version, END, grpc.StatusCode.UNKNOWN.value[0], f"version {version} did not load: {error}")
            log.exception("version %d did not load", version)
            return False
        with self._lock:
            old, self._current = self._current, _Slot(servable)
            self._states[version] = VersionState(AVAILABLE)
        log.info("serving version %d", version)
        if old is not None:  # beside the watch: one slow request must not hold up the next version
            threading.Thread(target=self._retire, args=(old,), name="version-unloader", daemon=True).start()
        return True

    def _retire(self, slot: _Slot) -> None:
        """Waits for the requests that a replaced version is still answering, then lets go of it."""
        version = slot.servable.version
        self._set(version, UNLOADING)
        with self._lock:
            slot.retired = True
            if not slot.requests:
                slot.idle.set()
        slot.idle.wait()
        del slot.servable
        gc.collect()  # a loaded SavedModel is full of cycles, and holds the weights
        self._set(version, END)
        log.info("version %d unloaded", version)

    def _release(self, slot: _Slot) -> None:
        with self._lock:
            slot.requests -= 1
            if slot.retired and not slot.requests:
                slot.idle.set()

    def _set(self, version: int, state: int, code: int = 0, message: str = "") -> None:
        with self._lock:
            self._states[version] = VersionState(state, code, message)

    def _stamp(self, version: int) -> tuple[int, int]:
        """Changes with any file of the version: the newest modification (ns) and the bytes of all files."""
        statuses = [file.stat() for file in (self.folder / str(version)).rglob("*")]
        return (max((s.st_mtime_ns for s in statuses), default=0), sum(s.st_size for s in statuses))
