"""Signatures that fit no batch: scalars, any rank, no input, defaults, ragged tensors; batched server or not."""

import grpc
import httpx
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from bertline.serving.batching import BatchingOptions
from bertline.serving.protos import PredictionServiceStub, TensorProto
from bertline.serving.server import Server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    class Odd(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([], tf.string, "text")])
        def upper(self, text):
            return {"upper": tf.strings.upper(text), "length": tf.strings.length(text)}

        @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "x")])
        def next(self, x):
            return {"y": x + 1}

        @tf.function(input_signature=[])
        def vocabulary(self):
            return {"words": tf.boolean_mask(["a", "b", "c"], [True, False, True])}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x"), tf.TensorSpec([None], tf.float32, "by")])
        def scale(self, x, by=tf.constant([3.0])):
            return {"y": x * by}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
        def words(self, text):
            split = tf.strings.split(text)
            return {"words": split, "count": split.row_lengths()}

    odd = Odd()
    names = ("upper", "next", "vocabulary", "scale", "words")
    folder = tmp_path_factory.mktemp("odd")
    tf.saved_model.save(odd, str(folder / "1"), signatures={name: getattr(odd, name) for name in names})
    return folder


@pytest.fixture(scope="module", params=[None, BatchingOptions(max_batch_size=8, allowed_batch_sizes=(4, 8))])
def server(folder, request):
    with Server.of(folder, "odd", port=0, rest_port=0, batching=request.param) as server:
        yield server


@pytest.fixture(scope="module")
def predict(server):
    """Signature, inputs and an output filter -> output name -> array."""
    with grpc.insecure_channel(server.address) as channel:
        stub = PredictionServiceStub(channel)

        def call(signature, output_filter=(), **inputs):
            message = PredictRequest(output_filter=output_filter)
            message.model_spec.name, message.model_spec.signature_name = "odd", signature
            for name, value in inputs.items():
                proto = value if isinstance(value, TensorProto) else tf.make_tensor_proto(value)
                message.inputs[name].CopyFrom(proto)
            return {name: tf.make_ndarray(tensor) for name, tensor in stub.Predict(message, timeout=20).outputs.items()}

        yield call


def rest(server, signature, inputs):
    body = {"signature_name": signature, "inputs": inputs}
    return httpx.post(f"{server.rest_address}/v1/models/odd:predict", json=body).json()


def test_a_single_string(server, predict):
    outputs = predict("upper", text=b"a\0b\0")
    assert (outputs["upper"].item(), outputs["upper"].shape, outputs["length"].item()) == (b"A\0B\0", (), 4)
    assert rest(server, "upper", "ab") == {"outputs": {"length": 2, "upper": "AB"}}


@pytest.mark.parametrize("x", [2.0, [2.0, 3.0], [[[2.0]], [[3.0]]]])
def test_any_rank(predict, x):
    assert predict("next", x=np.float32(x))["y"].tolist() == (np.float32(x) + 1).tolist()


def test_no_input(server, predict):
    assert predict("vocabulary")["words"].tolist() == [b"a", b"c"]
    assert rest(server, "vocabulary", {}) == {"outputs": ["a", "c"]}


def test_an_input_left_out_has_the_signatures_default(predict):
    assert predict("scale", x=np.float32([2.0]))["y"].tolist() == [6.0]
    assert predict("scale", x=np.float32([2.0]), by=np.float32([5.0]))["y"].tolist() == [10.0]
    with pytest.raises(grpc.RpcError) as caught:
        predict("scale", by=np.float32([5.0]))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Missing but required: {x}" in caught.value.details()


def test_a_ragged_output_is_refused_by_name_and_can_be_left_out(predict):
    with pytest.raises(grpc.RpcError) as caught:
        predict("words", text=[b"one two"])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "output words is a sparse or ragged tensor" in caught.value.details()
    assert predict("words", ["count"], text=[b"one two", b"three"])["count"].tolist() == [2, 1]


def test_strings_in_tensor_content(predict):
    packed = tf.make_tensor_proto([b"one two", b""])
    packed.ClearField("string_val")
    packed.tensor_content = b"\x07\x00one two"
    assert predict("words", ["count"], text=packed)["count"].tolist() == [2, 0]
    packed.tensor_content = b"\x08\x00one two"
    with pytest.raises(grpc.RpcError) as caught:
        predict("words", ["count"], text=packed)
    assert "input text: tensor parsing error: a string tensor of 9 bytes should have 10" in caught.value.details()
