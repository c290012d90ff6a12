"""Canary: before the push a fresh server loads the exported model, and must give the answers that the Evaluator saw.

Each op of the model must also be one that the real TF Serving has.
"""

import json
import logging
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from bertline.components.answers import PREDICTIONS_FILE
from bertline.components.evaluation import read_metrics
from bertline.components.options import CanaryOptions
from bertline.errors import UserError
from bertline.models import features
from bertline.serving import storage
from bertline.serving.client import Client, Prediction, ServingError

LOG_FILE = "server.log"
CANARY_FILE = "report.json"
BLESSED_FILE, NOT_BLESSED_FILE = "INFRA_BLESSED", "INFRA_NOT_BLESSED"  # TFX's InfraValidator's names
MODEL_NAME = "canary"
READY_SECONDS = 120.0  # a BERT of 110 M parameters on a busy host takes a third of it
SINGLE_ROWS = 50  # rows that are sent one at a time, for the latency; enough for a median
# bf16 keeps 8 bits of a number, and the other rows of a batch move a probability by some 1e-3. A difference of 1e-2
# means another model.
TOLERANCE = 1e-2
LOG_LINES = 3  # the last lines of the server's log that the reason for a failure quotes

log = logging.getLogger("bertline.canary")


@component
def Canary(
    model: InputArtifact[standard_artifacts.Model],
    evaluation: InputArtifact[standard_artifacts.ModelEvaluation],
    blessing: InputArtifact[standard_artifacts.ModelBlessing],
    canary: OutputArtifact[standard_artifacts.InfraBlessing],
    options: Parameter[str],
) -> None:
    """Sends rows of the evaluation to a fresh server, and blesses the model if the answers agree.

    Before that it looks for ops that TF Serving lacks. Ops that another library registered in this process pass this
    check, and fail in the fresh server, which has only TensorFlow's and TF Text's ops.

    Args:
        model: the exported model.
        evaluation: its predictions-test.parquet holds rows and the model's answers to them.
        blessing: the gates' verdict; a model that they blocked is not tried.
        canary: int property `blessed`, INFRA_BLESSED or INFRA_NOT_BLESSED as TFX's InfraValidator leaves it, the
            server's log in server.log and the figures in report.json.
        options: CanaryOptions as JSON.
    """
    if blessing.get_int_custom_property("blessed") != 1:
        _conclude(canary, False, "skipped: not blessed")
        return
    from bertline.serving import ops  # TensorFlow comes with it, which a stage that is skipped does without

    saved_model = path_utils.serving_model_path(model.uri)
    try:
        faults = ops.check(saved_model)
    except UserError as error:
        faults = [str(error)]
    if faults:
        _conclude(canary, False, f"TF Serving cannot run this model: {ops.describe(faults)}")
        return
    limits = CanaryOptions.model_validate_json(options)
    rows = _rows(f"{evaluation.uri}/{PREDICTIONS_FILE}", limits.rows)
    several = isinstance(rows[0]["predicted"], list)
    thresholds = read_metrics(evaluation.uri).multi_label.thresholds if several else None
    try:
        with fresh_server(saved_model, canary.uri) as address:
            comparison = compare(rows, address, thresholds)
    except ServerFailed as error:
        _conclude(canary, False, str(error))
        return
    _write(f"{canary.uri}/{CANARY_FILE}", json.dumps(comparison.report(), indent=2, ensure_ascii=False) + "\n")
    slow = too_slow(comparison, limits)
    _conclude(canary, comparison.agrees and not slow, f"{comparison.summary()}{slow}")


class ServerFailed(Exception):
    """The fresh server did not start, or did not answer. The message says why, and ends with its last words."""


# === The fresh server ===


@contextmanager
def fresh_server(saved_model: str, log_folder: str, ready_seconds: float = READY_SECONDS) -> Iterator[str]:
    """Runs the embedded server on a SavedModel, in a process of its own, while a block runs.

    Args:
        saved_model: folder of the SavedModel, local or remote.
        log_folder: gets the server's log.
        ready_seconds: how long the server may take to start.

    Yields:
        The address that a client dials.

    Raises:
        ServerFailed: it did not start in time, died, or did not answer inside the block.
    """
    with tempfile.TemporaryDirectory(prefix="bertline-canary-") as scratch:
        log_file = Path(scratch) / LOG_FILE
        _place(saved_model, Path(scratch) / "serving" / "1")
        address = f"unix:{scratch}/grpc"  # a port could be taken by another process
        process = _start(Path(scratch), log_file)
        try:
            _wait_until_ready(process, address, ready_seconds)
            yield address
        except ServingError as error:
            raise ServerFailed(f"the fresh server failed: {error}; {_last_words(log_file)}") from error
        finally:
            _stop(process)
            _write(f"{log_folder}/{LOG_FILE}", log_file.read_text(encoding="utf-8", errors="replace"))


