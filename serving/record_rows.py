"""From a request and its answer to rows of records: one per text, in lists by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from google.protobuf.message import DecodeError

from bertline.serving import masking
from bertline.serving.monitored import EMBEDDING, PIECES, UNKNOWN
from bertline.serving.protos import Example
from bertline.serving.recording import RecordOptions, Rows

if TYPE_CHECKING:
    from bertline.serving.messages import Prediction

TEXT, TEXT_PAIR = "text", "text_pair"
EXAMPLES = ("examples", "inputs")  # what signatures call their input of serialized tf.Examples


def of_call(
    inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], options: RecordOptions, keep_texts: bool
) -> Rows:
    """The rows of a call of a graph.

    Args:
        inputs: by their names in the signature, each [rows].
        outputs: the same, each [rows, ...]; {} where the call failed. What does not classify texts is left out.
        options: what to keep.
        keep_texts: whether there is time to mask the texts.

    Returns:
        Columns of record_files.SCHEMA with one value per text. Without texts that this module can read it is one row
        of the request.
    """
    texts, pairs, columns = _asked(inputs, options)
    rows = len(texts)
    if not rows:
        return {"characters": [None]}
    answer = {name: value for name, value in outputs.items() if value.ndim and len(value) == rows}
    table = _of_texts(texts, pairs, options, keep_texts) | _answered(answer, rows)
    for name in (PIECES, UNKNOWN):
        if name in answer:
            table[name] = answer[name].tolist()
    if options.embeddings and EMBEDDING in answer:
        table[EMBEDDING] = list(answer[EMBEDDING].copy())  # a view would keep the whole batch in memory
    if options.columns:
        table["columns"] = columns
    return table


def of_predictions(
    texts: Sequence[bytes],
    pairs: Sequence[bytes] | None,
    predictions: Sequence[Prediction],
    options: RecordOptions,
    keep_texts: bool,
) -> Rows:
    """The rows of a client's request; `predictions` is empty where it failed. Otherwise as `of_call`."""
    table = _of_texts(texts, pairs or [None] * len(texts), options, keep_texts)
    if predictions:
        table |= {
            "label": [each.label for each in predictions],
            "labels": [None if each.label is not None else list(each.labels) for each in predictions],
            "classes": [list(each.probabilities) for each in predictions],
            "probabilities": [list(each.probabilities.values()) for each in predictions],
            "abstained": [each.abstained for each in predictions],
            "version": [each.version for each in predictions],
        }
    return table


def _asked(
    inputs: Mapping[str, np.ndarray], options: RecordOptions
) -> tuple[list[bytes], list[bytes | None], list[list[tuple[str, str]]]]:
    """Each row's text, the second text of a pair, and the columns that came with them; nothing for other inputs."""
    if TEXT in inputs and inputs[TEXT].dtype == object and inputs[TEXT].ndim == 1:
        texts = inputs[TEXT].tolist()
        pairs = inputs[TEXT_PAIR].tolist() if TEXT_PAIR in inputs else [None] * len(texts)
        return texts, pairs, [[] for _ in texts]
    serialized = next((inputs[name] for name in EXAMPLES if name in inputs), None)
    if serialized is None or serialized.dtype != object or serialized.ndim != 1:
        return [], [], []
    examples = [_features(each) for each in serialized.tolist()]
    return (
        [each.get(TEXT, b"") for each in examples],
        [each.get(TEXT_PAIR) for each in examples],
        [[(name, _masked(each[name])) for name in options.columns if name in each] for each in examples],
    )


def _features(serialized: bytes) -> dict[str, bytes]:
    """The first value of each feature, numbers as text; {} for what is no tf.Example."""
    try:
        features = Example.FromString(serialized).features.feature
    except DecodeError:
        return {}
    values = {}
    for name, feature in features.items():
        kind = feature.WhichOneof("kind")
        value = getattr(feature, kind).value[:1] if kind else ()
        if value:
            values[name] = value[0] if kind == "bytes_list" else str(value[0]).encode()
    return values


def _of_texts(texts: Sequence[bytes], pairs: Sequence[bytes | None], options: RecordOptions, keep_texts: bool) -> Rows:
    decoded = [text.decode(errors="replace") for text in texts]
    others = [None if pair is None else pair.decode(errors="replace") for pair in pairs]
    table: Rows = {
        "characters": [len(text) + len(other or "") for text, other in zip(decoded, others, strict=True)],
    }
    if options.texts and keep_texts:
        table[TEXT] = [masking.mask_text(text) for text in decoded]
        table[TEXT_PAIR] = [None if other is None else masking.mask_text(other) for other in others]
    return table


def _masked(value: bytes) -> str:
    return masking.mask_bytes(value).decode(errors="replace")


def _answered(answer: Mapping[str, np.ndarray], rows: int) -> Rows:
    """Labels and probabilities; {} unless the outputs are those of a classifier."""
    classes, probabilities = answer.get("classes"), answer.get("probabilities")
    if classes is None or probabilities is None or classes.ndim != 2 or classes.shape != probabilities.shape:
        return {}
    names = [[_name(each) for each in of_row] for of_row in classes.tolist()]
    table: Rows = {"classes": names, "probabilities": probabilities.astype(np.float32).tolist()}
    if "assigned" in answer:
        table["labels"] = [
            [name for name, has in zip(of_row, given, strict=True) if has]
            for of_row, given in zip(names, answer["assigned"].tolist(), strict=True)
        ]
    elif "label" in answer:
        table["label"] = [_name(each) for each in answer["label"].tolist()]
    if "abstained" in answer:
        table["abstained"] = answer["abstained"].tolist()
    return table


def _name(label: bytes | str) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else label
