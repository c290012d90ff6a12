"""Whether attributions name the words that matter: `python -m benchmarks.attributions CONFIG`, after a run of it.

Takes random test rows of at least two words. In each, [MASK] replaces the word that adds most to the predicted label.
The label's probability is compared with replacing a random other word of the row, and, as a check that does not depend
on the draw, with the mean over all others. Exits with 1 if the top word lowers it more on too few of the rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.peer import write_result
from bertline.components import estimates, explainer
from bertline.models import attributions, surrogate
from bertline.models.recipe import ModelOptions
from bertline.models.words import Reading
from bertline.pipeline import config as configs
from bertline.pipeline import evaluated, lineage
from bertline.pipeline.explain import LIME_SAMPLES, LIME_SEED
from bertline.pipeline.stages import Node

ROWS, SEED = 100, 1
LEAST_SHARE = 0.8
Values = Callable[[Reading, int], np.ndarray]


def losses(model: attributions.Explainer, reading: Reading, label: int, blank: int) -> np.ndarray:
    """What the label's probability loses when each word is replaced, float [words]; 0 for a word that is not read."""
    replaced = [reading]
    for word in reading.words:
        ids = reading.ids.copy()
        ids[list(word.tokens)] = blank
        replaced.append(replace(reading, ids=ids))
    probabilities = model.probabilities(replaced)[:, label]
    return probabilities[0] - probabilities[1:]


def judge(values: np.ndarray, lost: np.ndarray, chance: np.random.Generator) -> tuple[bool, bool]:
    """Whether the top word's loss is above that of another word at random, and above the mean of all others.

    Args:
        values: float [words], of the words that were read, like `lost`.
        lost: float [words].
        chance: draws the other word.
    """
    top = values.argmax()
    others = np.delete(lost, top)
    return bool(lost[top] > chance.choice(others)), bool(lost[top] > others.mean())


def main() -> int:
    """Prints and writes the shares of rows; returns 1 if a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS)
    arguments = parser.parse_args()
    task = configs.load(arguments.config)
    run = evaluated.read(task, None)
    store, _ = lineage.find(task, run.run_id, Node.EVALUATOR)
    exporter = store.stage(run.run_id, Node.EXPORTER)
    (weights,) = store.stage(run.run_id, Node.TRAINER).outputs["weights"]
    (exported,) = exporter.outputs["model"]
    options = ModelOptions.model_validate_json(exporter.parameters["model_options"])
    model = explainer.load(weights.uri, exported.uri, options)
    texts, labels = run.answers.columns["text"], run.answers.predicted
    pairs = run.answers.columns["text_pair"] if task.data.text_pair else [None] * len(texts)
    chance = np.random.default_rng(SEED)
    rows = []
    for row in chance.permutation(len(pairs)):
        reading = model.read(texts[row], pairs[row])
        if sum(bool(word.tokens) for word in reading.words) > 1:
            rows.append((reading, int(labels[row])))
        if len(rows) == arguments.rows:
            break
    blank = model.tokenizer.mask
    lost = [losses(model, reading, label, blank) for reading, label in rows]
    methods: dict[str, Values] = {
        "integrated gradients": lambda reading, label: model.integrated_gradients(reading, [label])[0].values,
        "LIME": lambda reading, label: (
            surrogate.lime(model.probabilities, reading, label, samples=LIME_SAMPLES, seed=LIME_SEED).values
        ),
    }
    print(f"{len(rows)} test rows of run {run.run_id}, words replaced by {attributions.MASK}")
    by_method = {}
    for name, values in methods.items():
        chance = np.random.default_rng(SEED)
        wins = []
        for (reading, label), losses_of_row in zip(rows, lost, strict=True):
            read = [bool(word.tokens) for word in reading.words]
            wins.append(judge(values(reading, label)[read], losses_of_row[read], chance))
        shares = {}
        for against, column in zip(("another word", "the mean of the others"), zip(*wins, strict=True), strict=True):
            low, high = estimates.share_interval(sum(column), len(column))
            shares[against] = {"share": sum(column) / len(column), "low": low, "high": high}
            print(
                f"  {name:21} above {against:23} {sum(column) / len(column):.0%} ({low:.0%} to {high:.0%})", flush=True
            )
        by_method[name] = shares
    write_result("attributions", {"rows": len(rows), "run": run.run_id, "shares": by_method})
    return 0 if all(shares["another word"]["share"] >= LEAST_SHARE for shares in by_method.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
