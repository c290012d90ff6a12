import asyncio
import re
import subprocess
import sys
import threading
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import httpx
import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from test_tls import CA, CLIENT, SERVER, STRANGER

from bertline.serving.client import AsyncClient, Client, ServingError
from bertline.serving.protos import (
    DataType,
    ModelServiceServicer,
    PredictionServiceServicer,
    PredictResponse,
    add_ModelServiceServicer_to_server,
    add_PredictionServiceServicer_to_server,
)
from bertline.serving.server import Server

FLOAT, STRING = DataType.DT_FLOAT, DataType.DT_STRING


class Recorder(PredictionServiceServicer, ModelServiceServicer):
    """Calls every text itself with 0.75, and "other" with 0.25; first fails with the codes it was given, if any."""

    def __init__(self):
        self.requests, self.headers = [], []
        self.codes = []
        self.refused = None  # a text it does not take
        self.seconds = 0.0
        self.as_content = False
        self.under_way = self.most_under_way = self.cancelled = 0
        self.lock = threading.Lock()

    def Predict(self, request, context):
        with self.lock:
            self.requests.append(request)
            self.headers.append(dict(context.invocation_metadata()))
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            code = self.codes.pop(0) if self.codes else None
        try:
            if code:
                context.abort(code, "said the recorder")
            if self.refused in request.inputs["text"].string_val:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not that one")
            time.sleep(self.seconds)
            self.cancelled += not context.is_active()
            return self.answer(request.inputs["text"].string_val)
        finally:
            with self.lock:
                self.under_way -= 1

    def GetModelStatus(self, request, context):
        self.requests.append(request)
        context.abort(self.codes[0], "said the recorder")

    def answer(self, texts):
        response = PredictResponse()
        response.model_spec.version.value = 7
        classes = [name for text in texts for name in (text, b"other")]
        self.set_strings(response.outputs["label"], list(texts), [len(texts)])
        self.set_strings(response.outputs["classes"], classes, [len(texts), 2])
        probabilities = array("f", [0.75, 0.25] * len(texts))
        response.outputs["probabilities"].dtype = FLOAT
        if self.as_content:
            response.outputs["probabilities"].tensor_content = probabilities.tobytes()
        else:
            response.outputs["probabilities"].float_val.extend(probabilities)
        return response

    def set_strings(self, proto, values, shape):
        proto.dtype = STRING
        for size in shape:
            proto.tensor_shape.dim.add(size=size)
        if self.as_content:  # every length here fits a byte
            proto.tensor_content = bytes(len(value) for value in values) + b"".join(values)
        else:
            proto.string_val.extend(values)

    def texts(self, name="text"):
        return [[value.decode() for value in request.inputs[name].string_val] for request in self.requests]


@contextmanager
def listening(service, credentials=None):
    server = grpc.server(ThreadPoolExecutor(16))
    add_PredictionServiceServicer_to_server(service, server)
    add_ModelServiceServicer_to_server(service, server)
    where = "127.0.0.1:0"
    port = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


@pytest.fixture
def recorder():
    service = Recorder()
    with listening(service) as service.address:
        yield service


def run(method, address, *arguments, model="mood", call=None, **settings):
    with Client(address, model, **settings) as client:
        return getattr(client, method)(*arguments, **call or {})


def run_async(method, address, *arguments, model="mood", call=None, **settings):
    client = AsyncClient(address, model, **settings)  # outside the event loop, as a module may make it

    async def main():
        async with client:
            return await getattr(client, method)(*arguments, **call or {})

    return asyncio.run(main())


@pytest.fixture(params=[run, run_async], ids=["sync", "asyncio"])
def ask(request):
    """A method of either client: ask("predict", address, texts, ..., call={this call's}, **the client's settings)."""
    return request.param


@pytest.fixture
def predict(ask):
    return partial(ask, "predict")


# === Splitting, order, concurrency ===


def test_answers_keep_the_order_of_the_texts(recorder, predict):
    texts = ["ccc", "a", "ccccc", "bb", "d" * 7, "ç"]
    predictions = predict(recorder.address, texts, batch_size=2)
    assert [prediction.label for prediction in predictions] == texts
    assert predictions[0].probability == 0.75
    assert predictions[0].probabilities == {"ccc": 0.75, "other": 0.25}
    assert predictions[0].version == 7


