"""A BERT with a part of its vocabulary: the wordpieces that the user's texts use, and those that can spell any other.

WordPiece takes the longest piece that fits, again and again. Where all pieces of a text are kept, each of them is still
the longest, so the text is cut as before and gets the same answer. Where one is gone, shorter pieces stand in its
place, down to single characters. So no word becomes unknown that was not, as long as each letter has its form inside a
word, such as ##a: a letter without one is known only within longer pieces, and another cut may miss these.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType

import numpy as np

from bertline.models.backbone_folder import CONFIG
from bertline.models.bert.backbone import Vocabulary
from bertline.models.bert.classifier import Classifier
from bertline.models.bert.tokenizer import SPECIAL, read_vocabulary

_INSIDE = "##"  # before a piece that goes on with a word


def kept(vocabulary: Vocabulary, used: np.ndarray) -> np.ndarray:
    """The wordpieces that stay.

    Args:
        vocabulary: all of them.
        used: ids of those that the texts use, int [some].

    Returns:
        their ids in the order of the vocabulary, int64 [kept]: the used ones, the special ones, every single character
        at the beginning of a word and inside it, and those that the characters cannot spell.
    """
    words = read_vocabulary(vocabulary.path)
    letters = {word for word in words if len(word.removeprefix(_INSIDE)) == 1}
    chosen = set(used.tolist())

    def stays(place: int, word: str) -> bool:
        needed = place in chosen or word in SPECIAL or word in letters
        return needed or not (bracketed(word) or _spelt(word, letters))

    return np.array([place for place, word in enumerate(words) if stays(place, word)], np.int64)


def bracketed(word: str) -> bool:
    """Whether a piece is no part of a text, such as [unused7]: a text's brackets are words of their own."""
    return len(word) > 2 and word.startswith("[") and word.endswith("]")


def _spelt(word: str, letters: set[str]) -> bool:
    """Whether pieces of one character can take a piece's place."""
    inside = word.startswith(_INSIDE)
    spelling = enumerate(word.removeprefix(_INSIDE))
    return all((_INSIDE if inside or place else "") + letter in letters for place, letter in spelling)


def trimmed(model: Classifier, ids: np.ndarray) -> Classifier:
    """The classifier with a part of its word embeddings; all other weights are copied.

    Args:
        model: stays as it is.
        ids: of the wordpieces that stay, int64 [kept].
    """
    made, words = model.resized(vocabulary_size=len(ids)), model.backbone.token_embedding.embeddings
    for variable, source in zip(made.variables, model.variables, strict=True):
        variable.assign(source.numpy()[ids] if source is words else source)
    made.additions = MappingProxyType(dict(model.additions))
    return made


def write_vocabulary(vocabulary: Vocabulary, ids: np.ndarray, folder: Path) -> None:
    """Writes the wordpieces that stay, in the layout in which a backbone's folder has them.

    Args:
        vocabulary: all of them.
        ids: of those that stay, int64 [kept].
        folder: gets vocab.txt, tokenizer_config.json, and a config.json that tells the family.
    """
    words = read_vocabulary(vocabulary.path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{words[place]}\n" for place in ids), encoding="utf-8", newline="\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": vocabulary.lowercase}) + "\n")
    (folder / CONFIG).write_text(json.dumps({"model_type": "bert", "vocab_size": len(ids)}) + "\n")
