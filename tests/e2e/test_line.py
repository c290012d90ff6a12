"""The line from outside: a first run, the same again, a changed row, a worse model, interrupted runs.

Each test begins with the task in the state that its fixture names; see conftest.py.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import browser as browsers
import factories
import nbclient
import nbformat
import pytest
import recount
from huggingface_hub import ModelCard

from bertline.components.evaluation import read_metrics

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "review.ipynb"


def test_a_first_run_ends_with_a_pushed_version(line):
    first = line.ran["pushed"]
    shown = first.stdout
    for stage in (
        "ingest",
        "validate",
        "tokenise",
        "baseline",
        "train",
        "export",
        "evaluate",
        "gates",
        "canary",
        "push",
        "labels",
        "explain",
    ):
        assert f"\n  {stage} " in shown
    assert "900 rows of 900" in shown
    assert "20 of 20 answers equal" in shown
    assert shown.splitlines()[-1].strip().startswith("review ")
    assert "WARNING" not in shown + first.stderr
    assert len(line.versions()) == 1


def test_the_release_says_where_the_model_comes_from(line):
    release = json.loads((line.serving / line.versions()[0] / "release.json").read_text())
    assert release["metrics"]["accuracy"] >= 0.8
    assert release["parent"] is None
    assert release["libraries"]["tfx"] == "1.21.0"
    assert {"config_hash", "data_hash", "inputs", "git_commit"} <= set(release)


def test_the_release_has_its_model_card_with_hugging_faces_front_matter(line):
    card = ModelCard.load(line.serving / line.versions()[0] / "MODEL_CARD.md")
    release = json.loads((line.serving / line.versions()[0] / "release.json").read_text())
    assert card.data.model_name == "reviews"
    assert card.data.eval_results[0].metric_value == pytest.approx(release["metrics"]["accuracy"], abs=1e-6)
    assert release["data_hash"] in card.text


def test_every_figure_of_the_review_page_is_scikit_learns_of_the_predictions(line):
    printed = line.bertline("review", line.config, "--no-open").stdout.strip()
    (predictions,) = line.folder.glob("runs/artifacts/Evaluator/evaluation/*/predictions-test.parquet")
    classes = read_metrics(str(predictions.parent)).classes
    recount.check((line.folder / printed).read_text(encoding="utf-8"), predictions, classes)


@browsers.needed
def test_tfmas_own_components_hold_the_runs_figures(line):
    printed = line.bertline("review", line.config, "--tfma", "--no-open")
    page = line.folder / printed.stdout.strip()
    assert page.name.endswith(".tfma.html"), printed.stderr
    (file,) = line.folder.glob("runs/artifacts/Evaluator/evaluation/*/metrics.json")
    metrics = read_metrics(str(file.parent))
    with browsers.opened(page) as browser:

        def held(selector, name="data"):
            return browser.execute_script(f"return document.querySelectorAll('{selector}')[0].{name}")

        assert browser.execute_script("return !!customElements.get('tfma-nb-slicing-metrics')")
        ((overall,), series) = held("tfma-nb-slicing-metrics"), held("tfma-nb-time-series")
        for figures in (overall["metrics"][""][""], series[0]["metrics"][""][""]):
            assert figures["sparse_categorical_accuracy"]["doubleValue"] == pytest.approx(metrics.accuracy, abs=1e-6)
        slices = held('tfma-nb-slicing-metrics[data-index="1"]')
        assert {each["slice"] for each in slices} == {"shop:north", "shop:south"}
        matrices = held("tfma-nb-plot")["confusionMatrixAtThresholds"]["matrices"]
        label = browser.execute_script("return document.querySelector('select').selectedOptions[0].textContent")
        rows = sum(cell.rows for cell in metrics.confusion if metrics.classes[cell.true] == label)
        assert max(each.get("truePositives", 0) for each in matrices) == rows
        indicators = held("fairness-nb-container", "slicingMetrics")
        assert {each["slice"] for each in indicators} >= {"Overall", "shop:north", "shop:south"}
        said = browser.find_element("css selector", ".note").text
        assert "load Google Charts" in said


def test_the_probable_label_errors_are_a_file_for_correction(line):
    assert "probable label errors (" in line.ran["pushed"].stdout
    file = line.folder / "issues.csv"
    assert line.bertline("label-issues", line.config, "-o", file).returncode == 0
    assert line.bertline("label-issues", line.config).stdout.encode() == file.read_bytes().replace(b"\r\n", b"\n")
    assert file.read_text(encoding="utf-8").startswith("split,source,row_id,label,suggested,score,by,text,text_pair")


def test_the_notebook_shows_the_same_evaluation_and_falls_back_to_the_page(line, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    monkeypatch.setenv("BERTLINE_CONFIG", str(line.config))
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(line.folder)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs if output["output_type"] == "stream")
    (file,) = line.folder.glob("runs/artifacts/Evaluator/evaluation/*/metrics.json")
    metrics = read_metrics(str(file.parent))
    assert f"Overall {'':22} {metrics.accuracy:.3f}" in printed
    widgets = [
        output["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
        for output in outputs
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    ]
    held = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    slicing, plot = (held[model]["state"] for model in widgets)
    accuracy = slicing["data"][0]["metrics"]["decision"][""]["sparse_categorical_accuracy"]["doubleValue"]
    assert accuracy == pytest.approx(metrics.accuracy, abs=1e-6)
    assert "multiClassConfusionMatrixAtThresholds" in plot["data"]
    assert any("<iframe" in output.get("data", {}).get("text/html", "") for output in outputs)


def test_predict_answers_over_grpc_from_arguments_and_stdin(line):
    answer = line.bertline("predict", line.config, "my item was great and perfect")
    assert answer.stdout.startswith("positive\t"), answer.stderr
    answer = line.bertline("predict", line.config, "--json", input="broken and late\n\nit arrived tuesday\n")
    lines = [json.loads(each) for each in answer.stdout.splitlines()]
    assert [(each["line"], each.get("label")) for each in lines] == [(1, "negative"), (2, None), (3, "neutral")]
    assert answer.returncode == 4, answer.stderr


def test_explain_names_the_words_of_the_users_text(line):
    answer = line.bertline("explain", line.config, "My item, it was GREAT!", "--json")
    explanation = json.loads(answer.stdout)["integrated_gradients"]
    assert max(explanation["words"], key=lambda word: word["value"])["word"] == "GREAT!", answer.stderr
    assert explanation["complete"]


def test_the_same_run_again_is_cached_on_another_engine_too(line):
    line.edit("", "beam: {runner: multi-processing, workers: 2}\n")
    again = line.run()
    assert again.returncode == 0
    assert "every stage cached" in again.stdout
    assert len(line.versions()) == 1
    assert [run["outcome"] for run in line.runs()] == ["pushed", "unchanged"]


def test_a_tracker_that_fails_costs_no_training_and_is_told_once(line):
    line.edit("", "tracking: {tool: tensorboard}\n")
    (line.folder / "runs/tensorboard").write_text("in the way")
    failed = line.run()
    assert failed.returncode == 0, failed.stdout
    assert "NOT tracked by tensorboard: " in " ".join(failed.stdout.split())
    (line.folder / "runs/tensorboard").unlink()
    mended = line.run()
    assert "track tensorboard: runs/tensorboard/" in " ".join(mended.stdout.split())
    (events,) = line.folder.glob("runs/tensorboard/*/events*")
    assert "every stage cached" in line.run().stdout
    assert list(line.folder.glob("runs/tensorboard/*/events*")) == [events]


def test_a_lost_version_is_pushed_again_and_a_review_that_fails_does_not_undo_that(line):
    shutil.rmtree(line.serving / line.versions()[0])
    (statistics,) = line.folder.glob("runs/artifacts/DataGate/report/*/text_statistics.json")
    whole = statistics.read_text()
    statistics.write_text(whole[:-9])
    again = line.run()
    assert again.returncode == 0, again.stdout
    assert "(cached)" in again.stdout
    assert "\n  review     failed: JSONDecodeError: " in again.stdout
    assert "no review page could be written  the push stands; why: runs/logs/" in again.stdout
    assert len(line.versions()) == 1
    assert (line.runs()[-1]["outcome"], line.runs()[-1]["reason"]) == (
        "pushed",
        "after the push, Review did not finish",
    )
    statistics.write_text(whole)
    mended = line.run()
    assert mended.stdout.splitlines()[-1].strip().startswith("review "), mended.stdout
    assert line.runs()[-1]["outcome"] == "unchanged"


def test_a_changed_row_is_noticed_and_the_models_are_compared(retrained):
    before, after = retrained.versions()
    shown = retrained.ran["retrained"].stdout
    assert "every stage cached" not in shown
    assert f"not worse than {before}" in shown
    first, second = retrained.runs()
    assert (second["version"], second["parent"]) == (after, before)
    assert second["data"] != first["data"]


def test_a_rolled_back_model_stays_out_until_that_is_undone(retrained):
    before = retrained.versions()
    assert retrained.bertline("rollback", retrained.config, "--reason", "angry customers").returncode == 0
    unchanged = retrained.run()
    assert unchanged.returncode == 3, unchanged.stdout
    assert f"(angry customers): it is version {before[-1]}" in " ".join(unchanged.stdout.split())
    assert retrained.versions() == before[:-1]
    assert retrained.bertline("rollback", retrained.config, "--undo").returncode == 0
    again = retrained.run()
    assert again.returncode == 0, again.stdout
    assert "every stage cached" in again.stdout
    assert retrained.versions() == before


def test_a_model_of_shuffled_labels_is_blocked_and_the_served_version_stays(blocked):
    (served,) = blocked.versions()
    run = blocked.ran["blocked"]
    assert run.returncode == 3, run.stdout
    assert "not pushed" in run.stdout
    assert f"against version {served}" in " ".join(run.stdout.split())
    assert [record["outcome"] for record in blocked.runs()] == ["pushed", "blocked"]


def test_the_page_of_a_blocked_model_says_so_and_explains_its_wrong_answers(blocked):
    printed = blocked.bertline("review", blocked.config, "--no-open").stdout.strip()
    page = (blocked.folder / printed).read_text(encoding="utf-8")
    assert "gates blocked it" in page
    assert page.count('<small class="why">') == len(factories.page_tables(page)["wrong-table"]) > 0
    assert [row[2] for row in factories.page_tables(page)["run-table"]] == ["pushed", "blocked"]


def test_explain_gate_names_the_gate_and_the_rows(blocked):
    (served,) = blocked.versions()
    explained = blocked.bertline("explain-gate", blocked.config)
    assert explained.returncode == 0, explained.stderr
    assert f"not worse than {served}" in explained.stdout
    assert "more right answers would have let it pass" in explained.stdout
    passed = blocked.bertline("explain-gate", blocked.config, blocked.runs()[0]["run_id"])
    assert "nothing blocked it" in passed.stdout, passed.stderr


def test_compare_counts_the_rows_whose_answer_changed(blocked):
    first, second = (record["run_id"] for record in blocked.runs())
    compared = blocked.bertline("compare", blocked.config, first, "--json")
    assert compared.returncode == 0, compared.stderr
    changes = json.loads(compared.stdout)
    assert changes["rows"] > 0
    assert changes["won"] + changes["lost"] + changes["still_wrong"]
    named = blocked.bertline("compare", blocked.config, first, second, "--json")
    assert json.loads(named.stdout) == changes  # by default the newest evaluated run is the second one


def test_a_second_run_at_once_is_told_so(line):
    factories.write_csv(line.folder / "reviews.csv", factories.reviews(901))
    first = line.start()
    try:
        holder = line.folder / "runs" / ".holder"
        wait_until(lambda: holder.exists() and holder.read_text() == str(first.pid))
        second = line.run()
        assert second.returncode == 1
        assert f"another run is using {line.folder}/runs (process {first.pid})" in second.stderr
    finally:
        kill(first)


def test_a_new_threshold_and_dtype_change_the_answers_and_train_nothing(line):
    text = "the item"  # without a word that tells the moods apart
    before = line.versions()
    (answer,) = line.bertline("predict", line.config, text, "--json").stdout.splitlines()
    assert "abstained" not in json.loads(answer)
    trained = set(line.folder.glob("runs/artifacts/Trainer/weights/*"))
    line.edit("", "export: {dtype: bfloat16, abstain: 0.999}\n")
    exported = line.run()
    assert exported.returncode == 0, exported.stdout
    assert set(line.folder.glob("runs/artifacts/Trainer/weights/*")) == trained
    assert "\n  export     bfloat16, " in exported.stdout
    assert len(line.versions()) == len(before) + 1
    (answer,) = line.bertline("predict", line.config, text, "--json").stdout.splitlines()
    assert json.loads(answer)["abstained"] is True
    line.edit("export: {dtype: bfloat16, abstain: 0.999}\n", "")


def test_serving_picks_up_a_new_version_without_dropping_a_request(line):
    from bertline.serving.client import Client
    from bertline.serving.server import Server
    from bertline.serving.versions import Polling

    old = line.versions()[-1]
    with (
        Server.of(line.serving, "reviews", port=0, polling=Polling(0.2)) as server,
        Client(server.address, "reviews") as client,
    ):
        assert client.metadata()[0] == int(old)
        new = str(int(old) + 1)
        shutil.copytree(line.serving / old, line.serving / f".{new}")
        os.rename(line.serving / f".{new}", line.serving / new)
        deadline = time.monotonic() + 60
        while client.metadata()[0] != int(new):
            assert client.predict(["my item was great and perfect"])[0].label == "positive"
            assert time.monotonic() < deadline


def kill(run: subprocess.Popen) -> None:
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()


def wait_until(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
