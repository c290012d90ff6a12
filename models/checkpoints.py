"""The files of a training under way: its last checkpoint, and the weights of its best epoch."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import tensorflow as tf

from bertline.models import hardware
from bertline.models.history import History


class _State(tf.train.experimental.PythonState):
    """A training's history in its checkpoints. It is no variable, since workers cannot send each other text."""

    def __init__(self, history: History):
        super().__init__()
        self._history = history

    def serialize(self) -> str:
        return json.dumps(asdict(self._history))

    def deserialize(self, string_value: bytes) -> None:
        self._history.take(tf.compat.as_text(string_value))


class Checkpoints:
    """A training's files in its folder.

    Args:
        folder: local or remote, of this training only.
        strategy: workers must save together, though only the chief's files are used.
        weights: what is trained.
        history: is part of each checkpoint.
        **parts: what else is, each a trackable object of TensorFlow.
    """

    def __init__(
        self,
        folder: str | Path,
        strategy: tf.distribute.Strategy,
        weights: list[tf.Variable],
        history: History,
        **parts: tf.Module | tf.Variable,
    ):
        self._folder = folder
        self._scratch = tempfile.TemporaryDirectory(prefix="bertline-worker-")
        self._own = str(folder) if hardware.is_chief(strategy) else self._scratch.name
        self._weights = tf.train.Checkpoint(variables=weights)
        self._all = tf.train.Checkpoint(weights=self._weights, state=_State(history), **parts)
        self._manager = tf.train.CheckpointManager(self._all, self._own, max_to_keep=1)

    def restore(self) -> bool:
        """Restores the last checkpoint; whether there is one."""
        latest = tf.train.latest_checkpoint(str(self._folder))
        if latest is None:
            return False
        self._all.restore(latest).assert_consumed()
        return True

    def save(self, step: int) -> None:
        """Writes a checkpoint. Whenever the process is killed, this one or the one before is complete."""
        self._manager.save(checkpoint_number=step)

    def write_weights(self, epoch: int) -> None:
        """Keeps the weights as those of the epoch."""
        self._weights.write(f"{self._own}/best-{epoch}")

    def read_weights(self, epoch: int) -> None:
        """Gives the variables the weights of the epoch."""
        self._weights.read(f"{self._folder}/best-{epoch}").assert_existing_objects_matched()

    def remove_weights(self, epoch: int) -> None:
        """Removes what `write_weights` wrote."""
        for path in tf.io.gfile.glob(f"{self._own}/best-{epoch}.*"):
            tf.io.gfile.remove(path)
