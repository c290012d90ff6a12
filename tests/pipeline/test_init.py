import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import xlm_roberta_folder

from bertline.components.data import formats, task_files
from bertline.components.options import GateOptions
from bertline.errors import UserError
from bertline.models import packages
from bertline.pipeline import config
from bertline.pipeline.init import recipe, write_config
from bertline.pipeline.init.propose import label_warnings, propose_max_length
from bertline.pipeline.init.weights import DEFAULT as BACKBONE
from bertline.pipeline.init.weights import PINS
from bertline.pipeline.init.wordpieces import look

HEAVY = {"tensorflow", "tensorflow_text", "tfx", "apache_beam", "keras", "sklearn", "pandas"}


def proposed(source, target=None, **named):
    """What a person reads of a new config, and the config as `run` reads it."""
    written = write_config(source, target or source.parent / "proposed.yaml", force=True, **named)
    return written, config.load(written.path)


def write_table(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def reviews(count=100, labels=("good", "poor")):
    for number in range(count):
        yield (
            number,
            f"2026-01-{number % 28 + 1:02}",
            labels[number % len(labels)],
            "web",
            f"I bought item {number} here",
        )


HEADER = ("id", "date", "stars", "channel", "review_body")


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "My reviews.csv", HEADER, reviews())


# === The columns ===


def test_columns_by_name_and_content(table):
    written, loaded = proposed(table)
    assert (loaded.name, loaded.data.text, loaded.data.text_pair) == ("my-reviews", "review_body", None)
    assert (loaded.data.label, loaded.data.labels) == ("stars", ["good", "poor"])
    assert written.warnings == []
    assert written.findings == [
        "100 rows; columns: id, date, stars, channel, review_body",
        "text: 'review_body', 21 characters on average",
        "label: 'stars', 2 labels: good 50, poor 50",
    ]


def test_columns_by_content_only(tmp_path):
    rows = [(number, f"a line of words {number}", number % 3, number / 100) for number in range(60)]
    _, loaded = proposed(write_table(tmp_path / "a.csv", ("c1", "c2", "c3", "c4"), rows))
    assert (loaded.data.text, loaded.data.label) == ("c2", "c3")


def test_pairs_and_json_lines(tmp_path):
    with open(tmp_path / "a.jsonl", "w") as stream:
        for number in range(40):
            row = {
                "gold": ["yes", "no"][number % 2],
                "premise": f"some premise {number}",
                "hypothesis": f"so {number} is",
            }
            stream.write(json.dumps({**row, "meta": {"nested": number}}) + "\n")
    _, loaded = proposed(tmp_path / "a.jsonl")
    assert (loaded.data.text, loaded.data.text_pair, loaded.data.label) == ("premise", "hypothesis", "gold")


def test_a_folder_per_class(tmp_path):
    for number in range(20):
        folder = tmp_path / "news" / ("sport" if number % 2 else "tech")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.txt").write_text(f"a story of {number}")
    _, loaded = proposed(tmp_path / "news", tmp_path / "configs" / "news.yaml")
    options = loaded.data
    assert (options.source, options.format, options.labels) == (["../news"], "folders", ["sport", "tech"])


def class_files(folder, count=20):
    for number in range(count):
        place = folder / ("pos" if number % 2 else "neg")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.txt").write_text(f"some words of {number} in {folder.name}")


def test_a_folder_per_split_with_a_folder_per_class_in_it(tmp_path):
    class_files(tmp_path / "imdb" / "train", 40)
    class_files(tmp_path / "imdb" / "test")
    written, loaded = proposed(tmp_path / "imdb", tmp_path / "configs" / "imdb.yaml")
    options = loaded.data
    assert (options.source, options.test_source) == (["../imdb/train"], ["../imdb/test"])
    assert (options.validation_source, options.labels) == (None, ["neg", "pos"])
    assert written.findings[:2] == [
        "a part per split: train 40, test 20 text files in class folders",
        "60 rows; columns: text, label",
    ]
    # 40 rows, of which a ninth is for validation.
    assert "# 6 steps at most of 32 rows, for 35 rows and 2 labels" in written.path.read_text()
    by_split = task_files.by_split(options, str(tmp_path / "configs"))
    assert {split: len(files) for split, files in by_split.items()} == {
        "train": 40,
        "validation": 0,
        "test": 20,
        "only_train": 0,
    }


