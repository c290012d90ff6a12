"""Which version of a serving folder is the stable one, and which is tried in traffic: `serve.canary`.

A version's canary.json says what became of it: judging, promoted, withdrawing (decided, and not yet carried out) or
withdrawn. Every release that is newer than any that was ever promoted has yet to be tried.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bertline.errors import UserError
from bertline.serving import releases, storage
from bertline.serving.releases import CANARY_FILE, Release, Withdrawal

JUDGING, PROMOTED, WITHDRAWING, WITHDRAWN = "judging", "promoted", "withdrawing", "withdrawn"


@dataclass(frozen=True)
class Standing:
    """The versions of a serving folder.

    Attributes:
        stable: the version that answers; None in a folder without releases.
        canary: the version that is tried, or is to be tried next; None without one.
        waiting: other versions that have yet to be tried, ascending.
        older: versions before the stable one, the newest first: they take its place where it does not load.
        is_new: whether no version was ever promoted, so that the stable one is only the newest that was there.
        withdrawing: a version that was decided on and is still in the folder; until it is out, none is tried.
    """

    stable: int | None = None
    canary: int | None = None
    waiting: tuple[int, ...] = ()
    older: tuple[int, ...] = ()
    is_new: bool = False
    withdrawing: int | None = None


def of(folder: str | Path) -> Standing:
    """The standing of a serving folder's releases. Versions that bertline did not push take no part.

    Raises:
        UserError: a release.json or canary.json is damaged.
    """
    # A rename between two looks at the folder must hide no version, so those withdrawn are looked at before and after.
    before, in_service, after = (
        read(folder) for read in (releases.read_withdrawn, releases.read, releases.read_withdrawn)
    )
    records = {release.version: record(release) for release in before + in_service + after}
    states = {version: values.get("state") for version, values in records.items()}
    promoted = max((version for version, state in states.items() if state == PROMOTED), default=None)
    decided = [release.version for release in in_service if _is_withdrawing(release, records[release.version])]
    versions = [release.version for release in in_service if release.version not in decided]
    if not versions:
        return Standing()
    if promoted is None:
        *older, newest = versions
        return Standing(newest, older=tuple(reversed(older)), is_new=True, withdrawing=max(decided, default=None))
    settled = [version for version in versions if version <= promoted]
    untried = [version for version in versions if version > promoted]
    if not settled:  # somebody has removed them
        settled, untried = untried[:1], untried[1:]
    canary = next((version for version in untried if states[version] == JUDGING), max(untried, default=None))
    if decided:
        canary = None
    *older, stable = settled
    waiting = tuple(version for version in untried if version != canary)
    return Standing(stable, canary, waiting, tuple(reversed(older)), withdrawing=max(decided, default=None))


def _is_withdrawing(release: Release, values: dict[str, Any]) -> bool:
    """Whether it was decided to withdraw a release in service, and nobody has put it back since."""
    if values.get("state") != WITHDRAWING:
        return False
    return not releases.was_restored_since(release, datetime.fromisoformat(values["at"]))


def served(folder: str | Path, tries_canaries: bool) -> Release | None:
    """The release that servers answer with; None in a folder without releases. Arguments and errors as `overview`."""
    in_service = releases.read(folder)
    if not tries_canaries:
        return in_service[-1] if in_service else None
    stable = of(folder).stable
    return next((release for release in in_service if release.version == stable), None)


def answering(folder: str | Path, tries_canaries: bool, whole: Collection[int] | None = None) -> int | None:
    """The version that servers answer with, whoever pushed it; None in a folder without versions.

    Args:
        folder: the serving folder.
        tries_canaries: as for `overview`.
        whole: its versions as `releases.whole_versions` listed them, among which the answer then is; None lists them.

    Raises:
        UserError: as `of`.
    """
    if whole is None:
        whole = releases.whole_versions(folder)
    stable = of(folder).stable if tries_canaries else None
    return stable if stable in whole else max(whole, default=None)


def overview(folder: str | Path, tries_canaries: bool = False) -> list[dict[str, Any]]:
    """All whole versions of a serving folder, ascending: in service, withdrawn, and those that bertline did not push.

    Args:
        folder: the serving folder.
        tries_canaries: whether a version is tried in traffic before it is served; else the newest is served.

    Returns:
        For each `version`, `state` ("served", which servers answer with; "canary", which is tried beside it; "waiting",
        to be tried after that; "kept"; "withdrawn"), `pushed_at`, `parent`, `metrics`, `bytes`, `withdrawal` (`at`,
        `reason`, `to`) or None, and `canary`, what its canary.json says, or None; a reason that is the withdrawal's
        stands only there.

    Raises:
        UserError: as `of`.
    """
    known = {release.version: release for release in releases.read(folder)}
    whole = releases.whole_versions(folder)
    in_service = [known.get(version) or Release(version, paths[0]) for version, paths in whole.items()]
    states = dict.fromkeys(whole, "kept") | _states(folder, tries_canaries)
    present = sorted(in_service + releases.read_withdrawn(folder), key=lambda release: release.version)
    return [
        {
            "version": release.version,
            "state": "withdrawn" if release.withdrawal else states[release.version],
            "pushed_at": release.record.get("pushed_at"),
            "parent": release.parent,
            "metrics": release.metrics,
            "bytes": storage.size(release.path),
            "withdrawal": vars(release.withdrawal) if release.withdrawal else None,
            "canary": _without_reason_of(release.withdrawal, record(release)) or None,
        }
        for release in present
    ]


def _without_reason_of(withdrawal: Withdrawal | None, values: dict[str, Any]) -> dict[str, Any]:
    """What a canary.json says, less the reason that the withdrawal has already."""
    said = withdrawal is not None and values.get("reason") == withdrawal.reason
    return {name: value for name, value in values.items() if not (said and name == "reason")}


def _states(folder: str | Path, tries_canaries: bool) -> dict[int, str]:
    """Version -> state, of those that are more than kept."""
    if not tries_canaries:
        newest = answering(folder, tries_canaries)
        return {} if newest is None else {newest: "served"}
    now = of(folder)
    states = {now.stable: "served", now.canary: "canary", now.withdrawing: "withdrawn"}
    states |= dict.fromkeys(now.waiting, "waiting")
    return {version: state for version, state in states.items() if version is not None}


def record(release: Release) -> dict[str, Any]:
    """What a release's canary.json says; {} where there is none.

    Raises:
        UserError: it is damaged.
    """
    file = storage.join(release.path, CANARY_FILE)
    try:
        values = json.loads(storage.read_text(file)) if storage.exists(file) else None
    except FileNotFoundError:  # the version has just been renamed
        values = None
    except ValueError as error:
        raise _damaged(file, error) from error
    if values is None:
        return {}
    try:
        state, at = values["state"], values.get("at")
        if state == WITHDRAWING:
            datetime.fromisoformat(at)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(file, error) from error
    return values


def _damaged(file: str, error: Exception) -> UserError:
    return UserError(f"{file}: not a canary's record ({error}); delete it, and the version is tried anew")


def write(release: Release, values: dict[str, Any]) -> None:
    """Replaces a release's canary.json in one step.

    Raises:
        OSError: it cannot be written.
    """
    with storage.writing_whole(Path(release.path) / CANARY_FILE) as unfinished:
        unfinished.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
