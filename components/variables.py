"""${NAME} in a config's texts stands for a variable of the environment, so that no config holds a password."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from bertline.errors import UserError

REFERENCE = re.compile(r"\$\{(\w+)\}")


def values(text: str, where: str) -> dict[str, str]:
    """The values of the variables that a text names, by their names.

    Args:
        text: of a config.
        where: the text's key in the config, for errors.

    Raises:
        UserError: a variable is not set.
    """
    names = REFERENCE.findall(text)
    for name in names:
        if name not in os.environ:
            raise UserError(f"{where}: the environment has no variable {name}. Set it, and run again.")
    return {name: os.environ[name] for name in names}


def filled(text: str, where: str, quoted: Callable[[str], str] = str) -> str:
    """A text with the values in place of the names.

    Args:
        text: as for `values`.
        where: as for `values`.
        quoted: makes a value fit for its place in the text.

    Raises:
        UserError: a variable is not set.
    """
    found = values(text, where)
    return REFERENCE.sub(lambda match: quoted(found[match[1]]), text)
