"""Hugging Face's Rust tokenizers on one thread: only tokenising, and with reading the texts and writing the ids."""

from __future__ import annotations

import os

os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")  # before the library is loaded

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

BATCH = 1000


def main() -> None:
    """Times both and prints texts per second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path, help="JSON Lines with one text per line")
    parser.add_argument("--weights", type=Path, required=True, help="folder in the Hugging Face layout")
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--target", type=Path, required=True, help="file for the ids")
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(arguments.weights / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(arguments.max_length)

    def tokenise(texts: list[str]) -> list[list[int]]:
        # The call that leaves out the position of each token in the text, which training does not need.
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]

    def all_included() -> None:
        """Writes the ids as one array, the cheapest format: no records, no compression."""
        with arguments.target.open("wb") as file:
            for texts in _batches(_read(arguments.texts)):
                for ids in tokenise(texts):
                    np.array(ids, np.int32).tofile(file)

    texts = list(_read(arguments.texts))

    def tokenising() -> None:
        for batch in _batches(iter(texts)):
            tokenise(batch)

    timed = {name: len(texts) / _seconds(work) for name, work in (("tokenising", tokenising), ("all", all_included))}
    print(json.dumps(timed))


def _read(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(itertools.islice(texts, BATCH)):
        yield batch


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
