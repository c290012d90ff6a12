import asyncio
import gzip
import json
import select
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from urllib.parse import quote

import httpx
import orjson
import pytest
import uvicorn
from factories import save_mood_model
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from bertline.errors import UserError
from bertline.serving import bodies, rest
from bertline.serving.access import Access
from bertline.serving.batching import BatchingOptions
from bertline.serving.keys import add_key
from bertline.serving.limits import Limits
from bertline.serving.metrics import Metrics
from bertline.serving.models import Models
from bertline.serving.protos import ModelServerConfig
from bertline.serving.service import Service
from bertline.serving.versions import Polling

MOST = 1 << 20  # bytes of a body


def save_toys(folder, plus):
    """A SavedModel of many small signatures; `serving_default` gives x / 2 + `plus` for the float32 [batch] `x`."""
    import tensorflow as tf

    def signature(**inputs):
        return tf.function(
            input_signature=[tf.TensorSpec(shape, dtype, name) for name, (shape, dtype) in inputs.items()]
        )

    rows, strings = ([None], tf.float32), ([None], tf.string)

    @signature(x=rows)
    def half(x):
        return {"y": x / 2 + plus}

    @signature(a=rows, b=([None], tf.int64))
    def pair(a, b):
        return {"sum": a + tf.cast(b, tf.float32), "twice": tf.stack([b, b], 1)}

    @signature(x=rows, by=([], tf.float32))
    def scale(x, by):
        return {"scaled": x * by, "by": by}

    @signature(text=strings)
    def echo(text):
        return {"text": text, "raw_bytes": text}

    @signature(text=strings)
    def shout(text):
        return {"text": tf.strings.upper(text)}

    @signature(any=(None, tf.float32))
    def shape(any):
        return {"shape": tf.shape(any)}

    @signature(x=([None], tf.float16))
    def unknown(x):
        return {"y": x}

    @signature(n=([], tf.int64))
    def count(n):
        return {"n": tf.while_loop(lambda i: i < n, lambda i: [i + 1], [tf.constant(0, tf.int64)])[0]}

    @signature(i8=([None], tf.int8), u8=([None], tf.uint8), i16=([None], tf.int16), i32=([None], tf.int32))
    def small(i8, u8, i16, i32):
        return {"i8": i8, "u8": u8, "i16": i16, "i32": i32}

    @signature(u32=([None], tf.uint32), i64=([None], tf.int64), u64=([None], tf.uint64))
    def large(u32, i64, u64):
        return {"u32": u32, "i64": i64, "u64": u64}

    @signature(d=([None], tf.float64), b=([None], tf.bool))
    def other(d, b):
        return {"d": d, "b": b}

    def weights(examples):
        features = {"x": tf.io.FixedLenFeature([], tf.float32), "w": tf.io.FixedLenFeature([], tf.int64, 1)}
        parsed = tf.io.parse_example(examples, features)
        return parsed["x"] * tf.cast(parsed["w"], tf.float32)

    @signature(inputs=strings)
    def classify(inputs):
        score = weights(inputs)
        classes = tf.tile([["low", "high"]], [tf.size(score), 1])
        return {"classes": classes, "scores": tf.stack([1 - score, score], 1)}

    @signature(inputs=strings)
    def regress(inputs):
        return {"outputs": weights(inputs) / 2 + plus}

    functions = [pair, scale, echo, shout, shape, unknown, count, small, large, other, classify, regress]
    signatures = {"serving_default": half, **{function.__name__: function for function in functions}}
    tf.saved_model.save(tf.Module(), str(folder), signatures=signatures)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Model `toys`: version 1, labelled `stable`, adds 2; version 2 adds 3. And `mood`, with the line's signatures."""
    from bertline.serving.servable import Servable

    folder = tmp_path_factory.mktemp("toys")
    for version in (1, 2):
        save_toys(folder / str(version), plus=version + 1)
    config = ModelServerConfig()
    moods = tmp_path_factory.mktemp("rest-mood")
    save_mood_model(moods / "1")
    config.model_config_list.config.add(name="mood", base_path=str(moods), model_platform="tensorflow")
    model = config.model_config_list.config.add(name="toys", base_path=str(folder), model_platform="tensorflow")
    model.model_version_policy.all.SetInParent()
    model.version_labels["stable"] = 1
    models = Models(
        lambda name, path, version: Servable(path, name, version), Polling(seconds=0), labels_in_advance=True
    )
    models.reload(config)
    service = Service(models, Metrics(), Limits())
    yield service
    service.close()
    models.stop()


