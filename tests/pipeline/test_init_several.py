"""`bertline init` on files whose rows have several labels, and what `run` says of them without data.multi_label."""

import csv
import json

import factories
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertline.components import example_gen, ingestion
from bertline.components.data import formats, label_cells, several_labels, task_files
from bertline.components.options import DataOptions
from bertline.pipeline import config
from bertline.pipeline.init import write_config

ROWS = factories.mixed_reviews(400)


def written(folder, header, rows):
    with open(folder / "mixed.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    made = write_config(folder / "mixed.csv", folder / "task.yaml")
    return config.load(made.path), made


def labelled():
    return [(text, labels) for text, labels, _ in ROWS if labels]


def test_a_separator_is_proposed_and_rows_without_labels_are_kept_where_they_are_many(tmp_path):
    task, made = written(tmp_path, ("text", "topics"), [(text, labels) for text, labels, _ in ROWS])
    assert task.data.multi_label.model_dump() == {
        "separator": "|", "columns": None, "lists": False, "empty": "no_label",
    }  # fmt: skip
    assert (task.data.text, task.data.label) == ("text", "topics")
    assert made.findings[-1].startswith("several labels per row, 3 labels: ")
    assert task.evaluate.gates.subset_accuracy is None
    assert '"; not measured: several labels per row\n' in made.path.read_text()


@pytest.mark.parametrize("form", ["json", "python"])
def test_lists_are_proposed(tmp_path, form):
    quote = '"' if form == "json" else "'"
    rows = [
        (text, f"[{', '.join(f'{quote}{name}{quote}' for name in labels.split('|'))}]") for text, labels in labelled()
    ]
    task, _ = written(tmp_path, ("text", "label"), rows)
    assert task.data.multi_label.lists
    assert task.data.multi_label.empty == "quarantine"


def test_arrays_that_pandas_writes_to_csv_are_read_label_by_label(tmp_path):
    rows = [(text, labels.split("|")) for text, labels in labelled()]
    frame = pd.DataFrame({"text": [text for text, _ in rows], "topics": [np.array(labels) for _, labels in rows]})
    frame.to_csv(tmp_path / "arrays.csv", index=False)
    task = config.load(write_config(tmp_path / "arrays.csv", tmp_path / "task.yaml").path)
    assert task.data.multi_label.lists
    (file,) = task_files.of_task(task.data, task.folder)
    parsed = [ingestion.parse(row, task.data) for row in formats.read(file, task.data)]
    assert [(each.text, sorted(each.labels)) for each in parsed] == [(text, sorted(labels)) for text, labels in rows]


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ('{health,"food, drink","a \\"b\\""}', ["health", "food, drink", 'a "b"']),  # PostgreSQL
        ("{}", []),
        ("[health, tech]", ["health", "tech"]),
        (str(np.array([3, 17])), ["3", "17"]),
        (str(np.array(["it's", "tech"] * 12)), ["it's", "tech"] * 12),  # over two lines
        ("('tech',)", ["tech"]),
        ('{"tech": 1}', None),
        ("['tech', broken]", None),
        ("['tech' 'health', 'sport']", None),  # a comma is missing
        ("{'tech', 'tech'}", ["tech"]),
        ("(0)", None),
        ('["tech]', None),
        ("[a\rb]", None),
        ("[tech", None),
    ],
)
def test_lists_are_read_as_programs_print_them(cell, labels):
    assert label_cells.listed(cell) == labels


@pytest.mark.parametrize("separator", ["/", " / ", "+", " & ", "#", "\n", "\t", " "])
def test_separators_that_names_hold_too_are_proposed(tmp_path, separator):
    rows = [(text, labels.replace("|", separator)) for text, labels in labelled()]
    task, _ = written(tmp_path, ("text", "topics"), rows)
    (file,) = task_files.of_task(task.data, task.folder)
    parsed = [ingestion.parse(row, task.data) for row in formats.read(file, task.data)]
    assert [list(each.labels) for each in parsed] == [sorted(labels.split("|")) for _, labels in labelled()]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_lists_of_json_and_parquet_are_proposed_and_read(tmp_path, ending):
    rows = [(text, labels.split("|") if labels else []) for text, labels, _ in ROWS]
    source = tmp_path / f"mixed.{ending}"
    if ending == "jsonl":
        source.write_text("".join(json.dumps({"text": text, "topics": labels}) + "\n" for text, labels in rows))
    else:
        texts, labels = zip(*rows, strict=True)
        pq.write_table(pa.table({"text": texts, "topics": pa.array(labels, pa.list_(pa.string()))}), source)
    task = config.load(write_config(source, tmp_path / "task.yaml").path)
    assert (task.data.label, task.data.multi_label.lists) == ("topics", True)
    (file,) = task_files.of_task(task.data, task.folder)
    parsed = [ingestion.parse(row, task.data) for row in formats.read(file, task.data)]
    assert [(each.text, list(each.labels), each.fault) for each in parsed] == [(*row, None) for row in rows]


def test_a_column_per_label_is_proposed(tmp_path):
    moods = list(factories.MOODS)
    rows = [(text, *(int(mood in labels.split("|")) for mood in moods)) for text, labels, _ in ROWS]
    task, _ = written(tmp_path, ("text", *moods), rows)
    assert task.data.multi_label.columns == moods


def test_one_flag_beside_a_label_is_no_set_of_labels(tmp_path):
    rows = [(text, label, int(shop == "north")) for text, label, shop in factories.reviews(200)]
    task, _ = written(tmp_path, ("text", "label", "urgent"), rows)
    assert task.data.multi_label is None
    assert task.data.labels == sorted(factories.MOODS)


@pytest.mark.parametrize(
    "cells",
    [
        {"Sci, Tech": 10, "World": 5, "Arts, Leisure": 3},  # names with commas of their own
        {"a;x": 1, "a;y": 1, "b;x": 1, "b;y": 1},  # two parts each: a code
        {"negative": 3, "positive": 4},
        {"[1]": 2, "none": 3},
        {"|": 3, ",": 2, "x": 4},  # separators themselves
        {"[a]": 3, "[b]": 2},
        {"lost card": 3, "card arrival": 2, "card": 4, "arrival": 1},
        {"R&D": 3, "C": 4, "C++": 2, "N/A": 5},
        {"pos": 3, "neg": 4, "pos/neg": 2},  # one mixture
    ],
)
def test_what_is_one_label_is_taken_for_one(cells):
    assert several_labels.guess(cells) is None


def test_run_stops_at_combinations_with_the_line_to_add(tmp_path):
    report = {"labels": {"health|tech": 3, "health": 5, "tech": 4, "tech|sport": 1, "sport": 2}}
    stop = example_gen._several_labels(report, DataOptions(source="x", label="topics"))
    assert "'topics' looks like several labels per row" in stop
    assert 'Add to data: multi_label: {separator: "|"}.' in stop
    assert "5 combinations of 3 labels" in stop
    meant = DataOptions(source="x", labels=list(report["labels"]))
    assert example_gen._several_labels(report, meant) is None
