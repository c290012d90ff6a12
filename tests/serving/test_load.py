"""What attacks on its memory and its time do to a server in a process of its own.

The bounds have slack for a machine that does other things as well; what each was before stands beside it.
"""

import gzip
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import httpx
import psutil
import pytest
import tensorflow as tf
from factories import save_half_plus_model, save_mood_model
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from bertline.serving.protos import (
    DataType,
    ModelServiceStub,
    PredictionLog,
    PredictRequest,
    ReloadConfigRequest,
)

MIB = 1 << 20
LARGEST = 16 * MIB
BUSY = 5  # times the wait on an idle server, which a machine with other work adds to a wait


class Attacked:
    """A server in a process of its own, its memory, and how long its health check waits."""

    def __init__(self, process, address, url):
        self.process, self.address, self.url = process, address, url
        self.peak = self.longest = self.idle = 0

    def memory(self):
        """Bytes of the process and of its children."""
        processes = [self.process, *self.process.children(recursive=True)]
        return sum(process.memory_full_info().pss for process in processes if process.is_running())

    @contextmanager
    def watched(self):
        """Notes the peak of its memory over what it has now, and its health check's longest wait, both in the block.

        Before that it notes the longest wait while nothing else is asked, which is what the machine's other work costs.
        """
        done, before = threading.Event(), self.memory()
        self.peak = self.longest = self.idle = 0

        def look():
            while not done.wait(0.05):
                self.peak = max(self.peak, self.memory() - before)

        def ask():
            with grpc.insecure_channel(self.address) as channel:
                while not done.is_set():
                    began = time.monotonic()
                    HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
                    self.longest = max(self.longest, time.monotonic() - began)
                    time.sleep(0.01)

        watchers = [threading.Thread(target=watch) for watch in (look, ask)]
        for watcher in watchers:
            watcher.start()
        try:
            time.sleep(0.5)
            self.idle, self.longest = self.longest, 0
            yield
        finally:
            done.set()
            for watcher in watchers:
                watcher.join()

    def post(self, body, model="half_plus", **headers):
        """The status and the answer of a predict request over REST."""
        answer = httpx.post(f"{self.url}/v1/models/{model}:predict", content=body, headers=headers, timeout=60)
        return answer.status_code, answer.text


