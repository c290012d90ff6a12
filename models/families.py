"""The families of models, and which of them a backbone is of."""

from __future__ import annotations

from bertline.errors import UserError
from bertline.models import backbone_folder
from bertline.models.bert.family import Bert
from bertline.models.bilstm.family import Bilstm
from bertline.models.family import Family
from bertline.models.recipe import ModelOptions, RandomBert
from bertline.models.xlm_roberta.family import XlmRoberta
from bertline.models.xlm_roberta.vocabulary import FILE as SENTENCEPIECE
from bertline.models.xlm_roberta.vocabulary import UNUSED_POSITIONS

BERT, XLM_ROBERTA, BILSTM = Bert(), XlmRoberta(), Bilstm()
# What people may name, and why it is of no family here: config.json's model_type -> a sentence.
FOREIGN = {
    "roberta": "Its byte-level BPE has no op in TensorFlow Text, so that no SavedModel could hold its tokenizer",
    "distilbert": "Its folder names the weights in its own way; MiniLM is a BERT as small",
    "electra": "Its embeddings are projected, which BERT's network does not do",
    "albert": "Its layers share their weights, which BERT's network does not do",
    "mpnet": "Its attention has relative positions, which BERT's network does not have",
    "deberta-v2": "Its attention has relative positions, which BERT's network does not have",
    "modernbert": "Its attention has rotary positions, which BERT's network does not have",
}


def of(options: ModelOptions) -> Family:
    """The family that the options name, else that of their backbone, by what its folder holds.

    Raises:
        UserError: there is no such folder, it holds no config.json, or it is of no family that is known here.
    """
    if options.family == "bilstm":
        return BILSTM
    if isinstance(options.backbone, RandomBert):
        return BERT
    folder = backbone_folder.find(options.backbone)
    if folder is None:  # keras-hub finds it, and knows only BERTs of its own presets here
        return BERT
    file = folder / backbone_folder.CONFIG
    kind = backbone_folder.read_config(file).get("model_type")
    if kind in (None, "bert") and not (folder / SENTENCEPIECE).is_file():
        return BERT
    if kind not in UNUSED_POSITIONS:
        reason = f". {FOREIGN[kind]}" if kind in FOREIGN else ""
        raise UserError(
            f"{file}: model_type is {kind!r}, of no family known here ({', '.join(sorted(UNUSED_POSITIONS))}){reason}. "
            "Name a folder of such a model in model.backbone: docs/families.md has some"
        )
    if not (folder / SENTENCEPIECE).is_file():
        raise UserError(
            f"{folder}: holds no {SENTENCEPIECE}, which a model_type {kind!r} needs; a tokenizer.json does not do. "
            "Fetch that file too"
        )
    return XLM_ROBERTA
