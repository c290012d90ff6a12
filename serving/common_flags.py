"""Flags that the server and the log proxy share: where they listen, and what they keep of requests."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from bertline.errors import UserError
from bertline.serving.recording import RecordOptions

HOST_VARIABLE = "BERTLINE_SERVE_HOST"  # set by the image, where loopback would be the container's own
FREE_PORT = -1


def add_record_flags(group) -> None:
    """Adds --records_folder and those that say what is kept."""
    options = RecordOptions(Path())
    group.add_argument("--records_folder", help="keep a record of each request there, for `bertline monitor`")
    group.add_argument("--records_rate", type=float, default=options.rate, help="share of the requests")
    add_switch(group, "records_texts", options.texts, "keep the texts too, with personal data masked")
    add_switch(group, "records_embeddings", options.embeddings, "keep the vectors of a model that gives them")
    group.add_argument("--records_columns", default="", help="features of tf.Examples (A,B) to keep, masked")
    group.add_argument("--records_days", type=int, default=options.days, help="after which records are removed")
    group.add_argument("--records_bytes", type=int, default=options.most_bytes, help="of all records")


def record_options(flags: argparse.Namespace) -> RecordOptions | None:
    """What the flags say; None without a folder.

    Raises:
        UserError: a number is out of its range.
    """
    if not flags.records_folder:
        return None
    try:
        return RecordOptions(
            Path(flags.records_folder),
            rate=flags.records_rate,
            texts=flags.records_texts,
            embeddings=flags.records_embeddings,
            columns=tuple(filter(None, flags.records_columns.split(","))),
            days=flags.records_days,
            most_bytes=flags.records_bytes,
        )
    except ValueError as error:
        raise UserError(f"--records_...: {error}") from error


def add_switch(group, name: str, default: bool, words: str) -> None:
    """A flag that is true as --name or --name=true, and false as --name=false."""
    group.add_argument(f"--{name}", nargs="?", const=True, default=default, type=_boolean, help=words)


def add_host(group, beside: str = "") -> None:
    """The flag --host; `beside` is what else its help says."""
    words = f"address to listen on; default: {HOST_VARIABLE} of the environment, else 127.0.0.1{beside}"
    group.add_argument("--host", default=os.environ.get(HOST_VARIABLE, "127.0.0.1"), help=words)


def port_of(number: int) -> int | None:
    """A port flag's number as servers have it: None for none, 0 for a free one."""
    return {0: None, FREE_PORT: 0}.get(number, number)


def channel_arguments(text: str) -> tuple[tuple[str, int | str], ...]:
    """Of --grpc_channel_arguments: name=value,name=value.

    Raises:
        UserError: a part has no value.
    """
    pairs = []
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"--grpc_channel_arguments: {part!r} is not name=value")
        pairs.append((name.strip(), int(value) if value.strip().lstrip("-").isdigit() else value.strip()))
    return tuple(pairs)


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "t", "yes"):
        return True
    if text.lower() in ("false", "0", "f", "no"):
        return False
    raise argparse.ArgumentTypeError(f"true or false, not {text!r}")
