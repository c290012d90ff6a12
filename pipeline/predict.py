"""`bertline predict`: texts from arguments or stdin, predictions from a running server or one of its own.

Each text has one outcome, in the order of the texts: the model's answer, or the fault that it has none for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import screen, text_lines
from bertline.pipeline.config import Config
from bertline.pipeline.text_lines import Line
from bertline.serving import answering, releases, standing
from bertline.serving.client import SIGNATURE, Client, Prediction, ServingError

KEY_VARIABLE = "BERTLINE_API_KEY"


class Outcome(NamedTuple):
    """What became of a text: its number, from 1, the text, and the model's answer or the fault."""

    number: int
    text: str
    answer: Prediction | str


def of_config(
    file: Path, texts: list[str], pair: list[str] | None, address: str | None, **connection: Any
) -> Iterator[Outcome]:
    """Asks the model of a config: at `address`, else where the config serves it, else a server started for this call.

    Args:
        file: the config.
        texts: without any, one text per line is read from stdin.
        pair: the second text of each, for a model of text pairs.
        address: HOST:PORT of a server.
        connection: further settings of the Client.

    Yields:
        An outcome per text, as they are known.

    Raises:
        UserError: no text, a pair too few, nothing to serve, or a server that refuses or cannot start.
    """
    task = configs.load(file)
    paired = bool(task.data.text_pair)
    place = address or f"{task.serve.host}:{task.serve.port}"
    with connected(place, task.name, **connection) as client:
        if address or _answers(client):
            yield from _outcomes(client, _asked(texts, pair, paired), paired)
            return
    require_release(task, file)
    print(f"no server at {place}; starting one for this call", file=sys.stderr)
    with own_server(task) as started, connected(started, task.name) as client:
        yield from _outcomes(client, _asked(texts, pair, paired), paired)


def of_server(
    address: str, model: str, texts: list[str], pair: list[str] | None, **connection: Any
) -> Iterator[Outcome]:
    """Asks a model by the name that a server knows it by; arguments and errors as those of `of_config`."""
    with connected(address, model, **connection) as client:
        paired = reads_pairs(client.metadata()[1], f"{model} at {address}")
        yield from _outcomes(client, _asked(texts, pair, paired), paired)


def reads_pairs(signatures: Mapping[str, Any], where: str) -> bool:
    """Whether a model classifies text pairs, and not single texts.

    Args:
        signatures: of the model, by name.
        where: the model is, for errors.

    Raises:
        UserError: it does not classify texts.
    """
    signature = signatures.get(SIGNATURE)
    if signature is None:
        raise UserError(f"{where} has no signature {SIGNATURE!r}: it does not classify texts.")
    return "text_pair" in signature.inputs


@contextmanager
def connected(address: str, model: str, **connection: Any) -> Iterator[Client]:
    """A client for the length of a block. What it says of its settings, or of the server, is the person's error."""
    try:
        client = Client(address, model, **connection)
    except ValueError as error:  # settings that contradict each other, or a key that would travel unencrypted
        raise UserError(str(error)) from error
    try:
        with client:
            yield client
    except ServingError as error:
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
        version = standing.answering(task.serving_folder, task.serve.canary is not None)
        versions = [] if version is None else [version]
        server = Server.of(task.serving_folder, task.name, versions, host=task.serve.host, port=0)
        server.start()
    try:
        yield server.address
    finally:
        server.stop()


# === The texts ===


class Asked(NamedTuple):
    """A text to ask about, with the second text of a pair; or the fault for which it is not asked about."""

    number: int
    text: str
    pair: str | None = None
    fault: str | None = None


def _asked(texts: list[str], pair: list[str] | None, paired: bool) -> Iterator[list[Asked]]:
    """The texts, all that are known at a time: those of the arguments, else the lines of stdin."""
    if not texts:
        yield from ([_of_line(line, paired) for line in lines] for lines in _stdin())
        return
    if paired and len(pair or []) != len(texts):
        raise UserError(f"this model reads text pairs: give one --pair for each of the {len(texts)} texts.")
    if pair and not paired:
        raise UserError("this model reads single texts: leave out --pair.")
    yield [
        _checked(Asked(number, text, second))
        for number, (text, second) in enumerate(zip(texts, pair or [None] * len(texts), strict=True), 1)
    ]


def _stdin() -> Iterator[list[Line]]:
    if sys.stdin.isatty():
        print("one text per line; Ctrl-D ends", file=sys.stderr)
    number = 0
    for lines in text_lines.windows(sys.stdin.buffer):
        number = lines[-1].number
        yield lines
    if not number:
        raise UserError("no text to predict: give texts as arguments, or one text per line on stdin.")


def _of_line(line: Line, paired: bool) -> Asked:
    if line.fault:
        return Asked(line.number, "", fault=line.fault)
    if not paired or not line.text.strip():
        return _checked(Asked(line.number, line.text))
    fields = line.text.split("\t")
    if len(fields) != 2:
        what = f"{len(fields)} texts" if len(fields) > 2 else "one text"
        return Asked(
            line.number, line.text, fault=f"{what}; this model reads text pairs, two texts with a tab between them"
        )
    return _checked(Asked(line.number, *fields))


def _checked(asked: Asked) -> Asked:
    """With its fault, where no model could answer: it is blank, or no Unicode, as bytes of a command line may be."""
    texts = [asked.text] if asked.pair is None else [asked.text, asked.pair]
    if not all(text.strip() for text in texts):
        return asked._replace(fault="blank: there is no text")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return asked._replace(text=asked.text.encode(errors="replace").decode(), fault="not UTF-8")
    return asked


# === The answers ===


def _outcomes(client: Client, windows: Iterable[list[Asked]], paired: bool) -> Iterator[Outcome]:
    for window in windows:
        good = [asked for asked in window if not asked.fault]
        pairs = [asked.pair or "" for asked in good] if paired else None
        try:
            answers = iter(answering.answers(client, [asked.text for asked in good], pairs))
        except ServingError as error:
            if window[0].number == 1:
                raise
            raise UserError(f"from text {window[0].number:,} on there is no answer: {error}") from error
        for asked in window:
            yield Outcome(asked.number, asked.text, asked.fault or next(answers))
