import asyncio
import collections
import datetime
import resource
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import httpx
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from test_server import push

from bertline import AsyncClient, Client, ServingError
from bertline.errors import UserError
from bertline.serving import record_files, records
from bertline.serving.protos import PredictionServiceStub, PredictRequest
from bertline.serving.recording import RecordOptions
from bertline.serving.records import Recorder
from bertline.serving.server import Server


def rows(folder):
    """All records of a folder, in the order in which they were written, as dictionaries."""
    return [row for _, part in record_files.parts(Path(folder)) for row in pq.ParquetFile(part).read().to_pylist()]


@pytest.fixture(scope="module")
def recorded(monitored_model, tmp_path_factory):
    """A server that records everything, and the folder of its records, which are written when it ends."""
    folder = tmp_path_factory.mktemp("records")
    options = RecordOptions(folder, texts=True, columns=("shop",))
    server = Server.of(monitored_model, "mood", port=0, rest_port=0, metrics_path="/metrics", records=options)
    with server, Client(server.address, "mood") as client:
        answers = {
            "one": client.predict(["good, write to jane@example.com"]),
            "two": client.predict(["bad", "good!"]),
        }
        url = f"{server.rest_address}/v1/models/mood:predict"
        body = {"signature_name": "text", "inputs": ["over rest"]}
        answers["rest"] = httpx.post(url, json=body, headers={"x-request-id": "order-4711"})
        answers["strange id"] = httpx.post(url, json=body, headers={"x-request-id": "x" * 65})
        answers["refused"] = httpx.post(url, json=body | {"signature_name": "none"})
        answers["example"] = example_request(server, text=b"good", shop=b"call 020 7946 0958")
        answers["unmonitored"] = httpx.get(f"{server.rest_address}/v1/models/mood")
    answers["metrics"] = server.metrics.render()[0].decode()
    return answers, rows(folder)


def example_request(server, **features):
    """The trailing metadata of a Predict request of one tf.Example."""
    each = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for name, value in features.items()}
    message = PredictRequest()
    message.model_spec.name = "mood"
    serialized = tf.train.Example(features=tf.train.Features(feature=each)).SerializeToString()
    message.inputs["examples"].CopyFrom(tf.make_tensor_proto([serialized]))
    with grpc.insecure_channel(server.address) as channel:
        _, call = PredictionServiceStub(channel).Predict.with_call(message)
        return dict(call.trailing_metadata())


def test_a_record_holds_what_was_asked_and_answered(recorded):
    answers, (first, *_) = recorded
    (prediction,) = answers["one"]
    assert first.pop("time").date() == datetime.datetime.now(datetime.UTC).date()
    assert 0 < first.pop("milliseconds") < 10_000
    assert first == {
        "id": prediction.id,
        "model": "mood",
        "version": 7,
        "signature": "text",
        "status": "OK",
        "label": "positive",
        "labels": None,
        "classes": ["negative", "positive"],
        "probabilities": [0.25, 0.75],
        "abstained": False,
        "characters": 31,
        "pieces": 33,
        "unknown": 1,
        "embedding": [31.0, 1.0],
        "text": "good, write to <EMAIL_ADDRESS>",
        "text_pair": None,
        "columns": [],
    }


def test_each_text_of_a_request_has_an_id_of_its_own(recorded):
    answers, records = recorded
    bad, good = answers["two"]
    by_id = {record["id"]: record["text"] for record in records}
    assert (by_id[bad.id], by_id[good.id]) == ("bad", "good!")
    assert len(by_id) == len(records) == 7
    assert bad.id.rpartition("-")[0] == good.id.rpartition("-")[0]


def test_the_callers_own_id_is_kept_if_it_can_be_one(recorded):
    answers, records = recorded
    ids = [record["id"] for record in records if record["text"] == "over rest"]
    assert answers["rest"].headers["x-request-id"] == ids[0] == "order-4711"
    assert answers["strange id"].headers["x-request-id"] == ids[1] != "x" * 65
    assert "x-request-id" not in answers["unmonitored"].headers


def test_a_request_that_fails_has_a_record_of_its_status(recorded):
    answers, records = recorded
    assert answers["refused"].status_code == 400
    (failed,) = [record for record in records if record["status"] != "OK"]
    assert (failed["status"], failed["label"], failed["model"]) == ("INVALID_ARGUMENT", None, "mood")


