"""The trials of a set, by whom they are run, and their figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.peer import weights_folder
from benchmarks.quality import scores
from benchmarks.recipes import methods, results, sets
from benchmarks.recipes.peers import Peers
from bertline.models.recipe import ModelOptions
from bertline.pipeline.init.propose import propose_max_length
from bertline.pipeline.init.wordpieces import look

if TYPE_CHECKING:
    from benchmarks.recipes.ours import Ours

MOST_TOKENS = 128  # init proposes up to 512 for long texts; these would take the time of all other sets together
SAMPLE = 2000  # rows whose lengths decide max_length


class Trials:
    """The trials of a set."""

    def __init__(self, data: sets.Set, backbone: str, threads: int):
        self._data = data
        self._vocabulary = weights_folder(ModelOptions(backbone=backbone)) / "vocab.txt"
        # What init proposes for the texts, but for MOST_TOKENS.
        length = min(MOST_TOKENS, propose_max_length(self._lengths(data.pool[:: max(1, len(data.pool) // SAMPLE)])))
        self._model = ModelOptions(backbone=backbone, max_length=length)
        self._peers = Peers(data, self._model, threads)
        self._ours: dict[str, Ours] = {}  # by pooling

    def _lengths(self, places: np.ndarray) -> np.ndarray:
        """Wordpieces of rows, int [rows]."""
        return look([(self._data.texts[place],) for place in places], self._vocabulary).lengths

    def _fitter(self, method: str) -> Peers | Ours:
        """Who runs a method; vectors are those of its pooling."""
        if method in methods.PEERS:
            return self._peers
        from benchmarks.recipes.ours import Ours  # with TensorFlow, which the peers do not need

        pooling = methods.recipe_of(method).pooling
        if pooling not in self._ours:
            self._ours[pooling] = Ours(self._data, self._model.model_copy(update={"pooling": pooling}))
        return self._ours[pooling]

    def run(self, size: sets.Size, seed: int, method: str) -> results.Result:
        """Fits and judges.

        Raises:
            UserError: a peer cannot run, or a training failed.
        """
        data, chosen = self._data, sets.split(self._data, size, seed)
        fitted = self._fitter(method).run(chosen, seed, method)
        expected = data.labels[data.test]
        return results.Result(
            set=data.name,
            size=str(size),
            seed=seed,
            method=method,
            note=fitted.note,
            labels=len(data.names),
            train_rows=len(chosen.train),
            test_rows=len(expected),
            tokens=int(np.median(np.minimum(self._lengths(chosen.train), self._model.max_length))),
            **scores(expected, fitted.answers[None]),
            seconds=round(fitted.seconds, 2),
            weights=fitted.weights,
            right=results.packed(fitted.answers == expected),
        )
