"""No text of a request is in what a server process says, whatever happens to the request."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest

from bertline.serving.protos import Example, PredictionServiceStub, PredictRequest
from bertline.serving.runtime import tf

ROOT = Path(__file__).parents[2]
SECRET = "sekret-words"  # unlike "jane-doe", this is by no accident a serialized tf.Example


@contextmanager
def server(folder, log):
    """A server process with an ordinary environment: (gRPC address, REST address)."""
    quiet = "TF_CPP_MIN_LOG_LEVEL"  # the tests set it, and people who start a server do not
    environment = {name: value for name, value in os.environ.items() if name != quiet}
    flags = [f"--model_base_path={folder}", "--model_name=mood", "--port=-1", "--rest_api_port=-1"]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bertline.serving.server", *flags],
            cwd=ROOT,
            env=environment,
            stdout=-1,
            stderr=errors,
        )
        try:
            yield (process.stdout.readline().split()[-1].decode(), process.stdout.readline().split()[-1].decode())
        finally:
            process.terminate()
            rest, _ = process.communicate(timeout=60)
            log.write_bytes(log.read_bytes() + rest)


def predict(stub, signature: str, **inputs) -> str:
    """The code and words of a request's end; "" for an answer."""
    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "mood", signature
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    try:
        stub.Predict(request, timeout=30)
    except grpc.RpcError as error:
        return f"{error.code().name} {error.details()}"
    return ""


def test_no_text_of_a_request_is_logged(mood_models, tmp_path):
    folder, log = tmp_path / "mood", tmp_path / "server.log"
    folder.mkdir()
    (folder / "1").symlink_to(mood_models["good"])
    twice = Example()
    twice.features.feature["text"].bytes_list.value.extend([SECRET.encode()] * 2)
    with server(folder, log) as (address, rest), grpc.insecure_channel(address) as channel:
        stub = PredictionServiceStub(channel)
        assert predict(stub, "text", text=[SECRET]) == ""
        assert SECRET in predict(
            stub, "serving_default", examples=[SECRET]
        )  # the error goes to the caller, who knows the text
        assert "INVALID_ARGUMENT" in predict(stub, "serving_default", examples=[twice.SerializeToString()])
        assert "INVALID_ARGUMENT" in predict(stub, "text", text=[SECRET], other=[SECRET])
        assert "FAILED_PRECONDITION" in predict(stub, SECRET, text=["a"])
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(b"\x0a\xff" + SECRET.encode())
        with httpx.Client(base_url=rest, trust_env=False) as http:
            path = "/v1/models/mood:predict"
            assert http.post(path, json={"signature_name": "text", "instances": [SECRET]}).status_code == 200
            for body in (f'{{"instances": ["{SECRET}"]}}', f'{{"instances": ["{SECRET}"', f'{{"{SECRET}": 1}}'):
                assert http.post(path, content=body).status_code == 400
            assert http.get(f"/v1/models/{SECRET}").status_code == 404
    said = log.read_text(errors="replace")
    assert "INFO serving " in said  # the log is the server's
    assert SECRET not in said
