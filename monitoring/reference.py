"""What a served model is held against: its own test rows, as it answered them before it was pushed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertline.components.answers import Answers
from bertline.errors import UserError
from bertline.models import features
from bertline.serving import masking
from bertline.serving.calls import Call
from bertline.serving.monitored import MONITORED

BATCH = 32


@dataclass(frozen=True)
class Reference:
    """Test rows in the form of a Window's.

    Attributes:
        classes: the labels, in the order of the probabilities.
        labels: int32 [rows], what the model answered; of a multi-label model bool [rows, classes].
        confidence: float32 [rows], the probability of the answer.
        right: bool [rows], whether the answer is right.
        abstained: float32 [rows], 1 or 0; NaN of a model that does not abstain.
        characters: float32 [rows].
        unknown: float32 [rows], share of the wordpieces that the vocabulary lacks; NaN where the model does not tell.
        embedding: float16 [rows, hidden]; None where the model gives none.
        texts: masked as those of records are.
        columns: kept column -> its values, [rows].
    """

    classes: list[str]
    labels: np.ndarray
    confidence: np.ndarray
    right: np.ndarray
    abstained: np.ndarray
    characters: np.ndarray
    unknown: np.ndarray
    embedding: np.ndarray | None
    texts: list[str]
    columns: dict[str, list[Any]]

    @property
    def rows(self) -> int:
        """How many test rows there are."""
        return len(self.confidence)


def read(answers: Answers, version_folder: Path, cache: Path) -> Reference:
    """The reference of a pushed version.

    Args:
        answers: its evaluation's.
        version_folder: with its SavedModel, which is run once over the test rows.
        cache: a Parquet file that keeps what came of it, with masked texts.

    Raises:
        UserError: the cache cannot be written.
    """
    texts = answers.columns[features.TEXT]
    pairs = answers.columns.get(features.TEXT_PAIR)
    told = _cached(cache, lambda: _told(texts, pairs, version_folder))
    rows = len(texts)
    missing = np.full(rows, np.nan, np.float32)
    pieces = told["pieces"] if "pieces" in told.column_names else None
    unknown = missing if pieces is None else told["unknown"].to_numpy() / np.maximum(pieces.to_numpy(), 1)
    embedding = None
    if "embedding" in told.column_names:
        embedding = np.stack(told["embedding"].combine_chunks().to_numpy(zero_copy_only=False))
    known = {features.TEXT, features.TEXT_PAIR, features.ROW_ID, features.SOURCE}
    return Reference(
        classes=answers.classes,
        labels=answers.predicted if answers.multi_label else answers.predicted.astype(np.int32),
        confidence=answers.confidence.astype(np.float32),
        right=answers.right,
        abstained=missing if answers.abstained is None else answers.abstained.astype(np.float32),
        characters=np.array([len(text) for text in texts], np.float32)
        + (0 if pairs is None else np.array([len(pair) for pair in pairs], np.float32)),
        unknown=unknown.astype(np.float32),
        embedding=embedding,
        texts=told["text"].to_pylist(),
        columns={name: values for name, values in answers.columns.items() if name not in known},
    )


def _cached(file: Path, make: Callable[[], pa.Table]) -> pa.Table:
    if not file.is_file():
        table, unfinished = make(), file.with_name(f".{file.name}.unfinished")
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            pq.write_table(table, unfinished)
            unfinished.rename(file)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise UserError(f"{file} cannot be written: {error.strerror or error}") from error
    return pq.ParquetFile(file).read()


def _told(texts: list[str], pairs: list[str] | None, version_folder: Path) -> pa.Table:
    """What the signature `monitored` tells of the texts, and the texts masked; without it the texts alone."""
    from bertline.serving.servable import Servable  # TensorFlow

    columns: dict[str, Any] = {"text": [masking.mask_text(text) for text in texts]}
    servable = Servable(version_folder, "reference", 0)
    try:
        signature = servable.signatures.get(MONITORED)
        if signature is None:
            return pa.table(columns)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # texts of like length are padded least
        inputs = {"text": texts, **({} if pairs is None else {"text_pair": pairs})}
        names = {name: signature.outputs[name].name for name in ("embedding", "pieces", "unknown")}
        told: dict[str, list[Any]] = {name: [None] * len(texts) for name in names}
        for start in range(0, len(texts), BATCH):
            rows = order[start : start + BATCH]
            feeds = {
                signature.inputs[name].name: np.array([values[row].encode() for row in rows], object)
                for name, values in inputs.items()
                if name in signature.inputs
            }
            outputs = servable.run(Call(feeds, tuple(names.values())))
            for name, tensor in names.items():
                for row, value in zip(rows, outputs[tensor], strict=True):
                    told[name][row] = value
    finally:
        servable.close()
    vectors = np.stack(told["embedding"]).astype(np.float16)
    flat, width = pa.array(vectors.ravel()), vectors.shape[1]
    return pa.table(
        columns
        | {
            "embedding": pa.ListArray.from_arrays(pa.array(np.arange(len(texts) + 1, dtype=np.int32) * width), flat),
            "pieces": np.array(told["pieces"], np.int32),
            "unknown": np.array(told["unknown"], np.int32),
        }
    )
