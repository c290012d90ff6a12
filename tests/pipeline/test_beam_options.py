"""The `beam:` section: what is refused when a config is read, what is passed on to Beam, and what it does not key."""

import json
import socket

import factories
import pytest
from apache_beam.options import pipeline_options
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.runner import create_runner

from bertline.errors import UserError
from bertline.pipeline import beam_options, local_runner, task_checks
from bertline.pipeline import config as configs
from bertline.pipeline.beam_options import BeamOptions
from bertline.pipeline.checks import Check
from bertline.pipeline.stages import Node

MINIMAL = "name: reviews\ndata: {source: reviews.csv}\n"
PORTABLE = {"runner": "portable", "job_endpoint": "flink:8099", "environment": {"external": "localhost:50000"}}
DATAFLOW = {
    "runner": "dataflow",
    "dataflow": {
        "project": "nlp-prod",
        "region": "europe-west4",
        "temp_location": "gs://bucket/beam",
        "image": "europe-docker.pkg.dev/nlp-prod/bertline/beam:0.1.0",
        "machine_type": "n2-highmem-2",
        "max_workers": 20,
    },
}
COMMON = ["--sdk_container_image=none", "--no_pipeline_type_check"]


def load(folder, section, more=""):
    path = folder / "task.yaml"
    path.write_text(f"{MINIMAL}beam: {json.dumps(section)}\n{more}", encoding="utf-8")
    return configs.load(path)


# === What is refused ===


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"runner": "multiprocessing"}, "beam.runner: 'multiprocessing': Input should be 'in-memory', 'multi-proc"),
        ({"runner": "DaskRunner"}, "beam.runner: 'DaskRunner': Beam 2.77's DaskRunner is refused: with it ExampleGen"),
        ({"runner": "flink"}, "beam.runner: 'flink': write `runner: portable`"),
        ({"options": {"runner": "apache_beam.runners.dask.dask_runner.DaskRunner"}}, "DaskRunner is refused"),
        ({"options": {"dask_client_address": "tcp://scheduler:8786"}}, "DaskRunner is refused"),
        ({"workers": 0, "runner": "multi-processing"}, "beam.workers: 0: Input should be greater than 0"),
        ({"workers": 2}, "workers: 2: in-memory has one; `runner: multi-processing` can have more"),
        ({"runner": "portable"}, "beam: runner: portable needs job_endpoint"),
        ({"job_endpoint": "flink:8099"}, "job_endpoint is for `runner: portable`, not in-memory"),
        ({**PORTABLE, "job_endpoint": "http://flink:8099"}, "beam.job_endpoint: 'http://flink:8099': write it as HOST"),
        (
            {"runner": "portable", "job_endpoint": "flink:8099"},
            "needs environment, which says where the engine finds workers",
        ),
        ({**PORTABLE, "environment": {}}, "beam.environment: name one of external, docker and process, not none"),
        (
            {**PORTABLE, "environment": {"external": "a:1", "docker": "image"}},
            "beam.environment: name one of external, docker and process, not external and docker",
        ),
        ({**PORTABLE, "environment": {"external": "50000"}}, "beam.environment.external: '50000': write it as HOST:PO"),
        ({"runner": "dataflow"}, "runner: dataflow needs dataflow: {project, region, temp_location, image}"),
        ({**PORTABLE, "dataflow": DATAFLOW["dataflow"]}, "dataflow is for `runner: dataflow`, not portable"),
        (
            {**DATAFLOW, "dataflow": {**DATAFLOW["dataflow"], "temp_location": "/tmp/beam"}},
            "beam.dataflow.temp_location: '/tmp/beam': Dataflow keeps its files in a folder gs://BUCKET/PATH",
        ),
        ({**DATAFLOW, "workers": 21}, "workers: 21 is above dataflow.max_workers, 20"),
        (DATAFLOW, "dataflow reads and writes artifacts only in gs://; set kubeflow.pipeline_root"),
        ({"options": {"job_endpoint": "flink:8099"}}, "options.job_endpoint: set beam.job_endpoint instead"),
        ({"options": {"s3_secret_access_key": "x"}}, "options.s3_secret_access_key: a secret must not be in a config"),
        ({"options": {"sdk_worker_paralelism": 2}}, "no such pipeline option; did you mean 'sdk_worker_parallelism'?"),
        ({"options": {"flink_version": "1.2"}}, "options.flink_version: '1.2': argument --flink_version: invalid ch"),
        ({"options": {"update": False}}, "options.update: leave it out, which means false"),
        ({"worker": 2}, "beam.worker: unknown key. Did you mean 'workers'? Known here: runner, workers, job_endpoint"),
    ],
)
def test_a_mistake_is_told_when_the_config_is_read(tmp_path, capfd, section, expected):
    with pytest.raises(UserError) as caught:
        load(tmp_path, section)
    assert expected in str(caught.value)
    assert "task.yaml: beam" in str(caught.value) or "task.yaml: config" in str(caught.value)
    assert capfd.readouterr().err == ""


