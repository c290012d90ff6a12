import csv
import json
from pathlib import Path

import apache_beam as beam
import object_stores
import pandas
import pyarrow.parquet
import pytest
import tensorflow as tf
from tfx.components.util import examples_utils
from tfx.proto import example_gen_pb2
from tfx.types import standard_artifacts

from bertline.components import example_gen, ingestion, splitting
from bertline.components.artifacts import Quarantine
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.models.features import SPLITS


def ingest(folder, base_folder=None, **options):
    """Runs the component on files in `folder`, or in another one; returns the two artifacts, which are below it."""
    examples, quarantine = standard_artifacts.Examples(), Quarantine()
    for artifact, name in ((examples, "examples"), (quarantine, "quarantine")):
        artifact.uri = str(folder / "out" / name)
        (folder / "out" / name).mkdir(parents=True, exist_ok=True)
    example_gen.ExampleGen.test_call(
        examples=examples,
        quarantine=quarantine,
        data=DataOptions(**{"source": "rows.csv", **options}).model_dump_json(),
        base_folder=base_folder or str(folder),
        fingerprint="cafe",
        quarantine_folder=str(folder / "saved"),
        beam_pipeline=beam.Pipeline(argv=["--direct_running_mode=in_memory"]),
    )
    return examples, quarantine


def rows_of(examples, several=False):
    """A split's name -> its rows, each a dict of the features' values; of `several` labels a list."""
    found = {}
    for split in SPLITS:
        files = sorted(tf.io.gfile.glob(f"{examples.uri}/Split-{split}/data_tfrecord-*.gz"))
        records = tf.data.TFRecordDataset(files, compression_type="GZIP").as_numpy_iterator()
        found[split] = [
            {
                name: [value.decode() for value in feature.bytes_list.value]
                if several and name == "label"
                else feature.bytes_list.value[0].decode()
                for name, feature in example.features.feature.items()
            }
            for example in map(tf.train.Example.FromString, records)
        ]
    return found


def write_rows(folder, rows, header=("text", "label"), name="rows.csv"):
    with open(folder / name, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


def test_parts_of_a_parquet_file_are_ingested_as_the_whole(tmp_path, monkeypatch):
    rows = [*many(30), ("", "pos"), *many(60)[25:], ("", "neg")]
    texts, labels = zip(*rows, strict=True)
    table = pyarrow.table({"text": texts, "label": labels})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=10)
    options = {"source": "rows.parquet", "max_quarantined": 0.5}
    examples, quarantine = ingest(tmp_path, **options)
    whole = rows_of(examples)
    refused = Path(quarantine.uri, "quarantine.csv").read_text()
    (tmp_path / "out").rename(tmp_path / "whole")
    monkeypatch.setattr(example_gen, "BYTES_PER_TASK", 1)
    examples, quarantine = ingest(tmp_path, **options)
    assert rows_of(examples) == whole
    assert Path(quarantine.uri, "quarantine.csv").read_text() == refused
    assert len(list(Path(examples.uri, "Split-train").iterdir())) == 7


