"""sentence-transformers' embeddings of texts, in the modes that could be its best on a CPU: float32 and bfloat16."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from timing import answer

BATCHES = (32, 64)  # the library's own, and ours


def main() -> None:
    """Times each mode on all texts, once per line of input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path, help="JSON Lines with a text each")
    parser.add_argument("--weights", type=Path, required=True, help="folder with modules.json")
    parser.add_argument("--max-length", type=int, default=128)
    arguments = parser.parse_args()
    with arguments.texts.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    modes = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = SentenceTransformer(str(arguments.weights), device="cpu", model_kwargs={"torch_dtype": dtype})
        model.max_seq_length = arguments.max_length
        for size in BATCHES:
            modes[f"{str(dtype).removeprefix('torch.')}, batches of {size}"] = model, size
            model.encode(texts[: 4 * size], batch_size=size, show_progress_bar=False)

    def figures() -> dict[str, float]:
        rates = {}
        for name, (model, size) in modes.items():
            began = time.perf_counter()
            model.encode(texts, batch_size=size, show_progress_bar=False)
            rates[name] = len(texts) / (time.perf_counter() - began)
        return rates

    answer(figures)


if __name__ == "__main__":
    main()