def _place(saved_model: str, version_folder: Path) -> None:
    """Puts the SavedModel where a serving folder has its version 1: by a link, or a copy where it is remote."""
    version_folder.parent.mkdir()
    if not storage.is_remote(saved_model):
        version_folder.symlink_to(Path(saved_model).absolute())
        return
    for name in storage.files(saved_model):
        (version_folder / name).parent.mkdir(parents=True, exist_ok=True)
        storage.copy_file(f"{saved_model}/{name}", str(version_folder / name))


def _start(scratch: Path, log_file: Path) -> subprocess.Popen:
    command = [
        sys.executable,
        "-P",
        "-m",
        "bertline.serving.server",
        "--exit_with_parent",
        f"--model_name={MODEL_NAME}",
    ]
    command += [f"--model_base_path={scratch / 'serving'}", "--port=0", f"--grpc_socket_path={scratch / 'grpc'}"]
    command += ["--tensorflow_intra_op_parallelism=1", "--tensorflow_inter_op_parallelism=-1"]  # as it will be served
    with log_file.open("wb") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)


def _wait_until_ready(process: subprocess.Popen, address: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    with Client(address, MODEL_NAME) as client:
        while True:
            try:
                client.wait_until_ready(0.2)
                return
            except ServingError as error:
                status = process.poll()
                if status is not None:
                    reason = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
                    raise ServingError(error.code, f"it {reason} before it was ready") from error
                if time.monotonic() > deadline:
                    raise ServingError(error.code, f"it was not ready after {seconds:g} s") from error


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_words(log_file: Path) -> str:
    lines = [line.strip() for line in log_file.read_text(encoding="utf-8", errors="replace").splitlines()]
    return "its last words: " + (" | ".join([line for line in lines if line][-LOG_LINES:]) or "none")


# === Comparing answers ===


@dataclass(frozen=True)
class Comparison:
    """The fresh server's answers against those that the Evaluator saw.

    Attributes:
        rows: how many rows were compared.
        differing: rows with another label, or another probability.
        ties: rows with another label where both labels are within the tolerance of each other.
        latencies: seconds of each single-row request.
    """

    rows: int
    differing: list[dict[str, Any]]
    ties: int
    latencies: list[float]

    @property
    def agrees(self) -> bool:
        """Whether the model may be pushed."""
        return not self.differing

    def summary(self) -> str:
        """The screen's line."""
        equal = f"{self.rows - len(self.differing)} of {self.rows} answers equal"
        if self.ties:
            equal += f" ({self.ties} between two labels within {TOLERANCE:g})"
        if self.differing:
            first = self.differing[0]
            return f"{equal}; row {first['row_id']} was {first['expected']} and is {first['answered']}"
        return f"{equal}, p50 {self.percentile(50):.0f} ms, p99 {self.percentile(99):.0f} ms"

    def percentile(self, percent: float) -> float:
        """Milliseconds that `percent` of the single-row requests stayed within."""
        return float(np.percentile(self.latencies, percent) * 1000)

    def report(self) -> dict[str, Any]:
        """The figures of report.json."""
        return {
            "rows": self.rows,
            "equal": self.rows - len(self.differing),
            "ties": self.ties,
            "p50_ms": round(self.percentile(50), 2),
            "p99_ms": round(self.percentile(99), 2),
            "differing": self.differing,
        }


def compare(rows: list[dict[str, Any]], address: str, thresholds: dict[str, float] | None = None) -> Comparison:
    """Sends every row to the server: the first ones one at a time, with a clock, the rest in batches.

    Args:
        rows: `row_id`, `text`, `text_pair` (or none), `predicted`, `probability`, `probabilities` of each.
        address: the server's.
        thresholds: of a multi-label model, by label in the order of the probabilities.

    Raises:
        ServingError: the server does not answer.
    """
    latencies: list[float] = []
    with Client(address, MODEL_NAME) as client:
        paired = features.TEXT_PAIR in client.metadata()[1]["text"].inputs

        def predict(part: list[dict[str, Any]]) -> list[Prediction]:
            pairs = [row[features.TEXT_PAIR] for row in part] if paired else None
            return client.predict([row[features.TEXT] for row in part], pairs)

        answers: list[Prediction] = []
        for row in rows[:SINGLE_ROWS]:
            began = time.perf_counter()
            answers += predict([row])
            latencies.append(time.perf_counter() - began)
        answers += predict(rows[SINGLE_ROWS:])
    differing, ties = [], 0
    for row, answer in zip(rows, answers, strict=True):
        if thresholds:
            expected = dict(zip(thresholds, row["probabilities"], strict=True))
            same = agree_on_labels(row["predicted"], expected, thresholds, answer)
            tie = set(answer.labels) != set(row["predicted"])
        else:
            same, tie = agrees(row["predicted"], row["probability"], answer), row["predicted"] != answer.label
        if not same:
            differing.append(_difference(row, answer))
        elif tie:
            ties += 1
    return Comparison(len(rows), differing, ties, latencies)


def too_slow(comparison: Comparison, options: CanaryOptions) -> str:
    """Why the latency gates refuse a model, "" if they do not."""
    limits = ((50, options.max_p50_ms), (99, options.max_p99_ms))
    over = [
        f"; p{percent} {comparison.percentile(percent):.0f} ms is above canary.max_p{percent}_ms, {limit:g} ms"
        for percent, limit in limits
        if limit is not None and comparison.percentile(percent) > limit
    ]
    return "".join(over)


def agrees(label: str, probability: float, answer: Prediction) -> bool:
    """Whether the server's answer is the Evaluator's, but for rounding.

    Where two labels are equally probable, rounding decides between them. So another label passes if the expected one is
    within the tolerance of it.

    Args:
        label: what the Evaluator saw the model answer.
        probability: of that label.
        answer: the server's.
    """
    answered = answer.probabilities.get(label)
    if answered is None or abs(answered - probability) > TOLERANCE:
        return False
    return answer.probability - answered <= TOLERANCE


def agree_on_labels(
    labels: list[str], probabilities: dict[str, float], thresholds: dict[str, float], answer: Prediction
) -> bool:
    """Whether the server's answer of a multi-label model is the Evaluator's, but for rounding.

    A label may come or go where its probability is within the tolerance of its threshold.

    Args:
        labels: what the Evaluator saw the model give.
        probabilities: by label, as the Evaluator saw them.
        thresholds: by label.
        answer: the server's.
    """
    if set(answer.probabilities) != set(probabilities):
        return False
    if any(abs(answer.probabilities[name] - value) > TOLERANCE for name, value in probabilities.items()):
        return False
    other = set(labels) ^ set(answer.labels)
    return all(abs(probabilities[name] - thresholds[name]) <= TOLERANCE for name in other)


def _difference(row: dict[str, Any], answer: Prediction) -> dict[str, Any]:
    if answer.label is None:
        served = ", ".join(f"{name} {value:.4f}" for name, value in answer.probabilities.items())
        seen = ", ".join(f"{value:.4f}" for value in row["probabilities"])
        expected = f"{', '.join(row['predicted']) or 'no label'} ({seen})"
        answered = f"{', '.join(answer.labels) or 'no label'} ({served})"
    else:
        expected = f"{row['predicted']} {row['probability']:.4f}"
        answered = f"{answer.label} {answer.probability:.4f}"
    return {features.ROW_ID: row[features.ROW_ID], "expected": expected, "answered": answered}


def _rows(file: str, number: int) -> list[dict[str, Any]]:
    """`number` rows of the Evaluator's predictions, drawn by their row_id, which is a hash of the text."""
    wanted = [features.ROW_ID, features.TEXT, features.TEXT_PAIR, "predicted", "probability", "probabilities"]
    with storage.open_file(file, "rb") as source:
        table = pq.read_table(source)
    sample = table.sort_by(features.ROW_ID).slice(0, number)
    return sample.select([name for name in wanted if name in sample.column_names]).to_pylist()


# === The verdict ===


def _conclude(canary: standard_artifacts.InfraBlessing, blessed: bool, summary: str) -> None:
    _write(f"{canary.uri}/{BLESSED_FILE if blessed else NOT_BLESSED_FILE}", "")
    canary.set_int_custom_property("blessed", int(blessed))
    canary.set_string_custom_property("summary", summary)
    log.info("canary: %s", summary)


def _write(path: str, text: str) -> None:
    with storage.open_file(path, "w") as file:
        file.write(text)
