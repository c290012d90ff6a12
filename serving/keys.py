"""The file of API keys: who may call, in which role, and how often.

It is YAML (so JSON will do), made by `bertline keys`:

    keys:
    - name: mobile-app
      sha256: 5f1d7a84db00d2fce00b31a7fc73224f...   # of the key, in hex
      created: 2026-11-22T10:00:00Z
      role: admin                                   # optional: predict, which most callers need, is the default
      expires: 2027-11-22T10:00:00Z                 # optional
      per_minute: 600                               # optional, as is per_second

A key is 256 random bits, never a person's choice, so plain SHA-256 is enough to store it: nobody can guess it or look
it up in a table. A slow, salted hash, as passwords need, would cost every request as much as it costs a thief.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import yaml
from filelock import FileLock
from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from bertline.errors import UserError
from bertline.serving import storage

KEY_BITS = 256
KEY_PREFIX = "bertline_"  # so that scanners for leaked secrets, and people, know one when they see it
FILE_HEADER = "# Written by `bertline keys add` and `bertline keys remove`, which keep no comments.\n"

Role = Literal["predict", "admin"]
PREDICT: Role = "predict"  # asks models, and reads status, metadata and metrics
ADMIN: Role = "admin"  # also changes what is served


class Key(BaseModel):
    """One entry of the key file. The key itself is stored nowhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # A plain word: answers and logs show it.
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: AwareDatetime
    role: Role = PREDICT
    expires: AwareDatetime | None = None
    per_second: PositiveInt | None = None
    per_minute: PositiveInt | None = None

    @property
    def rates(self) -> list[RateLimitItem]:
        """The rate limits, shortest first, so that what the limit per second refuses does not count for the minute."""
        rates = []
        if self.per_second:
            rates.append(RateLimitItemPerSecond(self.per_second))
        if self.per_minute:
            rates.append(RateLimitItemPerMinute(self.per_minute))
        return rates


class KeyFile(BaseModel):
    """The whole file. No two keys have the same name or hash."""

    model_config = ConfigDict(extra="forbid")

    keys: list[Key]

    @model_validator(mode="after")
    def _each_once(self) -> KeyFile:
        for field in ("name", "sha256"):
            values = [getattr(key, field) for key in self.keys]
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice:
                raise ValueError(f"two keys have the {field} {twice}")
        return self


def read_keys(file: str | Path) -> list[Key]:
    """The keys of a key file.

    Raises:
        UserError: it cannot be read or is not a key file, naming the file, and the key and field at fault.
    """
    try:
        return KeyFile.model_validate(yaml.safe_load(Path(file).read_text(encoding="utf-8"))).keys
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    except RecursionError:
        raise UserError(f"{file}: not a key file: nested too deep for one") from None
    except yaml.YAMLError as error:  # in words of our own: PyYAML's quote the line, which may hold a key by mistake
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{file}: not YAML{f', line {mark.line + 1}' if mark else ''}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{file}: {where}: {first['msg']}; `bertline keys add` writes a right one") from error
    except ValueError:  # of PyYAML's, for a date or number that there is not; its words quote the value
        raise UserError(
            f"{file}: holds a date or number that cannot be; `bertline keys add` writes a right one"
        ) from None


def add_key(
    file: str | Path,
    name: str,
    *,
    role: Role = PREDICT,
    per_second: int | None = None,
    per_minute: int | None = None,
    days: int | None = None,
) -> str:
    """Adds a key to a file, and makes the file if there is none.

    Args:
        file: the key file; it is replaced as a whole. A new one has mode 0600, another keeps its owner and mode.
        name: who will use the key.
        role: what the key may do: PREDICT or ADMIN.
        per_second: the most requests in any second; None for no limit.
        per_minute: the most requests in any minute; None for no limit.
        days: how long the key is valid; None for ever.

    Returns:
        The key, which is stored nowhere: the file has only its hash.

    Raises:
        UserError: the name is taken, a value is out of range, or the file cannot be read or written.
    """
    secret = KEY_PREFIX + secrets.token_urlsafe(KEY_BITS // 8)
    now = datetime.now(UTC).replace(microsecond=0)
    if days is not None and days < 1:
        raise UserError(f"days is {days}: it must be at least 1")
    try:
        key = Key(
            name=name,
            sha256=hash_of(secret),
            created=now,
            role=role,
            expires=None if days is None else now + timedelta(days=days),
            per_second=per_second,
            per_minute=per_minute,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{first['loc'][0]} {first['input']!r}: {first['msg']}") from error
    with _locked(file) as target:
        keys = read_keys(target) if target.exists() else []
        if any(other.name == name for other in keys):
            raise UserError(f"{file}: has a key named {name}; remove it first, or choose another name")
        _write(target, [*keys, key])
    return secret


def remove_key(file: str | Path, name: str) -> None:
    """Removes a key from a file. Servers that read the file refuse it from their next request on.

    Raises:
        UserError: there is no such key, or the file cannot be read or written.
    """
    with _locked(file) as target:
        keys = read_keys(target)
        kept = [key for key in keys if key.name != name]
        if len(kept) == len(keys):
            known = ", ".join(key.name for key in keys) or "none"
            raise UserError(f"{file}: no key named {name}; it has: {known}")
        _write(target, kept)


@contextmanager
def _locked(file: str | Path) -> Iterator[Path]:
    """The file itself (not a link to it), for one writer at a time."""
    target = Path(file).resolve()
    lock = Path(f"{target}.lock")
    try:
        with FileLock(lock):
            if os.geteuid() == 0 and target.exists():  # root's lock would keep the file's owner out
                os.chown(lock, target.stat().st_uid, target.stat().st_gid, follow_symlinks=False)
            yield target
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror}") from error


def _write(file: Path, keys: list[Key]) -> None:
    """Writes the whole file or nothing of it. Whoever could read the file before can read it afterwards.

    A new file is readable only by its owner.

    Raises:
        UserError: the file belongs to somebody else, and this process may not leave it so.
    """
    values = KeyFile(keys=keys).model_dump(exclude_defaults=True)
    descriptor, new = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as opened:
            opened.write(FILE_HEADER + yaml.safe_dump(values, sort_keys=False))
            opened.flush()
            os.fsync(opened.fileno())
        if file.exists():
            _take_over(file, new)
        os.replace(new, file)
    except BaseException:
        os.unlink(new)
        raise
    storage.sync(file.parent)  # a key that was removed must not come back when the power goes


def _take_over(file: Path, new: str) -> None:
    """Gives a new file the owner, mode and access list of the file that it replaces."""
    status = file.stat()
    try:
        os.chown(new, status.st_uid, status.st_gid)
    except PermissionError:
        raise UserError(
            f"{file}: belongs to user {status.st_uid}, group {status.st_gid}, and a server of theirs could not read it "
            "once rewritten by you; run this as that user or as root"
        ) from None
    shutil.copystat(file, new)
    os.utime(new)  # a change of the file must show in its time


def hash_of(key: str) -> str:
    """SHA-256 of a key, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()
