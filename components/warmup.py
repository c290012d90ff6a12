"""Warm-up requests: rows of the evaluation that TF Serving sends to a version before it takes traffic.

TensorFlow optimises a graph when it first runs, and oneDNN prepares its kernels for each new shape. So the requests
span the lengths and the batch sizes that clients send. https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

from collections.abc import Iterator

import pyarrow.parquet as pq

from bertline.models import features
from bertline.serving import releases, storage
from bertline.serving.protos import DataType, Example, PredictionLog, SavedModel, TensorProto

TEXTS, EXAMPLES = "text", "serving_default"  # the signatures that clients call
# Rows in a request: single ones, and as many as a server may batch together.
BATCH_SIZES = (1, 4, 16)


def write(file: str, saved_model: str, predictions: str, rows: int) -> None:
    """Writes the warm-up requests of a SavedModel as a TFRecord file of PredictionLogs.

    The requests carry no model name: a server runs them on the version that it is loading.

    Args:
        file: local path to write.
        saved_model: folder of the SavedModel, whose `text` signature says whether rows have two texts.
        predictions: the Evaluator's Parquet file, with the columns `text` and `text_pair`.
        rows: how many rows to take, from the shortest text to the longest.
    """
    import tensorflow as tf

    sample = choose(predictions, rows)
    with tf.io.TFRecordWriter(file) as writer:
        for signature, inputs in _inputs(saved_model).items():
            for batch in _batches(sample):
                writer.write(request(signature, inputs, batch).SerializeToString())


def choose(predictions: str, rows: int) -> list[dict[str, str]]:
    """Rows of the evaluation in even steps of length, from the shortest to the longest; all if there are fewer."""
    with storage.open_file(predictions, "rb") as source:
        table = pq.read_table(source, columns=[features.TEXT, features.TEXT_PAIR]).to_pylist()
    ordered = sorted(table, key=lambda row: len(row[features.TEXT]) + len(row[features.TEXT_PAIR]))
    steps = min(rows, len(ordered))
    return [ordered[number * (len(ordered) - 1) // max(steps - 1, 1)] for number in range(steps)]


def request(signature: str, inputs: list[str], batch: list[dict[str, str]]) -> PredictionLog:
    """A Predict request of a batch of rows.

    Args:
        signature: TEXTS or EXAMPLES.
        inputs: the names of the signature's inputs.
        batch: rows with the features that TEXTS takes.
    """
    log = PredictionLog()
    predict = log.predict_log.request
    predict.model_spec.signature_name = signature
    for name in inputs:
        values = [_example(row) if signature == EXAMPLES else row[name].encode() for row in batch]
        predict.inputs[name].CopyFrom(_strings(values))
    return log


def _inputs(saved_model: str) -> dict[str, list[str]]:
    """Signature -> the names of its inputs."""
    with storage.open_file(f"{saved_model}/{releases.SAVED_MODEL_FILE}", "rb") as file:
        signatures = SavedModel.FromString(file.read()).meta_graphs[0].signature_def
    return {name: sorted(signatures[name].inputs) for name in (TEXTS, EXAMPLES)}


def _batches(rows: list[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    """Batches of rows of similar length; the middle row comes first.

    oneDNN lays out the weights for the first shape that it meets. After the shortest row, or 16 rows, each single text
    took 1.6 times the processor time as after the middle row; batches of 16 take 5% less at most (BERT of six layers in
    bfloat16).
    """
    if rows:
        yield [rows[len(rows) // 2]]
    for size in BATCH_SIZES:
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def _example(row: dict[str, str]) -> bytes:
    example = Example()
    for name, value in row.items():
        example.features.feature[name].bytes_list.value.append(value.encode())
    return example.SerializeToString()


def _strings(values: list[bytes]) -> TensorProto:
    tensor = TensorProto(dtype=DataType.DT_STRING, string_val=values)
    tensor.tensor_shape.dim.add(size=len(values))
    return tensor
