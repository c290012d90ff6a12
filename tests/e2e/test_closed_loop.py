"""The whole story: what people write drifts, an alarm rings, labels come back, a retrained model answers a share of the
requests and is promoted; a bad one is withdrawn by itself. No request fails."""

import csv
import json
import random
import re
import signal
import subprocess
import threading
import time
from contextlib import contextmanager

import factories
import httpx
import prometheus_stack
import pytest
from engines import free_port
from lines import BERTLINE
from prometheus_stack import alarms_to

from bertline import Client
from bertline.serving import push

PATIENCE = 300  # seconds, for whatever has to come to pass on a busy machine
CANARY = "canary: {share: 0.5, for: 2s, minimum_requests: 400, slower_by: 100, agreement: 0.7, less_confident: 0.3}"


def wait_until(true, what):
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"{what} has not come to pass"
        time.sleep(0.2)


@contextmanager
def started(line, *arguments):
    """A command of bertline meanwhile; gives the file of what it shows."""
    shown = line.folder / f"{arguments[0]}.txt"
    with (
        shown.open("w") as file,
        subprocess.Popen([BERTLINE, *map(str, arguments)], cwd=line.folder, stdout=file, stderr=file) as process,
    ):
        try:
            yield shown
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


class Crowd:
    """People who write all the time, each with a session; what they are told, and that none is told nothing."""

    def __init__(self, address):
        self.answers, self.failures = [], []
        self._address, self._stop = address, threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(name,)) for name in range(2)]

    def _write(self, name):
        texts = [text for text, _, _ in factories.reviews(900, seed=20 + name)]
        for number, text in enumerate(texts * 100):
            if self._stop.is_set():
                return
            try:
                with Client(self._address, "reviews", headers={"x-session-id": f"{name}-{number // 5}"}) as client:
                    self.answers += client.predict([text])
            except Exception as error:
                self.failures.append(error)

    def versions(self):
        return {str(answer.version) for answer in self.answers[-20:]}

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


@prometheus_stack.needed
@pytest.mark.shipped
def test_the_loop_closes_by_itself(line, tmp_path, webhook):
    line.edit("serve: {port: 0}", f"serve: {{port: 0, rest_port: 0, log: {{rate: 1, texts: true}}, {CANARY}}}")
    line.edit("  source: reviews.csv", "  source: reviews.csv\n  train_source: corrections-{SPAN}.jsonl")
    with line.config.open("a") as file:
        file.write("retrain: {pause: 1s}\nmonitor: {window: 1h}\n")
    (first,) = line.versions()
    address, alarms = webhook
    with started(line, "serve", line.config, "--embedded") as shown:
        wait_until(lambda: "answering on" in shown.read_text(), "the server")
        server, rest = re.search(r"answering on (\S+) and (\S+)", shown.read_text()).groups()
        complained = drift(server)
        wait_until(lambda: recorded(line) >= len(complained), "the records")  # parts come once a minute
        watch_until_the_alarm(line, tmp_path, address, alarms)
        bring_labels(line, complained)
        with started(line, "watch", line.config, "--on", "drift,span") as watched:
            wait_until(lambda: len(line.versions()) == 2, f"a second version; {watched.read_text()}")
        second = line.versions()[-1]
        assert "corrections-1.jsonl" in watched.read_text()

        with Crowd(server) as crowd:
            wait_until(lambda: f"version {second} is the canary: it answers 50%" in shown.read_text(), "a canary")
            wait_until(lambda: crowd.versions() == {first, second}, "both versions answer")
            wait_until(lambda: f"version {second} is promoted, in place of {first}" in shown.read_text(), "a promotion")
            wait_until(lambda: crowd.versions() == {second}, "the second version answers alone")
            bad = factories.save_mood_model(tmp_path / "bad", "nothing that anybody writes")
            push.publish(bad, line.serving, {"inputs": "other hands"})
            third = line.versions()[-1]
            wait_until(
                lambda: f"version {third} is withdrawn, and version {second} answers" in shown.read_text(), "that"
            )
            wait_until(lambda: crowd.versions() == {second}, "the second version answers again")
        assert crowd.failures == []
        assert figure(rest, 'bertline_canary_decisions_total{decision="promoted",model="reviews"}') == 1
        assert figure(rest, 'bertline_canary_decisions_total{decision="withdrawn",model="reviews"}') == 1
    listed = [json.loads(row) for row in line.bertline("releases", line.config, "--json").stdout.splitlines()]
    assert [(str(each["version"]), each["state"]) for each in listed] == [
        (first, "kept"),
        (second, "served"),
        (third, "withdrawn"),
    ]
    assert "canary: agreement 0." in listed[2]["withdrawal"]["reason"]


def drift(server):
    """Everybody complains: the texts that were answered, and the answers."""
    texts = [text for text, label, _ in factories.reviews(1500, seed=10) if label == "negative"]
    random.Random(1).shuffle(texts)
    with Client(server, "reviews") as client:
        return list(zip(texts, client.predict(texts), strict=True))


def recorded(line):
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(part).num_rows for part in line.folder.glob("runs/records/date=*/*.parquet"))


def watch_until_the_alarm(line, folder, address, alarms):
    """`bertline monitor`, Prometheus, Alertmanager, and the webhook at its end."""
    port = free_port()
    with started(line, "monitor", line.config, "--every", "5s", "--port", port), alarms_to(address, folder, port):
        fired = alarms.get(timeout=PATIENCE)
    assert {each["labels"]["alertname"] for each in fired["alerts"]} <= {"BertlineModelChanged", "BertlineAccuracyLost"}
    assert fired["status"] == "firing" and fired["alerts"][0]["labels"]["model"] == "reviews"


def bring_labels(line, complained):
    with (line.folder / "corrections.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label", "who", "when"])
        writer.writerows([answer.id, text, "negative", "ann", "2026-11-28"] for text, answer in complained[:100])
    brought = line.bertline("feedback", line.config, "corrections.csv")
    assert brought.returncode == 0, brought.stdout + brought.stderr


def figure(rest, name):
    page = httpx.get(f"{rest}/monitoring/prometheus/metrics", trust_env=False).text
    (value,) = [row.rpartition(" ")[2] for row in page.splitlines() if row.startswith(name)]
    return float(value)
