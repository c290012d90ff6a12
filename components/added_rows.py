"""Training rows beside those of ingestion: tokenised as Transform tokenises, into an artifact of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import tensorflow as tf

from bertline.components import shards
from bertline.components.shards import Shard
from bertline.components.tokenisation import Tokenise
from bertline.models import features

TRAIN = features.SPLITS[0]
NAME = f"rows{shards.ENDING}"


def write(target: str, graph: str, rows: Iterable[tf.train.Example]) -> None:
    """Writes the transformed Examples of raw ones into Split-train, in their order.

    Args:
        target: folder of the artifact.
        graph: folder of the TransformGraph.
        rows: raw Examples, with a feature for each that the graph reads.
    """
    with tempfile.TemporaryDirectory(prefix="bertline-rows-") as scratch:
        with shards.writing(scratch, TRAIN, NAME) as writer:
            for row in rows:
                writer.write(row.SerializeToString(deterministic=True))
        worker = Tokenise(graph, target)
        worker.setup()
        list(worker.process(Shard(TRAIN, str(Path(scratch) / f"Split-{TRAIN}" / NAME))))
