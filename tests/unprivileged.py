"""Users whom permissions hold back, for tests that may run as root or as anybody."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or folder belongs to another user from now on; where this is not root, it only looks so to os.stat."""
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
        return
    stat = os.stat

    def of_another(asked, *args, **kwargs):
        status = stat(asked, *args, **kwargs)
        if isinstance(asked, int) or os.fspath(asked) != str(path):
            return status
        return os.stat_result((*status[:4], status.st_uid + 1, *status[5:]))

    monkeypatch.setattr(os, "stat", of_another)
