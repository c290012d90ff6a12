"""Arbitrary messages over gRPC: each gets an answer or an error that is the caller's, never the server's.

REST's part is in test_rest.py. `make fuzz` runs both for long.
"""

import grpc
import pytest
from factories import save_half_plus_model
from hypothesis import given, settings
from hypothesis import strategies as st

from bertline.serving.batching import BatchingOptions
from bertline.serving.protos import (
    SERVICES,
    ClassificationRequest,
    DataType,
    MultiInferenceRequest,
    PredictionServiceStub,
    PredictRequest,
    RegressionRequest,
)
from bertline.serving.server import Server

CALLERS_OWN = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}
METHODS = [
    f"/tensorflow.serving.{service}/{method}"
    for service, methods in SERVICES.items()
    for method in methods
    if method != "HandleReloadConfigRequest"  # it would do what the request says
]

fuzz = settings(deadline=None)  # examples: Hypothesis' default, or the profile's that the run asks for

names = st.sampled_from(["", "half_plus", "serving_default", "total", "regress", "classify", "x", "inputs", "y"]) | (
    st.text(max_size=8)
)
sizes = st.integers(-2, 4) | st.sampled_from([2**20, 2**40, 2**62, -(2**63)])


@pytest.fixture(scope="module")
def channel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half_plus")
    save_half_plus_model(folder / "1")
    batching = BatchingOptions(max_batch_size=64, allowed_batch_sizes=(4, 64), pad_variable_length_inputs=True)
    with (
        Server.of(folder, "half_plus", port=0, batching=batching) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield channel
        response = PredictionServiceStub(channel).Predict(half_plus_two(), timeout=20)
        assert list(response.outputs["y"].float_val) == [3.0]


def half_plus_two():
    message = PredictRequest()
    message.model_spec.name = "half_plus"
    tensor = message.inputs["x"]
    tensor.dtype = DataType.DT_FLOAT
    tensor.tensor_shape.dim.add(size=1)
    tensor.tensor_shape.dim.add(size=1)
    tensor.float_val.append(2.0)
    return message


def check(call):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code().name in CALLERS_OWN, f"{error.code().name}: {error.details()}"


@st.composite
def specs(draw, spec):
    spec.name = draw(st.just("half_plus") | names)
    spec.signature_name = draw(names)
    if draw(st.booleans()):
        spec.version.value = draw(st.integers(-1, 2))
    elif draw(st.booleans()):
        spec.version_label = draw(names)


@st.composite
def predict_requests(draw):
    message = PredictRequest()
    draw(specs(message.model_spec))
    message.output_filter.extend(draw(st.lists(names, max_size=2)))
    for name in draw(st.lists(st.just("x") | names, max_size=2)):
        tensor = message.inputs[name]
        tensor.dtype = draw(st.just(DataType.DT_FLOAT) | st.integers(0, 130))
        tensor.tensor_shape.unknown_rank = draw(st.sampled_from([False, False, False, True]))
        for size in draw(st.lists(sizes, max_size=3)):
            tensor.tensor_shape.dim.add(size=size)
        tensor.float_val.extend(draw(st.lists(st.floats(width=32), max_size=5)))
        tensor.string_val.extend(draw(st.lists(st.binary(max_size=5), max_size=3)))
        tensor.half_val.extend(draw(st.lists(st.integers(0, 2**31 - 1), max_size=3)))
        tensor.tensor_content = draw(st.just(b"") | st.binary(max_size=16))
    return message


@st.composite
def example_requests(draw):
    """A request of any of the three methods that take examples."""
    kind = draw(st.sampled_from([ClassificationRequest, RegressionRequest, MultiInferenceRequest]))
    message = kind()
    if kind is MultiInferenceRequest:
        for _ in range(draw(st.integers(0, 2))):
            task = message.tasks.add(method_name=f"tensorflow/serving/{draw(st.sampled_from(['classify', 'regress']))}")
            draw(specs(task.model_spec))
    else:
        draw(specs(message.model_spec))
    for _ in range(draw(st.integers(0, 2))):
        example = message.input.example_list.examples.add()
        for name in draw(st.lists(st.just("x") | names, max_size=2)):
            feature = example.features.feature[name]
            if draw(st.booleans()):
                feature.float_list.value.extend(draw(st.lists(st.floats(width=32), max_size=2)))
            else:
                feature.bytes_list.value.extend(draw(st.lists(st.binary(max_size=4), max_size=2)))
    return message


@fuzz
@given(method=st.sampled_from(METHODS), message=st.binary(max_size=200))
def test_any_bytes_over_grpc(channel, method, message):
    check(lambda: channel.unary_unary(method)(message, timeout=20))


@fuzz
@given(message=predict_requests())
def test_any_predict_request(channel, message):
    check(lambda: PredictionServiceStub(channel).Predict(message, timeout=20))


@fuzz
@given(message=example_requests())
def test_any_example_request(channel, message):
    stub = PredictionServiceStub(channel)
    calls = {ClassificationRequest: stub.Classify, RegressionRequest: stub.Regress}
    check(lambda: calls.get(type(message), stub.MultiInference)(message, timeout=20))
