"""What TF Serving's own tests of its server expect of a model server, over models like theirs: y = x / 2 + 2.

The models are made by TensorFlow 1's and 2's APIs and stand in zero-padded version folders, as TF Serving's do.
"""

import logging
import threading
import time
from contextlib import contextmanager

import grpc
import httpx
import numpy as np
import pytest
import tensorflow as tf
from factories import save_half_plus_model
from google.protobuf import text_format

from bertline.serving import configuration, flags
from bertline.serving.options import ServerOptions
from bertline.serving.protos import (
    ClassificationRequest,
    Example,
    GetModelStatusRequest,
    ModelServiceStub,
    MultiInferenceRequest,
    PredictionServiceStub,
    PredictRequest,
    RegressionRequest,
    SavedModel,
)
from bertline.serving.server import Server, main
from bertline.serving.versions import Polling


def save_half_plus_two_of_tf2(folder, addend=2.0):
    """TensorFlow 2 gives each signature an input tensor of its own; x has the shape [?, 1]."""
    module = tf.Module()
    module.half = tf.Variable(0.5)

    def y(x):
        return module.half * x + addend

    def parsed(examples):
        return tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]

    examples = tf.TensorSpec([None], tf.string, "inputs")
    signatures = {
        "serving_default": tf.function(lambda x: {"y": y(x)}, [tf.TensorSpec([None, 1], tf.float32, "x")]),
        "regress": tf.function(lambda inputs: {"outputs": y(parsed(inputs))}, [examples]),
        "scores_only": tf.function(lambda inputs: {"scores": y(parsed(inputs))}, [examples]),
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)


SAVE = {"TensorFlow 1": save_half_plus_model, "TensorFlow 2": save_half_plus_two_of_tf2}


@pytest.fixture(scope="module", params=SAVE)
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("half_plus_two")
    SAVE[request.param](folder / "00000123")
    with Server.of(folder, "default", port=0, rest_port=0, socket_path=str(folder / "grpc")) as server:
        yield server


@pytest.fixture(scope="module", params=["port", "socket"])
def stub(server, request):
    address = server.address if request.param == "port" else f"unix:{server.options.socket_path}"
    with grpc.insecure_channel(address) as channel:
        yield PredictionServiceStub(channel)


@pytest.fixture
def http(server):
    with httpx.Client(base_url=server.rest_address, trust_env=False, timeout=30) as http:
        yield http


def predict(*x, model="default"):
    message = PredictRequest()
    message.model_spec.name = model
    message.inputs["x"].CopyFrom(tf.make_tensor_proto(np.array(x, np.float32)))
    return message


def with_x(message, number):
    example = Example()
    example.features.feature["x"].float_list.value.append(number)
    message.input.example_list.examples.append(example)
    return message


def refused(call, message):
    with pytest.raises(grpc.RpcError) as caught:
        call(message, timeout=20)
    return caught.value.code().name, caught.value.details()


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


# === One model, over gRPC and REST ===


def test_status_names_the_version_of_a_padded_folder(server, http):
    with grpc.insecure_channel(server.address) as channel:
        message = GetModelStatusRequest()
        message.model_spec.name = "default"
        (status,) = ModelServiceStub(channel).GetModelStatus(message).model_version_status
    assert (status.version, status.state, status.status.error_code, status.status.error_message) == (123, 30, 0, "")
    (status,) = http.get("/v1/models/default").json()["model_version_status"]
    assert status == {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}


def test_a_tensor_without_the_second_dimension_is_the_graphs_business(stub):
    response = stub.Predict(predict(2.0))
    assert list(response.outputs["y"].float_val) == [3.0]
    assert [dimension.size for dimension in response.outputs["y"].tensor_shape.dim] == [1]
    assert (response.model_spec.name, response.model_spec.version.value) == ("default", 123)


def test_rows_and_columns_of_bare_numbers(http):
    assert http.post("/v1/models/default:predict", json={"instances": [2.0, 3.0, 4.0]}).json() == {
        "predictions": [3.0, 3.5, 4.0]
    }
    assert http.post("/v1/models/default:predict", json={"inputs": [2.0, 3.0, 4.0]}).json() == {
        "outputs": [3.0, 3.5, 4.0]
    }
    assert http.post("/v1/models/default/versions/123:predict", json={"instances": [[2.0], [3.0]]}).json() == {
        "predictions": [[3.0], [3.5]]
    }


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        # What float32 cannot hold is rounded, with and without a fraction; what is out of its range is infinite or 0.
        (b"[1435774380, 1435774380.0]", [1435774336 / 2 + 2] * 2),
        (b"[1.7976931348623157e308, -1.7976931348623157e308]", [float("inf"), float("-inf")]),
        (b"[2.2250738585072014e-308, -2.2250738585072014e-308, -0.0]", [2.0, 2.0, 2.0]),
        (b"[1, 2.0, 5.5, 0]", [2.5, 3.0, 4.75, 2.0]),
    ],
)
def test_numbers_of_any_form_become_the_signatures(http, sent, answer):
    response = http.post("/v1/models/default:predict", content=b'{"instances": ' + sent + b"}")
    assert [np.float32(value) for value in response.json()["predictions"]] == [np.float32(value) for value in answer]