@contextmanager
def attacked(folder, *flags):
    """An Attacked server of a folder with a model."""
    command = [sys.executable, "-m", "bertline.serving.server", f"--model_base_path={folder}", "--port=-1", *flags]
    command += ["--model_name=half_plus", "--rest_api_port=-1", "--file_system_poll_wait_seconds=0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().split()[-1]
            url = process.stdout.readline().split()[-1]
            yield Attacked(psutil.Process(process.pid), address, url)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half_plus")
    save_half_plus_model(folder / "1")
    with attacked(folder) as server:
        server.post(b'{"instances": [[1.0]]}')
        server.post(b'{"instances": [[1.0]], "ignored": "' + b" " * MIB + b'"}')  # starts the decoder
        yield server


def at_once(work, count):
    with ThreadPoolExecutor(count) as threads:
        return [done.result() for done in [threads.submit(work) for _ in range(count)]]


def call(server, request):
    """OK, or the code and the words of a refusal. Sends and receives bytes: this process has other threads to run."""
    with grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", -1)]) as channel:
        try:
            channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(request, timeout=60)
        except grpc.RpcError as error:
            return error.code().name, error.details()
    return "OK", ""


def request(**tensor):
    message = PredictRequest()
    message.model_spec.name = "half_plus"
    message.inputs["x"].dtype = DataType.DT_FLOAT
    shape = tensor.pop("shape")
    for size in shape:
        message.inputs["x"].tensor_shape.dim.add(size=size)
    for field, value in tensor.items():
        if field == "tensor_content":
            message.inputs["x"].tensor_content = value
        else:
            getattr(message.inputs["x"], field).extend(value)
    return message.SerializeToString()


@pytest.mark.parametrize("value", [b" ", b"1,"])
def test_fifty_small_bodies_that_unpack_to_the_largest(server, value):
    """2.4 GiB, and the health check waited 14 s."""
    filling = value * ((LARGEST - 100) // len(value))
    body = gzip.compress(b'{"ignored": [' + filling + b'1], "instances": [[1.0]]}')
    assert len(body) < 40_000
    with server.watched():
        answers = at_once(lambda: server.post(body, **{"content-encoding": "gzip"}), 50)
    statuses = {status for status, _ in answers}
    assert 200 in statuses and statuses <= {200, 429, 504}
    assert all("max_bytes_in_flight" in words for status, words in answers if status == 429)
    assert server.peak < 1400 * MIB
    assert server.longest < 6 + BUSY * server.idle


def test_twenty_of_the_largest_messages(server):
    """1.4 GiB."""
    large = request(shape=[4, MIB - 100], tensor_content=b"\0" * (16 * (MIB - 100)))
    with server.watched():
        answers = at_once(lambda: call(server, large), 20)
    assert ("OK", "") in answers and {code for code, _ in answers} <= {"OK", "RESOURCE_EXHAUSTED"}
    assert all("max_bytes_in_flight" in words for code, words in answers if code != "OK")
    assert server.peak < 1100 * MIB


def test_four_million_numbers_do_not_hold_up_others(server):
    """The loop stood still for 1.2 s."""
    body = b'{"instances": [[' + b",".join([b"0.1"] * 4_000_000) + b"]]}"
    with server.watched():
        status, answer = server.post(body)
    assert status == 200 and answer.startswith('{"predictions":[[2.05,2.05,')
    assert server.longest < 0.8 + BUSY * server.idle


def test_one_value_for_millions_does_not_hold_up_others(server):
    """39 bytes; the loop stood still for 0.26 s with each."""
    short = request(shape=[1, 4_000_000], float_val=[1.0])
    with server.watched():
        answers = at_once(lambda: call(server, short), 4)
    assert answers == [("OK", "")] * 4
    assert server.longest < 0.8 + BUSY * server.idle


def save_slow_model(folder):
    """A model that its recorded warm-up request keeps busy for minutes."""
    save_mood_model(folder)
    log = PredictionLog()
    log.predict_log.request.model_spec.signature_name = "count"
    log.predict_log.request.inputs["n"].CopyFrom(tf.make_tensor_proto(10**9, tf.int64))
    (folder / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(folder / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())


def reload(server, folder, *names):
    """The code and the words of a reload; "" and "" if it is still under way after ten seconds."""
    message = ReloadConfigRequest()
    for name in names:
        message.config.model_config_list.config.add(
            name=name, base_path=str(folder / name), model_platform="tensorflow"
        )
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        ModelServiceStub(channel).HandleReloadConfigRequest(message, timeout=10)
    waited = caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    return ("", "") if waited else (caught.value.code().name, caught.value.details())


def test_what_loads_holds_up_neither_bodies_nor_the_end(tmp_path):
    """Eight reloads stopped every body above 64 KB for 30 s; a version that warms held up SIGTERM for 120 s."""
    save_half_plus_model(tmp_path / "half_plus" / "1")
    save_slow_model(tmp_path / "slow" / "1")
    with attacked(tmp_path / "half_plus", f"--reload_roots={tmp_path}") as server:
        with ThreadPoolExecutor(8) as threads:
            reloads = [threads.submit(reload, server, tmp_path, "half_plus", "slow") for _ in range(8)]
            time.sleep(1)
            began = time.monotonic()
            assert server.post(b'{"instances": [[1.0]], "ignored": "' + b" " * 100_000 + b'"}')[0] == 200
            assert time.monotonic() - began < 5
            outcomes = sorted(done.result() for done in reloads)
        under_way = "another reload of the models is under way; try again when it has ended"
        assert outcomes == [("", "")] + [("UNAVAILABLE", under_way)] * 7
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0
        assert time.monotonic() - began < 10


def test_a_server_whose_first_version_still_warms_ends_when_it_is_told_to(tmp_path):
    save_slow_model(tmp_path / "1")
    command = [sys.executable, "-m", "bertline.serving.server", f"--model_base_path={tmp_path}", "--port=-1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if "loading" in line:
                    break
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
            assert time.monotonic() - began < 10
        finally:
            process.kill()


def test_memory_comes_back_when_versions_take_turns(tmp_path):
    """A model of 75 MiB: two new versions left 230 MiB more with the process than one had."""
    model = tf.Module()
    model.variables_ = [tf.Variable(tf.zeros([128, 1024])) for _ in range(150)]
    x = tf.TensorSpec([None], tf.float32, "x")
    first = tf.function(lambda x: {"y": x + tf.add_n([variable[0, 0] for variable in model.variables_])}, [x])
    tf.saved_model.save(model, str(tmp_path / "versions" / "1"), signatures=first)
    with attacked(tmp_path / "versions") as server:

        def state(version):
            url = f"{server.url}/v1/models/half_plus/versions/{version}"
            answer = httpx.get(url, trust_env=False)
            return answer.json()["model_version_status"][0]["state"] if answer.is_success else ""

        before = server.memory()
        for version in (2, 3):
            shutil.copytree(tmp_path / "versions" / "1", tmp_path / "new")
            (tmp_path / "new").rename(tmp_path / "versions" / str(version))
            deadline = time.monotonic() + 60
            while state(version - 1) != "END":
                assert time.monotonic() < deadline
                time.sleep(0.1)
        time.sleep(1)
        assert server.memory() < before + 120 * MIB
