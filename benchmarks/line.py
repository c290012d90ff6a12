"""The line's own cost per stage: wall clock without fitting, the evaluation's inference and the probe.

Runs a config twice in a fresh folder: once in full, then once with nothing changed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.peer import write_result
from bertline.components.evaluation import read_metrics
from bertline.pipeline import config as configs
from bertline.pipeline.stages import Node

OWN_LIMIT, CACHED_LIMIT = 45.0, 25.0


def timed_run(config: Path, folder: Path) -> float:
    """Runs `bertline run` in `folder`; seconds from the command to its last line.

    Raises:
        RuntimeError: the run did not end with a pushed version.
    """
    command = [str(Path(sys.executable).with_name("bertline")), "run", str(config)]
    began = time.monotonic()
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
    return seconds


def one(root: Path, pattern: str) -> Path:
    """The only file under `root` that matches."""
    (path,) = root.glob(pattern)
    return path


def stage_seconds(root: Path) -> dict[str, float]:
    """Seconds of each stage, from the log of the root's only run so far."""
    log = one(root, "logs/2*.log").read_text(encoding="utf-8")
    return {name: float(took) for name, took in re.findall(r"bertline\.runner: stage (\w+) took ([\d.]+) s", log)}


def main(config: Path) -> int:
    """Prints and writes the figures; returns 1 where a limit does not hold."""
    task = configs.load(config)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs" / task.name
        total = timed_run(config.absolute(), Path(folder))
        stages = stage_seconds(root)
        fit = json.loads(one(root, f"artifacts/{Node.TRAINER}/model_run/*/training.json").read_text())["wall_seconds"]
        metrics = read_metrics(str(one(root, f"artifacts/{Node.EVALUATOR}/evaluation/*/metrics.json").parent))
        cached = timed_run(config.absolute(), Path(folder))
    inference = metrics.inference_seconds
    probe = sum(stages.pop(node, 0.0) for node in (Node.EMBEDDER, Node.PROBE))
    own = {
        "start": total - probe - sum(stages.values()),
        **stages,
        Node.TRAINER: stages[Node.TRAINER] - fit,
        Node.EVALUATOR: stages[Node.EVALUATOR] - inference,
    }
    for name, seconds in own.items():
        print(f"  {name:18} {seconds:6.1f} s")
    print(f"  {'own cost':18} {total - fit - inference - probe:6.1f} s, at most {OWN_LIMIT:g}")
    print(f"  {'unchanged, cached':18} {cached:6.1f} s, at most {CACHED_LIMIT:g}")
    print(f"  besides: fit {fit:.1f} s, inference {inference:.1f} s, probe {probe:.1f} s, in all {total:.1f} s")
    write_result(
        "line", {"own": own, "fit": fit, "inference": inference, "probe": probe, "total": total, "cached": cached}
    )
    return int(total - fit - inference - probe > OWN_LIMIT or cached > CACHED_LIMIT)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "configs/sentiment.yaml")))
