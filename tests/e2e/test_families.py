"""The whole line with each family but BERT: run, served with ops that TF Serving has, explained, warm-started, killed,
compiled for Kubeflow."""

import json
import shutil

import factories
import pyarrow.parquet as pq
import pytest
import xlm_roberta_folder as tiny
from clusters import Cluster
from lines import Line, figures, first_evaluation
from victims import Victim

from bertline.serving import ops
from bertline.serving.client import Client
from bertline.serving.server import Server

pytestmark = pytest.mark.shipped


def xlm_roberta(line, rows):
    """A tiny one with e5's prefix."""
    backbone = tiny.write_weights(line.folder / "xlmr")
    tiny.write_vocabulary(backbone / "sentencepiece.bpe.model", [f"{text} {text[::-1]}" for text, _, _ in rows])
    (backbone / "config_sentence_transformers.json").write_text('{"prompts": {"query": "query: "}}')
    line.edit(f"backbone: {RANDOM}vocabulary: {line.folder}/vocab.txt}}", f"backbone: {backbone}")
    line.edit("max_length: 16", "max_length: 40")


def bilstm(line, rows):
    """One of a few units."""
    sizes = "{embedding: 16, units: 8}"
    line.edit(f"backbone: {RANDOM}vocabulary: {line.folder}/vocab.txt}}", f"family: bilstm\n  bilstm: {sizes}")
    line.edit("learning_rate: 0.002", "learning_rate: 0.01")


def static(line, rows):
    """One of a tiny BERT's vocabulary."""
    del rows
    backbone = factories.tiny_backbone(line.folder)
    sizes = "{dimensions: 16, hidden: 16}"
    weights = f"family: static\n  static: {sizes}\n  backbone: {backbone}"
    line.edit(f"backbone: {RANDOM}vocabulary: {line.folder}/vocab.txt}}", weights)
    line.edit("learning_rate: 0.002", "learning_rate: 0.01")


RANDOM = "{layers: 2, hidden: 64, heads: 2, intermediate: 128, "


@pytest.fixture(scope="module", params=[xlm_roberta, bilstm, static])
def pushed(request, tmp_path_factory, warm):
    """A line that has pushed a model of the family."""
    line = Line(tmp_path_factory.mktemp(request.param.__name__), warm)
    rows = factories.reviews(900)
    factories.write_task(line.folder, rows)
    request.param(line, rows)
    line.first_run()
    return line


def test_it_is_served_as_it_was_evaluated(pushed):
    line = pushed.at("pushed")
    (version,) = line.versions()
    assert ops.check(line.serving / version) == []
    (file,) = line.folder.glob("runs/artifacts/Evaluator/evaluation/*/predictions-test.parquet")
    predictions = pq.read_table(file).to_pydict()
    server = Server.of(line.serving, "reviews", port=0, rest_port=0)
    server.start()
    try:
        with Client(server.address, "reviews") as client:
            answers = client.predict(predictions["text"][:40])
    finally:
        server.stop()
    assert [answer.label for answer in answers] == predictions["predicted"][:40]
    assert first_evaluation(line.folder)[0]["accuracy"] > 0.8


def test_explain_names_the_words_of_the_users_text(pushed):
    line = pushed.at("pushed")
    answer = line.bertline("explain", line.config, "My item, it was great", "--json")
    explanation = json.loads(answer.stdout)["integrated_gradients"]
    assert max(explanation["words"], key=lambda word: word["value"])["word"] == "great", answer.stderr


def test_a_second_run_starts_from_its_weights(pushed):
    line = pushed.at("warm", lambda line: line.edit("epochs: 8", "epochs: 1\n  warm_start: true"))
    ran = line.ran["warm"]
    assert ran.returncode in (0, 3), ran.stdout + ran.stderr
    assert f"from {min(line.versions())}" in ran.stdout
    assert line.runs()[0]["metrics"].startswith("accuracy ")


def test_killed_while_it_trains_it_ends_as_one_that_nobody_killed(pushed):
    line = pushed.at("pushed")
    shutil.rmtree(line.folder / "runs")
    line.edit("  epochs: 8", "  epochs: 8\n  checkpoint_steps: 5")
    Victim(line).kill_in("Trainer", ("runs/checkpoints/**/checkpoint",))
    assert not line.serving.exists() or line.versions() == []
    ran = line.run()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "resumed at step" in ran.stdout
    metrics, release = first_evaluation(line.folder)
    assert figures(metrics) == figures(line.first_metrics)
    assert figures(release["metrics"]) == figures(line.first_release["metrics"])


def test_compiled_for_kubeflow_it_ends_with_the_release_that_the_local_line_pushes(pushed, warm, tmp_path):
    line = pushed.at("pushed")
    # In a folder of the same name, as the data's fingerprint takes in the folder's: it can be a label.
    cluster = Cluster(line.first_config, tmp_path / line.folder.name, warm)
    cluster.first_run()
    assert cluster.first.states("succeeded") == set(cluster.first.tasks), cluster.first
    (version,) = cluster.versions()
    release = json.loads((cluster.serving / version / "release.json").read_text())
    for name in ("accuracy", "macro_f1", "loss", "calibration_error"):
        assert release["metrics"][name] == pytest.approx(line.first_release["metrics"][name], abs=1e-4), name
    same = ("inputs", "config_hash", "data_hash", "code_hash", "libraries", "parent", "name")
    assert {name: release[name] for name in same} == {name: line.first_release[name] for name in same}
