import contextlib
import csv
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import tensorflow as tf
from factories import pushed_after_a_look, save_mood_model, save_pairs_model, write_csv, write_task
from typer.testing import CliRunner

from bertline.components.scoring import cut
from bertline.errors import UserError
from bertline.pipeline import cli
from bertline.serving.keys import add_key
from bertline.serving.server import Server

LONG = "good " * 120_000  # 600,000 bytes, and a server takes 512 KiB


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task with a pushed model, in the current folder, scored in parts of 8 rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cut, "ROWS_PER_PART", 8)
    write_task(tmp_path, [])
    save_mood_model(tmp_path / "runs/serving/7", abstains=True)
    return tmp_path


def score(*arguments, env=None):
    """What the command printed, and its exit code."""
    result = CliRunner().invoke(cli.app, ["score", "task.yaml", *map(str, arguments)], env=env)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def moods(rows, first=0):
    """(text, expected label) rows of all lengths: good or dull."""
    return [
        (
            f"{'good' if number % 3 else 'dull'} {'so ' * (number * 7 % 23)}{number}",
            "positive" if number % 3 else "negative",
        )
        for number in range(first, first + rows)
    ]


def test_files_of_any_format_in_order_with_their_columns(task, capfd):
    rows = moods(30)
    write_csv(task / "first.csv", [(text, f"00{number}") for number, (text, _) in enumerate(rows[:19])], ("text", "id"))
    pd.DataFrame({"label": ["theirs"] * 6, "text": [text for text, _ in rows[19:25]]}).to_parquet("second.parquet")
    lines = [json.dumps({"text": text, "id": None}) for text, _ in rows[25:]]
    (task / "third.jsonl").write_text("\n".join([lines[0], "{broken", json.dumps({"text": " "}), *lines[1:]]))
    done = score("first.csv", "second.parquet", "third.jsonl", "-o", "scored.parquet")
    assert done.exit_code == 4  # two of 32 are more than 5%
    scored = pd.read_parquet("scored.parquet")
    answers = ["file", "row", "label", "probability", "probability_negative", "probability_positive", "abstained"]
    assert list(scored.columns) == ["text", "id", "input_label", *answers]
    assert list(scored.text) == [text for text, _ in rows]
    assert list(scored.label) == [label for _, label in rows]
    assert list(scored.abstained) == [label == "negative" for _, label in rows]
    assert scored.probability.eq(0.75).all() and scored.probability.dtype == "float32"
    assert scored.probability_positive.tolist() == [0.75 if label == "positive" else 0.25 for _, label in rows]
    assert scored.id.tolist()[:19] == [f"00{number}" for number in range(19)] and scored.id[19:].isna().all()
    assert scored.input_label.dropna().tolist() == ["theirs"] * 6
    assert scored.file.tolist() == ["first.csv"] * 19 + ["second.parquet"] * 6 + ["third.jsonl"] * 5
    assert scored.row.tolist() == [*range(1, 20), *range(1, 7), 1, 4, 5, 6, 7]
    refused = table("scored.parquet.quarantine.csv")
    assert [(row["file"], row["row"], row["reason"]) for row in refused] == [
        ("third.jsonl", "2", "broken line"),
        ("third.jsonl", "3", "empty text"),
    ]
    assert not Path("scored.parquet.unfinished").exists()
    shown = " ".join(capfd.readouterr().out.split())
    assert "scored.parquet 30 rows of 32: 2 quarantined (see scored.parquet.quarantine.csv)" in shown
    assert "label as input_label" in shown


