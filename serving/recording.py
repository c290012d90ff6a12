"""What is to be kept of requests, and a request that is to be recorded. Needs neither numpy nor pyarrow."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ID = re.compile(r"[\x21-\x7e]{1,64}", re.ASCII)  # what a caller may give as its request's id
ID_HEADER = "x-request-id"  # in which a caller may give the id, and gets it back

Rows = dict[str, list[Any]]  # rows of records, in lists by column


@dataclass(frozen=True)
class RecordOptions:
    """What is kept of each request, for `bertline monitor`.

    Args:
        folder: where the records go; a folder per day is made in it.
        rate: share of the requests that are recorded, 0 to 1.
        texts: whether their texts are kept, with personal data masked.
        embeddings: whether the texts' vectors are kept, of a model that gives them.
        columns: features of tf.Examples that are kept, masked.
        days: after which a day's records go.
        most_bytes: of all records; the oldest go first.

    Raises:
        ValueError: a number is out of its range; names it.
    """

    folder: Path
    rate: float = 1.0
    texts: bool = False
    embeddings: bool = True
    columns: tuple[str, ...] = ()
    days: int = 30
    most_bytes: int = 1 << 30

    def __post_init__(self):
        if not 0 <= self.rate <= 1:
            raise ValueError(f"the rate of records must be from 0 to 1, and is {self.rate:g}")
        for name in ("days", "most_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of records must be at least 1, and is {getattr(self, name)}")


@dataclass(slots=True)
class Entry:
    """A request that is to be recorded.

    Attributes:
        id: its id, the caller's own or one of ours.
        time: when it came, Unix seconds.
        version: of the model that is asked; None until it is known.
        signature: of that model.
        content: makes the rows, from whether there is time to mask texts; None where nothing is known of them.
        size: bytes that `content` holds.
    """

    id: str
    time: float = field(default_factory=time.time)
    version: int | None = None
    signature: str = ""
    content: Callable[[bool], Rows] | None = None
    size: int = 0
    model: str = ""
    status: str = ""
    milliseconds: float = 0.0

    def row_ids(self, rows: int) -> list[str]:
        """The id of each text of the request."""
        return [self.id] if rows == 1 else [f"{self.id}-{row}" for row in range(rows)]
