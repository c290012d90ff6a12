import json
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from factories import reviews, save_mood_model, write_task
from typer.testing import CliRunner

from bertline.pipeline import cli
from bertline.serving import push
from bertline.serving.client import Client
from bertline.serving.keys import add_key

TOP = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from bertline.pipeline.cli import main; main()", "serve"]


@pytest.fixture
def config(tmp_path):
    """A config whose serving folder holds one pushed version."""
    save_mood_model(tmp_path / "serving" / "7")
    (tmp_path / "serving" / "7" / "release.json").write_text("{}")
    file = write_task(tmp_path, reviews(10))
    settings = f"serve: {{folder: {tmp_path}/serving, port: 0, rest_port: 0}}"
    file.write_text(file.read_text().replace("name: reviews", "name: mood").replace("serve: {port: 0}", settings))
    return file


@contextmanager
def serving(config, *flags):
    """`bertline serve` in a process: (gRPC address, REST address)."""
    command = [*COMMAND, str(config), "--embedded", *flags]
    process = subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        shown = ""
        while not (found := re.search(r"answering on (\S+) and (\S+)", shown)):
            line = process.stdout.readline()
            assert line, shown
            shown += line
        yield found.groups()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


def test_serves_grpc_rest_and_metrics(config):
    with serving(config) as (address, rest), httpx.Client(base_url=rest, trust_env=False) as http:
        with Client(address, "mood") as client:
            assert client.predict(["a good day"])[0].label == "positive"
        answer = http.post("/v1/models/mood:predict", json={"signature_name": "text", "instances": ["a good day"]})
        assert answer.json()["predictions"][0]["label"] == "positive"
        metrics = http.get("/monitoring/prometheus/metrics").text
        assert ':tensorflow:serving:request_count{model_name="mood",status="OK"} 2.0' in metrics
        assert 'bertline_batch_rows_count{model="mood",signature="text"} 2.0' in metrics, "requests are batched"


def test_further_flags_reach_the_server(config, tmp_path):
    key = add_key(tmp_path / "keys.yaml", "tester")
    with serving(config, f"--api_keys_file={tmp_path}/keys.yaml") as (_, rest):
        assert httpx.get(f"{rest}/v1/models/mood", trust_env=False).status_code == 401
        answer = httpx.get(f"{rest}/v1/models/mood", headers={"x-api-key": key}, trust_env=False)
        assert answer.json()["model_version_status"][0]["state"] == "AVAILABLE"


@pytest.mark.shipped
def test_a_canary_outlives_a_killed_server(config, tmp_path):
    """SIGKILL in the middle of a trial loses no more than some seconds."""
    canary = "canary: {share: 0.5, for: 1s, minimum_requests: 200, most_errors: 0.05, slower_by: 1000}"
    config.write_text(config.read_text().replace("port: 0, ", f"port: 0, {canary}, "))
    promoted = {"state": "promoted", "at": "2026-11-28T10:00", "reason": "it held"}
    (tmp_path / "serving" / "7" / "canary.json").write_text(json.dumps(promoted))
    push.publish(save_mood_model(tmp_path / "next", "g.od"), tmp_path / "serving", {"inputs": "next"}, now=lambda: 8)
    record = tmp_path / "serving" / "8" / "canary.json"

    def counted():
        return json.loads(record.read_text())["counts"]["requests"] if record.exists() else 0

    killed = subprocess.Popen(
        [*COMMAND, str(config), "--embedded"], cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        shown = ""
        while not (found := re.search(r"answering on (\S+)", shown)):
            shown += killed.stdout.readline()
        assert "version 8 is the canary: it answers 50% of the requests of version 7" in shown
        with Client(found[1], "mood") as client:
            texts = iter(range(5000))
            while not 40 <= counted() < 200:
                client.predict([f"a good day {next(texts)}"])
                time.sleep(0.02)  # so that the record is written before the canary has had all its requests
    finally:
        killed.kill()
        killed.wait()
    before = counted()
    with serving(config) as (address, _), Client(address, "mood", headers={"x-session-id": "ann"}) as client:
        assert counted() == before >= 40
        assert len({client.predict([f"a day {number}"])[0].version for number in range(20)}) == 1
        with Client(address, "mood") as other:
            while json.loads(record.read_text())["state"] != "promoted":
                other.predict([f"a good day {next(texts)}"])
        assert counted() >= 200
        while client.predict(["a good day"])[0].version != 8:
            time.sleep(0.05)
    listed = CliRunner().invoke(cli.app, ["releases", str(config), "--json"]).stdout.splitlines()
    assert [(each["version"], each["state"]) for each in map(json.loads, listed)] == [(7, "kept"), (8, "served")]


def test_unknown_flag_is_told(config):
    result = CliRunner().invoke(cli.app, ["serve", str(config), "--embedded", "--colour=blue"])
    assert result.exit_code == 2


def test_in_a_container_it_listens_on_every_address_and_needs_no_folder_to_write_to(config, monkeypatch):
    monkeypatch.setenv("BERTLINE_SERVE_HOST", "0.0.0.0")
    config.write_text(re.sub("(?m)^root: .*", "root: /dev/null/runs", config.read_text()))
    with serving(config) as (address, _):
        host, _, port = address.partition(":")
        assert host == "0.0.0.0"
        with Client(f"127.0.0.2:{port}", "mood") as client:  # a server on 127.0.0.1 does not answer there
            assert client.predict(["a good day"])[0].label == "positive"
