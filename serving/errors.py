"""The error of a request that cannot be answered."""

from __future__ import annotations

import traceback

import grpc


class RequestError(Exception):
    """The gRPC status code of the answer, and a message that names what is at fault.

    Attributes:
        code: gRPC's status code.
        retry_after: whole seconds after which the caller may try again. The largest number of requests in flight takes
            half a second, and one second is the least that HTTP's Retry-After can say.
    """

    def __init__(self, code: grpc.StatusCode, message: str, retry_after: int = 1):
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


class Overloaded(RequestError):
    """The server has no room for the request at the moment, whatever the model."""


def frames(error: BaseException) -> str:
    """An unexpected error's type and traceback, for a log. Its words are left out: they could quote a request."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"


def invalid(message: str) -> RequestError:
    """INVALID_ARGUMENT, the error for a request that will never be right for this model."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)
