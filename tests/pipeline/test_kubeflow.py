"""What the line compiles to: a golden file, kfp's own loader, and the config's words for a cluster."""

import json
import os
import re
import sys
from pathlib import Path

import factories
import pytest
import yaml
from google.protobuf import json_format
from kfp import components
from kfp.pipeline_spec import pipeline_spec_pb2
from typer.testing import CliRunner

from bertline.components import artifacts
from bertline.components.options import Query
from bertline.errors import UserError
from bertline.pipeline import cli, kubeflow
from bertline.pipeline import config as configs
from bertline.pipeline.kubeflow_options import StageOptions

TOP = Path(__file__).parents[2]
GOLDEN = TOP / "tests" / "golden" / "kubeflow.yaml"
UPDATE = "UPDATE_GOLDEN"  # UPDATE_GOLDEN=1 pytest tests/pipeline/test_kubeflow.py writes it anew
CLUSTER = """\
tune: {every_run: true, trials: 8, time: 45m}
kubeflow:
  image: registry.example.com/bertline:1
  pipeline_root: s3://bucket/pipelines
  data_folder: /volume/data
  root: /volume/reviews
  labels: {team: nlp}
  secrets: [{name: object-store, env: {AWS_ACCESS_KEY_ID: id, AWS_SECRET_ACCESS_KEY: key}}]
  volumes: [{claim: reviews, path: /volume}]
  default: {cpu: 2, memory: 8Gi, retries: 1}
  stages:
    Trainer:
      memory: 16Gi
      accelerator: nvidia.com/gpu
      node_selector: {pool: gpu}
      tolerations: [{key: nvidia.com/gpu, effect: NoSchedule}]
      timeout_seconds: 7200
"""


def task(folder, cluster=CLUSTER):
    augment = "{operations: [synonyms], synonyms: words.txt}"
    path = factories.write_task(folder, factories.reviews(3), augment=augment)
    more = "pretrain: {source: texts.csv}\n"  # with it, all stages are there
    path.write_text(path.read_text(encoding="utf-8") + more + cluster, encoding="utf-8")
    return configs.load(path)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return task(tmp_path_factory.mktemp("compile"))


@pytest.fixture(scope="module")
def compiled(config):
    return kubeflow.compile_line(config, commit="c0ffee")


def container(compiled, stage):
    return compiled.spec["deploymentSpec"]["executors"][f"{stage}_executor"]["container"]


def executor(compiled, stage):
    return compiled.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"{stage}_executor"]


# === The golden file ===


