"""The log proxy as its callers see it: a process between TF Serving's own stubs and a server."""

import asyncio
import gzip
import json
import queue
import resource
import signal
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import httpx
import pytest
import tensorflow as tf
from factories import save_half_plus_model
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
from test_records import rows
from test_tls import CA, CLIENT, MUTUAL
from test_tls import config as ssl_config

from bertline import Client, ServingError
from bertline.serving import exchanges
from bertline.serving.errors import RequestError
from bertline.serving.limits import Limits
from bertline.serving.log_proxy import ENDING_SIGNALS, LogProxy, ProxyOptions, main
from bertline.serving.models import one_model
from bertline.serving.options import ServerOptions
from bertline.serving.protos import (
    SERVICES,
    ClassificationRequest,
    DataType,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    ModelServiceStub,
    MultiInferenceRequest,
    PredictionServiceServicer,
    PredictRequest,
    PredictResponse,
    RegressionRequest,
    RegressionResponse,
    SignatureDefMap,
    TensorProto,
)
from bertline.serving.recording import RecordOptions
from bertline.serving.server import Server

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
BROKEN = b"\xff\xff\xff"  # no message
NOWHERE = "127.0.0.1:1"
OF_VECTORS = ("embedding", "pieces", "unknown")


class Proxy:
    """A log proxy that runs, and where it is."""

    def __init__(self, process, lines):
        self.process = process
        self.address = lines[0].split()[1]
        self.rest = next((line.split()[2] for line in lines if line.startswith("REST")), None)
        self.metrics = next((line.split()[2] for line in lines if line.startswith("metrics")), None)


@contextmanager
def running(folder, upstream, *flags):
    """A proxy in front of a server, until the block ends; then all of its records are written."""
    command = [sys.executable, "-P", "-m", "bertline.serving.log_proxy", f"--records_folder={folder}"]
    command += [f"--upstream={upstream}", "--port=-1", *flags]
    lines_to_come = 1 + sum("port=-1" in flag for flag in flags)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Proxy(process, [process.stdout.readline() for _ in range(lines_to_come)])
        finally:
            process.terminate()
            assert process.wait(30) == 0


@pytest.fixture(scope="module")
def both(monitored_model, tmp_path_factory):
    """The same requests to a server that keeps records and through a proxy to one that keeps none: answers, records."""
    own, theirs = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("proxied")
    records = RecordOptions(own, texts=True, columns=("shop",))
    half = save_half_plus_model(tmp_path_factory.mktemp("half") / "1").parent
    config = one_model("mood", monitored_model)
    config.model_config_list.config[0].version_labels["stable"] = 7
    config.model_config_list.config.add(name="half", base_path=str(half), model_platform="tensorflow")
    options = ServerOptions(models=config, port=0, rest_port=0, labels_in_advance=True)
    answers = {}
    with Server(replace(options, records=records)) as server:
        answers["server"] = asked(server.address, server.rest_address)
    flags = ["--rest_api_port=-1", "--metrics_port=-1", "--records_texts", "--records_columns=shop"]
    with (
        Server(options) as behind,
        running(theirs, behind.address, f"--rest_upstream={behind.rest_address}", *flags) as proxy,
    ):
        answers["proxy"] = asked(proxy.address, proxy.rest)
        answers["metrics"] = httpx.get(proxy.metrics).text
        answers["status"] = [httpx.get(f"{rest}/v1/models/mood").text for rest in (proxy.rest, behind.rest_address)]
    return answers, {"server": rows(own), "proxy": rows(theirs)}


def of_texts(texts, *wanted, signature="text"):
    request = PredictRequest(output_filter=wanted)
    request.model_spec.name, request.model_spec.signature_name = "mood", signature
    request.inputs["text"].CopyFrom(tf.make_tensor_proto(texts))
    return request


def of_example(**features):
    each = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for name, value in features.items()}
    request = PredictRequest()
    request.model_spec.name = "mood"
    example = tf.train.Example(features=tf.train.Features(feature=each))
    request.inputs["examples"].CopyFrom(tf.make_tensor_proto([example.SerializeToString()]))
    return request


def by_label(request):
    request.model_spec.version_label = "stable"
    return request