def application(service, metrics=None, **options):
    defaults = {"timeout": 30, "metrics_path": "/metrics", "max_request_bytes": MOST, "cors": False, "access": None}
    return rest.application(service, metrics or Metrics(), **{**defaults, **options})


@pytest.fixture(scope="module")
def client(service):
    with TestClient(application(service)) as client:
        yield client


@pytest.fixture(scope="module")
def predict(client):
    """Body, as bytes or as JSON's values -> (HTTP status, answer)."""

    def predict(body, model="toys", method="predict"):
        body = body if isinstance(body, bytes) else orjson.dumps(body)
        response = client.post(f"/v1/models/{model}:{method}", content=body)
        assert response.headers["content-type"] == "application/json"
        return response.status_code, json.loads(response.content)

    return predict


def error_of(answer, status):
    """The message of an error in TF Serving's form."""
    assert answer[0] == status, answer
    assert list(answer[1]) == ["error"]
    return answer[1]["error"]


# === Predict ===


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"instances": [1.0, 2.0, 5]}, {"predictions": [3.5, 4.0, 5.5]}),
        ({"instances": [{"x": 1.0}, {"x": 2}]}, {"predictions": [3.5, 4.0]}),
        ({"inputs": [1.0, 2.0]}, {"outputs": [3.5, 4.0]}),
        ({"inputs": {"x": [1.0, 2.0]}}, {"outputs": [3.5, 4.0]}),
        ({"inputs": {"x": [1.0], "no such input": 1}}, {"outputs": [3.5]}),
        ({"signature_name": "serving_default", "instances": [1.0]}, {"predictions": [3.5]}),
        ({"inputs": []}, {"outputs": []}),
        (
            {"signature_name": "pair", "instances": [{"a": 0.25, "b": 1}, {"a": 0.5, "b": 2}]},
            {"predictions": [{"sum": 1.25, "twice": [1, 1]}, {"sum": 2.5, "twice": [2, 2]}]},
        ),
        (
            {"signature_name": "pair", "inputs": {"a": [0.25, 0.5], "b": [1, 2]}},
            {"outputs": {"sum": [1.25, 2.5], "twice": [[1, 1], [2, 2]]}},
        ),
        (
            {"signature_name": "scale", "inputs": {"x": [1.0, 2.0], "by": 0.5}},
            {"outputs": {"scaled": [0.5, 1.0], "by": 0.5}},
        ),
        ({"signature_name": "count", "inputs": 3}, {"outputs": 3}),
        ({"signature_name": "count", "inputs": {"n": 3}}, {"outputs": 3}),
        ({"signature_name": "shout", "instances": ["é", "b"]}, {"predictions": ["é", "B"]}),
        ({"signature_name": "shout", "instances": [{"text": "a"}]}, {"predictions": ["A"]}),
        ({"signature_name": "shout", "instances": [{"b64": "aGk="}, "yes"]}, {"predictions": ["HI", "YES"]}),
        ({"signature_name": "shout", "inputs": {"text": [{"b64": "aG\nk"}]}}, {"outputs": ["HI"]}),
        (
            {"signature_name": "echo", "instances": ["hi"]},
            {"predictions": [{"text": "hi", "raw_bytes": {"b64": "aGk="}}]},
        ),
        ({"signature_name": "shape", "instances": [[[1, 2]], [[3, 4]]]}, {"predictions": [2, 1, 2]}),
        ({"signature_name": "shape", "inputs": 7}, {"outputs": []}),
        ({"signature_name": "shape", "inputs": [[], []]}, {"outputs": [2, 0]}),
    ],
)
def test_predict_in_both_forms(predict, body, answer):
    assert predict(body) == (200, answer)


