"""JSON in the shapes that people and their tools write it: `init` and `run` read the same rows, in constant memory."""

import json
import tracemalloc

import pandas
import pytest

from bertline.components.data import formats, task_files
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.pipeline import config
from bertline.pipeline.init import write_config

OPTIONS = DataOptions(source=["."])
ROWS = [{"text": f"some words {n}\u2028é", "label": ("pos", "neg")[n % 2]} for n in range(40)]
VALUES = [(row["text"], row["label"]) for row in ROWS]
FRAME = pandas.DataFrame(ROWS)


def read(path, options=OPTIONS):
    [file] = task_files.expand([path.name], str(path.parent))
    formats.check(file, options)
    file = formats.settled(file, options)
    return [(row.number, row.fault.detail if row.fault else row.values) for row in formats.read(file, options)]


def values(path, options=OPTIONS):
    return [held for _, held in read(path, options)]


def refusal(path, content, **options):
    path.write_text(content)
    with pytest.raises(UserError) as stop:
        read(path, DataOptions(source=["."], **options))
    return str(stop.value)


def by_init(path, **named):
    """The options that `init` writes, and the rows that `run` reads with them."""
    loaded = config.load(write_config(path, path.parent / "a.yaml", force=True, **named).path)
    return loaded.data, values(path, loaded.data)


SHAPES = {
    "array": json.dumps(ROWS),
    "array over lines": json.dumps(ROWS, indent=2),
    "lines": "\n".join(map(json.dumps, ROWS)),
    "objects in one line": "".join(map(json.dumps, ROWS)),
    "objects over lines": "\n".join(json.dumps(row, indent=1) for row in ROWS),
    "commas but no brackets": ",\n".join(map(json.dumps, ROWS)),
    "wrapped": json.dumps({"version": 1, "data": ROWS, "licence": {"by": ["a", "b"]}}),
    "wrapped twice": json.dumps({"response": {"count": 40, "docs": ROWS}}, indent=1),
    "pandas records": FRAME.to_json(orient="records"),
    "pandas columns": FRAME.to_json(orient="columns"),
    "pandas index": FRAME.to_json(orient="index"),
    "pandas split": FRAME.to_json(orient="split"),
    "pandas table": FRAME.to_json(orient="table"),
    "lists by column": json.dumps(FRAME.to_dict("list")),
    "byte order mark": "\ufeff" + json.dumps(ROWS),
}