def of_numbers():
    """Method -> its request about the tf.Example x = 4, as bytes."""
    example = tf.train.Example()
    example.features.feature["x"].float_list.value.append(4)
    examples, spec = {"example_list": {"examples": [example]}}, {"name": "half"}
    tasks = [
        {"model_spec": spec | {"signature_name": name}, "method_name": f"tensorflow/serving/{name}"}
        for name in ("classify", "regress")
    ]
    requests = {
        "Classify": ClassificationRequest(model_spec=tasks[0]["model_spec"], input=examples),
        "Regress": RegressionRequest(model_spec=tasks[1]["model_spec"], input=examples),
        "MultiInference": MultiInferenceRequest(tasks=tasks, input=examples),
    }
    return {method: request.SerializeToString() for method, request in requests.items()}


def asked(address, rest):
    """Name -> answer, or the code and words of a refusal; and the ids that the caller was told."""
    requests = {
        "by label": by_label(of_texts(["good by label"])),
        "one": of_texts(["good, write to jane@example.com"]),
        "two": of_texts(["bad", "good!"]),
        "label": of_texts(["only its label"], "label"),
        "example": of_example(text=b"good", shop=b"call 020 7946 0958"),
        "no signature": of_texts(["good"], signature="none"),
        "no output": of_texts(["good"], "nothing"),
        "no model": PredictRequest(model_spec={"name": "other"}),
    }
    answers, ids = {}, {}
    with grpc.insecure_channel(address) as channel:
        stub = PredictionServiceStub(channel)
        for name, request in requests.items():
            try:
                answers[name], call = stub.Predict.with_call(
                    request, metadata=[("x-request-id", name.replace(" ", "-"))]
                )
            except grpc.RpcError as error:
                answers[name], call = (error.code(), error.details()), error
            ids[name] = dict(call.trailing_metadata()).get("x-request-id")
        for method, message in of_numbers().items():
            answers[method] = channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")(
                message, metadata=[("x-request-id", method)]
            )
        metadata = GetModelMetadataRequest(model_spec={"name": "mood"}, metadata_field=["signature_def"])
        answers["metadata"] = stub.GetModelMetadata(metadata)
        answers["versions"] = ModelServiceStub(channel).GetModelStatus(
            GetModelStatusRequest(model_spec={"name": "mood"})
        )
    rows = json.dumps({"signature_name": "text", "instances": [{"text": "a row"}]}).encode()
    bodies = {
        "columns": json.dumps({"signature_name": "text", "inputs": ["over rest", "good"]}).encode(),
        "rows": rows,
        "refused": json.dumps({"signature_name": "none", "inputs": ["over rest"]}).encode(),
        "no json": b"{",
        "packed": gzip.compress(rows),
        "chunks": (bytes([each]) for each in rows),
    }
    for name, content in bodies.items():
        headers = {"x-request-id": name, "accept-encoding": "gzip"}
        headers |= {"content-encoding": "gzip"} if name == "packed" else {}
        answer = httpx.post(f"{rest}/v1/models/mood/labels/stable:predict", content=content, headers=headers)
        answers[name], ids[name] = (answer.status_code, answer.content), answer.headers.get("x-request-id")
    numbers = {"signature_name": "classify", "examples": [{"x": 4.0}]}
    for method in ("classify", "regress"):
        headers = {"x-request-id": f"rest-{method}"}
        body = numbers | {"signature_name": method}
        answer = httpx.post(f"{rest}/v1/models/half:{method}", json=body, headers=headers)
        answers[f"rest {method}"] = answer.status_code, answer.content
    return answers, ids


def test_answers_are_those_of_the_server_behind(both):
    (directly, _), (through, _) = both[0]["server"], both[0]["proxy"]
    assert directly == through
    assert [directly[name][0] for name in ("rows", "packed", "chunks", "rest classify", "rest regress")] == [200] * 5
    assert directly["refused"][0] == 400 and json.loads(directly["refused"][1])["error"]
    assert RegressionResponse.FromString(through["Regress"]).result.regressions[0].value == 4.0
    assert directly["one"].outputs["label"].string_val == [b"positive"] and directly["columns"][0] == 200
    assert set(through["label"].outputs) == {"label"} and through["label"].model_spec.signature_name == "text"
    assert through["no output"][0] == grpc.StatusCode.INVALID_ARGUMENT and "monitored" not in through["no output"][1]
    assert both[0]["status"][0] == both[0]["status"][1]