def test_csv_is_safe_in_a_spreadsheet_and_json_lines_as_predict_writes_them(task, capfd):
    write_csv(task / "in.csv", [('=HYPERLINK("good")', "-3.5"), ('dull, "or"\nnot', "+cmd")], ("text", "x"))
    score("in.csv", "-o", "out.csv")
    assert "3 cells begin like a formula" not in capfd.readouterr().out
    (first, second) = table("out.csv")
    assert first["text"] == '\'=HYPERLINK("good")' and first["x"] == "-3.5"
    assert second["text"] == 'dull, "or"\nnot' and second["x"] == "'+cmd"
    assert (second["label"], second["probability"], second["abstained"]) == ("negative", "0.75", "true")
    score("in.csv", "-o", "plain.csv", "--no-guard", "--keep", "x", "--no-probabilities")
    assert table("plain.csv")[1] == {
        "x": "+cmd", "file": "in.csv", "row": "2", "label": "negative", "probability": "0.75", "abstained": "true",
    }  # fmt: skip
    score("in.csv", "-o", "out.jsonl", "--keep", "x")
    assert json.loads(Path("out.jsonl").read_text().splitlines()[0]) == {
        "x": "-3.5", "file": "in.csv", "row": 1, "label": "positive", "probability": 0.75,
        "probabilities": {"negative": 0.25, "positive": 0.75}, "abstained": False,
    }  # fmt: skip


def test_a_query_of_the_config_with_all_columns(task):
    with contextlib.closing(sqlite3.connect(task / "rows.db")) as database:
        database.execute("create table messages (id integer, text varchar)")
        database.executemany("insert into messages values (?, ?)", [(1, "good"), (2, "dull")])
        database.commit()
    config = task / "task.yaml"
    source = "source: {url: 'sqlite:///rows.db', query: 'select id, text from messages order by id'}"
    config.write_text(config.read_text().replace("source: reviews.csv", source))
    score("-o", "out.csv", "--no-probabilities")
    assert [(row["id"], row["text"], row["label"]) for row in table("out.csv")] == [
        ("1", "good", "positive"),
        ("2", "dull", "negative"),
    ]


