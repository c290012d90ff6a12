"""Transform's speed on 200,000 tweets: `python -m benchmarks.tokenise`.

Ours is the whole pass as the stage runs it: a Beam pipeline that loads the graph, reads the Examples, tokenises and
writes. The peer is Hugging Face's Rust tokenizers on one thread over the same texts, with reading and writing and
without. They take turns, since a machine's speed drifts. Two Beam worker processes are also compared with one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import apache_beam as beam
import tensorflow as tf
from tfx_bsl.coders import example_coder

from benchmarks import stages, tweets
from benchmarks.peer import run_peer, weights_folder, write_result
from bertline.components import shards, tokenisation
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.models import features
from bertline.models.bert import backbone
from bertline.models.bert.tokenizer import Tokenizer
from bertline.models.recipe import ModelOptions

ROWS = 200_000
LENGTH = 64  # as configs/sentiment.yaml
OVER_PEER = 2.0  # times the Rust tokenizers on one thread, both with reading and writing
OVER_ONE_WORKER = 1.7
FEW = 300  # rows, to see what a pass costs before the first row
COPIES = 5  # of the rows, for the workers: they need many seconds of work


class Prepared:
    """Rows up to the point where Transform reads them, and the texts for the peer."""

    def __init__(self, folder: Path, rows: int):
        folder.mkdir()
        self._model = ModelOptions(max_length=LENGTH)
        data = DataOptions(source=tweets.write(folder, rows), label="sentiment")
        line = stages.Stages(folder, data, self._model, stages.beam_arguments(1))
        for name, stage in line.all.items():
            began = time.monotonic()
            stage()
            print(f"  {name:14} {time.monotonic() - began:6.1f} s", flush=True)
        self.folder, self.examples, self.graph = folder, line.examples.uri, line.graph.uri
        self.rows = sum(split["rows"] for split in self._counts(line.transformed.uri).values())

    @staticmethod
    def _counts(transformed: str) -> dict[str, dict[str, int]]:
        return json.loads(Path(transformed, tokenisation.COUNTS_FILE).read_text())

    def repeat(self, copies: int) -> None:
        """Makes the pass read every shard this many times, under other names."""
        for _, path in shards.of(self.examples):
            for copy in range(1, copies):
                os.link(path, path.removesuffix(shards.ENDING) + f"-copy{copy}{shards.ENDING}")
        self.rows *= copies

    def ours(self, workers: list[str]) -> float:
        """Seconds of the pass.

        Args:
            workers: Beam's arguments.
        """
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as target, beam.Pipeline(argv=workers) as pipeline:
            tokenisation.tokenise(pipeline, self.graph, self.examples, target)
        return time.perf_counter() - began

    def write_texts(self) -> Path:
        """The texts as JSON Lines, for the peer."""
        path = self.folder / "texts.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for batch in self._texts():
                file.writelines(json.dumps({"text": text.decode()}) + "\n" for text in batch.numpy())
        return path

    def peer(self, texts: Path) -> dict[str, float]:
        """Texts per second of the Rust tokenizers: `tokenising` only, and `all` with reading and writing."""
        weights = str(weights_folder(self._model))
        target = str(self.folder / "ids")
        return run_peer("tokenise", texts, "--weights", weights, "--max-length", str(LENGTH), "--target", target)

    def tokenising(self) -> float:
        """Texts per second of our tokenizer, from texts in memory to ids as numpy arrays."""
        words = backbone.vocabulary(self._model)
        tokenizer = Tokenizer(words.path, lowercase=words.lowercase, max_length=LENGTH)
        call = tf.function(lambda texts: tokenizer(texts)[0], input_signature=[tf.TensorSpec([None], tf.string)])
        texts = list(self._texts())
        call(texts[0])
        return self.rows / _seconds(lambda: [call(batch).flat_values.numpy() for batch in texts])

    def _texts(self) -> list[tf.Tensor]:
        spec = {features.TEXT: tf.io.FixedLenFeature([], tf.string)}
        return [
            tf.io.parse_example(batch, spec)[features.TEXT]
            for shard in shards.of(self.examples)
            for batch in shards.read(shard, tokenisation.BATCH_ROWS)
        ]

    def parts(self) -> dict[str, float]:
        """Processor seconds of each step for all rows, in this thread and TensorFlow's."""
        graph, encoder = tokenisation.Graph(self.graph), example_coder.RecordBatchToExamplesEncoder()
        files = shards.of(self.examples)
        batches = [batch for shard in files for batch in graph.apply(shard)]  # from here on it is traced and compiled
        records = [record for batch in batches for record in encoder.encode(batch)]

        def write() -> None:
            with shards.writing(str(self.folder / "parts"), "train", "all.gz") as writer:
                for record in records:
                    writer.write(record)

        steps: dict[str, Callable[[], Any]] = {
            "read, unzip": lambda: [None for shard in files for _ in shards.read(shard, tokenisation.BATCH_ROWS)],
            "parse, tokenise": lambda: [None for shard in files for _ in graph.apply(shard)],
            "encode": lambda: [encoder.encode(batch) for batch in batches],
            "zip, write": write,
        }
        taken = {name: _seconds(step, time.process_time) for name, step in steps.items()}
        taken["parse, tokenise"] -= taken["read, unzip"]
        return taken


