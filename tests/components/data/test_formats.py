import csv
import gzip
import json
import random

import pyarrow
import pyarrow.parquet
import pytest

from bertline.components.data import formats, task_files
from bertline.components.data.rows import BAD_BYTES, BROKEN_LINE, ZERO_BYTE
from bertline.components.options import DataOptions
from bertline.errors import UserError

OPTIONS = DataOptions(source=["."])


def rows_of(path, content, options=OPTIONS):
    """(number, values or the fault's reason) of each row."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    [file] = task_files.expand([path.name], str(path.parent))
    formats.check(file, options)
    return [(row.number, row.fault.reason if row.fault else row.values) for row in formats.read(file, options)]


def refusal(path, content, **options):
    with pytest.raises(UserError) as stop:
        rows_of(path, content, DataOptions(source=["."], **options))
    return str(stop.value)


# === CSV ===


def test_quotes_hold_commas_quotes_and_newlines(tmp_path):
    content = 'label,text\r\npos,"a, ""b""\r\nc"\r\nneg,d\r\n'
    assert rows_of(tmp_path / "a.csv", content) == [(1, ('a, "b"\r\nc', "pos")), (2, ("d", "neg"))]


def test_byte_order_mark_blank_lines_and_bare_carriage_returns(tmp_path):
    assert rows_of(tmp_path / "a.csv", "\ufefftext,label\r\n\r\na,pos\r\n\r\n") == [(1, ("a", "pos"))]
    assert rows_of(tmp_path / "b.csv", "text,label\ra,pos\rb,neg\r") == [(1, ("a", "pos")), (2, ("b", "neg"))]


def test_a_carriage_return_within_an_unquoted_text_is_a_character_of_it(tmp_path):
    """pandas does not quote it where lines end in a line feed."""
    content = 'text,label\na\rb,pos\n\rc,neg\n"d\re\r\nf",pos\ng\r\r\n'
    assert rows_of(tmp_path / "a.csv", content) == [
        (1, ("a\rb", "pos")),
        (2, ("\rc", "neg")),
        (3, ("d\re\r\nf", "pos")),
        (4, BROKEN_LINE),
    ]
    # A Macintosh's lines end in it.
    content = 'text,label\r"a\nb",pos\rc,neg\r'
    assert rows_of(tmp_path / "b.csv", content) == [(1, ("a\nb", "pos")), (2, ("c", "neg"))]


def test_a_broken_line_costs_only_its_row(tmp_path):
    content = 'text,label\na,pos\nb,neg,extra\nc\n"d,neg\ne,pos\n"f" g,neg\nh,neg\n'
    assert rows_of(tmp_path / "a.csv", content) == [
        (1, ("a", "pos")),
        (2, BROKEN_LINE),  # three fields
        (3, BROKEN_LINE),  # one field
        (4, BROKEN_LINE),  # its quote is not closed before another one opens
        (5, ("e", "pos")),
        (6, BROKEN_LINE),  # text after the closing quote
        (7, ("h", "neg")),
    ]


def test_a_quote_that_is_never_closed_does_not_swallow_the_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\na,pos\n"b,neg\nc,pos\nd,neg\n')
    [file] = task_files.expand(["a.csv"], str(tmp_path))
    rows = list(formats.read(file, OPTIONS))
    assert [row.values for row in rows] == [("a", "pos"), (), ("c", "pos"), ("d", "neg")]
    assert rows[1].fault.detail == "a quote is opened and never closed (line 3)"
    assert rows[1].fault.excerpt == '"b,neg\n'


def test_long_fields_emoji_and_chinese(tmp_path):
    long = "word " * 40_000
    got = rows_of(tmp_path / "a.csv", f'text,label\n"{long}",pos\n😀 很好,neg\n')
    assert got == [(1, (long, "pos")), (2, ("😀 很好", "neg"))]


def test_tsv_quotes_like_csv(tmp_path):
    assert rows_of(tmp_path / "a.tsv", 'text\tlabel\n"a\tb"\tpos\n') == [(1, ("a\tb", "pos"))]


def test_spaces_before_a_quote_do_not_make_it_a_character(tmp_path):
    content = 'text, label\n"a, ""b"", c", "pos"\n"d , "  ,"neg"\n e, neg\n"f",  "neg"\n'
    assert rows_of(tmp_path / "a.csv", content) == [
        (1, ('a, "b", c', "pos")),
        (2, BROKEN_LINE),  # a space after the closing quote
        (3, (" e", " neg")),
        (4, ("f", "neg")),
    ]
    content = 'text, label\n"two\nlines", "pos"\n"three\n, ""more""\nlines",  "neg"\nc,pos\n'
    assert rows_of(tmp_path / "a.csv", content) == [
        (1, ("two\nlines", "pos")),
        (2, ('three\n, "more"\nlines', "neg")),
        (3, ("c", "pos")),
    ]


def test_a_first_line_that_names_the_separator(tmp_path):
    expected = [(1, ("a, b", "pos")), (2, ("c; d", "neg"))]
    assert rows_of(tmp_path / "a.csv", '\ufeffsep=;\r\ntext;label\r\na, b;pos\r\n"c; d";neg\r\n') == expected
    assert rows_of(tmp_path / "a.csv", 'sep=,\ntext,label\n"a, b",pos\nc; d,neg\n') == expected
    assert rows_of(tmp_path / "a.csv", "sep=\t\ntext\tlabel\na, b\tpos\nc; d\tneg\n") == expected
    (tmp_path / "a.csv").write_text("sep=;\ntext;label\na;b;c\n")
    [file] = task_files.expand(["a.csv"], str(tmp_path))
    assert "(line 3)" in next(iter(formats.read(file, OPTIONS))).fault.detail


# === Stray quotes ===


def stray(delimiter, order=(0, 1), count=240):
    """Rows as a file without quoting has them, where every tenth text starts or ends with a quote."""
    rows = []
    for number in range(count):
        text = f"some words of row {number}"
        text = f'"{text}' if number % 20 == 3 else f'{text}"' if number % 20 == 9 else text
        rows.append((text, ("pos", "neg")[number % 2]))
    lines = [delimiter.join(row[place] for place in order) for row in [("text", "label"), *rows]]
    return rows, "\n".join(lines) + "\n"


def settled_rows(path, content, **options):
    """How the file's quotes are read, and its rows."""
    path.write_text(content, encoding="utf-8")
    [file] = task_files.expand([path.name], str(path.parent))
    options = DataOptions(source=["."], **options)
    return formats.settled(file, options).quoting, list(formats.read(file, options))


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["text first", "label first"])
def test_stray_quotes_swallow_no_row(tmp_path, name, delimiter, order):
    expected, content = stray(delimiter, order)
    quoting, rows = settled_rows(tmp_path / name, content)
    assert (quoting, [row.values for row in rows]) == ("none", expected)
    _, swallowed = settled_rows(tmp_path / name, content, quoting="standard")
    assert len(swallowed) == 240 - 12 * 6
    assert sum(row.doubt is not None for row in swallowed) == 12
    assert settled_rows(tmp_path / name, content, quoting="none")[1] == rows


