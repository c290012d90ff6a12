import csv
import json

import factories
import pandas as pd
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from bertline.errors import UserError
from bertline.pipeline import cli
from bertline.serving.server import Server


def save_overlap_model(folder):
    """A SavedModel of text pairs: "fits" is as probable as the share of the second text's words that the first has."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name) for name in ("text", "text_pair")])
    def text(text, text_pair):
        first, second = (tf.strings.split(each).to_tensor() for each in (text, text_pair))
        there = tf.reduce_any(second[:, :, None] == first[:, None, :], -1) & (second != "")
        share = tf.reduce_sum(tf.cast(there, tf.float32), -1) / tf.reduce_sum(tf.cast(second != "", tf.float32), -1)
        return {
            "label": tf.where(share > 0.5, "fits", "other"),
            "probabilities": tf.stack([share, 1 - share], -1),
            "classes": tf.tile([["fits", "other"]], [tf.size(text), 1]),
        }

    tf.saved_model.save(tf.Module(), str(folder), signatures={"text": text})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overlap") / "7"
    save_overlap_model(folder)
    return folder


@pytest.fixture
def task(tmp_path, monkeypatch, model):
    """A task of pairs with a pushed model, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/answers/serving").mkdir(parents=True)
    (tmp_path / "runs/answers/serving/7").symlink_to(model)
    (tmp_path / "task.yaml").write_text(
        "name: answers\n"
        "data: {source: pairs.csv, text: question, text_pair: answer, label: fit, split: {group: text}}\n"
        "model: {backbone: {layers: 1, hidden: 64, heads: 2, vocabulary: vocab.txt}}\n"
        "evaluate: {ranking: {label: fits}}\n"
    )
    return tmp_path


def rank(*arguments):
    """The command's result; a person's error is raised."""
    result = CliRunner().invoke(cli.app, ["rank", "task.yaml", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


ANSWERS = ["wash it cold", "return it in 30 days", "return the shoes by post", "we open at nine", "return it"]


def test_candidates_of_one_query_come_in_order_on_the_screen_and_in_files(task, capfd):
    factories.write_csv(task / "all.csv", [(text, f"#{n}") for n, text in enumerate(ANSWERS)], ("answer", "score"))
    assert rank("all.csv", "--query", "how do i return it", "--top", 2, "-o", "out.csv").exit_code == 0
    shown = capfd.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    assert ["1", "1.000", "5", "return", "it"] in lines and ["2", "0.400", "2", *ANSWERS[1].split()] in lines
    assert "3 more candidates" in shown and "we open" not in shown
    with open("out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["answer"], row["input_score"]) for row in rows] == [
        ("1", "return it", "#4"),
        ("2", "return it in 30 days", "#1"),
        ("3", "wash it cold", "#0"),
        ("4", "return the shoes by post", "#2"),
        ("5", "we open at nine", "#3"),
    ]
    assert {row["query"] for row in rows} == {"how do i return it"}
    with pytest.raises(UserError, match=r"out\.csv is there already"):
        rank("all.csv", "--query", "x", "-o", "out.csv")


def test_a_file_with_its_own_queries_is_ranked_query_by_query_as_a_server_does(task, capfd):
    rows = [("return it", text) for text in ANSWERS[:3]] + [("when do  you open", "we open"), ("when do you open", "a")]
    pd.DataFrame(rows, columns=["question", "answer"]).to_json("pairs.jsonl", orient="records", lines=True)
    with open("pairs.jsonl", "a") as file:
        file.write(json.dumps({"question": "return it", "answer": " "}) + "\n")
    assert rank("pairs.jsonl", "-o", "here.parquet").exit_code == 4
    assert "1 of 6 rows are not ranked. pairs.jsonl, row 6: column 'answer' is empty" in capfd.readouterr().out
    here = pd.read_parquet("here.parquet")
    assert list(here["rank"]) == [1, 2, 3, 1, 2] and list(here["row"]) == [2, 1, 3, 4, 5]
    with Server.of(str(task / "runs/answers/serving"), "answers", port=0) as server:
        assert rank("pairs.jsonl", "-o", "there.parquet", "--address", server.address).exit_code == 4
    pd.testing.assert_frame_equal(pd.read_parquet("there.parquet"), here)


def test_what_cannot_be_ranked_is_said_in_words(task):
    factories.write_csv(task / "all.csv", [(text, "x") for text in ANSWERS], ("answer", "id"))
    factories.write_csv(task / "other.csv", [("a", "b")], ("text", "id"))
    factories.write_csv(task / "blank.csv", [(" ", "b")], ("answer", "id"))
    said = {
        ("all.csv",): r"no column 'question' \(data\.text\).*--query TEXT",
        ("other.csv", "--query", "x"): r"no column 'answer' \(data\.text_pair\)",
        ("blank.csv", "--query", "x"): r"no row to rank\. blank\.csv, row 1: column 'answer' is empty",
        ("all.csv", "--query", " "): "--query is blank",
        ("all.csv", "--query", "x", "--label", "yes"): "no label 'yes': its labels are fits, other",
        ("none.csv", "--query", "x"): r"none\.csv",
        ("all.csv", "--query", "x", "-o", "out.txt"): "the ending says the format",
    }
    for arguments, words in said.items():
        with pytest.raises(UserError, match=words):
            rank(*arguments)
    config = (task / "task.yaml").read_text()
    (task / "task.yaml").write_text(config.replace("evaluate: {ranking: {label: fits}}\n", ""))
    with pytest.raises(UserError, match="which label says that a candidate fits"):
        rank("all.csv", "--query", "x")
    single = config.replace(" text_pair: answer,", "").replace(", split: {group: text}", "")
    (task / "task.yaml").write_text(single.replace("evaluate: {ranking: {label: fits}}\n", ""))
    with pytest.raises(UserError, match=r"names no data\.text_pair: its model reads single texts"):
        rank("all.csv", "--query", "x", "--label", "fits")
