"""`bertline predict`: texts from arguments or stdin, predictions from a running server or one of its own."""

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

Answers = list[tuple[str, Prediction]]  # each text with the model's prediction


def of_config(file: Path, texts: list[str], pair: list[str] | None, address: str | None, **connection: Any) -> Answers:
    """Asks the model of a config: at `address`, else where the config serves it, else a server started for this call.

    Args:
        file: the config.
        texts: without any, one text per line is read from stdin.
        pair: the second text of each, for a model of text pairs.
        address: HOST:PORT of a server.
        connection: further settings of the Client.

    Raises:
        UserError: no text, a pair too few, nothing to serve, or a server that refuses or cannot start.
    """
    task = configs.load(file)
    texts, pairs = _texts(texts, pair, bool(task.data.text_pair))
    place = address or f"{task.serve.host}:{task.serve.port}"
    with _in_words(), Client(place, task.name, **connection) as client:
        if address or _answers(client):
            return list(zip(texts, client.predict(texts, pairs), strict=True))
    require_release(task, file)
    print(f"no server at {place}; starting one for this call", file=sys.stderr)
    with own_server(task) as started, _in_words(), Client(started, task.name) as client:
        return list(zip(texts, client.predict(texts, pairs), strict=True))


def of_server(address: str, model: str, texts: list[str], pair: list[str] | None, **connection: Any) -> Answers:
    """Asks a model by the name that a server knows it by; arguments and errors as those of `of_config`."""
    with _in_words(), Client(address, model, **connection) as client:
        signature = client.metadata()[1].get(SIGNATURE)
        if signature is None:
            raise UserError(f"{model} at {address} has no signature {SIGNATURE!r}: it does not classify texts.")
        texts, pairs = _texts(texts, pair, "text_pair" in signature.inputs)
        return list(zip(texts, client.predict(texts, pairs), strict=True))


@contextmanager
def _in_words() -> Iterator[None]:
    """What the client says of the server, or of its own arguments (ValueError), as the person's error."""
    try:
        yield
    except (ServingError, ValueError) as error:
        raise UserError(str(error)) from error


def _answers(client: Client) -> bool:
    """Whether a server is there. It is asked once, so that a missing one is known at once."""
    try:
        client.status()
    except ServingError as error:
        if error.code.name != "UNAVAILABLE":
            raise
        return False
    return True


def api_key(file: Path | None) -> str | None:
    """The key in a file, else in the environment: never on the command line, where others see it.

    Raises:
        UserError: the file is no text.
    """
    try:
        key = file.read_text(encoding="utf-8") if file else os.environ.get(KEY_VARIABLE, "")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    return key.strip() or None


def require_release(task: Config, file: Path) -> None:
    """Raises UserError where a config's serving folder has no pushed version."""
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
            raise UserError("this model reads single texts: leave out --pair.")
        return texts, pair
    lines = [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
    if not lines:
        raise UserError("no text to predict: give texts as arguments, or one text per line on stdin.")
    if not paired:
        return lines, None
    split = [line.split("\t") for line in lines]
    for number, fields in enumerate(split, 1):
        if len(fields) != 2:
            raise UserError(f"stdin line {number}: this model reads text pairs, two texts with a tab between them.")
    return [fields[0] for fields in split], [fields[1] for fields in split]