def test_files_of_many_kinds_in_one_task(tmp_path):
    """Every row is in a split, joined or in quarantine, and the stage's line says what the names do not."""
    rows = many(70)
    frames = [pandas.DataFrame(rows[first : first + 10], columns=["text", "label"]) for first in range(0, 70, 10)]
    frames[0].to_csv(tmp_path / "0.csv.zip", index=False)
    frames[1].to_csv(tmp_path / "1.csv", index=False, compression="xz")
    frames[2].to_json(tmp_path / "2.json")
    (tmp_path / "3.json").write_text(json.dumps({"data": [*frames[3].to_dict("records"), {"text": ["a"]}, "b"]}))
    frames[4].assign(label=frames[4].label.astype("category")).to_parquet(tmp_path / "4.parquet")
    frames[5].to_feather(tmp_path / "5.feather")
    frames[6].to_excel(tmp_path / "6.xlsx", index=False)
    examples, quarantine = ingest(tmp_path, source=["*.*"], max_quarantined=0.5)
    report = json.loads(Path(quarantine.uri, "ingest.json").read_text())
    assert (report["rows"], report["distinct"], report["quarantined"]) == (72, 70, {"broken line": 2})
    written = [(row["text"], row["label"]) for of_split in rows_of(examples).values() for row in of_split]
    assert sorted(written) == sorted(rows)
    with open(tmp_path / "saved" / "quarantine.csv", newline="") as stream:
        refused = [(row["file"], row["row"], row["detail"]) for row in csv.DictReader(stream)]
    assert refused == [
        ("3.json", "11", """column 'text' holds a list, not a text: ["a"] (line 1)"""),
        ("3.json", "12", "a text, not an object (line 1)"),
    ]
    said = quarantine.get_string_custom_property("summary")
    assert "1.csv: packed with xz, though its name does not end in .xz: it is unpacked" in said
    assert "2.json: a list of values per column; 1 more" in said


def many(count=60, labels=("neg", "pos")):
    return [(f"text number {number}", labels[number % len(labels)]) for number in range(count)]