def save_slow_model(folder):
    """The mood model, but each batch takes some milliseconds."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def text(text):
        rounds = tf.while_loop(lambda i: i < 3000, lambda i: [i + 1], [tf.constant(0)])[0]
        positive = tf.strings.regex_full_match(text, "(?s).*good.*") & (rounds > 0)
        length = tf.cast(tf.strings.length(text) % 100, tf.float32) / 1000
        probability = tf.where(positive, 0.75, 0.25) + length
        return {
            "label": tf.where(positive, "positive", "negative"),
            "probabilities": tf.stack([1 - probability, probability], 1),
            "classes": tf.tile([["negative", "positive"]], [tf.size(text), 1]),
        }

    tf.saved_model.save(tf.Module(), str(folder), signatures={"text": text})


SMALL_PARTS = (
    "from bertline.components.scoring import cut; cut.ROWS_PER_PART = 8; from bertline.pipeline import cli; cli.main()"
)


def test_a_job_killed_twice_ends_as_an_undisturbed_one(task, capfd):
    save_slow_model(task / "runs/serving/8")
    rows = moods(4000)
    rows[1234] = ("", "")
    write_csv(task / "in.csv", [(text, str(number)) for number, (text, _) in enumerate(rows)], ("text", "id"))
    job = task / "killed.parquet.unfinished"
    for enough in (60, 200):  # of 500 parts
        command = [sys.executable, "-c", SMALL_PARTS, "score", "task.yaml", "in.csv", "-o", "killed.parquet"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        until = time.monotonic() + 120
        while len(list(job.glob("answers-*"))) < enough:
            assert process.poll() is None and time.monotonic() < until, process.stderr.read()
            time.sleep(0.005)
        process.kill()
        process.communicate()
        assert not (task / "killed.parquet").exists()
    answered = {path: path.stat().st_mtime_ns for path in job.glob("answers-*")}
    assert 200 <= len(answered) < 500
    with pytest.raises(UserError, match="unfinished job with other values of: columns"):
        score("in.csv", "-o", "killed.parquet", "--keep", "id")
    capfd.readouterr()
    os.link(sorted(answered)[0], task / "first-part")  # the job's folder goes; the file's time stays
    score("in.csv", "-o", "killed.parquet")
    assert (task / "first-part").stat().st_mtime_ns == answered[sorted(answered)[0]]
    assert f"{8 * len(answered):,} of 4,000 rows are scored already" in " ".join(capfd.readouterr().out.split())
    score("in.csv", "-o", "whole.parquet")
    killed, whole = pd.read_parquet("killed.parquet"), pd.read_parquet("whole.parquet")
    pd.testing.assert_frame_equal(killed, whole)
    assert whole.id.tolist() == [str(number) for number in range(4000) if number != 1234]
    assert whole.label.tolist() == [label for _, label in rows if label]
    quarantines = [Path(f"{name}.parquet.quarantine.csv").read_text() for name in ("killed", "whole")]
    assert quarantines[0] == quarantines[1] and quarantines[0].splitlines()[1].startswith("in.csv,1235,empty text")
    assert not list(task.glob("*.unfinished"))


def test_worker_processes_answer_as_this_one(task):
    write_csv(task / "in.csv", [(text,) for text, _ in moods(50)], ("text",))
    score("in.csv", "-o", "here.csv")
    with (task / "task.yaml").open("a") as config:
        config.write("beam: {runner: multi-processing, workers: 2}\n")
    score("in.csv", "-o", "there.csv")
    assert Path("here.csv").read_text() == Path("there.csv").read_text()


def test_a_server_answers_and_what_it_refuses_goes_to_quarantine(task):
    rows = moods(20)
    write_csv(task / "in.csv", [*((text,) for text, _ in rows), (LONG,)], ("text",))
    key = add_key(task / "keys.json", "tester")
    with Server.of(task / "runs/serving", "reviews", port=0, keys_file=task / "keys.json") as server:
        with pytest.raises(UserError, match="UNAUTHENTICATED"):
            score("in.csv", "-o", "out.csv", "--address", server.address, env={"BERTLINE_API_KEY": "guess"})
        score("in.csv", "-o", "out.csv", "--address", server.address, env={"BERTLINE_API_KEY": key})
    assert [row["label"] for row in table("out.csv")] == [label for _, label in rows]
    (refused,) = table("out.csv.quarantine.csv")
    assert (refused["row"], refused["reason"]) == ("21", "refused by the server")
    assert "a text of 600000 bytes; the longest is 524288" in refused["detail"]
    score("in.csv", "-o", "here.csv")  # in process the texts have no limit
    assert len(Path("here.csv").read_text().splitlines()) == 22
    with contextlib.suppress(FileNotFoundError), pytest.raises(UserError, match="no model server answers"):
        score("in.csv", "-o", "none.csv", "--address", server.address)


def test_pairs(task):
    save_pairs_model(task / "pairs")
    write_csv(task / "in.csv", [("a", "a"), ("a", "b"), ("a", "")], ("text", "second"))
    with pytest.raises(UserError, match=r"pairs reads text pairs, and the config names no data\.text_pair"):
        score("in.csv", "-o", "out.csv", "--model", "pairs")
    config = task / "task.yaml"
    config.write_text(
        config.read_text().replace("  keep: [shop]", "  text_pair: second").replace("  slices: [shop]\n", "")
    )
    score("in.csv", "-o", "out.csv", "--model", "pairs")
    assert [row["label"] for row in table("out.csv")] == ["same", "other"]


def save_topics_model(folder):
    """A multi-label model: the labels a, b and c of a text are the letters in it, b less sure than c than a."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def text(text):
        has = tf.stack([tf.strings.regex_full_match(text, f".*{letter}.*") for letter in "abc"], 1)
        classes = tf.tile([["a", "b", "c"]], [tf.size(text), 1])
        return {"assigned": has, "probabilities": tf.where(has, [[0.75, 0.5, 0.625]], 0.25), "classes": classes}

    tf.saved_model.save(tf.Module(), str(folder), signatures={"text": text})
    return folder