@pytest.mark.parametrize(
    ("signature", "inputs"),
    [
        ("small", {"i8": [-128, 127], "u8": [0, 255], "i16": [-32768, 32767], "i32": [-(2**31), 2**31 - 1]}),
        ("large", {"u32": [0, 2**32 - 1], "i64": [-(2**63), 2**63 - 1], "u64": [0, 2**64 - 1]}),
        ("other", {"d": [0.1, 1e300], "b": [True, False]}),
    ],
)
def test_values_at_their_limits_come_back(predict, signature, inputs):
    assert predict({"signature_name": signature, "inputs": inputs}) == (200, {"outputs": inputs})


def test_floats_as_tf_serving_writes_them(client):
    """NaN and Infinity as tokens both ways; float32 with its own digits; whole values with a decimal point."""
    answers = [
        (b'{"inputs": [NaN, Infinity, -Infinity, 0.4]}', b'{"outputs":[NaN,Infinity,-Infinity,3.2]}\n'),
        (b'{"inputs": [1e300, -1e300]}', b'{"outputs":[Infinity,-Infinity]}\n'),
        (b'{"instances": [0.4, 2]}', b'{"predictions":[3.2,4.0]}\n'),
    ]
    for body, answer in answers:
        assert client.post("/v1/models/toys:predict", content=body).content == answer
    row = client.post(
        "/v1/models/toys:predict", content=b'{"signature_name": "pair", "instances": [{"a": NaN, "b": 1}]}'
    )
    assert row.content == b'{"predictions":[{"sum":NaN,"twice":[1,1]}]}\n'


def test_versions_and_labels(client):
    paths = {"": 3.5, "/versions/1": 2.5, "/versions/2": 3.5, "/versions/0000000000000000000000001": 2.5}
    paths |= {"/labels/stable": 2.5, "/labels/st%61ble": 2.5}
    for path, answer in paths.items():
        response = client.post(f"/v1/models/toys{path}:predict", json={"instances": [1.0]})
        assert (path, response.json()) == (path, {"predictions": [answer]})


def test_bodies_that_are_large_come_packed_or_begin_with_a_byte_order_mark(client):
    body = orjson.dumps({"instances": [1.0] * 1000, "ignored": "x" * bodies.LOOP_BYTES})
    zipped = gzip.compress(body)
    assert client.post("/v1/models/toys:predict", content=body).json() == {"predictions": [3.5] * 1000}
    answer = client.post("/v1/models/toys:predict", content=zipped, headers={"content-encoding": "gzip"})
    assert answer.json() == {"predictions": [3.5] * 1000}
    marked = client.post("/v1/models/toys:predict", content=b'\xef\xbb\xbf{"inputs": [2]}')
    assert marked.json() == {"outputs": [4.0]}


# === Classify and Regress ===


def test_classify(predict):
    body = {"signature_name": "classify", "examples": [{"x": 0.25}, {"x": [0.5], "w": 2}]}
    assert predict(body, method="classify") == (
        200,
        {"results": [[["low", 0.75], ["high", 0.25]], [["low", 0.0], ["high", 1.0]]]},
    )


def test_regress_with_context(predict):
    body = {"signature_name": "regress", "context": {"w": 2}, "examples": [{"x": 0.5}, {"x": 1.5}]}
    assert predict(body, method="regress") == (200, {"results": [3.5, 4.5]})
    assert predict(body, "toys/labels/stable", "regress") == (200, {"results": [2.5, 3.5]})


def test_scores_without_a_number(client):
    body = b'{"signature_name": "regress", "examples": [{"x": NaN}, {"x": 0.2}]}'
    assert client.post("/v1/models/toys:regress", content=body).content == b'{"results":[NaN,3.1]}\n'
    body = body.replace(b"regress", b"classify")
    answer = b'{"results":[[["low",NaN],["high",NaN]],[["low",0.8],["high",0.2]]]}\n'
    assert client.post("/v1/models/toys:classify", content=body).content == answer


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        (None, "'examples' must be a list"),
        ([], "'examples' must be a list with at least one object"),
        (
            [{"x": 1.0}, 7],
            "examples[1] must be an object, feature name -> value or list of values; it is a whole number",
        ),
        ([{"x": [1, 2.5]}], "examples[0].x must be strings, whole numbers or numbers with a fraction, and one kind"),
        ([{"x": None}], "examples[0].x must be strings, whole numbers or numbers with a fraction, and one kind"),
        ([{"x": 2**63}], "examples[0].x: a whole number is out of range for int64"),
        ([{"x": [[1.0]]}], "it has a list"),
        ([{"x": {"b64": "?"}}], "examples[0].x: b64: "),
        (
            [{"x": {"b64": "aGk=", "c": 1}}],
            "examples[0].x is an object, not of expected type: string; it must be a string",
        ),
    ],
)
def test_examples_that_make_no_sense(predict, examples, words):
    message = error_of(predict({"signature_name": "regress", "examples": examples}, method="regress"), 400)
    assert words in message
    assert message.endswith("[model toys, version 2, signature regress]")


