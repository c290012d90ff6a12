"""Files and folders as public data sets and bug reports have them: what `init` writes about them, and says."""

import csv

import pytest

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
