"""API keys: who may call, and how often.

The key file is YAML (so JSON will do), made by `bertline keys`:

    keys:
    - name: mobile-app
      sha256: 5f1d7a84db00d2fce00b31a7fc73224f...   # of the key, in hex
      created: 2026-11-22T10:00:00Z
      expires: 2027-11-22T10:00:00Z                 # optional
      per_minute: 600                               # optional, as is per_second

A key is 256 random bits, never a person's choice, so plain SHA-256 is enough to store it: nobody can guess it or look
it up in a table. A slow, salted hash, as passwords need, would cost every request as much as it costs a thief.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import os
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import grpc
import yaml
from filelock import FileLock
from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from bertline.errors import UserError
from bertline.serving.errors import RequestError

KEY_BITS = 256
KEY_PREFIX = "bertline_"  # so that scanners for leaked secrets, and people, know one when they see it
HEALTH_SERVICE = "/grpc.health.v1.Health/"  # load balancers and probes ask it and hold no key
FILE_HEADER = "# Written by `bertline keys add` and `bertline keys remove`, which keep no comments.\n"

log = logging.getLogger(__name__)


# === Key file ===


class Key(BaseModel):
    """One entry of the key file. The key itself is stored nowhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # A plain word: answers and logs show it.
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: AwareDatetime
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
    except yaml.YAMLError as error:  # in words of our own: PyYAML's quote the line, which may hold a key by mistake
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{file}: not YAML{f', line {mark.line + 1}' if mark else ''}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{file}: {where}: {first['msg']}; `bertline keys add` writes a right one") from error


def add_key(
    file: str | Path,
    name: str,
    *,
    per_second: int | None = None,
    per_minute: int | None = None,
    days: int | None = None,
) -> str:
    """Adds a key to a file, and makes the file if there is none.

    Args:
        file: the key file; it is replaced as a whole, with mode 0600.
        name: who will use the key.
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
            sha256=_hash(secret),
            created=now,
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
    try:
        with FileLock(f"{target}.lock"):
            yield target
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror}") from error


def _write(file: Path, keys: list[Key]) -> None:
    """Writes the whole file or nothing of it, readable only by its owner."""
    values = KeyFile(keys=keys).model_dump(exclude_none=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=f".{file.name}.", delete=False) as new:  # mode 0600
        new.write(FILE_HEADER + yaml.safe_dump(values, sort_keys=False))
        new.flush()
        os.fsync(new.fileno())
    os.replace(new.name, file)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


# === Checking a request ===


class Access:
    """Answers whether a key may make a request now.

    Each check looks at the file and reads it again if it has changed, so a key that is removed stops working at once. A
    file that is gone or cannot be parsed changes nothing; it is logged once per change. A slip in an editor must not
    shut everybody out. To shut everybody out, write `keys: []`.

    Rates are counted in this process's memory, over a moving window, by key name.
    """

    def __init__(self, file: str | Path):
        self._file = Path(file)
        self._stamp = _stamp(self._file)  # taken first: a change while it is read is then seen by the next check
        self._keys = read_keys(self._file)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    @classmethod
    def read(cls, file: str | Path) -> Access:
        """Access by the keys of a file.

        Raises:
            UserError: it cannot be read or is not a key file, naming the file and what is wrong in it.
        """
        return cls(file)

    def check(self, key: str | None, *, now: datetime | None = None) -> str:
        """Counts one request of a key.

        Args:
            key: what the caller sent; None if it sent none.
            now: the time that decides whether the key has expired, with a time zone; None for the clock's.

        Returns:
            The name of the key.

        Raises:
            RequestError: UNAUTHENTICATED for a missing, unknown or expired key; RESOURCE_EXHAUSTED over its rate, with
                the seconds to wait.
        """
        self._refresh()
        if not key:
            raise _refused("no API key; send `authorization: Bearer KEY` or `x-api-key: KEY` as metadata or header")
        entry = self._find(key)
        if entry is None:
            raise _refused("unknown API key")
        if entry.expires and (now or datetime.now(UTC)) >= entry.expires:
            raise _refused(f"API key {entry.name} expired at {entry.expires.isoformat()}")
        for rate in entry.rates:
            if not self._limiter.hit(rate, entry.name):
                until = self._limiter.get_window_stats(rate, entry.name).reset_time
                wait = max(math.ceil(until - time.time()), 1)
                raise RequestError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"API key {entry.name} is over its rate of {rate}; try again in {wait} s",
                    retry_after=wait,
                )
        return entry.name

    def _find(self, key: str) -> Key | None:
        """The entry of a key. Every entry is compared in full, so the time it takes reveals nothing of any hash."""
        digest, match = _hash(key), None
        for entry in self._keys:
            if hmac.compare_digest(entry.sha256, digest):
                match = entry
        return match

    def _refresh(self) -> None:
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(self._file)
        except UserError as error:
            log.error("%s; the keys read before stay in force", error)
        else:
            log.info("%s: read again, %d keys", self._file, len(self._keys))


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """Changes when the file does, replaced or written in place; None where there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _refused(message: str) -> RequestError:
    return RequestError(grpc.StatusCode.UNAUTHENTICATED, message)


# === gRPC and REST ===


def key_of(headers: Mapping[str, str]) -> str | None:
    """The API key in headers or metadata with lower-case names: a Bearer `authorization`, or `x-api-key`, or None."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key") or None


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Checks the key before every method of a grpc.aio server except the health service's.

    A refused call ends before its message is read, with the code and words of Access's RequestError.
    """

    def __init__(self, access: Access):
        self._access = access

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """The method's own handler, or one that refuses."""
        if not handler_call_details.method.startswith(HEALTH_SERVICE):
            try:
                self._access.check(key_of(dict(handler_call_details.invocation_metadata)))
            except RequestError as error:
                return _refusal(error)
        return await continuation(handler_call_details)


def _refusal(error: RequestError) -> grpc.RpcMethodHandler:
    async def refuse(_, context: grpc.aio.ServicerContext) -> None:
        await context.abort(error.code, str(error))

    # On the wire all calls are streams, so this one kind of handler refuses all four kinds of calls.
    return grpc.stream_stream_rpc_method_handler(refuse)
