"""A command of the user's that rewrites texts, such as one that translates them there and back."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bertline.errors import UserError

SEED = "BERTLINE_SEED"  # in the command's environment: another number for each variant of a row
KEY = "train.augment.command"
_SHOWN = 500  # characters of what the command says of itself


def program(name: str, folder: str) -> str:
    """The program's path. A name with a slash in it starts at a folder, like the other paths of a config.

    Raises:
        UserError: it is not there.
    """
    wanted = str(Path(folder) / Path(name).expanduser()) if "/" in name else name
    if found := shutil.which(wanted):
        return found
    raise UserError(f"{KEY}: there is no program {wanted!r} that can be run; install it, or correct its path")


def files(command: Sequence[str], folder: str) -> list[str]:
    """Absolute paths of the files that decide what a command writes: its program, if it has a path, and its arguments.

    Args:
        command: the program and its arguments, of which some may be files, as seen from the current folder.
        folder: where the program's path starts.
    """
    program = [str(Path(folder) / Path(command[0]).expanduser())] if "/" in command[0] else []
    return [os.path.abspath(path) for path in (*program, *command[1:]) if os.path.isfile(path)]


def rewritten(command: Sequence[str], texts: list[str], seed: int) -> list[str]:
    """What the command makes of texts: each is a line of its standard input, and a line of its standard output.

    Line ends inside a text become spaces.

    Args:
        command: the program's path and its arguments; no shell reads them.
        texts: at least one.
        seed: is in the command's environment as BERTLINE_SEED.

    Raises:
        UserError: the command cannot be started or fails, its output is no UTF-8, or has another number of lines.
    """
    lines = "".join(" ".join(text.split()) + "\n" for text in texts)
    try:
        done = subprocess.run(
            list(command), input=lines.encode(), capture_output=True, check=False, env={**os.environ, SEED: str(seed)}
        )
    except OSError as error:
        raise UserError(f"{KEY}: {command[0]!r} cannot be started: {error.strerror}") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[-_SHOWN:]
        raise UserError(f"{KEY}: {command[0]!r} ended with code {done.returncode}: {said or 'it says no more'}")
    try:
        written = done.stdout.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{KEY}: what {command[0]!r} writes is no UTF-8: {error}") from error
    answers = written.removesuffix("\n").replace("\r\n", "\n").split("\n") if written else []
    if len(answers) != len(texts):
        raise UserError(
            f"{KEY}: {command[0]!r} got {len(texts):,} lines and wrote {len(answers):,}; it must write exactly one "
            "line for each line that it reads, an empty one where it has nothing to say"
        )
    return answers
