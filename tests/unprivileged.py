"""A user whom permissions hold back, for tests that may run as root."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

NOBODY = 65534


@contextmanager
def unprivileged() -> Iterator[None]:
    """For the length of a block, this process is no longer root's, if it was."""
    root = os.geteuid() == 0
    if root:
        os.setresuid(NOBODY, NOBODY, 0)  # os.access goes by the real user
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)