def test_a_folder_per_year_with_tables_in_it(tmp_path):
    for year in ("2019", "2020"):
        (tmp_path / "years" / year).mkdir(parents=True)
        write_table(tmp_path / "years" / year / "all.csv", HEADER, reviews())
    written, loaded = proposed(tmp_path / "years")
    assert (loaded.data.source, loaded.data.label, loaded.data.labels) == (["years"], "stars", ["good", "poor"])
    assert written.findings[:2] == ["2 data files", "200 rows; columns: id, date, stars, channel, review_body"]


# === What is written ===


def test_the_config_loads_and_says_what_was_proposed(table, tmp_path):
    written, loaded = proposed(table, tmp_path / "configs" / "reviews.yaml")
    assert loaded.data.source == ["../My reviews.csv"]
    assert (loaded.model.max_length, loaded.model.sha256) == (16, PINS)
    rule = recipe.choose(80, 2)
    assert loaded.train == rule.options
    assert loaded.evaluate.gates == GateOptions()  # what is written out are the defaults
    lines = written.path.read_text().splitlines()
    assert not any("# keep:" in line for line in lines)  # "channel" has only one value
    assert f'  method: {rule.options.method} # docs/recipes.md, row "{rule.name}"' in lines
    assert "    beats_majority: true # always answering 'good' has an accuracy of 0.50" in lines


def test_columns_to_slice_by_are_named_unless_bertline_uses_the_name(tmp_path):
    rows = [(f"some words {number}", number % 2, ("north", "south")[number % 2], number % 2) for number in range(40)]
    written, _ = proposed(write_table(tmp_path / "a.csv", ("text", "label", "shop", "source"), rows))
    assert '  # keep: ["shop"] would let evaluate.slices score each of their values\n' in written.path.read_text()


def test_labels_that_yaml_would_take_for_other_things_or_break_at(tmp_path):
    labels = ["no", "yes", "1", "2026-01-01", "1e3", "0o7", "null", "two\nlines", "a: b # c"]
    rows = [(f"some words {number}", labels[number % len(labels)]) for number in range(180)]
    _, loaded = proposed(write_table(tmp_path / "a.csv", ("text", "label"), rows))
    assert loaded.data.labels == sorted(labels)


@pytest.mark.parametrize("odd", ["\x07", "\x85", "\xa0", "\u2028", "\ufeff", "\x1b[0m", "\U0001f600", "\U000e0001"])
def test_characters_that_yaml_does_not_take_as_they_are_come_back(tmp_path, odd):
    labels = [f"a{odd}b", "plain"]
    rows = [(f"some words {number}", labels[number % 2], labels[number % 2]) for number in range(40)]
    header = (f"text{odd}body", f"label{odd}gold", f"shop{odd}name")
    _, loaded = proposed(write_table(tmp_path / f"a{odd}b.csv", header, rows), tmp_path / "a.yaml")
    assert loaded.data.source == [f"a{odd}b.csv"]
    assert (loaded.data.text, loaded.data.label, loaded.data.labels) == (header[0], header[1], sorted(labels))


