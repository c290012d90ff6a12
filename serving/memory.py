"""Memory that the process no longer needs."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Gives memory that is free back to the system, where the C library can (glibc); else it stays the process's."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
