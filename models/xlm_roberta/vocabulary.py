"""The SentencePiece model of a folder and its input prefix, read without TensorFlow.

The network's ids are fairseq's: <s> 0, <pad> 1, </s> 2, <unk> 3, then the pieces of the SentencePiece model from its
fourth on, and <mask> last. SentencePiece itself has <unk> 0, <s> 1, </s> 2, so that a piece's id is one higher here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import sentencepiece

from bertline.errors import UserError

FILE = "sentencepiece.bpe.model"
START, END, UNKNOWN = 0, 2, 3
OFFSET = 1  # of a piece's id over SentencePiece's own
SPECIAL = ("<unk>", "<s>", "</s>")  # the first pieces of the SentencePiece model
# config.json's model_type -> positions that the network never uses. Some multilingual sentence encoders, such as
# multilingual-e5-small, were made from a BERT and got XLM-RoBERTa's vocabulary.
UNUSED_POSITIONS = {"xlm-roberta": 2, "bert": 0}
PROMPTS = "config_sentence_transformers.json"


class Vocabulary(NamedTuple):
    """What a SentencePiece model holds.

    Attributes:
        path: of sentencepiece.bpe.model.
        model: its bytes.
        ids: how many ids the network needs for it, <mask> included.
    """

    path: Path
    model: bytes
    ids: int

    @property
    def mask(self) -> int:
        """The id of <mask>, the last one."""
        return self.ids - 1


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of a SentencePiece model.

    Raises:
        UserError: the file is no SentencePiece model, or not one of XLM-RoBERTa's kind.
    """
    model = path.read_bytes()
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: no SentencePiece model, or a damaged one; fetch the folder again") from error
    first = tuple(processor.id_to_piece(number) for number in range(min(len(SPECIAL), processor.get_piece_size())))
    if first != SPECIAL:
        raise UserError(
            f"{path}: its first pieces are {', '.join(first)}, and those of XLM-RoBERTa's kind are "
            f"{', '.join(SPECIAL)}: the vocabulary is another model's. Fetch the weights' own"
        )
    return Vocabulary(path, model, processor.get_piece_size() + OFFSET + 1)


def input_prefix(folder: Path) -> str:
    """What stands before each text, as the weights were trained, such as e5's "query: "; "" where there is nothing.

    It comes from the prompts that sentence-transformers reads: the folder's default one, else the one for
    classification, else the one for queries, which e5's authors name for everything but the passages of a search.

    Raises:
        UserError: the file cannot be read, or its default prompt is not among the prompts.
    """
    file = folder / PROMPTS
    if not file.is_file():
        return ""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        prompts = settings.get("prompts") or {}
        default = settings.get("default_prompt_name")
        names = [default] if default else [name for name in ("classification", "query") if name in prompts]
        return str(prompts[names[0]]) if names else ""
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file}: not the settings of a sentence encoder; fetch the folder again") from error
    except KeyError as error:
        raise UserError(f"{file}: default_prompt_name is {error}, which is none of prompts; name one of them") from None