def test_a_file_whose_name_is_no_text_is_refused_and_the_old_config_kept(tmp_path):
    table = write_table(tmp_path / os.fsdecode(b"caf\xe9.csv"), HEADER, reviews())
    (tmp_path / "a.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"data.source: a config cannot hold 'caf.udce9.csv'. Rename the file"):
        proposed(table, tmp_path / "a.yaml")
    assert (tmp_path / "a.yaml").read_text() == "mine"


def test_a_config_is_replaced_only_on_request(table, tmp_path):
    target = tmp_path / "a.yaml"
    target.write_text("mine")
    with pytest.raises(UserError, match=r"a.yaml exists already; --force"):
        write_config(table, target)
    assert target.read_text() == "mine"
    write_config(table, target, force=True)
    assert config.load(target).name == "my-reviews"


# === The numbers ===


LANGUAGES = {
    "English": "All human beings are born free and equal in dignity and rights. The box was damaged, the service good.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Der Karton war beschädigt.",
    "French": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Le carton était abîmé.",
    "Turkish": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
    "Russian": "Все люди рождаются свободными.",
    "Chinese": "快递太慢了，包装也破了，不过客服态度很好。",
    "Thai": "มนุษย์ทั้งหลายเกิดมา",
}


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("English", None),
        ("German", "break a word into 2.0 wordpieces"),
        ("French", "break a word into 1.9 wordpieces"),
        ("Turkish", "break a word into 2.9 wordpieces"),
        ("Russian", "100% of the letters are not Latin, and 0% of the wordpieces unknown to them"),
        ("Chinese", "Until then `run` stops at validation.max_out_of_vocabulary"),
        ("Thai", "100% of the letters are not Latin"),
    ],
)
def test_a_language_that_the_weights_do_not_know_is_named_with_the_ways_out(monkeypatch, tmp_path, language, said):
    monkeypatch.chdir(tmp_path)  # where no multilingual weights are unpacked
    rows = [(f"{number} {LANGUAGES[language]}", ("pos", "neg")[number % 2]) for number in range(120)]
    written, _ = proposed(write_table(tmp_path / "a.csv", ("text", "label"), rows))
    warnings = [warning for warning in written.warnings if warning.startswith("the weights are English")]
    assert len(warnings) == (said is not None)
    if said:
        assert said in warnings[0] and "model.backbone" in warnings[0]


@pytest.mark.parametrize(("language", "proposed_for"), [("English", False), ("German", True), ("Chinese", True)])
def test_the_multilingual_weights_are_proposed_where_they_are_unpacked(tmp_path, monkeypatch, language, proposed_for):
    folder = tmp_path / "weights" / "multilingual-e5-small"
    folder.mkdir(parents=True)
    xlm_roberta_folder.write_vocabulary(folder / "sentencepiece.bpe.model", LANGUAGES.values(), pieces=260)
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "query: "}}')
    monkeypatch.chdir(tmp_path)
    rows = [(f"{number} {LANGUAGES[language]}", ("pos", "neg")[number % 2]) for number in range(120)]
    written, loaded = proposed(write_table(tmp_path / "a.csv", ("text", "label"), rows))
    assert loaded.model.backbone == (str(folder) if proposed_for else BACKBONE)
    assert bool(loaded.model.sha256) != proposed_for
    assert any("multilingual weights are proposed" in warning for warning in written.warnings) == proposed_for


@pytest.mark.parametrize(
    ("rows", "labels", "name"),
    [
        (16, 2, "up to 300 rows a label"),
        (10_000, 77, "up to 300 rows a label"),
        (899, 3, "up to 300 rows a label"),
        (900, 3, "from 300 rows a label"),
    ],
)
def test_the_recipe_follows_the_rows_of_a_label_by_a_row_of_the_page(rows, labels, name):
    assert recipe.choose(rows, labels).name == name
    assert f"\n| {name} |" in Path("docs/recipes.md").read_text()


def test_max_length_covers_99_percent_and_fits_the_backbone():
    assert propose_max_length(numpy.asarray([20] * 99 + [400])) == 32
    assert propose_max_length(numpy.asarray([20] * 50 + [33] * 50)) == 48
    assert propose_max_length(numpy.asarray([2000] * 100)) == 512


def test_warnings_of_imbalance_and_rare_labels():
    assert label_warnings({"a": 100, "b": 90}) == []
    imbalance, few = label_warnings({"a": 1000, "b": 5, "c": 200})
    assert imbalance.startswith("imbalance: 1,000 rows of 'a' for 5 of 'b'")
    assert few.startswith("1 label has fewer than 10 rows (b)")


# === Bytes ===


SENTENCES = {
    "german": ("Das Gerät läuft prächtig", "Schlechte Qualität, für den Müll"),
    "french": ("Le café était délicieux", "Très déçu, un colis abîmé"),
    "english": ("It’s a “great” buy", "Not worth £5"),
    "oeuvre": ("Un cœur et une œuvre", "Une sœur et des vœux"),
    "polish": ("Żółta łódź płynie", "Bardzo słaba jakość, zwrócę to"),
    "russian": ("Хороший товар", "Плохо"),
    "japanese": ("これはとても良い商品です。また買います", "すぐに壊れました。もう二度と買いません"),
}


