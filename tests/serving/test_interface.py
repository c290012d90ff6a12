"""TF Serving's interface from outside: tensorflow-serving-api's stubs against SavedModels that are not ours."""

import threading

import grpc
import httpx
import numpy as np
import pytest
import tensorflow as tf
from factories import save_half_plus_model, save_mood_model
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from bertline.serving.keys import add_key
from bertline.serving.options import ServerOptions
from bertline.serving.server import Server
from bertline.serving.versions import Polling


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models with two versions each: half_plus adds 2 and 3, mood looks for "good" and "great"."""
    folder = tmp_path_factory.mktemp("models")
    save_half_plus_model(folder / "half_plus" / "1", 2.0)
    save_half_plus_model(folder / "half_plus" / "2", 3.0)
    save_mood_model(folder / "mood" / "1", "good")
    save_mood_model(folder / "mood" / "2", "great")
    return folder


def config(models, half_plus="", mood=""):
    """A ModelServerConfig of both models, with more text-proto lines for each."""
    return text_format.Parse(
        f"""
        model_config_list {{
          config {{ name: "half_plus" base_path: "{models}/half_plus" model_platform: "tensorflow" {half_plus} }}
          config {{ name: "mood" base_path: "{models}/mood" model_platform: "tensorflow" {mood} }}
        }}""",
        ModelServerConfig(),
    )


BOTH = """model_version_policy { all {} }
          version_labels { key: 'stable' value: 1 } version_labels { key: 'canary' value: 2 }"""


@pytest.fixture(scope="module")
def server(models):
    with Server(ServerOptions(models=config(models, BOTH), port=0)) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def model_stub(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def example(x):
    feature = tf.train.Feature(float_list=tf.train.FloatList(value=[x]))
    return tf.train.Example(features=tf.train.Features(feature={"x": feature}))


def predict(x, version=None, label=None, signature="", model="half_plus"):
    message = predict_pb2.PredictRequest()
    name(message.model_spec, model, signature, version, label)
    message.inputs["x"].CopyFrom(tf.make_tensor_proto(np.asarray(x, np.float32)))
    return message


def name(spec, model="half_plus", signature="", version=None, label=None):
    spec.name, spec.signature_name = model, signature
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label


def with_examples(message, signature, *numbers):
    name(message.model_spec, signature=signature)
    for number in numbers:
        message.input.example_list.examples.append(example(number))
    return message


def refused(call, message):
    with pytest.raises(grpc.RpcError) as caught:
        call(message, timeout=20)
    return caught.value.code().name, caught.value.details()


# === Predict on a TensorFlow 1 model ===


def test_half_plus_two(stub):
    response = stub.Predict(predict([[1.0, 2.0, 5.0]], version=1))
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [[2.5, 3.0, 4.5]]


def test_the_newest_version_answers_unless_a_version_or_a_label_is_named(stub):
    def answered(**spec):
        response = stub.Predict(predict([[0.0]], **spec))
        return response.model_spec.version.value, float(tf.make_ndarray(response.outputs["y"])[0, 0])

    assert answered() == (2, 3.0)
    assert answered(version=1) == (1, 2.0)
    assert answered(label="stable") == (1, 2.0)
    assert answered(label="canary") == (2, 3.0)
    code, details = refused(stub.Predict, predict([[0.0]], label="beta"))
    assert code == "INVALID_ARGUMENT"
    assert "Unrecognized servable version label: beta." in details and "labels canary, stable" in details


def test_a_signature_without_a_batch_dimension(stub):
    response = stub.Predict(predict([[1.0], [2.0]], version=1, signature="total"))
    assert tf.make_ndarray(response.outputs["total"]).tolist() == 5.5
    assert response.outputs["total"].tensor_shape.dim == []


def test_nan_and_infinity_pass_through(stub):
    response = stub.Predict(predict([[float("nan"), float("inf"), -float("inf")]]))
    assert np.isnan(response.outputs["y"].float_val[0])
    assert response.outputs["y"].float_val[1:] == [float("inf"), -float("inf")]


def test_answers_as_tensor_content(models):
    options = ServerOptions(models=config(models), port=0, rest_port=0, as_content=True)
    with Server(options) as server, grpc.insecure_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        number = stub.Predict(predict([[1.0], [3.0]])).outputs["y"]
        message = predict_pb2.PredictRequest()
        name(message.model_spec, "mood", "text")
        message.inputs["text"].CopyFrom(tf.make_tensor_proto(["a great day"]))
        label = stub.Predict(message).outputs["label"]
        body = {"signature_name": "text", "instances": ["a great day"]}
        answer = httpx.post(f"{server.rest_address}/v1/models/mood:predict", json=body).json()
    assert answer["predictions"][0]["label"] == "positive"
    assert not number.float_val and tf.make_ndarray(number).tolist() == [[3.5], [4.5]]
    assert not label.string_val and label.tensor_content == b"\x08positive"  # its length before it


# === Classify, Regress, MultiInference ===


def test_regress(stub):
    response = stub.Regress(with_examples(regression_pb2.RegressionRequest(), "regress", 2.0, 4.0))
    assert [regression.value for regression in response.result.regressions] == [4.0, 5.0]
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (2, "regress")


def test_classify(stub):
    response = stub.Classify(with_examples(classification_pb2.ClassificationRequest(), "classify", 2.0, 4.0))
    assert [[(c.label, c.score) for c in row.classes] for row in response.result.classifications] == [
        [("half-plus", 4.0)],
        [("half-plus", 5.0)],
    ]
    scores = stub.Classify(with_examples(classification_pb2.ClassificationRequest(), "scores_only", 2.0))
    assert [(c.label, c.score) for c in scores.result.classifications[0].classes] == [("", 4.0)]


def test_a_context_gives_features_to_every_example(stub):
    message = regression_pb2.RegressionRequest()
    name(message.model_spec, signature="regress")
    message.input.example_list_with_context.context.CopyFrom(example(6.0))
    message.input.example_list_with_context.examples.extend([tf.train.Example(), tf.train.Example()])
    assert [regression.value for regression in stub.Regress(message).result.regressions] == [6.0, 6.0]


def test_multi_inference_runs_both_over_the_same_examples(stub):
    message = inference_pb2.MultiInferenceRequest()
    for method in ("classify", "regress"):
        task = message.tasks.add(method_name=f"tensorflow/serving/{method}")
        name(task.model_spec, signature=method)
    message.input.example_list.examples.append(example(2.0))
    classified, regressed = stub.MultiInference(message).results
    assert classified.classification_result.classifications[0].classes[0].score == 4.0
    assert regressed.regression_result.regressions[0].value == 4.0
    assert regressed.model_spec.signature_name == "regress"


@pytest.mark.parametrize(
    ("signature", "numbers", "code", "words"),
    [
        ("regress", (), "INVALID_ARGUMENT", "Input is empty."),
        ("gone", (1.0,), "INVALID_ARGUMENT", "No signature was found with the name: gone"),
        ("classify", (1.0,), "INVALID_ARGUMENT", "Expected one output Tensor."),
        ("", (1.0,), "INVALID_ARGUMENT", "No regression inputs found in SignatureDef; it has: x."),
    ],
)
def test_regress_refusals(stub, signature, numbers, code, words):
    actual, details = refused(stub.Regress, with_examples(regression_pb2.RegressionRequest(), signature, *numbers))
    assert (actual, words in details) == (code, True), details
    assert "model half_plus, version 2" in details or "Model half_plus, version 2" in details


def test_an_example_without_the_feature_is_the_callers_error(stub):
    message = regression_pb2.RegressionRequest()
    name(message.model_spec, signature="regress")
    message.input.example_list.examples.append(tf.train.Example())
    code, details = refused(stub.Regress, message)
    assert code == "INVALID_ARGUMENT" and "x" in details


def test_multi_inference_refusals(stub):
    message = inference_pb2.MultiInferenceRequest()
    assert refused(stub.MultiInference, message)[0] == "INVALID_ARGUMENT"
    name(message.tasks.add(method_name="tensorflow/serving/predict").model_spec, signature="regress")
    message.input.example_list.examples.append(example(2.0))
    assert refused(stub.MultiInference, message)[0] == "UNIMPLEMENTED"
    message.tasks[0].method_name = "tensorflow/serving/regress"
    name(message.tasks.add(method_name="tensorflow/serving/regress").model_spec, signature="regress")
    assert "Duplicate evaluation of signature: regress" in refused(stub.MultiInference, message)[1]
    message.tasks[1].model_spec.name = "mood"
    assert "must access the same model name" in refused(stub.MultiInference, message)[1]


# === Models, versions, labels ===


def test_several_models_at_once(stub):
    message = predict_pb2.PredictRequest()
    name(message.model_spec, "mood", "text")
    message.inputs["text"].CopyFrom(tf.make_tensor_proto(["a great day"]))
    assert stub.Predict(message).outputs["label"].string_val == [b"positive"]
    code, details = refused(stub.Predict, predict([[0.0]], model="moot"))
    assert code == "NOT_FOUND" and "This server has model half_plus, mood" in details


def test_metadata_of_a_version(stub):
    message = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    name(message.model_spec, version=1)
    response = stub.GetModelMetadata(message)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def) == {"serving_default", "total", "regress", "classify", "scores_only"}
    assert signatures.signature_def["regress"].method_name == "tensorflow/serving/regress"
    assert response.model_spec.version.value == 1


def states(model_stub, **spec):
    message = get_model_status_pb2.GetModelStatusRequest()
    name(message.model_spec, **spec)
    statuses = model_stub.GetModelStatus(message).model_version_status
    return {s.version: get_model_status_pb2.ModelVersionStatus.State.Name(s.state) for s in statuses}


def test_states_of_all_versions_and_of_a_label(model_stub):
    assert states(model_stub) == {1: "AVAILABLE", 2: "AVAILABLE"}
    assert states(model_stub, label="stable") == {1: "AVAILABLE"}
    assert states(model_stub, model="mood") == {2: "AVAILABLE"}


def test_reload_changes_models_policies_and_labels(models):
    with (
        Server(ServerOptions(models=config(models), port=0)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        service = model_service_pb2_grpc.ModelServiceStub(channel)
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        message = model_management_pb2.ReloadConfigRequest()

        message.config.CopyFrom(config(models, "model_version_policy { specific { versions: 1 } }"))
        assert service.HandleReloadConfigRequest(message).status.error_code == 0
        assert float(stub.Predict(predict([[0.0]])).outputs["y"].float_val[0]) == 2.0

        message.config.CopyFrom(config(models, "version_labels { key: 'stable' value: 9 }"))
        code, details = refused(service.HandleReloadConfigRequest, message)
        assert code == "FAILED_PRECONDITION" and "version 9 of model half_plus" in details

        message.config.CopyFrom(config(models, "version_labels { key: 'stable' value: 2 }"))
        del message.config.model_config_list.config[1]
        service.HandleReloadConfigRequest(message)
        assert float(stub.Predict(predict([[0.0]], label="stable")).outputs["y"].float_val[0]) == 3.0
        assert refused(stub.Predict, predict([[0.0]], model="mood"))[0] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('model_config_list { config { base_path: "/x" } }', "config[0]: the model has no name"),
        ('model_config_list { config { name: "a" } }', "model a has no base_path"),
        ('model_config_list { config { name: "a" base_path: "gs://x" } }', "base_path of a is remote"),
        ('model_config_list { config { name: "a" base_path: "/x" model_platform: "caffe" } }', "must be tensorflow"),
        (
            'model_config_list { config { name: "a" base_path: "/x" } config { name: "a" base_path: "/y" } }',
            "Illegal to list model a multiple times",
        ),
        ("", "Only ModelConfigList is currently supported"),
    ],
)
def test_reload_refusals_leave_what_is_served(model_stub, text, words):
    message = model_management_pb2.ReloadConfigRequest(config=text_format.Parse(text, ModelServerConfig()))
    code, details = refused(model_stub.HandleReloadConfigRequest, message)
    assert code == "INVALID_ARGUMENT" and words in details
    assert states(model_stub) == {1: "AVAILABLE", 2: "AVAILABLE"}


def test_a_server_for_strangers_does_not_reload(models):
    options = ServerOptions(models=config(models), host="0.0.0.0", port=0)
    with Server(options) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        service = model_service_pb2_grpc.ModelServiceStub(channel)
        message = model_management_pb2.ReloadConfigRequest(config=config(models))
        assert refused(service.HandleReloadConfigRequest, message)[0] == "PERMISSION_DENIED"


@pytest.fixture
def guarded(models, tmp_path):
    """A server of half_plus with a file of API keys: (server, keys by role, key file)."""
    file = tmp_path / "keys.yaml"
    keys = {role: add_key(file, role, role=role) for role in ("predict", "admin")}
    half_plus = config(models)
    del half_plus.model_config_list.config[1]
    with Server(ServerOptions(models=half_plus, host="0.0.0.0", port=0, rest_port=0, keys_file=file)) as server:
        yield server, keys, file


def with_key(call, key):
    return lambda message, timeout=20: call(message, timeout=timeout, metadata=(("x-api-key", key),))


def test_only_an_administrator_reloads(models, guarded):
    server, keys, _ = guarded
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        reload = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
        predicts = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        half_plus = config(models, "model_version_policy { specific { versions: 1 } }")
        del half_plus.model_config_list.config[1]
        message = model_management_pb2.ReloadConfigRequest(config=half_plus)
        code, details = refused(with_key(reload, keys["predict"]), message)
        assert code == "PERMISSION_DENIED" and "takes admin" in details
        assert refused(reload, message)[0] == "UNAUTHENTICATED"
        assert float(with_key(predicts, keys["predict"])(predict([[0.0]])).outputs["y"].float_val[0]) == 3.0
        with_key(reload, keys["admin"])(message)
        assert float(with_key(predicts, keys["admin"])(predict([[0.0]])).outputs["y"].float_val[0]) == 2.0


def test_a_key_file_that_cannot_be_read_refuses_everybody_and_health_says_so(guarded):
    server, keys, file = guarded
    good = file.read_text()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        predicts = with_key(prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict, keys["admin"])
        health = health_pb2_grpc.HealthStub(channel).Check
        status = health_pb2.HealthCheckResponse
        rest = f"http://127.0.0.1:{server.rest_port}/v1/models/half_plus"
        wait_for(lambda: health(health_pb2.HealthCheckRequest()).status == status.SERVING)
        file.write_text("keys: [")
        code, details = refused(predicts, predict([[0.0]]))
        assert code == "UNAUTHENTICATED" and "cannot read its file of API keys" in details
        answer = httpx.get(rest, headers={"x-api-key": keys["admin"]}, trust_env=False)
        assert answer.status_code == 401 and "cannot read its file of API keys" in answer.json()["error"]
        wait_for(lambda: health(health_pb2.HealthCheckRequest()).status == status.NOT_SERVING)
        file.write_text(good)
        predicts(predict([[0.0]]))
        wait_for(lambda: health(health_pb2.HealthCheckRequest()).status == status.SERVING)
    assert b"bertline_key_file_faults_total 1.0" in server.metrics.render()[0]


SAMPLES = """logging_config { log_collector_config { type: "tfrecord" filename_prefix: "%s" }
                              sampling_config { sampling_rate: 0.1 } }"""


@pytest.fixture
def outside(models, tmp_path):
    """Folders with a model that no operator named, and ways to it through ones that she did."""
    save_half_plus_model(tmp_path / "outside" / "1", 9.0)
    (tmp_path / "inside" / "logs").mkdir(parents=True)
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside")
    return tmp_path


def reload_over(server, text):
    with grpc.insecure_channel(server.address) as channel:
        reload = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
        message = model_management_pb2.ReloadConfigRequest()
        text_format.Parse(f"config {{ model_config_list {{ config {{ {text} }} }} }}", message)
        try:
            return reload(message, timeout=20).status.error_code, ""
        except grpc.RpcError as error:
            return error.code().name, error.details()


def test_a_reload_names_only_folders_of_the_operators_own(models, outside):
    with Server(ServerOptions(models=config(models), port=0)) as server:
        half_plus = f'name: "half_plus" base_path: "{models}/half_plus" '
        for base_path in (f"{outside}/outside", f"{models}/half_plus/../../{outside.name}/outside", "/", "."):
            code, details = reload_over(server, f'name: "other" base_path: "{base_path}"')
            assert code == "PERMISSION_DENIED" and "base_path" in details and "--reload_roots" in details
        code, details = reload_over(server, 'name: "other" base_path: "zero\\0byte"')
        assert code == "INVALID_ARGUMENT" and "cannot be a path" in details
        code, details = reload_over(server, half_plus + SAMPLES % f"{outside}/inside/logs/sample")
        assert code == "PERMISSION_DENIED" and "filename_prefix" in details
        assert server.model_names == ["half_plus", "mood"]
        assert reload_over(server, half_plus)[0] == 0 and server.model_names == ["half_plus"]


def test_the_flag_names_other_folders_and_a_link_out_of_them_is_followed_first(models, outside):
    options = ServerOptions(models=config(models), port=0, reload_roots=(f"{outside}/inside", f"{models}/half_plus"))
    with Server(options) as server:
        code, _ = reload_over(server, f'name: "other" base_path: "{outside}/inside/link"')
        assert code == "PERMISSION_DENIED"
        assert reload_over(server, f'name: "mood" base_path: "{models}/mood"')[0] == "PERMISSION_DENIED"
        half_plus = f'name: "half_plus" base_path: "{models}/half_plus" '
        for prefix in (f"{outside}/inside/../outside/x", f"{outside}/inside/../", f"{outside}/inside/link/"):
            assert reload_over(server, half_plus + SAMPLES % prefix)[0] == "PERMISSION_DENIED"
        assert reload_over(server, half_plus + SAMPLES % f"{outside}/inside/logs/sample")[0] == 0


def answers(stub, message):
    """The model's y for one number; None where it is refused."""
    try:
        return float(stub.Predict(message, timeout=20).outputs["y"].float_val[0])
    except grpc.RpcError:
        return None


