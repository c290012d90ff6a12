"""A map of single characters as a normalizer of Hugging Face's tokenizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sentencepiece
from google.protobuf.empty_pb2 import Empty
from google.protobuf.unknown_fields import UnknownFieldSet
from tokenizers import Regex, normalizers

# Stands between two characters while they are mapped. It is a control character, which no family's texts keep.
BETWEEN = "\x01"
_CHARSMAP, _FLAGS = 2, {"add_dummy_prefix": 3, "remove_extra_whitespaces": 4, "escape_whitespaces": 5}


class Settings:
    """SentencePiece's NormalizerSpec.

    Args:
        spec: its bytes.

    Attributes:
        charsmap: the compiled map of characters; empty for none.
        flags: `add_dummy_prefix`, `remove_extra_whitespaces` and `escape_whitespaces`, each True where it is not said.
    """

    def __init__(self, spec: bytes):
        # sentencepiece's own Python class for it needs a newer protobuf than TensorFlow's.
        fields = {field.field_number: field.data for field in UnknownFieldSet(Empty.FromString(spec))}
        self.charsmap: bytes = fields.get(_CHARSMAP, b"")
        self.flags = {name: bool(fields.get(number, 1)) for name, number in _FLAGS.items()}


def compiled(characters: Mapping[str, str]) -> bytes:
    """A map from characters to what stands in their place, as SentencePiece compiles it."""
    normalizer = sentencepiece.SentencePieceNormalizer(norm_map=list(characters.items()))
    return Settings(normalizer.serialized_normalizer_spec()).charsmap


def one_by_one(charsmap: bytes) -> list[normalizers.Normalizer]:
    """Maps each character by itself.

    The library's own normalizer looks a whole grapheme up first, and takes what its beginning is mapped to for all of
    it: an "A" before a skin tone would swallow it. So the characters are set apart before, and put together after.
    """
    return [
        normalizers.Replace(Regex("(?<=(?m:.))(?=(?m:.))"), BETWEEN),
        normalizers.Precompiled(charsmap),
        normalizers.Replace(BETWEEN, ""),
    ]


def any_of(characters: Iterable[str]) -> Regex:
    """One of the characters."""
    runs: list[list[int]] = []
    for number in sorted(map(ord, characters)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return Regex("[" + "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in runs) + "]")