@pytest.fixture(scope="module")
def ingested(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ingest")
    odd = [
        ("two  spaces ", "pos", "x"),
        ("two spaces", "pos", "y"),  # the same text
        ("both ways", "pos", "x"),
        ("both ways", "neg", "x"),
        (" ", "pos", "x"),
        ("no label", "", "x"),
    ]
    write_rows(folder, [*((*row, "x") for row in many()), *odd], ("text", "label", "shop"))
    with open(folder / "rows.csv", "a") as stream:
        stream.write("broken\n")
    return folder, *ingest(folder, keep=["shop"], max_quarantined=0.5)


def test_every_row_is_in_a_split_joined_or_in_quarantine(ingested):
    _, examples, quarantine = ingested
    rows = rows_of(examples)
    report = json.loads(Path(quarantine.uri, "ingest.json").read_text())
    assert sum(map(len, rows.values())) == 61
    assert (report["rows"], report["distinct"], report["duplicates"]) == (67, 61, 1)
    assert report["quarantined"] == {
        "broken line": 1,
        "empty text": 1,
        "missing label": 1,
        "repeated text with another label": 2,
    }
    assert {split: sum(labels.values()) for split, labels in report["splits"].items()} == {
        split: len(found) for split, found in rows.items()
    }
    assert quarantine.get_string_custom_property("summary") == (
        "61 rows of 67: 1 duplicates joined, 5 quarantined (see quarantine.csv)"
    )


def test_an_example_holds_text_label_kept_columns_and_where_it_is_from(ingested):
    _, examples, _ = ingested
    [row] = [row for rows in rows_of(examples).values() for row in rows if row["text"] == "two  spaces "]
    assert row == {
        "text": "two  spaces ",
        "label": "pos",
        "shop": "x",
        "row_id": splitting.text_key("two spaces").row_id,
        "source": "rows.csv:61",
    }


def test_quarantine_names_file_row_and_reason(ingested):
    folder, _, quarantine = ingested
    lines = list(csv.DictReader(Path(quarantine.uri, "quarantine.csv").read_text().splitlines()))
    assert [(line["file"], line["row"], line["reason"]) for line in lines] == [
        ("rows.csv", "63", "repeated text with another label"),
        ("rows.csv", "64", "repeated text with another label"),
        ("rows.csv", "65", "empty text"),
        ("rows.csv", "66", "missing label"),
        ("rows.csv", "67", "broken line"),
    ]
    assert lines[4]["detail"] == "1 fields where the first line names 3 columns (line 68)"
    assert (folder / "saved" / "quarantine.csv").read_bytes() == Path(quarantine.uri, "quarantine.csv").read_bytes()


def test_the_artifact_is_what_tfx_reads(ingested):
    _, examples, _ = ingested
    assert json.loads(examples.split_names) == ["train", "validation", "test"]
    assert examples_utils.get_payload_format(examples) == example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE
    assert Path(examples.uri, "labels.txt").read_text() == '"neg"\n"pos"\n'


def test_stray_quotes_cost_no_row_and_the_screen_counts_what_is_doubtful(tmp_path):
    quotes = {3: '"some words {}', 9: 'some words {}"'}
    texts = [quotes.get(number % 20, "some words {}").format(number) for number in range(240)]
    lines = "".join(f"{text},{('pos', 'neg')[number % 2]}\n" for number, text in enumerate(texts))
    (tmp_path / "rows.csv").write_text("text,label\n" + lines)
    examples, quarantine = ingest(tmp_path)
    assert sorted(row["text"] for split in SPLITS for row in rows_of(examples)[split]) == sorted(texts)
    said = quarantine.get_string_custom_property("summary")
    assert said.startswith("240 rows of 240: 0 duplicates joined, 0 quarantined, quotes read as plain characters in 1")
    swallowed = ingest(tmp_path / "again", str(tmp_path), quoting="standard")[1].get_string_custom_property("summary")
    assert "168 rows of 168" in swallowed
    assert "12 rows with a quoted field over lines that look like rows" in swallowed


def test_joined_texts_of_a_file_without_header(tmp_path):
    rows = [(number % 2, f"title {number}", f"body\n{number}", "x") for number in range(60)]
    rows[7] = (1, "", "only a body", "x")
    rows[8] = (0, "only a title", " ", "x")
    rows[9] = (1, " ", "", "x")
    with open(tmp_path / "rows.csv", "w", newline="") as stream:
        csv.writer(stream, delimiter=";").writerows(rows)
    options = {"header": ["label", "title", "body", "shop"], "text": ["title", "body"], "keep": ["title", "shop"]}
    examples, quarantine = ingest(tmp_path, delimiter=";", text_separator=" - ", **options)
    read = {row["source"]: row for rows in rows_of(examples).values() for row in rows}
    assert len(read) == 59
    texts = [read[f"rows.csv:{number}"]["text"] for number in (1, 8, 9)]
    assert texts == ["title 0 - body\n0", "only a body", "only a title"]
    assert read["rows.csv:1"] | {"row_id": ""} == {
        "text": texts[0],
        "label": "0",
        "title": "title 0",
        "shop": "x",
        "source": "rows.csv:1",
        "row_id": "",
    }
    [line] = csv.DictReader(Path(quarantine.uri, "quarantine.csv").read_text().splitlines())
    assert (line["row"], line["reason"]) == ("10", "empty text")
    assert line["detail"] == "column 'title' and column 'body' are empty"


def test_labels_are_composed_and_mapped_in_every_split_and_the_screen_says_so(tmp_path):
    labels = ["yes", "YES", "no", "unsure", "cafe\u0301", "caf\u00e9"]
    header = ("text", "mood")
    write_rows(tmp_path, [(text, label) for text, label in many(120, labels)], header)
    write_rows(tmp_path, [("given 1", "YES"), ("given 2", "caf\u00e9"), ("given 3", "")], header, "test.csv")
    label_map = {"YES": "yes", "no": "NO", "unsure": None, "nope": "NO", "": "NO"}
    examples, quarantine = ingest(
        tmp_path, test_source="test.csv", label="mood", keep=["mood"], label_map=label_map, max_quarantined=0
    )
    rows = rows_of(examples)
    assert [(row["text"], row["label"]) for row in rows["test"]] == [
        ("given 1", "yes"),
        ("given 2", "caf\u00e9"),
        ("given 3", "NO"),
    ]
    assert all(row["mood"] == row["label"] for split in SPLITS for row in rows[split])  # slices have the same names
    report = json.loads(Path(quarantine.uri, "ingest.json").read_text())
    assert report["labels"] == {"NO": 21, "caf\u00e9": 41, "yes": 41}
    assert report["quarantined"] == {"label that label_map leaves out": 20}
    assert [tuple(entry.values()) for entry in report["label_map"]] == [
        ("YES", "yes", 21),
        ("no", "NO", 20),
        ("unsure", None, 20),
        ("nope", "NO", 0),
        ("", "NO", 1),
    ]
    said = quarantine.get_string_custom_property("summary")
    assert (
        "20 quarantined (see quarantine.csv), 20 rows with a label in another Unicode form, brought into NFC, " in said
    )
    assert "62 labels changed by data.label_map ('YES' 21, 'no' 20, 'unsure' 20, '' 1), no row for 'nope' of" in said
    assert "look the same" not in said


def test_labels_that_look_the_same_are_counted_unless_both_are_listed(tmp_path):
    write_rows(tmp_path, many(120, ["1", "1.0", "a", "A"]))
    said = ingest(tmp_path)[1].get_string_custom_property("summary")
    assert said.endswith(", labels that look the same (see data.label_map): '1' 30, '1.0' 30; 'a' 30, 'A' 30")
    listed = ingest(tmp_path / "listed", str(tmp_path), labels=["1", "1.0", "a", "A"])[1]
    assert "look the same" not in listed.get_string_custom_property("summary")


def test_each_of_several_labels_is_mapped_and_null_takes_only_the_label(tmp_path):
    write_rows(tmp_path, many(120, ["a|B", "b|a", "a|x", "x", "cafe\u0301|b"]))
    _, quarantine = ingest(tmp_path, multi_label={"separator": "|"}, label_map={"B": "b", "x": None})
    report = json.loads(Path(quarantine.uri, "ingest.json").read_text())
    assert (report["labels"], report["quarantined"]) == ({"a": 72, "b": 72, "caf\u00e9": 24}, {})
    said = quarantine.get_string_custom_property("summary")
    assert "24 rows with a label in another Unicode form, brought into NFC, 72 labels changed by data.label_map" in said


def test_a_row_stays_in_its_split_when_the_file_is_shuffled_or_grows(ingested, tmp_path):
    _, examples, _ = ingested
    write_rows(tmp_path, [*many()[::-1], *[(f"new {number}", "pos") for number in range(40)]])
    again, _ = ingest(tmp_path)
    before = {row["text"]: split for split, rows in rows_of(examples).items() for row in rows}
    after = {row["text"]: split for split, rows in rows_of(again).items() for row in rows}
    assert all(after[text] == before[text] for text, _ in many())


def test_pairs_and_a_test_file_of_ones_own(tmp_path):
    header = ("a", "b", "label")
    write_rows(tmp_path, [(text, "second", label) for text, label in many(30)], header)
    write_rows(tmp_path, [("text number 1", "second", "pos"), ("other", "second", "neg")], header, "test.csv")
    examples, _ = ingest(
        tmp_path, text="a", text_pair="b", test_source="test.csv", split={"train": 0.9, "validation": 0.1}
    )
    rows = rows_of(examples)
    assert rows["train"] and rows["validation"]
    assert [(row["text"], row["text_pair"]) for row in rows["test"]] == [
        ("text number 1", "second"),
        ("other", "second"),
    ]
    assert "text number 1" not in [row["text"] for split in ("train", "validation") for row in rows[split]]


def test_no_query_is_in_two_splits_and_a_query_that_files_share_is_quarantined(tmp_path):
    header = ("query", "answer", "label")
    rows = [(f"query {row % 40}", f"answer {row}", ("no", "yes")[row % 3 == 0]) for row in range(400)]
    write_rows(tmp_path, rows, header)
    options = {"text": "query", "text_pair": "answer", "split": {"group": "text"}, "max_quarantined": 0.1}
    examples, _ = ingest(tmp_path, **options)
    queries = {split: {row["text"] for row in found} for split, found in rows_of(examples).items()}
    assert all(queries.values()) and sum(map(len, queries.values())) == 40
    first = min(queries["train"])
    write_rows(tmp_path, [(first, "an answer in a file of test rows", "yes")], header, "test.csv")
    (tmp_path / "out").rename(tmp_path / "before")
    examples, quarantine = ingest(tmp_path, test_source="test.csv", **options)
    assert [row["text"] for row in rows_of(examples)["test"]] == [first]
    report = json.loads(Path(quarantine.uri, "ingest.json").read_text())
    assert report["quarantined"] == {splitting.OTHER_SPLIT: 10}
    with open(tmp_path / "saved/quarantine.csv", newline="") as stream:
        refused = next(csv.DictReader(stream))
    assert refused["detail"] == "data.split.group: other rows with this text are in a file of another split"


def test_seventy_seven_labels_with_five_rows_in_the_rarest(tmp_path):
    rows = [
        (f"{label} {number}", f"label {label:02}") for label in range(77) for number in range(5 if label == 0 else 9)
    ]
    write_rows(tmp_path, rows)
    examples, quarantine = ingest(tmp_path)
    assert len({row["label"] for row in rows_of(examples)["train"]}) == 77
    assert "row of" in quarantine.get_string_custom_property("summary")  # labels without validation or test rows


# === What stops the line ===


def stop(folder, **options):
    with pytest.raises(UserError) as error:
        ingest(folder, **options)
    return str(error.value)


def test_too_many_in_quarantine(tmp_path):
    write_rows(tmp_path, [*many(18), ("", "pos"), ("", "neg")])
    message = stop(tmp_path)
    assert message.startswith(
        "2 of 20 rows (10.0%) cannot be used; data.max_quarantined allows 5.0%.\n  2 x empty text\n"
    )
    assert "rows.csv, row 19: column 'text' is empty" in message
    assert str(tmp_path / "saved" / "quarantine.csv") in message
    assert (tmp_path / "saved" / "quarantine.csv").exists()


def test_a_renamed_label(tmp_path):
    write_rows(tmp_path, many(labels=("neg", "positive")))
    message = stop(tmp_path, labels=["neg", "pos"])
    assert "30 x unknown label" in message
    assert "'positive' is not among data.labels" in message
    message = stop(tmp_path, labels=["neg", "positive", "mixed"])
    assert "'mixed' of data.labels has no row. Labels with rows: 'neg', 'positive'" in message


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        (many(labels=("pos",)), {}, "Only one label, 'pos', in 60 rows"),
        (many(labels=[f"id {number}" for number in range(60)]), {}, "60 different labels in 60 rows"),
        (many(4), {}, "is empty"),
        (many(), {"label": "lable"}, "no column 'lable'"),
        (many(), {"limits": {"train": 1}}, "has no row to learn from"),
        ([], {}, "No usable row"),
    ],
)
def test_rows_that_make_no_three_splits_of_two_labels(tmp_path, rows, options, said):
    write_rows(tmp_path, rows)
    assert said in stop(tmp_path, **options)


