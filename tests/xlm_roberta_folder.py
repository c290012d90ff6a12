"""A tiny XLM-RoBERTa in the Hugging Face layout. benchmarks/peers/hidden_states.py makes the same in its environment,
so nothing but NumPy and safetensors is imported at the top.
"""

import json

import numpy as np
from safetensors.numpy import save_file

# A large epsilon, so that a network with another one is far off.
SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-3,
}
# A multilingual sentence encoder that was made from a BERT counts positions from 0, and knows two segments.
KINDS = {
    "xlm-roberta": {"max_position_embeddings": 42, "type_vocab_size": 1, "pad_token_id": 1},
    "bert": {"max_position_embeddings": 40, "type_vocab_size": 2, "pad_token_id": 1},
}
IDS = [[0, 5, 17, 300, 42, 42, 9, 2], [0, 319, 2, 1, 1, 1, 1, 1]]  # the second row is padded
SEGMENTS = [[0] * 8] * 2
LENGTHS = [8, 3]


def config_of(kind):
    return {"model_type": kind, **SIZES, **KINDS[kind]}


def weights_of(kind, seed=7):
    """The weights by Hugging Face's names, float32."""
    config, draw = config_of(kind), np.random.default_rng(seed)
    hidden, wide = config["hidden_size"], config["intermediate_size"]

    def numbers(*shape, scale=0.3):
        return (draw.normal(size=shape) * scale).astype(np.float32)

    weights = {
        "embeddings.word_embeddings.weight": numbers(config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": numbers(config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": numbers(config["type_vocab_size"], hidden),
        "pooler.dense.weight": numbers(hidden, hidden),
        "pooler.dense.bias": numbers(hidden),
    }
    norms = ["embeddings.LayerNorm"]
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        denses = [f"attention.self.{part}" for part in ("query", "key", "value")] + ["attention.output.dense"]
        shapes = dict.fromkeys(denses, (hidden, hidden))
        shapes |= {"intermediate.dense": (wide, hidden), "output.dense": (hidden, wide)}
        for name, shape in shapes.items():
            weights[f"{layer}.{name}.weight"] = numbers(*shape)
            weights[f"{layer}.{name}.bias"] = numbers(shape[0])
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name in norms:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = 1 + numbers(hidden), numbers(hidden)
    return weights


def write_weights(folder, kind="xlm-roberta", prefix="", **config):
    """config.json and model.safetensors, without a vocabulary; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(kind) | config))
    save_file({prefix + name: value for name, value in weights_of(kind).items()}, folder / "model.safetensors")
    return folder


def write_vocabulary(path, texts, pieces=SIZES["vocab_size"] - 2):
    """A SentencePiece model of XLM-RoBERTa's kind, trained on the texts; returns the path."""
    import sentencepiece

    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=file,
            vocab_size=pieces,
            hard_vocab_limit=False,
            normalization_rule_name="nmt_nfkc",
            num_threads=1,
            minloglevel=2,
        )
    return path
