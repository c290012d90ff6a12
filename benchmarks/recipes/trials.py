"""The trials of a set, by whom they are run, and their figures."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.peer import weights_folder
from benchmarks.quality import scores
from benchmarks.recipes import methods, results, sets
from benchmarks.recipes.peers import Peers
from bertline.errors import UserError
from bertline.models.recipe import ModelOptions
from bertline.models.xlm_roberta.vocabulary import FILE
from bertline.pipeline.init import weights
from bertline.pipeline.init.propose import propose_max_length
from bertline.pipeline.init.wordpieces import Pieces, look, look_multilingual

if TYPE_CHECKING:
    from benchmarks.recipes.ours import Ours

MOST_TOKENS = 128  # init proposes up to 512 for long texts; these would take the time of all other sets together
SAMPLE = 2000  # rows whose lengths decide max_length


class Trials:
    """The trials of a set.

    Args:
        data: the set.
        backbone: the weights `english` of a recipe, which are the peers' too.
        threads: of a peer.
    """

    def __init__(self, data: sets.Set, backbone: str, threads: int):
        self._data = data
        self._backbones: dict[methods.Weights, str] = {"english": backbone, "multilingual": str(weights.MULTILINGUAL)}
        self._peers = Peers(data, self._model("english"), threads)
        self._ours: dict[tuple[str, methods.Weights], Ours] = {}  # by pooling and weights

    @functools.cache  # noqa: B019  a set's trials live as long as the process
    def _model(self, kind: methods.Weights) -> ModelOptions:
        """`model` of the config: what init proposes for the texts, but for MOST_TOKENS.

        Raises:
            UserError: the multilingual weights are not unpacked.
        """
        if kind == "multilingual" and not (weights.MULTILINGUAL / FILE).is_file():
            raise UserError(f"{weights.MULTILINGUAL}: the multilingual weights are not there; run bertline unpack")
        lengths = self._pieces(kind, sample(self._data)).lengths
        return ModelOptions(backbone=self._backbones[kind], max_length=min(MOST_TOKENS, propose_max_length(lengths)))

    def _pieces(self, kind: methods.Weights, places: np.ndarray) -> Pieces:
        """What rows are to the vocabulary of the weights."""
        texts = [(self._data.texts[place],) for place in places]
        if kind == "multilingual":
            return look_multilingual(texts, weights.MULTILINGUAL)
        return look(texts, weights_folder(ModelOptions(backbone=self._backbones[kind])) / "vocab.txt")

    def _fitter(self, method: str) -> Peers | Ours:
        """Who runs a method; vectors are those of its pooling and its weights."""
        if method in methods.PEERS:
            return self._peers
        from benchmarks.recipes.ours import Ours  # with TensorFlow, which the peers do not need

        _, pooling, kind = methods.recipe_of(method)
        if (pooling, kind) not in self._ours:
            self._ours[pooling, kind] = Ours(self._data, self._model(kind).model_copy(update={"pooling": pooling}))
        return self._ours[pooling, kind]

    def run(self, size: sets.Size, seed: int, method: str) -> results.Result:
        """Fits and judges.

        Raises:
            UserError: a peer cannot run, or a training failed.
        """
        data, chosen = self._data, sets.split(self._data, size, seed)
        fitted = self._fitter(method).run(chosen, seed, method)
        expected = data.labels[data.test]
        lengths = self._pieces("english", chosen.train).lengths
        return results.Result(
            set=data.name,
            size=str(size),
            seed=seed,
            method=method,
            note=fitted.note,
            labels=len(data.names),
            train_rows=len(chosen.train),
            test_rows=len(expected),
            tokens=int(np.median(np.minimum(lengths, self._model("english").max_length))),
            **scores(expected, fitted.answers[None]),
            seconds=round(fitted.seconds, 2),
            weights=fitted.weights,
            right=results.packed(fitted.answers == expected),
            foreign=is_foreign(data),
            cpu=_cpu(),
        )


def _cpu() -> str:
    from bertline.models import hardware  # with TensorFlow, which the peers do not need

    flags = hardware.describe().bfloat16_flags
    return flags[0].upper() if flags else "no bfloat16"


def sample(data: sets.Set) -> np.ndarray:
    """Places of the rows that a set is looked at by, int [about SAMPLE]."""
    return data.pool[:: max(1, len(data.pool) // SAMPLE)]


def is_foreign(data: sets.Set) -> bool:
    """Whether `bertline init` takes the texts for another language than English."""
    texts = [(data.texts[place],) for place in sample(data)]
    return weights.foreign(look(texts, weights_folder(ModelOptions(backbone=weights.DEFAULT)) / "vocab.txt"))