def table_of(sentences):
    rows = (f'"{sentences[number % 2]} {number}",{"ab"[number % 2]}\n' for number in range(60))
    return "text,label\n" + "".join(rows)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("language", "encoding"),
    [
        ("german", "cp1252"),
        ("french", "cp1252"),
        ("french", "latin-1"),
        ("english", "cp1252"),
        ("oeuvre", "iso8859-15"),
        ("polish", "cp1250"),
        ("russian", "cp1251"),
        ("russian", "koi8-r"),
        ("japanese", "shift_jis"),
    ],
)
def test_no_letter_is_lost_in_another_encoding(tmp_path, language, encoding, pack):
    path = tmp_path / ("a.csv" if pack is bytes else "a.csv.gz")
    path.write_bytes(pack(table_of(SENTENCES[language]).encode(encoding)))
    written, loaded = proposed(path)
    [file] = task_files.expand([path.name], str(tmp_path))
    rows = [row.values for row in formats.read(file, loaded.data)]
    assert rows == [(f"{SENTENCES[language][number % 2]} {number}", "ab"[number % 2]) for number in range(60)]
    assert written.warnings[0].startswith("60 of 60 rows are not UTF-8: read as ")


def test_the_guess_stands_in_the_config_with_words_to_judge_it_by(tmp_path):
    (tmp_path / "a.csv").write_bytes(table_of(SENTENCES["german"]).encode("cp1252"))
    written, _ = proposed(tmp_path / "a.csv")
    line = "encoding: cp1252 # a guess, tried on all rows: Gerät, läuft, prächtig\n"
    assert line in written.path.read_text(encoding="utf-8")


def test_few_rows_in_another_encoding(tmp_path):
    """A letter among many rows of ASCII tells the file's encoding; a wrong byte in UTF-8 is an accident."""
    ascii_rows = table_of(("nice words", "poor words")) + "more words,a\n" * 60
    (tmp_path / "a.csv").write_bytes((ascii_rows + "café,a\n").encode("cp1252"))
    assert proposed(tmp_path / "a.csv")[1].data.encoding == "cp1252"
    (tmp_path / "b.csv").write_bytes((ascii_rows + "naïve,a\nfaçade,a\n").encode() + b"caf\xe9,a\n")
    written, loaded = proposed(tmp_path / "b.csv")
    assert (loaded.data.encoding, loaded.data.on_bad_bytes) == ("utf-8", "quarantine")
    assert "will go to quarantine" in written.warnings[0]


def test_only_the_line_of_column_names_in_another_encoding(tmp_path):
    rows = "".join(f"some words {number},{'ab'[number % 2]}\n" for number in range(60))
    (tmp_path / "a.csv").write_bytes(f"text,catégorie\n{rows}".encode("cp1252"))
    written, loaded = proposed(tmp_path / "a.csv")
    assert loaded.data.label == "catégorie"
    assert written.warnings[0].startswith("the line of column names is not UTF-8: read as cp125")
    [file] = task_files.expand(["a.csv"], str(tmp_path))
    assert len([row for row in formats.read(file, loaded.data) if not row.fault]) == 60


def test_a_column_name_that_no_encoding_reads_is_refused_where_the_column_is_needed(tmp_path):
    rows = "".join(f"naïve words {number},{'ab'[number % 2]},{'xy'[number % 2]}\n" for number in range(60)).encode()
    (tmp_path / "a.csv").write_bytes(b"text,cat\xe9gorie,label\n" + rows)
    written, loaded = proposed(tmp_path / "a.csv")
    assert (loaded.data.encoding, loaded.data.label) == ("utf-8", "label")
    assert written.warnings == ["the line of column names is not UTF-8"]
    (tmp_path / "a.csv").write_bytes(b"text,label \xe9,\n" + rows)
    with pytest.raises(UserError, match=r"a.csv: the line of column names is not UTF-8, so that 'label "):
        proposed(tmp_path / "a.csv")


def test_bytes_that_no_encoding_reads_are_replaced_with_a_word(tmp_path):
    sentences = ("na\u00efve words", "fa\u00e7ade words")
    rows = table_of(sentences).encode() + b"".join(b"wrong \xff byte %d,a\n" % number for number in range(9))
    (tmp_path / "a.csv").write_bytes(rows)
    written, loaded = proposed(tmp_path / "a.csv")
    assert (loaded.data.encoding, loaded.data.on_bad_bytes) == ("utf-8", "replace")
    assert written.warnings[0].startswith(
        "9 of 69 rows are not UTF-8, and no other encoding reads them well: the bytes"
    )


