"""BERT's tokenizer as Hugging Face's: the same ids as TensorFlow Text's FastBertTokenizer.

The library has a normalizer and a splitter for BERT. They differ from TensorFlow Text's for thousands of characters:
there, lower case is Unicode's NFKC case folding ("ß" is "ss", "²" is "2"), control characters separate words, and the
tables of punctuation are newer. So TensorFlow Text itself is asked, once for each character, what becomes of it. It
looks at characters one by one, and that is all there is to know.
"""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
import tensorflow_text as tf_text
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from bertline.models.bert.tokenizer import MAX_BYTES_A_WORD, PADDING, SEPARATOR, START, UNKNOWN, read_vocabulary
from bertline.models.portable import characters

_SURROGATES = range(0xD800, 0xE000)  # no characters
_ALL = [chr(number) for number in range(0x110000) if number not in _SURROGATES]
# What a character between two letters makes of them, in ids of this vocabulary: two words; or it is one by itself.
_PROBE, _TWO, _THREE = (UNKNOWN, START, SEPARATOR, "a", "b"), [3, 4], [3, 0, 4]


def tokenizer(vocabulary: Path, *, lowercase: bool) -> Tokenizer:
    """The tokenizer, which neither shortens nor pads.

    Args:
        vocabulary: a vocab.txt.
        lowercase: whether to lower-case and strip accents.
    """
    words = read_vocabulary(vocabulary)
    # TensorFlow Text counts a long word's bytes, and the library characters. With a character for each byte both agree;
    # a prefix of a word's bytes is a prefix of its characters.
    by_byte = {_as_bytes(word): number for number, word in enumerate(words)}
    result = Tokenizer(
        models.WordPiece(
            by_byte, unk_token=UNKNOWN, max_input_chars_per_word=MAX_BYTES_A_WORD, continuing_subword_prefix="##"
        )
    )
    mapped = _mapped(lowercase)
    rest = [character for character in _ALL if character not in mapped]
    spaces, alone = (characters.any_of(_read_as(ids, lowercase, rest)) for ids in (_TWO, _THREE))
    result.normalizer = normalizers.Sequence(
        # A compiled map cannot hold the first of these, and the second is needed while characters are mapped.
        [normalizers.Replace(each, mapped.pop(each)) for each in ("\0", characters.BETWEEN)]
        + characters.one_by_one(characters.compiled(mapped))
    )
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(spaces, "removed"),
            pre_tokenizers.Split(alone, "isolated"),  # punctuation, and Chinese
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    start, end = ((token, words.index(token)) for token in (START, SEPARATOR))
    result.post_processor = processors.TemplateProcessing(
        single=[START, "$A", SEPARATOR],
        pair=[START, "$A", SEPARATOR, "$B:1", f"{SEPARATOR}:1"],
        special_tokens=[start, end],
    )
    result.decoder = decoders.Sequence([decoders.WordPiece(), decoders.Replace(" ", "Ġ"), decoders.ByteLevel()])
    return result


def padding(vocabulary: Path) -> tuple[str, int]:
    """The token that fills rows up, and its id; what it is does not matter, since it is masked."""
    words = read_vocabulary(vocabulary)
    return (PADDING, words.index(PADDING)) if PADDING in words else (words[0], 0)


def _mapped(lowercase: bool) -> dict[str, str]:
    """What stands in the place of each character that does not stay as it is."""
    normalizer = tf_text.FastBertNormalizer(lower_case_nfd_strip_accents=lowercase)
    results = normalizer.normalize(tf.constant([character.encode() for character in _ALL])).numpy()
    return {old: new for old, new in zip(_ALL, (each.decode() for each in results), strict=True) if old != new}


def _read_as(ids: list[int], lowercase: bool, between: list[str]) -> list[str]:
    """Those of the characters that make such ids of the probe when they stand between its letters."""
    probe = tf_text.FastBertTokenizer(
        list(_PROBE), token_out_type=tf.int64, support_detokenization=False, lower_case_nfd_strip_accents=lowercase
    )
    found = probe.tokenize(tf.constant([f"a{character}b".encode() for character in between]))
    first = found.to_tensor(-1)[:, : len(ids)]
    same = tf.reduce_all(first == tf.constant(ids, tf.int64), axis=1) & (found.row_lengths() == len(ids))
    return [character for character, read in zip(between, same.numpy(), strict=True) if read]


def _as_bytes(word: str) -> str:
    """A wordpiece with a character for each of its bytes, as the library's ByteLevel writes them."""
    return "".join(piece for piece, _ in _BYTES.pre_tokenize_str(word))


_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
