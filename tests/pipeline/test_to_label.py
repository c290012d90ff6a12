import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import apache_beam as beam
import numpy as np
import pandas as pd
import pytest
from factories import reviews, save_mood_model, save_pairs_model, write_csv, write_task
from tfx.types import standard_artifacts
from typer.testing import CliRunner

from bertline.components import example_gen
from bertline.components.artifacts import Quarantine
from bertline.components.labelling import choice
from bertline.components.splitting import text_key
from bertline.errors import UserError
from bertline.pipeline import cli
from bertline.pipeline import config as configs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A task with labelled rows and a pushed model, and a file of unlabelled rows."""
    folder = tmp_path_factory.mktemp("task")
    write_task(folder, reviews(40))
    save_mood_model(folder / "runs/serving/7")
    known = [text for text, *_ in reviews(3)]
    rows = [(f"{'good' if number % 3 else 'dull'} plot {number}", "north") for number in range(60)]
    again = [(known[0].replace(" ", "  ") + " ", "south"), (f"  {known[1]}", "south"), rows[0]]
    write_csv(folder / "new.csv", [*rows, *again], ("text", "shop"))
    return folder


@pytest.fixture
def task(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def to_label(*arguments):
    result = CliRunner().invoke(cli.app, ["to-label", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def ingested(path):
    """The report on the rows that `run` would train on, and its line on the screen."""
    task = configs.load(path)
    examples, quarantine = standard_artifacts.Examples(), Quarantine()
    for artifact, name in ((examples, "examples"), (quarantine, "quarantine")):
        artifact.uri = str(path.parent / "out" / name)
        Path(artifact.uri).mkdir(parents=True)
    example_gen.ExampleGen.test_call(
        examples=examples,
        quarantine=quarantine,
        data=task.data.model_dump_json(),
        base_folder=task.folder,
        fingerprint="cafe",
        beam_pipeline=beam.Pipeline(argv=["--direct_running_mode=in_memory"]),
    )
    report = json.loads(Path(quarantine.uri, "ingest.json").read_text(encoding="utf-8"))
    return report, quarantine.get_string_custom_property("summary")


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_come_with_suggestions_and_without_what_is_known(task, tmp_path, capfd):
    out = tmp_path / "next.csv"
    to_label("task.yaml", "new.csv", "-n", 12, "-o", out)
    rows = table(out)
    assert len(rows) == 12 == len({row["text"] for row in rows})
    for row in rows:
        assert row["label"] == "" and row["shop"] == "north"
        assert row["suggested_label"] == ("positive" if "good" in row["text"] else "negative")
        assert float(row["suggested_probability"]) == 0.75
        file, number = row["from_row"].split(":")
        assert (file, table("new.csv")[int(number) - 1]["text"]) == ("new.csv", row["text"])
        assert row["row_id"] == text_key(row["text"]).row_id
    shown = " ".join(capfd.readouterr().out.split())
    assert "63 rows of 1 file, 60 to choose from; left out: 2 in the data of the config, 1 repeated" in shown
    to_label("task.yaml", "new.csv", "-n", 12, "-o", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == out.read_bytes()
    with pytest.raises(UserError, match="is there already"):
        to_label("task.yaml", "new.csv", "-o", out)


def test_label_studio_gets_tasks_and_its_interface(task, tmp_path):
    out = tmp_path / "next.json"
    to_label("task.yaml", "new.csv", "-n", 3, "-o", out)
    interface = ElementTree.parse(tmp_path / "next.xml").getroot()
    choices = interface.find("Choices")
    names = {element.get("name"): element.get("value") for element in interface.iter("Text")}
    for made in json.loads(out.read_text()):
        (prediction,) = made["predictions"]
        (result,) = prediction["result"]
        assert (result["from_name"], result["to_name"]) == (choices.get("name"), choices.get("toName"))
        assert result["type"] == "choices"
        assert names[result["to_name"]].removeprefix("$") in made["data"]
        assert set(result["value"]["choices"]) <= {each.get("value") for each in choices}
        assert (prediction["score"], prediction["model_version"]) == (0.75, "reviews-7")


def test_argilla_gets_records(task, tmp_path):
    out = tmp_path / "next.json"
    to_label("task.yaml", "new.csv", "-n", 3, "-o", out, "--format", "argilla")
    for record in json.loads(out.read_text()):
        assert record["id"] == text_key(record["fields"]["text"]).row_id
        suggestion = record["suggestions"]["label"]
        assert suggestion["score"] == 0.75 and suggestion["agent"] == "reviews-7"
        assert record["metadata"]["shop"] == "north"


def test_a_family_without_an_encoder_is_refused_before_rows_are_scored(task, tmp_path, capfd):
    lines = (task / "task.yaml").read_text().splitlines()
    at = next(place for place, line in enumerate(lines) if "backbone" in line)
    (task / "bilstm.yaml").write_text("\n".join([*lines[:at], "  family: bilstm", *lines[at + 1 :]]))
    with pytest.raises(UserError, match="family: bilstm learns its vocabulary and its vectors from the rows"):
        to_label("bilstm.yaml", "new.csv", "-o", tmp_path / "next.csv")
    assert "score" not in capfd.readouterr().out and not (tmp_path / "next.csv").exists()


def test_without_a_config_typical_rows_and_any_format(task, tmp_path, capfd):
    rows = [f"{word} {number}" for word in ("refund my money", "the card is lost", "open an account") for number in
            range(12)]  # fmt: skip
    pd.DataFrame({"message": rows}).to_parquet(tmp_path / "new.parquet")
    with pytest.raises(UserError, match="no column 'text'"):
        to_label(tmp_path / "new.parquet", "-o", tmp_path / "next.csv")
    to_label(tmp_path / "new.parquet", "--text", "message", "-n", 3, "-o", tmp_path / "next.csv")
    chosen = table(tmp_path / "next.csv")
    assert {row["message"].rsplit(" ", 1)[0] for row in chosen} == {row.rsplit(" ", 1)[0] for row in rows}
    assert {row["suggested_label"] for row in chosen} == {""}
    assert "no model yet: typical rows" in capfd.readouterr().out


def test_pairs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write_task(tmp_path, [])
    changed = config.read_text().replace("  keep: [shop]", "  text_pair: reply").replace("slices: [shop]", "slices: []")
    config.write_text(changed)
    write_csv(tmp_path / "reviews.csv", [("a", "b", "same"), ("a", "c", "other")], ("text", "reply", "label"))
    write_csv(tmp_path / "new.csv", [("a", "b"), ("b", "b"), ("b", "c"), ("c", " ")], ("text", "reply"))
    save_pairs_model(tmp_path / "runs/serving/7")
    to_label("task.yaml", "new.csv", "-o", "next.csv")
    assert sorted((row["text"], row["reply"]) for row in table("next.csv")) == [("b", "b"), ("b", "c")]


def test_nothing_left_to_label(task, tmp_path):
    write_csv(tmp_path / "known.csv", [reviews(1)[0][:1]], ("text",))
    with pytest.raises(UserError, match="no row is left to label"):
        to_label("task.yaml", tmp_path / "known.csv", "-o", tmp_path / "next.csv")
    with pytest.raises(UserError, match="the ending tells no format"):
        to_label("task.yaml", "new.csv", "-o", "next.txt")
    assert not Path("next.txt").exists()


def test_what_is_filled_in_comes_back_as_a_span(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write_task(tmp_path, reviews(40))
    (tmp_path / "reviews.csv").rename(tmp_path / "reviews-1.csv")
    config.write_text(config.read_text().replace("source: reviews.csv", "source: 'reviews-{SPAN}.csv'"))
    save_mood_model(tmp_path / "runs/serving/7")
    new = ['=1+1 "good"\nplot', "dull,\tplot", "caf\u00e9 good"]
    write_csv(tmp_path / "new.csv", [(text, "north", "7") for text in new], ("text", "shop", "id"))
    to_label("task.yaml", "new.csv", "-o", "next.csv")
    rows = table("next.csv")
    for row in rows:
        row["label"] = row["suggested_label"]
    write_csv(tmp_path / "reviews-2.csv", [row.values() for row in rows], rows[0].keys())
    report, summary = ingested(config)
    assert report["distinct"] == 43 and "2 spans from 1 to 2" in summary
    with pytest.raises(UserError, match="no row is left to label"):
        to_label("task.yaml", "new.csv", "-o", "rest.csv")


# === The choice ===


def test_uncertainty_is_the_margin():
    assert choice.uncertainty(np.array([[0.5, 0.3, 0.2], [0.9, 0.05, 0.05]]), multi_label=False) == pytest.approx(
        [0.8, 0.15]
    )
    assert choice.uncertainty(np.array([[0.9, 0.4], [0.99, 0.02]]), multi_label=True) == pytest.approx([0.8, 0.04])


def around(directions, each, seed=3):
    """Unit vectors around directions, `each` for one, and the direction of each."""
    noise = np.random.default_rng(seed).normal(size=(len(directions) * each, 8)) * 0.05
    vectors = np.repeat(np.eye(8)[directions], each, axis=0) + noise
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), np.repeat(directions, each)


def test_unsure_rows_are_spread_over_the_clusters():
    vectors, kinds = around([0, 1, 2, 3], 25)
    doubts = np.where(kinds == 0, 0.9, 0.5)  # by doubt alone all would be of one kind
    chosen = choice.diverse(vectors, doubts, 4, seed=1)
    assert sorted(kinds[chosen]) == [0, 1, 2, 3] and kinds[chosen[0]] == 0
    alike = choice.diverse(np.ones((9, 2), np.float32), np.linspace(0, 1, 9), 4, seed=1)
    assert len(set(alike.tolist())) == 4


def test_typical_rows_are_dense_and_of_each_kind():
    vectors, kinds = around([0, 1, 2], 20)
    outlier = np.eye(8, dtype=np.float32)[7:]
    chosen = choice.typical(np.concatenate([vectors, outlier]), 3, seed=1)
    ours = chosen[chosen < len(kinds)]
    assert set(kinds[ours]) >= {0, 1} and len(set(chosen.tolist())) == 3
    more = choice.typical(vectors, 600, seed=1)
    assert sorted(more) == list(range(60))
