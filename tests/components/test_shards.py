import apache_beam as beam
import pytest
import tensorflow as tf

from bertline.components import shards
from bertline.components.shards import Shard


def records(path):
    return list(tf.data.TFRecordDataset(str(path), compression_type="GZIP").as_numpy_iterator())


def test_shards_are_found_in_the_order_of_their_rows(tmp_path):
    for name in ("Split-test/b.gz", "Split-train/a-2.gz", "Split-train/a-1.gz", "Split-train/a-3.gz.cafe"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [(shard.split, shard.name) for shard in shards.of(str(tmp_path))]
    assert found == [("train", "a-1.gz"), ("train", "a-2.gz"), ("test", "b.gz")]


def test_many_shards_are_dealt_out_to_few_tasks(monkeypatch):
    monkeypatch.setattr(shards, "TASKS", 2)
    split = [Shard("train", path) for path in "abcde"]
    alone = Shard("test", "f")
    assert shards.tasks([*split, alone]) == [[split[0], split[2], split[4]], [split[1], split[3]], [alone]]


class Counted(beam.DoFn):
    """How many elements a worker got."""

    def start_bundle(self):
        self._elements = 0

    def process(self, _):
        self._elements += 1

    def finish_bundle(self):
        yield beam.transforms.window.GlobalWindows.windowed_value(self._elements)


def test_workers_get_equal_numbers_of_elements(tmp_path):
    two = ["--runner=FnApiRunner", "--direct_running_mode=multi_threading", "--direct_num_workers=2"]
    with beam.Pipeline(argv=two) as pipeline:
        counts = shards.spread(pipeline, range(100)) | beam.ParDo(Counted())
        counts | beam.io.WriteToText(str(tmp_path / "counts"))
    found = [int(line) for path in tmp_path.iterdir() for line in path.read_text().split()]
    assert [count for count in found if count] == [50, 50]


def test_a_shard_appears_once_it_is_whole(tmp_path):
    path = tmp_path / "Split-train" / "a.gz"
    with shards.writing(str(tmp_path), "train", "a.gz") as writer:
        writer.write(b"one")
        assert not path.exists()
    assert records(path) == [b"one"]
    with shards.writing(str(tmp_path), "train", "a.gz") as writer:  # the bundle is tried again
        writer.write(b"two")
    assert (list(path.parent.iterdir()), records(path)) == ([path], [b"two"])


def test_what_a_lost_worker_leaves_is_no_shard(tmp_path):
    def lose_the_worker():
        with shards.writing(str(tmp_path), "train", "a.gz") as writer:
            writer.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lose_the_worker()
    assert shards.of(str(tmp_path)) == []
    with shards.writing(str(tmp_path), "train", "a.gz") as writer:
        writer.write(b"whole")
    (shard,) = shards.of(str(tmp_path))
    assert records(shard.path) == [b"whole"]
