"""Hostile input is answered with the right code, and the server goes on answering."""

import json
import socket

import grpc
import httpx
import numpy as np
import pytest
import tensorflow as tf
from factories import save_half_plus_model

from bertline.serving.batching import BatchingOptions
from bertline.serving.limits import Limits
from bertline.serving.protos import PredictionServiceStub, PredictRequest
from bertline.serving.server import Server

LIMITS = Limits(max_request_bytes=1 << 20, max_text_bytes=1000, max_batch_rows=100)


@pytest.fixture(scope="module", params=["one by one", "batched"])
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("half_plus")
    save_half_plus_model(folder / "1")
    batching = BatchingOptions(max_batch_size=100) if request.param == "batched" else None
    with Server.of(
        folder, "half_plus", port=0, rest_port=0, limits=LIMITS, batching=batching, metrics_path="/metrics"
    ) as server:
        yield server


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address, [("grpc.max_send_message_length", -1)]) as channel:
        yield channel


@pytest.fixture
def http(server):
    with httpx.Client(base_url=server.rest_address, trust_env=False, timeout=30) as http:
        yield http


@pytest.fixture(autouse=True)
def alive(server):
    """Whatever a test does, the server answers after it."""
    yield
    with grpc.insecure_channel(server.address) as channel:
        response = PredictionServiceStub(channel).Predict(request([[2.0]]), timeout=20)
        assert tf.make_ndarray(response.outputs["y"]).tolist() == [[3.0]]


def request(x=None, **spec):
    message = PredictRequest()
    message.model_spec.name = "half_plus"
    for name, value in spec.items():
        setattr(message.model_spec, name, value)
    if x is not None:
        message.inputs["x"].CopyFrom(tf.make_tensor_proto(np.asarray(x, np.float32)))
    return message


def refused(channel, message):
    with pytest.raises(grpc.RpcError) as caught:
        PredictionServiceStub(channel).Predict(message, timeout=20)
    return caught.value.code().name, caught.value.details()


def shaped(*sizes, dtype="DT_FLOAT", values=(1.0,)):
    message = request()
    tensor = message.inputs["x"]
    tensor.dtype = tf.dtypes.as_dtype(getattr(tf, {"DT_FLOAT": "float32"}.get(dtype, dtype))).as_datatype_enum
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.extend(values)
    return message


# === gRPC ===


def test_malformed_messages(channel):
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    for junk in (b"\xff\xff\xff", b"\x0a\xff\xff\xff\x0f", b"\0" * 100):
        with pytest.raises(grpc.RpcError) as caught:
            call(junk, timeout=20)
        assert caught.value.code().name == "INVALID_ARGUMENT"
        assert "not a tensorflow.serving.PredictRequest" in caught.value.details()


def test_unknown_method(channel):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/tensorflow.serving.PredictionService/Destroy")(b"", timeout=20)
    assert caught.value.code().name == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (shaped(1 << 20, 1 << 20), "x"),
        (shaped(100, 1 << 40), "x"),
        (shaped(-1, 1), "x"),
        (shaped(1, -5), "x"),
        (shaped(2, 2, values=()), "x"),
        (shaped(1, 1, values=[1.0, 2.0]), "x"),
        (shaped(*[1] * 200), "x"),
        (shaped(101, 1), "101"),
        (shaped(1, dtype="resource"), "x"),
    ],
)
def test_tensors_that_are_not_what_they_say(channel, message, words):
    code, details = refused(channel, message)
    assert code == "INVALID_ARGUMENT" and words in details and "half_plus" in details


def test_dtype_that_does_not_exist(channel):
    message = request([[1.0]])
    message.inputs["x"].dtype = 99
    assert refused(channel, message)[0] == "INVALID_ARGUMENT"


def test_names_of_any_length_do_not_break_the_answer(channel):
    for name in ("x" * 100_000, "\0\n\r", "../../etc/passwd", "🙂" * 1000):
        message = request([[1.0]])
        message.model_spec.name = name
        assert refused(channel, message)[0] == "NOT_FOUND"
        message = request([[1.0]])
        message.model_spec.signature_name = name
        assert refused(channel, message)[0] == "FAILED_PRECONDITION"
        message = request([[1.0]])
        message.output_filter.append(name)
        assert refused(channel, message)[0] == "INVALID_ARGUMENT"


