"""Decides on canaries: takes up each new version beside the stable one, judges it, promotes or withdraws it.

What was counted stands in the canary's canary.json, written every few seconds and when the server ends, so a restart
goes on where the last one stopped; a crash loses the last seconds.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from filelock import FileLock, Timeout

from bertline.errors import UserError
from bertline.serving import canary_judge, releases, rollback, standing
from bertline.serving.canary import CANARY, STABLE, Canary, Trial
from bertline.serving.canary_counts import Counts
from bertline.serving.canary_judge import Bound, Labelled, Looks
from bertline.serving.errors import RequestError
from bertline.serving.metrics import CanaryFigures
from bertline.serving.models import Models, one_model
from bertline.serving.protos import ModelServerConfig
from bertline.serving.releases import Release
from bertline.serving.standing import JUDGING, PROMOTED, WITHDRAWING, WITHDRAWN, Standing

log = logging.getLogger("bertline.serving")

LOCK_FILE = ".canary.lock"
SAVE_SECONDS = 5.0  # what a crash may lose of the counts
STOP_SECONDS = 5.0  # that a server's end waits for a look: one may load a version, or wait minutes for a push

# The answers whose labels are known since a moment, of the stable version and of the canary.
Measure = Callable[[datetime, int, int], tuple[Labelled, Labelled]]


class CanaryWatch:
    """Serves a folder's stable version and its canary, and decides on the canary, in a thread.

    Args:
        models: serve what it decides.
        model: the model's name.
        folder: the serving folder, local and writable.
        canary: routes and counts.
        figures: where the state is shown.
        measure: counts labelled answers; None where no labels are known.
        seconds: between two looks.

    Raises:
        UserError: the folder cannot be written, or another server decides on it.
    """

    def __init__(
        self,
        models: Models,
        model: str,
        folder: str,
        canary: Canary,
        figures: CanaryFigures,
        measure: Measure | None = None,
        seconds: float = 1.0,
    ):
        self._models, self._model, self._folder = models, model, folder
        self._canary, self._plan, self._figures = canary, canary.plan, figures
        self._measure, self._seconds = measure, seconds
        self._standing: Standing | None = None
        self._names: Any = None  # of the folder, when it was read last
        self._began = ""
        self._withdrawing, self._promoting = Looks(), Looks()
        self._saved_at = self._looked_at = time.monotonic()
        self._withdrawal: tuple[Trial, str] | None = None  # decided, for a reason, and not yet carried out
        self._trouble = ""
        self._told_few = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="canary-watcher", daemon=True)
        self._lock = _locked(folder)

    def start(self) -> ModelServerConfig:
        """Serves what the folder holds and goes on watching; returns what is served.

        Raises:
            UserError: no release loads, or a record is damaged.
        """
        try:
            self._look()
        except RequestError as error:
            raise UserError(str(error)) from error
        except OSError as error:  # a record cannot be written; the versions are loaded by then, and answer
            self._tell(error)
        self._thread.start()
        trial = self._canary.trial
        return self._config(trial.stable, trial.canary, (STABLE,))

    def stop(self) -> None:
        """Stops watching, saves what was counted, and leaves the folder to the next server."""
        self._stop.set()
        try:
            if self._thread.is_alive():
                self._thread.join(STOP_SECONDS)
            if self._withdrawal:
                self._keep_decision(*self._withdrawal)
            elif self._canary.trial.canary is not None:
                self._save()
        except (UserError, OSError) as error:
            log.error("canary: %s; what was counted since the last %g s is lost", error, SAVE_SECONDS)
        finally:
            self._lock.release()

    def _watch(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                if self._withdrawal:  # as long as this fails, nothing is taken up, that version least of all
                    self._carry_out(*self._withdrawal)
                self._look()
                self._judge()
                self._trouble = ""
            except (UserError, RequestError, OSError) as error:
                self._tell(error)
            except Exception:
                log.exception("canary: looking at %s failed; what is served stays", self._folder)

    def _tell(self, error: Exception) -> None:
        if str(error) != self._trouble:  # once, not at each look
            self._trouble = str(error)
            log.error("canary: %s; what is served stays, and it is tried again", error)

    # === What is served ===

    def _look(self) -> None:
        names = releases.version_names(self._folder), releases.withdrawn_versions(self._folder)
        if names != self._names:
            now = standing.of(self._folder)
            if now != self._standing:
                self._take_up(now)
            self._names = names
        elif self._standing and self._standing.canary and self._canary.trial.canary is None:
            self._take_up(self._standing)  # it did not load before, and may now

    def _take_up(self, now: Standing) -> None:
        """Serves the stable version, and the canary as soon as it is loaded."""
        before = self._canary.trial
        if before.canary is not None and before.canary != now.canary:
            self._show(Trial(before.stable))  # nothing is sent there any more
        stable = self._serve(now)
        canary = now.canary if now.canary in self._models.loaded(self._model) else None
        if now.is_new and stable is not None:
            self._mark(self._release(stable), PROMOTED, "the newest version when serve.canary was switched on")
        if now.withdrawing is not None and self._withdrawal is None:
            self._withdrawal = self._decided(stable, now.withdrawing)
        if (stable, canary) != (before.stable, before.canary):
            self._show(self._begin(stable, canary) if canary is not None else Trial(stable))
        for version in set(now.waiting) - set(self._standing.waiting if self._standing else ()):
            log.info("version %d waits until version %d is decided on", version, now.canary or now.withdrawing)
        self._standing = now

    def _serve(self, now: Standing) -> int | None:
        """Serves a standing's versions; returns the stable one, which is an older one where the newest does not load.

        Raises:
            RequestError: none of them loads, or another reload is under way.
        """
        if now.stable is None:
            self._models.reload(one_model(self._model, self._folder))
            return None
        faults = []
        for stable in (now.stable, *now.older):
            for labels in ((STABLE, CANARY), (STABLE,)) if now.canary is not None else ((STABLE,),):
                try:
                    self._models.reload(self._config(stable, now.canary, labels))
                    return stable
                except RequestError as error:
                    faults.append(error)
        raise faults[0]

    def _config(self, stable: int | None, canary: int | None, labels: tuple[str, ...]) -> ModelServerConfig:
        named = {STABLE: stable, CANARY: canary}
        versions = sorted(version for version in named.values() if version is not None)
        config = one_model(self._model, self._folder, versions)
        entry = config.model_config_list.config[0]
        for label in labels:
            if named[label] is not None:
                entry.version_labels[label] = named[label]
        return config

    def _begin(self, stable: int, canary: int) -> Trial:
        """The trial of a canary: that on record, if it was against the same stable version and not ended by hand.

        One whose record shows already that it breaks a bound gets no request: it is to be withdrawn.
        """
        release = self._release(canary)
        values = standing.record(release)
        self._began, self._told_few = datetime.now(UTC).isoformat(timespec="milliseconds"), False
        self._withdrawing, self._promoting = Looks(), Looks()
        counts = Counts()
        if values.get("state") == JUDGING and values.get("against") == stable:
            try:
                if not releases.was_withdrawn_since(release, datetime.fromisoformat(values["began"])):
                    counts = self._recalled(values)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise _damaged(canary, error) from error
            trial = Trial(stable, canary, counts)
            self._withdrawing.next = 0  # a server that ended may have decided, and not been able to write it
            if broken := canary_judge.to_withdraw(counts, self._plan, self._withdrawing):
                self._withdrawal = trial, _reason(broken)
                return Trial(stable)
        how = "shadows" if self._plan.shadow else f"answers {100 * self._plan.share:g}% of the requests of"
        known = f", {counts.requests:,} requests so far" if counts.requests else ""
        log.info("version %d is the canary: it %s version %d%s", canary, how, stable, known)
        return Trial(stable, canary, counts)

    def _decided(self, stable: int, version: int) -> tuple[Trial, str]:
        """The withdrawal that a server before this one decided on and could not carry out."""
        values = standing.record(self._release(version))
        try:
            return Trial(stable, version, self._recalled(values)), values["reason"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(version, error) from error

    def _recalled(self, values: dict[str, Any]) -> Counts:
        """Goes on with what a canary.json has of a trial, and returns its counts.

        Raises:
            KeyError: it has no such thing; also TypeError, ValueError and AttributeError.
        """
        counts = Counts.of_dict(values["counts"])
        looks = Looks(**values["looks"]["to_withdraw"]), Looks(**values["looks"]["to_promote"])
        self._began, (self._withdrawing, self._promoting) = values["began"], looks
        return counts

    def _show(self, trial: Trial) -> None:
        self._canary.trial = trial
        self._looked_at = self._saved_at = time.monotonic()
        self._figures.show(self._model, trial.stable, trial.canary)
        if trial.canary is not None:
            self._save()

    # === What is decided ===

    def _judge(self) -> None:
        trial, now = self._canary.trial, time.monotonic()
        if trial.canary is None:
            return
        with self._canary.lock:
            trial.counts.seconds += now - self._looked_at
            counts = Counts.of_dict(trial.counts.as_dict())
        self._looked_at = now
        labelled = self._labelled(trial, counts)
        broken = canary_judge.to_withdraw(counts, self._plan, self._withdrawing, labelled)
        if broken:
            return self._withdraw(trial, broken)
        all_bounds = canary_judge.to_promote(counts, self._plan, self._promoting, labelled)
        if all_bounds is not None:
            if all(bound.holds for bound in all_bounds):
                return self._promote(trial, all_bounds)
            log.info("version %d, the canary, goes on: %s", trial.canary, _open_words(all_bounds, self._promoting))
        elif counts.seconds >= self._plan.seconds and counts.requests < self._plan.minimum_requests:
            self._tell_few(trial.canary, counts.requests)
        if now - self._saved_at >= SAVE_SECONDS:
            self._save()
        return None

    def _labelled(self, trial: Trial, counts: Counts) -> tuple[Labelled, Labelled] | None:
        due = canary_judge.may_withdraw(counts, self._withdrawing)
        due = due or canary_judge.may_promote(counts, self._plan, self._promoting)
        if self._measure is None or not due:
            return None
        return self._measure(datetime.fromisoformat(self._began), trial.stable, trial.canary)

    def _tell_few(self, version: int, requests: int) -> None:
        if not self._told_few:
            self._told_few = True
            log.info(
                "version %d, the canary, waits: its time is over, and it has had %d of the %d requests that "
                "serve.canary.minimum_requests wants", version, requests, self._plan.minimum_requests,
            )  # fmt: skip

    def _promote(self, trial: Trial, held: list[Bound]) -> None:
        reason = "; ".join(bound.words() for bound in held)
        self._mark(self._release(trial.canary), PROMOTED, reason, trial.counts)
        log.info("version %d is promoted, in place of %d: %s", trial.canary, trial.stable, reason)
        self._figures.count_decision(self._model, PROMOTED)
        self._take_up(standing.of(self._folder))

    def _withdraw(self, trial: Trial, broken: list[Bound]) -> None:
        self._withdrawal = trial, _reason(broken)
        self._show(Trial(trial.stable))  # nothing is sent there any more
        self._carry_out(*self._withdrawal)

    def _carry_out(self, trial: Trial, reason: str) -> None:
        """Withdraws a version, unless somebody has removed it. Where that fails, the next look, or server, goes on.

        Raises:
            UserError: the folder cannot be written, or is locked.
            OSError: the version's record cannot be written.
        """
        with suppress(OSError):  # on a full disk; what comes next says so, and renames the version all the same
            self._keep_decision(trial, reason)
        present = [*releases.versions(self._folder), *releases.withdrawn_versions(self._folder)]
        if trial.canary in present:
            withdrawn = rollback.withdraw(self._folder, trial.canary, trial.stable, reason)
            self._mark(withdrawn, WITHDRAWN, reason, trial.counts)
            log.warning("version %d is withdrawn, and version %d answers: %s", trial.canary, trial.stable, reason)
            self._figures.count_decision(self._model, WITHDRAWN)
        self._withdrawal = None
        self._take_up(standing.of(self._folder))

    def _keep_decision(self, trial: Trial, reason: str) -> None:
        """Has a server that starts after this one carry out the withdrawal, if this one cannot."""
        if trial.canary in releases.versions(self._folder):
            self._mark(self._release(trial.canary), WITHDRAWING, reason, trial.counts)

    # === What is kept ===

    def _release(self, version: int) -> Release:
        for release in releases.read(self._folder):
            if release.version == version:
                return release
        raise UserError(f"{self._folder}: version {version} has just gone")

    def _save(self) -> None:
        """Keeps what was counted, unless the version has gone since."""
        trial = self._canary.trial
        self._saved_at = time.monotonic()
        if trial.canary in releases.versions(self._folder):
            self._mark(self._release(trial.canary), JUDGING, "", trial.counts)

    def _mark(self, release: Release, state: str, reason: str, counts: Counts | None = None) -> None:
        values: dict[str, Any] = {"state": state, "at": datetime.now(UTC).isoformat(timespec="milliseconds")}
        if reason:
            values["reason"] = reason
        if counts is not None:
            with self._canary.lock:
                kept = counts.as_dict()
            values |= {"began": self._began, "against": self._canary.trial.stable, "counts": kept}
            looks = {"to_withdraw": vars(self._withdrawing), "to_promote": vars(self._promoting)}
            values["looks"] = looks
        standing.write(release, values)


def _reason(broken: list[Bound]) -> str:
    return f"canary: {'; '.join(bound.words() for bound in broken)}"


def _damaged(version: int, error: Exception) -> UserError:
    return UserError(f"version {version}: its canary.json is damaged ({error}); delete that file")


def _open_words(all_bounds: list[Bound], looks: Looks) -> str:
    missing = "; ".join(bound.words() for bound in all_bounds if not bound.holds)
    return f"not yet certain: {missing}. The next look is at {looks.next:,} requests"


def _locked(folder: str) -> FileLock:
    """A lock that is held as long as the server runs.

    Raises:
        UserError: the folder cannot be written, or another server holds the lock.
    """
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            f"{folder} cannot be written: serve.canary keeps there what it decides. Let the server write there, or "
            "leave serve.canary out"
        )
    lock = FileLock(
        f"{folder}/{LOCK_FILE}", thread_local=False
    )  # the thread that ends a server is not the one that starts it
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder}: another server decides on its canaries. Stop that one, or leave serve.canary out here"
        ) from None
    return lock