def test_columns_of_examples_are_kept_masked(recorded):
    answers, records = recorded
    (kept,) = [record for record in records if record["id"] == answers["example"]["x-request-id"]]
    assert kept["columns"] == [("shop", "call <PHONE_NUMBER>")]
    assert (kept["text"], kept["label"], kept["embedding"]) == ("good", "positive", None)


def test_written_records_are_counted(recorded):
    answers, records = recorded
    assert f"bertline_records_written_total {len(records)}.0" in answers["metrics"]


def test_answers_are_the_same_whether_they_are_recorded_or_not(monitored_model, tmp_path):
    texts = ["good", "bad", "", "good " * 50]
    answers = []
    for records_of in (None, RecordOptions(tmp_path, rate=0.0), RecordOptions(tmp_path)):
        with (
            Server.of(monitored_model, "mood", port=0, records=records_of) as server,
            Client(server.address, "mood") as client,
        ):
            answers.append(client.predict(texts))
    assert answers[0] == answers[1] == answers[2]
    assert [each.id is None for each in (answers[0][0], answers[1][0], answers[2][0])] == [True, True, False]
    assert len(rows(tmp_path)) == len(texts)
    assert [record["text"] for record in rows(tmp_path)] == [None] * len(texts)  # unless they are asked for


def test_a_client_records_what_a_server_without_records_answers(mood_models, tmp_path):
    push(mood_models["good"], tmp_path / "serving", 7)
    log = tmp_path / "records"
    with (
        Server.of(tmp_path / "serving", "mood", port=0) as server,
        Client(server.address, "mood", log=log, batch_size=1) as client,
    ):
        good, bad = client.predict(["good", "awful"])
        with pytest.raises(ServingError):
            client.predict(["good"], signature="none")
    by_id = {record["id"]: record for record in rows(tmp_path / "records")}
    assert (by_id.pop(good.id)["label"], by_id[bad.id]["label"]) == ("positive", "negative")
    assert by_id.pop(bad.id)["probabilities"] == [0.75, 0.25]
    (failed,) = by_id.values()
    assert (failed["status"], failed["model"], failed["characters"]) == ("FAILED_PRECONDITION", "mood", 4)


def test_an_async_client_records_too(mood_models, tmp_path):
    push(mood_models["good"], tmp_path / "serving", 7)

    async def ask(address):
        async with AsyncClient(address, "mood", log=RecordOptions(tmp_path / "records", texts=True)) as client:
            return await client.predict(["good"])

    with Server.of(tmp_path / "serving", "mood", port=0) as server:
        (answer,) = asyncio.run(ask(server.address))
    (record,) = rows(tmp_path / "records")
    assert (record["id"], record["text"], record["version"]) == (answer.id, "good", 7)


def test_a_call_that_is_given_up_has_a_record_of_that(mood_models, tmp_path):
    push(mood_models["good"], tmp_path / "serving", 7)

    async def give_up(address):
        async with AsyncClient(address, "mood", log=tmp_path / "records") as client:
            asked = asyncio.create_task(client.predict(["good"] * 50))
            await asyncio.sleep(0)  # it has begun
            await asyncio.sleep(0)
            asked.cancel()
            await asyncio.wait([asked])

    with Server.of(tmp_path / "serving", "mood", port=0) as server:
        asyncio.run(give_up(server.address))
    assert {record["status"] for record in rows(tmp_path / "records")} == {"CANCELLED"}


# === What may go wrong ===


def record_of(recorder, own_id=None, characters=4):
    entry = recorder.begin(own_id)
    entry.content, entry.size = lambda _: {"characters": [characters]}, 1000
    recorder.end(entry, "mood", "OK", 0.01)


def test_a_slow_disk_is_in_nobodys_way(tmp_path, monkeypatch):
    counted, moving = collections.Counter(), threading.Event()
    monkeypatch.setattr(records, "WAITING_BYTES", 10_000)
    monkeypatch.setattr(records, "PART_ROWS", 1)
    recorder = Recorder(RecordOptions(tmp_path), lambda rows, why: counted.update({why: rows}))
    write = recorder._parts.write
    monkeypatch.setattr(recorder._parts, "write", lambda rows: moving.wait(30) and write(rows))
    started = time.monotonic()
    for _ in range(50):
        record_of(recorder)
    assert time.monotonic() - started < 1
    moving.set()
    recorder.close()
    assert counted["too_much"] >= 39 and counted[""] == 50 - counted["too_much"]
    assert len(rows(tmp_path)) == counted[""]


