"""Shards: the gzipped TFRecord files of a split. Beam spreads a pass by shards: one shard is one element."""

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
UNFINISHED = "unfinished"  # folder in an artifact, for files that are being written
# zlib's fastest. Its default takes 1.7 times as long for token ids, and the files get only a tenth smaller.
OPTIONS = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)

TASKS = 256  # per split: more than the workers of most engines, and few enough for one process to add up their counts


class Shard(NamedTuple):
    """A file of Examples and the split it belongs to."""

    split: str
    path: str

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        return os.path.basename(self.path)


def of(uri: str) -> list[Shard]:
    """The shards of an Examples artifact, split by split, in the order of the rows.

    Args:
        uri: the artifact's folder, local or remote, with a folder Split-NAME for each of SPLITS.
    """
    return [
        Shard(split, path) for split in SPLITS for path in sorted(tf.io.gfile.glob(f"{uri}/Split-{split}/*{ENDING}"))
    ]


def tasks(shards: list[Shard]) -> list[list[Shard]]:
    """The shards of each split, dealt out to at most TASKS tasks, for passes whose results one process adds up."""
    by_split = {split: [shard for shard in shards if shard.split == split] for split in SPLITS}
    return [members[start::TASKS] for members in by_split.values() for start in range(min(TASKS, len(members)))]


def spread(pipeline: beam.Pipeline, elements: Sequence[Any]) -> beam.PCollection:
    """A collection that begins a pass. Any worker may take any element.

    The processes of one machine get the groups in turn. beam.Create's own reshuffle would shuffle the groups first: two
    processes then got 44% and 56% of the rows of 135 shards.
    """
    return (
        pipeline
        | "Keyed" >> beam.Create(list(enumerate(elements)), reshuffle=False)
        | "Grouped" >> beam.GroupByKey()
        | "Spread" >> beam.FlatMapTuple(lambda _, members: members)
    )


def read(shard: Shard, batch: int) -> tf.data.Dataset:
    """A shard's serialized Examples in the order of the file: string [batch], the last one shorter."""
    return tf.data.TFRecordDataset(shard.path, compression_type="GZIP").batch(batch).with_options(_one_thread())


def _one_thread() -> tf.data.Options:
    """Options for reading in the caller's thread.

    TensorFlow would read ahead in another thread. That saves a worker no processor time, and two workers on two cores
    would wait for their threads a fifth of the time.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    return options


@contextmanager
def writing(uri: str, split: str, name: str) -> Iterator[tf.io.TFRecordWriter]:
    """A writer of a shard. The file gets its name only once it is whole.

    Beam runs a bundle again when its worker was lost, and may run it twice at a time. The name says which rows the file
    holds, and the file appears whole: so it is there once, and never half.

    Args:
        uri: the artifact's folder, local or remote. What a lost worker wrote stays in its folder UNFINISHED.
        split: the split's name; its folder is made.
        name: of the file, ending in ENDING. A file that is there already is replaced.
    """
    unfinished = f"{uri}/{UNFINISHED}/{uuid.uuid4().hex}"
    folder = f"{uri}/Split-{split}"
    tf.io.gfile.makedirs(os.path.dirname(unfinished))
    tf.io.gfile.makedirs(folder)
    with tf.io.TFRecordWriter(unfinished, OPTIONS) as writer:
        yield writer
    tf.io.gfile.rename(unfinished, f"{folder}/{name}", overwrite=True)
