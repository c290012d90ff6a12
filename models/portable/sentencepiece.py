"""XLM-RoBERTa's tokenizer as Hugging Face's: the same ids as SentencePiece's own plus one."""

from __future__ import annotations

import sentencepiece
from tokenizers import Regex, Tokenizer, models, normalizers, processors

from bertline.errors import UserError
from bertline.models.portable import characters
from bertline.models.xlm_roberta.vocabulary import END, OFFSET, SPECIAL, START, UNKNOWN, Vocabulary

_SPACE = "▁"  # SentencePiece's sign for a space
_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")  # by their ids
PADDING = (_TOKENS[1], 1)
_PREFIX = "<prefix>"


def tokenizer(vocabulary: Vocabulary, *, prefix: str) -> Tokenizer:
    """The tokenizer, which neither shortens nor pads.

    Args:
        vocabulary: the SentencePiece model.
        prefix: stands before each text, or the first one of a pair.

    Raises:
        UserError: the SentencePiece model has pieces or settings that the library does not have.
    """
    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model)
    result = Tokenizer(models.Unigram(_pieces(vocabulary, processor), unk_id=UNKNOWN))
    result.normalizer = _normalizer(vocabulary)
    before = [number + OFFSET if number else UNKNOWN for number in processor.encode(prefix)]
    first = [_TOKENS[START], *([_PREFIX] if before else []), "$A", _TOKENS[END]]
    special = [{"id": _TOKENS[number], "ids": [number], "tokens": [_TOKENS[number]]} for number in (START, END)]
    if before:
        special.append({"id": _PREFIX, "ids": before, "tokens": processor.encode_as_pieces(prefix)})
    result.post_processor = processors.TemplateProcessing(
        single=first, pair=[*first, _TOKENS[END], "$B", _TOKENS[END]], special_tokens=special
    )
    return result


def _pieces(vocabulary: Vocabulary, processor: sentencepiece.SentencePieceProcessor) -> list[tuple[str, float]]:
    """The pieces and their scores by id.

    The special ones have a space in their names here. No text has one when it meets them, so none can write a special
    token, as none can in the served model.
    """
    real = range(len(SPECIAL), processor.get_piece_size())
    for number in real:
        if processor.is_control(number) or processor.is_unused(number) or processor.is_byte(number):
            raise UserError(
                f"{vocabulary.path}: the piece {processor.id_to_piece(number)!r} stands for no text, which Hugging "
                "Face's tokenizer does not know. Take onnx out of export.also"
            )
    pieces = [(processor.id_to_piece(number), processor.get_score(number)) for number in real]
    return [*((f" {token}", 0.0) for token in _TOKENS), *pieces, (" <mask>", 0.0)]


def _normalizer(vocabulary: Vocabulary) -> normalizers.Normalizer:
    """What SentencePiece does to a text before it looks for pieces."""
    spec = sentencepiece.SentencePieceNormalizer(model_proto=vocabulary.model).serialized_normalizer_spec()
    settings = characters.Settings(spec)
    if off := [name for name, on in settings.flags.items() if not on]:
        raise UserError(
            f"{vocabulary.path}: SentencePiece's {', '.join(off)} is off, which the tokenizer beside a model in "
            "ONNX cannot do. Take onnx out of export.also"
        )
    steps = []
    if settings.charsmap:  # it composes characters as it goes; here that comes first
        steps = [normalizers.NFC(), *characters.one_by_one(settings.charsmap)]
    return normalizers.Sequence(
        [
            *steps,
            normalizers.Replace(Regex(r"\A +| +\z"), ""),
            normalizers.Replace(Regex(" +"), _SPACE),
            normalizers.Replace(Regex(r"\A(?=(?m:.))"), _SPACE),
        ]
    )