def _seconds(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    began = clock()
    work()
    return clock() - began


def against_peer(prepared: Prepared, rounds: int) -> dict[str, Any]:
    """Ours and the peer in turn: examples per second of both and their ratio, for each round."""
    texts, measured = prepared.write_texts(), []
    for number in range(1, rounds + 1):
        ours = {"tokenising": prepared.tokenising(), "all": prepared.rows / prepared.ours(stages.beam_arguments(1))}
        peer = prepared.peer(texts)
        ratio = {name: ours[name] / peer[name] for name in ours}
        measured.append({"ours": ours, "peer": peer, "ratio": ratio})
        print(
            f"round {number}: all included ours {ours['all']:,.0f}, Rust {peer['all']:,.0f} rows per second "
            f"({ratio['all']:.2f} x); only tokenising {ours['tokenising']:,.0f} and {peer['tokenising']:,.0f} "
            f"({ratio['tokenising']:.2f} x)",
            flush=True,
        )
    return {"rounds": measured, "ratio": median(figures["ratio"]["all"] for figures in measured)}


def against_one_worker(prepared: Prepared, few: Prepared, rounds: int) -> dict[str, Any]:
    """One worker process and two in turn.

    Returns:
        For each round the seconds of a pass over COPIES times the rows, and of one over a few rows, which is its start;
        the median ratio of the rates, of whole passes and without their starts.
    """
    measured = []
    few.ours(stages.beam_arguments(2))  # the process that workers are forked from starts once per run, not per pass
    for number in range(1, rounds + 1):
        seconds = {}
        for workers in (1, 2):
            arguments = [*stages.beam_arguments(2)[:-1], f"--direct_num_workers={workers}"]
            seconds[workers] = {"start": few.ours(arguments), "whole": prepared.ours(arguments)}
        measured.append(seconds)
        one, two = (f"{took['whole']:.1f} s ({took['start']:.1f} before the first row)" for took in seconds.values())
        print(f"round {number}: one worker {one}, two {two}", flush=True)
    return {
        "rounds": measured,
        "whole": median(round_[1]["whole"] / round_[2]["whole"] for round_ in measured),
        "ratio": median(
            (round_[1]["whole"] - round_[1]["start"]) / (round_[2]["whole"] - round_[2]["start"]) for round_ in measured
        ),
    }


def main() -> int:
    """Prints and writes the figures; returns 1 where a bar does not hold, 2 where it could not be judged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(f"the stages, in memory, on {arguments.rows:,} tweets")
        prepared = Prepared(Path(scratch, "many"), arguments.rows)
        few = Prepared(Path(scratch, "few"), FEW)
        parts = prepared.parts()
        for name, seconds in parts.items():
            print(f"  {name:16} {1e6 * seconds / prepared.rows:5.1f} us per row", flush=True)
        try:
            peer = against_peer(prepared, arguments.rounds)
        except UserError as error:
            print(f"tokenise: {error}", file=sys.stderr)
            return 2
        rows = prepared.rows
        prepared.repeat(COPIES)
        workers = against_one_worker(prepared, few, arguments.rounds)
    print(f"all included: {peer['ratio']:.2f} x the Rust tokenizers on one thread (at least {OVER_PEER:g})")
    print(
        f"two workers: {workers['ratio']:.2f} x one, not counting their start (at least {OVER_ONE_WORKER:g}); "
        f"{workers['whole']:.2f} x counting it"
    )
    result = {"rows": rows, "copies": COPIES, "parts": parts, "peer": peer, "workers": workers}
    print("figures:", write_result("tokenise", result))
    return int(peer["ratio"] < OVER_PEER or workers["ratio"] < OVER_ONE_WORKER)


if __name__ == "__main__":
    sys.exit(main())
