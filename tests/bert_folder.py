"""Tiny networks of BERT's shape in the Hugging Face layout, as hubs have them. benchmarks/peers/hidden_states.py makes
the same in its environment, so nothing but NumPy and safetensors is imported at the top.
"""

import json

import numpy as np
from safetensors.numpy import save_file

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", *(f"##{letter}" for letter in "abcdefgh")]
WORDS += ["the", "cat", "sat", "mat", "good", "bad", "flight", "late", "##s"]
HIDDEN, WIDE, LAYERS, POSITIONS = 32, 64, 2, 24
# A large epsilon, where the config has one, so that a network with another one is far off.
_BERT = {
    "vocab_size": len(WORDS),
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": WIDE,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-3,
    "pad_token_id": 0,
}
KINDS = {
    "bert": _BERT,
    "electra": {**_BERT, "embedding_size": 12},
    "distilbert": {
        "vocab_size": len(WORDS),
        "dim": HIDDEN,
        "n_layers": LAYERS,
        "n_heads": 4,
        "hidden_dim": WIDE,
        "max_position_embeddings": POSITIONS,
        "activation": "gelu",
        "pad_token_id": 0,
    },
}
IDS = [[2, 21, 22, 23, 3, 24, 29, 3], [2, 27, 3, 0, 0, 0, 0, 0]]  # the second row is padded
SEGMENTS = [[0, 0, 0, 0, 0, 1, 1, 1], [0] * 8]
LENGTHS = [8, 3]
_PARTS = {
    "attention.self.query": (HIDDEN, HIDDEN),
    "attention.self.key": (HIDDEN, HIDDEN),
    "attention.self.value": (HIDDEN, HIDDEN),
    "attention.output.dense": (HIDDEN, HIDDEN),
    "intermediate.dense": (WIDE, HIDDEN),
    "output.dense": (HIDDEN, WIDE),
}
_DISTILBERT = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "attention.output.LayerNorm": "sa_layer_norm",
    "output.LayerNorm": "output_layer_norm",
}


def weights_of(kind, pooler=True, seed=7):
    """The weights by Hugging Face's names, float32; a pooler only of a BERT."""
    draw, width = np.random.default_rng(seed), KINDS[kind].get("embedding_size", HIDDEN)

    def numbers(*shape):
        return (draw.normal(size=shape) * 0.3).astype(np.float32)

    tables = {"word": len(WORDS), "position": POSITIONS} | ({"token_type": 2} if kind != "distilbert" else {})
    weights = {f"embeddings.{name}_embeddings.weight": numbers(rows, width) for name, rows in tables.items()}
    denses, norms = {}, {"embeddings.LayerNorm": width}
    if width != HIDDEN:
        denses["embeddings_project"] = (HIDDEN, width)
    for number in range(LAYERS):
        at = f"{'transformer' if kind == 'distilbert' else 'encoder'}.layer.{number}"
        called = _DISTILBERT if kind == "distilbert" else {}
        denses |= {f"{at}.{called.get(part, part)}": shape for part, shape in _PARTS.items()}
        for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
            norms[f"{at}.{called.get(norm, norm)}"] = HIDDEN
    for name, shape in denses.items():
        weights |= {f"{name}.weight": numbers(*shape), f"{name}.bias": numbers(shape[0])}
    for name, size in norms.items():
        weights |= {f"{name}.weight": 1 + numbers(size), f"{name}.bias": numbers(size)}
    if kind == "bert" and pooler:  # drawn last, so that all else is the same without it
        weights |= {"pooler.dense.weight": numbers(HIDDEN, HIDDEN), "pooler.dense.bias": numbers(HIDDEN)}
    return weights


def write_weights(folder, kind="bert", prefix="", old_names=False, pooler=True, more=None, **config):
    """config.json, model.safetensors and the vocabulary; returns the folder.

    Args:
        folder: is made.
        kind: of KINDS.
        prefix: before the weights' names, as in a whole classifier's file.
        old_names: whether LayerNorm's are gamma and beta, as in files converted from TensorFlow.
        pooler: whether a BERT has it; masked language models' files have none.
        more: other weights that the file holds, name -> array.
        config: what is changed of config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **KINDS[kind], **config}))
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    weights = {prefix + name: value for name, value in weights_of(kind, pooler).items()} | (more or {})
    if old_names:
        renamed = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        for new, old in renamed.items():
            weights = {name.replace(new, old): value for name, value in weights.items()}
    save_file(weights, folder / "model.safetensors")
    return folder


def write_pooling(folder, mode, *, normalised):
    """The files of a sentence encoder, such as BGE's: "cls" or "mean", and whether vectors are scaled to length 1."""
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")] + ([("Normalize", "2_Normalize")] if normalised else [])
    listed = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{name}"}
        for at, (name, path) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    flags = {f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": HIDDEN, **flags}))
    return folder
