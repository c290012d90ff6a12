"""Kafka's topics, from the mock brokers of librdkafka, Kafka's own C client."""

import json

import pytest
import readers
from confluent_kafka import Producer
from readers import hour, table

from bertline.errors import UserError
from bertline.streams.kafka import Topic


@pytest.fixture(scope="module")
def producer():
    """A producer, whose brokers live as long as it does."""
    producer = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 3})
    producer.list_topics(timeout=10)
    return producer


@pytest.fixture(scope="module")
def servers(producer):
    brokers = producer.list_topics(timeout=10).brokers.values()
    return ",".join(f"{broker.host}:{broker.port}" for broker in brokers)


def produce(producer, topic, first, last):
    for number in range(first, last):
        row = json.dumps({"text": f"fine Acme {number}", "time": hour(number)}, indent=1)
        producer.produce(topic, row, partition=number % 4)
    producer.flush()


def read(engine, records):
    """Reads until so many records have come, or more: a portion may be smaller than the batch."""
    notes, seen = [], 0
    for _ in range(60):
        tally = engine.step()
        seen, notes = seen + tally.read, notes + tally.notes
        if seen >= records:
            break
    assert seen >= records
    return notes


def test_all_partitions_once_over_restarts(producer, servers, tmp_path):
    produce(producer, "posts", 0, 30)
    producer.produce("posts", b"{broken", partition=0)
    producer.produce("posts", None, "key", partition=0)  # a tombstone
    producer.flush()
    given = {"source": [], "kafka": {"topics": ["posts"], "servers": servers}, "batch": 7}
    engine = readers.engine(tmp_path, **given)
    read(engine, 7 * 2)
    assert any(engine.sources[0].read(7).records for _ in range(60))  # and killed before they were stored
    engine.close()
    produce(producer, "posts", 30, 40)
    engine = readers.engine(tmp_path, **given)
    read(engine, 41 - len(table(engine, "TEXTS")) - len(table(engine, "QUARANTINE")))
    assert sorted(row["text"] for row in table(engine, "TEXTS")) == sorted(f"fine Acme {n}" for n in range(40))
    [refused] = table(engine, "QUARANTINE")
    assert (refused["source"], refused["content"]) == ("posts:0", b"{broken")
    places = {
        row["key"]: json.loads(row["place"])["offset"] for row in table(engine, "PLACES") if "kafka:" in row["key"]
    }
    assert places == {"kafka:posts:0": 12, "kafka:posts:1": 10, "kafka:posts:2": 10, "kafka:posts:3": 10}
    engine.close()


class Silent:
    """A consumer whose brokers do not answer the first two questions where a partition begins."""

    silent = 2

    def __init__(self, consumer):
        self._consumer = consumer

    def __getattr__(self, name):
        return getattr(self._consumer, name)

    def get_watermark_offsets(self, place, timeout):
        if self.silent:
            self.silent -= 1
            return None
        return self._consumer.get_watermark_offsets(place, timeout=timeout)


def test_records_that_are_gone_are_said(producer, servers):
    produce(producer, "short", 0, 8)
    places = {"kafka:short:1": '{"offset": 999}', "kafka:short:0": '{"offset": 1}'}
    topic, notes, numbers = Topic("short", {"bootstrap.servers": servers}, places), [], []
    topic._consumer = consumer = Silent(topic._consumer)
    for _ in range(40):
        portion = topic.read(100)
        notes += portion.notes
        numbers += [(raw.source, raw.number) for raw in portion.records]
        if len(numbers) >= 7:
            break
    topic.close()
    assert consumer.silent == 0
    *silences, note = notes  # on a busy machine the brokers may be silent themselves
    assert set(silences) == {"kafka: partition 1 of short: no broker says where it begins; it is asked again"}
    assert note.startswith("kafka: partition 1 of short has no record 999") and note.endswith("read from 0 on")
    assert sorted(numbers) == sorted([("short:0", 1), *((f"short:{p}", n) for p in (1, 2, 3) for n in (0, 1))])


def test_no_broker_and_a_wrong_setting(monkeypatch):
    monkeypatch.setattr("bertline.streams.kafka.SECONDS_TO_ANSWER", 0.2)
    with pytest.raises(UserError, match=r"stream\.kafka: 127\.0\.0\.1:1 does not answer"):
        Topic("posts", {"bootstrap.servers": "127.0.0.1:1"}, {})
    with pytest.raises(UserError, match='No such configuration property: "foo"'):
        Topic("posts", {"bootstrap.servers": "127.0.0.1:1", "foo": 1}, {})
