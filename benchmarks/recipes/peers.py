"""Trials by the peers, each a process in an environment of its own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.peer import run_peer, weights_folder
from benchmarks.recipes import methods, sets
from benchmarks.recipes.results import Answered
from bertline.models.recipe import ModelOptions

# Transformers' fine-tuning as its users do it: what the validation rows like best of these.
PEER_EPOCHS, PEER_RATES = ("3", "5"), ("2e-5", "5e-5")


@dataclass(frozen=True)
class Peers:
    """The trials of the peers on a set.

    Attributes:
        data: the set.
        model: `model` of a config.
        threads: of a peer.
    """

    data: sets.Set
    model: ModelOptions
    threads: int

    def run(self, chosen: sets.Split, seed: int, method: str) -> Answered:
        """Fits on the training rows and answers the test rows.

        Raises:
            UserError: the peer cannot run.
        """
        with tempfile.TemporaryDirectory(prefix="bertline-recipes-") as scratch:
            folder = Path(scratch)
            sets.export(self.data, chosen, _writer(folder))
            answered = folder / "answers.json"
            if method == methods.TFIDF:
                report = run_peer("tfidf", folder, "--predictions", str(answered))
                note = f"{report['chosen']['features']}, C {report['chosen']['C']:g}"
            else:
                report = run_peer("huggingface_grid", folder, *self._settings(seed), "--predictions", str(answered))
                note = f"{report['chosen']['epochs']} epochs, {report['chosen']['rate']:g}"
            by_row = json.loads(answered.read_text())
        names = {name: number for number, name in enumerate(self.data.names)}
        answers = np.array([names[by_row[str(place)][0]] for place in self.data.test])
        return Answered(answers, report["processor_seconds"], report.get("weights"), note)

    def _settings(self, seed: int) -> list[str]:
        weights = ["--weights", str(weights_folder(self.model)), "--max-length", str(self.model.max_length)]
        tried = ["--tried-epochs", *PEER_EPOCHS, "--tried-rates", *PEER_RATES]
        return [*weights, *tried, "--seeds", str(seed), "--threads", str(self.threads)]


def _writer(folder: Path) -> Callable[[str, list[dict[str, str]]], None]:
    def write(split: str, rows: list[dict[str, str]]) -> None:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")

    return write