def test_lines_of_utf_8_within_another_encoding_are_counted(tmp_path):
    (tmp_path / "a.csv").write_bytes(table_of(SENTENCES["german"]).encode("cp1252") + "naïve words,a\n".encode() * 3)
    written, loaded = proposed(tmp_path / "a.csv")
    assert loaded.data.encoding == "cp1252"
    assert written.warnings[1].startswith("3 lines are UTF-8 nevertheless: cp1252 reads their letters wrong")
    assert "; 3 lines are UTF-8 nevertheless" in written.path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("first", "second"), [("cp1252", "utf-8"), ("utf-8", "cp1252")])
@pytest.mark.parametrize("times", [1, 3])
def test_files_in_two_encodings_are_refused(tmp_path, first, second, times):
    (tmp_path / "data").mkdir()
    table = table_of(SENTENCES["german"])
    (tmp_path / "data" / "a.csv").write_bytes(table.encode(first))
    (tmp_path / "data" / "b.csv").write_bytes((table + "".join(table.splitlines(True)[1:]) * times).encode(second))
    utf8, other = ("a", "b") if first == "utf-8" else ("b", "a")
    with pytest.raises(UserError, match=rf"{utf8}.csv is UTF-8 and \S*{other}.csv is not.*Save \S*{other}.csv"):
        proposed(tmp_path / "data", tmp_path / "a.yaml")


def test_utf_16_is_known_by_its_mark(tmp_path):
    for name, pack in (("a.csv", bytes), ("b.csv.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack(table_of(SENTENCES["french"]).encode("utf-16")))
        assert proposed(tmp_path / name)[1].data.encoding == "utf-16"


# === Quotes ===


def test_stray_quotes_are_said_and_written_down(tmp_path):
    rows = [f'"words {n}' if n % 9 == 3 else f'words {n}"' if n % 9 == 5 else f"words {n}" for n in range(90)]
    lines = "".join(f"{text}\t{('pos', 'neg')[number % 2]}\n" for number, text in enumerate(rows))
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + lines)
    written, loaded = proposed(tmp_path / "a.tsv")
    assert (loaded.data.quoting, loaded.data.labels) == ("none", ["neg", "pos"])
    assert written.findings[0].startswith("90 rows;")
    assert written.warnings == [
        "quotes in a.tsv are read as plain characters: read as marks around a field, they would take rows into texts"
    ]
    [file] = task_files.expand(["a.tsv"], str(tmp_path))
    assert [row.values[0] for row in formats.read(file, loaded.data)] == rows


# === Wrong input ===

WORDS = [(f"some words {number}", number % 2) for number in range(20)]


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        (("text", "label"), [(text, "same") for text, _ in WORDS], "only one label ('same')"),
        (("text", "label"), [(text, f"id{number}") for number, (text, _) in enumerate(WORDS)], "that is no label"),
        (("x", "y"), [(number, number % 2) for number in range(20)], "No column looks like text"),
        (("x", "z"), [(text, text) for text, _ in WORDS], "No column looks like a label"),
        (("text label",), [("a b",)], "Only one column"),
        (("text", "label"), [], "no usable row"),
    ],
)
def test_a_table_that_holds_no_labelled_text(tmp_path, header, rows, said):
    with pytest.raises(UserError) as stop:
        proposed(write_table(tmp_path / "a.csv", header, rows))
    assert said in str(stop.value)


def test_lists_are_named_as_the_cause(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1, "review": {"body": ["some", "words"], "label": ["a"]}}\n' * 9)
    said = (
        r"""Only one column, 'id'.*Lists are neither a text nor a label: 'review.body' \(\["some", "words"\]\), 'rev"""
    )
    with pytest.raises(UserError, match=said):
        proposed(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=r"the column 'review.label' \(data.label\) holds lists \(\[\"a\"\]\)"):
        proposed(tmp_path / "a.jsonl", label="review.label")