# === Status and metadata ===


def test_status(client):
    def status(version):
        return {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}

    def versions(path):
        return client.get(f"/v1/models/toys{path}").json()

    assert versions("") == {"model_version_status": [status("1"), status("2")]}
    assert versions("/versions/2") == {"model_version_status": [status("2")]}
    assert versions("/labels/stable") == {"model_version_status": [status("1")]}


def test_metadata(client):
    answer = client.get("/v1/models/toys/labels/stable/metadata").json()
    assert answer["model_spec"] == {"name": "toys", "version": "1", "signature_name": ""}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    x = signature["inputs"]["x"]
    assert (x["dtype"], x["tensor_shape"]) == (
        "DT_FLOAT",
        {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
    )


# === Errors ===


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"instances = [1]", "at offset 0 (line 1, column 1)"),
        (b'{"instances":\n [1}', "(line 2, column 4)"),
        (b'{"instances": ["\xff"]}', "JSON Parse error: not UTF-8: invalid start byte at offset 16"),
        (b'{"inputs": ["\\ud800"]}', "JSON Parse error: "),
        (b'{"inputs": [NaN, "\\ud800"]}', "JSON Parse error: "),
        (b'{"inputs": [NaN, ' + b"9" * 5000 + b"]}", "too many digits"),
        (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "JSON Parse error: "),
        (b'{"inputs": [NaN, ' + b"[" * 100_000 + b"]" * 100_000 + b"]}", "nested too deep"),
        (b'{"inputs": ' + b"[" * 70 + b"]" * 70 + b"}", "input x: lists are nested deeper than 64"),
        (b"[1]", "the body must be a JSON object; it is a list"),
        (b'{"signature_name": 1, "inputs": [1]}', "'signature_name' key must be a string value; it is a whole number"),
        (
            b'{"inputs": [1], "instances": [1]}',
            "expecting only one of 'inputs' or 'instances' keys to exist",
        ),
        (b"{}", "Missing 'inputs' or 'instances' key"),
        (b'{"instances": []}', "No values in 'instances' array"),
        (b'{"instances": {"x": 1}}', "Expecting 'instances' to be an list/array; it is an object"),
        (b'{"instances": [{"x": 1}, 2]}', "instances[1]: Expecting object but got a whole number"),
        (b'{"instances": [{"x": 1}, {"X": 1}]}', "instances[1]: keys must be equal to x; missing: x; unknown: X"),
        (b'{"instances": [1, "2"]}', "input x[1] is a string, not of expected type: float"),
        (b'{"instances": [1, true]}', "input x[1] is a boolean, not of expected type: float"),
        (b'{"instances": [1, null]}', "input x[1] is null, not of expected type: float"),
        (b'{"instances": [1, {"x": 1}]}', "input x[1] is an object, not of expected type: float"),
        (b'{"instances": [[1, 2], [3]]}', "input x[1]: Expecting tensor size: 2 but got: 1"),
        (
            b'{"instances": [[1, 2], [3, [4]]]}',
            "input x[0][0]: Expecting shape of the lists beside it but got",
        ),
        (b'{"inputs": {"y": [1]}}', "Missing named input: x in 'inputs' object; it must have x"),
    ],
)
def test_requests_that_make_no_sense(predict, body, words):
    message = error_of(predict(body), 400)
    assert words in message
    assert "[model toys, version 2" in message


