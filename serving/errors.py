"""The error of a request that cannot be answered."""

from __future__ import annotations

import traceback

import grpc


class RequestError(Exception):
    """Carries the gRPC status code of the answer, and a message that names what is at fault.

    `retry_after` is for answers that may be asked for again, in whole seconds. Half a second is what the largest number
    of requests under way takes; one second is the least that HTTP's Retry-After can say.
    """

    def __init__(self, code: grpc.StatusCode, message: str, retry_after: int = 1):
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


def frames(error: BaseException) -> str:
    """Where an unexpected error was raised and its type, for a log: its words could quote a request."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"


def invalid(message: str) -> RequestError:
    """The error for a request that will never be right for this model: INVALID_ARGUMENT."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)
