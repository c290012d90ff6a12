"""Warms a version before it answers, so that no client waits while TensorFlow optimises a graph.

https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bertline.errors import UserError
from bertline.serving import methods
from bertline.serving.calls import Call
from bertline.serving.errors import RequestError
from bertline.serving.protos import PredictionLog, SignatureDef
from bertline.serving.releases import WARMUP_FILE
from bertline.serving.runtime import tf
from bertline.serving.servable import DEFAULT_SIGNATURE, Servable

log = logging.getLogger("bertline.serving")

MAX_RECORDS = 1000  # TF Serving's limit

_METHODS = {
    "predict_log": methods.PREDICT,
    "classify_log": methods.CLASSIFY,
    "regress_log": methods.REGRESS,
    "multi_inference_log": methods.MULTI_INFERENCE,
}
# A string input may take serialized tf.Examples or texts. The features here are those that this line's and TFX's
# models require. The text is of ordinary length: oneDNN lays out the weights for the first shape that it meets, and
# after an empty text each single text took 1.6 times the processor time (BERT of six layers in bfloat16).
_WORDS = b"a row of some twenty ordinary words warms a model for the texts that people will send to it later on"
_TEXT = tf.train.Feature(bytes_list=tf.train.BytesList(value=[_WORDS]))
_BLANK_EXAMPLE = tf.train.Example(
    features=tf.train.Features(feature={"text": _TEXT, "text_pair": _TEXT, "label": _TEXT})
).SerializeToString()
_EXAMPLE_INPUTS = ("examples", methods.INPUTS)


def warm_up(servable: Servable, rounds: int = 1) -> None:
    """Replays the version's recorded requests, and runs one blank row through each signature that has none.

    A recorded request that fails keeps the version out, as in TF Serving. A signature that takes no blank row stays
    cold.

    Args:
        servable: loaded, not yet answering.
        rounds: how often each recorded request is replayed.

    Raises:
        UserError: a recorded request that the version cannot answer, or a record file that cannot be read or has more
            than 1,000 records.
    """
    warm: set[str] = set()
    file = Path(servable.path) / WARMUP_FILE
    for number, recorded in enumerate(_recorded(file), 1):
        kind = recorded.WhichOneof("log_type")
        if kind not in _METHODS:
            raise UserError(f"{file}: record {number}: one of {kind or 'nothing'} cannot be replayed")
        method, request = _METHODS[kind], getattr(recorded, kind).request
        try:
            for _ in range(rounds):
                method.answer(servable, request, servable.run(method.prepare(servable, request)))
        except Exception as error:  # its words may quote the request, and every caller can read a version's state
            what = error.code.name if isinstance(error, RequestError) else type(error).__name__
            where = f"record {number}, a {kind} for {_signature(recorded) or 'several signatures'}"
            raise UserError(f"{file}: {where}, ends with {what}") from None
        if _signature(recorded):
            warm.add(_signature(recorded))
    for name, signature in servable.signatures.items():
        if name not in warm and signature.inputs:
            _warm_blank(servable, name, signature)


def _signature(recorded: PredictionLog) -> str:
    """The signature that a recorded request asks for; "" where it asks for several."""
    kind = recorded.WhichOneof("log_type")
    if kind == "multi_inference_log":
        return ""
    return getattr(recorded, kind).request.model_spec.signature_name or DEFAULT_SIGNATURE


def _warm_blank(servable: Servable, name: str, signature: SignatureDef) -> None:
    inputs = {alias: info for alias, info in signature.inputs.items() if info.name}
    # In the order of requests: TensorFlow prepares a run for its very feeds and fetches.
    fetches = tuple(info.name for _, info in sorted(signature.outputs.items()) if info.name)
    if len(inputs) < len(signature.inputs) or not fetches:
        return  # sparse or ragged tensors, which no request can feed either
    try:
        servable.run(Call({info.name: _blank(alias, info) for alias, info in sorted(inputs.items())}, fetches))
    except Exception as error:  # the row is our guess, and requests may well be answered
        log.info("%s: signature %s takes no blank row, so it stays cold: %s", servable.where, name, error)


def _blank(alias: str, info) -> np.ndarray:
    """One row of zeros, of made-up texts or of an Example with them, that fits the input."""
    dtype = tf.dtypes.as_dtype(info.dtype)
    shape = [1 if dimension.size == -1 else dimension.size for dimension in info.tensor_shape.dim]
    if info.tensor_shape.unknown_rank:
        shape = [1]
    if dtype == tf.string:
        blank = np.empty(shape, object)
        blank.fill(_BLANK_EXAMPLE if alias in _EXAMPLE_INPUTS else _WORDS)
        return blank
    return np.zeros(shape, dtype.as_numpy_dtype)


def _recorded(file: Path) -> Iterator[PredictionLog]:
    if not file.is_file():
        return
    try:
        for number, record in enumerate(tf.data.TFRecordDataset(str(file)).as_numpy_iterator()):
            if number == MAX_RECORDS:
                raise UserError(f"{file}: more than {MAX_RECORDS} warm-up requests; keep the most telling ones")
            yield PredictionLog.FromString(record)
    except tf.errors.OpError as error:
        raise UserError(f"{file}: not a TFRecord file: {error.message}") from error