@pytest.mark.parametrize(
    ("signature", "body", "words"),
    [
        ("pair", {"instances": [1]}, "a row of 'instances' must be an object, name -> value: the signature has 2"),
        ("pair", {"inputs": [1]}, "'inputs' must be an object, name -> value: the signature has 2 inputs: a, b"),
        ("pair", {"inputs": {"a": [1.0], "b": [1.0]}}, "input b[0] is a number with a fraction, not of expected type"),
        ("small", {"instances": [{"i8": 128, "u8": 1, "i16": 1, "i32": 1}]}, "input i8[0] is out of range for DT_INT8"),
        ("pair", {"inputs": {"a": [1.0], "b": [2**63]}}, "input b[0] is out of range for DT_INT64"),
        ("shout", {"instances": [1]}, 'input text[0] is a whole number, not of expected type: string'),
        ("shout", {"instances": [{"b64": "!"}]}, "input text[0]: b64: "),
        ("echo", {"instances": [{"b64": "/w=="}]}, "output text is not UTF-8 text"),
        ("scale", {"inputs": {"x": [1.0]}}, "Missing named input: by in 'inputs' object; it must have by, x"),
        ("count", {"instances": [3]}, "The second input must be a scalar, but it has shape [1]"),
        ("nil", {"instances": [1]}, 'Serving signature name: "nil" not found; there is classify, count, echo'),
    ],
)  # fmt: skip
def test_errors_name_the_place_and_the_signature(predict, signature, body, words):
    message = error_of(predict({"signature_name": signature, **body}), 400)
    assert words in message
    assert message.endswith(f"[model toys, version 2, signature {signature}]")


def test_outputs_without_rows(predict):
    body = {"signature_name": "pair", "inputs": {"a": [1.0], "b": [1]}}
    assert predict(body)[0] == 200
    in_rows = {"signature_name": "scale", "instances": [{"x": 1.0, "by": 1.0}]}
    assert predict(in_rows) == (200, {"predictions": [{"by": 1.0, "scaled": 1.0}]})


def test_a_dtype_that_json_has_no_form_for(predict):
    message = error_of(predict({"signature_name": "unknown", "instances": [1.0]}), 501)
    assert "input x: JSON has no form for DT_HALF; call over gRPC" in message


def test_no_error_repeats_a_text(predict):
    secret = "call me on 555 0100"
    bodies = [{"instances": [1, secret]}, {"instances": [[secret], secret]}, {"inputs": {"x": [{"b64": secret}]}}]
    bodies += [{"signature_name": "shout", "instances": [{"b64": secret + "!"}]}, {"inputs": {"x": {"y": secret}}}]
    for body in bodies:
        assert "555" not in error_of(predict(body), 400)


def test_texts_for_the_default_signature_get_a_hint(predict):
    hint = 'for plain texts add "signature_name": "text"'
    message = error_of(predict({"instances": ["a good film"]}, model="mood"), 400)
    assert message.startswith("Could not parse example input, value: 'a good film'")  # TensorFlow's own words first
    assert message.endswith(hint)
    assert error_of(predict({"instances": ["a good film " * 1000]}, model="mood"), 400).endswith(hint)
    assert error_of(predict({"instances": [{"text": "a good film"}]}, model="mood"), 400).endswith(hint)
    assert hint not in error_of(predict({"signature_name": "text", "instances": [1]}, model="mood"), 400)
    assert hint not in error_of(predict({"instances": ["one"]}), 400)  # a model without texts


