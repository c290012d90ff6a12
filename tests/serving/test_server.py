import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictLog

from bertline.errors import UserError
from bertline.serving.client import Client
from bertline.serving.limits import Limits
from bertline.serving.protos import (
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelServiceStub,
    PredictionLog,
    PredictionServiceStub,
    PredictRequest,
    SignatureDefMap,
)
from bertline.serving.releases import WARMUP_FILE
from bertline.serving.server import Server, main
from bertline.serving.versions import Polling

TOP = Path(__file__).parents[2]


def push(model, folder, version):
    """As the pusher does: whole at once."""
    shutil.copytree(model, folder / f".unfinished-{version}")
    (folder / f".unfinished-{version}").rename(folder / str(version))


@pytest.fixture(scope="module")
def served(mood_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    push(mood_models["good"], folder, 7)
    with Server.of(folder, "mood", port=0) as server:
        yield server


@pytest.fixture(scope="module")
def stub(served):
    with grpc.insecure_channel(served.address) as channel:
        yield PredictionServiceStub(channel)


def request(signature="text", model="mood", version=None, **inputs):
    message = PredictRequest()
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    if version is not None:
        message.model_spec.version.value = version
    for name, value in (inputs or {"text": ["a good film"]}).items():
        message.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return message


def refused(call, message):
    with pytest.raises(grpc.RpcError) as caught:
        call(message)
    return caught.value.code().name, caught.value.details()


# === Predict ===


def test_predicts_from_strings(stub):
    response = stub.Predict(request(text=["a good film", "a dull one"]))
    assert list(response.outputs["label"].string_val) == [b"positive", b"negative"]
    assert list(response.outputs["probabilities"].float_val) == [0.25, 0.75, 0.75, 0.25]
    assert [d.size for d in response.outputs["probabilities"].tensor_shape.dim] == [2, 2]
    assert (response.model_spec.name, response.model_spec.version.value) == ("mood", 7)


def test_default_signature_takes_serialized_examples(stub):
    text = tf.train.Feature(bytes_list=tf.train.BytesList(value=["très good".encode()]))
    example = tf.train.Example(features=tf.train.Features(feature={"text": text})).SerializeToString()
    response = stub.Predict(request(signature="", examples=[example]))
    assert list(response.outputs["label"].string_val) == [b"positive"]
    assert response.model_spec.signature_name == "serving_default"


def test_numeric_tensors_and_scalars(stub):
    x = np.array([[1.5, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
    response = stub.Predict(request("add", x=x, n=np.int64(10)))
    assert tf.make_ndarray(response.outputs["sum"]).tolist() == [[11.5, 12.0], [13.0, 14.0], [15.0, 16.0]]
    assert tf.make_ndarray(response.outputs["count"]).tolist() == 10


def test_empty_batch(stub):
    assert len(stub.Predict(request(text=np.array([], object).astype("S"))).outputs["label"].string_val) == 0


def test_output_filter(stub):
    message = request()
    message.output_filter.append("label")
    assert list(stub.Predict(message).outputs) == ["label"]
    message.output_filter.append("label")
    assert refused(stub.Predict, message)[0] == "INVALID_ARGUMENT"


def test_named_version(stub):
    assert stub.Predict(request(version=7)).model_spec.version.value == 7
    code, details = refused(stub.Predict, request(version=8))
    assert code == "NOT_FOUND" and "Specific(mood, 8)" in details and "version 7" in details


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (request(model="moot"), "NOT_FOUND", ["Servable not found for request: Latest(moot)", "mood"]),
        (request("txet"), "FAILED_PRECONDITION", ['Serving signature key "txet" not found', "text"]),
        (request(texts=["x"]), "INVALID_ARGUMENT", ["Sent extra: {texts}", "Missing but required: {text}"]),
        (request(text=[1, 2]), "INVALID_ARGUMENT", ["input text: expected DT_STRING, got DT_INT32", "version 7"]),
        (request(text="x"), "INVALID_ARGUMENT", ["Attempting to slice scalar input", "signature text"]),
        (request("serving_default", examples=[b"\xff"]), "INVALID_ARGUMENT", ["parse", "signature serving_default"]),
        (PredictRequest(), "INVALID_ARGUMENT", ["Missing ModelSpec"]),
    ],
)
def test_refusals_name_what_is_at_fault(stub, message, code, words):
    if "x" in message.inputs:
        message.inputs["n"].CopyFrom(tf.make_tensor_proto(1, tf.int64))
    actual, details = refused(stub.Predict, message)
    assert actual == code
    assert all(word in details for word in words), details


def test_truncated_tensor_content_is_refused(stub):
    message = request("add", x=[[1.0, 2.0]], n=1)
    message.inputs["n"].CopyFrom(tf.make_tensor_proto(1, tf.int64))
    message.inputs["x"].tensor_content = b"\0\0"
    code, details = refused(stub.Predict, message)
    assert code == "INVALID_ARGUMENT" and "x" in details


# === Metadata and status ===


def test_metadata_holds_the_signatures(stub):
    message = GetModelMetadataRequest(metadata_field=["signature_def"])
    message.model_spec.name = "mood"
    definitions = SignatureDefMap()
    stub.GetModelMetadata(message).metadata["signature_def"].Unpack(definitions)
    assert definitions.signature_def["text"].inputs["text"].dtype == tf.string.as_datatype_enum
    assert {"text", "serving_default", "add"} <= set(definitions.signature_def)
    message.metadata_field[:] = ["weights"]
    assert refused(stub.GetModelMetadata, message) == ("INVALID_ARGUMENT", "Metadata field weights is not supported")


def test_status_of_unknown_model_and_version(served):
    with grpc.insecure_channel(served.address) as channel:
        status = ModelServiceStub(channel).GetModelStatus
        message = GetModelStatusRequest()
        message.model_spec.name = "mood"
        assert [(v.version, v.state) for v in status(message).model_version_status] == [(7, 30)]  # 30: AVAILABLE
        message.model_spec.version.value = 9
        assert refused(status, message) == ("NOT_FOUND", "Could not find version 9 of model mood")
        message.model_spec.name = "moot"
        message.model_spec.ClearField("version")
        assert refused(status, message) == ("NOT_FOUND", "Could not find any versions of model moot")


# === Versions come and go ===


def test_new_version_is_taken_up_without_dropping_a_request(mood_models, tmp_path):
    push(mood_models["good"], tmp_path, 1)
    callers, failures, stop = [[] for _ in range(4)], [], threading.Event()

    def ask(address, labels):
        with Client(address, "mood") as client:
            while not stop.is_set():
                try:
                    labels.append(client.predict(["great"])[0].label)
                except Exception as error:
                    failures.append(error)

    with Server.of(tmp_path, "mood", port=0, polling=Polling(0.05)) as server, Client(server.address, "mood") as client:
        threads = [threading.Thread(target=ask, args=(server.address, labels)) for labels in callers]
        for thread in threads:
            thread.start()
        push(mood_models["great"], tmp_path, 2)
        wait_for(lambda: [(s.version, s.state) for s in client.status()] == [(1, "END"), (2, "AVAILABLE")])
        after = [len(labels) for labels in callers]
        wait_for(lambda: all(len(labels) > known + 5 for labels, known in zip(callers, after, strict=True)))
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert any(labels[0] == "negative" for labels in callers)
    for labels in callers:
        assert labels[-1] == "positive"
        assert labels == sorted(labels), "an answer of the old version came after one of the new one"


def test_version_that_does_not_load_leaves_the_old_one(mood_models, tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    push(mood_models["good"], tmp_path, 1)
    with Server.of(tmp_path, "mood", port=0, polling=Polling(0.05)) as server, Client(server.address, "mood") as client:
        (tmp_path / "2").mkdir()
        (tmp_path / "2" / "saved_model.pb").write_bytes(b"not a model")
        wait_for(lambda: len(client.status()) == 2)
        wait_for(lambda: client.status()[1].state == "END")
        assert "saved_model.pb: not a SavedModel" in client.status()[1].error
        assert client.predict(["good"])[0].label == "positive"
        push(mood_models["great"], tmp_path, 3)
        wait_for(lambda: client.predict(["great"])[0].label == "positive")


def test_a_request_under_way_when_the_server_stops_is_answered(mood_models, tmp_path):
    push(mood_models["good"], tmp_path, 1)
    server = Server.of(tmp_path, "mood", port=0)
    server.start()
    with grpc.insecure_channel(server.address) as channel:
        answer = PredictionServiceStub(channel).Predict.future(request("count", n=np.int64(300_000)))
        wait_for(lambda: in_flight(server) == 1)
        server.stop()
        assert tf.make_ndarray(answer.result().outputs["n"]) == 300_000


def test_a_server_that_stops_under_load_fails_no_request_that_it_took(mood_models, tmp_path):
    push(mood_models["good"], tmp_path, 1)
    server = Server.of(tmp_path, "mood", port=0, rest_port=0)
    server.start()
    url = f"{server.rest_address}/v1/models/mood:predict"
    body = {"signature_name": "text", "instances": ["a good film"]}

    def ask_grpc(_):
        codes = set()
        with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            predict = PredictionServiceStub(channel).Predict
            while True:
                try:
                    predict(request(), timeout=20)
                    codes.add("OK")
                except grpc.RpcError as error:
                    return codes | {error.code().name}

    def ask_rest(_):
        codes = set()
        with httpx.Client() as client:
            while True:
                try:
                    codes.add(client.post(url, json=body).status_code)
                except httpx.TransportError as error:
                    return codes | {type(error).__name__}

    with ThreadPoolExecutor(12) as clients:
        grpc_codes, rest_codes = clients.map(ask_grpc, range(8)), clients.map(ask_rest, range(4))
        time.sleep(1)
        server.stop()
        assert list(grpc_codes) == [{"OK", "UNAVAILABLE"}] * 8  # which clients try again; CANCELLED they do not
        assert list(rest_codes) == [{200, "ConnectError"}] * 4


def test_requests_whose_time_is_up_leave_nothing_behind(served, stub):
    slow = [stub.Predict.future(request("count", n=np.int64(300_000))) for _ in range(os.cpu_count())]
    wait_for(lambda: in_flight(served) == len(slow))
    late = [stub.Predict.future(request("count", n=np.int64(300_000)), timeout=0.05) for _ in range(100)]
    assert {each.code().name for each in late} == {"DEADLINE_EXCEEDED"}
    wait_for(lambda: in_flight(served) <= len(slow))
    # Had the late ones to be run first, this one would wait for half a minute.
    assert list(stub.Predict(request(), timeout=15).outputs["label"].string_val) == [b"positive"]
    assert [tf.make_ndarray(each.result().outputs["n"]) for each in slow] == [300_000] * len(slow)


def test_more_requests_than_it_takes_on(mood_models, tmp_path):
    """Of three requests the third is refused, over gRPC and REST; those that are cancelled make room for others."""
    push(mood_models["good"], tmp_path, 1)
    limits = Limits(max_concurrent_requests=2)
    with (
        Server.of(tmp_path, "mood", port=0, rest_port=0, limits=limits) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = PredictionServiceStub(channel)
        slow = [stub.Predict.future(request("count", n=np.int64(500_000)), timeout=60) for _ in range(2)]
        wait_for(lambda: in_flight(server) == 2)
        code, details = refused(stub.Predict, request())
        assert code == "RESOURCE_EXHAUSTED" and details.startswith("2 requests are in flight")
        body = {"signature_name": "text", "instances": ["good"]}
        answer = httpx.post(f"{server.rest_address}/v1/models/mood:predict", json=body, trust_env=False)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        for call in slow:
            call.cancel()
        wait_for(lambda: in_flight(server) == 0)
        crowd = [stub.Predict.future(request(), timeout=60) for _ in range(2)]
        assert [list(call.result().outputs["label"].string_val) for call in crowd] == [[b"positive"]] * 2


@pytest.mark.parametrize(("end", "code"), [("deadline", "DEADLINE_EXCEEDED"), ("cancel", "CANCELLED")])
def test_a_request_that_nobody_waits_for_is_counted_by_how_it_ended(served, stub, end, code):
    labels = {"model": "mood", "method": "Predict", "entrypoint": "GRPC", "code": code}

    def counted():
        return served.metrics.registry.get_sample_value("bertline_requests_total", labels) or 0

    before = counted()
    answer = stub.Predict.future(request("count", n=np.int64(300_000)), timeout=0.3 if end == "deadline" else 20)
    if end == "cancel":
        wait_for(lambda: in_flight(served) == 1)
        answer.cancel()
    wait_for(lambda: counted() == before + 1)


# === Starting ===


def test_taken_port_is_a_clear_error(served, tmp_path):
    with pytest.raises(UserError, match=rf"cannot listen on 127.0.0.1:{served.port}: .*in use.*--port"):
        Server.of(tmp_path, "mood", port=served.port).start()


def test_address_that_is_not_here_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.1:8500: .*assign"):
        Server.of(tmp_path, "mood", host="192.0.2.1").start()  # an address for documentation, nobody's


def test_listens_on_a_unix_socket(mood_models, tmp_path):
    push(mood_models["good"], tmp_path, 1)
    with (
        Server.of(tmp_path, "mood", port=None, socket_path=str(tmp_path / "grpc")) as server,
        Client(server.address, "mood") as client,
    ):
        assert server.address == f"unix:{tmp_path}/grpc"
        assert client.predict(["good"])[0].label == "positive"


def test_recorded_requests_warm_a_version_and_a_wrong_one_keeps_it_out(mood_models, tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    for version, message in ((1, request(text=["good"])), (2, request("gone", text=["good"]))):
        push(mood_models["good"], tmp_path, version)
        (tmp_path / str(version) / "assets.extra").mkdir()
        with tf.io.TFRecordWriter(str(tmp_path / str(version) / WARMUP_FILE)) as file:
            file.write(PredictionLog(predict_log=PredictLog(request=message)).SerializeToString())
    with Server.of(tmp_path, "mood", port=0) as server, Client(server.address, "mood") as client:
        first, second = client.status()
    assert first.state == "AVAILABLE"
    assert second.error == (
        f"version 2 did not load: {tmp_path}/2/{WARMUP_FILE}: record 1, a predict_log for gone, ends with "
        "FAILED_PRECONDITION"
    )


def test_no_error_of_a_load_quotes_a_recorded_request(mood_models, tmp_path, caplog):
    push(mood_models["good"], tmp_path, 1)
    push(mood_models["good"], tmp_path, 2)
    (tmp_path / "2" / "assets.extra").mkdir()
    # The graph quotes an Example that it cannot parse.
    message = request(signature="", examples=[b"\x0ba customer's words"])
    with tf.io.TFRecordWriter(str(tmp_path / "2" / WARMUP_FILE)) as file:
        file.write(PredictionLog(predict_log=PredictLog(request=message)).SerializeToString())
    with Server.of(tmp_path, "mood", port=0) as server, Client(server.address, "mood") as client:
        error = client.status()[1].error
        with grpc.insecure_channel(server.address) as channel:
            assert "customer" in refused(PredictionServiceStub(channel).Predict, message)[1], "its caller is told"
    assert "record 1, a predict_log for serving_default, ends with INVALID_ARGUMENT" in error
    assert "did not load" in caplog.text and "customer" not in error + caplog.text


def test_broken_only_version_stops_the_start(tmp_path, capsys):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"not a model")
    assert main(["--model_base_path", str(tmp_path), "--model_name", "mood", "--port=-1"]) == 1
    assert f"{tmp_path}/1/saved_model.pb: not a SavedModel" in capsys.readouterr().err


def test_only_a_users_mistake_is_told_without_a_traceback(tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("a fault of ours, or of a library")

    monkeypatch.setattr(Server, "start", fail)
    with pytest.raises(ValueError, match="a fault of ours"):
        main(["--model_base_path", str(tmp_path), "--port=-1"])


def test_older_version_serves_where_the_newest_is_broken(mood_models, tmp_path):
    push(mood_models["good"], tmp_path, 1)
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "saved_model.pb").write_bytes(b"not a model")
    with Server.of(tmp_path, "mood", port=0) as server, Client(server.address, "mood") as client:
        assert client.predict(["good"])[0].label == "positive"


def test_empty_folder_is_waited_for(mood_models, tmp_path):
    with Server.of(tmp_path, "mood", port=0, polling=Polling(0.05)) as server, Client(server.address, "mood") as client:
        push(mood_models["good"], tmp_path, 1)
        assert client.wait_until_ready(20) == 1


def test_process_serves_and_drains_on_sigterm(mood_models, tmp_path):
    push(mood_models["good"], tmp_path, 1)
    command = [
        sys.executable,
        "-P",
        "-m",
        "bertline.serving.server",
        "--model_base_path",
        str(tmp_path),
        "--model_name",
        "mood",
    ]
    process = subprocess.Popen([*command, "--port=-1"], cwd=TOP, stdout=subprocess.PIPE, text=True)
    try:
        *_, address = process.stdout.readline().split()
        with Client(address, "mood") as client:
            assert client.predict(["good"])[0].label == "positive"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()


def test_server_ends_with_the_process_that_started_it(mood_models, tmp_path):
    push(mood_models["good"], tmp_path, 1)
    flags = ["--model_base_path", str(tmp_path), "--model_name", "mood", "--port=-1", "--exit_with_parent"]
    command = ["-P", "-m", "bertline.serving.server", *flags]
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, *{command}], stdout=-1, text=True)\n"
    code += "print(p.pid, p.stdout.readline())"
    parent = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True)
    process, said = parent.stdout.split(maxsplit=1)
    assert said.startswith("serving mood on "), "it was up while its parent was"
    wait_for(lambda: not alive(int(process)))


def in_flight(server):
    return server.metrics.registry.get_sample_value("bertline_requests_in_flight")


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