def test_texts_of_like_length_go_together_the_longest_first(recorder, predict):
    predict(recorder.address, ["ccc", "a", "ccccc", "bb", "d" * 7], batch_size=2, concurrency=1)
    assert recorder.texts() == [["d" * 7, "ccccc"], ["ccc", "bb"], ["a"]]


def test_pairs_go_with_their_texts_and_count_in_the_length(recorder, predict):
    predict(recorder.address, ["a", "b", "c"], ["x", "yyy", "zz"], batch_size=2, concurrency=1)
    assert recorder.texts() == [["b", "c"], ["a"]]
    assert recorder.texts("text_pair") == [["yyy", "zz"], ["x"]]
    with pytest.raises(ValueError, match="2 texts and 1 pairs"):
        predict(recorder.address, ["a", "b"], ["x"])


def test_several_requests_are_under_way_at_once(recorder, predict):
    recorder.seconds = 0.1
    assert len(predict(recorder.address, map(str, range(12)), batch_size=1, concurrency=3)) == 12
    assert recorder.most_under_way == 3
    assert len(recorder.requests) == 12


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ("a", "texts must be a list of strings, not one string"),
        (["a", None], r"texts\[1\] is None, not a string"),
        (["a", b"b"], r"texts\[1\] is b'b', not a string"),
        (["a", "\ud83d"], r"texts\[1\] is not valid Unicode"),
    ],
)
def test_what_is_no_list_of_texts_is_refused_before_anything_is_sent(recorder, predict, texts, words):
    assert predict(recorder.address, []) == []
    with pytest.raises(ValueError, match=words):
        predict(recorder.address, texts, batch_size=1)
    assert recorder.requests == []


