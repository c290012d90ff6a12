"""How a folder's own tokenizer reads texts, by its files: what is done here too, and what is refused.

TensorFlow Text's BERT tokenizer cleans a text, splits it at white space, punctuation and each Chinese character, and
either lower-cases and strips accents or does neither. Weights whose tokenizer did anything else would get other ids
than in their training, and nothing would tell.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

from bertline.errors import UserError
from bertline.models import backbone_folder

FILE, WHOLE = "tokenizer_config.json", "tokenizer.json"
# Classes of Transformers that split texts as BertTokenizer does. The last two are whatever tokenizer.json says.
_WORDPIECE = ("Bert", "DistilBert", "Electra", "ConvBert", "MobileBert", "SqueezeBert")
_WORDPIECE += ("DPRContextEncoder", "DPRQuestionEncoder", "DPRReader")
_AS_WRITTEN = ("PreTrainedTokenizerFast", "TokenizersBackend")
# Of SentencePiece; encoders that were made from a BERT may still name its class, which then reads tokenizer.json.
_SENTENCEPIECE = ("XLMRoberta", "Bert")
# Normalisers of tokenizer.json that a SentencePiece model knows nothing of.
_BESIDE_SENTENCEPIECE = {"Lowercase", "StripAccents", "BertNormalizer"}
_INSTEAD = "Take weights with another tokenizer in model.backbone; docs/families.md says which"


class WordPiece(NamedTuple):
    """What a folder says of a BERT's tokenizer.

    Attributes:
        lowercase: whether it lower-cases and strips accents; else it does neither.
        file: which says so; None where that is the default.
    """

    lowercase: bool
    file: Path | None


class _Value(NamedTuple):
    """A setting, and where it stands."""

    value: Any
    file: Path | None = None
    key: str = ""


def wordpiece(folder: Path) -> WordPiece:
    """The settings of a folder with a vocab.txt; tokenizer.json's where tokenizer_config.json does not say it.

    Raises:
        UserError: a file is damaged, or its tokenizer reads texts in a way that TensorFlow Text does not.
    """
    own, whole = _read(folder / FILE), _read(folder / WHOLE)
    called = _check_class(folder, own, _WORDPIECE)
    normalizer = _check_pipeline(folder / WHOLE, whole) if whole else {}
    if whole and called in _AS_WRITTEN:
        own = {}

    def setting(key: str, there: str) -> _Value:
        stated = _Value(own.get(key), folder / FILE, key)
        if stated.value is None:
            stated = _Value(normalizer.get(there), folder / WHOLE, there)
        if not isinstance(stated.value, bool | None):
            raise UserError(f"{stated.file}: {stated.key} is {stated.value!r:.50}, and must be true or false")
        return stated if stated.value is not None else _Value(None)

    lower, accents = setting("do_lower_case", "lowercase"), setting("strip_accents", "strip_accents")
    lowercase = lower.value is not False
    if accents.value not in (None, lowercase):
        does = "lower-cases and keeps accents" if lowercase else "strips accents and keeps capitals"
        raise _refused(accents, f"the tokenizer {does}, and TensorFlow Text does both or neither")
    chinese, clean = setting("tokenize_chinese_chars", "handle_chinese_chars"), setting("", "clean_text")
    if chinese.value is False:
        raise _refused(chinese, "TensorFlow Text makes each Chinese character a word of its own")
    if clean.value is False:
        raise _refused(clean, "TensorFlow Text takes control characters out")
    return WordPiece(lowercase, lower.file)


def check_sentencepiece(folder: Path) -> None:
    """Raises UserError where the tokenizer of a folder does more than its SentencePiece model, or a file is damaged."""
    _check_class(folder, _read(folder / FILE), _SENTENCEPIECE)
    whole = folder / WHOLE
    if whole.is_file():
        stat = whole.stat()
        more = sorted(_normalizers(whole, stat.st_mtime_ns, stat.st_size) & _BESIDE_SENTENCEPIECE)
        if more:
            raise UserError(
                f"{whole}: normalizer has {', '.join(more)}, which the SentencePiece model beside it does not do. "
                f"{_INSTEAD}"
            )


def _read(file: Path) -> dict[str, Any]:
    return backbone_folder.read_config(file) if file.is_file() else {}


def _check_class(folder: Path, own: dict[str, Any], known: tuple[str, ...]) -> str | None:
    """The class of Transformers that the folder names; UserError where that reads texts in another way."""
    config = folder / backbone_folder.CONFIG
    stated = [_Value(own.get("tokenizer_class"), folder / FILE), _Value(_read(config).get("tokenizer_class"), config)]
    called = next((each for each in stated if each.value is not None), _Value(None))
    if called.value is not None and str(called.value).removesuffix("Fast") not in (
        *(f"{name}Tokenizer" for name in known),
        *(name.removesuffix("Fast") for name in _AS_WRITTEN),
    ):
        raise UserError(
            f"{called.file}: tokenizer_class is {called.value!r:.60}, which splits texts in a way that TensorFlow Text "
            f"has no op for. {_INSTEAD}"
        )
    for key, usual in (("word_tokenizer_type", "basic"), ("subword_tokenizer_type", "wordpiece")):
        if own.get(key) not in (None, usual):
            raise _refused(_Value(own[key], folder / FILE, key), f"here it is {usual}")
    if own.get("do_basic_tokenize") is False:
        stated = _Value(False, folder / FILE, "do_basic_tokenize")
        raise _refused(stated, "TensorFlow Text splits a text at punctuation first")
    whole_words = [word for word in own.get("never_split") or [] if not str(word).startswith("[")]
    if whole_words:
        raise _refused(_Value(whole_words, folder / FILE, "never_split"), "TensorFlow Text splits every word")
    return called.value


def _check_pipeline(file: Path, whole: dict[str, Any]) -> dict[str, Any]:
    """The normaliser of a tokenizer.json; UserError where its steps are not those of a BERT."""
    parts = {name: whole.get(name) or {} for name in ("normalizer", "pre_tokenizer", "model")}
    kinds = {name: part.get("type") if isinstance(part, dict) else part for name, part in parts.items()}
    kinds["model"] = kinds["model"] or "WordPiece"  # older files do not name it
    bert = {"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer", "model": "WordPiece"}
    for name, kind in bert.items():
        if kinds[name] != kind:
            raise _refused(_Value(kinds[name], file, name), f"a BERT's is {kind}")
    return parts["normalizer"]


@functools.lru_cache(maxsize=4)
def _normalizers(file: Path, changed: int, size: int) -> frozenset[str]:
    """The types of a tokenizer.json's normalisers; one of XLM-RoBERTa's size takes half a second to read."""
    del changed, size
    normalizer = _read(file).get("normalizer")
    steps = normalizer.get("normalizers") or [normalizer] if isinstance(normalizer, dict) else []
    return frozenset(str(step.get("type")) for step in steps if isinstance(step, dict))


def _refused(setting: _Value, reason: str) -> UserError:
    return UserError(
        f"{setting.file}: {setting.key} is {json.dumps(setting.value):.60}: {reason}, so these weights would get other "
        f"tokens than they were trained on. {_INSTEAD}"
    )
