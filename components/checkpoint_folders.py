"""Folders of checkpoints: each training has one of its own, below one folder that outlives interrupted runs."""

from __future__ import annotations

import time

import tensorflow as tf

# Checkpoints of an interrupted training are kept so long for it to go on. A training that runs writes some every few
# minutes (train.checkpoint_steps).
STALE_SECONDS = 7 * 24 * 3600


def remove_checkpoints(folder: str, finished: str) -> None:
    """Removes the checkpoints of a training that is done, and those that an interrupted one left long ago.

    Another training of the same task may be running on a cluster, so folders with recent files stay.

    Args:
        folder: holds a folder for each training, local or remote.
        finished: the folder of the training that is done.
    """
    if tf.io.gfile.isdir(finished):
        tf.io.gfile.rmtree(finished)
    if not tf.io.gfile.isdir(folder):
        return
    for name in tf.io.gfile.listdir(folder):
        other = f"{folder}/{name.rstrip('/')}"
        if time.time() - _last_written(other) > STALE_SECONDS:
            tf.io.gfile.rmtree(other)


def _last_written(folder: str) -> float:
    """When the newest file of a folder was written, in seconds since 1970; now if there is none."""
    try:
        return max(
            (tf.io.gfile.stat(file).mtime_nsec / 1e9 for file in tf.io.gfile.glob(f"{folder}/*")), default=time.time()
        )
    except tf.errors.NotFoundError:  # its training has just replaced a checkpoint
        return time.time()