@pytest.mark.parametrize("name", ["batch_size", "concurrency"])
def test_settings_must_be_positive(predict, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        predict("127.0.0.1:1", ["a"], **{name: 0})


# === Model, version, signature ===


def spec_sent(recorder):
    spec = recorder.requests[-1].model_spec
    choice = spec.WhichOneof("version_choice")
    return spec.name, spec.signature_name, choice and (spec.version_label or spec.version.value)


@pytest.mark.parametrize(
    ("settings", "call", "sent"),
    [
        ({}, {}, ("mood", "text", None)),
        ({"version": 3}, {}, ("mood", "text", 3)),
        ({"version": 3}, {"version": 4}, ("mood", "text", 4)),
        ({"version": 3}, {"version_label": "stable"}, ("mood", "text", "stable")),
        ({"version_label": "stable"}, {}, ("mood", "text", "stable")),
        ({"version_label": "stable"}, {"version": 4}, ("mood", "text", 4)),
        ({"signature": "long"}, {}, ("mood", "long", None)),
        ({"signature": "long"}, {"signature": "short"}, ("mood", "short", None)),
    ],
)
def test_the_calls_version_and_signature_come_before_the_clients(recorder, predict, settings, call, sent):
    predict(recorder.address, ["a"], call=call, **settings)
    assert spec_sent(recorder) == sent


def test_a_version_beside_a_label_is_refused(predict):
    with pytest.raises(ValueError, match=r"a version \(3\) or a version_label \('stable'\), not both"):
        predict("127.0.0.1:1", ["a"], version=3, version_label="stable")


# === Reading answers ===


def test_reads_tensor_content_too(recorder, predict):
    """As of tensorflow_model_server --enable_serialization_as_tensor_content."""
    recorder.as_content = True
    predictions = predict(recorder.address, ["a", "", "ç"])
    assert [prediction.label for prediction in predictions] == ["a", "", "ç"]
    assert predictions[2].probabilities == {"ç": 0.75, "other": 0.25}


def test_says_what_a_model_abstains_from(recorder, predict):
    assert predict(recorder.address, ["a"])[0].abstained is None  # it always answers
    answer = recorder.answer

    def abstaining(texts):
        response = answer(texts)
        marks = [text == b"a" for text in texts]
        proto = response.outputs["abstained"]
        if recorder.as_content:
            proto.tensor_content = bytes(marks)
        else:
            proto.bool_val.extend(marks)
        return response

    recorder.answer = abstaining
    for recorder.as_content in (False, True):
        assert [prediction.abstained for prediction in predict(recorder.address, ["a", "bb"])] == [True, False]


def label_sets(recorder):
    """Makes the recorder answer as a multi-label model: "a" gets both labels, any other text none."""
    answer = recorder.answer

    def several(texts):
        response = answer(texts)
        del response.outputs["label"]
        marks = [has for text in texts for has in [text == b"a"] * 2]
        proto = response.outputs["assigned"]
        if recorder.as_content:
            proto.tensor_content = bytes(marks)
        else:
            proto.bool_val.extend(marks)
        return response

    return several


def test_a_multi_label_model_gives_each_text_any_number_of_labels(recorder, predict):
    (single,) = predict(recorder.address, ["a"])
    assert (single.label, single.labels) == ("a", ("a",))
    recorder.answer = label_sets(recorder)
    for recorder.as_content in (False, True):
        both, none = predict(recorder.address, ["a", "bb"])
        assert both.labels == ("a", "other")  # the more probable one first
        assert (both.label, both.probability, both.probabilities) == (None, None, {"a": 0.75, "other": 0.25})
        assert none.labels == ()
        assert none.probabilities == {"bb": 0.75, "other": 0.25}


def test_an_answer_with_a_label_too_few_is_said_in_words(recorder, predict):
    answer = label_sets(recorder)
    recorder.answer = lambda texts: (made := answer(texts), made.outputs["assigned"].bool_val.pop())[0]
    with pytest.raises(ServingError, match="2 classes, 2 probabilities and 1 values of assigned for 1 texts"):
        predict(recorder.address, ["a"])


def few_marks(response):
    response.outputs["abstained"].bool_val.extend([True, False])


def long_content(response):
    response.outputs["label"].ClearField("string_val")
    # The varint of 300 = 0x2c + 2 * 128: 0x80 says that more of it follows.
    response.outputs["label"].tensor_content = b"\xac\x02" + b"a" * 300
    response.outputs["classes"].string_val[0] = b"a" * 300


def test_reads_long_strings_in_tensor_content(recorder, predict):
    answer = recorder.answer
    recorder.answer = lambda texts: (made := answer(texts), long_content(made))[0]
    assert predict(recorder.address, ["a"])[0].label == "a" * 300


def drop(response):
    del response.outputs["classes"]


def repeat(response):
    response.outputs["label"].string_val.append(b"a")


def misname(response):
    response.outputs["label"].string_val[0] = b"b"


def cut(response):
    response.outputs["label"].ClearField("string_val")
    response.outputs["label"].tensor_content = b"\x02a"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop, "signature text of mood does not classify texts: no classes among its outputs label, probabilities"),
        (repeat, "2 labels, 2 classes and 2 probabilities for 1 texts"),
        (misname, "the label 'b' is none of the classes a, other"),
        (few_marks, "2 values of abstained for 1 texts"),
        (cut, "a string tensor of 2 bytes should have 3"),
    ],
)
def test_an_answer_that_is_no_classifiers_is_said_in_words(recorder, predict, spoil, words):
    answer = recorder.answer
    recorder.answer = lambda texts: (made := answer(texts), spoil(made))[0]
    with pytest.raises(ServingError, match=words) as caught:
        predict(recorder.address, ["a"])
    assert caught.value.code == grpc.StatusCode.INTERNAL


# === Errors, retries, deadlines ===


def test_unavailable_is_tried_again(recorder, predict):
    recorder.codes = [grpc.StatusCode.UNAVAILABLE] * 2
    assert predict(recorder.address, ["a"])[0].label == "a"
    assert len(recorder.requests) == 3


def test_a_large_request_is_tried_again_too(recorder, predict):
    recorder.codes = [grpc.StatusCode.UNAVAILABLE]
    text = "a" * 2_000_000  # grpc itself would hold back at 256 KiB
    assert predict(recorder.address, [text])[0].label == text
    assert len(recorder.requests) == 2


def test_each_request_of_a_call_is_tried_again(recorder, predict):
    recorder.codes = [grpc.StatusCode.UNAVAILABLE] * 4
    texts = ["a", "b", "c", "d", "e"]
    assert [prediction.label for prediction in predict(recorder.address, texts, batch_size=1)] == texts
    assert len(recorder.requests) == 9


def test_a_server_that_stays_unavailable_is_given_up(recorder, predict):
    recorder.codes = [grpc.StatusCode.UNAVAILABLE] * 9
    with pytest.raises(ServingError, match="answered UNAVAILABLE: said the recorder") as caught:
        predict(recorder.address, ["a"])
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE
    assert len(recorder.requests) == 5


