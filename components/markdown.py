"""Strings from data as a part of Markdown."""

from __future__ import annotations

import re

# A bare address becomes a link in GitHub's Markdown, which Hugging Face and MLflow show.
_ADDRESS = re.compile(r"(?i)(?<=[a-z]):(?=//)|(?<=www)\.")


def plain(text: object) -> str:
    """A label, slice, path or name on one line of Markdown that shows it and does nothing else."""
    line = re.sub(r"([\\`*_\[\]<>|#&~])", r"\\\1", " ".join(str(text).split()))
    return _ADDRESS.sub(r"\\\g<0>", line)
