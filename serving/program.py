"""What the programs `bertline-model-server` and `bertline-log-proxy` have in common as programs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from bertline.errors import UserError


def run(work: Callable[[], None], **levels: int) -> int:
    """Does a program's work with its log on standard error; returns the exit status.

    Args:
        work: until the program is told to end.
        levels: library -> the least level of what it logs.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for library, level in levels.items():
        logging.getLogger(library).setLevel(level)
    try:
        work()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