def test_a_server_that_refuses_much_is_not_asked_five_times_for_each_call(recorder):
    recorder.codes = [grpc.StatusCode.UNAVAILABLE] * 1000
    with Client(recorder.address, "mood") as client, ThreadPoolExecutor(16) as threads:

        def fail(_=None):
            with pytest.raises(ServingError, match="UNAVAILABLE"):
                client.predict(["a"])

        list(threads.map(fail, range(16)))
        asked = len(recorder.requests)
        assert 50 <= asked < 16 * 5
        fail()
        assert len(recorder.requests) == asked + 1


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED"])
def test_other_errors_are_not_tried_again(recorder, predict, code):
    recorder.codes = [grpc.StatusCode[code]] * 2
    with pytest.raises(ServingError, match=f"{code}: said the recorder") as caught:
        predict(recorder.address, ["a"])
    assert caught.value.code.name == code
    assert len(recorder.requests) == 1


def test_a_failure_names_its_texts_and_ends_the_call(recorder, predict):
    recorder.refused = b"bad text"
    texts = [f"t{row:02}" for row in range(80)]
    texts[9], texts[70] = "bad text", "a long text"
    with pytest.raises(
        ServingError, match=r"INVALID_ARGUMENT: not that one \(in the request with texts 0, 1, 2, "
    ) as e:
        predict(recorder.address, texts, batch_size=8, concurrency=2)
    assert "texts 0, 1, 2, 3, 4 and 3 more, counted from 0" in str(e.value)
    assert e.value.rows == (0, 1, 2, 3, 4, 5, 9, 70)
    assert len(recorder.requests) < 10


def test_a_failure_of_a_single_request_needs_no_rows_in_words(recorder, predict):
    recorder.refused = b"b"
    with pytest.raises(ServingError, match=r"not that one$") as caught:
        predict(recorder.address, ["a", "b"])
    assert caught.value.rows == (0, 1)


@pytest.mark.parametrize("where", ["settings", "call"])
def test_deadline(recorder, predict, where):
    recorder.seconds = 1.0
    limit = {"timeout": 0.1} if where == "settings" else {"call": {"timeout": 0.1}, "timeout": 60}
    with pytest.raises(ServingError, match=r"within 0\.1 s") as caught:
        predict(recorder.address, ["a"], **limit)
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_deadline_is_of_the_whole_call(recorder, predict):
    recorder.seconds = 0.3
    began = time.monotonic()
    with pytest.raises(ServingError, match=r"within 0\.8 s.*in the request with texts 2") as caught:
        predict(recorder.address, ["a"] * 6, batch_size=1, concurrency=1, timeout=0.8)
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 1.5  # six requests of 0.3 s would be 1.8
    assert len(recorder.requests) == 3


def test_the_deadline_ends_retries(recorder, predict):
    recorder.codes = [grpc.StatusCode.UNAVAILABLE] * 9
    began = time.monotonic()
    with pytest.raises(ServingError):
        predict(recorder.address, ["a"], timeout=0.4)
    assert time.monotonic() - began < 1.0
    assert len(recorder.requests) < 5


def test_without_a_timeout_a_long_call_is_not_cut_off(recorder, predict, monkeypatch):
    monkeypatch.setattr("bertline.serving.client.REQUEST_SECONDS", 0.5)
    recorder.seconds = 0.2
    assert len(predict(recorder.address, ["a"] * 4, batch_size=1, concurrency=1)) == 4  # 0.8 s
    recorder.seconds = 1.0
    with pytest.raises(ServingError, match=r"within 0\.5 s"):
        predict(recorder.address, ["a"])


def test_nobody_there_says_how_to_start_a_server(predict, ask):
    with pytest.raises(
        ServingError, match=r"no model server answers at 127\.0\.0\.1:1: start it with `bertline serve`"
    ) as caught:
        predict("127.0.0.1:1", ["a"])
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ServingError, match="no model server answers"):
        ask("wait_until_ready", "127.0.0.1:1", 0.5)
    with pytest.raises(ServingError, match="no model server answers"):
        ask("status", "no-such-host.invalid:1")


def test_waiting_ends_at_once_where_it_does_not_help(recorder, ask):
    recorder.codes = [grpc.StatusCode.UNAUTHENTICATED]
    with pytest.raises(ServingError, match="give a key that it knows"):
        ask("wait_until_ready", recorder.address, 60.0)
    assert len(recorder.requests) == 1