def readable(value, key=""):
    """A spec without what is said twice or changes with other stages' options: what a reviewer reads."""
    if isinstance(value, dict):
        return {name: readable(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [readable(each) for each in value]
    if key == "instanceSchema":
        return yaml.safe_load(value)["title"]
    if key == "sdkVersion":
        return re.sub(r"[\d.]+", "VERSION", value)
    if isinstance(value, str) and value.startswith("{") and value != "{{$}}":
        return "JSON"
    return value


def test_the_spec_is_the_one_that_was_reviewed(compiled):
    shown = yaml.safe_dump_all(
        [readable(compiled.spec), compiled.platform], sort_keys=True, width=120, default_flow_style=None
    )
    if os.environ.get(UPDATE):
        GOLDEN.write_text(shown, encoding="utf-8")
    assert shown == GOLDEN.read_text(encoding="utf-8"), f"if the change is meant: {UPDATE}=1, and review the difference"


def test_each_command_declares_the_inputs_of_its_component(compiled):
    for name, stage in compiled.spec["components"].items():
        arguments = container(compiled, name)["args"]
        declared = json.loads(arguments[arguments.index("--json_serialized_inputs_spec_args") + 1])
        assert declared == stage["inputDefinitions"], name


def test_kfp_and_the_proto_read_it(compiled):
    loaded = components.load_component_from_text(compiled.dump())
    assert loaded.name == "reviews"
    assert set(loaded.component_spec.inputs) == set(kubeflow.PARAMETERS)
    assert loaded.component_spec.inputs["train"].optional
    spec = json_format.ParseDict(compiled.spec, pipeline_spec_pb2.PipelineSpec())
    assert spec.schema_version == "2.1.0"
    platform = json_format.ParseDict(compiled.platform, pipeline_spec_pb2.PlatformSpec())
    assert set(platform.platforms) == {"kubernetes"}


def test_nothing_of_this_machine_is_in_it(compiled, config):
    without_the_vocabulary = compiled.dump().replace(f"{config.folder}/vocab.txt", "")
    assert config.folder not in without_the_vocabulary
    assert str(TOP) not in without_the_vocabulary


def test_every_artifact_type_of_ours_is_found_by_its_title():
    ours = [each for each in vars(artifacts).values() if getattr(each, "__module__", "") == artifacts.__name__]
    assert ours
    for each in ours:
        assert f"bertline.{each.__name__}" == each.TYPE_NAME


@pytest.mark.parametrize("path", sorted((TOP / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_compiles(path, tmp_path):
    output = tmp_path / "pipeline.yaml"
    text = path.read_text(encoding="utf-8") + "kubeflow: {root: 'gs://bucket/tasks', image: 'bertline:1'}\n"
    (tmp_path / path.name).write_text(text, encoding="utf-8")
    ran = CliRunner().invoke(cli.app, ["compile", str(tmp_path / path.name), "-o", str(output)])
    assert ran.exit_code == 0, ran.output
    assert components.load_component_from_file(str(output)).name == path.stem
    spec = yaml.safe_load(output.read_text(encoding="utf-8"))
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert parameters["serving_folder"]["defaultValue"] == "gs://bucket/tasks/serving"
    assert json.loads(parameters["train"]["defaultValue"])["epochs"] == configs.load(path).train.epochs


# === What a stage gets ===


def test_a_student_that_learns_words_is_given_the_texts(tmp_path):
    def inputs(**compress):
        path = factories.write_task(tmp_path, factories.reviews(3))
        cluster = "kubeflow: {image: r.example.com/b:1, pipeline_root: s3://b/p, data_folder: /v/d, root: /v/r}\n"
        path.write_text(f"{path.read_text()}compress: {json.dumps(compress)}\n{cluster}")
        spec = kubeflow.compile_line(configs.load(path)).spec
        return {name for kind in spec["components"]["Compressor"]["inputDefinitions"].values() for name in kind}

    assert inputs(family="bilstm") - inputs(layers=1) == {"examples"}
    reading = inputs(layers=1, unlabelled="more.csv") - inputs(layers=1)
    assert reading == {"examples", "data", "base_folder"}


def test_the_card_is_written_of_the_runs_own_sections(compiled):
    parameters = compiled.spec["root"]["dag"]["tasks"]["ModelCard"]["inputs"]["parameters"]
    for name in ("data", "train", "compress"):
        assert parameters[name] == {"componentInputParameter": name}


def test_resources_come_from_the_default_and_the_stages_own(compiled):
    assert container(compiled, "Evaluator")["resources"] == {
        "resourceCpuLimit": "2", "resourceCpuRequest": "2",
        "resourceMemoryLimit": "8Gi", "resourceMemoryRequest": "8Gi",
    }  # fmt: skip
    resources = container(compiled, "Trainer")["resources"]
    assert (resources["resourceCpuLimit"], resources["resourceMemoryLimit"]) == ("2", "16Gi")
    assert resources["accelerator"] == {"resourceType": "nvidia.com/gpu", "resourceCount": "1"}


def test_what_kubernetes_alone_knows_is_in_the_platforms_part(compiled):
    assert executor(compiled, "Trainer") == {
        "secretAsEnv": [
            {
                "secretName": "object-store",
                "keyToEnv": [
                    {"secretKey": "id", "envVar": "AWS_ACCESS_KEY_ID"},
                    {"secretKey": "key", "envVar": "AWS_SECRET_ACCESS_KEY"},
                ],
            }
        ],
        "podMetadata": {"labels": {"team": "nlp"}},
        "pvcMount": [{"constant": "reviews", "mountPath": "/volume"}],
        "nodeSelector": {"labels": {"pool": "gpu"}},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "activeDeadlineSeconds": "7200",
    }
    assert "nodeSelector" not in executor(compiled, "Evaluator")


def test_retries_are_the_tasks(compiled):
    expected = {"maxRetryCount": 1, "backoffDuration": "60s", "backoffFactor": 2.0}
    assert compiled.stages["Trainer"]["retryPolicy"] == expected


def test_a_tpu_is_chosen_by_its_topology(config):
    trainer = StageOptions(
        accelerator="google.com/tpu", accelerators=4, tpu_type="tpu-v5-lite-podslice", tpu_topology="2x2"
    )
    options = config.kubeflow.model_copy(update={"stages": {"Trainer": trainer}})
    on_tpu = kubeflow.compile_line(config.model_copy(update={"kubeflow": options}))
    assert container(on_tpu, "Trainer")["resources"]["accelerator"] == {
        "resourceType": "google.com/tpu", "resourceCount": "4",
    }  # fmt: skip
    assert executor(on_tpu, "Trainer")["nodeSelector"] == {
        "labels": {
            "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
            "cloud.google.com/gke-tpu-topology": "2x2",
        }
    }


def test_only_what_must_run_each_time_is_left_out_of_the_cache(compiled):
    uncached = {name for name, stage in compiled.stages.items() if not stage["cachingOptions"].get("enableCache")}
    assert uncached == {"Facts", "Pusher", "LabelQuality", "Explainer", "Review"}


def test_what_only_reports_comes_after_the_push_and_says_so_to_its_command(compiled):
    reporting = {name for name in compiled.stages if "--reporting" in container(compiled, name)["args"]}
    assert reporting == {"LabelQuality", "Explainer", "Review"}
    for name in reporting:
        assert "Pusher" in compiled.stages[name]["dependentTasks"]


def test_facts_come_from_the_first_stage_that_all_wait_for(compiled):
    given = compiled.stages["ExampleGen"]["inputs"]["parameters"]["fingerprint"]["taskOutputParameter"]
    assert given == {"producerTask": "Facts", "outputParameterKey": "fingerprint"}
    assert compiled.stages["ExampleGen"]["dependentTasks"] == ["Facts"]


# === What cannot be compiled ===


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        ("kubeflow: {data_folder: /data, root: /v}\n", r"kubeflow\.image"),
        (
            "kubeflow: {image: a, root: /v}\n",
            r"data\.source: .* does not find 'reviews\.csv'.*kubeflow\.data_folder",
        ),
        (
            "kubeflow: {image: a, data_folder: /d, root: /v, stages: {Trainr: {}}}\n",
            "Trainr: no such stage.*Trainer",
        ),
    ],
)
def test_what_is_missing_is_named_with_the_way_out(tmp_path, cluster, said):
    with pytest.raises(UserError, match=said):
        kubeflow.compile_line(task(tmp_path, cluster))


def test_a_source_outside_the_folder_that_pods_are_brought_is_refused(tmp_path):
    config = task(tmp_path, "kubeflow: {image: a, data_folder: 'gs://bucket/data', root: /v}\n")
    config = config.model_copy(update={"data": config.data.model_copy(update={"source": ["../reviews.csv"]})})
    with pytest.raises(UserError, match=r"data\.source: '\.\./reviews\.csv' lies outside .* beside its data"):
        kubeflow.compile_line(config)


def test_a_query_is_refused_with_the_file_to_copy(tmp_path):
    config = task(tmp_path, "kubeflow: {image: a, data_folder: /data, root: /v}\n")
    source = Query(url="sqlite:///shop.db", query="SELECT * FROM reviews")
    config = config.model_copy(update={"data": config.data.model_copy(update={"source": [source]})})
    with pytest.raises(UserError, match=r"data\.source: a cluster asks no database .*/queries; copy that file to"):
        kubeflow.compile_line(config)


def test_a_serving_folder_that_dies_with_its_pod_is_refused(tmp_path):
    config = task(tmp_path, "kubeflow: {image: a, data_folder: /data}\n").model_copy(update={"root": None})
    with pytest.raises(UserError, match=r"kubeflow\.root"):
        kubeflow.compile_line(config)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{default: {memory: 8 GB}}", "kubeflow.default.memory"),
        ("{pipeline_root: /tmp}", "gs://, s3://, minio://"),
        ("{volumes: [{claim: a, path: models}]}", "absolute path"),
        ("{default: {tpu_topology: 2x2}}", "accelerator: google.com/tpu"),
        ("{secrets: [{name: a, value: b}]}", "kubeflow.secrets.0.value: unknown key"),
    ],
)
def test_a_wrong_word_is_named_by_its_key(tmp_path, section, said):
    with pytest.raises(UserError) as raised:
        task(tmp_path, f"kubeflow: {section}\n")
    assert said in str(raised.value)


def test_without_kfp_the_extra_is_named(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "kfp", None)
    with pytest.raises(UserError, match=r"bertline\[kubeflow\]"):
        kubeflow.compile_line(config)


# === Beam's engine ===

FLINK = """\
beam:
  runner: portable
  job_endpoint: beam-job-server:8099
  artifact_endpoint: beam-job-server:8098
  environment: {external: localhost:50000}
"""


def test_the_engine_is_told_beside_the_command_which_keys_the_cache(compiled, tmp_path):
    volumes = "volumes: [{claim: reviews, path: /volume}"
    config = task(tmp_path, CLUSTER.replace(volumes, volumes + ", {claim: beam, path: /s3}") + FLINK)
    on_flink = kubeflow.compile_line(config, commit="c0ffee")
    told = {name: container(on_flink, name)["env"] for name in on_flink.stages if "env" in container(on_flink, name)}
    assert set(told) == {"ExampleGen", "StatisticsGen", "DataGate", "Transform", "Evaluator"}
    (variable,) = told["Transform"]
    assert variable["name"] == "BERTLINE_BEAM"
    assert "--job_endpoint=beam-job-server:8099" in json.loads(variable["value"])
    for name in on_flink.stages:
        assert [container(on_flink, name)[key] for key in ("command", "image")] == [
            container(compiled, name)[key] for key in ("command", "image")
        ]
    assert container(on_flink, "Evaluator")["args"] == container(compiled, "Evaluator")["args"]


def test_beams_workers_must_see_what_a_pod_writes(tmp_path):
    with pytest.raises(
        UserError, match=r"kubeflow\.volumes: with beam\.runner: portable a volume must be mounted at /s3"
    ):
        kubeflow.compile_line(task(tmp_path, CLUSTER + FLINK))


def test_dataflow_runs_the_stages_that_can_be_in_gs(tmp_path):
    section = {"project": "nlp", "region": "europe-west4", "temp_location": "gs://bucket/beam", "image": "beam:1"}
    cluster = CLUSTER.replace("s3://bucket", "gs://bucket").replace("/volume/data", "gs://bucket/data")
    compiled = kubeflow.compile_line(
        task(tmp_path, f"{cluster}beam: {{runner: dataflow, dataflow: {json.dumps(section)}}}\n")
    )
    runners = {
        name: json.loads(container(compiled, name)["env"][0]["value"])[0]
        for name in compiled.stages
        if "env" in container(compiled, name)
    }
    in_memory = "--runner=apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
    assert runners == {
        "ExampleGen": "--runner=DataflowRunner",
        "StatisticsGen": "--runner=DataflowRunner",
        "DataGate": "--runner=DataflowRunner",
        "Transform": "--runner=DataflowRunner",
        "Evaluator": in_memory,
    }
