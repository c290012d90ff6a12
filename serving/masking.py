"""Personal data out of texts and messages before anything of them is written.

E-mail addresses, phone, card, bank account and identity numbers, IP and MAC addresses, URLs, user names (@name) and any
run of seven digits or more become <EMAIL_ADDRESS> and so on. Not masked are names of people and places, which take a
language model to find, the names of tf.Example features, and numbers in numeric tensors and features.

Needs no TensorFlow, so that a client can mask as the server does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError, Message

from bertline.serving import messages
from bertline.serving.protos import DataType, Example, LogMetadata, ModelSpec, TensorProto

if TYPE_CHECKING:
    from presidio_analyzer import EntityRecognizer, RecognizerResult

# Longer texts are left out whole: no expression takes more than 2 s on the worst text of this length, and BERT reads
# 512 tokens, a quarter of it. To cut a text could cut an address or number in two, which then no pattern finds.
MASKABLE_CHARACTERS = 10_000

TOO_LONG, NOT_TEXT = b"<TOO_LONG>", b"<NOT_TEXT>"


def prepare() -> None:
    """Imports what masking needs, which takes seconds, now rather than with the first text."""
    _recognizers()


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
