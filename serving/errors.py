"""The error of a request that cannot be answered."""

from __future__ import annotations

import traceback

import grpc


class RequestError(Exception):
    """Carries the gRPC status code of the answer, and a message that names what is at fault."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code


def frames(error: BaseException) -> str:
    """Where an unexpected error was raised and its type, for a log: its words could quote a request."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"


def invalid(message: str) -> RequestError:
    """The error for a request that will never be right for this model: INVALID_ARGUMENT."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)
