"""The tokens of texts as TensorFlow ops, and a vocabulary learned from texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import tensorflow as tf
import tensorflow_text as tf_text
from tensorflow_text.python.ops import regex_split_ops

from bertline.errors import UserError
from bertline.models.family import Pieces

FILE = "vocabulary.txt"
SPECIAL = ("<unk>", "<s>", "</s>")  # the first tokens; no text gives them, since < and > are tokens of their own
UNKNOWN, START, END = range(3)
_SPACE = r"[\s\p{Z}\p{Cc}]+"  # RE2's \s is ASCII's only
_SIGNS = r"[\p{P}\p{S}]"
# Thai, Lao, Khmer and Burmese, Chinese and Japanese put no spaces between words.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
# What stands between tokens; of it, all that is no white space is a token too.
_BETWEEN = {
    "auto": f"{_SPACE}|{_SIGNS}|{_UNSPACED}",
    "words": f"{_SPACE}|{_SIGNS}",
    "characters": f"{_SPACE}|(?s:.)",
}
_KEPT = r"[^\s\p{Z}\p{Cc}]"


def split(texts: tf.Tensor, kind: str) -> tuple[tf.RaggedTensor, Pieces]:
    """The tokens of texts, in lower case and in the compatible form of Unicode (NFKC), and where they come from.

    Args:
        texts: string [batch], UTF-8.
        kind: `model.bilstm.tokens`.

    Returns:
        tokens, string [batch, (tokens)], and their bytes in the texts.
    """
    # The op itself: tf_text.regex_split_with_offsets wraps it in run-time checks of the op's own result, which every
    # call would repeat, and which take half of the time of tracing the tokenizer.
    split_op = regex_split_ops.gen_regex_split_ops.regex_split_with_offsets
    parts, starts, ends, row_splits = split_op(texts, f"({_BETWEEN[kind]})", f"({_KEPT})")
    folded = tf_text.case_fold_utf8(tf_text.normalize_utf8(parts, "NFKC"))
    # Folding leaves nothing of a token that cannot be seen, such as the selector behind an emoji.
    seen = tf.not_equal(folded, "")
    row_splits = tf.gather(tf.pad(tf.cumsum(tf.cast(seen, tf.int64)), [[1, 0]]), row_splits)
    tokens, starts, ends = (
        tf.RaggedTensor.from_row_splits(tf.boolean_mask(values, seen), row_splits, validate=False)
        for values in (folded, starts, ends)
    )
    return tokens, Pieces(starts, ends)


def learn(texts: Iterable[tf.Tensor], kind: str, *, size: int, min_count: int, section: str = "model") -> list[str]:
    """The vocabulary of texts: the special tokens, then the most frequent ones.

    Args:
        texts: batches of texts, string [batch] each.
        kind: `model.bilstm.tokens`.
        size: the most tokens, special ones included.
        min_count: how often a token must occur.
        section: of the config that says so, for errors.

    Raises:
        UserError: no token occurs so often.
    """
    counts: Counter[bytes] = Counter()
    tokens = tf.function(
        lambda batch: split(batch, kind)[0].flat_values,
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )
    for batch in texts:
        counts.update(tokens(batch).numpy().tolist())
    frequent = sorted((-count, token) for token, count in counts.items() if count >= min_count)
    if not frequent:
        raise UserError(
            f"{section}.bilstm.min_count: no token occurs {min_count} times in the training rows; set it lower, or "
            "give more rows"
        )
    return [*SPECIAL, *(token.decode() for _, token in frequent[: size - len(SPECIAL)])]


def write(path: str, vocabulary: Iterable[str]) -> None:
    """Writes a vocabulary, a token per line, to a file, local or remote."""
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write("".join(f"{token}\n" for token in vocabulary).encode())


def read(path: str) -> list[str]:
    """The tokens that `write` wrote, in the order of their ids.

    Raises:
        UserError: there is no such file, or it does not begin with the special tokens.
    """
    if not tf.io.gfile.exists(path):
        raise UserError(f"{path}: the learned vocabulary is gone; run the line again")
    with tf.io.gfile.GFile(path, "rb") as file:
        tokens = file.read().decode().removesuffix("\n").split("\n")
    if tuple(tokens[: len(SPECIAL)]) != SPECIAL:
        raise UserError(f"{path}: no vocabulary of a bilstm; its first lines must be {', '.join(SPECIAL)}")
    return tokens
