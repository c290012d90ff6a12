"""Topics of Kafka, through confluent-kafka. The offsets are kept in the stream's own database, with the rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bertline.errors import UserError
from bertline.streams.sources import Portion, Source, format_named
from bertline.streams.texts import Raw

SECONDS_TO_ANSWER = 10.0  # that brokers have for a first answer
POLL_SECONDS = 0.2  # that a look waits for records: the first one is fetched in the background


class Topic(Source):
    """A topic: all of its partitions, from where the database says, else from the beginning.

    Args:
        name: of the topic.
        settings: of librdkafka, `bootstrap.servers` among them.
        places: key -> JSON, as the database has it.

    Raises:
        UserError: confluent-kafka is not installed, a setting is unknown, no broker answers, or there is no such topic.
    """

    ends = ended = False

    def __init__(self, name: str, settings: Mapping[str, Any], places: Mapping[str, str]):
        try:
            import confluent_kafka
        except ImportError:
            raise UserError("stream.kafka needs confluent-kafka: pip install 'bertline[stream]'") from None
        self._kafka, self._name, self._servers = confluent_kafka, name, settings.get("bootstrap.servers")
        self._format = format_named("jsonl")
        own = {
            "group.id": "bertline",  # librdkafka wants one; nothing is committed to it
            "enable.auto.commit": False,
            "auto.offset.reset": "error",  # offsets that the topic no longer has are said, not skipped
            "enable.partition.eof": False,
            "error_cb": self._take,
            "log_level": 0,  # it would write to the screen what the callback says
        }
        self._faults: list[str] = []  # not said yet
        self._told: set[str] = set()
        self._lost: set[int] = set()  # partitions whose next record is gone
        try:
            self._consumer = confluent_kafka.Consumer({**settings, **own})
        except confluent_kafka.KafkaException as error:
            raise UserError(f"stream.kafka.settings: {error.args[0].str()}") from None
        self._next = {key: json.loads(text)["offset"] for key, text in places.items()}
        self._partitions = self._found()
        self._assign()

    def _take(self, error: Any) -> None:
        self._faults.append(error.str())

    def _found(self) -> list[int]:
        """The topic's partitions."""
        try:
            topics = self._consumer.list_topics(self._name, timeout=SECONDS_TO_ANSWER).topics
        except self._kafka.KafkaException as error:
            self._consumer.close()
            raise UserError(f"stream.kafka: {self._servers} does not answer: {error.args[0].str()}") from None
        topic = topics[self._name]
        if topic.error is not None or not topic.partitions:
            self._consumer.close()
            raise UserError(f"stream.kafka: there is no topic {self._name!r} at {self._servers}.")
        return sorted(topic.partitions)

    def _assign(self) -> None:
        """Reads on, in each partition, after what was read."""
        beginning, partition = self._kafka.OFFSET_BEGINNING, self._kafka.TopicPartition
        self._consumer.assign(
            [partition(self._name, number, self._next.get(self._key(number), beginning)) for number in self._partitions]
        )

    def _key(self, partition: int) -> str:
        return f"kafka:{self._name}:{partition}"

    def read(self, most: int) -> Portion:
        """See Source. Brokers that are away give nothing, and are told once; librdkafka goes on trying."""
        portion, moved, codes = Portion(), set(), self._kafka.KafkaError
        messages = self._consumer.consume(most, POLL_SECONDS)
        portion.more = len(messages) >= most
        for message in messages:
            if message.error() is not None:
                if message.error().code() in (codes._AUTO_OFFSET_RESET, codes.OFFSET_OUT_OF_RANGE):
                    # One that waited while the partition was assigned anew speaks of a record that nobody wants now.
                    if message.offset() == self._next.get(self._key(message.partition()), message.offset()):
                        self._lost.add(message.partition())
                else:
                    self._faults.append(message.error().str())
                continue
            key = self._key(message.partition())
            self._next[key] = message.offset() + 1
            moved.add(key)
            if message.value():  # else a tombstone
                portion.records.append(self._raw(key, message.offset(), message.value()))
        if self._lost:
            self._faults += [self._skip(partition) for partition in sorted(self._lost)]
            self._assign()
        portion.moves = {
            key: json.dumps({"source": f"kafka:{self._name}", "offset": self._next[key]}) for key in sorted(moved)
        }
        portion.notes = [f"kafka: {words}" for words in dict.fromkeys(self._faults) if words not in self._told]
        self._told |= set(self._faults)
        self._faults.clear()
        return portion

    def _skip(self, partition: int) -> str:
        """Goes to the first record that a partition has, once a broker says which; returns what to tell."""
        place = self._kafka.TopicPartition(self._name, partition)
        try:
            found = self._consumer.get_watermark_offsets(place, timeout=SECONDS_TO_ANSWER)
        except self._kafka.KafkaException as error:
            return f"partition {partition} of {self._name}: {error.args[0].str()}"
        if found is None:
            return f"partition {partition} of {self._name}: no broker says where it begins; it is asked again"
        first, _ = found
        self._lost.discard(partition)
        before, self._next[self._key(partition)] = self._next.get(self._key(partition)), first
        return (
            f"partition {partition} of {self._name} has no record {before:,}, which comes next: it was removed before "
            f"it was read, or the topic was made anew. It is read from {first:,} on"
        )

    def _raw(self, key: str, offset: int, content: bytes) -> Raw:
        [record] = self._format.records(content.replace(b"\n", b" "), True)  # to JSON, a line end is a space
        return Raw(key.removeprefix("kafka:"), offset, key, record.values, record.fault, content)

    def stored(self, portion: Portion) -> None:
        """See Source; the offsets are in the database."""

    def unfinished(self) -> list[str]:
        """See Source: a topic has whole records."""
        return []

    def close(self) -> None:
        """See Source."""
        self._consumer.close()