def test_files_that_are_missing_empty_or_binary(tmp_path):
    for content, said in ((None, "no such file"), (b"", "empty"), (b"te\0xt,label\n", "binary")):
        if content is not None:
            (tmp_path / "a.csv").write_bytes(content)
        with pytest.raises(UserError, match=said):
            proposed(tmp_path / "a.csv")


def test_what_run_would_refuse_is_refused(tmp_path):
    table = write_table(tmp_path / "a.csv", ("text", "label", "label"), [(*row, "x") for row in WORDS])
    with pytest.raises(UserError, match=r"the column 'label' \(data.label\) appears 2 times; rename all but one"):
        proposed(table)
    write_table(
        table, ("text", "label"), [(text, label if number > 4 else "") for number, (text, label) in enumerate(WORDS)]
    )
    with pytest.raises(UserError, match=r"5 of 20 rows cannot be used \(5 x nothing in column 'label'\).*allows 5%"):
        proposed(table)
    write_table(table, ("text", "label"), [(*row, "more") if number > 17 else row for number, row in enumerate(WORDS)])
    with pytest.raises(
        UserError, match=r"2 x broken line.*a.csv, row 19: 3 fields where the first line names 2 columns"
    ):
        proposed(table)
    write_table(table, ("text", "label"), [*WORDS, *((text, 1 - label) for text, label in WORDS[:3])])
    with pytest.raises(UserError, match=r"6 of 23 rows cannot be used \(6 x repeated text with another label\)"):
        proposed(table)
    write_table(table, ("text", "label"), [*WORDS[:2], *WORDS[:2]])
    with pytest.raises(UserError, match=r"The split \w+ would be empty \(.* of 2 distinct rows\). Add rows"):
        proposed(table)
    assert not list(tmp_path.glob("*.yaml"))


def test_a_repeated_column_is_not_proposed_for_slices(tmp_path):
    rows = [(f"some words {n}", n % 2, ("en", "fr")[n % 2], ("en", "fr")[n % 2]) for n in range(60)]
    written, _ = proposed(write_table(tmp_path / "a.csv", ("text", "label", "lang", "lang"), rows))
    assert "lang" not in written.path.read_text().split("split:")[1].split("model:")[0]


def test_a_comma_at_the_end_of_each_row_is_named(tmp_path):
    table = write_table(tmp_path / "a.csv", ("text", "label"), [(*row, "") for row in WORDS])
    with pytest.raises(
        UserError, match=r"The first fault: .*a.csv, row 1: 3 fields .* \(line 2\); the last field is empty"
    ):
        proposed(table)


def test_named_columns_must_exist(table):
    assert proposed(table, label="date")[1].data.label == "date"
    with pytest.raises(UserError, match=r"--text body: no such column. Columns: 'id', 'date'"):
        proposed(table, text="body")
    with pytest.raises(UserError, match="--text and --label both name 'stars'"):
        proposed(table, text="stars", label="stars")


# === What it does without ===


def test_the_command_imports_no_heavy_library(table):
    program = (
        "import sys; sys.argv = ['bertline', 'init', sys.argv[1], '--output', sys.argv[2]]\n"
        "from bertline.pipeline import cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print(sorted({{name.split('.')[0] for name in sys.modules}} & {HEAVY}))"
    )
    target = table.parent / "proposed.yaml"
    ran = subprocess.run([sys.executable, "-c", program, table, target], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
    assert config.load(target).data.label == "stars"


def test_lengths_are_those_of_the_models_own_tokenizer():
    from bertline.models.bert.tokenizer import Tokenizer

    vocabulary = packages.resolve(BACKBONE) / "vocab.txt"
    texts = [
        "",
        "I've paid $9.99 for it!!",
        "unaffable " * 300,
        "\u597d\u7684 \u8c22\u8c22 \U0001f600",
        "Na\u00efve caf\u00e9s",
    ]
    tokenizer = Tokenizer(vocabulary, lowercase=True, max_length=2**30)
    expected = tokenizer(texts)[0].row_lengths().numpy().tolist()
    assert look([(text,) for text in texts], vocabulary).lengths.tolist() == expected
    expected = tokenizer(texts, texts[::-1])[0].row_lengths().numpy().tolist()
    assert look(list(zip(texts, texts[::-1], strict=True)), vocabulary).lengths.tolist() == expected
