"""`bertline score` against the SavedModel in process: `python -m benchmarks.score CONFIG --rows 100000`.

The limit is what `benchmarks.in_process` does: the model called directly on batches of 32 texts, all of them sorted by
length, with a batch on each core. Nothing is read or written in that time. `bertline score` reads the same rows from a
file and writes the answers to another; its time is that of the whole command, start and import included.

The machine's speed drifts, so the rows of the direct calls are measured in two halves, one before the command and one
after it. Where other programs are busy, compare the processor seconds, which both count the same way.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peer import write_result
from benchmarks.speed import BUSY
from bertline.components.data import formats, task_files
from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline.config import Config
from bertline.serving import releases

BAR = 0.9  # times the examples per second of the direct calls
BATCH = 32


def texts_of(config: Config, count: int) -> list[str]:
    """This many texts of the config's own source, from the start again when they are used up.

    Raises:
        UserError: the source has no texts.
    """
    options = config.data
    files = task_files.expand(options.source, config.folder, options.format, options.newest_spans)
    name = options.text_columns[0]
    rows = (row.values[0] for file in files for row in formats.read(file, options, [name]) if not row.fault)
    texts = list(islice((text for text in rows if text and text.strip()), count))
    if not texts:
        raise UserError(f"{', '.join(options.source)}: no texts to score.")
    return (texts * (count // len(texts) + 1))[:count]


class Direct:
    """The model called in a process of its own.

    Args:
        folder: of the SavedModel, named by its version.
        file: the texts, as a JSON list.
        way: see benchmarks.in_process.
    """

    def __init__(self, folder: str, file: Path, way: str):
        command = [sys.executable, "-m", "benchmarks.in_process", folder, str(file), way]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self._process.stdout.readline()
        self.ask(BATCH * 4)  # the first calls allocate

    def ask(self, texts: int) -> float:
        """Seconds that this many texts take, from the start of the file."""
        print(json.dumps({"texts": texts, "batch": BATCH}), file=self._process.stdin, flush=True)
        return texts / json.loads(self._process.stdout.readline())["per_second"]

    def processor_seconds(self) -> float:
        """What the process has used so far, on all cores."""
        return sum(psutil.Process(self._process.pid).cpu_times()[:2])

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def measure(config_file: Path, model: str | None, rows: int, way: str) -> dict[str, Any]:
    """Both, over the same texts.

    Returns:
        Examples per second of the direct calls and of the command, the ratio of these and of examples per processor
        second, and how busy other programs kept the processors before the command, in per cent.

    Raises:
        UserError: nothing is pushed, or the command failed.
    """
    config = configs.load(config_file)
    versions = releases.whole_versions(config.serving_folder) if model is None else {}
    if model is None and not versions:
        raise UserError(f"{config.serving_folder} holds no pushed version; `bertline run {config_file}` makes one.")
    folder = model or versions[max(versions)][0]
    texts = texts_of(config, rows)
    with tempfile.TemporaryDirectory() as scratch:
        listed, table = Path(scratch, "texts.json"), Path(scratch, "rows.jsonl")
        listed.write_text(json.dumps(texts), encoding="utf-8")
        name = config.data.text_columns[0]
        table.write_text("".join(json.dumps({name: text}) + "\n" for text in texts), encoding="utf-8")
        direct = Direct(folder, listed, way)
        half = rows // 2
        used = direct.processor_seconds()
        seconds = direct.ask(half)
        busy = psutil.cpu_percent(interval=2)
        began, before = time.monotonic(), _of_children()
        command = [sys.executable, "-m", "bertline.pipeline.cli", "score", str(config_file), str(table)]
        command += ["-o", f"{scratch}/scored.parquet", "--model", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        took, ours_used = time.monotonic() - began, _of_children() - before
        print(done.stdout, flush=True)
        if done.returncode:
            raise UserError(f"bertline score failed: {done.stderr}")
        seconds += direct.ask(half)
        limit_used = direct.processor_seconds() - used
        direct.close()
    limit, ours = 2 * half / seconds, rows / took
    return {
        "model": folder,
        "rows": rows,
        "way": way,
        "busy_percent": busy,
        "direct": limit,
        "score": ours,
        "ratio": ours / limit,
        "processor_ratio": (limit_used / (2 * half)) / (ours_used / rows),
    }


def _of_children() -> float:
    """Processor seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--model", help="folder of a SavedModel, named by its version; default: the newest pushed one")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--way", choices=("served", "documented"), default="served", help="see benchmarks.in_process")
    arguments = parser.parse_args()
    try:
        result = measure(arguments.config, arguments.model, arguments.rows, arguments.way)
    except UserError as error:
        print(f"score: {error}", file=sys.stderr)
        return 2
    speeds = f"directly {result['direct']:.0f} examples/s, bertline score {result['score']:.0f}"
    print(f"{speeds}: {result['ratio']:.2f} times; per processor second {result['processor_ratio']:.2f} times")
    print("figures:", write_result("score", result))
    if result["busy_percent"] > BUSY:
        busy = f"{result['busy_percent']:.0f}%"
        print(f"score: no verdict: other programs used {busy} of the processors", file=sys.stderr)
        return 2
    holds = result["ratio"] >= BAR
    print(f"at least {BAR} times: {'holds' if holds else 'fails'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