def test_messages_of_bounded_length(predict):
    assert len(error_of(predict({"instances": [{"x": 1}, {"y" * 100_000: 1}]}), 400)) == rest.MESSAGE_CHARACTERS


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/v1/models/nil:predict", 404, "Servable not found for request: Latest(nil)"),
        ("POST", "/v1/models/toys/versions/9:predict", 404, "Servable not found for request: Specific(toys, 9)"),
        ("POST", "/v1/models/toys/labels/nil:predict", 400, "Unrecognized servable version label: nil. Model toys has"),
        ("POST", "/v1/models/toys/versions/18446744073709551615:predict", 400, "Failed to convert version"),
        ("POST", f"/v1/models/toys/versions/{'9' * 5000}:predict", 400, "Failed to convert version"),
        ("POST", "/v1/models/toys/versions/one:predict", 400, "Malformed request: POST /v1/models/toys/versions/one"),
        ("POST", "/v1/models/toys/versions/1/labels/stable:predict", 400, "Malformed request"),
        ("POST", "/v1/models/toys:train", 400, "Malformed request: POST /v1/models/toys:train"),
        ("POST", "/v1/models/toys", 400, "Malformed request"),
        ("GET", "/v1/models/toys:predict", 400, "it should be POST /v1/models/NAME:predict"),
        ("GET", "/v1/models", 400, "Missing model name in request"),
        ("GET", "/v1/foo", 400, "Malformed request: GET /v1/foo"),
        ("GET", "/v1/models/nil", 404, "Could not find any versions of model nil"),
        ("GET", "/v1/models/nil/metadata", 404, "Servable not found"),
        ("GET", "/v1/models/toys/versions/9", 404, "Could not find version 9 of model toys"),
        ("GET", "/v1/models/%FF", 400, "Failed to decode model name: %FF is not UTF-8"),
        ("GET", "/v1/models/to%2Fys", 404, "to/ys"),
        ("GET", "/", 404, "Malformed request: GET /"),
        ("GET", "/v10/models", 404, "all is under /v1"),
        ("GET", "/%0A", 404, "Malformed request: GET /%0A"),
        ("POST", "/metrics", 404, "Malformed request: POST /metrics"),
        ("DELETE", "/v1/models/toys", 405, "Malformed request: DELETE /v1/models/toys: Method Not Allowed"),
        ("PUT", "/v1/models/toys:predict", 405, "Method Not Allowed"),
    ],
)
def test_paths_that_lead_nowhere(client, method, path, status, words):
    response = client.request(method, path, content=b'{"instances": [1]}' if method == "POST" else None)
    assert words in error_of((response.status_code, response.json()), status)
    assert response.headers["content-type"] == "application/json"


def test_paths_in_any_case(client):
    assert client.post("/V1/Models/toys:PREDICT", json={"instances": [1]}).json() == {"predictions": [3.5]}


def test_too_much_time(service):
    with TestClient(application(service, timeout=0.05)) as client:
        body = {"signature_name": "count", "inputs": 200_000}
        response = client.post("/v1/models/toys:predict", json=body)
        assert "no answer within 0.05 s" in error_of((response.status_code, response.json()), 504)


# === Keys, CORS, metrics ===


def test_keys(service, tmp_path):
    key = add_key(tmp_path / "keys.yaml", "app", per_minute=3)
    with TestClient(application(service, access=Access.read(tmp_path / "keys.yaml"))) as client:
        for path in ("/v1/models/toys", "/metrics", "/nowhere"):
            refused = client.get(path)
            assert "no API key" in error_of((refused.status_code, refused.json()), 401)
            assert refused.headers["www-authenticate"] == "Bearer"
        assert client.get("/v1/models/toys", headers={"x-api-key": "guess"}).status_code == 401
        bearer = {"authorization": f"Bearer {key}"}
        assert client.post("/v1/models/toys:predict", json={"inputs": [1]}, headers=bearer).json() == {"outputs": [3.5]}
        assert client.get("/metrics", headers={"x-api-key": key}).status_code == 200
        assert client.get("/v1/models/toys", headers=bearer).status_code == 200
        over = client.get("/v1/models/toys", headers=bearer)
        message = error_of((over.status_code, over.json()), 429)
        assert "API key app is over its rate" in message
        assert message.endswith(f"try again in {over.headers['retry-after']} s")
        assert 1 <= int(over.headers["retry-after"]) <= 60


def test_a_full_queue_says_when_to_come_again(service):
    splitting = BatchingOptions(
        max_batch_size=2, enable_large_batch_splitting=True, max_execution_batch_size=1, max_enqueued_batches=1
    )
    queueing = Service(service.models, Metrics(), Limits(), splitting)
    with TestClient(application(queueing)) as client:
        refused = client.post("/v1/models/toys:predict", json={"inputs": [1, 2]})
        assert "queue to which this task was submitted is full" in error_of((refused.status_code, refused.json()), 503)
        assert refused.headers["retry-after"] == "1"
        assert "retry-after" not in client.post("/v1/models/toys:predict", json={"inputs": [1]}).headers
    queueing.close()