def test_a_quoted_citation_at_the_start_of_a_plain_text_is_no_mark(tmp_path):
    texts = [f'"Great" she said {number}' if number % 5 == 0 else f"some words {number}" for number in range(60)]
    content = "text\tlabel\n" + "".join(f"{text}\t{number % 2}\n" for number, text in enumerate(texts))
    quoting, rows = settled_rows(tmp_path / "a.tsv", content)
    assert (quoting, [row.values[0] for row in rows]) == ("none", texts)


def test_a_file_with_a_quote_in_every_row_is_told_by_those_that_both_readings_read_alike(tmp_path):
    forms = ('{} is 5" tall', '{} is 6" wide', '"{} opens', '{} ends"', '{} "within" it')
    texts = [forms[number % 5].format(f"row {number}") for number in range(300)]
    content = "text\tlabel\n" + "".join(f"{text}\t{('pos', 'neg')[n % 2]}\n" for n, text in enumerate(texts))
    quoting, rows = settled_rows(tmp_path / "a.tsv", content)
    assert (quoting, [row.values[0] for row in rows]) == ("none", texts)


@pytest.mark.parametrize("policy", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("text", ["Good, really\nbad", 'said "yes", then\n"no"', "one\ntwo\nthree", "a, b", 'a "b" c'])
@pytest.mark.parametrize("every", [1, 3, 60])
def test_what_a_standard_writer_quotes_comes_back(tmp_path, policy, text, every):
    rows = [(f"{text} {n}" if n % every == 0 else f"words {n}", ("pos", "neg")[n % 2]) for n in range(60)]
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, quoting=policy).writerows([("text", "label"), *rows])
    content = (tmp_path / "a.csv").read_bytes().decode()
    quoting, read = settled_rows(tmp_path / "a.csv", content)
    assert (quoting, [row.values for row in read]) == ("standard", rows)


