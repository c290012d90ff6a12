"""What answers the texts of a part: an exported model in this process, or a server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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


class Answers(NamedTuple):
    """Answers to texts, in their order; for a text with a fault they mean nothing.

    `labels` [rows], `probabilities` float32 [rows, classes], `abstained` [rows] or None for a model that never does,
    `faults` by row.
    """

    classes: list[str]
    labels: list[str]
    probabilities: np.ndarray
    abstained: list[bool] | None
    faults: dict[int, str]


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
        abstained = gathered.get(features.ABSTAINED)
        return Answers(
            self._classes,
            [label.decode() for label in gathered[features.PREDICTED_LABEL]],
            gathered[features.PROBABILITIES].astype(np.float32, copy=False),
            None if abstained is None else abstained.tolist(),
            {},
        )

    def _run(self, texts: dict[str, list[bytes]], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        feeds = {self._feeds[name]: np.array(column, object) for name, column in texts.items()}
        fetches = {name: self._fetches[name] for name in wanted}
        values = self._servable.run(Call(feeds, tuple(fetches.values())))
        return {name: values[tensor] for name, tensor in fetches.items()}

    def close(self) -> None:
        """See Scorer."""
        self._callers.shutdown()
        self._servable.close()


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
            raise UserError(f"{error}. The same command goes on once the server answers.") from error
        answers = {row: answer for row, answer in enumerate(found) if isinstance(answer, Prediction)}
        classes = next((list(answer.probabilities) for answer in answers.values()), [])
        probabilities = np.zeros((len(found), len(classes)), np.float32)
        for row, answer in answers.items():
            probabilities[row] = [answer.probabilities[name] for name in classes]
        abstains = any(answer.abstained is not None for answer in answers.values())
        return Answers(
            classes,
            [answers[row].label if row in answers else "" for row in range(len(found))],
            probabilities,
            [bool(answers[row].abstained) if row in answers else False for row in range(len(found))]
            if abstains
            else None,
            {row: str(answer) for row, answer in enumerate(found) if not isinstance(answer, Prediction)},
        )

    def close(self) -> None:
        """See Scorer."""
        self._client.close()


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))
