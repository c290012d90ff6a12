"""Our model against its peers on the same rows: `python -m benchmarks.quality configs/sentiment.yaml`.

Takes the newest finished run of a config, gives its very rows to Hugging Face Transformers (same weights, same recipe)
and to a TF-IDF logistic regression, and says whether the bars hold. Exits with 1 where one does not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from benchmarks import finished
from benchmarks.peer import RESULTS, run_peer, same_recipe, write_result
from bertline.components.evaluation import read_metrics
from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline.screen import Screen

METRICS = ("accuracy", "macro_f1")
# peer -> the least that ours may be above it: a point below Transformers is within noise, less than two points above a
# bag of words is not worth a BERT.
BARS = {"huggingface": -0.01, "tfidf": 0.02}
NAMES = {"ours": "bertline", "huggingface": "Hugging Face Transformers", "tfidf": "TF-IDF + logistic regression"}
PEER_EPOCHS = 2
RESAMPLES = 500  # bootstrap samples of the test rows: the standard error's own error is then 3%


def scores(expected: np.ndarray, answered: np.ndarray) -> dict[str, float]:
    """Accuracy and macro-F1 in [0, 1], the mean over the seeds.

    Args:
        expected: int [rows], indices of the true labels.
        answered: int [seeds, rows], indices of the answers.
    """
    labels = int(max(expected.max(), answered.max())) + 1
    by_seed = []
    for answers in answered:
        confusion = np.bincount(expected * labels + answers, minlength=labels**2).reshape(labels, labels)
        hits, occurrences = confusion.diagonal(), confusion.sum(0) + confusion.sum(1)
        occurring = occurrences > 0  # a label neither expected nor answered has no F1
        by_seed.append((hits.sum() / len(expected), np.mean(2 * hits[occurring] / occurrences[occurring])))
    return dict(zip(METRICS, np.mean(by_seed, axis=0).tolist(), strict=True))


def compare(expected: np.ndarray, ours: np.ndarray, peer: np.ndarray) -> dict[str, dict[str, float]]:
    """Ours less the peer's, for each metric: difference and its standard error, by a paired bootstrap over the rows.

    Args:
        expected: int [rows], indices of the true labels.
        ours: int [seeds, rows], indices of our answers.
        peer: int [seeds, rows], indices of the peer's answers.
    """

    def differences(rows: np.ndarray) -> list[float]:
        own, other = scores(expected[rows], ours[:, rows]), scores(expected[rows], peer[:, rows])
        return [own[metric] - other[metric] for metric in METRICS]

    every, generator = np.arange(len(expected)), np.random.default_rng(0)
    errors = np.std([differences(generator.choice(every, len(every))) for _ in range(RESAMPLES)], axis=0, ddof=1)
    return {
        metric: {"difference": difference, "standard_error": float(error)}
        for metric, difference, error in zip(METRICS, differences(every), errors, strict=True)
    }


def judge(differences: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """The bars, one a peer and metric: peer, metric, bound, difference, standard error, whether it holds."""
    return [
        # Rounded: 0.64 - 0.65 is a hair below -0.01 in floating point.
        {"peer": peer, "metric": metric, "bound": bound}
        | {"holds": round(differences[peer][metric]["difference"], 9) >= bound}
        | differences[peer][metric]
        for peer, bound in BARS.items()
        for metric in METRICS
    ]


def run(config: configs.Config, seeds: list[int]) -> dict[str, Any]:
    """Runs both peers on the rows of the newest finished run.

    Returns:
        The scores of the three, the bars, and what the peers reported.

    Raises:
        UserError: there is no finished run, or a peer cannot run.
    """
    evaluation = finished.newest_evaluation(config.root_folder)
    own = finished.read_answers(evaluation)
    folder = RESULTS / f"rows-{config.name}"
    test = finished.export(finished.examples_of(config.root_folder, own), folder)["test"]

    reports: dict[str, dict[str, Any]] = {}
    predictions: dict[str, dict[str, list[str]]] = {"ours": {row_id: [label] for row_id, label in own.items()}}
    seed_options = ["--seeds", *map(str, seeds)]
    # The peer's head starts at random, which one epoch does not make up for.
    recipe = config.train.model_copy(update={"epochs": max(config.train.epochs, PEER_EPOCHS)})
    for peer, options in (("huggingface", [*same_recipe(config.model, recipe), *seed_options]), ("tfidf", [])):
        answered = folder / f"{peer}.json"
        reports[peer] = run_peer(peer, folder, *options, "--predictions", str(answered))
        predictions[peer] = json.loads(answered.read_text())

    answered_names = {name for by_row in predictions.values() for of_row in by_row.values() for name in of_row}
    names = sorted(answered_names | {row["label"] for row in test})
    expected = np.array([names.index(row["label"]) for row in test])
    answered = {
        who: np.array([[names.index(name) for name in by_row[row["row_id"]]] for row in test]).T
        for who, by_row in predictions.items()
    }
    result = {
        "config": config.name,
        "evaluation": evaluation.name,
        "test_rows": len(test),
        "scores": {who: scores(expected, answers) for who, answers in answered.items()},
        "bars": judge({peer: compare(expected, answered["ours"], answered[peer]) for peer in BARS}),
        "peers": reports,
    }
    check_accuracy(result["scores"]["ours"]["accuracy"], read_metrics(str(evaluation)).accuracy)
    return result


def check_accuracy(recounted: float, reported: float) -> None:
    """Raises UserError where the Evaluator's accuracy is not that of its own predictions."""
    if abs(recounted - reported) > 1e-4:
        raise UserError(
            f"metrics.json says accuracy {reported:.4f}, and the predictions beside it make {recounted:.4f}; "
            "the evaluation is not to be trusted."
        )


def show(result: dict[str, Any], console: Screen) -> None:
    """Prints the scores and the bars."""
    table = Table(title=f"{result['config']}: {result['test_rows']:,} test rows", title_justify="left")
    for column in ("", "accuracy", "macro-F1"):
        table.add_column(column, justify="left" if not column else "right")
    for who, scores in result["scores"].items():
        table.add_row(NAMES[who], *(f"{scores[metric]:.4f}" for metric in METRICS))
    console.print(table)
    for bar in result["bars"]:
        figures = (
            f"{bar['metric']:9} ours less {NAMES[bar['peer']]:28} {bar['difference']:+.4f} "
            f"(standard error {bar['standard_error']:.4f}), at least {bar['bound']:+.2f}: "
        )
        console.print(Text.assemble(figures, "holds" if bar["holds"] else ("fails", "bold red")))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", help="Transformers' fits to average; default: the config's")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow only reads records here; its start-up is no news
    try:
        config = configs.load(arguments.config)
        result = run(config, arguments.seeds or [config.train.seed])
    except UserError as error:
        print(f"quality: {error}", file=sys.stderr)
        return 2
    show(result, Screen(sys.stdout, width=120))
    print(f"figures: {write_result(f'quality-{config.name}', result)}")
    return 0 if all(bar["holds"] for bar in result["bars"]) else 1


if __name__ == "__main__":
    sys.exit(main())