PIECES = ("a", "word", " ", ",", '"', "\n", "\t", "b, c", 'said "x"', "\r\n", "\u00fc", '  "q"', ', "')


@pytest.mark.parametrize("seed", range(60))
def test_random_tables_of_a_standard_writer_come_back(tmp_path, seed):
    random_ = random.Random(seed)
    rows = []
    for number in range(random_.choice((3, 10, 60))):
        words = "".join(random_.choices(PIECES, k=random_.randint(1, 6))) if random_.random() < 0.4 else "plain words"
        rows.append((f"{words} {number}", random_.choice(("pos", "neg"))))
    name, delimiter = random_.choice((("a.csv", ","), ("a.tsv", "\t")))
    dialect = {
        "delimiter": delimiter,
        "quoting": random_.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
        "lineterminator": random_.choice(("\n", "\r\n")),
    }
    with open(tmp_path / name, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, **dialect).writerows([("text", "label"), *rows])
    [file] = task_files.expand([name], str(tmp_path))
    assert [row.values for row in formats.read(file, OPTIONS)] == rows


def test_one_broken_quote_among_standard_ones_costs_its_row_only(tmp_path):
    rows = "".join(f'"words, {number}",{"ab"[number % 2]}\n' for number in range(40))
    quoting, read = settled_rows(tmp_path / "a.csv", f'text,label\n{rows}"odd" one,a\nc,b\n')
    assert quoting == "standard"
    assert [row.number for row in read if row.fault] == [41]


def test_quotes_that_were_kept_are_a_doubt(tmp_path):
    _, (first, second) = settled_rows(tmp_path / "a.csv", 'text,label\n"a",pos\nb,neg\n', quoting="none")
    assert (first.values, second.values) == (('"a"', "pos"), ("b", "neg"))
    assert "kept" in first.doubt
    assert second.doubt is None


# === Bytes ===


