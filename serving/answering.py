"""Answers of a server to many texts, of which it may refuse some: each text gets its answer or the server's reason."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from bertline.serving.client import Client, Prediction, ServingError

# What a server says of a request that it will never answer. Anything else concerns the server, and so all texts.
OF_THE_TEXT = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE}


def answers(client: Client, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Prediction | str]:
    """The answer to each text, in their order; where the server refuses a text, its reason.

    A refusal costs the request that held the text, so its texts are asked about again in two halves, until only those
    are left that are refused by themselves.

    Args:
        client: connected to the server.
        texts: any number.
        pairs: the second text of each, for a model of text pairs.

    Raises:
        ServingError: the server does not answer, or refuses for a reason that is not the text's.
    """
    found: list[Prediction | str] = [""] * len(texts)
    waiting = [list(range(len(texts)))] if texts else []
    while waiting:
        rows = waiting.pop()
        try:
            predictions = client.predict([texts[row] for row in rows], pairs and [pairs[row] for row in rows])
        except ServingError as error:
            if not _of_the_text(error):
                raise
            if len(rows) == 1:
                found[rows[0]] = str(error)
                continue
            waiting += _parts(rows, error.rows)
        else:
            for row, prediction in zip(rows, predictions, strict=True):
                found[row] = prediction
    return found


def _of_the_text(error: ServingError) -> bool:
    return error.code in OF_THE_TEXT or (
        # gRPC's own words: a key's rate and a full server have this code too
        error.code == grpc.StatusCode.RESOURCE_EXHAUSTED and "message larger than max" in str(error)
    )


def _parts(rows: list[int], failed: Sequence[int]) -> list[list[int]]:
    """Rows in two parts: those of the refused request and the others; halves, if the request had them all."""
    if 0 < len(failed) < len(rows):
        inside = set(failed)
        return [
            [row for place, row in enumerate(rows) if place not in inside],
            [row for place, row in enumerate(rows) if place in inside],
        ]
    return [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