def test_waiting_goes_on_while_a_version_may_come(recorder, ask):
    recorder.codes = [grpc.StatusCode.NOT_FOUND]
    with pytest.raises(ServingError, match="NOT_FOUND: said the recorder"):
        ask("wait_until_ready", recorder.address, 0.5)
    assert len(recorder.requests) > 2


@pytest.mark.parametrize(("label", "is_waited_for"), [({"version_label": "stable"}, True), ({}, False)])
def test_waiting_goes_on_while_a_label_may_come(recorder, ask, label, is_waited_for):
    recorder.codes = [grpc.StatusCode.INVALID_ARGUMENT]
    with pytest.raises(ServingError, match="INVALID_ARGUMENT: said the recorder"):
        ask("wait_until_ready", recorder.address, 0.5, **label)
    assert (len(recorder.requests) > 2) == is_waited_for


def test_a_cancelled_call_cancels_its_requests(recorder):
    recorder.seconds = 0.5

    async def main():
        async with AsyncClient(recorder.address, "mood", batch_size=1, concurrency=2) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.predict(["a"] * 6)
            await asyncio.sleep(0.6)

    asyncio.run(main())
    assert len(recorder.requests) == 2
    assert recorder.cancelled == 2


# === TLS ===


def pem(party):
    return party.certificate.encode()


@pytest.fixture
def secured():
    service = Recorder()
    credentials = grpc.ssl_server_credentials([(SERVER.key().encode(), pem(SERVER))])
    with listening(service, credentials) as service.address:
        yield service


@pytest.fixture
def mutual():
    service = Recorder()
    pair = [(SERVER.key().encode(), pem(SERVER))]
    with listening(service, grpc.ssl_server_credentials(pair, pem(CA), require_client_auth=True)) as service.address:
        yield service


def test_tls_with_the_authority_as_bytes_or_file(secured, predict, tmp_path):
    (tmp_path / "ca.pem").write_bytes(pem(CA))
    for authority in (pem(CA), tmp_path / "ca.pem", str(tmp_path / "ca.pem")):
        assert predict(secured.address, ["a"], tls=authority)[0].label == "a"
    with pytest.raises(FileNotFoundError, match=r"none\.pem"):
        predict(secured.address, ["a"], tls=tmp_path / "none.pem")


def test_a_client_without_tls_is_told_of_it(secured, mutual, ask):
    with pytest.raises(ServingError, match=r"it may speak TLS \(`tls`\)"):
        ask("status", secured.address)
    with pytest.raises(ServingError, match=r"ask for the client's certificate \(`client_certificate`\)"):
        ask("status", mutual.address, tls=pem(CA))


@pytest.mark.parametrize("authority", [True, pem(STRANGER), b"no certificate"], ids=["public", "stranger", "no PEM"])
def test_a_server_of_another_authority_is_not_trusted(secured, ask, authority):
    with pytest.raises(ServingError, match="`tls` must hold the authority of the server's certificate"):
        ask("status", secured.address, tls=authority)


def test_the_servers_name_may_differ_from_the_address(secured, ask, predict):
    address = secured.address.replace("127.0.0.1", "localhost")  # the certificate is only for 127.0.0.1
    assert predict(address, ["a"], tls=pem(CA), server_name="127.0.0.1")[0].label == "a"
    with pytest.raises(ServingError, match="`server_name` a name in it"):
        ask("status", address, tls=pem(CA))


def test_mutual_tls(mutual, ask, predict, tmp_path):
    (tmp_path / "client.key").write_text(CLIENT.key())
    keyed = {"client_certificate": pem(CLIENT), "client_key": tmp_path / "client.key"}
    assert predict(mutual.address, ["a"], tls=pem(CA), **keyed)[0].label == "a"
    stranger = {"client_certificate": pem(STRANGER), "client_key": STRANGER.key().encode()}
    for refused in ({}, stranger):
        with pytest.raises(ServingError) as caught:
            ask("status", mutual.address, tls=pem(CA), **refused)
        assert caught.value.code == grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ServingError, match="the client's key belong to its certificate"):
        ask("status", mutual.address, tls=pem(CA), client_certificate=pem(CLIENT), client_key=STRANGER.key().encode())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tls": True, "client_key": b"key"}, "both client_certificate and client_key"),
        ({"client_certificate": b"chain", "client_key": b"key"}, "are for TLS: give tls= too"),
        ({"server_name": "models.internal"}, "are for TLS: give tls= too"),
    ],
)
def test_half_of_a_tls_setting_is_refused(predict, settings, words):
    with pytest.raises(ValueError, match=words):
        predict("127.0.0.1:1", ["a"], **settings)


