"""Files as people have them: what `bertline init` writes is what ingestion reads, and no row or letter is lost."""

import csv
import gzip
import io
import random

import pandas
import pytest
from typer.testing import CliRunner

from bertline.components.data import formats, task_files
from bertline.components.ingestion import parse
from bertline.errors import UserError
from bertline.pipeline import cli, config
from bertline.pipeline.init import write_config

WORDS = ("long", "lake", "arrived", "pleasant", "wonderful", "home", "late", "the", "camera", "useless")


def sentences(count=60, seed=0):
    """Distinct texts of words."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(4, 12))) + f" item {number}" for number in range(count)]


def table(rows, mark=",", **dialect):
    """The rows as a CSV file's text."""
    stream = io.StringIO()
    csv.writer(stream, delimiter=mark, **dialect).writerows(rows)
    return stream.getvalue()


def ingested(path, content, **named):
    """What `init` writes about a file, and (row, text, label or reason) of all its rows as ingestion reads them."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    written = write_config(path, path.parent / "proposed.yaml", force=True, **named)
    task = config.load(written.path)
    rows = []
    for file in task_files.of_task(task.data, task.folder):
        formats.check(file, task.data)
        for row in formats.read(formats.settled(file, task.data), task.data):
            parsed = parse(row, task.data)
            rows.append((row.number, parsed.text, parsed.fault.reason if parsed.fault else parsed.labels[0]))
    return written, task.data, rows


def refusal(path, content, **named):
    with pytest.raises(UserError) as stop:
        ingested(path, content, **named)
    assert not (path.parent / "proposed.yaml").exists()
    return str(stop.value)


# === The delimiter ===

TEXTS = [*sentences(), "good; really", "a, b; c", 'said "yes"; then\nleft', "1,5 | 2,5", "tab\there"]
ROWS = [(text, ("pos", "neg")[number % 2]) for number, text in enumerate(TEXTS)]


@pytest.mark.parametrize("mark", [";", "\t", "|", "^", "\x1f"])
@pytest.mark.parametrize("policy", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_the_delimiter_is_found_and_written_down(tmp_path, mark, policy, name):
    _, options, rows = ingested(tmp_path / name, table([("text", "label"), *ROWS], mark, quoting=policy))
    assert rows == [(number, text, label) for number, (text, label) in enumerate(ROWS, start=1)]
    assert options.delimiter == (None if (name, mark) == ("a.tsv", "\t") else mark)
    text = (tmp_path / "proposed.yaml").read_text()
    assert ("the rows agree most on their number of fields" in text) == (options.delimiter is not None)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_other_characters_in_the_texts_do_not_make_a_delimiter(tmp_path, name):
    usual = {"a.csv": ",", "a.tsv": "\t"}[name]
    texts = [f"x; y| z; item {number}" for number in range(60)]
    rows = [(text, number % 2) for number, text in enumerate(texts)]
    _, options, read = ingested(tmp_path / name, table([("text", "label"), *rows], usual))
    assert (options.delimiter, [text for _, text, _ in read]) == (None, texts)


def test_decimal_commas_are_no_delimiter(tmp_path):
    rows = [(f"{number},5", text, number % 2) for number, text in enumerate(sentences())]
    _, options, read = ingested(tmp_path / "a.csv", table([("wert", "text", "label"), *rows], ";"))
    assert (options.delimiter, [text for _, text, _ in read]) == (";", sentences())
    _, options, read = ingested(tmp_path / "a.csv", table(rows, ";"))
    assert (options.header, [text for _, text, _ in read]) == (["column_1", "text", "label"], sentences())


def test_unquoted_commas_are_told_as_such_and_not_as_another_delimiter(tmp_path):
    rows = [("pos" if number % 2 else "neg", f"well, {text}") for number, text in enumerate(sentences())]
    content = "label,text\n" + "".join(f"{label},{text}\n" for label, text in rows)
    message = refusal(tmp_path / "a.csv", content)
    assert "a.csv, row 1: 3 fields where the first line names 2 columns (line 2)" in message
    _, options, read = ingested(
        tmp_path / "a.csv", content.replace("neg,", "neg;").replace("pos,", "pos;").replace("label,", "label;")
    )
    assert (options.delimiter, len(read)) == (";", 60)


def test_files_with_two_delimiters_are_refused_naming_both(tmp_path):
    (tmp_path / "data").mkdir()
    for name, mark in (("a.csv", ","), ("b.csv", ";")):
        (tmp_path / "data" / name).write_text(table([("text", "label"), *ROWS], mark))
    with pytest.raises(UserError, match=r"b.csv is separated by ';' and .*a.csv by ',', but data.delimiter holds for"):
        write_config(tmp_path / "data", tmp_path / "a.yaml")
    (tmp_path / "data" / "b.csv").write_text("sep=;\n" + table([("text", "label"), *ROWS], ";"))
    written = write_config(tmp_path / "data", tmp_path / "a.yaml")
    assert config.load(written.path).data.delimiter is None


# === Excel's "Unicode text" ===


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.txt.gz"])
def test_unicode_text_of_a_spreadsheet(tmp_path, encoding, name):
    texts = [f"Gr\u00fc\u00dfe \u4e0a\u6d77 {text}" for text in sentences()]
    rows = [(number % 2, text) for number, text in enumerate(texts)]
    content = table([("label", "text"), *rows], "\t").encode(encoding)
    _, options, read = ingested(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)
    assert options.encoding == encoding.replace("-sig", "")
    assert read == [(number, text, str(label)) for number, (label, text) in enumerate(rows, start=1)]


def test_a_byte_order_mark_in_front_of_utf_16_of_a_named_order(tmp_path):
    content = "\ufeff" + table([("text", "label"), *ROWS])
    _, options, _ = ingested(tmp_path / "a.csv", content.encode("utf-16-le"))
    assert options.encoding == "utf-16"
    options = options.model_copy(update={"encoding": "utf-16-le"})
    [file] = task_files.expand(["a.csv"], str(tmp_path))
    formats.check(file, options)


def test_a_few_zero_bytes_do_not_make_utf_16(tmp_path):
    content = table([("text", "label"), *ROWS]).replace("item 7", "item 7\0").replace('item 9"', 'item 9"\0')
    _, options, read = ingested(tmp_path / "a.csv", content)
    assert (options.encoding, len(read), [row for row in read if row[2] == "zero byte"]) == (
        "utf-8",
        len(ROWS),
        [(8, "", "zero byte")],
    )


# === No line of column names ===


def sentiment140():
    for number, text in enumerate(sentences(80)):
        yield (
            4 * (number % 2),
            1467810369 + number,
            "Mon Apr 06 22:19:45 PDT 2009",
            "NO_QUERY",
            f"user{number % 30}",
            text,
        )


def ag_news():
    for number, text in enumerate(sentences(80)):
        yield 1 + number % 4, f"Wall St. Bears Claw {number}", f"Reuters - {text} and more of it"


@pytest.mark.parametrize(
    ("rows", "header", "text"),
    [
        ([*sentiment140()], ["label", *(f"column_{place}" for place in range(2, 6)), "text"], "text"),
        ([*ag_news()], ["label", "title", "text"], ["title", "text"]),
        ([(text, ("spam", "ham")[n % 2]) for n, text in enumerate(sentences())], ["text", "label"], "text"),
        ([(text, n % 2, n / 60) for n, text in enumerate(sentences())], ["text", "label", "column_3"], "text"),
        ([("ham" if n % 3 else "spam", text) for n, text in enumerate(sentences())], ["label", "text"], "text"),
    ],
    ids=["Sentiment140", "AG News", "text and label", "a number", "label first"],
)
@pytest.mark.parametrize("policy", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("mark", [",", "\t", ";"])
def test_a_first_line_that_is_a_row_is_one(tmp_path, rows, header, text, policy, mark):
    written, options, read = ingested(tmp_path / "a.csv", table(rows, mark, quoting=policy))
    assert (options.header, options.text) == (header, text)
    place = header.index("label")
    assert [label for _, _, label in read] == [str(row[place]) for row in rows]
    first = options.text_columns
    assert read[0][1] == " ".join(str(rows[0][header.index(name)]) for name in first)
    assert any("no line of column names" in line for line in written.findings)
    assert "the first line is a row: " in (tmp_path / "proposed.yaml").read_text()


@pytest.mark.parametrize(
    ("header", "label", "row"),
    [
        (("0", "1"), "1", ("{text}", "{label}")),  # pandas without names
        (("", "0", "1"), "1", ("{n}", "{text}", "{label}")),
        (("id", "text", "bad"), "bad", ("{n}", "{text}", "{word}")),
        (("How would you rate our service?", "What could we do better?"), None, ("{word}", "{text}")),
        (("text", "label", "2019", "2020"), "label", ("{text}", "{label}", "{n}", "{n}.5")),
    ],
)
def test_a_first_line_that_names_the_columns_names_them(tmp_path, header, label, row):
    values = [{"n": n, "text": text, "label": n % 2, "word": ("good", "bad")[n % 2]} for n, text in enumerate(TEXTS)]
    rows = [[cell.format(**row_values) for cell in row] for row_values in values]
    _, options, read = ingested(tmp_path / "a.csv", table([header, *rows]), label=label)
    assert (options.header, [text for _, text, _ in read]) == (None, TEXTS)


def test_a_workbook_without_names(tmp_path):
    path = tmp_path / "a.xlsx"
    rows = [[n % 2, text, None if n % 3 else "x"] for n, text in enumerate(sentences())]
    pandas.DataFrame(rows).to_excel(path, header=False, index=False)
    content = path.read_bytes()
    _, options, read = ingested(path, content)
    assert options.header == ["label", "text", "column_3"]
    assert read == [(n, text, str(label)) for n, (label, text, _) in enumerate(rows, start=1)]
    (tmp_path / "proposed.yaml").unlink()
    assert "data.header names 2 columns (a, b), and the sheet has 3." in refusal(path, content, header=["a", "b"])
    pandas.DataFrame(rows, columns=["label", "text", "more"]).to_excel(path, index=False)
    _, options, read = ingested(path, path.read_bytes())
    assert (options.header, len(read)) == (None, 60)


def test_names_in_the_middle_are_no_values(tmp_path):
    part = table([("text", "label"), *ROWS])
    other = table([("text", "label"), *((f"{text} again", label) for text, label in ROWS)])
    _, options, read = ingested(tmp_path / "a.csv", part + other)
    assert options.header is None
    assert [row for row in read if row[2] not in ("pos", "neg")] == [(len(ROWS) + 1, "", "broken line")]


def test_where_it_is_not_clear_the_person_is_asked(tmp_path):
    rows = [(text, ("spam", "ham")[n % 2]) for n, text in enumerate(sentences())]
    content = table([("text", "spam"), *rows])
    message = refusal(tmp_path / "a.csv", content)
    assert "not clear whether the first line names the columns or is a row ('spam' is one of the 2 values of" in message
    assert "`--header first`, or `--header NAME,NAME,...`" in message
    _, options, read = ingested(tmp_path / "a.csv", content, header=[])
    assert (options.header, options.label, len(read)) == (None, "spam", 60)
    _, options, read = ingested(tmp_path / "a.csv", content, header=["text", "kind"])
    assert (options.header, options.label, len(read)) == (["text", "kind"], "kind", 61)
    (tmp_path / "proposed.yaml").unlink()
    assert "names 3 columns (a, b, c), and the first row has 2 fields" in refusal(
        tmp_path / "a.csv", content, header=["a", "b", "c"]
    )


def test_what_stands_above_the_names_is_told(tmp_path):
    content = "# exported 2026-11-01\n# by shop\n" + table([("text", "label"), *ROWS], ";")
    message = refusal(tmp_path / "a.csv", content)
    assert "the first line is one field ('# exported 2026-11-01'), and most others are 2, separated by ';'" in message


def test_a_delimiter_that_is_none_is_told(tmp_path):
    content = "".join(f"{n}::{text}::{n % 2}\n" for n, text in enumerate(sentences()))
    assert "No usual character separates its columns" in refusal(tmp_path / "a.dat", content)


def test_files_with_and_without_names_are_refused_naming_both(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text(table([("text", "label"), *ROWS]))
    (tmp_path / "data" / "b.csv").write_text(table(ROWS))
    with pytest.raises(
        UserError, match=r"first line of .*a.csv names the columns, that of .*b.csv is a row \('pos' is"
    ):
        write_config(tmp_path / "data", tmp_path / "a.yaml")


# === Several text columns ===


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("label", "title", "body"), ["title", "body"]),
        (("Score", "Summary", "Text"), ["Summary", "Text"]),
        (("class", "headline", "short_description"), ["headline", "short_description"]),
        (("label", "question", "answer"), "question"),  # a pair
        (("label", "author", "text"), "text"),
    ],
)
def test_a_title_is_joined_with_its_text(tmp_path, names, text):
    rows = [(n % 2, f"some {WORDS[n % 7]} title {n}", body) for n, body in enumerate(sentences())]
    _, options, read = ingested(tmp_path / "a.csv", table([names, *rows]))
    assert (options.text, options.text_pair) == (text, "answer" if "answer" in names else None)
    if isinstance(text, list):
        assert [row[1] for row in read] == [f"{title} {body}" for _, title, body in rows]


def test_a_title_with_which_the_text_begins_is_not_said_twice(tmp_path):
    rows = [(n % 2, body[:20], body) for n, body in enumerate(sentences())]
    _, options, _ = ingested(tmp_path / "a.csv", table([("label", "title", "body"), *rows]))
    assert options.text == "body"


def test_text_columns_named_by_the_person(tmp_path):
    rows = [(n % 2, f"question {n} here", body, f"more of {n} words") for n, body in enumerate(sentences())]
    rows[3] = (1, "", "", "only here it is")
    _, options, read = ingested(tmp_path / "a.csv", table([("y", "a", "b", "c"), *rows]), text=["c", "b"])
    assert (options.text, read[3][1]) == (["c", "b"], "only here it is")
    assert read[0][1] == f"more of 0 words {rows[0][2]}"


# === The kinds of files that people have trouble with ===


def rows_of(texts, labels=("pos", "neg")):
    return [(text, labels[number % len(labels)]) for number, text in enumerate(texts)]


@pytest.mark.parametrize("mark", [";", ",", "\t"])
def test_a_first_line_that_names_the_separator(tmp_path, mark):
    _, options, read = ingested(tmp_path / "a.csv", f"sep={mark}\r\n" + table([("text", "label"), *ROWS], mark))
    assert (options.delimiter, [row[1:] for row in read]) == (None, ROWS)


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.tsv", "\t"), ("a.txt", "|")])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("header", [True, False])
def test_stray_quotes_take_no_row(tmp_path, name, mark, order, header):
    texts = [
        f'"{text}' if n % 20 == 3 else f'{text}"' if n % 20 == 9 else text for n, text in enumerate(sentences(240))
    ]
    rows = rows_of(texts)
    lines = [mark.join(row[place] for place in order) for row in [*([("text", "label")] if header else []), *rows]]
    _, options, read = ingested(tmp_path / name, "\n".join(lines) + "\n")
    assert ([row[1:] for row in read], options.quoting) == (rows, "none")


def test_columns_without_a_name_at_the_end_of_each_line(tmp_path):
    rows = [(label, text + (" \u00a35" if n % 9 == 0 else ""), "", "", "") for n, (text, label) in enumerate(ROWS)]
    _, options, read = ingested(tmp_path / "a.csv", table([("v1", "v2", "", "", ""), *rows]).encode("cp1252"))
    assert (options.encoding, options.label) == ("cp1252", "v1")
    assert [row[1:] for row in read] == [(row[1], row[0]) for row in rows]


def test_doubled_names(tmp_path):
    rows = [(*row, "xy"[number % 2]) for number, row in enumerate(ROWS)]
    message = refusal(tmp_path / "a.csv", table([("text", "label", "label"), *rows]))
    assert "the column 'label' (data.label) appears 2 times; rename all but one" in message
    rows = [(*row, "a") for row in rows]
    _, options, read = ingested(tmp_path / "a.csv", table([("text", "label", "lang", "lang"), *rows]))
    assert (options.keep, len(read)) == ([], len(rows))


def test_spaces_before_opening_quotes(tmp_path):
    lines = "".join(f'"{text}, and more", "{label}"\n' for text, label in rows_of(sentences()))
    _, _, read = ingested(tmp_path / "a.csv", "text, label\n" + lines)
    assert read == [(n, f"{text}, and more", ("neg", "pos")[n % 2]) for n, text in enumerate(sentences(), start=1)]


@pytest.mark.parametrize("name", ["1e3.csv", "data[1].csv", "reviews(1).csv", "null.csv", "*.csv", "{a}.csv"])
@pytest.mark.parametrize("columns", [("null", "yes"), ("Text ", "1e3"), ("~", "{}"), ("a: b", "# c")])
def test_names_of_files_and_columns_as_they_stand(tmp_path, name, columns):
    _, options, read = ingested(tmp_path / name, table([columns, *ROWS]))
    assert (options.text, options.label) == (columns[0].strip(), columns[1])
    assert [row[1:] for row in read] == ROWS


@pytest.mark.parametrize(
    "labels",
    [
        ("1e3", "2E5", "0o7", "007", "1_000", "0x1F", ".5", "1.", "+1"),
        ("yes", "no", "on", "off", "null", "~", "true", "None", "y"),
        (
            "2024-01-01",
            "12:30:45",
            "{}",
            "[]",
            "*a",
            "&a",
            "!x",
            "a: b",
            "# c",
            "%",
            "@",
            "`x`",
            "<<",
            "=",
            "-",
            "?",
            "|",
        ),
        ("[/b]", "[red]x", "[bold]"),
    ],
)
@pytest.mark.parametrize("header", [True, False])
def test_labels_as_they_stand(tmp_path, labels, header):
    rows = rows_of(sentences(20 * len(labels)), labels)
    written, options, read = ingested(tmp_path / "a.csv", table([*([("text", "label")] if header else []), *rows]))
    assert ([row[1:] for row in read], options.labels) == (rows, sorted(labels))
    assert f"{labels[0]} 20" in written.findings[-1]
    shown = CliRunner().invoke(cli.app, ["init", str(tmp_path / "a.csv"), "-o", str(tmp_path / "b.yaml")])
    assert f"{labels[0]} 20, {labels[1]} 20" in shown.output


@pytest.mark.parametrize(
    "texts",
    [
        ("Das Ger\u00e4t l\u00e4uft pr\u00e4chtig", "Gr\u00f6\u00dfe passt, w\u00fcrde ich wieder kaufen"),
        ("Le caf\u00e9 \u00e9tait d\u00e9licieux", "Tr\u00e8s d\u00e9\u00e7u, la qualit\u00e9 est m\u00e9diocre"),
    ],
)
@pytest.mark.parametrize("mark", [";", ",", "\t"])
def test_umlauts_and_accents_of_a_spreadsheet(tmp_path, texts, mark):
    rows = rows_of([f"{texts[n % 2]} {n}" for n in range(60)])
    _, options, read = ingested(tmp_path / "a.csv", table([("text", "label"), *rows], mark).encode("cp1252"))
    assert (options.encoding, [row[1:] for row in read]) == ("cp1252", rows)