# === What Beam is told ===


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, ["--runner=apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner", *COMMON]),
        (
            {"runner": "multi-processing", "workers": 4, "options": {"max_cache_memory_usage_mb": 200}},
            [
                "--runner=bertline.components.worker_processes.Runner",
                "--direct_running_mode=multi_processing",
                "--direct_num_workers=4",
                *COMMON,
                "--max_cache_memory_usage_mb=200",
            ],
        ),
        (
            {**PORTABLE, "artifact_endpoint": "flink:8098", "workers": 8, "options": {"experiments": ["a", "b=c"]}},
            [
                "--runner=PortableRunner",
                "--job_endpoint=flink:8099",
                "--artifact_endpoint=flink:8098",
                "--environment_type=EXTERNAL",
                "--environment_config=localhost:50000",
                "--parallelism=8",
                *COMMON,
                "--experiments=a",
                "--experiments=b=c",
            ],
        ),
        (
            {**PORTABLE, "environment": {"docker": "bertline-beam:1"}},
            [
                "--runner=PortableRunner",
                "--job_endpoint=flink:8099",
                "--environment_type=DOCKER",
                "--environment_config=bertline-beam:1",
                "--sdk_container_image=bertline-beam:1",
                "--no_pipeline_type_check",
            ],
        ),
        (
            {**PORTABLE, "environment": {"process": "/opt/apache/beam/boot"}},
            [
                "--runner=PortableRunner",
                "--job_endpoint=flink:8099",
                "--environment_type=PROCESS",
                "--environment_option=process_command=/opt/apache/beam/boot",
                *COMMON,
            ],
        ),
        (
            {**DATAFLOW, "workers": 5},
            [
                "--runner=DataflowRunner",
                "--project=nlp-prod",
                "--region=europe-west4",
                "--temp_location=gs://bucket/beam",
                "--sdk_container_image=europe-docker.pkg.dev/nlp-prod/bertline/beam:0.1.0",
                "--worker_machine_type=n2-highmem-2",
                "--num_workers=5",
                "--max_num_workers=20",
                "--no_save_main_session",
                "--no_pipeline_type_check",
            ],
        ),
    ],
    ids=["in-memory", "multi-processing", "external", "docker", "process", "dataflow"],
)
def test_a_section_becomes_arguments_that_beam_takes(section, expected):
    arguments = beam_options.arguments(BeamOptions(**section))
    assert arguments == expected
    options = pipeline_options.PipelineOptions([*arguments, "--dry_run=yes"])  # it asks no bucket about its policies
    runner = create_runner(options.view_as(pipeline_options.StandardOptions).runner)
    assert PipelineOptionsValidator(options, runner).validate() == []
    # Beam drops what it does not know
    assert len(options.get_all_options(drop_default=True, retain_unknown_options=True)) == len(
        options.get_all_options(drop_default=True)
    )


def test_dataflow_gets_the_stages_that_can_be_there():
    beam = BeamOptions(**DATAFLOW)
    assert beam_options.of_stage(beam, Node.EXAMPLE_GEN) is beam
    assert beam_options.of_stage(beam, Node.EVALUATOR) == BeamOptions()
    assert beam_options.of_stage(BeamOptions(**PORTABLE), Node.EVALUATOR) == BeamOptions(**PORTABLE)


# === What stays as it is ===


def test_the_engine_does_not_key_a_model(tmp_path):
    assert load(tmp_path, {"runner": "multi-processing"}).digest() == load(tmp_path, {}).digest()


def test_dataflow_is_for_clusters_and_says_so(tmp_path):
    config = load(tmp_path, DATAFLOW, "kubeflow: {pipeline_root: 'gs://bucket/pipelines'}\n")
    with pytest.raises(UserError, match=r"beam\.runner: dataflow cannot see this machine's folders.*bertline compile"):
        local_runner.run(config, "task.yaml")
    with pytest.raises(UserError, match=r"kubeflow\.data_folder: Dataflow does not see '/volume'"):
        load(tmp_path, DATAFLOW, "kubeflow: {pipeline_root: 'gs://bucket/a', data_folder: /volume}\n")


# === Is it there? ===


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


def test_a_run_does_not_begin_without_its_job_server(tmp_path, closed_port):
    config = factories.write_task(tmp_path, factories.reviews(3))
    section = {**PORTABLE, "job_endpoint": f"127.0.0.1:{closed_port}"}
    config.write_text(f"{config.read_text(encoding='utf-8')}beam: {json.dumps(section)}\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"beam\.job_endpoint: 127\.0\.0\.1:{closed_port} cannot be reached: Connecti"):
        local_runner.run(configs.load(config), "task.yaml")


def test_doctor_asks_the_configs_job_server(closed_port):
    check = task_checks.engine(BeamOptions(**{**PORTABLE, "job_endpoint": f"127.0.0.1:{closed_port}"}))
    assert (check.name, check.value) == (
        "beam, portable", f"127.0.0.1:{closed_port} cannot be reached: Connection refused",
    )  # fmt: skip


def test_doctor_finds_a_job_server_that_listens():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        beam = BeamOptions(**{**PORTABLE, "job_endpoint": address})
        assert task_checks.engine(beam) == Check("beam, portable", f"{address} answers")
    assert task_checks.engine(BeamOptions()) == Check("beam, in-memory", "on this machine")
