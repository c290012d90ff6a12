"""What answers the texts of a part: an exported model in this process, or a server."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from bertline.errors import UserError
from bertline.models import features
from bertline.serving import answering
from bertline.serving.calls import Call
from bertline.serving.client import SIGNATURE, Client, Prediction, ServingError
from bertline.serving.protos import ConfigProto

BATCH = 32  # BERT gains nothing from larger batches on a CPU
REFUSED = "refused by the server"  # the reason of a row's fault


class ServerAway(UserError):
    """A server does not answer, or not now."""


class Answers(NamedTuple):
    """Answers to texts, in their order; for a text with a fault they mean nothing.

    `labels` [rows], each with one name or, if `multi_label`, any number, the most probable first; `probabilities`
    float32 [rows, classes]; `abstained` [rows], or None for a model that never does; `faults` by row.
    """

    classes: list[str]
    labels: list[Sequence[str]]
    probabilities: np.ndarray
    abstained: list[bool] | None = None
    multi_label: bool = False
    faults: Mapping[int, str] = MappingProxyType({})


class Scorer(Protocol):
    """Answers texts."""

    def answer(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Answers:
        """The answers to texts, at least one, and to the second text of each if rows are pairs."""

    def close(self) -> None:
        """Frees what it holds."""


class Model(Protocol):
    """A model as a task for a worker carries it."""

    def load(self) -> Scorer:
        """The scorer, in the worker."""


# === In process ===


@dataclass(frozen=True)
class Exported(Model):
    """The SavedModel in a folder that all workers see.

    Args:
        folder: of the SavedModel, local or remote.
        threads: batches at a time.
    """

    folder: str
    threads: int

    def load(self) -> Scorer:
        """See Model."""
        return _InProcess(self.folder, self.threads)


class _InProcess(Scorer):
    """Runs the graph as a server does: each batch has one thread, and there is a batch for each core."""

    def __init__(self, folder: str, threads: int):
        from bertline.serving.servable import Servable  # starts TensorFlow

        settings = ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=threads)
        self._servable = Servable(folder, "model", 0, session_config=settings)
        signature = self._servable.signatures[SIGNATURE]
        self._feeds = {name: info.name for name, info in signature.inputs.items()}
        self._fetches = {name: info.name for name, info in signature.outputs.items()}
        self._callers = ThreadPoolExecutor(threads)
        self._classes: list[str] = []

    def answer(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Answers:
        """See Scorer. The longest texts go first, so that the threads end together."""
        columns = {features.TEXT: texts} | ({features.TEXT_PAIR: pairs} if pairs is not None else {})
        encoded = {name: [text.encode() for text in column] for name, column in columns.items()}
        sizes = np.sum([[len(text) for text in column] for column in encoded.values()], axis=0)
        order = np.argsort(-sizes, kind="stable")
        batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        if not self._classes:
            first = self._run({name: column[:1] for name, column in encoded.items()}, [features.CLASSES])
            self._classes = [name.decode() for name in first[features.CLASSES][0]]
        # The names of the classes, a string for each row and class, cost more than the other outputs together.
        wanted = [name for name in self._fetches if name != features.CLASSES]
        answered = list(
            self._callers.map(
                lambda rows: self._run(
                    {name: [column[row] for row in rows] for name, column in encoded.items()}, wanted
                ),
                batches,
            )
        )
        place = np.argsort(order, kind="stable")
        gathered = {name: np.concatenate([batch[name] for batch in answered])[place] for name in wanted}
        probabilities = gathered[features.PROBABILITIES].astype(np.float32, copy=False)
        if features.ASSIGNED in gathered:
            labels = label_sets(gathered[features.ASSIGNED], probabilities, self._classes)
            return Answers(self._classes, labels, probabilities, multi_label=True)
        labels = [[label.decode()] for label in gathered[features.PREDICTED_LABEL]]
        abstained = gathered.get(features.ABSTAINED)
        return Answers(self._classes, labels, probabilities, None if abstained is None else abstained.tolist())

    def _run(self, texts: dict[str, list[bytes]], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        feeds = {self._feeds[name]: np.array(column, object) for name, column in texts.items()}
        fetches = {name: self._fetches[name] for name in wanted}
        values = self._servable.run(Call(feeds, tuple(fetches.values())))
        return {name: values[tensor] for name, tensor in fetches.items()}

    def close(self) -> None:
        """See Scorer."""
        self._callers.shutdown()
        self._servable.close()


def label_sets(assigned: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> list[Sequence[str]]:
    """The names of each row's labels, the most probable first.

    Args:
        assigned: bool [rows, classes].
        probabilities: float32 [rows, classes].
        classes: their names.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    return [[classes[label] for label in ranked if given[label]] for ranked, given in zip(order, assigned, strict=True)]


# === From a server ===


@dataclass(frozen=True)
class Served(Model):
    """A model at an address.

    Args:
        address: HOST:PORT.
        name: the model's.
        version: that answers all rows, whatever is pushed meanwhile.
        connection: further settings of the Client.
    """

    address: str
    name: str
    version: int
    connection: dict[str, Any] = field(default_factory=dict, repr=False)  # it may hold a key

    def load(self) -> Scorer:
        """See Model."""
        return _AtServer(Client(self.address, self.name, version=self.version, **self.connection))


class _AtServer(Scorer):
    """Asks a server, which refuses some texts for their size."""

    def __init__(self, client: Client):
        self._client = client

    def answer(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Answers:
        """See Scorer."""
        try:
            found = answering.answers(self._client, texts, pairs)
        except ServingError as error:  # Beam would wrap it
            raise ServerAway(f"{error}. The same command goes on once the server answers.") from error
        answers = {row: answer for row, answer in enumerate(found) if isinstance(answer, Prediction)}
        classes = next((list(answer.probabilities) for answer in answers.values()), [])
        probabilities = np.zeros((len(found), len(classes)), np.float32)
        for row, answer in answers.items():
            probabilities[row] = [answer.probabilities[name] for name in classes]
        abstained = [row in answers and bool(answers[row].abstained) for row in range(len(found))]
        return Answers(
            classes,
            [_labels(answers[row]) if row in answers else [] for row in range(len(found))],
            probabilities,
            abstained if any(answer.abstained is not None for answer in answers.values()) else None,
            any(answer.label is None for answer in answers.values()),
            {row: answer for row, answer in enumerate(found) if isinstance(answer, str)},
        )

    def close(self) -> None:
        """See Scorer."""
        self._client.close()


def _labels(answer: Prediction) -> Sequence[str]:
    return answer.labels if answer.label is None else [answer.label]


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))