def test_bad_bytes_are_named_with_their_place(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\ncaf\xe9,pos\nb,neg\n")
    [file] = task_files.expand(["a.csv"], str(tmp_path))
    first, second = formats.read(file, OPTIONS)
    assert first.fault.reason == BAD_BYTES
    assert first.fault.detail == "byte 0xe9 is not utf-8: column 'text', character 4"
    assert second.values == ("b", "neg")


def test_bad_bytes_replaced_or_read_in_their_own_encoding(tmp_path):
    content = b"text,label\ncaf\xe9,pos\n"
    replaced = DataOptions(source=["."], on_bad_bytes="replace")
    latin = DataOptions(source=["."], encoding="latin-1")
    assert rows_of(tmp_path / "a.csv", content, replaced) == [(1, ("caf\ufffd", "pos"))]
    [file] = task_files.expand(["a.csv"], str(tmp_path))
    assert [row.doubt for row in formats.read(file, replaced)] == ["rows with U+FFFD in place of bytes"]
    assert rows_of(tmp_path / "a.csv", content, latin) == [(1, ("café", "pos"))]
    utf16 = "text,label\ncafé,pos\n".encode("utf-16")
    assert rows_of(tmp_path / "a.csv", utf16, DataOptions(source=["."], encoding="utf-16")) == [(1, ("café", "pos"))]


def test_half_a_character_from_json_is_no_text(tmp_path):
    assert rows_of(tmp_path / "a.jsonl", r'{"text": "\ud83d", "label": "a"}') == [(1, BAD_BYTES)]


# === Other formats ===


def test_json_lines(tmp_path):
    content = '{"text": "a", "label": 1}\n\nnot json\n[1]\n{"text": "b"}\n{"text": ["c"], "label": true}\n'
    assert rows_of(tmp_path / "a.jsonl", content) == [
        (1, ("a", "1")),
        (2, BROKEN_LINE),
        (3, BROKEN_LINE),
        (4, ("b", None)),
        (5, BROKEN_LINE),
    ]


def test_a_line_that_is_no_json_object_is_named_with_its_place(tmp_path):
    lines = ['{"text": "a", "label": "x"}', '{"text": ?}', "[1]", '{"text": ["c"], "label": "x"}', "9" * 5000]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    [file] = task_files.expand(["a.jsonl"], str(tmp_path))
    details = [row.fault.detail for row in formats.read(file, OPTIONS) if row.fault]
    assert details[:3] == [
        "not JSON: Expecting value at character 10 (line 2)",
        "a list, not an object (line 3)",
        "column 'text' holds a list, not a text: [\"c\"] (line 4)",
    ]
    assert "digits" in details[3]


def test_parquet(tmp_path):
    table = pyarrow.table(
        {
            "id": [1, 2, 3],
            "label": pyarrow.array([0, 1, None]),
            "text": pyarrow.array([b"a", b"caf\xe9", None], pyarrow.binary()),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    [file] = task_files.expand(["a.parquet"], str(tmp_path))
    formats.check(file, OPTIONS)
    first, second, third = formats.read(file, OPTIONS)
    assert (first.values, second.fault.reason, third.values) == (("a", "0"), BAD_BYTES, (None, None))


def test_a_large_parquet_file_is_read_in_parts(tmp_path):
    table = pyarrow.table({"text": list("abcdefg"), "label": ["pos"] * 7})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    [file] = task_files.expand(["a.parquet"], str(tmp_path))
    assert [part for part, _ in formats.parts(file, 1_000_000)] == [file]
    group = pyarrow.parquet.ParquetFile(file.path).metadata.row_group(0).total_byte_size
    parts = [part for part, _ in formats.parts(file, 2 * group)]
    assert [(part.groups, part.first, part.rows) for part in parts] == [(range(2), 0, 4), (range(2, 4), 4, 3)]
    rows = [[(row.number, row.values[0]) for row in formats.read(part, OPTIONS)] for part in parts]
    assert rows == [[(1, "a"), (2, "b"), (3, "c"), (4, "d")], [(5, "e"), (6, "f"), (7, "g")]]


def test_a_folder_per_class(tmp_path):
    for name, content in {"pos/1.txt": b"a\nb", "neg/1.txt": b"c", "neg/.hidden": b"d", "neg/2.txt": b"\0"}.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content)
    files = task_files.expand(["data"], str(tmp_path))
    assert [file.name for file in files] == ["data/neg/1.txt", "data/neg/2.txt", "data/pos/1.txt"]
    rows = [row for file in files for row in formats.read(file, OPTIONS)]
    assert [row.values for row in rows] == [("c", "neg"), (), ("a\nb", "pos")]


# === Wrong input ===


def test_a_missing_column_names_the_nearest_and_those_found(tmp_path):
    message = refusal(tmp_path / "a.csv", "Tweet,sentiment\na,b\n", text="tweet", label="sentimnt")
    assert message.startswith("a.csv: no column 'tweet' (data.text). Columns found: 'Tweet', 'sentiment'.")
    assert "Did you mean 'Tweet'?" in message
    assert "separated by ';': set data.delimiter: \";\"." in refusal(tmp_path / "b.csv", "text;label\na;b\n")
    assert "separated by '\\t': set data.delimiter: \"\\t\"." in refusal(tmp_path / "b.csv", "text\tlabel\na\tb\n")
    assert "separated by ','" in refusal(tmp_path / "b.csv", "text,label\na,b\n", delimiter="|")


# === Delimiter and header by the config ===


@pytest.mark.parametrize("mark", [";", "\t", "|", "^", "\x01"])
def test_a_delimiter_of_ones_own(tmp_path, mark):
    content = f'text{mark}label\n"a{mark} ""b"", c"{mark}pos\nd{mark}neg{mark}\n'
    options = DataOptions(source=["."], delimiter=mark)
    assert rows_of(tmp_path / "a.csv", content, options) == [(1, (f'a{mark} "b", c', "pos")), (2, BROKEN_LINE)]
    assert rows_of(tmp_path / "b.csv", "sep=,\ntext,label\na,pos\n", options) == [(1, ("a", "pos"))]


def test_names_of_columns_where_the_first_line_is_a_row(tmp_path):
    options = DataOptions(source=["."], header=["label", "title", "text"], text=["title", "text"])
    content = '"1","a","b, ""c"""\n2,d,e\n\n3,f\n'
    assert rows_of(tmp_path / "a.csv", content, options) == [
        (1, ("a", 'b, "c"', "1")),
        (2, ("d", "e", "2")),
        (3, BROKEN_LINE),
    ]
    [file] = task_files.expand(["a.csv"], str(tmp_path))
    *_, last = formats.read(file, options)
    assert last.fault.detail == "2 fields where data.header names 3 columns (line 4)"


def test_a_header_that_does_not_fit_is_refused_naming_both(tmp_path):
    message = refusal(tmp_path / "a.csv", "1,a,b\n2,c,d\n", header=["label", "text"])
    assert message.startswith(
        "a.csv: data.header names 2 columns (label, text), and the first row has 3 fields, separated by ',': '1,a,b'."
    )
    assert "the first line holds the names" in refusal(
        tmp_path / "a.csv", "Text,label\na,b\n", header=["text", "label"]
    )
    lines = '{"text": "a", "label": "b"}\n'
    message = refusal(tmp_path / "a.jsonl", lines, header=["text", "label"])
    assert message == "a.jsonl: data.header names the columns of CSV, TSV and Excel files, not of jsonl; remove it."
    assert "no rows" in refusal(tmp_path / "a.csv", "\n\n", header=["text", "label"])


def test_a_stray_quote_in_the_first_row_of_a_file_without_header(tmp_path):
    _, content = stray("\t")
    content = '"open' + content.split("\n", 1)[1]
    options = DataOptions(source=["."], header=["text", "label"])
    rows = rows_of(tmp_path / "a.tsv", content, options)
    assert (len(rows), rows[0]) == (240, (1, ('"opensome words of row 0', "pos")))


# === Zero bytes ===


@pytest.mark.parametrize("row", [0, 5, 150_000])
@pytest.mark.parametrize("field", ["text", "other"])
def test_a_zero_byte_costs_its_row_wherever_it_stands(tmp_path, row, field):
    rows = [{"text": f"words {number}", "label": "pos", "other": ""} for number in range(max(row, 10) + 1)]
    rows[row][field] += "\0"
    lines = "".join(f"{row['text']},{row['label']},{row['other']}\n" for row in rows)
    read = rows_of(tmp_path / "a.csv", "text,label,other\n" + lines)
    assert (len(read), [fault for fault in read if isinstance(fault[1], str)]) == (len(rows), [(row + 1, ZERO_BYTE)])


def test_a_zero_byte_in_other_formats(tmp_path):
    lines = '{"text": "a\\u0000", "label": "b"}\n{"text": "c", "label": "d"}\n{"text": "e\0", "label": "f"}\n'
    assert rows_of(tmp_path / "a.jsonl", lines) == [(1, ZERO_BYTE), (2, ("c", "d")), (3, BROKEN_LINE)]
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a\0", "b"], "label": ["c", "d"]}), tmp_path / "a.parquet")
    [file] = task_files.expand(["a.parquet"], str(tmp_path))
    assert [row.fault and row.fault.detail for row in formats.read(file, OPTIONS)] == [
        "a zero byte: column 'text', character 2",
        None,
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"\n\n", "no rows"),
        ("a.csv.gz", gzip.compress(b"", mtime=0), "empty"),
        ("a.csv", b"te\0xt,label\nab,c\n", "binary file, not text, or damaged (line 1 holds zero bytes)"),
        ("a.csv", "text,label\na,b\n".encode("utf-16-le"), "set data.encoding where it is UTF-16"),
        ("a.csv", b"PK\x03\x04...", "not zip, damaged or cut short"),
        ("a.csv", "text,label\na,b\n".encode("utf-16"), "data.encoding: utf-16"),
        ("a.parquet", b"text,label\n", "not .parquet but text"),
        ("a.json", json.dumps([{"text": "a"}]).encode(), "no column 'label' (data.label). Columns found: 'text'"),
        ("a.xyz", b"text,label\n", "format not known"),
        ("a.parquet", b"", "not Parquet"),
        (
            "a.parquet.gz",
            gzip.compress(b"PAR1", mtime=0),
            "is not read packed; unpack the file",
        ),
        ("a.jsonl", b"[1]\n2\n", "row 2: not JSON: more text after the end of the value (line 2)"),
        ("a.jsonl", b"1\n2\n", "the first 2 rows hold no JSON object"),
        ("a.csv", b'"text,label\na,b\n', "line of column names is broken"),
        ("a.csv", b"text,label,text\na,b,c\n", "the column 'text' (data.text) appears 2 times"),
    ],
)
def test_what_is_no_table_is_refused_in_words(tmp_path, name, content, said):
    assert said in refusal(tmp_path / name, content)


