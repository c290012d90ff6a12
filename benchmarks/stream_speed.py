"""What a stream costs beside its model: `python -m benchmarks.stream_speed CONFIG`.

Texts of the newest evaluation of a finished run, over and over, as a file of JSON Lines with times. A stream reads
them, searches them for names, scores them by the pushed model in this process, and stores them in SQLite. The clock
runs for all of it and, within, for the model alone. So both speeds are of the same texts in the same seconds.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq

from benchmarks import finished
from benchmarks.peer import write_result
from bertline.components.scoring.models import Answers, Model, Scorer
from bertline.pipeline import config as configs
from bertline.pipeline import stream
from bertline.streams import opening
from bertline.streams.engine import Engine
from bertline.streams.entities import Finder
from bertline.streams.options import StreamModel, StreamOptions
from bertline.streams.scoring import Named, Scorers
from bertline.streams.store import Store
from bertline.streams.texts import Taker

RATIO = 0.95  # the bar: times the texts per second of the model alone

START = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
# Words that tweets to airlines have, in place of names: they are found often.
NAMES = ("flight", "plane", "service", "thanks", "hours")


class Timed(Model, Scorer):
    """A model that is loaded already, and the seconds that it has taken."""

    def __init__(self, scorer: Scorer):
        self._scorer, self.seconds = scorer, 0.0

    def load(self) -> Scorer:
        """See Model."""
        return self

    def answer(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Answers:
        """See Scorer."""
        began = time.perf_counter()
        answers = self._scorer.answer(texts, pairs)
        self.seconds += time.perf_counter() - began
        return answers

    def close(self) -> None:
        """See Scorer; the next round needs it."""


def written(file: Path, texts: list[str]) -> None:
    """A source of these texts, one a minute."""
    with file.open("w") as source:
        for number, text in enumerate(texts):
            moment = START + datetime.timedelta(minutes=number)
            source.write(json.dumps({"text": text, "time": moment.isoformat()}) + "\n")


def streamed(folder: Path, scorer: Scorer, number: int) -> tuple[float, float]:
    """Seconds to read all texts into a new database, and those of the model among them."""
    options, timed = StreamOptions(source=["posts.jsonl"]), Timed(scorer)
    store = Store(f"sqlite:///{folder}/{number}.db", folder, folder, options.window)
    sources = opening.opened(options, folder, store.places())
    scorers = Scorers([Named("sentiment", "1", timed, ["negative"])])
    finder = Finder(dict.fromkeys(NAMES, ()))
    engine = Engine(sources, Taker(options, "text"), finder, scorers, store, options.batch)
    began = time.perf_counter()
    while engine.step().read:
        pass
    seconds = time.perf_counter() - began
    engine.close()
    return seconds, timed.seconds


def main() -> None:
    """Prints the figures, writes them to benchmarks/results, and fails where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--texts", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    task = configs.load(arguments.config)
    evaluation = finished.newest_evaluation(task.root_folder)
    tested = pq.read_table(evaluation / "predictions-test.parquet", columns=["text"])["text"].to_pylist()
    texts = list(itertools.islice(itertools.cycle(tested), arguments.texts))
    scorer = stream.named(task.name, StreamModel(), task, arguments.config).model.load()
    scorer.answer(texts[:200], None)  # the first call of a session takes seconds
    ratios = []
    with tempfile.TemporaryDirectory() as scratch:
        written(Path(scratch) / "posts.jsonl", texts)
        for number in range(1, arguments.rounds + 1):
            whole, model = streamed(Path(scratch), scorer, number)
            ratios.append(model / whole)
            speeds = f"{len(texts) / model:.0f} texts/s by the model, {len(texts) / whole:.0f} by the stream"
            print(f"  round {number}: {speeds}, x{ratios[-1]:.3f}", flush=True)
    held = median(ratios) >= RATIO
    print(f"the median of {len(ratios)} rounds: x{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    print("figures:", write_result(f"stream-speed-{arguments.config.stem}", {"ratios": ratios, "passed": held}))
    print("bar held" if held else "the bar is missed")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