@pytest.mark.parametrize("content", SHAPES.values(), ids=SHAPES)
def test_a_table_in_any_shape(tmp_path, content):
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    options, rows = by_init(tmp_path / "a.json")
    assert (options.text, options.label, options.labels) == ("text", "label", ["neg", "pos"])
    assert rows == VALUES


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_other_encodings(tmp_path, encoding):
    texts = ("Das Gerät läuft prächtig", "Schlechte Qualität, für den Müll")
    rows = [{"text": f"{texts[n % 2]} {n}", "label": "ab"[n % 2]} for n in range(40)]
    (tmp_path / "a.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding=encoding)
    options, read_back = by_init(tmp_path / "a.json")
    assert (options.encoding, read_back) == (encoding, [(row["text"], row["label"]) for row in rows])


def test_json_is_known_whatever_its_name(tmp_path):
    for content in (SHAPES["array over lines"], SHAPES["lines"], SHAPES["pandas columns"], SHAPES["byte order mark"]):
        (tmp_path / "a.csv").write_text(content, encoding="utf-8")
        assert by_init(tmp_path / "a.csv")[1] == VALUES


def test_fields_of_objects_by_their_paths(tmp_path):
    rows = [{"id": n, "doc": {"body": {"en": f"words {n} here"}}, "meta": {"label": "ab"[n % 2]}} for n in range(40)]
    for name, content in (("a.jsonl", "\n".join(map(json.dumps, rows))), ("b.json", json.dumps({"rows": rows}))):
        (tmp_path / name).write_text(content)
        options, read_back = by_init(tmp_path / name)
        assert (options.text, options.label) == ("doc.body.en", "meta.label")
        assert read_back == [(f"words {n} here", "ab"[n % 2]) for n in range(40)]
        message = refusal(tmp_path / name, content, text="doc")
        assert "'doc' holds an object: name a field of it by its path, such as 'doc.body.en'" in message


def test_what_is_nested_costs_no_row_where_nobody_needs_it(tmp_path):
    rows = [{"text": f"words {n}", "gold": "ab"[n % 2], "more": [None, [n], {"x": n}, n][n % 4]} for n in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options, read_back = by_init(tmp_path / "a.jsonl")
    assert read_back == [(row["text"], row["gold"]) for row in rows]
    rows[3]["gold"] = ["a", "b"]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options, read_back = by_init(tmp_path / "a.jsonl")
    assert options.labels == ["a", "b"]
    assert read_back[3] == """column 'gold' holds a list, not a text: ["a", "b"] (line 4)"""
    for row in rows[::5]:
        row["gold"] = ["a"]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"9 x broken line.*a.jsonl, row 1: column 'gold' holds a list"):
        by_init(tmp_path / "a.jsonl")


def test_a_name_with_a_dot_goes_before_a_path(tmp_path):
    rows = [{"a.b": "exact", "a": {"b": "path", "c.d": "inner"}, "x.y": {"z": "both"}}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    options = DataOptions(source=["."], text="a.b", label="a.c.d", keep=["x.y.z"])
    assert values(tmp_path / "a.json", options) == [("exact", "inner", "both")]


def test_labels_that_are_no_texts(tmp_path):
    labels = [True, False, 1, 1.0, 0, 4.5, None, float("nan"), 2**70, 1e300]
    content = "\n".join(json.dumps({"text": "words", "label": label}) for label in labels)
    expected = ["true", "false", "1", "1", "0", "4.5", None, None, str(2**70), "1e+300"]
    for name, written in (("a.jsonl", content), ("a.json", f"[{content.replace(chr(10), ',')}]")):
        (tmp_path / name).write_text(written)
        assert [label for _, label in values(tmp_path / name)] == expected


def test_half_a_character_costs_its_row_only(tmp_path):
    (tmp_path / "a.json").write_text(r'[{"text": "\ud83d", "label": "a"}, {"text": "\ud83d\ude00", "label": "a"}]')
    first, second = values(tmp_path / "a.json")
    assert first.startswith("half a character, U+D83D,")
    assert second == ("😀", "a")


def test_rows_that_are_none_are_counted_and_named(tmp_path):
    rows = [ROWS[0], "words", ["a"], None, {"text": ["a", "b"], "label": "x"}, {"text": {"a": 1}, "label": "x"}, {}]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    assert read(tmp_path / "a.json")[1:] == [
        (2, "a text, not an object (line 6)"),
        (3, "a list, not an object (line 7)"),
        (4, "null, not an object (line 10)"),
        (5, """column 'text' holds a list, not a text: ["a", "b"] (line 11)"""),
        (6, """column 'text' holds an object, not a text: {"a": 1} (line 18)"""),
        (7, (None, None)),
    ]


def test_columns_of_lists_are_named_unless_they_are_labels_of_a_row(tmp_path):
    rows = [{"text": f"words {n}", "label": ["a", "b"][: n % 3], "n": n % 2} for n in range(40)]
    path = tmp_path / "a.json"
    message = refusal(path, json.dumps(rows))
    assert "the column 'label' (data.label) holds lists ([\"a\"])" in message or "holds lists ([])" in message
    assert "data.multi_label: {lists: true}" in message
    options = DataOptions(source=["."], multi_label={"lists": True})
    assert values(path, options)[:3] == [("words 0", "[]"), ("words 1", '["a"]'), ("words 2", '["a", "b"]')]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            '[{"text": "a", "label": "b"}, {"text": "a" "label"}]',
            "a.json, row 2: not JSON: Expecting ',' delimiter (line 1)",
        ),
        ('[{"text": "a", "label": "b"},\n{"text": "a"', "a.json, row 2: not JSON: Expecting ',' delimiter (line 2)"),
        ('[{"text": "a", "label": "b"},\n]', "a.json, row 2: not JSON: Expecting value (line 2)"),
        ('[{"text": "a", "label": "b"}\n{', "a.json, row 2: not JSON: expected ',', found '{' (line 2)"),
        ('[{"text": "a", "label": "b"}', "a.json, row 2: not JSON: expected ',', found the end of the file (line 1)"),
        ('[{"text": "a", "label": "b"}][{}]', "more text after the end of the value (line 1)"),
        ('[{"text": "a", "label": "b', "row 1: not JSON: Unterminated string"),
        ('{"text": ["a", "b"], "label": ["x"], "n": 3}', "the column 'text' (data.text) holds lists"),
        ('{"train": [{"text": "a"}], "test": [{"text": "a"}]}', "several lists may be the rows: 'train', 'test'"),
        ("[" * 100_000, "nested too deep"),
        ("[1, 2, 3]", "the first 3 rows hold no JSON object"),
        ("[]", "the file has no rows"),
        (" \n", "the file has no rows"),
        ("", "the file is empty"),
    ],
)
def test_what_is_wrong_is_said_with_its_row_and_line(tmp_path, content, said):
    assert said in refusal(tmp_path / "a.json", content)


def test_columns_of_different_rows_are_not_put_together(tmp_path):
    columns = {"text": {"0": "a", "1": "b", "2": "c"}, "label": {"0": "x", "2": "z", "1": "y"}}
    message = refusal(tmp_path / "a.json", json.dumps(columns))
    assert "row 2: not JSON: value 2 of the columns is of different rows: '1' in 'text' and '2' in 'label'" in message


@pytest.mark.parametrize("shape", ["array", "wrapped", "columns"])
def test_memory_does_not_grow_with_the_file(tmp_path, shape):
    rows = [{"text": "word " * 400, "label": "x"}] * 15_000  # 30 MB
    columns = {"text": [row["text"] for row in rows], "label": ["x"] * len(rows)}
    content = {"array": rows, "wrapped": {"data": rows}, "columns": columns}[shape]
    (tmp_path / "a.json").write_text(json.dumps(content))
    [file] = task_files.expand(["a.json"], str(tmp_path))
    tracemalloc.start()
    formats.check(file, OPTIONS)
    assert sum(1 for _ in formats.read(file, OPTIONS)) == len(rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000
