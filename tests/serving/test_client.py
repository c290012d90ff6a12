import time
from array import array
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from serving.client import Client, ServingError
from serving.protos import (
    PredictionServiceServicer,
    PredictResponse,
    add_PredictionServiceServicer_to_server,
)

FLOAT, STRING = 1, 7


class Recorder(PredictionServiceServicer):
    """Answers "positive" to every text; first with the codes it was given, if any."""

    def __init__(self):
        self.requests = []
        self.codes = []
        self.seconds = 0.0
        self.as_content = False

    def Predict(self, request, context):
        self.requests.append(request)
        if self.codes:
            context.abort(self.codes.pop(0), "said the recorder")
        time.sleep(self.seconds)
        rows = len(request.inputs["text"].string_val)
        response = PredictResponse()
        response.outputs["label"].string_val.extend([b"positive"] * rows)
        response.outputs["classes"].string_val.extend([b"negative", b"positive"] * rows)
        probabilities = array("f", [0.25, 0.75] * rows)
        if self.as_content:
            response.outputs["probabilities"].tensor_content = probabilities.tobytes()
        else:
            response.outputs["probabilities"].float_val.extend(probabilities)
        return response


@pytest.fixture
def recorder():
    service = Recorder()
    server = grpc.server(ThreadPoolExecutor(2))
    add_PredictionServiceServicer_to_server(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield service
    server.stop(0).wait()


def texts_sent(recorder, name="text"):
    return [[value.decode() for value in request.inputs[name].string_val] for request in recorder.requests]


def test_batches_keep_the_order(recorder):
    with Client(recorder.address, "mood", batch_size=2) as client:
        predictions = client.predict(["a", "b", "ç", "d", "e"])
    assert texts_sent(recorder) == [["a", "b"], ["ç", "d"], ["e"]]
    assert len(predictions) == 5
    assert predictions[0].label == "positive"
    assert predictions[0].probability == 0.75
    assert predictions[0].probabilities == {"negative": 0.25, "positive": 0.75}


def test_pairs_go_with_their_texts(recorder):
    with Client(recorder.address, "mood", batch_size=2) as client:
        client.predict(["a", "b", "c"], ["x", "y", "z"])
        with pytest.raises(ValueError, match="2 texts and 1 pairs"):
            client.predict(["a", "b"], ["x"])
    assert texts_sent(recorder, "text_pair") == [["x", "y"], ["z"]]


def test_reads_tensor_content_too(recorder):
    recorder.as_content = True
    with Client(recorder.address, "mood") as client:
        assert client.predict(["a"])[0].probabilities == {"negative": 0.25, "positive": 0.75}


def test_nothing_to_predict_sends_nothing(recorder):
    with Client(recorder.address, "mood") as client:
        assert client.predict([]) == []
        with pytest.raises(ValueError, match="a list of strings"):
            client.predict("a")
    assert recorder.requests == []


def test_unavailable_is_tried_again(recorder):
    recorder.codes = [grpc.StatusCode.UNAVAILABLE] * 2
    with Client(recorder.address, "mood") as client:
        assert client.predict(["a"])[0].label == "positive"
    assert len(recorder.requests) == 3


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL", "RESOURCE_EXHAUSTED"])
def test_other_errors_are_not_tried_again(recorder, code):
    recorder.codes = [grpc.StatusCode[code]] * 2
    with (
        Client(recorder.address, "mood") as client,
        pytest.raises(ServingError, match=f"{code}: said the rec") as caught,
    ):
        client.predict(["a"])
    assert caught.value.code.name == code
    assert len(recorder.requests) == 1


def test_deadline(recorder):
    recorder.seconds = 1.0
    with (
        Client(recorder.address, "mood", timeout=0.1) as client,
        pytest.raises(ServingError, match=r"within 0\.1 s") as e,
    ):
        client.predict(["a"])
    assert e.value.code == grpc.StatusCode.DEADLINE_EXCEEDED


def test_nobody_there_says_how_to_start_a_server(recorder):
    with Client("127.0.0.1:1", "mood") as client:
        with pytest.raises(
            ServingError, match=r"no model server answers at 127\.0\.0\.1:1: start it with `bertline serve`"
        ):
            client.predict(["a"])
        with pytest.raises(ServingError, match="no model server answers"):
            client.wait_until_ready(0.5)
