"""What the server behind the log proxy says of its models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from bertline.serving.monitored import Monitored
from bertline.serving.protos import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    ModelSpec,
    SignatureDef,
    SignatureDefMap,
)

METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
SECONDS = 5.0  # for which an answer holds; twice that is how long REST's records may name the version before
PATIENCE_SECONDS = 2.0  # for an answer; a server that takes longer has too much to do for this question
MOST = 1000  # answers kept: callers may name versions one by one

Headers = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Known:
    """A model of the server behind.

    Attributes:
        version: the one that answered.
        signatures: of that version, by name.
        monitored: how its texts are asked for their vectors too; None where it has none.
    """

    version: int
    signatures: dict[str, SignatureDef]
    monitored: Monitored | None


class Models:
    """Asks the server behind for its models' metadata, and keeps the answers for some seconds. For one event loop."""

    def __init__(self, channel: grpc.aio.Channel):
        self._ask = channel.unary_unary(
            METADATA,
            request_serializer=GetModelMetadataRequest.SerializeToString,
            response_deserializer=GetModelMetadataResponse.FromString,
        )
        self._kept: dict[tuple[str, int, str], tuple[float, asyncio.Task[Known | None]]] = {}
        self._names: set[str] = set()

    def is_served(self, name: str) -> bool:
        """Whether the server behind was ever seen to serve a model of this name."""
        return name in self._names

    async def known(self, spec: ModelSpec, headers: Headers) -> Known | None:
        """What is known of the model and version that a request names; None where the server does not say it.

        Args:
            spec: of the request.
            headers: of its call: the server may ask for a key.
        """
        key = (spec.name, spec.version.value, spec.version_label)
        asked, answer = self._kept.get(key, (0.0, None))
        age = time.monotonic() - asked
        if answer is None or age > SECONDS:
            if len(self._kept) >= MOST:
                self._kept.clear()
            newer = asyncio.create_task(self._answer(spec, headers))
            self._kept[key] = time.monotonic(), newer
            # While requests come one after the other, none of them waits for the newer answer.
            is_usable = answer is not None and answer.done() and answer.result() and age < 2 * SECONDS
            answer = answer if is_usable else newer
        known = await asyncio.shield(answer)  # others wait for it too
        if known is None and self._kept.get(key, (0.0, None))[1] is answer:
            del self._kept[key]
        return known

    def forget(self, spec: ModelSpec) -> None:
        """Drops what is known: another version answered."""
        self._kept.pop((spec.name, spec.version.value, spec.version_label), None)

    async def _answer(self, spec: ModelSpec, headers: Headers) -> Known | None:
        request = GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.CopyFrom(spec)
        request.model_spec.signature_name = ""
        try:
            answer = await self._ask(request, timeout=PATIENCE_SECONDS, metadata=tuple(headers))
        except grpc.aio.AioRpcError:  # the request itself meets the same, and its caller is told
            return None
        self._names.add(spec.name)
        signatures = SignatureDefMap()
        answer.metadata["signature_def"].Unpack(signatures)
        by_name = dict(signatures.signature_def)
        return Known(answer.model_spec.version.value, by_name, Monitored.of(by_name))
