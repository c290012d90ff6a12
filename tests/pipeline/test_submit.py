"""`bertline submit` against an API of Kubeflow's over real HTTP."""

import factories
import kubeflow_api
import pytest
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from bertline.errors import UserError
from bertline.pipeline import cli, kubeflow
from bertline.pipeline import submit as submissions

TOKEN = "a-token"


@pytest.fixture
def api():
    with kubeflow_api.running() as server:
        yield server


@pytest.fixture(autouse=True)
def _nobodys_token(monkeypatch):
    for variable in (submissions.TOKEN_VARIABLE, submissions.COOKIE_VARIABLE, submissions.ACCOUNT_TOKEN_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("submit")
    path = factories.write_task(folder, factories.reviews(3))
    with path.open("a", encoding="utf-8") as file:
        file.write(
            "kubeflow: {image: 'registry.example.com/bertline:1', data_folder: /data, root: 'gs://bucket/reviews'}\n"
        )
    return path


@pytest.fixture(scope="module")
def compiled():
    tasks = {"Facts": {"cachingOptions": {}}, "Trainer": {"cachingOptions": {"enableCache": True}}}
    spec = {
        "pipelineInfo": {"name": "reviews"},
        "defaultPipelineRoot": "s3://bucket/pipelines",
        "root": {"dag": {"tasks": tasks}},
        "deploymentSpec": {},
        "components": {},
        "schemaVersion": "2.1.0",
        "sdkVersion": "tfx-1.21.0",
    }
    executors = {"Trainer_executor": {"nodeSelector": {"labels": {"pool": "gpu"}}}}
    return kubeflow.Compiled(spec, {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}})


def submission(compiled, **changes):
    return submissions.Submission(compiled, "the run", "reviews", **changes)


def spec_of(body):
    sent = body["pipeline_spec"]
    return sent.get("pipeline_spec", sent)


def test_the_command_compiles_starts_a_run_and_says_where(api, config, capfd):
    cli.app(["submit", str(config), "--host", api.url, "--name", "nightly"], standalone_mode=False)
    assert f"started nightly: run-1  {api.url}/#/runs/details/run-1\n" in capfd.readouterr().out
    (_, experiment), (kind, run) = api.created
    assert experiment["display_name"] == "reviews"
    assert kind == "runs"
    assert (run["display_name"], run["experiment_id"]) == ("nightly", "experiment-1")
    spec = json_format.ParseDict(spec_of(run), pipeline_spec_pb2.PipelineSpec())
    assert spec.pipeline_info.name == "reviews"
    assert "Trainer" in spec.root.dag.tasks
    assert run["runtime_config"].get("parameters", {}) == {}


def test_caching_off_reaches_every_stage_and_on_leaves_them_as_compiled(api, compiled):
    where = submissions.Api(api.url)
    submissions.start(submission(compiled), where)
    submissions.start(submission(compiled, caching=False), where)
    on, off = (
        {
            name: task["cachingOptions"].get("enableCache")
            for name, task in spec_of(body)["root"]["dag"]["tasks"].items()
        }
        for kind, body in api.created
        if kind == "runs"
    )
    assert on == {"Facts": None, "Trainer": True}
    assert not any(off.values())


def test_the_platforms_part_travels_with_the_spec(api, compiled):
    submissions.start(submission(compiled, service_account="trainer"), submissions.Api(api.url))
    run = api.created[-1][1]
    assert run["pipeline_spec"]["platform_spec"] == compiled.platform
    assert run["service_account"] == "trainer"
    assert run["runtime_config"]["pipeline_root"] == "s3://bucket/pipelines"


def test_a_schedule_runs_one_at_a_time(api, compiled):
    assert submissions.schedule(submission(compiled), submissions.Api(api.url), "0 3 * * *") == "schedule-1"
    kind, body = api.created[-1]
    assert kind == "recurringruns"
    assert body["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert body["runtime_config"]["pipeline_root"] == "s3://bucket/pipelines"
    assert (body["max_concurrency"], body["no_catchup"], body["mode"]) == (1, True, "ENABLE")


def test_a_schedule_of_four_fields_is_refused(compiled):
    with pytest.raises(UserError, match="minute, hour, day, month and weekday"):
        submissions.six_fields("0 3 * *")


def test_a_token_comes_from_a_file_or_the_environment(api, compiled, tmp_path, monkeypatch):
    api.token = TOKEN
    with pytest.raises(UserError, match=r"401 .*who are you.*--token-file"):
        submissions.start(submission(compiled), submissions.Api(api.url))
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert submissions.start(submission(compiled), submissions.Api(api.url, token_file=tmp_path / "token")) == "run-1"
    monkeypatch.setenv(submissions.TOKEN_VARIABLE, TOKEN)
    assert submissions.start(submission(compiled), submissions.Api(api.url)) == "run-1"


def test_a_pods_own_account_is_used(api, compiled, tmp_path, monkeypatch):
    api.token = TOKEN
    (tmp_path / "projected").write_text(TOKEN)
    monkeypatch.setenv(submissions.ACCOUNT_TOKEN_VARIABLE, str(tmp_path / "projected"))
    assert submissions.start(submission(compiled), submissions.Api(api.url)) == "run-1"


def test_a_failed_run_is_an_error_to_who_waits_for_it(api, config, capfd):
    api.state = "FAILED"
    with pytest.raises(SystemExit, match="1"):
        cli.app(["submit", str(config), "--host", api.url, "--wait"], standalone_mode=False)
    assert "ended: failed" in capfd.readouterr().out


def test_nobody_there_is_said_in_a_line(compiled):
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:1 cannot be reached"):
        submissions.start(submission(compiled), submissions.Api("http://127.0.0.1:1"))
