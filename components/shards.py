"""Shards: the gzipped TFRecord files of a split. They are what Beam spreads: one element of a pass is one shard."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import apache_beam as beam

from bertline.models.features import SPLITS
from bertline.serving.runtime import tf

ENDING = ".gz"
UNFINISHED = "unfinished"  # folder in an artifact
# zlib's fastest. Its default takes 1.7 times as long over token ids, for files a tenth smaller.
OPTIONS = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)

TASKS = 256  # a split; more workers than most engines give, and few enough for one process to hold what they counted


class Shard(NamedTuple):
    """A file of Examples and the split it belongs to."""

    split: str
    path: str

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        return os.path.basename(self.path)


def of(uri: str) -> list[Shard]:
    """The shards of an Examples artifact, split by split, each split's in the order of its rows.

    Args:
        uri: the artifact's folder, local or remote, with a folder Split-NAME for each of SPLITS.
    """
    return [
        Shard(split, path) for split in SPLITS for path in sorted(tf.io.gfile.glob(f"{uri}/Split-{split}/*{ENDING}"))
    ]


def tasks(shards: list[Shard]) -> list[list[Shard]]:
    """The shards of each split dealt out to at most TASKS tasks, for passes whose results one process adds up."""
    by_split = {split: [shard for shard in shards if shard.split == split] for split in SPLITS}
    return [members[start::TASKS] for members in by_split.values() for start in range(min(TASKS, len(members)))]


def spread(pipeline: beam.Pipeline, elements: Sequence[Any]) -> beam.PCollection:
    """A collection that begins a pass; any worker may take any element.

    Processes of one machine are dealt the groups in turn. beam.Create's own reshuffle shuffles the groups first: of the
    rows of 135 shards two processes got 44% and 56%.
    """
    return (
        pipeline
        | "Keyed" >> beam.Create(list(enumerate(elements)), reshuffle=False)
        | "Grouped" >> beam.GroupByKey()
        | "Spread" >> beam.FlatMapTuple(lambda _, members: members)
    )


def read(shard: Shard, batch: int) -> tf.data.Dataset:
    """A shard's serialized Examples in the order of the file: string [rows], so many rows each but the last."""
    return tf.data.TFRecordDataset(shard.path, compression_type="GZIP").batch(batch).with_options(_one_thread())


def _one_thread() -> tf.data.Options:
    """Reading in the caller's thread.

    TensorFlow would read ahead in another. A worker gains nothing by it, its processor time being the same or more, and
    two workers on two cores wait for their threads a fifth of the time.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    return options


@contextmanager
def writing(uri: str, split: str, name: str) -> Iterator[tf.io.TFRecordWriter]:
    """A writer of a shard, which has its name only once it is whole.

    Beam runs a bundle again whose worker was lost, and may run one twice at a time: a file named after what it holds,
    which appears whole, is there once and never half.

    Args:
        uri: the artifact's folder, local or remote. A lost worker's half file stays in its folder UNFINISHED.
        split: whose folder is made.
        name: of the file, ending in ENDING; one that is there already is replaced.
    """
    half = f"{uri}/{UNFINISHED}/{uuid.uuid4().hex}"
    folder = f"{uri}/Split-{split}"
    for each in (os.path.dirname(half), folder):
        tf.io.gfile.makedirs(each)
    with tf.io.TFRecordWriter(half, OPTIONS) as writer:
        yield writer
    tf.io.gfile.rename(half, f"{folder}/{name}", overwrite=True)