def test_versions_and_labels_that_are_not_there(channel):
    message = request([[1.0]], version_label="beta")
    assert refused(channel, message)[0] == "INVALID_ARGUMENT"
    for version in (0, -1, 2, 2**63 - 1, -(2**63)):
        message = request([[1.0]])
        message.model_spec.version.value = version
        assert refused(channel, message)[0] == "NOT_FOUND"


def test_a_body_of_64_mib(server, channel):
    message = request()
    message.inputs["x"].tensor_content = b"\0" * (64 << 20)
    assert refused(channel, message)[0] == "RESOURCE_EXHAUSTED"
    with raw(server) as connection:
        connection.sendall(b"POST /v1/models/half_plus:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 67108864\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 413"


# === REST ===


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[" * 500_000,
        b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"instances": [[1e999]]}',
        b'{"instances": [["\xed\xa0\x80"]]}',
        b'{"instances": [[1.0]], "signature_name": 5}',
        b'{"instances": {"b64": "!!!"}}',
        b'{"instances": [[1.0], [1.0, 2.0]]}',
        b'{"instances": [[NaN' + b"]" * 10,
        b'{"inputs": null}',
        b"null",
    ],
    ids=lambda body: repr(body[:30]),
)
def test_json_that_is_no_request(http, body):
    answer = http.post("/v1/models/half_plus:predict", content=body)
    assert answer.status_code == 400, answer.text
    assert set(json.loads(answer.text)) == {"error"}


def raw(server):
    connection = socket.create_connection((server.options.host, server.rest_port), timeout=20)
    return connection


@pytest.mark.parametrize(
    ("junk", "status"),
    [(b"\0" * 100, 400), (b"GET\r\n\r\n", 400), (b"POST / HTTP/9.9\r\n\r\n", 404)],
    ids=["zeros", "no path", "HTTP/9.9"],
)
def test_http_that_is_none(server, junk, status):
    with raw(server) as connection:
        connection.sendall(junk)
        assert connection.recv(12) == f"HTTP/1.1 {status}".encode()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["length first", "encoding first"])
def test_two_lengths_of_one_body_are_refused_and_nothing_more_is_read(server, order):
    """A proxy that goes by Content-Length would take the second request for part of another body."""
    lengths = [b"Content-Length: 5\r\n", b"transfer-encoding: chunked\r\n"]
    first = b"POST /v1/models/half_plus:predict HTTP/1.1\r\nHost: x\r\n" + b"".join(lengths[place] for place in order)
    with raw(server) as connection:
        connection.sendall(first + b"\r\n0\r\n\r\nGET /v1/models/half_plus HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while chunk := connection.recv(10_000):
            received += chunk
    assert received.startswith(b"HTTP/1.1 400") and received.count(b"HTTP/1.1") == 1


def test_a_head_without_end_is_cut_off(server):
    with raw(server) as connection, pytest.raises(ConnectionError):  # a server that waits or reads on has no such error
        for _ in range(10_000):
            connection.sendall(b"A" * 1000)


def test_many_slow_clients_do_not_keep_others_out(server, http):
    """As many idle connections as this process may open, up to 500, each with half a request's head."""
    slow = []
    try:
        for _ in range(500):
            connection = raw(server)
            connection.sendall(b"POST /v1/models/half_plus:predict HTTP/1.1\r\nHost: x\r\n")
            slow.append(connection)
        for _ in range(5):
            answer = http.post("/v1/models/half_plus:predict", json={"instances": [[2.0]]})
            assert answer.json() == {"predictions": [[3.0]]}
    finally:
        for connection in slow:
            connection.close()


def test_a_head_that_never_ends_is_closed(server, monkeypatch):
    monkeypatch.setattr("bertline.serving.http.HEAD_SECONDS", 0.5)
    with raw(server) as connection:
        connection.sendall(b"GET /v1/models/half_plus HTTP/1.1\r\n")
        assert connection.recv(100) == b""
    with raw(server) as connection:  # the second request of a kept connection as well
        whole = b"GET /v1/models/half_plus HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.sendall(whole)
        received = connection.recv(10_000)
        connection.sendall(whole[:20])
        while chunk := connection.recv(10_000):
            received += chunk
        assert received.startswith(b"HTTP/1.1 200") and received.count(b"HTTP/1.1") == 1
