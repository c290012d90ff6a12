"""The families of models, and which of them a backbone is of."""

from __future__ import annotations

from bertline.errors import UserError
from bertline.models import backbone_folder
from bertline.models.bert.backbone import KINDS
from bertline.models.bert.family import Bert
from bertline.models.bilstm.family import Bilstm
from bertline.models.family import Family
from bertline.models.recipe import ModelOptions, RandomBert
from bertline.models.static.family import Static
from bertline.models.xlm_roberta.family import XlmRoberta
from bertline.models.xlm_roberta.vocabulary import FILE as SENTENCEPIECE
from bertline.models.xlm_roberta.vocabulary import UNUSED_POSITIONS

BERT, XLM_ROBERTA, BILSTM = Bert(), XlmRoberta(), Bilstm()
# What people may name, and why it is of no family here: config.json's model_type -> a sentence.
_RELATIVE = "Its attention has relative positions, which BERT's network does not have"
_BYTES = "TensorFlow Text has no op for RoBERTa's byte-level BPE, which DistilRoBERTa has too"
FOREIGN = {
    "roberta": _BYTES,
    "camembert": "Its network is RoBERTa's with a vocabulary of its own",
    "albert": "Its layers share their weights, which BERT's network does not do",
    "mpnet": _RELATIVE,
    "deberta": _RELATIVE,
    "deberta-v2": _RELATIVE,
    "modernbert": "Its attention has rotary positions, which BERT's network does not have",
    "nomic_bert": "Its attention has rotary positions, which BERT's network does not have",
}
# What to take in the place of weights that are refused.
_INSTEAD = (
    "Take a BERT, DistilBERT or ELECTRA with a vocab.txt, such as MiniLM or BGE, or an XLM-RoBERTa with a "
    f"{SENTENCEPIECE}, such as multilingual-e5, in model.backbone; docs/families.md has more"
)


def of(options: ModelOptions) -> Family:
    """The family that the options name, else that of their backbone.

    Raises:
        UserError: as `of_backbone`.
    """
    return _NAMED.get(options.family) or of_backbone(options)


def of_backbone(options: ModelOptions) -> Family:
    """The family of the options' backbone, by what its folder holds.

    Raises:
        UserError: there is no such folder, it holds no config.json, or it is of no family that is known here.
    """
    if isinstance(options.backbone, RandomBert):
        return BERT
    folder = backbone_folder.find(options.backbone)
    if folder is None:  # keras-hub finds it, and knows only BERTs of its own presets here
        return BERT
    file = folder / backbone_folder.CONFIG
    kind = backbone_folder.read_config(file).get("model_type")
    if kind not in (None, *KINDS, *UNUSED_POSITIONS):
        reason = f". {FOREIGN[kind]}" if kind in FOREIGN else ""
        known = ", ".join(sorted({*KINDS, *UNUSED_POSITIONS}))
        raise UserError(f"{file}: model_type is {kind!r}, of no family known here ({known}){reason}. {_INSTEAD}")
    has_sentencepiece = (folder / SENTENCEPIECE).is_file()
    if kind in UNUSED_POSITIONS and has_sentencepiece:
        return XLM_ROBERTA
    if kind in (None, *KINDS):
        return BERT
    raise UserError(
        f"{folder}: holds no {SENTENCEPIECE}, which a model_type {kind!r} needs; a tokenizer.json does not do. "
        "Fetch that file too"
    )


STATIC = Static(of_backbone)
_NAMED: dict[str, Family] = {"bilstm": BILSTM, "static": STATIC}  # model.family