# === The API key ===


def test_the_key_goes_with_each_request(recorder, secured, predict):
    predict(recorder.address, ["a", "b"], batch_size=1, api_key="k-1")
    predict(secured.address, ["a"], api_key="k-2", tls=pem(CA))
    sent = [headers.get("authorization") for headers in recorder.headers + secured.headers]
    assert sent == ["Bearer k-1", "Bearer k-1", "Bearer k-2"]


def test_without_a_key_no_header_goes(recorder, predict):
    predict(recorder.address, ["a"])
    assert "authorization" not in recorder.headers[0]


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:8500", True),
        ("127.8.9.1:8500", True),
        ("localhost:8500", True),
        ("[::1]:8500", True),
        ("unix:/tmp/socket", True),
        ("unix:///tmp/socket", True),
        ("dns:///localhost:8500", True),
        ("ipv6:[::1]:8500", True),
        ("ipv4:127.0.0.1:8500", True),
        ("ipv4:127.0.0.1:8500,10.0.0.7:8500", False),
        ("10.0.0.7:8500", False),
        ("0.0.0.0:8500", False),
        ("[2001:db8::1]:8500", False),
        ("models.internal:8500", False),
        ("localhost.models.internal:8500", False),
        ("dns://127.0.0.1/models.internal:8500", False),
        ("unix.models.internal:8500", False),
        ("xds:///models", False),
    ],
)
def test_a_key_does_not_leave_the_machine_unencrypted(address, local):
    if local:
        Client(address, "mood", api_key="secret")
        return
    with pytest.raises(ValueError, match="would travel unencrypted") as caught:
        Client(address, "mood", api_key="secret")
    assert "secret" not in str(caught.value)
    Client(address, "mood", api_key="secret", tls=True)
    Client(address, "mood", api_key="secret", allow_insecure_key=True)


@pytest.mark.parametrize("key", ["", "k\n", "clé", "a\x00"])
def test_a_key_that_no_header_can_carry_is_refused(key):
    with pytest.raises(ValueError, match="printable ASCII") as caught:
        Client("127.0.0.1:1", "mood", api_key=key)
    assert not key or key not in str(caught.value)


# === Against the embedded server ===

PAGE = Path(__file__).parents[2] / "docs" / "serving" / "use.md"


