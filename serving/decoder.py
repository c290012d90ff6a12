"""Large JSON bodies are decoded in a process of their own.

Decoding a body takes up to a second and thirty times its size in Python's lists, during which no other Python code of
the process runs. So a server leaves bodies above APART_BYTES to a child: `python -m bertline.serving.decoder` reads
pickled requests from its standard input until that ends, and answers each on its standard output. Needs no TensorFlow.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

import grpc

from bertline.serving import json_tensor, memory
from bertline.serving.errors import Overloaded, RequestError
from bertline.serving.protos import ClassificationRequest, PredictRequest, RegressionRequest, SignatureDef

APART_BYTES = 256 << 10  # decoding so much takes up to 60 ms
_KINDS = {kind.__name__: kind for kind in (PredictRequest, ClassificationRequest, RegressionRequest)}


class Decoder:
    """The child, started with the first large body. For one thread."""

    def __init__(self):
        self._child: subprocess.Popen | None = None

    def fill(self, body: bytes, request: Any, signatures: Mapping[str, SignatureDef]) -> str:
        """As `json_tensor.fill_request`.

        Raises:
            RequestError: as `json_tensor.fill_request`.
            Overloaded: RESOURCE_EXHAUSTED; the child ended, for want of memory.
        """
        child = self._running()
        inputs = {name: signature.SerializeToString() for name, signature in signatures.items()}
        try:
            pickle.dump((type(request).__name__, request.SerializeToString(), body, inputs), child.stdin)
            child.stdin.flush()
            filled, form, refusal = pickle.load(child.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self.close()
            message = "the body took more memory to decode than there is; send fewer rows in a request"
            raise Overloaded(grpc.StatusCode.RESOURCE_EXHAUSTED, message) from error
        request.ParseFromString(filled)
        if refusal:
            raise RequestError(grpc.StatusCode[refusal[0]], refusal[1])
        return form

    def close(self) -> None:
        """Ends the child. One that is at work ends after it, or when this process does."""
        child, self._child = self._child, None
        if child:
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()

    def _running(self) -> subprocess.Popen:
        if self._child is None or self._child.poll() is not None:
            command = [sys.executable, "-P", "-m", "bertline.serving.decoder"]
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._child


def main() -> None:
    """Answers requests until standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # may go to the whole group; the server lets its requests finish
        signal.signal(number, signal.SIG_IGN)
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints does not belong into the answers
    while _answer(source, sink):
        memory.give_back()


def _answer(source: BinaryIO, sink: BinaryIO) -> bool:
    """Answers one request; False where there is none."""
    try:
        kind, message, body, inputs = pickle.load(source)
    except EOFError:
        return False
    request = _KINDS[kind].FromString(message)
    signatures = {name: SignatureDef.FromString(signature) for name, signature in inputs.items()}
    form, refusal = "", None
    try:
        form = json_tensor.fill_request(body, request, signatures)
    except RequestError as error:
        refusal = error.code.name, str(error)
        for field in ("inputs", "input"):  # half of what was asked for is of no use
            if field in request.DESCRIPTOR.fields_by_name:
                request.ClearField(field)
    pickle.dump((request.SerializeToString(), form, refusal), sink)
    sink.flush()
    return True


if __name__ == "__main__":
    main()