def test_a_window_of_spans_in_an_object_store_gives_the_rows_of_the_same_files_here(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    objects = {}
    for span in (8, 9, 10):
        (here / f"day-{span}").mkdir(parents=True)
        rows = [(f"{text} {span // 10}", label) for text, label in many()]  # those of 8 and 9 are the same
        write_rows(here / f"day-{span}", rows)
        objects[f"data/day-{span}/rows.csv"] = (here / f"day-{span}/rows.csv").read_bytes()
    there.mkdir()
    options = {"source": "day-{SPAN}", "newest_spans": 2}
    local, _ = ingest(here, **options)
    with object_stores.s3(objects, monkeypatch):
        remote, quarantine = ingest(there, base_folder=f"s3://{object_stores.BUCKET}/data", **options)
    assert rows_of(remote) == rows_of(local)
    summary = quarantine.get_string_custom_property("summary")
    assert summary == "120 rows of 120: 0 duplicates joined, 0 quarantined, 2 spans from 9 to 10"


def test_an_engine_that_writes_to_another_disk_is_noticed(tmp_path, monkeypatch):
    write_rows(tmp_path, many())
    passes = ingestion.passes
    monkeypatch.setattr(ingestion, "passes", lambda *_, **__: None)
    with pytest.raises(UserError, match=r"/ingest\.json is not there, and Beam says that it was written"):
        ingest(tmp_path)

    def elsewhere(pipeline, tasks, *others, **named):
        (tmp_path / "elsewhere").mkdir()
        passes(pipeline, [task._replace(examples_uri=str(tmp_path / "elsewhere")) for task in tasks], *others, **named)

    monkeypatch.setattr(ingestion, "passes", elsewhere)
    with pytest.raises(UserError, match=r"/Split-test/data_tfrecord-\S+\.gz is not there, and Beam says that"):
        ingest(tmp_path)


# === Several labels per row ===


def labels_by_text(examples):
    return {row["text"]: row["label"] for rows in rows_of(examples, several=True).values() for row in rows}


@pytest.mark.parametrize(
    ("several", "header", "cells"),
    [
        ({"separator": "|"}, ("label",), (("a | b|a",), ("b",), ("c|a",))),
        ({"lists": True}, ("label",), (('["b", "a"]',), ("['b']",), ('["c", "a"]',))),
        ({"columns": ["a", "b", "c"]}, ("a", "b", "c"), (("1", "1", "0"), ("0", "TRUE", "0.0"), ("yes", "0", "1"))),
    ],
)
def test_the_labels_of_a_row_are_read_in_each_of_their_forms(tmp_path, several, header, cells):
    rows = [(f"text {number}", *cells[number % 3]) for number in range(60)]
    write_rows(tmp_path, rows, header=("text", *header))
    examples, quarantine = ingest(tmp_path, multi_label=several)
    expected = [["a", "b"], ["b"], ["a", "c"]]
    assert labels_by_text(examples) == {f"text {number}": expected[number % 3] for number in range(60)}
    report = json.loads(Path(quarantine.uri, "ingest.json").read_text())
    assert report["labels"] == {"a": 40, "b": 40, "c": 20}
    assert sum(report["split_rows"].values()) == 60


def test_an_empty_cell_is_a_forgotten_label_unless_the_config_says_that_it_means_none(tmp_path):
    rows = [(f"text {number}", ("a", "b", "")[number % 3]) for number in range(60)]
    write_rows(tmp_path, rows)
    _, quarantine = ingest(tmp_path, multi_label={"separator": "|"}, max_quarantined=0.5)
    report = json.loads(Path(quarantine.uri, "ingest.json").read_text())
    assert (report["quarantined"], report["unlabelled"]) == ({"missing label": 20}, 0)
    examples, quarantine = ingest(tmp_path, multi_label={"separator": "|", "empty": "no_label"})
    report = json.loads(Path(quarantine.uri, "ingest.json").read_text())
    assert (report["quarantined"], report["unlabelled"]) == ({}, 20)
    assert labels_by_text(examples)["text 2"] == []


def test_rows_whose_labels_cannot_be_known_go_to_quarantine_with_the_cell_that_is_at_fault(tmp_path):
    rows = [(f"text {number}", "1", "0") for number in range(60)] + [("text 60", "0", "2"), ("text 61", "0", "1")]
    write_rows(tmp_path, rows, header=("text", "a", "b"))
    ingest(tmp_path, multi_label={"columns": ["a", "b"]})
    (refused,) = csv.DictReader((tmp_path / "saved" / "quarantine.csv").open())
    assert refused["reason"] == "missing label"
    assert refused["detail"] == "column 'b': '2' is neither 0 nor 1"
