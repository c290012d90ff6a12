"""What `bertline predict` does: texts from arguments or stdin, answers from a running server or one of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import screen
from bertline.pipeline.config import Config
from bertline.serving import releases
from bertline.serving.client import SIGNATURE, Client, Prediction, ServingError

KEY_VARIABLE = "BERTLINE_API_KEY"

Answers = list[tuple[str, Prediction]]  # each text with what the model says of it


def of_config(file: Path, texts: list[str], pair: list[str] | None, address: str | None, **connection: Any) -> Answers:
    """Asks the model of a config: at `address`, else where the config serves it, else a server started for this call.

    Args:
        file: the config.
        texts: without any, a text a line is read from stdin.
        pair: the second text of each, for a model of text pairs.
        address: HOST:PORT of a server.
        connection: further settings of the Client.

    Raises:
        UserError: no text, a pair too few, or nothing to serve; as the Server, for one started for this call.
        ServingError: the server does not answer, or refuses.
        OSError, ValueError: as the Client, for its settings.
    """
    task = configs.load(file)
    asked, pairs = _texts(texts, pair, bool(task.data.text_pair))
    given = address or f"{task.serve.host}:{task.serve.port}"
    with Client(given, task.name, **connection) as client:
        try:
            if address is None:
                client.status()  # not tried again, so that a missing server is known at once
            return list(zip(asked, client.predict(asked, pairs), strict=True))
        except ServingError as error:
            if address or error.code.name != "UNAVAILABLE":
                raise
    require_release(task, file)
    print(f"no server at {given}; starting one for this call", file=sys.stderr)
    with own_server(task) as started, Client(started, task.name) as client:
        return list(zip(asked, client.predict(asked, pairs), strict=True))


def of_server(address: str, model: str, texts: list[str], pair: list[str] | None, **connection: Any) -> Answers:
    """Asks a model by the name that a server knows it by; arguments and errors as those of `of_config`."""
    with Client(address, model, **connection) as client:
        signature = client.metadata()[1].get(SIGNATURE)
        if signature is None:
            raise UserError(f"{model} at {address} has no signature {SIGNATURE!r}: it does not classify texts.")
        asked, pairs = _texts(texts, pair, "text_pair" in signature.inputs)
        return list(zip(asked, client.predict(asked, pairs), strict=True))


def api_key(file: Path | None) -> str | None:
    """The key in a file, else in the environment: never on the command line, where others see it."""
    key = file.read_text(encoding="utf-8") if file else os.environ.get(KEY_VARIABLE, "")
    return key.strip() or None


def require_release(task: Config, file: Path) -> None:
    """Raises UserError where a config's serving folder has nothing to serve."""
    if not releases.read(task.serving_folder):
        raise UserError(f"{task.serving_folder} holds no pushed version; `bertline run {file}` makes one.")


@contextmanager
def own_server(task: Config) -> Iterator[str]:
    """An embedded server on a free port for the length of a block; yields its address. Its log stays off the screen."""
    from bertline.serving.server import Server

    with screen.quiet(task.root_folder / "logs" / "serve.log"):
        server = Server.of(task.serving_folder, task.name, host=task.serve.host, port=0)
        server.start()
    try:
        yield server.address
    finally:
        server.stop()


def _texts(texts: list[str], pair: list[str] | None, paired: bool) -> tuple[list[str], list[str] | None]:
    """The texts to predict and, for a model of text pairs, the second texts."""
    if texts:
        if paired and len(pair or []) != len(texts):
            raise UserError(f"this model reads text pairs: give one --pair for each of the {len(texts)} texts.")
        if pair and not paired:
            raise UserError("this model reads single texts: --pair has no place.")
        return texts, pair
    lines = [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
    if not lines:
        raise UserError("no text to predict: give texts as arguments or a text a line on stdin.")
    if not paired:
        return lines, None
    split = [line.split("\t") for line in lines]
    for number, fields in enumerate(split, 1):
        if len(fields) != 2:
            raise UserError(f"stdin line {number}: this model reads text pairs, two texts with a tab between them.")
    return [fields[0] for fields in split], [fields[1] for fields in split]
