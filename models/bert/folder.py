"""Writes a BERT as a folder in Hugging Face's layout, which this line, Transformers and sentence-transformers read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from bertline.models.bert import hugging_face
from bertline.models.bert.backbone import Vocabulary
from bertline.models.bert.masked_lm import MaskedLm
from bertline.models.bert.network import Network, approximate_gelu, epsilon
from bertline.models.pooling import MODULES


def write(folder: Path, masked: MaskedLm, words: Vocabulary, source: Path | None) -> None:
    """Writes the network with its masked-LM head, its vocabulary, and how its vectors are pooled.

    Args:
        folder: is there already.
        masked: what is written.
        words: the vocabulary.
        source: folder of the backbone that it came from, whose files for sentence-transformers are copied; None where
            there are none.
    """
    from safetensors.numpy import save_file

    network = masked.model.backbone
    below = hugging_face.tensors(network, pooler=masked.model.pooling.kind == "pooler")
    tensors = {f"bert.{name}": value for name, value in below.items()} | masked.tensors()
    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", _config(network))
    shutil.copyfile(words.path, folder / "vocab.txt")
    tokenizer = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": words.lowercase,
        "model_max_length": network.max_sequence_length,
    }
    _write_json(folder / "tokenizer_config.json", tokenizer)
    if source and (source / MODULES).is_file():
        shutil.copyfile(source / MODULES, folder / MODULES)
        for module in json.loads((source / MODULES).read_text(encoding="utf-8")):
            if module["path"] and (source / module["path"]).is_dir():
                shutil.copytree(source / module["path"], folder / module["path"])


def _config(network: Network) -> dict[str, Any]:
    return {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "hidden_act": "gelu_pytorch_tanh" if approximate_gelu(network) else "gelu",
        "hidden_size": network.hidden_dim,
        "intermediate_size": network.intermediate_dim,
        "num_attention_heads": network.num_heads,
        "num_hidden_layers": network.num_layers,
        "max_position_embeddings": network.max_sequence_length,
        "type_vocab_size": network.num_segments,
        "vocab_size": network.vocabulary_size,
        "attention_probs_dropout_prob": 0.1,
        "hidden_dropout_prob": 0.1,
        "layer_norm_eps": epsilon(network),
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
    }


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