def test_callers_are_told_the_ids_of_their_records(both):
    _, ids = both[0]["proxy"]
    assert ids == {name: name.replace(" ", "-") if name != "no json" else ids["no json"] for name in ids}
    assert {record["id"] for record in both[1]["proxy"]} >= {"one", "two-0", "two-1", "columns-0", "rows"}


def test_records_are_those_that_the_embedded_server_keeps(both):
    def answered(records, skipped=()):
        kept = [record for record in records if record["status"] == "OK"]
        left_out = ("time", "milliseconds", *skipped)
        return {record["id"]: {k: v for k, v in record.items() if k not in left_out} for record in kept}

    own, theirs = both[1]["server"], both[1]["proxy"]
    by_id = answered(own, OF_VECTORS)
    assert len(by_id) == 13 and by_id == answered(theirs, OF_VECTORS)
    over_grpc = [record for record in theirs if record["id"] in ("one", "two-0", "two-1", "label", "by-label")]
    assert len(over_grpc) == 5
    assert {r["id"]: [r[name] for name in OF_VECTORS] for r in over_grpc} == {
        record["id"]: [record[name] for name in OF_VECTORS] for record in own if record["id"] in answered(over_grpc)
    }
    assert answered(theirs)["one"]["text"] == "good, write to <EMAIL_ADDRESS>"
    assert answered(theirs)["example"]["columns"] == [("shop", "call <PHONE_NUMBER>")]


def test_refused_requests_have_records_of_their_status_and_strangers_models_none(both):
    def failed(records):
        return {record["id"]: record["status"] for record in records if record["status"] != "OK"}

    own, theirs = (failed(both[1][which]) for which in ("server", "proxy"))
    assert {own.pop((own.keys() - theirs).pop()), theirs.pop((theirs.keys() - own).pop())} == {"INVALID_ARGUMENT"}
    assert own == theirs
    assert theirs["no-signature"] == "FAILED_PRECONDITION" and "no-model" not in theirs


def test_the_proxy_has_metrics_of_its_own(both):
    metrics = both[0]["metrics"]
    assert 'bertline_log_proxy_requests_total{code="OK",entrypoint="GRPC",method="Predict"} 5.0' in metrics
    assert 'bertline_log_proxy_requests_total{code="OK",entrypoint="REST",method="Predict"} 4.0' in metrics
    assert "bertline_log_proxy_seconds_count" in metrics and "bertline_records_written_total 0.0" in metrics


# === Everything passes ===


class Behind(PredictionServiceServicer):
    """A server that does what the request's header says."""

    def __init__(self):
        self.headers, self.seconds_left = {}, None
        self.arrived, self.released, self.ended = threading.Event(), threading.Event(), threading.Event()

    def GetModelMetadata(self, request, context):
        """Of a model with vectors."""
        if request.model_spec.name != "vectors":
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no metadata")
        signatures = SignatureDefMap()
        for name in ("text", "monitored"):
            signatures.signature_def[name].inputs["text"].name = f"{name}:0"
            signatures.signature_def[name].outputs["label"].name = f"{name}:1"
        answer = GetModelMetadataResponse(model_spec={"name": "vectors", "version": {"value": 1}})
        answer.metadata["signature_def"].Pack(signatures)
        return answer

    def Predict(self, request, context):
        if request.model_spec.signature_name == "monitored":
            return BROKEN
        self.headers, self.seconds_left = dict(context.invocation_metadata()), context.time_remaining()
        context.send_initial_metadata([("began", "now")])
        context.set_trailing_metadata([("cost", "3"), ("detail-bin", b"\x00\xff")])
        if "held" in self.headers:
            context.add_callback(self.ended.set)
            self.arrived.set()
            self.released.wait(60)
        if "refuse" in self.headers:
            context.abort(grpc.StatusCode.DATA_LOSS, "lost, and in these wörds")
        return PredictResponse(model_spec=request.model_spec, outputs=request.inputs)

    def Classify(self, request, context):
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no classes")


def talk(messages, context):
    """Answers bytes with the same bytes from the end, and ends with what the caller's header said."""
    for message in messages:
        yield message[::-1]
    context.set_trailing_metadata([("ended", "well")])
    yield dict(context.invocation_metadata())["mood"].encode()


