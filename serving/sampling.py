"""Sampled requests and answers with personal data masked, as a model's logging_config asks for them.

A sample is a PredictionLog, TF Serving's own message, in TFRecord files. Warm-up files hold the same, and it can be
replayed. tensorflow_model_server as released has no log collector of any type, so leave logging_config out of a file
that both servers read. What `bertline monitor` reads is `records`.

Every string of the request and the answer is masked, also in tf.Examples, serialized or not: see `masking`.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
from pathlib import Path

from bertline.errors import UserError
from bertline.serving import masking
from bertline.serving.protos import LoggingConfig, PredictionLog
from bertline.serving.roots import sampled_folder
from bertline.serving.runtime import tf

COLLECTOR_TYPE = "tfrecord"
FILE_BYTES = 256 << 20  # a file is closed and the next begun at this size: one can be read while the next is written
WAITING_BYTES = 2 << 20  # some 5,000 tweets one by one, 8 s of masking: a burst; more would come out later still
CLOSE_SECONDS = 10  # the most that masking what waits may hold up a server's end; TF Serving's grace is of this order

log = logging.getLogger(__name__)


class Sampler:
    """Keeps each request of a model with a given probability.

    Offering a sample only puts it in a queue. A separate thread masks and writes. Samples that it cannot keep up with,
    mask or write are dropped and counted; nothing unmasked is ever written. Files are named
    `PREFIX-TIME-NUMBER.tfrecord`, are readable only by their owner, and are made when the first sample comes.

    Attributes:
        written, dropped: PredictionLogs so far.
    """

    def __init__(self, config: LoggingConfig, model: str):
        """Starts the thread, unless the rate is 0.

        Args:
            config: with log_collector_config.type "tfrecord" and filename_prefix, a path whose folder is there, and
                sampling_config.sampling_rate, 0 to 1.
            model: name of the model, for the log.

        Raises:
            UserError: the config asks for something that this server does not do; the message names the field.
        """
        _check(config)
        self._config, self._model = config, model
        self._rate = config.sampling_config.sampling_rate
        self.written = self.dropped = 0
        self._waiting: queue.SimpleQueue[PredictionLog | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._counting = threading.Lock()
        self._closed_at: float | None = None
        self._thread = threading.Thread(target=self._keep_writing, name=f"sampler-{model}", daemon=True)
        if self._rate:
            masking.prepare()  # imported before the first request, not during it
            self._thread.start()

    def is_next(self) -> bool:
        """Draws whether to offer the current request; call it once per request."""
        return random.random() < self._rate

    def offer(self, sample: PredictionLog) -> None:
        """Hands over a sample, which the caller must not change afterwards. Never waits, never raises."""
        size = sample.ByteSize()
        with self._counting:
            if self._closed_at is None and self._waiting_bytes < WAITING_BYTES:
                self._waiting_bytes += size
                self._waiting.put(sample)
            else:
                self._count_dropped("more samples than can be masked; lower sampling_rate")

    def close(self) -> None:
        """Writes the samples that wait, for at most CLOSE_SECONDS, and closes the file."""
        with self._counting:
            if self._closed_at is not None:
                return
            self._closed_at = time.monotonic()
        if self._rate:
            self._waiting.put(None)
            self._thread.join(CLOSE_SECONDS)
            log.info("model %s: %d samples written, %d dropped", self._model, self.written, self.dropped)

    def _keep_writing(self) -> None:
        file = _Records(self._config.log_collector_config.filename_prefix)
        for sample in iter(self._waiting.get, None):
            size = sample.ByteSize()
            try:
                if self._closed_at and time.monotonic() > self._closed_at + CLOSE_SECONDS:
                    raise TimeoutError("the server ends")
                file.write(self._masked(sample).SerializeToString())
                self.written += 1
            except Exception as error:  # any kind: no sample may end the thread. The error's words may quote a text
                with self._counting:
                    self._count_dropped(type(error).__name__)
            finally:
                with self._counting:
                    self._waiting_bytes -= size
        file.close()

    def _count_dropped(self, why: str) -> None:
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:  # at 1, 2, 4, 8 ...: soon, but not for every request
            log.warning("model %s: %d samples dropped so far, the last one: %s", self._model, self.dropped, why)

    def _masked(self, sample: PredictionLog) -> PredictionLog:
        metadata = sample.log_metadata
        metadata.sampling_config.CopyFrom(self._config.sampling_config)
        metadata.timestamp_secs = metadata.timestamp_secs or int(time.time())
        metadata.model_spec.name = metadata.model_spec.name or self._model
        masking.mask_message(sample)
        return sample


def _check(config: LoggingConfig) -> None:
    collector, sampling = config.log_collector_config, config.sampling_config
    if not 0 <= sampling.sampling_rate <= 1:
        raise UserError(f"sampling_config.sampling_rate is {sampling.sampling_rate}: it must be from 0 to 1")
    if sampling.attributes:
        raise UserError("sampling_config.attributes: this server keeps no origin and no criticality of a request")
    if config.HasField("custom_logging_config"):
        raise UserError("custom_logging_config: this server has no logger to hand it to; leave it out")
    if collector.type != COLLECTOR_TYPE:
        raise UserError(f"log_collector_config.type is {collector.type!r}: this server has only {COLLECTOR_TYPE!r}")
    prefix = collector.filename_prefix
    if not prefix or not sampled_folder(prefix).is_dir():
        raise UserError(f"log_collector_config.filename_prefix is {prefix!r}: it must start in a folder that exists")


# === Files ===


class _Records:
    """TFRecord files with a common prefix, one after the other."""

    def __init__(self, prefix: str):
        self._prefix = prefix
        self._writer: tf.io.TFRecordWriter | None = None
        self._size = 0

    def write(self, record: bytes) -> None:
        if self._writer is None or self._size >= FILE_BYTES:
            self.close()
            self._writer, self._size = tf.io.TFRecordWriter(str(self._new())), 0
        try:
            self._writer.write(record)
            self._writer.flush()  # a fraction of what masking took, and what counts as written is
        except Exception:
            self._writer = None  # half a record may be at the end of this file: the next one goes into another
            raise
        self._size += len(record)

    def close(self) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None

    def _new(self) -> Path:
        """A new file that only its owner can read; the writer keeps the mode."""
        started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        number = 0
        while True:
            file = Path(f"{self._prefix}-{started}-{number:03d}.tfrecord")
            try:
                os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o600))
            except FileExistsError:
                number += 1
            else:
                return file
