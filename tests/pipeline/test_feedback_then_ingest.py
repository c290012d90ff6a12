"""What `bertline feedback` writes, as the next run's ingestion reads it."""

from types import SimpleNamespace

import pytest
from test_init_then_ingest import ingested, table

from bertline.components import splitting
from bertline.pipeline import config, evaluated, feedback


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A config with 240 rows; its evaluation stands for that of a run, of which only the labels' names are asked."""
    run = SimpleNamespace(metrics=SimpleNamespace(classes=["bad", "good"]))
    monkeypatch.setattr(evaluated, "read", lambda *_: run)
    monkeypatch.chdir(tmp_path)  # below which the runs' folder is
    table(tmp_path / "rows.csv", ["good", "bad"])
    file = tmp_path / "task.yaml"
    file.write_text(
        "name: words\ndata:\n  source: rows.csv\n  train_source: corrections-{SPAN}.jsonl\n  label_map: {fine: good}\n"
    )
    return file


def bring(task, *lines):
    corrections = task.with_name("given.csv")
    corrections.write_text("\n".join(["text,label,who,when", *lines]) + "\n", encoding="utf-8")
    return feedback.bring(config.load(task), corrections)


def test_each_span_is_read_by_the_next_run_and_only_trains(task):
    before, _ = ingested(task)
    bring(task, *(f"caf\u00e9 {number},fine,ann,1" for number in range(50)))
    outcome = bring(task, "caf\u00e9 7,bad,ann,2", "some words of item 3 here,good,ann,2")
    assert (outcome.accepted, outcome.span.name) == (2, "corrections-2.jsonl")
    after, _ = ingested(task)
    assert after["rows"] == before["rows"] + 52 and after["distinct"] == before["distinct"] + 50
    assert after["quarantined"][splitting.OTHER_LABEL] == 2
    for split in ("validation", "test"):
        assert after["splits"][split] == before["splits"][split]
