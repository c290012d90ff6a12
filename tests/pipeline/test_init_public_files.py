"""Files and folders as public data sets and bug reports have them: what `init` writes about them, and says."""

import csv
import json

import openpyxl
import polars
import pytest

from bertline.components.data import formats, task_files
from bertline.components.ingestion import parse
from bertline.errors import UserError
from bertline.pipeline import config
from bertline.pipeline.init import write_config

KAGGLE = ("id", "keyword", "text", "target")


def table(path, header, labels, rows=150, encoding="utf-8", first=0, word="parcel"):
    """A CSV file of `id`, `keyword`, `text` and the label's column, as far as the header names them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding=encoding) as stream:
        writer = csv.DictWriter(stream, header, extrasaction="ignore")
        writer.writeheader()
        for row in range(first, first + rows):
            label = labels[row % len(labels)]
            text = f"the {word} of order {row} came too late"
            writer.writerow({"id": row, "keyword": "", "text": text, "target": label, "label": label})
    return path


def texts(folder, rows, first=0):
    folder.mkdir(parents=True)
    for row in range(first, first + rows):
        (folder / f"{row}_7.txt").write_text(f"A film of {row} scenes, of which I liked some.", encoding="utf-8")


def proposed(source, target):
    written = write_config(source, target / "proposed.yaml")
    return config.load(written.path).data, written


def test_a_competition_s_folder_whose_test_rows_have_no_label(tmp_path):
    folder = tmp_path / "disaster-tweets"
    table(folder / "train.csv", KAGGLE, ["0", "1"])
    table(folder / "test.csv", KAGGLE[:3], ["0"], rows=60, first=500)
    table(folder / "sample_submission.csv", ("id", "target"), ["0"], rows=60, first=500)
    data, written = proposed(folder, tmp_path)
    assert (data.source, data.test_source) == (["disaster-tweets/train.csv"], None)
    assert written.warnings == [
        "of no split, and left out: sample_submission.csv",
        "test.csv beside it is not taken as data.test_source: it has no column 'target', so its rows have nothing to "
        "be judged by",
    ]


def test_test_rows_whose_labels_are_kept_secret_are_no_test_rows(tmp_path):
    for split, labels in {"train": ["0", "1"], "validation": ["1", "0"], "test": ["-1"]}.items():
        table(tmp_path / "glue" / f"{split}.csv", ("text", "label"), labels, first=1000 * len(split))
    data, written = proposed(tmp_path / "glue", tmp_path)
    assert (data.validation_source, data.test_source, data.labels) == (["glue/validation.csv"], None, ["0", "1"])
    assert written.warnings == [
        "test.csv beside it is not taken as data.test_source: no training row has its label '-1'"
    ]


def test_a_folder_of_rows_without_a_label_is_named(tmp_path):
    for number, place in enumerate(("train/neg", "train/pos", "train/unsup", "test/neg", "test/pos")):
        texts(tmp_path / "aclImdb" / place, 20, 100 * number)
    (tmp_path / "aclImdb" / "imdb.vocab").write_text("the\n")
    data, written = proposed(tmp_path / "aclImdb", tmp_path)
    assert (data.source, data.test_source) == (["aclImdb/train"], ["aclImdb/test"])
    assert "a part per split: train 60, test 40 text files in class folders" in written.findings
    assert written.warnings == [
        "test has no row with 'unsup': the score will not tell how well such rows are known. If that is no label, "
        'leave its rows out: data.label_map: {"unsup": null}'
    ]


@pytest.mark.parametrize(("train", "test"), [("Gerät", "parcel"), ("parcel", "Gerät")])
def test_ascii_is_a_part_of_every_encoding(tmp_path, train, test):
    source = table(tmp_path / "train.csv", ("text", "label"), ["gut", "schlecht"], encoding="cp1252", word=train)
    table(tmp_path / "test.csv", ("text", "label"), ["gut", "schlecht"], encoding="cp1252", first=900, word=test)
    data, _ = proposed(source, tmp_path)
    assert (data.encoding, data.test_source) == ("cp1252", ["test.csv"])


def test_what_windows_leaves_in_folders_is_no_text(tmp_path):
    for number, name in enumerate(("sport", "tech")):
        texts(tmp_path / "bbc" / name, 40, 100 * number)
        (tmp_path / "bbc" / name / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 64)
        (tmp_path / "bbc" / name / "desktop.ini").write_text("[ViewState]\n")
    data, written = proposed(tmp_path / "bbc", tmp_path)
    assert data.encoding == "utf-8" and written.warnings == []
    assert "80 text files in class folders" in written.findings


# === What is said of files that are no table ===

ROWS = [(f"the parcel of order {row} came too late", ("neg", "pos")[row % 2]) for row in range(60)]


def lines(path, form, head=(), rows=ROWS):
    path.write_text("\n".join([*head, *(form.format(text=text, label=label) for text, label in rows)]) + "\n")
    return path


REFUSED = {
    "a title that Excel filled up": (
        ("a.csv", "1,{text},{label}", ["Report of 2024-01-01,,", "id,text,label"]),
        "a.csv: the first line is one field ('Report of 2024-01-01'), and most others are 3, separated by ','. Remove "
        "what stands above the line of column names.",
    ),
    "fastText": (
        ("train.ft.txt", "__label__{label} {text}"),
        "It looks like fastText's format: write each row as label, tab, text, without __label__.",
    ),
    "no label at all": (
        ("a.csv", "{text}", ["text"]),
        "if the labels are elsewhere, write them to a column of their own.",
    ),
    "lists without names": (
        ("a.json", '["{text}", "{label}"]'),
        'a.json: the first 60 rows hold no JSON object with plain values, but values such as ["the parcel of order 0 '
        'came too late", "neg"]. Write each row as an object such as {"text": ..., "label": ...}.',
    ),
    "Spark's quotes": (
        ("part-00000.csv", '"he said \\"{text}\\"",{label}', ["text,label"]),
        "row 1: a closing quote is followed by more text; quotes inside a quoted field are written twice instead of "
        "with a backslash, as Spark and MySQL do (line 2).",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_no_table_is_refused_with_its_own_cause(tmp_path, case):
    (name, *content), said = REFUSED[case]
    source = lines(tmp_path / name, *content)
    with pytest.raises(UserError) as refused:
        write_config(source, tmp_path / "proposed.yaml")
    assert said in str(refused.value)


def test_a_workbook_whose_first_sheet_is_another_table(tmp_path):
    book = openpyxl.Workbook()
    legend, data = book.active, book.create_sheet("Data")
    legend.title = "Legend"
    for row in (("code", "meaning"), ("1", "good"), ("2", "bad")):
        legend.append(row)
    for row in (("text", "label"), *ROWS):
        data.append(row)
    book.save(tmp_path / "feedback.xlsx")
    with pytest.raises(
        UserError, match="This is the sheet 'Legend', the first of several: move the one with the texts"
    ):
        write_config(tmp_path / "feedback.xlsx", tmp_path / "proposed.yaml")


# === What is read as people mean it ===


def test_a_separator_that_is_named_in_quotes(tmp_path):
    source = lines(tmp_path / "a.csv", "{text}, alas;{label}", ['"sep=;"', "text;label"])
    data, written = proposed(source, tmp_path)
    assert (data.text, data.label, data.delimiter) == ("text", "label", None)
    assert "60 rows; columns: text, label" in written.findings and written.warnings == []


def test_rows_that_will_go_to_quarantine_are_counted_by_their_fault(tmp_path):
    rows = [*ROWS, ("damaged \0 here", "pos"), *((f"fine again {row}", "neg") for row in range(60))]
    source = lines(tmp_path / "a.csv", "{text},{label}", ["text,label"], rows)
    source.write_text(source.read_text() + "Total: 121\nas of today\n")
    assert proposed(source, tmp_path)[1].warnings == [
        "2 rows with a broken line will go to quarantine",
        "1 row with a zero byte will go to quarantine",
    ]


def test_of_two_spellings_of_a_key_the_text_is_the_one_that_most_rows_have(tmp_path):
    objects = [{"Text" if row == 0 else "text": text, "label": label} for row, (text, label) in enumerate(ROWS)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, objects)))
    assert proposed(tmp_path / "a.jsonl", tmp_path)[0].text == "text"


def test_split_folders_that_bear_the_name_of_their_set(tmp_path):
    for number, place in enumerate(("train/sci.space", "train/rec.autos", "test/sci.space", "test/rec.autos")):
        texts(tmp_path / "20news" / f"20news-bydate-{place}", 20, 100 * number)
    data, written = proposed(tmp_path / "20news", tmp_path)
    assert data.source == ["20news/20news-bydate-train"] and data.test_source == ["20news/20news-bydate-test"]
    assert written.warnings == []


# === Lists ===


def annotated(path, labels_of, rows=ROWS, **more):
    objects = ({"text": text, "label": labels_of(row), **more} for row, (text, _) in enumerate(rows))
    path.write_text("\n".join(map(json.dumps, objects)))
    return path


TOPICS = (["health", "tech"], ["tech"], ["health"], [])


def read(data, folder):
    files = task_files.of_task(data, folder)
    return [parse(row, data).labels for file in files for row in formats.read(formats.settled(file, data), data)]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_lists_of_labels_are_several_labels_per_row(tmp_path, format):
    source = annotated(tmp_path / "a.jsonl", lambda row: TOPICS[row % 4])
    if format == "parquet":
        polars.read_ndjson(source).write_parquet(source := tmp_path / "a.parquet")
    data, written = proposed(source, tmp_path)
    assert (data.label, data.multi_label.lists, data.multi_label.empty) == ("label", True, "no_label")
    assert written.findings[-1] == "several labels per row, 2 labels: health 30, tech 30"
    assert read(data, tmp_path) == [tuple(TOPICS[row % 4]) for row in range(60)]


def test_lists_of_one_label_each_are_told_as_such(tmp_path):
    _, written = proposed(annotated(tmp_path / "a.jsonl", lambda row: [ROWS[row][1]]), tmp_path)
    assert "no row has more than one: in a column without lists each would have exactly one" in written.path.read_text()


def test_lists_beside_a_plain_label_are_named_and_not_read(tmp_path):
    source = annotated(tmp_path / "a.jsonl", lambda row: ROWS[row][1], annotator_labels=["pos", "pos"], spans=[])
    data, written = proposed(source, tmp_path)
    assert (data.label, data.multi_label) == ("label", None)
    assert "lists, which are not read: annotator_labels, spans" in written.findings


@pytest.mark.parametrize("lists", [True, False])
def test_test_rows_with_another_combination_of_known_labels_are_test_rows(tmp_path, lists):
    def form(labels):
        return labels if lists else "|".join(labels)

    train = (["a"], ["b"], ["c"], ["a", "b"], ["b", "c"])
    annotated(tmp_path / "train.jsonl", lambda row: form(train[row % 5]))
    annotated(
        tmp_path / "test.jsonl", lambda row: form([["a", "c"], ["b"]][row % 2]), [(f"new {t}", "") for t, _ in ROWS]
    )
    data, written = proposed(tmp_path / "train.jsonl", tmp_path)
    assert data.test_source == ["test.jsonl"] and data.multi_label.lists is lists
    assert not [warning for warning in written.warnings if "test" in warning]


def test_a_column_of_a_label_is_no_slice(tmp_path):
    names = ("toxic", "obscene", "threat")
    rows = [(text, *(row >> place & 1 for place in range(3))) for row, (text, _) in enumerate(ROWS)]
    with open(tmp_path / "a.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("comment_text", *names), *rows])
    data, written = proposed(tmp_path / "a.csv", tmp_path)
    assert data.multi_label.columns == list(names) and "# keep:" not in written.path.read_text()
