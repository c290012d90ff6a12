"""Training speed against Transformers on the same rows: `python -m benchmarks.speed configs/sentiment.yaml`.

The two take turns for several rounds, each in a process of its own. The machine's speed drifts, so only the ratio
within a round means anything. The rows are those of the newest finished run of the config.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks import finished
from benchmarks.peer import BENCHMARKS, RESULTS, run_peer, same_recipe, write_result
from bertline.errors import UserError
from bertline.models import features
from bertline.pipeline import config as configs

BAR = 1.0  # at least as fast as Transformers' best mode on a CPU
BUSY = 20  # per cent of the processors; if other programs use more, there is no verdict


def sample_rows(config: configs.Config, steps: int) -> Path:
    """Writes the rows of this many batches, drawn by the hash of the text, and returns their folder.

    Raises:
        UserError: no run of the config has finished, or it trained on fewer rows.
    """
    answers = finished.read_answers(finished.newest_evaluation(config.root_folder))
    folder = RESULTS / f"rows-speed-{config.name}"
    finished.export(finished.examples_of(config.root_folder, answers), folder)
    wanted = {"train": steps * config.train.batch_size, "validation": config.train.batch_size}
    for split, count in wanted.items():
        with (folder / f"{split}.jsonl").open(encoding="utf-8") as lines:
            rows = sorted(lines, key=lambda line: json.loads(line)[features.ROW_ID])
        if len(rows) < count:
            raise UserError(
                f"{steps} steps need {count} {split} rows and the run had {len(rows)}; ask for fewer steps."
            )
        (folder / f"{split}.jsonl").write_text("".join(rows[:count]), encoding="utf-8")
    return folder


def train_ours(config: configs.Config, rows: Path, skip_steps: int) -> dict[str, Any]:
    """One epoch of our training on the rows; returns what benchmarks/ours.py printed.

    Raises:
        UserError: it failed; the message ends with its last words.
    """
    recipe = config.train.model_copy(update={"epochs": 1, "tensorboard": False})
    command = [sys.executable, "-m", "benchmarks.ours", str(rows)]
    command += [config.model.model_dump_json(), recipe.model_dump_json(), "--skip-steps", str(skip_steps)]
    ran = subprocess.run(command, cwd=BENCHMARKS.parent, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise UserError(f"our training failed (exit {ran.returncode}):\n{ran.stderr.strip()[-2000:]}")
    return json.loads(ran.stdout.strip().splitlines()[-1])


def train_peer(config: configs.Config, rows: Path, steps: int, skip_steps: int) -> dict[str, Any]:
    """Some steps of Transformers on the rows; returns the figures of its run."""
    recipe = same_recipe(config.model, config.train.model_copy(update={"epochs": 1}))
    limits = ["--max-steps", str(steps), "--skip-steps", str(skip_steps)]
    return run_peer("huggingface", rows, *recipe, *limits)["runs"][0]


def compare(config: configs.Config, rounds: int, steps: int, skip_steps: int) -> dict[str, Any]:
    """Runs ours and the peer in turn.

    Returns:
        Examples per second of both and their ratio for each round; the ratio's median; and how busy other programs
        kept the processors before the busiest round, in per cent.
    """
    rows = sample_rows(config, steps)
    measured, busy = [], 0.0
    for number in range(1, rounds + 1):
        busy = max(busy, psutil.cpu_percent(interval=2))
        ours = train_ours(config, rows, skip_steps)["examples_per_second"]
        peer = train_peer(config, rows, steps, skip_steps)["examples_per_second"]
        measured.append({"ours": ours, "huggingface": peer, "ratio": ours / peer})
        print(
            f"round {number}: ours {ours:.1f}, Transformers {peer:.1f} examples/s, ratio {ours / peer:.2f}", flush=True
        )
    ratios = [figures["ratio"] for figures in measured]
    return {"config": config.name, "steps": steps, "busy_percent": busy, "rounds": measured} | {
        "ratio": {"median": median(ratios), "min": min(ratios), "max": max(ratios)}
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="training steps per fit")
    parser.add_argument("--skip-steps", type=int, default=20, help="first steps left out: tracing, warm caches")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow only reads records here; its start-up is no news
    try:
        result = compare(configs.load(arguments.config), arguments.rounds, arguments.steps, arguments.skip_steps)
    except UserError as error:
        print(f"speed: {error}", file=sys.stderr)
        return 2
    ratio = result["ratio"]
    print(f"ours / Transformers: median {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
    print("figures:", write_result(f"speed-{result['config']}", result))
    if result["busy_percent"] > BUSY:
        print(
            f"speed: no verdict: other programs used {result['busy_percent']:.0f}% of the processors", file=sys.stderr
        )
        return 2
    print(f"at least {BAR:.1f}: {'holds' if ratio['median'] >= BAR else 'fails'}")
    return 0 if ratio["median"] >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