def test_a_label_in_the_models_file_waits_for_its_version(models, tmp_path, caplog):
    save_half_plus_model(tmp_path / "late" / "1", 2.0)

    def write(more):
        entry = f'name: "late" base_path: "{tmp_path}/late" model_version_policy {{ all {{}} }} {more}'
        (tmp_path / "models.config").write_text(f"model_config_list {{ config {{ {entry} }} }}")

    write("")
    options = ServerOptions(
        models_file=tmp_path / "models.config", models_file_poll_seconds=0.05, port=0, polling=Polling(0.05)
    )
    with Server(options) as server, grpc.insecure_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        write("version_labels { key: 'new' value: 2 }")
        wait_for(lambda: "label new to version 2" in caplog.text)
        said = caplog.text.count("label new to version 2")
        save_half_plus_model(tmp_path / "late" / ".2", 3.0)
        (tmp_path / "late" / ".2").rename(tmp_path / "late" / "2")
        wait_for(lambda: answers(stub, predict([[0.0]], label="new", model="late")) == 3.0)
        assert caplog.text.count("label new to version 2") == said == 1


def test_models_file_is_followed_and_a_broken_edit_changes_nothing(models, tmp_path, caplog):
    file = tmp_path / "models.config"
    file.write_text(str(config(models, "model_version_policy { specific { versions: 1 } }")))
    options = ServerOptions(models_file=file, models_file_poll_seconds=0.05, port=0, polling=Polling(0.05))
    with Server(options) as server, grpc.insecure_channel(server.address) as channel:
        service = model_service_pb2_grpc.ModelServiceStub(channel)
        assert states(service) == {1: "AVAILABLE"}
        file.write_text("model_config_list { confg {} }")
        wait_for(lambda: "ModelServerConfig: 1:" in caplog.text and "models.config" in caplog.text)
        assert states(service) == {1: "AVAILABLE"}
        file.write_text(str(config(models)))
        wait_for(lambda: states(service) == {1: "END", 2: "AVAILABLE"})


# === Health and reflection ===


def test_health_tells_whether_every_model_answers(models, tmp_path):
    (tmp_path / "late").mkdir()
    late = config(models)
    late.model_config_list.config.add(name="late", base_path=str(tmp_path / "late"), model_platform="tensorflow")
    with (
        Server(ServerOptions(models=late, port=0, polling=Polling(0.05))) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        check = health_pb2_grpc.HealthStub(channel).Check
        status = health_pb2.HealthCheckResponse
        wait_for(lambda: check(health_pb2.HealthCheckRequest()).status == status.NOT_SERVING)
        save_half_plus_model(tmp_path / "late" / "1")
        wait_for(lambda: check(health_pb2.HealthCheckRequest()).status == status.SERVING)
        service = "tensorflow.serving.PredictionService"
        assert check(health_pb2.HealthCheckRequest(service=service)).status == status.SERVING


def test_reflection_describes_the_services(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert "tensorflow.serving.PredictionService" in database.get_services()
    file = database.FindFileContainingSymbol("tensorflow.serving.PredictionService")
    assert "Predict" in [method.name for method in file.service[0].method]


def wait_for(condition, seconds=20):
    waited = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        waited.wait(0.05)
    raise AssertionError("it did not happen in time")