def test_a_full_disk_drops_and_counts_and_leaves_nothing_behind(tmp_path, monkeypatch, caplog):
    counted = collections.Counter()
    monkeypatch.setattr(records, "PART_ROWS", 1)
    recorder = Recorder(RecordOptions(tmp_path), lambda rows, why: counted.update({why: rows}))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # the least of a disk that is full
    try:
        record_of(recorder)
        until = time.monotonic() + 20
        while not counted and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    record_of(recorder, "kept")
    recorder.close()
    assert counted == {"not_written": 1, "": 1}
    assert [record["id"] for record in rows(tmp_path)] == ["kept"]
    assert list(tmp_path.rglob("*.unfinished")) == []
    assert "1 records dropped so far, the last ones: not_written: File too large" in caplog.text


def test_a_crash_loses_only_what_was_not_written(tmp_path):
    program = (
        "import sys, pathlib\nfrom bertline.serving import records\n"
        "from bertline.serving.recording import RecordOptions\n"
        "records.PART_ROWS = 10\nrecorder = records.Recorder(RecordOptions(pathlib.Path(sys.argv[1])))\n"
        "for number in range(10**9):\n"
        "    entry = recorder.begin(str(number))\n"
        "    recorder.end(entry, 'mood', 'OK', 0.01)\n"
        "    if number % 10 == 0: print(number, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", program, tmp_path], stdout=subprocess.PIPE) as crashing:
        while len(list(record_files.parts(tmp_path))) < 3:
            crashing.stdout.readline()
        crashing.kill()
    written = [int(record["id"]) for record in rows(tmp_path)]
    assert written == list(range(len(written))) and len(written) >= 30


def test_only_the_owner_can_read_them(tmp_path):
    folder = tmp_path / "records"
    recorder = Recorder(RecordOptions(folder))
    record_of(recorder)
    recorder.close()
    ((_, part),) = record_files.parts(folder)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, part.parent, part)] == [0o700, 0o700, 0o600]


def test_a_folder_that_cannot_be_written_is_said_at_the_start(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/records: no records can be written there: Not a directory"):
        Recorder(RecordOptions(tmp_path / "file" / "records"))


def test_old_days_and_too_many_bytes_go_oldest_first(tmp_path):
    parts = record_files.Parts(tmp_path, days=30, most_bytes=250)
    today = datetime.datetime.now(datetime.UTC).date()
    for age in (31, 30, 2, 1):
        folder = tmp_path / f"date={today - datetime.timedelta(days=age)}"
        folder.mkdir()
        (folder / f"20260101T000000Z-1-0000-{age:04d}.parquet").write_bytes(b"x" * 100)
    own = tmp_path / f"date={today - datetime.timedelta(days=31)}" / "notes.txt"
    own.touch()
    parts.prune()
    left = [part.name[-12:-8] for _, part in record_files.parts(tmp_path)]
    assert left == ["0002", "0001"]  # 31 days is too old, and of three parts of 100 bytes two fit
    assert own.exists()  # what somebody else put there is theirs


def test_what_grew_too_old_while_nothing_was_served_goes_at_the_start(tmp_path):
    old = tmp_path / "date=2026-01-01" / "20260101T000000Z-1-0000-0000.parquet"
    old.parent.mkdir()
    old.write_bytes(b"")
    Recorder(RecordOptions(tmp_path)).close()
    assert not old.parent.exists()


def test_rows_that_many_threads_drop_are_all_counted(tmp_path, caplog):
    counted = collections.Counter()
    recorder = Recorder(RecordOptions(tmp_path), lambda rows, why: counted.update({why: rows}))
    recorder.close()

    def drop():
        for _ in range(2000):
            recorder.end(recorder.begin(), "mood", "OK", 0.1)

    threads = [threading.Thread(target=drop) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = [int(record.message.split()[0]) for record in caplog.records if "records dropped" in record.message]
    assert sorted(told) == [2**power for power in range(14)]  # each once: none is lost or told twice
