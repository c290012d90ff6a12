"""Sampled requests and answers with personal data masked, as a model's logging_config asks for them.

This is the only place in the server that keeps the text of a request. A sample is a PredictionLog, TF Serving's own
message, in TFRecord files. Warm-up files hold the same, and it can be replayed or measured for drift.
tensorflow_model_server as released has no log collector of any type, so leave logging_config out of a file that both
servers read.

Every string of the request and the answer is masked, also in tf.Examples, serialized or not: e-mail
addresses, phone, card, bank account and identity numbers, IP and MAC addresses, URLs, user names (@name) and any run of
seven digits or more become <EMAIL_ADDRESS> and so on. Not masked are names of people and places, which take a
language model to find, the names of tf.Example features, and numbers in numeric tensors and features.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import queue
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError, Message

from bertline.errors import UserError
from bertline.serving import messages
from bertline.serving.protos import DataType, Example, LoggingConfig, LogMetadata, ModelSpec, PredictionLog, TensorProto
from bertline.serving.roots import sampled_folder
from bertline.serving.runtime import tf

if TYPE_CHECKING:
    from presidio_analyzer import EntityRecognizer, RecognizerResult

COLLECTOR_TYPE = "tfrecord"
FILE_BYTES = 256 << 20  # a file is closed and the next begun at this size: one can be read while the next is written
WAITING_BYTES = 2 << 20  # some 5,000 tweets one by one, 8 s of masking: a burst; more would come out later still
CLOSE_SECONDS = 10  # the most that masking what waits may hold up a server's end; TF Serving's grace is of this order
# Longer texts are left out whole: no expression takes more than 2 s on the worst text of this length, and BERT reads
# 512 tokens, a quarter of it. To cut a text could cut an address or number in two, which then no pattern finds.
MASKABLE_CHARACTERS = 10_000

TOO_LONG, NOT_TEXT = b"<TOO_LONG>", b"<NOT_TEXT>"

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
            _recognizers()  # imported before the first request, not during it
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
        mask_message(sample)
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


# === Masking ===


def mask_message(message: Message) -> None:
    """Masks, in place, every string in a message and those nested in it, except names of models and the sampling.

    Fields that the message's type does not know are removed: nobody can say what is in them.
    """
    message.DiscardUnknownFields()
    _mask_fields(message)


def _mask_fields(message: Message) -> None:
    if isinstance(message, TensorProto):
        _unpack_strings(message)
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in _messages(field, value):
                if not isinstance(part, ModelSpec | LogMetadata):
                    _mask_fields(part)
        elif field.type in (field.TYPE_STRING, field.TYPE_BYTES) and field.name != "tensor_content":
            mask = mask_text if field.type == field.TYPE_STRING else mask_bytes
            if field.is_repeated:
                value[:] = [mask(one) for one in value]
            else:
                setattr(message, field.name, mask(value))


def mask_bytes(value: bytes) -> bytes:
    """Masks the bytes of a string tensor or feature: UTF-8 text, or a serialized tf.Example.

    Returns:
        The masked text or Example; <NOT_TEXT> for anything else, <TOO_LONG> for a text over MASKABLE_CHARACTERS.
    """
    example = _example(value)
    if example:
        mask_message(example)
        return example.SerializeToString(deterministic=True)
    try:
        return mask_text(value.decode()).encode()
    except UnicodeDecodeError:
        return NOT_TEXT


def mask_text(text: str) -> str:
    """The text with each piece of personal data replaced by its kind, as in "call <PHONE_NUMBER>"."""
    if len(text) > MASKABLE_CHARACTERS:
        return TOO_LONG.decode()
    results = [
        result for recognizer in _recognizers() for result in recognizer.analyze(text, recognizer.supported_entities)
    ]
    pieces, end = [], 0
    for start, stop, kind in _merged(results):
        pieces += [text[end:start], f"<{kind}>"]
        end = stop
    return "".join([*pieces, text[end:]])


def _merged(results: list[RecognizerResult]) -> Iterator[tuple[int, int, str]]:
    """(start, end, kind) of each result, in order. Overlapping results become one, of the surest kind."""
    group: list[RecognizerResult] = []
    for result in sorted(results, key=lambda result: result.start):
        if group and result.start >= max(one.end for one in group):
            yield _as_one(group)
            group = []
        group.append(result)
    if group:
        yield _as_one(group)


def _as_one(group: list[RecognizerResult]) -> tuple[int, int, str]:
    surest = max(group, key=lambda result: (result.score, result.end - result.start))
    return group[0].start, max(result.end for result in group), surest.entity_type


def _messages(field, value) -> Iterator[Message]:
    """The messages of a field, be it one, repeated or a map."""
    if field.message_type.GetOptions().map_entry:
        if field.message_type.fields_by_name["value"].type == field.TYPE_MESSAGE:
            yield from value.values()
    elif field.is_repeated:
        yield from value
    else:
        yield value


def _unpack_strings(tensor: TensorProto) -> None:
    """Lists strings that came in the packed form, where masking cannot reach them."""
    if tensor.dtype == DataType.DT_STRING and tensor.tensor_content:
        count = math.prod(dimension.size for dimension in tensor.tensor_shape.dim)
        tensor.string_val[:] = messages.unpacked_strings(tensor.tensor_content, count)
        tensor.ClearField("tensor_content")


def _example(value: bytes) -> Example | None:
    """The tf.Example in the bytes; None unless it has features and consists of nothing else."""
    try:
        example = Example.FromString(value)
    except DecodeError:
        return None
    example.DiscardUnknownFields()
    return example if example.features.feature and example.ByteSize() == len(value) else None


@functools.cache
def _recognizers() -> list[EntityRecognizer]:
    """What recognises personal data: presidio's recognizers that need no language model, and our own patterns.

    They are called directly, not through presidio's AnalyzerEngine, which needs a language model from the network. Our
    own patterns take linear time. Presidio's patterns for e-mail and URL take seconds on a hostile text, and the e-mail
    one fetches the list of domains and lets through what is not on it.
    """
    from presidio_analyzer import Pattern, PatternRecognizer, pattern_recognizer
    from presidio_analyzer import predefined_recognizers as presidio

    # A pattern that runs out of time is skipped by presidio, and its text would be written as if nothing were found.
    pattern_recognizer.REGEX_TIMEOUT_SECONDS = None
    own = {
        # kind: (pattern, how sure from 0 to 1: decides the name where several overlap)
        "EMAIL_ADDRESS": (r"(?<![^\s@])[^\s@]++(?:@++[^\s@]*+)++", 0.95),
        "URL": (r"\b(?:https?://|www\.)\S++", 0.9),
        "USERNAME": (r"(?<![\w@])@\w++", 0.3),
        "NUMBER": (r"(?<!\d)\+?\d(?:[\s().\-/]{0,2}\d){6,}+", 0.1),
    }
    return [
        presidio.CreditCardRecognizer(),
        presidio.CryptoRecognizer(),
        presidio.EsNifRecognizer(supported_language="en"),
        presidio.IbanRecognizer(),
        presidio.IpRecognizer(),
        presidio.ItFiscalCodeRecognizer(supported_language="en"),
        presidio.MacAddressRecognizer(),
        presidio.PhoneRecognizer(),
        presidio.SgFinRecognizer(),
        presidio.UkNinoRecognizer(),
        presidio.UsSsnRecognizer(),
        *(PatternRecognizer(kind, patterns=[Pattern(kind, *pattern)]) for kind, pattern in own.items()),
    ]