def test_a_result_without_a_label_has_an_empty_one(http):
    body = {"signature_name": "scores_only", "examples": [{"x": 20.0}]}
    assert http.post("/v1/models/default:classify", json=body).json() == {"results": [[["", 12.0]]]}
    mixed = {"signature_name": "regress", "context": {"seen": [True, 1, False]}, "examples": [{"x": 80.0}]}
    assert http.post("/v1/models/default:regress", json=mixed).json() == {"results": [42.0]}


def test_answers_without_rows_and_with_unlike_rows(tmp_path):
    x = tf.TensorSpec(None, tf.float32, "x")
    none = tf.function(lambda x: {"a": tf.zeros([0, 3]), "b": tf.zeros([0, 1, 2])}, [x])
    unlike = tf.function(lambda x: {"a": x, "b": tf.concat([x, x], 0)}, [x])
    imaginary = tf.function(lambda x: {"a": tf.complex(x, x)}, [x])
    signatures = {"serving_default": none, "unlike": unlike, "imaginary": imaginary}
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"), signatures=signatures)
    with Server.of(tmp_path, "default", port=0, rest_port=0) as server:

        def answered(**body):
            body = {"instances": [1.0], **body}
            return httpx.post(f"{server.rest_address}/v1/models/default:predict", json=body, trust_env=False).json()

        assert answered() == {"predictions": []}
        assert "inconsistent batch size: a has 1, b has 2" in answered(signature_name="unlike")["error"]
        assert "tensor type: complex64" in answered(signature_name="imaginary")["error"]


def test_a_label_that_is_not_there_is_the_callers_error(http, stub):
    answer = http.post("/v1/models/default/labels/nil:predict", json={"instances": [1.0]})
    assert answer.status_code == 400 and "Unrecognized servable version label: nil" in answer.json()["error"]
    message = predict(1.0)
    message.model_spec.version_label = "nil"
    assert refused(stub.Predict, message)[0] == "INVALID_ARGUMENT"


def test_of_two_members_with_one_name_the_last_counts(http):
    body = b'{"instances": [2.0], "instances": [4.0]}'
    assert http.post("/v1/models/default:predict", content=body).json() == {"predictions": [4.0]}


def test_classify_regress_and_both_at_once(stub):
    classify, regress = ClassificationRequest(), RegressionRequest()
    classify.model_spec.name = regress.model_spec.name = "default"
    classify.model_spec.signature_name, regress.model_spec.signature_name = "scores_only", "regress"
    ((only,),) = [row.classes for row in stub.Classify(with_x(classify, 2.0)).result.classifications]
    assert only.score == 3.0
    assert [row.value for row in stub.Regress(with_x(regress, 2.0)).result.regressions] == [3.0]

    both = MultiInferenceRequest()
    for method, signature in (("regress", "regress"), ("classify", "scores_only")):
        task = both.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "default", signature
    regressed, classified = stub.MultiInference(with_x(both, 2.0)).results
    assert regressed.regression_result.regressions[0].value == 3.0
    assert classified.classification_result.classifications[0].classes[0].score == 3.0


def test_what_the_graph_refuses_is_the_callers_error(tmp_path):
    """The server does not compare shapes; the graph does, in its own words."""
    x, by = tf.TensorSpec([None, 2], tf.float32, "x"), tf.TensorSpec([2, 1], tf.float32, "by")
    product = tf.function(lambda x, by: {"y": tf.matmul(x, by)}, [x, by])
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"), signatures={"serving_default": product})
    with Server.of(tmp_path, "default", port=0) as server, grpc.insecure_channel(server.address) as channel:
        message = predict([1.0, 2.0, 3.0])
        message.inputs["by"].CopyFrom(tf.make_tensor_proto(np.ones([2, 1], np.float32)))
        code, details = refused(PredictionServiceStub(channel).Predict, message)
        assert code == "INVALID_ARGUMENT"
        assert "Matrix size-incompatible" in details and "model default, version 1" in details
        message.inputs["x"].CopyFrom(tf.make_tensor_proto(np.ones([3, 2], np.float32)))
        assert list(PredictionServiceStub(channel).Predict(message).outputs["y"].float_val) == [2.0] * 3