@pytest.fixture(scope="module")
def served(mood_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    (folder / "7").symlink_to(mood_models["good"])
    with Server.of(folder, "mood", port=0) as server:
        yield server


def test_the_embedded_server_answers_both_clients(served, ask, predict):
    assert ask("wait_until_ready", served.address, 10.0) == 7
    (status,) = ask("status", served.address)
    assert (status.version, status.state, status.error) == (7, "AVAILABLE", "")
    version, signatures = ask("metadata", served.address)
    assert version == 7
    assert signatures["text"].inputs["text"].dtype == "DT_STRING"
    assert signatures["text"].inputs["text"].shape == (-1,)
    texts = [f"{'good' if row % 3 else 'dull'} {'x' * (row * 7 % 50)}" for row in range(200)]
    predictions = predict(served.address, texts)
    assert [each.label for each in predictions] == ["positive" if row % 3 else "negative" for row in range(200)]
    assert {each.version for each in predictions} == {7}
    assert {each.probability for each in predictions} == {0.75}


@pytest.mark.parametrize(
    ("model", "call", "code"),
    [
        ("food", {}, "NOT_FOUND"),
        ("mood", {"version": 8}, "NOT_FOUND"),
        ("mood", {"version_label": "stable"}, "INVALID_ARGUMENT"),
        ("mood", {"signature": "long"}, "FAILED_PRECONDITION"),
    ],
)
def test_the_embedded_servers_refusals_pass_through(served, predict, model, call, code):
    with pytest.raises(ServingError, match=f"answered {code}: ") as caught:
        predict(served.address, ["a"], model=model, call=call)
    assert caught.value.code.name == code
    assert any(str(value) in str(caught.value) for value in (*call.values(), model))


class Pod:
    """A server in a process of its own."""

    def __init__(self, folder):
        monitoring = folder.with_name("monitoring.config")
        monitoring.write_text("prometheus_config { enable: true }")
        flags = [f"--model_base_path={folder}", "--model_name=mood", "--port=-1", "--rest_api_port=-1"]
        command = [sys.executable, "-m", "bertline.serving.server", *flags, f"--monitoring_config_file={monitoring}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def read_addresses(self):
        self.address = self.process.stdout.readline().split()[-1]
        self.rest_address = self.process.stdout.readline().split()[-1]
        return self

    def answered(self):
        page = httpx.get(f"{self.rest_address}/monitoring/prometheus/metrics", trust_env=False).text
        found = re.search(r'^bertline_requests_total\{.*code="OK".*method="Predict".*\} ([\d.]+)', page, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def pods(mood_models, tmp_path):
    """Two servers, as the pods behind one name."""
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "7").symlink_to(mood_models["good"])
    started = [Pod(tmp_path / "serving") for _ in range(2)]
    try:
        yield [pod.read_addresses() for pod in started]
    finally:
        for pod in started:
            pod.kill()


def ask_over_and_over(address, seconds):
    """Four threads of one client ask for some time; returns how many answers there were. Any failure is raised."""
    with Client(address, "mood") as client, ThreadPoolExecutor(4) as threads:
        end = time.monotonic() + seconds

        def keep_asking(_):
            answers = 0
            while time.monotonic() < end:
                answers += client.predict(["a good day"])[0].label == "positive"
            return answers

        return sum(threads.map(keep_asking, range(4)))


def ask_over_and_over_async(address, seconds):
    async def main():
        end = time.monotonic() + seconds

        async def keep_asking(client):
            answers = 0
            while time.monotonic() < end:
                answers += (await client.predict(["a good day"]))[0].label == "positive"
            return answers

        async with AsyncClient(address, "mood") as client:
            return sum(await asyncio.gather(*(keep_asking(client) for _ in range(4))))

    return asyncio.run(main())


def test_servers_behind_one_name_share_the_requests_and_one_that_is_killed_fails_none(pods):
    address = "ipv4:" + ",".join(pod.address for pod in pods)  # as a headless Service's name resolves
    for keep_asking in (ask_over_and_over, ask_over_and_over_async):
        before = [pod.answered() for pod in pods]
        answers = keep_asking(address, 1.0)
        shares = [pod.answered() - start for pod, start in zip(pods, before, strict=True)]
        assert sum(shares) == answers > 20
        assert min(shares) > 0.2 * answers, shares  # one connection may be there later than the other
    with ThreadPoolExecutor(2) as threads:
        asking = [
            threads.submit(keep_asking, address, 2.0) for keep_asking in (ask_over_and_over, ask_over_and_over_async)
        ]
        time.sleep(0.5)
        pods[0].kill()
        left = pods[1].answered()
        assert all(each.result() > 20 for each in asking)
        assert pods[1].answered() > left + 20


def test_the_pages_grpcurl_lines_work(mood_models, tmp_path):
    """As grpcurl does it: the types by reflection, the request from JSON."""
    (tmp_path / "7").symlink_to(mood_models["good"])
    calls = re.findall(r"grpcurl -plaintext -d '(.*?)' 127\.0\.0\.1:8500 ([\w.]+)/(\w+)", PAGE.read_text(), re.DOTALL)
    with Server.of(tmp_path, "reviews", port=0) as server, grpc.insecure_channel(server.address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        answers = [grpcurl(channel, pool, *call) for call in calls]
    assert [name for _, _, name in calls] == ["Predict", "GetModelStatus"]
    assert list(answers[0].outputs["label"].string_val) == [b"negative"]  # "arrived broken" has no "good"
    assert [each.version for each in answers[1].model_version_status] == [7]


def grpcurl(channel, pool, body, service, method):
    descriptor = pool.FindServiceByName(service).FindMethodByName(method)
    request, response = (
        message_factory.GetMessageClass(message) for message in (descriptor.input_type, descriptor.output_type)
    )
    call = channel.unary_unary(f"/{service}/{method}", request.SerializeToString, response.FromString)
    return call(json_format.Parse(body, request()), timeout=10)
