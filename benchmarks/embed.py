"""The probe's embeddings against sentence-transformers: `python -m benchmarks.embed`.

Both turn the same tweets into vectors, from text in memory, tokenisation included, with the same weights. They take
turns, as a machine's speed drifts, and of the peer's modes the fastest of each round counts. Needs `make bench-peers`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks import tweets
from benchmarks.inference import Contender
from benchmarks.peer import command_of, weights_folder, write_result
from benchmarks.speed import BUSY
from bertline.errors import UserError
from bertline.models import hardware
from bertline.models.bert import backbone, classifier
from bertline.models.bert.tokenizer import Tokenizer
from bertline.models.dataset import Rows
from bertline.models.embeddings import FrozenEncoder
from bertline.models.recipe import ModelOptions

BAR = 1.3  # times sentence-transformers' examples a second
LENGTH = 64  # as configs/sentiment.yaml


class Ours:
    """What Transform and the Embedder do with texts."""

    def __init__(self, model: ModelOptions, texts: list[str]):
        words = backbone.vocabulary(model)
        self._tokenizer = Tokenizer(words.path, lowercase=words.lowercase, max_length=model.max_length)
        self.dtype = hardware.compute_dtype("auto")
        self._encoder = FrozenEncoder(classifier.from_options(model, 2, seed=1), self.dtype)
        self._texts = texts
        self.vectors()  # once, so that caches are warm

    def vectors(self) -> np.ndarray:
        """Float32 [texts, hidden]."""
        ids, _ = self._tokenizer(tf.constant(self._texts))
        return self._encoder(Rows(tf.cast(ids, tf.int32), None, np.zeros(len(self._texts), np.int32)))

    def rate(self) -> float:
        """Texts per second of a pass."""
        began = time.perf_counter()
        self.vectors()
        return len(self._texts) / (time.perf_counter() - began)


def compare(rounds: int, count: int) -> dict[str, Any]:
    """Runs ours and the peer in turn.

    Returns:
        Texts per second of both for each round; the median, the least and the most of their ratios; and how busy other
        programs kept the processors before the busiest round, in per cent.

    Raises:
        UserError: the peers' environment is not built, or the peer failed.
    """
    model = ModelOptions(max_length=LENGTH)
    texts = [text for text, _ in tweets.recombined(count)]
    measured, busy = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "texts.jsonl")
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        options = ["--weights", str(weights_folder(model)), "--max-length", str(LENGTH)]
        with Contender("embed-sentence-transformers", *command_of("embed", file, *options)) as peer:
            ours = Ours(model, texts)
            for number in range(1, rounds + 1):
                busy = max(busy, psutil.cpu_percent(interval=2))
                theirs = peer.figures()
                mode = max(theirs, key=theirs.get)
                measured.append({"ours": ours.rate(), "sentence-transformers": theirs[mode], "mode": mode})
                print(
                    f"round {number}: ours ({ours.dtype.name}) {measured[-1]['ours']:.0f} texts/s, theirs "
                    f"({mode}) {theirs[mode]:.0f}",
                    flush=True,
                )
    ratios = [figures["ours"] / figures["sentence-transformers"] for figures in measured]
    ratio = {"median": median(ratios), "min": min(ratios), "max": max(ratios)}
    return {"texts": count, "busy_percent": busy, "rounds": measured, "ratio": ratio}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=2000)
    arguments = parser.parse_args()
    try:
        result = compare(arguments.rounds, arguments.texts)
    except UserError as error:
        print(f"embed: {error}", file=sys.stderr)
        return 2
    ratio = result["ratio"]
    print(f"ours / sentence-transformers: median {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
    print("figures:", write_result("embed", result))
    if result["busy_percent"] > BUSY:
        print(
            f"embed: no verdict: other programs used {result['busy_percent']:.0f}% of the processors", file=sys.stderr
        )
        return 2
    holds = ratio["median"] >= BAR
    print(f"at least {BAR:.1f} times: {'holds' if holds else 'fails'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
