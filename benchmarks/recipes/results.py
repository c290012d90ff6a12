"""What was measured: one JSON object a line, written as it comes, so that a run can be stopped at any time."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bertline.errors import UserError


class Answered(NamedTuple):
    """What a fit gives.

    Attributes:
        answers: the label of each test row, int [rows].
        seconds: as in Result.
        weights: as in Result.
        note: as in Result.
    """

    answers: np.ndarray
    seconds: float
    weights: int | None
    note: str


@dataclass(frozen=True)
class Result:
    """One trial.

    Attributes:
        set, size, seed, method: what was tried.
        labels, train_rows: of the trial.
        tokens: median length of a training row, in wordpieces.
        accuracy, macro_f1: on the test rows.
        seconds: of processor time, from token ids (TF-IDF: texts) to the fitted model. What other programs do at the
            same time changes it little.
        weights: how many are trained; None where nobody counted.
        right: which test rows were answered rightly: a bit each, the first one leading, as hexadecimal digits.
        test_rows: how many.
        note: what the validation rows chose.
        foreign: whether `bertline init` takes the texts for another language than English.
        cpu: which bfloat16 instructions it has; seconds of different ones cannot be compared.
    """

    set: str
    size: str
    seed: int
    method: str
    labels: int
    train_rows: int
    tokens: int
    accuracy: float
    macro_f1: float
    seconds: float
    weights: int | None
    right: str
    test_rows: int
    note: str = ""
    foreign: bool = False
    cpu: str = "AVX512_BF16"

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What was tried. A second result of the same key replaces the first."""
        return self.set, self.size, self.seed, self.method

    def hits(self) -> np.ndarray:
        """Whether each test row was answered rightly, float [rows]."""
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(self.right), np.uint8))
        return bits[: self.test_rows].astype(float)


def packed(right: np.ndarray) -> str:
    """Bits as hexadecimal digits; see Result.right."""
    return np.packbits(right.astype(bool)).tobytes().hex()


def read(file: Path) -> dict[tuple[str, str, int, str], Result]:
    """All results of a file by their key; none where there is no file.

    Raises:
        UserError: a line is no result.
    """
    if not file.is_file():
        return {}
    results = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            result = Result(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise UserError(f"{file}:{number}: no result of this benchmark ({error}); take the line out") from error
        results[result.key] = result
    return results


def append(file: Path, result: Result) -> None:
    """Adds a line, in one write and synced: a process that is killed leaves it whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(asdict(result), ensure_ascii=False) + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
