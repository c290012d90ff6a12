"""Methods x data sets x seeds: `python -m benchmarks.recipes --help`.

    python -m benchmarks.recipes tweets=tweets.csv intents=train.csv,test.csv --sizes 8/label 1000 \\
        --methods tfidf probe transformers init 'full {epochs: 2, learning_rate: 1e-4}'

Each set is a CSV file with the columns text and label, and a second one where the set names its test rows. Results are
appended to a JSON Lines file as they come, the cheapest trials first. What it holds already is not run again, so a run
can be stopped at any time and goes on. At the end, or with no set at once, docs/recipes.md is written from all results.

The trials run in this process by the code of the line's stages: tokenizer, frozen encoder, probe, and the Trainer's
loop with a config's options. A whole run would add TFX's stages around the same numbers. The peers need `make
bench-peers`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.recipes import document, methods, results, sets
from benchmarks.recipes.trials import Trials, is_foreign
from bertline.errors import UserError
from bertline.pipeline.init.weights import DEFAULT as BACKBONE

RESULTS = Path(__file__).with_name("results.jsonl")
METHODS = (methods.TFIDF, methods.PROBE, methods.INIT, methods.TRANSFORMERS)
# What a row costs, in rows trained on once: to sort by.
COSTS = {methods.TFIDF: 0.02, methods.PROBE: 0.3, methods.TRANSFORMERS: 16}

Trial = tuple[str, sets.Size, int, str]  # set, size, seed, method


def planned(read: list[sets.Set], arguments: argparse.Namespace) -> list[tuple[float, Trial]]:
    """The trials with their costs, the cheapest first. Says which sets are too small for a size."""
    trials: dict[Trial, float] = {}
    for data in read:
        for size in arguments.sizes:
            for seed in arguments.seeds:
                try:
                    rows = len(sets.split(data, size, seed).train)
                except UserError as error:
                    print(f"left out: {error}", flush=True)
                    break
                for method in arguments.methods:
                    name = _resolved(method, rows, data)
                    each = COSTS.get(name.partition(" ")[0]) or methods.recipe_of(name).train.epochs
                    trials[data.name, size, seed, name] = rows * each
    return sorted(((cost, trial) for trial, cost in trials.items()), key=lambda each: each[0])


def _resolved(method: str, rows: int, data: sets.Set) -> str:
    """The method's one name; init's is that of the recipe that it writes for so many rows of the set."""
    if method in methods.PEERS:
        return method
    if method == methods.INIT:
        return methods.by_init(rows, len(data.names), foreign=is_foreign(data))
    if method == methods.PROBE:
        return methods.probe_of(foreign=is_foreign(data))
    return methods.name_of(methods.recipe_of(method))


def run(arguments: argparse.Namespace) -> None:
    """Runs what is not in the file yet."""
    read = [sets.read(argument) for argument in arguments.sets]
    done = results.read(arguments.results)
    left = [trial for _, trial in planned(read, arguments) if (trial[0], str(trial[1]), *trial[2:]) not in done]
    print(f"{len(left)} trials to run, {len(done)} results in {arguments.results}", flush=True)
    if not left:
        return
    if arguments.threads and any(trial[-1] not in methods.PEERS for trial in left):
        _limit_threads(arguments.threads)
    by_name, prepared, began = {data.name: data for data in read}, {}, time.monotonic()
    for number, (name, size, seed, method) in enumerate(left, start=1):
        if time.monotonic() - began > 60 * arguments.minutes:
            print(f"{arguments.minutes:g} minutes are over: {len(left) - number + 1} trials are left", flush=True)
            return
        if name not in prepared:
            prepared[name] = Trials(by_name[name], arguments.backbone, arguments.threads)
        result = prepared[name].run(size, seed, method)
        results.append(arguments.results, result)
        print(
            f"{time.strftime('%H:%M:%S')} {number}/{len(left)} {name} {size} seed {seed} {method}: accuracy "
            f"{result.accuracy:.3f}, macro-F1 {result.macro_f1:.3f}, {result.seconds:.0f} s ({result.note})",
            flush=True,
        )


def _limit_threads(threads: int) -> None:
    import tensorflow as tf

    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def main(given: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="NAME=FILE[,TEST]", help="none: only write the page")
    parser.add_argument(
        "--sizes", type=sets.Size.parse, nargs="+", default=[sets.Size(8, True)], help="8/label 1000 all"
    )
    parser.add_argument("--methods", nargs="+", default=METHODS, help="tfidf, transformers, init, or a recipe of train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[17, 18, 19], help="of the rows, the head and dropout")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, default=1, help="of TensorFlow and of a peer; 0: TensorFlow's choice")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no trial starts any more")
    parser.add_argument("--backbone", default=BACKBONE, help="a folder in the Hugging Face layout")
    parser.add_argument("--page", type=Path, default=document.PAGE)
    arguments = parser.parse_args(given)
    try:
        if arguments.sets:
            run(arguments)
        document.write(results.read(arguments.results).values(), arguments.page)
    except UserError as error:
        print(f"recipes: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
