"""How right the monitor's alarms are, by simulation: `python -m benchmarks.monitor`.

Draws test rows, seven usual windows and one more, many times over, and counts: false alarms where nothing changes; how
often 10 points of label shift, 5 points of accuracy lost, and a new kind of text that is 10% of all are found; and how
far the estimated accuracy is from the true one, under covariate shift, where it holds, and under concept shift, where
it cannot. A model is a calibrated one: each text's label is drawn from the probabilities that the model gives it.
Before that, a million records are written, and a process judges them: its time and memory have bars.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.peer import write_result
from bertline.monitoring import accuracy, judge, looks, telling_apart
from bertline.monitoring.looks import Look
from bertline.monitoring.options import MonitorOptions
from bertline.monitoring.reference import Reference
from bertline.monitoring.windows import Records, Window
from bertline.serving import record_files

CLASSES = ["negative", "neutral", "positive"]
USUAL = (0.5, 0.3, 0.2)
SURE, UNSURE = 8.0, 5.5  # how sure the model is of a text's kind: accuracies of 0.82 and 0.77
TEST_ROWS, BEFORE = 2000, 7
HIDDEN = 64
LARGE_HIDDEN, PART = 384, 20_000  # of the large window: vectors as MiniLM's, parts as the servers write them
TEXT = "@airline my flight was cancelled again and nobody answers the phone"
SIZES = (500, 2000, 10_000)
START = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)

# The bars.
MINUTE, GIBIBYTE = 60.0, 1 << 30  # for a window of a million records


class Drawing:
    """Draws what a model answers to texts, and their vectors."""

    def __init__(self, seed: int, hidden: int = HIDDEN):
        self.hidden = hidden
        self.chance, self.machine = np.random.default_rng(seed), np.random.default_rng(seed + (1 << 32))
        self.kinds = self.chance.normal(size=(3, hidden)) / 4  # the labels' own directions
        self.new = self.chance.normal(size=hidden) / 2  # that of a new kind of text

    def texts(
        self, rows: int, shares: tuple[float, ...] = USUAL, sureness: float = SURE, new: float = 0.0
    ) -> dict[str, np.ndarray]:
        """Labels answered, their probabilities, whether they are right, characters and vectors."""
        kinds = self.chance.choice(3, rows, p=shares)
        gamma = self.chance.gamma(1 + sureness * np.eye(3)[kinds])
        scores = gamma / gamma.sum(-1, keepdims=True)
        truth = (scores.cumsum(-1) < self.chance.random((rows, 1))).sum(-1).clip(0, 2)
        labels = scores.argmax(-1)
        is_new = self.chance.random(rows) < new
        vectors = self.chance.normal(size=(rows, self.hidden)) + self.kinds[kinds] + is_new[:, None] * self.new
        return {
            "labels": labels.astype(np.int32),
            "confidence": scores.max(-1).astype(np.float32),
            "right": labels == truth,
            "characters": self.chance.lognormal(4.2, 0.5, rows).astype(np.float32),
            "embedding": vectors.astype(np.float16),
        }

    def reference(self) -> Reference:
        """Test rows."""
        drawn = self.texts(TEST_ROWS)
        nothing = np.full(TEST_ROWS, np.nan, np.float32)
        return Reference(classes=CLASSES, abstained=nothing, unknown=nothing, texts=[], columns={}, **drawn)

    def window(self, rows: int, slower: float = 1.0, **drawing: Any) -> tuple[Window, np.ndarray, np.ndarray]:
        """A window, whether its answers are right, and their vectors; `slower` by that factor to answer."""
        drawn = self.texts(rows, **drawing)
        right, vectors, nothing = drawn.pop("right"), drawn.pop("embedding"), np.full(rows, np.nan, np.float32)
        made = Window(
            start=START, end=START + DAY, model="reviews", version=1,
            abstained=nothing, pieces=nothing, unknown=nothing,
            milliseconds=(slower * self.machine.lognormal(2.5, 0.5, rows)).astype(np.float32), columns={},
            statuses=Counter(OK=rows), versions=Counter({1: rows}),
            parts=[], places=np.zeros((rows, 2), np.int32), **drawn,
        )  # fmt: skip
        return made, right, vectors


def raised(seed: int, rows: int, options: MonitorOptions, **drawing: Any) -> list[str]:
    """The alarms of one window, by what was looked at; `drawing` says what has changed in it."""
    drawing_of = Drawing(seed)
    reference = drawing_of.reference()
    before = [drawing_of.window(rows) for _ in range(BEFORE)]
    window, _, vectors = drawing_of.window(rows, **drawing)
    windows = [each for each, _, _ in before]
    found = [look for look, _, _ in looks.of_accuracy(window, reference, options.accuracy_loss, np.zeros(0, bool))]
    found += looks.of_shares(window, reference, windows, options.smallest_shift)
    found += looks.of_errors(window, windows)
    found += looks.of_latency(window, windows, options.slower_by - 1)
    pooled = np.concatenate([each[: telling_apart.MOST_ROWS // BEFORE] for _, _, each in before])
    for against, others in ((looks.TEST_ROWS, reference.embedding), (looks.BEFORE, pooled)):
        told = telling_apart.tell_apart(vectors[: telling_apart.MOST_ROWS].astype(float), others.astype(float))
        distance = max(2 * told.area - 1, 0.0)
        found.append(Look(looks.TEXTS, against, "", distance, options.smallest_shift, told.p_value))
    adjusted = stats.false_discovery_control([look.p_value for look in found])
    level = judge.level(options)
    return [look.name for look, p in zip(found, adjusted, strict=True) if p <= level and look.distance >= look.least]


def rate(times: int, what: Callable[[int], list[str]]) -> dict[str, Any]:
    """How often there was any alarm, with its 95% interval, and by which looks."""
    alarms = [what(seed) for seed in range(times)]
    hits = sum(bool(each) for each in alarms)
    interval = stats.binomtest(hits, times).proportion_ci(0.95, method="wilson")
    names = Counter(name for each in alarms for name in set(each))
    return {"share": hits / times, "interval": [interval.low, interval.high], "times": times, "looks": dict(names)}


def estimates(times: int, rows: int) -> dict[str, dict[str, float]]:
    """The mean error of the estimated accuracy, and how often its interval holds the true one."""
    figures: dict[str, list[tuple[float, bool, float]]] = {"covariate shift": [], "concept shift": []}
    for seed in range(times):
        drawing = Drawing(1000 + seed)
        reference = drawing.reference()
        for name, sureness, flipped in (("covariate shift", UNSURE, 0.0), ("concept shift", SURE, 0.1)):
            window, right, _ = drawing.window(rows, sureness=sureness)
            right = right & (drawing.chance.random(rows) >= flipped)  # a tenth of the right answers no longer is
            found = accuracy.estimate(window.confidence, reference.confidence, reference.right)
            low, high = found.interval
            figures[name].append((found.accuracy - right.mean(), low <= right.mean() <= high, right.mean()))
    return {
        name: {
            "mean_absolute_error": float(np.mean([abs(error) for error, _, _ in each])),
            "bias": float(np.mean([error for error, _, _ in each])),
            "interval_holds": float(np.mean([holds for _, holds, _ in each])),
            "accuracy": float(np.mean([true for _, _, true in each])),
        }
        for name, each in figures.items()
    }


def a_million(rows: int) -> dict[str, float]:
    """Seconds and bytes of memory that a process takes to judge a window of records with vectors, from their files.

    Two windows before it have a tenth of the records each, so that everything is looked at.
    """
    with tempfile.TemporaryDirectory() as scratch:
        end = datetime.datetime.now(datetime.UTC)
        drawing = Drawing(0, LARGE_HIDDEN)
        for number, many in ((2, rows // 10), (1, rows // 10), (0, rows)):
            middle = end - (number + 0.5) * DAY
            _write(record_files.Parts(Path(scratch), 30, 1 << 40), drawing, many, middle)
            if number:  # as if the server had written them then
                ((_, today),) = [each for each in record_files.days(Path(scratch)) if each[0] > (end - DAY).date()]
                today.rename(today.with_name(f"date={middle.date()}"))
        command = [sys.executable, "-m", "benchmarks.monitor", "--judge", scratch, end.isoformat()]
        judged = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        return json.loads(judged.stdout) | {
            "bytes_on_disk": sum(part.stat().st_size for _, part in record_files.parts(Path(scratch)))
        }


def judged(folder: Path, end: datetime.datetime) -> dict[str, float]:
    """Judges the last day of records as `bertline monitor` does, in a process that does nothing else."""
    reference = Drawing(0, LARGE_HIDDEN).reference()
    before_it = _peak()
    began = time.monotonic()
    records = Records(folder, "reviews", CLASSES)
    before = [records.window(end - (number + 1) * DAY, end - number * DAY, 1) for number in (2, 1)]
    report = judge.judge(records.window(end - DAY, end, 1), reference, before, MonitorOptions())
    seconds = time.monotonic() - began
    looked = sorted({each.look.name for each in report.judged})
    return {"rows": report.answered, "seconds": seconds, "bytes": _peak(), "bytes_before": before_it, "looks": looked}


def _peak() -> int:
    """The most bytes of memory that this process has taken."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _write(parts: record_files.Parts, drawing: Drawing, rows: int, middle: datetime.datetime) -> None:
    """Records of half a day around a moment, through the servers' own writer."""
    for start in range(0, rows, PART):
        many = min(PART, rows - start)
        drawn = drawing.texts(many)
        scores = np.zeros((many, 3), np.float32)
        scores[np.arange(many), drawn["labels"]] = drawn["confidence"]
        first = middle + (start / rows - 0.5) * DAY / 2
        columns = dict.fromkeys(record_files.SCHEMA.names, [None] * many) | {
            "time": [first + row * DAY / 2 / rows for row in range(many)],
            "id": [f"{start + row:016x}" for row in range(many)],
            "model": ["reviews"] * many,
            "version": [1] * many,
            "signature": ["text"] * many,
            "status": ["OK"] * many,
            "milliseconds": drawing.machine.lognormal(2.5, 0.5, many).tolist(),
            "label": [CLASSES[label] for label in drawn["labels"]],
            "classes": [CLASSES] * many,
            "probabilities": scores.tolist(),
            "characters": drawn["characters"].astype(int).tolist(),
            "pieces": (drawn["characters"] // 4 + 2).astype(int).tolist(),
            "unknown": [0] * many,
            "text": [TEXT] * many,
            "embedding": list(drawn["embedding"]),
        }
        parts.write(columns)


def main() -> None:
    """Prints the figures, writes them to benchmarks/results, and fails where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--times", type=int, default=100, help="draws per power, 0 for none; false alarms take ten times as many"
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the large window; 0 leaves it out")
    parser.add_argument("--judge", nargs=2, metavar=("FOLDER", "END"), help=argparse.SUPPRESS)  # what the child does
    arguments = parser.parse_args()
    if arguments.judge:
        folder, end = arguments.judge
        print(json.dumps(judged(Path(folder), datetime.datetime.fromisoformat(end))))
        return
    large = a_million(arguments.rows) if arguments.rows else {}
    if large:
        size = f"{large['bytes'] / 2**20:.0f} MiB of memory, {large['bytes_on_disk'] / 2**20:.0f} on disk"
        print(f"{large['rows']:,} records in a window: {large['seconds']:.1f} s, {size}", flush=True)
    held = not large or (large["seconds"] < MINUTE and large["bytes"] < GIBIBYTE)
    simulated, right = simulation(arguments.times) if arguments.times else ({}, True)
    held &= right
    print("figures:", write_result("monitor", {**simulated, "large": large, "passed": held}))
    print("bars held" if held else "a bar is missed")
    sys.exit(0 if held else 1)


def simulation(times: int) -> tuple[dict[str, Any], bool]:
    """Prints how right alarms and estimates are, over so many draws; returns the figures, and whether the bar held."""
    options, figures = MonitorOptions(), {}
    quiet = rate(10 * times, lambda seed: raised(seed, 1000, options))
    low, high = quiet["interval"]
    month = {"is": 30 * quiet["share"], "low": 30 * low, "high": 30 * high}
    bounds = f"{month['low']:.2f} to {month['high']:.2f}"
    print(f"false alarms a month, daily windows of 1,000: {month['is']:.2f} ({bounds})", flush=True)
    changes: dict[str, dict[str, Any]] = {
        "10 points of label shift": {"shares": (0.4, 0.3, 0.3)},
        "5 points of accuracy lost": {"sureness": UNSURE},
        "a new topic of 10%": {"new": 0.1},
        "answers that take twice as long": {"slower": 2.0},
    }
    for name, change in changes.items():
        for rows in SIZES:
            found = rate(times, lambda seed, rows=rows, change=change: raised(seed, rows, options, **change))
            figures[f"{name}, {rows}"] = found
            print(f"{name}, {rows:,} requests: found {found['share']:.0%} {found['looks']}", flush=True)
    accuracies = estimates(times, 2000)
    for name, each in accuracies.items():
        print(
            f"estimated accuracy under {name}: mean error {each['mean_absolute_error']:.3f}, bias {each['bias']:+.3f}, "
            f"interval holds {each['interval_holds']:.0%}"
        )
    held = quiet["interval"][0] * 30 <= options.false_alarms
    return {"false_alarms_a_month": month, "quiet": quiet, "power": figures, "estimates": accuracies}, bool(held)


if __name__ == "__main__":
    main()
