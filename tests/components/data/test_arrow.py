"""Parquet, Arrow files and Hugging Face's folders: types as texts, names of classes, fields of structs."""

import datetime
import json

import numpy
import pandas
import polars
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from bertline.components.data import formats, task_files
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.models.features import SPLITS
from bertline.pipeline import config
from bertline.pipeline.init import write_config

OPTIONS = DataOptions(source=["."])
TEXTS = [f"some words {n} é" for n in range(40)]
LABELS = [("pos", "neg")[n % 2] for n in range(40)]
NUMBERS = [1 - n % 2 for n in range(40)]
FEATURES = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}


def write_parquet(table, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, row_group_size=16)


def write_stream(table, path):
    """As the datasets library writes its own files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pyarrow.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=16)


def write_feather(table, path):
    pyarrow.feather.write_feather(table, path, compression="lz4", chunksize=16)


WRITERS = {"a.parquet": write_parquet, "a.arrow": write_stream, "a.feather": write_feather}


def with_features(table, features=FEATURES):
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def settled(folder, source, options=OPTIONS):
    [file] = task_files.expand([source], str(folder))
    formats.check(file, options)
    return formats.settled(file, options)


def values(folder, source, options=OPTIONS):
    return [
        row.fault.detail if row.fault else row.values for row in formats.read(settled(folder, source, options), options)
    ]


def by_init(path):
    loaded = config.load(write_config(path, path.parent / "a.yaml", force=True).path)
    return loaded.data, values(path.parent, path.name, loaded.data)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pyarrow.array(LABELS).dictionary_encode(), LABELS),
        (pyarrow.array(LABELS, pyarrow.large_string()), LABELS),
        (pyarrow.array([n % 2 == 0 for n in range(40)]), [("true", "false")[n % 2] for n in range(40)]),
        (pyarrow.array([float(n % 2) for n in range(40)]), [str(n % 2) for n in range(40)]),
        (pyarrow.array(numpy.asarray([4.3, 2.0] * 20, numpy.float32)), ["4.3", "2"] * 20),
        (pyarrow.array([datetime.date(2026, 1, 1 + n % 2) for n in range(40)]), ["2026-01-01", "2026-01-02"] * 20),
    ],
    ids=["dictionary", "large_string", "boolean", "float64", "float32", "date"],
)
def test_labels_of_any_type(tmp_path, name, labels, expected):
    WRITERS[name](pyarrow.table({"text": TEXTS, "label": labels}), tmp_path / name)
    options, rows = by_init(tmp_path / name)
    assert (options.text, options.label) == ("text", "label")
    assert rows == list(zip(TEXTS, expected, strict=True))


@pytest.mark.parametrize("name", WRITERS)
def test_a_class_label_is_its_name(tmp_path, name):
    numbers = pyarrow.array([None, -1, 7, *NUMBERS[3:]], pyarrow.int64())
    WRITERS[name](with_features(pyarrow.table({"text": TEXTS, "label": numbers})), tmp_path / name)
    rows = values(tmp_path, name)
    assert rows[:3] == [(TEXTS[0], None), (TEXTS[1], None), "column 'label': 7 is none of 2 classes"]
    assert rows[3:] == list(zip(TEXTS, LABELS, strict=True))[3:]


@pytest.mark.parametrize("name", WRITERS)
def test_fields_of_structs_by_their_paths(tmp_path, name):
    rows = [
        {
            "id": n,
            "review": {"body": TEXTS[n], "meta": {"gold": NUMBERS[n]}} if n != 3 else None,
            "a.b": "x",
            "a": {"b": "y"},
        }
        for n in range(40)
    ]
    features = {"review": {"body": FEATURES["text"], "meta": {"gold": FEATURES["label"]}}}
    WRITERS[name](with_features(pyarrow.Table.from_pylist(rows), features), tmp_path / name)
    options = DataOptions(source=["."], text="review.body", label="review.meta.gold", keep=["a.b"])
    expected = [(text, label, "x") for text, label in zip(TEXTS, LABELS, strict=True)]
    assert values(tmp_path, name, options) == [*expected[:3], (None, None, "x"), *expected[4:]]
    found, _ = by_init(tmp_path / name)
    assert (found.text, found.label) == ("review.body", "review.meta.gold")
    with pytest.raises(UserError, match=r"no column 'review' .*name a field of it by its path, such as 'review.body'"):
        values(tmp_path, name, DataOptions(source=["."], text="review", label="a.b"))


@pytest.mark.parametrize("name", WRITERS)
def test_columns_of_lists_are_named(tmp_path, name):
    numbers = [[0, 1][: n % 3] for n in range(40)]
    table = pyarrow.table({"text": [text.split() for text in TEXTS], "label": numbers, "n": NUMBERS})
    WRITERS[name](table, tmp_path / name)
    with pytest.raises(UserError, match=r"the column 'text' \(data.text\) holds lists \(list<\w+: string>\)"):
        values(tmp_path, name)
    with pytest.raises(UserError, match=r"Lists are neither a text nor a label: 'text' \(list"):
        by_init(tmp_path / name)
    features = {"label": {"_type": "Sequence", "feature": FEATURES["label"]}}
    WRITERS[name](with_features(table.set_column(0, "text", [TEXTS]), features), tmp_path / name)
    options = DataOptions(source=["."], multi_label={"lists": True})
    assert [label for _, label in values(tmp_path, name, options)][:3] == ["[]", '["neg"]', '["neg", "pos"]']


def test_what_pandas_and_polars_write(tmp_path):
    expected = list(zip(TEXTS, LABELS, strict=True))
    frame = pandas.DataFrame({"text": TEXTS, "label": pandas.Categorical(LABELS)})
    frame.to_parquet(tmp_path / "pandas.parquet")
    frame.to_feather(tmp_path / "pandas.feather")
    table = polars.DataFrame({"text": TEXTS, "label": LABELS}, schema_overrides={"label": polars.Categorical})
    table.write_parquet(tmp_path / "polars.parquet")
    table.write_ipc(tmp_path / "polars.arrow", compression="zstd")
    table.write_ipc_stream(tmp_path / "polars_stream.ipc")
    for name in ("pandas.parquet", "pandas.feather", "polars.parquet", "polars.arrow", "polars_stream.ipc"):
        assert by_init(tmp_path / name)[1] == expected, name


def test_a_table_is_read_by_what_it_is_with_a_word(tmp_path):
    table = pyarrow.table({"text": TEXTS, "label": LABELS})
    for name, write in WRITERS.items():
        write(table, tmp_path / name)
        (tmp_path / "renamed.csv").write_bytes((tmp_path / name).read_bytes())
        options, rows = by_init(tmp_path / "renamed.csv")
        assert rows == list(zip(TEXTS, LABELS, strict=True))
        [note] = settled(tmp_path, "renamed.csv", options).notes
        assert note.endswith(f"read as {'parquet' if name == 'a.parquet' else 'arrow'}, which it is")


def test_of_two_columns_of_one_name_the_first_is_read(tmp_path):
    columns = [pyarrow.array(column) for column in (TEXTS, LABELS, NUMBERS, LABELS)]
    write_parquet(pyarrow.table(columns, names=["body", "label", "body", "other"]), tmp_path / "a.parquet")
    options = DataOptions(source=["."], text="other", keep=["body"])
    [file] = task_files.expand(["a.parquet"], str(tmp_path))
    assert [row.values[2] for row in formats.read(file, options)] == TEXTS
    with pytest.raises(UserError, match=r"the column 'body' \(data.keep\) appears 2 times"):
        formats.check(file, options)


@pytest.mark.parametrize("name", ["a.arrow", "a.feather"])
def test_a_damaged_arrow_file_is_named(tmp_path, name):
    WRITERS[name](pyarrow.table({"text": TEXTS, "label": LABELS}), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for damaged in (content[: len(content) // 2], content[:8] + b"text,label\n"):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{name}: not Arrow, damaged or not readable"):
            values(tmp_path, name)


# === Hugging Face's folders ===


def table_of(first, last, **columns):
    return pyarrow.table({"text": TEXTS[first:last], "label": NUMBERS[first:last], **columns})


def rows_by_split(options, folder):
    return {
        split: [row.values for file in files for row in formats.read(formats.settled(file, options), options)]
        for split, files in task_files.by_split(options, str(folder)).items()
        if split in SPLITS
    }


def three(**rows):
    return {"train": [], "validation": [], "test": [], **rows}


EXPECTED = list(zip(TEXTS, LABELS, strict=True))


def config_of(folder):
    written = write_config(folder, folder.parent / "configs" / "a.yaml", force=True)
    return written, config.load(written.path).data


def test_a_repository_with_shards_and_a_card(tmp_path):
    repository = tmp_path / "reviews"
    write_parquet(table_of(0, 10), repository / "data" / "train-00000-of-00002.parquet")
    write_parquet(table_of(10, 30), repository / "data" / "train-00001-of-00002.parquet")
    write_parquet(table_of(30, 40), repository / "data" / "test-00000-of-00001.parquet")
    write_parquet(table_of(0, 40), repository / "data" / "unsupervised-00000-of-00001.parquet")
    (repository / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n    dtype:\n"
        "      class_label:\n        names:\n          '0': neg\n          '1': pos\n---\n# Reviews\n"
    )
    written, options = config_of(repository)
    assert options.source == ["../reviews/data/train-0000*-of-00002.parquet"]
    assert options.test_source == ["../reviews/data/test-00000-of-00001.parquet"]
    assert options.labels == ["neg", "pos"]
    assert rows_by_split(options, tmp_path / "configs") == {
        "train": EXPECTED[:30],
        "validation": [],
        "test": EXPECTED[30:],
    }
    assert any("left out: data/unsupervised-00000-of-00001.parquet" in warning for warning in written.warnings)
    assert any("the names of 'label' are those in README.md" in warning for warning in written.warnings)
    files = task_files.of_task(options, str(tmp_path / "configs"))
    before = task_files.fingerprint(files)
    card = (repository / "README.md").read_text()
    (repository / "README.md").write_text(card.replace("neg", "bad"))
    assert task_files.fingerprint(files) != before
    brought = task_files.paths_of_task(options)(str(tmp_path / "configs"))
    assert any(path.endswith("README.md") for path in brought)


def test_a_repository_with_dataset_infos(tmp_path):
    repository = tmp_path / "reviews"
    write_parquet(table_of(0, 30), repository / "default" / "train-00000-of-00001.parquet")
    write_parquet(table_of(30, 40), repository / "default" / "validation-00000-of-00001.parquet")
    (repository / "dataset_infos.json").write_text(json.dumps({"default": {"features": FEATURES}}))
    _, options = config_of(repository)
    assert rows_by_split(options, tmp_path / "configs") == {
        "train": EXPECTED[:30],
        "validation": EXPECTED[30:],
        "test": [],
    }


def test_what_save_to_disk_writes(tmp_path):
    saved = tmp_path / "saved"
    for split, first, last in (("train", 0, 30), ("test", 30, 40), ("unsupervised", 0, 5)):
        write_stream(with_features(table_of(first, last)), saved / split / "data-00000-of-00001.arrow")
        (saved / split / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
        (saved / split / "state.json").write_text(
            json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
        )
    (saved / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test", "unsupervised"]}))
    written, options = config_of(saved)
    assert (options.source, options.test_source) == (["../saved/train"], ["../saved/test"])
    assert rows_by_split(options, tmp_path / "configs") == {
        "train": EXPECTED[:30],
        "validation": [],
        "test": EXPECTED[30:],
    }
    assert "of no split, and left out: unsupervised" in written.warnings
    write_stream(with_features(table_of(0, 40)), tmp_path / "one" / "data-00000-of-00001.arrow")
    (tmp_path / "one" / "state.json").write_text("{}")
    (tmp_path / "one" / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    write_stream(with_features(table_of(0, 40)), tmp_path / "one" / "cache-0123456789abcdef.arrow")
    assert rows_by_split(config_of(tmp_path / "one")[1], tmp_path / "configs")["train"] == EXPECTED