def test_rows_with_several_labels(task, capfd):
    save_topics_model(task / "runs/serving/9")
    write_csv(task / "in.csv", [("a b c",), ("x",), ("",), ("b",)], ("text",))
    score("in.csv", "-o", "out.parquet")
    scored = pd.read_parquet("out.parquet")
    expected = ["text", "file", "row", "labels", "probability_a", "probability_b", "probability_c"]
    assert list(scored.columns) == expected
    assert [list(labels) for labels in scored.labels] == [["a", "c", "b"], [], ["b"]]
    assert scored.probability_c.tolist() == [0.625, 0.25, 0.25]
    assert "b 66.7%, a 33.3%, c 33.3%" in " ".join(capfd.readouterr().out.split())
    score("in.csv", "-o", "out.csv")
    assert [row["labels"] for row in table("out.csv")] == ['["a", "c", "b"]', "[]", '["b"]']
    score("in.csv", "-o", "out.jsonl", "--no-probabilities")
    first = json.loads(Path("out.jsonl").read_text().splitlines()[0])
    assert first == {"text": "a b c", "file": "in.csv", "row": 1, "labels": ["a", "c", "b"]}
    config = task / "task.yaml"
    changes = {"  keep: [shop]": '  multi_label: {separator: "|"}', "  slices: [shop]\n": "", "accuracy:": "micro_f1:"}
    text = config.read_text()
    for old, new in changes.items():
        text = text.replace(old, new, 1)
    config.write_text(text)
    score("in.csv", "-o", "joined.csv")
    assert [row["labels"] for row in table("joined.csv")] == ["a|c|b", "", "b"]
    with Server.of(task / "runs/serving", "reviews", port=0) as server:
        score("in.csv", "-o", "served.csv", "--address", server.address)
    assert Path("served.csv").read_text() == Path("joined.csv").read_text()


def test_a_push_while_the_versions_are_looked_at_is_for_the_next_job(task, monkeypatch, capfd):
    write_csv(task / "in.csv", moods(3), ("text", "label"))
    save_mood_model(task / "runs/serving/.8")
    pushed_after_a_look(task / "runs/serving", monkeypatch)
    score("in.csv", "-o", "out.csv")
    assert "version 7" in "".join(capfd.readouterr()) and (task / "runs/serving/8").exists()


def test_nothing_is_replaced_or_guessed(task):
    write_csv(task / "in.csv", [("good",)], ("text",))
    write_csv(task / "other.csv", [("good",)], ("texts",))
    for arguments, words in (
        (["in.csv", "-o", "out.xml"], r"the ending says the format: \.parquet, \.csv, \.jsonl"),
        (["in.csv", "-o", "out.csv", "--version", "3"], r"--version 3: .* does not hold it\. There is 7"),
        (["in.csv", "-o", "out.csv", "--keep", "id"], r"--keep id: no file has this column\. Columns found: 'text'"),
        (["other.csv", "-o", "out.csv"], r"other\.csv: no column 'text' \(data\.text\).*Did you mean 'texts'"),
        (["none.csv", "-o", "out.csv"], "data source 'none.csv' does not exist"),
        (["in.csv", "-o", "out.csv", "--model", "nowhere"], "nowhere/saved_model.pb: cannot be read"),
    ):
        with pytest.raises(UserError, match=words):
            score(*arguments)
    score("in.csv", "-o", "out.csv")
    before = Path("out.csv").read_text()
    write_csv(task / "in.csv", [("dull",), ("",)], ("text",))
    with pytest.raises(UserError, match=r"out\.csv is there already"):
        score("in.csv", "-o", "out.csv")
    assert Path("out.csv").read_text() == before
    score("in.csv", "-o", "out.csv", "--force")
    assert "negative" in Path("out.csv").read_text()
    Path("out.csv").unlink()
    with pytest.raises(UserError, match=r"out\.csv\.quarantine\.csv is there already"):
        score("in.csv", "-o", "out.csv")
