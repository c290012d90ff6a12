import json

import factories
import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd
from typer.testing import CliRunner

from bertline.components.evaluation import write_metrics
from bertline.errors import UserError
from bertline.pipeline import cli, lineage, review
from bertline.pipeline import config as configs

RUNS = ("2026-11-21T10:00:00", "2026-11-22T09:30:00")


@pytest.fixture
def config(tmp_path):
    return factories.write_task(tmp_path, factories.reviews(3))


@pytest.fixture
def reviewed(config):
    """A task with the pages of two runs."""
    for run_id in RUNS:
        page = review.page_file(configs.load(config), run_id)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("<!doctype html>")
    return config


def test_the_newest_page_is_found_and_that_of_a_run(reviewed):
    newest = CliRunner().invoke(cli.app, ["review", str(reviewed), "--no-open"])
    assert newest.stdout.strip().endswith("review/2026-11-22T093000.html")
    older = CliRunner().invoke(cli.app, ["review", str(reviewed), RUNS[0], "--no-open"])
    assert older.stdout.strip().endswith("review/2026-11-21T100000.html")


def test_the_page_is_opened_from_disk(reviewed, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    assert CliRunner().invoke(cli.app, ["review", str(reviewed)]).exit_code == 0
    assert opened[0].startswith("file:///")
    assert opened[0].endswith("2026-11-22T093000.html")


def test_without_a_browser_the_way_out_is_named(reviewed, monkeypatch):
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    result = CliRunner().invoke(cli.app, ["review", str(reviewed)])
    assert isinstance(result.exception, UserError)
    assert "--no-open" in str(result.exception)


def test_a_missing_page_is_told(config, reviewed):
    with pytest.raises(UserError, match=r"run 2020 has no review page.*2026-11-22T093000"):
        review.find(configs.load(reviewed), "2020")


def test_no_page_at_all_is_told(config):
    with pytest.raises(UserError, match="no review pages yet"):
        review.find(configs.load(config), None)


# === Past runs on the page ===


class Store:
    """Past runs: name -> (inputs, folder of the evaluation, pushed version)."""

    def __init__(self, runs):
        self.runs = runs

    def run_ids(self):
        return list(self.runs)

    def stages(self, run_id):
        inputs, folder, version = self.runs[run_id]
        pushed = mlmd.Artifact()
        pushed.custom_properties["pushed_version"].string_value = version
        release = {"release": json.dumps({"inputs": inputs})}
        return [
            lineage.Stage("Evaluator", "complete", {"evaluation": [mlmd.Artifact(uri=str(folder))]}),
            lineage.Stage("Pusher", "complete", {"pushed_model": [pushed]}, release),
        ]


def evaluation(folder, accuracy):
    folder.mkdir()
    metrics = factories.metrics(factories.answers(["bad", "good"], [0, 1] * 5, [0, 1] * 5), accuracy=accuracy)
    write_metrics(str(folder), metrics)
    return folder


def test_past_figures_are_those_of_other_inputs_and_of_each_evaluation_once(tmp_path):
    first, second = evaluation(tmp_path / "1", 0.7), evaluation(tmp_path / "2", 0.8)
    store = Store({"a": ("x", first, ""), "b": ("x", first, "17"), "c": ("y", second, "18"), "d": ("z", tmp_path, "")})
    (shown,) = lineage.past_figures(store, "y")
    assert set(shown.pop("intervals")) == {"accuracy", "macro_f1", "balanced_accuracy", "calibration_error"}
    assert shown == {"run": "a", "outcome": "pushed", "version": "17", "rows": 10, "accuracy": 0.7, "macro_f1": 1.0}
    assert [each["run"] for each in lineage.past_figures(store, "new")] == ["a", "c"]