def test_a_gzip_file_cut_short_stops_instead_of_losing_rows(tmp_path):
    whole = gzip.compress(b"text,label\n" + b"".join(b"%d,pos\n" % number for number in range(50_000)))
    assert "cut short" in refusal(tmp_path / "a.csv.gz", whole[: len(whole) // 2])


def test_class_folders_have_no_other_columns(tmp_path):
    (tmp_path / "data" / "pos").mkdir(parents=True)
    (tmp_path / "data" / "pos" / "1.txt").write_text("a")
    [file] = task_files.expand(["data"], str(tmp_path))
    with pytest.raises(UserError, match=r"data/pos/1.txt: data.keep names 'shop', but class folders have only"):
        formats.check(file, DataOptions(source=["."], keep=["shop"]))


def test_lines_are_rows_of_the_label_that_their_file_is_named_after(tmp_path):
    (tmp_path / "pos.txt").write_bytes('gut, "sehr"\n\n  \nso\r\nzwei\u2028Zeilen'.encode())
    (tmp_path / "neg.txt.gz").write_bytes(gzip.compress("这本书很差\n".encode("gb18030") + b"\xff\n"))
    options = DataOptions(source=["."], format="lines", encoding="utf-8")
    files = task_files.expand(["pos.txt", "neg.txt.gz"], str(tmp_path), "lines")
    rows = [[(row.number, row.values or row.fault.reason) for row in formats.read(file, options)] for file in files]
    assert rows[0] == [(1, ('gut, "sehr"', "pos")), (2, ("so", "pos")), (3, ("zwei\u2028Zeilen", "pos"))]
    chinese = options.model_copy(update={"encoding": "gb18030"})
    assert next(row.values for row in formats.read(files[1], chinese)) == ("这本书很差", "neg")
    assert [row.fault and row.fault.reason for row in formats.read(files[1], chinese)] == [None, BAD_BYTES]
    formats.check(files[0], options)
    with pytest.raises(UserError, match=r"pos.txt: the file has no rows"):
        (tmp_path / "pos.txt").write_text("\n \n")
        formats.check(files[0], options)


def test_utf_16_without_its_mark_is_refused_with_the_names_of_those_that_need_none(tmp_path):
    content = "text,label\na,b\n".encode("utf-16-le")
    message = refusal(tmp_path / "a.csv", content, encoding="utf-16")
    assert message.startswith("a.csv: cannot be read as utf-16:")
    assert "utf-16-le or utf-16-be" in message
    assert rows_of(tmp_path / "a.csv", content, DataOptions(source=["."], encoding="utf-16-le")) == [(1, ("a", "b"))]


def test_unknown_encoding(tmp_path):
    assert "no encoding 'utf-9'" in refusal(tmp_path / "a.csv", "text,label\na,b\n", encoding="utf-9")


@pytest.mark.parametrize("name", ["hex", "rot13", "rot_13", "base64", "zip", "bz2", "uu", "quopri", "idna", "punycode"])
def test_python_codecs_that_are_no_encoding_of_files(tmp_path, name):
    assert f"{name} is no encoding of text files" in refusal(tmp_path / "a.csv", "text,label\na,b\n", encoding=name)
    assert "undefined is no" in refusal(tmp_path / "a.csv", "text,label\na,b\n", encoding="undefined")
