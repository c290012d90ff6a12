"""Who may call a server: a key is looked up, its role compared, and its requests counted."""

from __future__ import annotations

import hmac
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import grpc
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from bertline.errors import UserError
from bertline.serving.errors import RequestError
from bertline.serving.keys import ADMIN, PREDICT, Key, Role, hash_of, read_keys

HEALTH_SERVICE = "/grpc.health.v1.Health/"  # load balancers and probes ask it and hold no key
ADMIN_METHODS = frozenset({"/tensorflow.serving.ModelService/HandleReloadConfigRequest"})
RETRY_SECONDS = 1.0  # between two tries to read a file that cannot be read and has not changed

log = logging.getLogger(__name__)


class Access:
    """Answers whether a key may make a request now.

    Each check looks at the file and reads it again if it has changed, so a key that is removed stops working at once.
    While the file is gone, may not be read or is no key file, every key is refused: the keys read before may have been
    revoked since. That is logged once, counted, and ends when the file can be read again.

    Rates are counted in this process's memory, over a moving window, by key name.
    """

    def __init__(self, file: str | Path, on_fault: Callable[[], None] = lambda: None):
        self._file = Path(file)
        self._on_fault = on_fault
        self._stamp = _stamp(self._file)  # taken first: a change while it is read is then seen by the next check
        self._keys = read_keys(self._file)
        self._fault = ""  # why the file cannot be read now
        self._tried: tuple[_Stamp | None, float] = (None, 0.0)  # the last try that failed: the file's stamp, and when
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    @classmethod
    def read(cls, file: str | Path, on_fault: Callable[[], None] = lambda: None) -> Access:
        """Access by the keys of a file.

        Args:
            file: the key file.
            on_fault: called each time that the file turns out to be unreadable.

        Raises:
            UserError: it cannot be read or is not a key file, naming the file and what is wrong in it.
        """
        return cls(file, on_fault)

    def is_open(self) -> bool:
        """Whether any key can be accepted now: the file can be read."""
        self._refresh()
        return not self._fault

    def check(self, key: str | None, *, role: Role = PREDICT, now: datetime | None = None) -> str:
        """Counts one request of a key.

        Args:
            key: what the caller sent; None if it sent none.
            role: what the request takes. A key with the role ADMIN may do what one with PREDICT may.
            now: the time that decides whether the key has expired, with a time zone; None for the clock's.

        Returns:
            The name of the key.

        Raises:
            RequestError: UNAUTHENTICATED for a missing, unknown or expired key, and for every key while the file cannot
                be read; PERMISSION_DENIED for a key without the role; RESOURCE_EXHAUSTED over its rate, with the
                seconds to wait.
        """
        if not self.is_open():
            raise _refused("this server cannot read its file of API keys, so it accepts none; its log says why")
        if not key:
            raise _refused("no API key; send `authorization: Bearer KEY` or `x-api-key: KEY` as metadata or header")
        entry = self._find(key)
        if entry is None:
            raise _refused("unknown API key")
        if entry.expires and (now or datetime.now(UTC)) >= entry.expires:
            raise _refused(f"API key {entry.name} expired at {entry.expires.isoformat()}")
        if role == ADMIN and entry.role != ADMIN:
            raise RequestError(
                grpc.StatusCode.PERMISSION_DENIED,
                f"API key {entry.name} has the role {entry.role}, and this method takes {ADMIN}: a key made with "
                "`bertline keys add --role admin`",
            )
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
        digest, match = hash_of(key), None
        for entry in self._keys:
            if hmac.compare_digest(entry.sha256, digest):
                match = entry
        return match

    def _refresh(self) -> None:
        stamp, now = _stamp(self._file), time.monotonic()
        if stamp is not None and stamp == self._stamp and not self._fault:
            return
        if self._fault and stamp == self._tried[0] and now < self._tried[1] + RETRY_SECONDS:
            return
        try:
            self._keys = read_keys(self._file)
        except UserError as error:
            self._tried = stamp, now
            if str(error) != self._fault:
                log.error("%s; until it can be read, every call is refused", error)
            if not self._fault:
                self._on_fault()
            self._fault = str(error)
        else:
            self._stamp, self._fault = stamp, ""
            log.info("%s: read again, %d keys", self._file, len(self._keys))


_Stamp = tuple[int, int, int, int]


def _stamp(file: Path) -> _Stamp | None:
    """Changes when the file does: replaced, written in place, or with other rights; None where there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


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
        method = handler_call_details.method
        if not method.startswith(HEALTH_SERVICE):
            role = ADMIN if method in ADMIN_METHODS else PREDICT
            try:
                self._access.check(key_of(dict(handler_call_details.invocation_metadata)), role=role)
            except RequestError as error:
                return _refusal(error)
        return await continuation(handler_call_details)


def _refusal(error: RequestError) -> grpc.RpcMethodHandler:
    async def refuse(_, context: grpc.aio.ServicerContext) -> None:
        await context.abort(error.code, str(error))

    # On the wire all calls are streams, so this one kind of handler refuses all four kinds of calls.
    return grpc.stream_stream_rpc_method_handler(refuse)