@pytest.fixture
def behind(tmp_path):
    """What stands behind the proxy, and stubs of the proxy in front of it, which keeps vectors of no model."""
    servicer = Behind()
    server = grpc.server(ThreadPoolExecutor(8), options=UNLIMITED)
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method),
            request.FromString,
            lambda answer: answer if isinstance(answer, bytes) else answer.SerializeToString(),
        )
        for method, (request, _) in SERVICES["PredictionService"].items()
    }
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", handlers)]
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("other.Service", {"Talk": grpc.stream_stream_rpc_method_handler(talk)})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with (
        running(tmp_path / "records", f"127.0.0.1:{port}") as servicer.proxy,
        grpc.insecure_channel(servicer.proxy.address, options=UNLIMITED) as channel,
    ):
        yield servicer, PredictionServiceStub(channel), channel
        servicer.released.set()
    server.stop(0)


def test_metadata_deadline_codes_and_trailers_pass(behind):
    servicer, stub, channel = behind
    request = of_texts(["good"])
    _, call = stub.Predict.with_call(request, timeout=50, metadata=[("shop", "north"), ("trace-bin", b"\x01\xfe")])
    assert servicer.headers["shop"] == "north" and servicer.headers["trace-bin"] == b"\x01\xfe"
    assert 40 < servicer.seconds_left < 50
    assert ("began", "now") in call.initial_metadata()
    assert {("cost", "3"), ("detail-bin", b"\x00\xff")} <= set(call.trailing_metadata())
    with pytest.raises(grpc.RpcError) as refused:
        stub.Predict(request, metadata=[("refuse", "yes")])
    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.DATA_LOSS, "lost, and in these wörds")
    assert ("cost", "3") in refused.value.trailing_metadata()
    with pytest.raises(grpc.RpcError) as refused:
        stub.Classify(ClassificationRequest())
    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.UNIMPLEMENTED, "no classes")
    with pytest.raises(grpc.RpcError) as refused:
        stub.GetModelMetadata(GetModelMetadataRequest())
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    garbage = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpc.RpcError, match="Exception deserializing request!"):
        garbage(b"\xff\xff\xff")  # in the words of the server behind


def test_a_fault_of_the_proxys_own_is_in_nobodys_way(behind, tmp_path):
    servicer, stub, _ = behind
    request = of_texts(["good"])
    request.model_spec.name = "vectors"
    assert stub.Predict(request).outputs["text"] == request.inputs["text"]
    servicer.proxy.process.terminate()
    servicer.proxy.process.wait(20)
    (record,) = rows(tmp_path / "records")
    assert (record["model"], record["status"], record["characters"]) == ("vectors", "OK", 4)


def test_methods_that_nobody_knows_pass_byte_for_byte(behind):
    """As a stream both ways, which is not ended before it is answered; gRPC knows no difference on the wire."""
    _, _, channel = behind
    messages = queue.SimpleQueue()
    talk = channel.stream_stream("/other.Service/Talk")(iter(messages.get, None), metadata=[("mood", "good")])
    for message in (BROKEN, b"", b"x" * (5 << 20)):
        messages.put(message)
        assert next(talk) == message[::-1]
    messages.put(None)
    assert list(talk) == [b"good"] and ("ended", "well") in talk.trailing_metadata()
    for _ in range(20):
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/other.Service/Walk")(BROKEN)
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    reflecting = channel.stream_stream("/other.Service/Reflect")(iter(messages.get, None))
    messages.put(BROKEN)
    with pytest.raises(grpc.RpcError) as refused:
        next(reflecting)
    messages.put(None)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_large_messages_pass_and_a_caller_who_goes_is_gone_behind_too(behind):
    servicer, stub, _ = behind
    large = of_texts([b"x" * (20 << 20)])
    assert stub.Predict(large).outputs["text"] == large.inputs["text"]
    gone = stub.Predict.future(of_texts(["good"]), metadata=[("held", "yes")])
    assert servicer.arrived.wait(30)
    gone.cancel()
    assert servicer.ended.wait(30)  # though it is still held


def test_sigterm_answers_what_is_in_flight_and_refuses_the_next(behind):
    servicer, stub, _ = behind
    waiting = stub.Predict.future(of_texts(["good"]), metadata=[("held", "yes")])
    assert servicer.arrived.wait(30)
    servicer.proxy.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.RpcError) as refused:
        while stub.Predict(of_texts(["bad"])):  # until the signal has reached it
            time.sleep(0.01)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    servicer.released.set()
    assert waiting.result(30).outputs["text"].string_val == [b"good"]
    assert servicer.proxy.process.wait(20) == 0