def test_too_many_requests_at_once_are_told_when_to_come_again(service):
    busy = Service(service.models, Metrics(), Limits(max_concurrent_requests=1))
    with TestClient(application(busy)) as client, busy.admitted():
        refused = client.post("/v1/models/toys:predict", json={"inputs": [1]})
        assert "no more are accepted" in error_of((refused.status_code, refused.json()), 429)
        assert refused.headers["retry-after"] == "1"


def test_pages_from_elsewhere_call_only_where_that_is_asked_for(service, client):
    origin = {"origin": "https://app.example"}
    preflight = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    with TestClient(application(service, cors=True)) as open_client:
        answer = open_client.options("/v1/models/toys:predict", headers=preflight)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
        answer = open_client.post("/v1/models/toys:predict", json={"inputs": [1]}, headers=origin)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert open_client.get("/v1/models/nil", headers=origin).headers["access-control-allow-origin"] == "*"
    assert client.options("/v1/models/toys:predict", headers=preflight).status_code == 405
    assert "access-control-allow-origin" not in client.get("/v1/models/toys", headers=origin).headers


def test_metrics_page(service):
    with TestClient(application(service, metrics_path="/monitoring/prometheus/metrics")) as client:
        client.post("/v1/models/toys:predict", json={"inputs": [1]})
        client.post("/v1/models/toys:predict", json={"inputs": ["x"]})
        client.post("/v1/models/stranger:predict", json={"inputs": [1]})
        client.get("/v1/models/toys")
        page = client.get("/monitoring/prometheus/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = page.text.splitlines()
    assert ':tensorflow:serving:request_count{model_name="toys",status="OK"} 2.0' in lines
    assert ':tensorflow:serving:request_count{model_name="toys",status="INVALID_ARGUMENT"} 1.0' in lines
    assert ':tensorflow:serving:request_count{model_name="",status="NOT_FOUND"} 1.0' in lines
    assert ':tensorflow:serving:request_latency_count{API="predict",entrypoint="REST",model_name="toys"} 1.0' in lines
    assert 'bertline_requests_total{code="OK",entrypoint="REST",method="status",model="toys"} 1.0' in lines


def test_no_metrics_page_unless_there_is_a_path(service):
    with TestClient(application(service, metrics_path=None)) as client:
        assert client.get("/metrics").status_code == 404
    with pytest.raises(UserError, match="must start with /"):
        application(service, metrics_path="metrics")


# === Real sockets ===


@contextmanager
def served(application):
    """The application in uvicorn; (host, port)."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # uvicorn sends head and body apart
    server = uvicorn.Server(uvicorn.Config(application, log_config=None, lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    try:
        yield listening.getsockname()
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def live(service):
    """(host, port) of the application in uvicorn, and its metrics."""
    metrics = Metrics()
    with served(application(service, metrics, timeout=20)) as address:
        yield address, metrics


def head(length, path="/v1/models/toys:predict"):
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def test_many_requests_over_one_connection(live):
    (host, port), _ = live
    with httpx.Client(base_url=f"http://{host}:{port}") as client:
        for number in range(20):
            answer = client.post("/v1/models/toys:predict", json={"instances": [number]})
            assert answer.json() == {"predictions": [number / 2 + 3]}
        assert client.head("/v1/models/toys").status_code == 200


def test_a_declared_body_that_is_too_large_is_refused_unread(live):
    address, _ = live
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head(64 << 30))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))  # until the server closes
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"the body has more than 1048576 bytes" in answer


def test_a_body_that_grows_too_large_is_refused_on_the_way(live):
    (host, port), _ = live
    sent = 0

    def chunks():
        nonlocal sent
        while True:
            sent += 65536
            yield b" " * 65536

    with httpx.Client(timeout=10) as client:
        try:
            status = client.post(f"http://{host}:{port}/v1/models/toys:predict", content=chunks()).status_code
        except (httpx.WriteError, httpx.ReadError):  # the connection was closed while the client was still sending
            status = 413
    assert status == 413
    assert sent < 64 * MOST


def test_slow_bodies_do_not_fill_the_memory(service):
    """Clients that keep back the last byte of the largest body: one too many is refused."""
    full = 10_000
    small = Service(service.models, Metrics(), Limits(max_request_bytes=full, max_bytes_in_flight=5 * full))
    with served(application(small, max_request_bytes=full)) as address, ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(6)]
        for connection in slow:
            connection.sendall(head(full) + b" " * (full - 1))
        ready, _, _ = select.select(slow, [], [], 10)
        answer = ready[0].recv(65536)
        while b"}" not in answer:  # head and body may come apart
            answer += ready[0].recv(65536)
        assert b"HTTP/1.1 429 " in answer and b"retry-after: 1" in answer and b"(max_bytes_in_flight)" in answer
        assert len(ready) == 1
        for connection in slow:
            connection.close()
        url = f"http://{address[0]}:{address[1]}/v1/models/toys:predict"
        ends = time.monotonic() + 5
        while httpx.post(url, content=b'{"inputs": [1]}'.ljust(full)).status_code != 200:
            assert time.monotonic() < ends
    small.close()


def test_a_body_that_does_not_come(service):
    with (
        served(application(service, timeout=0.2)) as address,
        socket.create_connection(address, timeout=10) as connection,
    ):
        connection.sendall(head(100) + b'{"inst')
        answer = b"".join(iter(lambda: connection.recv(65536), b""))  # until the server closes
    assert answer.startswith(b"HTTP/1.1 504 ")


def test_a_packed_body_that_unfolds_too_large(client):
    bomb = gzip.compress(b" " * (MOST + 1))
    response = client.post("/v1/models/toys:predict", content=bomb, headers={"content-encoding": "gzip"})
    assert "the body has more than" in error_of((response.status_code, response.json()), 413)


@pytest.mark.parametrize(
    ("encoding", "body", "status", "words"),
    [
        ("gzip", b"plain", 400, "the body is not gzip"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-4], 400, "the body is not gzip"),
        ("gzip", b"", 400, "JSON Parse error"),
        ("br", b"plain", 415, "Content-Encoding br is not supported; send gzip or none"),
    ],
)
def test_bodies_that_are_not_packed_as_they_say(client, encoding, body, status, words):
    response = client.post("/v1/models/toys:predict", content=body, headers={"content-encoding": encoding})
    assert words in error_of((response.status_code, response.json()), status)


@pytest.mark.parametrize("body", [b'{"signature_name": "count", "inputs": 1000000}', b'{"inst'])
def test_a_client_that_goes_is_not_waited_for(live, body):
    """While the model runs, or while the rest of the body is awaited."""
    address, metrics = live
    labels = {"model": "toys", "method": "predict", "entrypoint": "REST", "code": "CANCELLED"}

    def cancelled():
        return metrics.registry.get_sample_value("bertline_requests_total", labels) or 0

    before = cancelled()
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head(46) + body)
        time.sleep(0.1)  # for the request to begin
    ends = time.monotonic() + 5
    while cancelled() == before:
        assert time.monotonic() < ends
        time.sleep(0.02)


# === Anything at all ===

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "a", "b64", "é"]), inner, max_size=3)
    ),
    max_leaves=12,
)
names = st.sampled_from(["signature_name", "instances", "inputs", "examples", "context"])
signatures = st.sampled_from(["serving_default", "pair", "scale", "echo", "shape", "large", "classify", "regress"])
fuzz = settings(deadline=None)  # examples: Hypothesis' default, or the profile's that the run asks for


def check_answer(response):
    assert response.status_code in (200, 400, 404, 501), response.text
    answer = json.loads(response.content)
    assert (list(answer) == ["error"]) == (response.status_code != 200)


@fuzz
@given(body=st.binary(max_size=200), method=st.sampled_from(["predict", "classify", "regress"]))
def test_any_bytes(client, body, method):
    check_answer(client.post(f"/v1/models/toys:{method}", content=body))


@fuzz
@given(
    members=st.dictionaries(names, json_values, max_size=3),
    signature=signatures,
    method=st.sampled_from(["predict", "classify", "regress"]),
)
def test_any_json(client, members, signature, method):
    body = json.dumps({"signature_name": signature, **members}).encode()
    check_answer(client.post(f"/v1/models/toys:{method}", content=body))


@fuzz
@given(path=st.text(max_size=20) | st.text("%/:aF0", max_size=20), post=st.booleans())
def test_any_path(client, path, post):
    quoted = quote(path.encode("utf-8", "surrogatepass"), safe="/:%")
    check_answer(client.request("POST" if post else "GET", f"/v1/models/{quoted}"))