def test_an_input_that_is_an_output_too_is_refused_in_words(tmp_path):
    """TensorFlow 1's API can name one tensor as both, which TensorFlow does not fetch where it is fed."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None], "x")
        tf.compat.v1.saved_model.simple_save(session, str(tmp_path / "1"), {"x": x}, {"y": x})
    with Server.of(tmp_path, "default", port=0) as server, grpc.insecure_channel(server.address) as channel:
        code, details = refused(PredictionServiceStub(channel).Predict, predict(1.0))
        assert code == "INVALID_ARGUMENT" and "both fed and fetched" in details


def test_a_fixed_first_dimension_is_no_batch(tmp_path):
    total = tf.function(lambda x: {"total": tf.reduce_sum(x)}, [tf.TensorSpec([2048], tf.float32, "x")])
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"), signatures={"serving_default": total})
    with (
        Server.of(tmp_path, "default", port=0, rest_port=0) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        response = PredictionServiceStub(channel).Predict(predict(*[1.0] * 2048))
        assert list(response.outputs["total"].float_val) == [2048.0]
        url = f"{server.rest_address}/v1/models/default:predict"
        assert httpx.post(url, json={"inputs": [1.0] * 2048}, trust_env=False).json() == {"outputs": 2048.0}
        in_rows = httpx.post(url, json={"instances": [1.0] * 2048}, trust_env=False)
        assert in_rows.status_code == 400 and "output total is a scalar and has no rows" in in_rows.json()["error"]


# === Version folders ===


def test_of_two_folders_with_one_number_one_is_served(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    save_half_plus_model(tmp_path / "0007", 3.0)
    save_half_plus_model(tmp_path / "7", 2.0)
    save_half_plus_model(tmp_path / "9223372036854775808")  # above int64: no version
    with (
        Server.of(tmp_path, "default", port=0, polling=Polling(0.05)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        time.sleep(0.3)
        response = PredictionServiceStub(channel).Predict(predict(2.0))
        assert (response.model_spec.version.value, list(response.outputs["y"].float_val)) == (7, [3.0])
    said = [record.getMessage() for record in caplog.records if "0007" in record.getMessage()]
    assert said == [f"{tmp_path}: version 7 is served from 7, and not from 0007, which has the same number"]


def test_a_saved_model_in_text_form_is_a_model(tmp_path):
    save_half_plus_model(tmp_path / "1")
    file = tmp_path / "1" / "saved_model.pb"
    file.with_suffix(".pbtxt").write_text(text_format.MessageToString(SavedModel.FromString(file.read_bytes())))
    file.unlink()
    with Server.of(tmp_path, "default", port=0) as server, grpc.insecure_channel(server.address) as channel:
        assert list(PredictionServiceStub(channel).Predict(predict(2.0)).outputs["y"].float_val) == [3.0]


def test_a_signature_that_cannot_take_a_blank_row_does_not_keep_a_version_out(tmp_path):
    tf1 = tf.compat.v1
    with tf.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None, 1])
        variant = tf1.placeholder(tf.variant, [None])
        info = tf1.saved_model.build_tensor_info
        signatures = {
            "serving_default": tf1.saved_model.build_signature_def({"x": info(x)}, {"y": info(x / 2 + 2)}, "predict"),
            "odd": tf1.saved_model.build_signature_def(
                {"variant": info(variant)}, {"same": info(tf.shape(variant))}, "predict"
            ),
        }
        builder = tf1.saved_model.Builder(str(tmp_path / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()
    with Server.of(tmp_path, "default", port=0) as server, grpc.insecure_channel(server.address) as channel:
        assert list(PredictionServiceStub(channel).Predict(predict(2.0)).outputs["y"].float_val) == [3.0]


# === The model config file ===


def entry(name, folder):
    return f'config {{ name: "{name}" base_path: "{folder}/{name}" model_platform: "tensorflow" }}'


@contextmanager
def two_models(folder, first, poll=0.05):
    """A server by a config file, with `first` as its text; yields the file and an answer of y to x = 2 by model."""
    save_half_plus_model(folder / "half_plus_two" / "00000123", 2.0)
    save_half_plus_two_of_tf2(folder / "half_plus_three" / "00000123", 3.0)
    file = folder / "models.config"
    file.write_text(first)
    options = ServerOptions(models_file=file, models_file_poll_seconds=poll, port=0)
    with Server(options) as server, grpc.insecure_channel(server.address) as channel:

        def answer(model):
            try:
                return list(PredictionServiceStub(channel).Predict(predict(2.0, model=model)).outputs["y"].float_val)
            except grpc.RpcError as error:
                return error.code().name

        yield file, answer


def test_a_config_with_two_models(tmp_path):
    both = f"model_config_list: {{ {entry('half_plus_two', tmp_path)} {entry('half_plus_three', tmp_path)} }}"
    with two_models(tmp_path, both) as (_, answer):
        assert (answer("half_plus_two"), answer("half_plus_three")) == ([3.0], [4.0])


def test_an_edited_config_is_taken_up(tmp_path):
    first = f"model_config_list: {{ {entry('half_plus_two', tmp_path)} }}"
    with two_models(tmp_path, first) as (file, answer):
        assert (answer("half_plus_two"), answer("half_plus_three")) == ([3.0], "NOT_FOUND")
        file.write_text(f"model_config_list: {{ {entry('half_plus_three', tmp_path)} }}")
        wait_for(lambda: answer("half_plus_three") == [4.0])
        assert answer("half_plus_two") == "NOT_FOUND"


def test_a_config_edited_while_the_server_loads_is_taken_up(tmp_path, monkeypatch):
    both = f"model_config_list: {{ {entry('half_plus_two', tmp_path)} {entry('half_plus_three', tmp_path)} }}"
    load = tf.compat.v1.saved_model.load
    edited = threading.Event()

    def edit_meanwhile(*arguments):
        if not edited.is_set():
            (tmp_path / "models.config").write_text(both)
            edited.set()
        return load(*arguments)

    monkeypatch.setattr(tf.compat.v1.saved_model, "load", edit_meanwhile)
    with two_models(tmp_path, f"model_config_list: {{ {entry('half_plus_two', tmp_path)} }}") as (_, answer):
        wait_for(lambda: answer("half_plus_three") == [4.0])


def test_a_fault_while_the_config_is_read_is_logged_whole_and_the_watch_goes_on(tmp_path, monkeypatch, caplog):
    read, faulty = configuration.read_text_proto, threading.Event()

    def read_or_fail(*arguments):
        if faulty.is_set():
            raise ValueError("a fault of ours, or of a library")
        return read(*arguments)

    monkeypatch.setattr(configuration, "read_text_proto", read_or_fail)
    first = f"model_config_list: {{ {entry('half_plus_two', tmp_path)} }}"
    with two_models(tmp_path, first) as (file, answer):
        faulty.set()
        wait_for(lambda: "a fault of ours" in caplog.text)
        assert "Traceback" in caplog.text and "read_or_fail" in caplog.text
        faulty.clear()
        file.write_text(f"model_config_list: {{ {entry('half_plus_three', tmp_path)} }}")
        wait_for(lambda: answer("half_plus_three") == [4.0])


@pytest.mark.parametrize("text", ["model_config_list: {", 'model_config_list: { config { nme: "a" } }', "improper"])
def test_a_config_that_does_not_parse_ends_the_server_with_its_reason(tmp_path, capfd, text):
    (tmp_path / "models.config").write_text(text)
    assert main([f"--model_config_file={tmp_path}/models.config", "--port=-1"]) == 1
    reason = capfd.readouterr().err.splitlines()[-1]
    assert reason.startswith("Error parsing text-format tensorflow.serving.ModelServerConfig: ")
    assert f"{tmp_path}/models.config" in reason


# === Flags ===


@pytest.mark.parametrize(
    "flag",
    [
        "use_alts_credentials", "platform_config_file", "per_process_gpu_memory_fraction", "prefer_tflite_model",
        "num_tflite_pools", "enable_per_model_batching_parameters", "enable_profiler", "xla_cpu_compilation_enabled",
        "thread_pool_factory_config_file", "mixed_precision",
    ],
)  # fmt: skip
def test_a_flag_without_a_meaning_here_is_refused_with_the_reason(flag, capsys):
    with pytest.raises(SystemExit):
        main([f"--{flag}=true", "--model_base_path=/models/x"])
    assert f"--{flag} is not supported: " in capsys.readouterr().err


def test_flags_for_what_this_server_does_by_itself_change_nothing():
    names = ("rest_api_num_threads", "grpc_max_threads", "num_load_threads", "num_unload_threads")
    accepted = [f"--{name}=4" for name in names] + ["--flush_filesystem_caches=false", "--skip_initialize_tpu"]
    assert flags.parse(["--model_base_path=/x", *accepted]) == flags.parse(["--model_base_path=/x"])
