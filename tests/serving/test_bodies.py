import asyncio
import gc
import signal
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import grpc
import psutil
import pytest

from bertline.serving import bodies
from bertline.serving.bodies import LOOP_BYTES, Bodies
from bertline.serving.decoder import Decoder
from bertline.serving.errors import Overloaded, RequestError
from bertline.serving.limits import Limits
from bertline.serving.protos import PredictRequest, SignatureDef


class Message:
    """Stands for the bytes of a message."""


def test_a_message_that_waits_for_a_thread_goes_with_its_caller():
    """The budget forgot it at once, but its bytes stayed until a thread was free."""

    async def send_and_go() -> bool:
        held, busy, message = Bodies(Limits()), threading.Event(), Message()
        working = [asyncio.create_task(held.work(LOOP_BYTES + 1, busy.wait)) for _ in range(bodies.THREADS)]
        sent = asyncio.create_task(held.work(LOOP_BYTES + 1, id, message))
        await asyncio.sleep(0.01)
        sent.cancel()
        await asyncio.wait([sent])
        kept = weakref.ref(message)
        del message, sent
        gc.collect()
        is_there = kept() is not None
        busy.set()
        assert await asyncio.gather(*working) == [True] * bodies.THREADS
        held.close()
        return is_there

    assert not asyncio.run(send_and_go())


def test_a_message_that_does_not_arrive_gives_its_place_to_the_next(monkeypatch):
    monkeypatch.setattr(bodies, "PATIENCE_SECONDS", 0.1)

    async def wait_for_ever(held: Bodies) -> None:
        async with held.place():
            await asyncio.Event().wait()

    async def arrive(held: Bodies) -> str:
        async with held.place():
            return "arrived"

    async def both() -> tuple[RequestError, str]:
        held = Bodies(Limits(max_request_bytes=1, max_bytes_in_flight=1))
        late, next_one = await asyncio.wait_for(
            asyncio.gather(wait_for_ever(held), arrive(held), return_exceptions=True), timeout=60
        )
        held.close()
        return late, next_one

    late, next_one = asyncio.run(both())
    assert late.code == grpc.StatusCode.RESOURCE_EXHAUSTED and "did not arrive" in str(late)
    assert next_one == "arrived"


def test_a_decoder_that_is_killed_while_it_reads_is_refused_in_words_and_replaced():
    """As the kernel does where memory is short."""
    decoder, signature, request = Decoder(), SignatureDef(), PredictRequest()
    signature.inputs["x"].dtype = 1
    body, signatures = b'{"instances": [1.0]}', {"serving_default": signature}
    try:
        before = set(psutil.Process().children())
        decoder.fill(body, request, signatures)
        (child,) = set(psutil.Process().children()) - before
        child.suspend()
        with ThreadPoolExecutor(1) as threads:
            filling = threads.submit(decoder.fill, body + b" " * (1 << 20), PredictRequest(), signatures)
            with pytest.raises(TimeoutError):  # it waits for the pipe
                filling.result(timeout=0.2)
            child.send_signal(signal.SIGKILL)
            with pytest.raises(RequestError, match="send fewer rows") as caught:
                filling.result(timeout=60)
        assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        again = PredictRequest()
        decoder.fill(body, again, signatures)
        assert again == request and "x" in request.inputs
    finally:
        decoder.close()


def test_what_a_failed_try_took_is_free_for_the_next_one():
    held = Bodies(Limits(max_request_bytes=100, max_bytes_in_flight=100))
    with held.share() as other, held.share() as share:
        other.grow(40)
        for _ in range(3):
            with pytest.raises(ValueError, match="the canary"), share.trying():
                share.grow(60)
                raise ValueError("the canary")
        with share.trying():
            share.grow(60)
        assert held.held == 100, "it is held until the request ends"
        with pytest.raises(Overloaded):
            other.grow(1)
    assert held.held == 0
    held.close()
