"""The error that a person can act on. Every layer may raise it, so it stands below them all."""

from __future__ import annotations


class UserError(Exception):
    """The user's data, config, files or gates are at fault; the message names the culprit and the way out.

    The message is all that the screen shows. Any other error is a fault of ours or of a library, and keeps its
    traceback in the log.
    """
