"""The error of a request that cannot be answered."""

from __future__ import annotations

import grpc


class RequestError(Exception):
    """Carries the gRPC status code of the answer, and a message that names what is at fault."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code


def invalid(message: str) -> RequestError:
    """The error for a request that will never be right for this model: INVALID_ARGUMENT."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)
