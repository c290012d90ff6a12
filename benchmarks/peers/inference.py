"""Hugging Face Transformers' inference on the test rows: bf16 weights, PyTorch's own attention kernel, text in.

The head is random: nobody reads its answers, and its cost does not depend on them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rows import read_rows
from timing import Inference, Row, answer
from transformers import AutoTokenizer, BertForSequenceClassification
from transformers.utils import logging


def main() -> None:
    """Times every way to use the cores, once per line of input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, help="folder with the splits as JSON Lines")
    parser.add_argument("--weights", type=Path, required=True, help="folder in the Hugging Face layout")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--cores", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(arguments.weights)
    model = BertForSequenceClassification.from_pretrained(arguments.weights, attn_implementation="sdpa")
    model = model.eval().to(torch.bfloat16)

    @torch.inference_mode()
    def predict(batch: list[Row]):
        texts = [list(column) for column in zip(*batch, strict=True)]
        inputs = tokenizer(*texts, padding=True, truncation=True, max_length=arguments.max_length, return_tensors="pt")
        return model(**inputs).logits.float().softmax(-1).numpy()

    rows = [
        tuple(row[name] for name in ("text", "text_pair") if name in row) for row in read_rows(arguments.rows)["test"]
    ]
    inference = Inference(predict, rows, size=arguments.batch_size)
    dtype, cores = str(model.dtype).removeprefix("torch."), arguments.cores

    def figures() -> list[dict[str, float | int | str]]:
        runs = []
        # One batch at a time on all cores, as a script does it; or one batch per core at a time.
        for callers, threads in dict.fromkeys([(1, cores), (cores, 1)]):
            torch.set_num_threads(threads)
            runs.append({"dtype": dtype, "callers": callers, "threads": threads, **inference.figures(callers)})
        return runs

    answer(figures)


if __name__ == "__main__":
    main()
