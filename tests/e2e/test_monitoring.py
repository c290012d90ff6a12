"""The page's ten minutes: records, a window as usual, one that is not, corrections, and accuracy that is measured."""

import csv
import json
import random
import re
import signal
import subprocess
from contextlib import contextmanager

import factories
from lines import BERTLINE

from bertline import Client


@contextmanager
def serving(line):
    """`bertline serve` as installed; gives a client."""
    command = [BERTLINE, "serve", line.config, "--embedded"]
    with subprocess.Popen(
        command, cwd=line.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        shown = ""
        while not (found := re.search(r"answering on (\S+) and", shown)):
            answered = process.stdout.readline()
            assert answered, shown
            shown += answered
        try:
            with Client(found[1], "reviews") as client:
                yield client
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def test_a_served_model_is_watched_corrected_and_measured(line):
    line.edit("serve: {port: 0}", "serve: {port: 0, rest_port: 0, log: {rate: 1, texts: true}}")
    line.edit("  source: reviews.csv", "  source: reviews.csv\n  train_source: corrections-{SPAN}.jsonl")
    nothing = line.bertline("monitor", line.config)
    assert nothing.returncode == 1 and "no requests are recorded yet" in nothing.stderr

    usual = random.Random(1).sample(factories.reviews(900, seed=9), 300)
    with serving(line) as client:
        answers = client.predict([text for text, _, _ in usual])
    assert all(answer.id for answer in answers)
    quiet = line.bertline("monitor", line.config)
    assert quiet.returncode == 0, quiet.stdout + quiet.stderr
    assert "no alarm" in quiet.stdout and "300 answers" in quiet.stdout and "estimated " in quiet.stdout

    complaints = [text for text, label, _ in factories.reviews(1200, seed=10) if label == "negative"]
    with serving(line) as client:
        complained = client.predict([f"{text} refund@example.com" for text in complaints])
    alarmed = line.bertline("monitor", line.config, "--json", "--metrics", "monitor.prom", "--page", "page.html")
    assert alarmed.returncode == 5, alarmed.stdout + alarmed.stderr
    labels = next(look for look in json.loads(alarmed.stdout)["looks"] if look["look"] == "labels")
    assert labels["alarm"] and labels["what"].startswith("negative")
    assert len(labels["texts"]) == 10
    shown = [text["text"] for look in json.loads(alarmed.stdout)["looks"] for text in look["texts"]]
    assert any("<EMAIL_ADDRESS>" in text for text in shown) and not any("refund@" in text for text in shown)
    assert 'look="labels",model="reviews"} 1.0' in (line.folder / "monitor.prom").read_text()

    page = (line.folder / "page.html").read_text(encoding="utf-8")
    assert "looks are alarms" in page and "&lt;EMAIL_ADDRESS&gt;" in page and page.count("<svg") == 2

    with (line.folder / "corrections.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label", "who", "when"])
        writer.writerows([answer.id, "", "neutral", "ann", "2026-11-28"] for answer in complained[:60])
        writer.writerows([[complained[60].id, "", "furious", "ann", ""], ["", "as it was sent", "positive", "bob", ""]])
    brought = line.bertline("feedback", line.config, "corrections.csv")
    assert brought.returncode == 4, brought.stdout + brought.stderr
    assert "61 new labels of 62 rows" in brought.stdout and "the model knows no label 'furious'" in brought.stdout
    rows = [json.loads(row) for row in (line.folder / "corrections-1.jsonl").read_text().splitlines()]
    assert len(rows) == 61 and rows[-1] == {"text": "as it was sent", "label": "positive", "shop": ""}
    assert rows[0]["label"] == "neutral" and rows[0]["text"].endswith("<EMAIL_ADDRESS>")
    again = line.bertline("feedback", line.config, "corrections.csv")
    assert "0 new labels of 62 rows, 61 known already" in again.stdout
    assert not (line.folder / "corrections-2.jsonl").exists()

    measured = line.bertline("monitor", line.config)
    assert measured.returncode == 5 and "measured accuracy against the test rows" in measured.stdout
    assert "of 60 labelled answers" in measured.stdout
