"""Speed and memory of each method of training beside full fine-tuning, as ratios in one run.

Speed: each method takes turns with full on the same batches of tweets, because the speed of a shared machine drifts.
The batches have one length, so that no kernel is compiled while it is timed. Memory: each method trains in a process of
its own; what counts is the most that it held, above what it held before the training was built. Of `probe` an example
is one that is embedded; its logistic regression comes on top, and takes seconds.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from benchmarks.train_speed import LENGTH, read_tweets
from bertline.models import hardware, training
from bertline.models.bert import classifier
from bertline.models.dataset import Batches, padded_length
from bertline.models.embeddings import FrozenEncoder
from bertline.models.recipe import ModelOptions, TrainOptions

METHODS = {
    "full": {},
    "top_layers": {"method": "top_layers", "top_layers": 2},
    "bitfit": {"method": "bitfit"},
    "lora": {"method": "lora"},
    "adalora": {"method": "adalora"},
    "pfeiffer": {"method": "adapters"},
    "houlsby": {"method": "adapters", "adapters": {"kind": "houlsby"}},
    "prompt": {"method": "prompt"},
    "prefix": {"method": "prefix"},
    "probe": {"method": "probe"},
}
ROUNDS = 5
TWEETS = 400  # a third of them are of the most common length
Step = Callable[[], None]


class Bench:
    """The tweets, and a method's work on a batch of them."""

    def __init__(self) -> None:
        self._options = ModelOptions(max_length=LENGTH)
        recipe = TrainOptions()
        rows = read_tweets(self._options, TWEETS)
        batches = list(Batches(rows, recipe.batch_size).ordered())
        lengths = [padded_length(int(tf.reduce_max(batch["lengths"]))) for batch in batches]
        self.length = statistics.mode(lengths)
        self._rows = rows.take([int(row) for batch, length in zip(batches, lengths, strict=True)
                                if length == self.length for row in batch["rows"]])  # fmt: skip

    def step(self, name: str) -> tuple[Step, int]:
        """A step of the method, and how many examples it works through."""
        model = classifier.from_options(self._options, 3, seed=17)
        recipe = TrainOptions(distribution="one_device", **METHODS[name])
        if recipe.method == "probe":
            encoder = FrozenEncoder(model, hardware.compute_dtype("auto"))

            def embed() -> None:
                encoder(self._rows)

            return embed, len(self._rows)
        with tempfile.TemporaryDirectory() as folder:
            run = training.Run(tf.distribute.get_strategy(), model, self._rows, self._rows, recipe, Path(folder))
        batches = [batch for batch in run.batches.ordered() if len(batch["rows"]) == recipe.batch_size]

        def train() -> None:
            for batch in batches:
                run.train_on(batch)

        return train, len(batches) * recipe.batch_size


def speeds(names: list[str], rounds: int) -> dict[str, float]:
    """Examples a second as a multiple of full's, the median of the rounds."""
    bench = Bench()
    print(f"{hardware.describe()}: batches of 32 tweets, padded to {bench.length} tokens")
    steps = {name: bench.step(name) for name in names}
    for step, _ in steps.values():  # traces and compiles
        step()
    measured: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, (step, examples) in steps.items():
            begun = time.perf_counter()
            step()
            measured[name].append(examples / (time.perf_counter() - begun))
    full = measured["full"]
    for name, values in measured.items():
        print(f"  {name:20} {statistics.median(values):6.1f} examples/s", flush=True)
    return {
        name: statistics.median(value / beside for value, beside in zip(values, full, strict=True))
        for name, values in measured.items()
    }


def peak(name: str) -> float:
    """The most that a process of its own held while it trained, above what it held before, in MB."""
    command = [sys.executable, "-m", "benchmarks.methods", "--memory-of", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def held() -> float:
    """The most that this process has held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Prints a line per method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="beside full; all of them if none is named")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--memory-of", choices=METHODS, help="print the peak of one method only, in MB")
    arguments = parser.parse_args()
    if arguments.memory_of:
        bench = Bench()
        before = held()
        step, _ = bench.step(arguments.memory_of)
        step()
        print(held() - before)
        return 0
    names = list(dict.fromkeys(["full", *arguments.methods])) if arguments.methods else list(METHODS)
    if unknown := set(names) - set(METHODS):
        parser.error(f"{', '.join(sorted(unknown))}: known are {', '.join(METHODS)}")
    ratios = speeds(names, arguments.rounds)
    peaks = {name: peak(name) for name in names}
    for name in names:
        speed, memory = f"{ratios[name]:5.2f} x full's speed", f"{peaks[name] / peaks['full']:5.2f} x full's memory"
        print(f"{name:20} {speed}   {memory} ({peaks[name]:.0f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