def test_health_passes_through_and_streams(mood_models, tmp_path):
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "7").symlink_to(mood_models["good"])
    with (
        Server.of(tmp_path / "serving", "mood", port=0) as server,
        running(tmp_path / "records", server.address) as proxy,
        grpc.insecure_channel(proxy.address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watched = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        with Client(proxy.address, "mood") as client:
            assert client.wait_until_ready(5) == 7
            (answer,) = client.predict(["good"])
        server.stop(1)  # the call that watches has no end of its own
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
    (record,) = rows(tmp_path / "records")
    assert (record["id"], record["label"], record["version"]) == (answer.id, "positive", 7)
    assert (record["embedding"], record["text"]) == (None, None)  # a model without vectors, and texts not wanted


def test_a_new_version_is_recorded_as_such(mood_models, monitored_model, tmp_path):
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "7").symlink_to(monitored_model / "7")
    with (
        Server.of(tmp_path / "serving", "mood", port=0) as server,
        running(tmp_path / "records", server.address) as proxy,
        Client(proxy.address, "mood") as client,
    ):
        client.predict(["good"])
        (tmp_path / "serving" / "8").symlink_to(mood_models["great"])
        while client.predict(["great"])[0].version != 8:
            time.sleep(0.1)
    first, *_, last = rows(tmp_path / "records")
    assert (first["version"], first["embedding"]) == (7, [4.0, 1.0])
    assert (last["version"], last["embedding"], last["label"]) == (8, None, "positive")


def test_a_server_that_is_not_there_is_said_in_its_own_words(tmp_path):
    flags = ["--rest_api_port=-1", f"--rest_upstream=http://{NOWHERE}"]
    with running(tmp_path, NOWHERE, *flags) as proxy:
        with grpc.insecure_channel(NOWHERE) as channel, pytest.raises(grpc.RpcError) as directly:
            PredictionServiceStub(channel).Predict(of_texts(["good"]), timeout=5)
        with grpc.insecure_channel(proxy.address) as channel, pytest.raises(grpc.RpcError) as through:
            PredictionServiceStub(channel).Predict(of_texts(["good"]), timeout=5)
        assert through.value.code() == grpc.StatusCode.UNAVAILABLE
        assert through.value.details() == directly.value.details()
        with Client(proxy.address, "mood") as client, pytest.raises(ServingError, match="no model server answers"):
            client.status()
        answer = httpx.get(f"{proxy.rest}/v1/models/mood")
        assert answer.status_code == 503
        assert f"the server behind the log proxy, http://{NOWHERE}, does not answer" in answer.json()["error"]


def test_signals_stay_the_proxys_own_while_rest_answers(tmp_path):
    async def answered():
        proxy = LogProxy(ProxyOptions(NOWHERE, RecordOptions(tmp_path), f"http://{NOWHERE}", port=0, rest_port=0))
        _, rest = await proxy.start()
        async with httpx.AsyncClient() as client:
            status = (await client.get(f"{rest.split()[2]}/v1/models/mood")).status_code
        handlers = [signal.getsignal(number) for number in ENDING_SIGNALS]
        await proxy.stop()
        return status, handlers

    before = [signal.getsignal(number) for number in ENDING_SIGNALS]
    with asyncio.Runner() as runner:  # whose run would take SIGINT
        loop = runner.get_loop()
        assert loop.run_until_complete(answered()) == (503, before)


# === What a record may take ===

OPTIONS = RecordOptions(Path())


def claiming(dtype, shape, **values):
    """A request for a tensor of a few bytes on the wire."""
    request = PredictRequest()
    request.inputs["text"].CopyFrom(TensorProto(dtype=dtype, **values))
    for size in shape:
        request.inputs["text"].tensor_shape.dim.add(size=size)
    return request


@pytest.mark.parametrize(
    "request_",
    [
        claiming(DataType.DT_STRING, [1 << 30], string_val=[b"a"]),
        claiming(DataType.DT_STRING, [30_000], string_val=[b"a"]),
        claiming(DataType.DT_STRING, [1000], string_val=[b"a" * 50_000]),
        claiming(DataType.DT_FLOAT, [1, 1 << 30], float_val=[1.0]),
    ],
    ids=["strings", "rows", "long", "numbers"],
)
@pytest.mark.parametrize("answer", [None, b""], ids=["refused", "answered"])
def test_a_tensor_that_claims_more_than_it_sends_is_not_read(request_, answer):
    assert request_.ByteSize() < 100_000
    with limited_memory(), pytest.raises(RequestError, match="the most"):
        exchanges.predicted(request_, answer, OPTIONS, False)


def test_an_answer_and_a_context_that_claim_more_than_they_send_are_not_read():
    answer = PredictResponse(outputs=claiming(DataType.DT_DOUBLE, [1, 1 << 30], double_val=[1.0]).inputs)
    with limited_memory(), pytest.raises(RequestError, match="the most"):
        exchanges.predicted(of_texts(["good"]), answer.SerializeToString(), OPTIONS, False)
    request = ClassificationRequest()
    listed = request.input.example_list_with_context
    listed.context.features.feature["note"].bytes_list.value.append(b"a" * (1 << 20))
    for _ in range(1000):
        listed.examples.add()
    with limited_memory(), pytest.raises(RequestError, match="the most"):
        exchanges.classified(request, None, OPTIONS, False)


def test_a_short_list_within_the_limit_repeats_its_last_value():
    kept = exchanges.predicted(claiming(DataType.DT_STRING, [3], string_val=[b"a", b"bc"]), None, OPTIONS, False)
    assert kept["characters"] == [1, 2, 2]


@contextmanager
def limited_memory(spare=256 << 20):
    """The process may grow by so many bytes until the block ends, so that a limit that fails is an error, and not a
    machine without memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_bodies_are_read_within_the_limit_and_pass_as_they_came(mood_models, tmp_path):
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "7").symlink_to(mood_models["good"])
    body = json.dumps({"signature_name": "text", "inputs": ["good"]}).encode()
    large, long = (body[:-1] + b" " * size + b"}" for size in (40 << 20, 3 << 20))
    with (
        Server.of(
            tmp_path / "serving", "mood", port=0, rest_port=0, limits=Limits(max_request_bytes=64 << 20)
        ) as behind,
        running(
            tmp_path / "records",
            behind.address,
            f"--rest_upstream={behind.rest_address}",
            "--rest_api_port=-1",
            "--metrics_port=-1",
        ) as proxy,
    ):
        for name, encoding, content in (
            ("plain", "identity", body),
            ("packed", "X-GZip", gzip.compress(body)),
            ("large", "gzip", gzip.compress(large, 1)),
            ("long", "identity", long),
            ("in chunks", "identity", iter([long[:9], long[9:]])),
        ):
            headers = {"content-encoding": encoding, "x-request-id": name}
            answer = httpx.post(f"{proxy.rest}/v1/models/mood:predict", content=content, headers=headers, timeout=60)
            assert answer.status_code == 200, answer.text
            assert ("x-request-id" in answer.headers) == (name not in ("long", "in chunks"))
        with Client(proxy.address, "mood") as client:
            assert client.predict(["good" * 100_000] * 3)[1].label == "positive"
        metrics = httpx.get(proxy.metrics).text
        while 'bertline_records_dropped_total{reason="not_read"} 1.0' not in metrics:
            time.sleep(0.05)
            metrics = httpx.get(proxy.metrics).text
        assert 'bertline_records_dropped_total{reason="too_large"} 3.0' in metrics
    assert {record["id"]: record["characters"] for record in rows(tmp_path / "records")} == {"plain": 4, "packed": 4}


class Packing(BaseHTTPRequestHandler):
    """REST that answers each text with gzip: of 40 MB to the request `large`, and in 3 MB to the request `long`."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        name = self.headers["x-request-id"]
        spaces, level = b" " * {"large": 40 << 20, "long": 3 << 20}.get(name, 0), 0 if name == "long" else 1
        body = gzip.compress(b'{"outputs": {"classes": [["a"]], "probabilities": [[1.0]]' + spaces + b"}}", level)
        self.send_response(200)
        for name, value in (("Content-Encoding", "x-gzip"), ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Nothing."""


def test_packed_answers_are_read_within_the_limit(mood_models, tmp_path):
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "7").symlink_to(mood_models["good"])
    rest = HTTPServer(("127.0.0.1", 0), Packing)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    flags = [f"--rest_upstream=http://127.0.0.1:{rest.server_port}", "--rest_api_port=-1"]
    with (
        Server.of(tmp_path / "serving", "mood", port=0) as behind,
        running(tmp_path / "records", behind.address, *flags) as proxy,
    ):
        for name in ("large", "long", "small"):
            body, headers = {"signature_name": "text", "inputs": ["good"]}, {"x-request-id": name}
            url = f"{proxy.rest}/v1/models/mood:predict"
            with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as answer:
                size = int(answer.headers["content-length"])
                assert answer.status_code == 200 and len(b"".join(answer.iter_raw())) == size
                assert (size > 3 << 20) == (name == "long") == ("x-request-id" not in answer.headers)
    rest.shutdown()
    rest.server_close()
    assert [(record["id"], record["classes"]) for record in rows(tmp_path / "records")] == [("small", ["a"])]


# === TLS ===


def test_tls_on_both_sides(mood_models, tmp_path):
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "7").symlink_to(mood_models["good"])
    files = {"ca": CA.certificate, "certificate": CLIENT.certificate, "key": CLIENT.key()}
    for name, text in files.items():
        (tmp_path / f"{name}.pem").write_text(text)
    (tmp_path / "tls.txt").write_text(str(ssl_config()))
    flags = [
        f"--upstream_{name}={tmp_path}/{file}.pem"
        for name, file in (("ca", "ca"), ("client_certificate", "certificate"), ("client_key", "key"))
    ]
    trusted = {"verify": ssl.create_default_context(cadata=CA.certificate)}
    body = {"signature_name": "text", "instances": ["good"]}
    with (
        Server.of(tmp_path / "serving", "mood", port=0, rest_port=0, tls=ssl_config(**MUTUAL)) as behind,
        running(
            tmp_path / "records",
            behind.address,
            f"--rest_upstream={behind.rest_address}",
            "--rest_api_port=-1",
            f"--ssl_config_file={tmp_path}/tls.txt",
            *flags,
        ) as proxy,
    ):
        assert behind.rest_address.startswith("https") and proxy.rest.startswith("https")
        with Client(proxy.address, "mood", tls=CA.certificate.encode()) as client:
            assert client.predict(["good"])[0].label == "positive"
        answer = httpx.post(f"{proxy.rest}/v1/models/mood:predict", json=body, **trusted)
        assert answer.json()["predictions"][0]["label"] == "positive"
    assert len(rows(tmp_path / "records")) == 2


def test_a_file_for_tls_that_cannot_be_used_is_named(tmp_path, capsys):
    (tmp_path / "empty.pem").touch()
    flags = [f"--records_folder={tmp_path}", "--upstream=a:1", "--port=-1"]
    assert main([*flags, f"--upstream_ca={tmp_path}/absent.pem"]) == 1
    assert "absent.pem cannot be read" in capsys.readouterr().err
    assert main([*flags, f"--upstream_ca={tmp_path}/empty.pem"]) == 1
    assert "empty.pem: not certificates, in PEM form" in capsys.readouterr().err


# === Flags ===


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--upstream=a:1"], "give --records_folder"),
        (["--upstream=a:1", "--records_folder=r", "--rest_api_port=-1"], "REST takes both"),
        (
            ["--upstream=a:1", "--records_folder=r", "--rest_api_port=-1", "--rest_upstream=ftp://a:1"],
            "is http://HOST",
        ),
        (["--upstream=a:1", "--records_folder=r", "--upstream_client_key=k"], "mutual TLS takes both"),
        (["--upstream=a:1", "--records_folder=r", "--upstream_server_name=s"], "are for TLS: give --upstream_ca"),
        (["--upstream=a:1", "--records_folder=r", "--port=0"], "--port=0 listens on no port"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, words, capsys):
    with pytest.raises(SystemExit):
        main(flags)
    assert words in capsys.readouterr().err


def test_what_cannot_be_written_is_said_at_the_start(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["--upstream=a:1", f"--records_folder={tmp_path}/file/records", "--port=-1"]) == 1
    assert "file/records: no records can be written there" in capsys.readouterr().err
    assert main(["--upstream=a:1", f"--records_folder={tmp_path}", "--records_rate=2", "--port=-1"]) == 1
    assert "the rate of records must be from 0 to 1" in capsys.readouterr().err
