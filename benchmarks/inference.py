"""The exported model against Transformers, in process: `python -m benchmarks.inference configs/sentiment.yaml`.

Both take texts and return probabilities, for length-sorted batches of 32 test rows and for single texts. They take
turns for many short rounds, each in a process of its own. The machine's speed drifts, so only the ratio within a round
means anything. The test rows and the weights are those of the newest finished run of the config; the weights are
exported in bfloat16, the peer's dtype.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks import finished
from benchmarks.peer import BENCHMARKS, RESULTS, command_of, weights_folder, write_result
from benchmarks.speed import BUSY
from bertline.errors import UserError
from bertline.models import features
from bertline.models.recipe import ExportOptions, ModelOptions
from bertline.pipeline import config as configs
from bertline.pipeline import lineage
from bertline.pipeline.stages import Node

BAR = 0.8  # times Transformers' examples per second with bf16 weights; 1.0 is the aim
P50_BAR = 1.0  # a single text waits no longer than with Transformers
BATCH = 32
MEASURES = {
    "sorted": "examples/s in batches sorted by length",
    "unsorted": "examples/s in unsorted batches",
    "p50": "p50 of single texts",
}


def sample_rows(config: configs.Config, count: int) -> Path:
    """Writes this many test rows, drawn by the hash of the text, and returns their folder.

    Raises:
        UserError: no run of the config has finished.
    """
    answers = finished.read_answers(finished.newest_evaluation(config.root_folder))
    folder = RESULTS / f"rows-inference-{config.name}"
    rows = finished.export(finished.examples_of(config.root_folder, answers), folder)["test"]
    sample = sorted(rows, key=lambda row: row[features.ROW_ID])[:count]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sample), encoding="utf-8")
    return folder


def bfloat16_export(config: configs.Config) -> Path:
    """The trained weights of the newest run, exported in the peer's dtype; the run may serve another one.

    Raises:
        UserError: no run of the config has exported a model.
    """
    from bertline.components import exporter

    store, run_id = lineage.find(config, None, Node.EXPORTER)
    (graph,) = store.stage(run_id, Node.TRANSFORM).outputs["transform_graph"]
    (weights,) = store.stage(run_id, Node.TRAINER).outputs["weights"]
    folder = RESULTS / f"exported-{config.name}"
    shutil.rmtree(folder, ignore_errors=True)
    options = ExportOptions(dtype="bfloat16")
    exporter.write_saved_model(folder, exporter.Source(Path(weights.uri), graph.uri, config.model, options))
    return folder


class Contender:
    """A process that times itself once per line of input, and sleeps in between.

    Args:
        name: for messages.
        command: its command line.
        environment: its environment variables; None: ours.
    """

    def __init__(self, name: str, command: list[str], environment: dict[str, str] | None = None):
        self._name = name
        RESULTS.mkdir(exist_ok=True)
        self._log = RESULTS / f"{name}.log"
        pipe = subprocess.PIPE
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, cwd=BENCHMARKS.parent, env=environment, stdin=pipe, stdout=pipe, stderr=log, text=True
            )
        self._read()

    def ask(self) -> dict[str, Any]:
        """The figures of one pass, each from the way of using the cores that did it best; and the ways.

        Raises:
            UserError: the process failed; the message ends with its last words.
        """
        ways = self.figures()
        best = {name: max(way[name] for way in ways) for name in ("sorted", "unsorted")}
        return best | {"p50": min(way["p50"] for way in ways), "dtype": ways[0]["dtype"], "ways": ways}

    def figures(self) -> Any:
        """The figures of one pass, as the process gives them.

        Raises:
            UserError: as `ask`.
        """
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            words = self._log.read_text().strip()[-2000:]
            raise UserError(f"{self._name} failed (exit {self._process.wait()}):\n{words}")
        return json.loads(line)

    def __enter__(self) -> Contender:
        """Itself."""
        return self

    def __exit__(self, *_) -> None:
        """Ends the process, which stops when its input does."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def ours(rows: Path, saved_model: Path) -> Contender:
    """Our exported model."""
    command = [sys.executable, "-m", "benchmarks.exported", str(rows), str(saved_model), "--batch-size", str(BATCH)]
    return Contender("inference-ours", command)


def theirs(rows: Path, model: ModelOptions) -> Contender:
    """Transformers with the weights that ours was trained from."""
    options = {"weights": weights_folder(model), "max-length": model.max_length, "batch-size": BATCH}
    parts = (part for name, value in options.items() for part in (f"--{name}", str(value)))
    return Contender("inference-huggingface", *command_of("inference", rows, *parts))


def compare(config: configs.Config, saved_model: Path, rounds: int, count: int) -> dict[str, Any]:
    """Runs ours and the peer in turn.

    Returns:
        The figures of both for each round; the median, the least and the most of the ratios of ours to the peer's
        (more is better for examples per second, less for p50); and how busy other programs kept the processors before
        the busiest round, in per cent.
    """
    rows = sample_rows(config, count)
    measured, busy = [], 0.0
    with ours(rows, saved_model) as exported, theirs(rows, config.model) as transformers:
        for number in range(1, rounds + 1):
            busy = max(busy, psutil.cpu_percent(interval=2))
            figures = {"ours": exported.ask(), "huggingface": transformers.ask()}
            measured.append(figures)
            lines = (_line(name, of_one) for name, of_one in figures.items())
            print(f"round {number}: {'; '.join(lines)}", flush=True)
    ratios = {name: [figures["ours"][name] / figures["huggingface"][name] for figures in measured] for name in MEASURES}
    return {"config": config.name, "saved_model": str(saved_model), "busy_percent": busy, "rounds": measured} | {
        name: {"median": median(of_rounds), "min": min(of_rounds), "max": max(of_rounds)}
        for name, of_rounds in ratios.items()
    }


def _line(name: str, figures: dict[str, Any]) -> str:
    """Such as "ours (bfloat16) 680 examples/s sorted, 650 unsorted, single p50 9.0 ms"."""
    speeds = f"{figures['sorted']:.0f} examples/s sorted, {figures['unsorted']:.0f} unsorted"
    return f"{name} ({figures['dtype']}) {speeds}, single p50 {figures['p50']:.1f} ms"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--examples", type=int, default=512, help="test rows per round")
    parser.add_argument("--saved-model", type=Path, help="another SavedModel than the newest run's weights in bfloat16")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up is no news
    try:
        config = configs.load(arguments.config)
        saved_model = arguments.saved_model or bfloat16_export(config)
        result = compare(config, saved_model, arguments.rounds, arguments.examples)
    except UserError as error:
        print(f"inference: {error}", file=sys.stderr)
        return 2
    for name, meaning in MEASURES.items():
        ratio = result[name]
        print(
            f"{meaning}, ours / Transformers: median {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
        )
    print("figures:", write_result(f"inference-{result['config']}", result))
    if result["busy_percent"] > BUSY:
        busy = f"{result['busy_percent']:.0f}%"
        print(f"inference: no verdict: other programs used {busy} of the processors", file=sys.stderr)
        return 2
    fast, prompt = result["sorted"]["median"] >= BAR, result["p50"]["median"] <= P50_BAR
    print(f"sorted batches at least {BAR:.1f} times: {'holds' if fast else 'fails'}")
    print(f"p50 at most {P50_BAR:.1f} times: {'holds' if prompt else 'fails'}")
    return 0 if fast and prompt else 1


if __name__ == "__main__":
    sys.exit(main())
