"""Files that pandas, polars and Excel's writers make: with what `init` writes each row comes back, or it says no.

`BERTLINE_FILES=2000 pytest` makes that many at random; without it they are the same few each time.
"""

import csv
import os
import random
import tempfile
from pathlib import Path

import pandas
import polars
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bertline.components.data import formats, task_files
from bertline.components.ingestion import parse
from bertline.errors import UserError
from bertline.pipeline import config
from bertline.pipeline.init import write_config

FILES = int(os.environ.get("BERTLINE_FILES", "0"))
ROWS = 90

# === Rows ===

WORDS = {
    "utf-8": ["the", "parcel", "came", "late", "and", "naïve", "café", "上海", "مرحبا", "😀", "résumé", "ß"],
    "cp1252": ["das", "Gerät", "läuft", "prächtig", "sehr", "schönes", "Gehäuse", "größer", "über", "Müll", "für"],
    "gb18030": ["这个", "产品", "非常", "好用", "包装", "很", "漂亮", "下次", "还会", "再买", "快递", "太慢"],
    "shift_jis": ["この", "商品", "は", "とても", "良い", "です", "配送", "が", "遅かった", "残念"],
}
ODD = [
    *(
        '"',
        '""',
        'said "yes"',
        "it's",
        ",",
        ";",
        "a, b; c",
        "|",
        "\t",
        "\n",
        "\r\n",
        "\r",
        "\n\n",
        "sep=;",
        "=1+1",
        "\\",
        "\\n",
    ),
    *(
        "#",
        "NA",
        "null",
        "1,5",
        "<b>",
        "&amp;",
        "{a}",
        "[/b]",
        "%",
        "$1",
        "'",
        "`",
        "  ",
        "-",
        "0",
        "http://a.b/c?d=e&f",
    ),
]
WIDE = [
    "\u00a0",
    "\u2028",
    "\u0085",
    "\u3000",
    "\u200b",
    "\ufeff",
    "\u2019",
    "\u201c",
    "\x0b",
    "\x0c",
    "\x1f",
    "\u202e",
    "\ud7ff",
]
LABELS = [
    ("pos", "neg"),
    ("0", "1"),
    ("1", "2", "3"),
    ("a b", "c,d"),
    ('say "x"', "y;z"),
    ("TRUE", "no"),
    ("gut", "schlecht"),
]


def table(chance, encoding, odd):
    """(text, label) rows with distinct texts of some words, and odd characters in some of them."""
    words = WORDS.get(encoding, WORDS["utf-8"])
    labels = chance.choice(LABELS)
    share = chance.choice([0, 0.3, 1])
    rows = []
    for number in range(ROWS):
        parts = chance.choices(words, k=chance.randint(3, 6))
        if chance.random() < share:
            for _ in range(chance.randint(1, 3)):
                parts.insert(chance.randint(0, len(parts)), chance.choice(odd))
        rows.append((" ".join(parts) + chance.choice(["", " ", " ", " "]) + str(number), labels[number % len(labels)]))
    return rows


# === Files ===

ENCODINGS = ["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "gb18030", "shift_jis"]


def delimited(chance):
    """A CSV or TSV file that pandas or polars writes: its rows, name and columns, what writes it, and a note on it."""
    by_polars = chance.random() < 0.4
    encoding = chance.choice(["utf-8", "utf-8-sig"] if by_polars else ENCODINGS)
    rows = table(chance, encoding, ODD if encoding in WORDS and encoding != "utf-8" else ODD + WIDE)
    mark, end = chance.choice([",", ",", ";", "\t", "|"]), chance.choice(["\n", "\r\n"])
    header = chance.random() < 0.7
    note = f"{'polars' if by_polars else 'pandas'} {encoding} {mark!r} {end!r} header={header}"
    if by_polars:
        style = chance.choice(["necessary", "always", "non_numeric"])

        def write(path, columns):
            polars.DataFrame(columns).write_csv(
                path, separator=mark, line_terminator=end, quote_style=style, include_header=header,
                include_bom=encoding == "utf-8-sig",
            )  # fmt: skip
    else:
        quoting = chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])

        def write(path, columns):
            pandas.DataFrame(columns).to_csv(
                path, sep=mark, index=False, header=header, encoding=encoding, quoting=quoting, lineterminator=end
            )

    names = chance.choice([("text", "label"), ("Review", "Stars"), ("v2", "v1")])
    return rows, chance.choice(["a.csv", "a.csv", "a.tsv", "a.txt"]), _columns(chance, rows, names), write, note


def other(chance):
    """A workbook, a Parquet file or JSON lines; as `delimited`."""
    kind = chance.choice(["openpyxl", "xlsxwriter", "polars.xlsx", "parquet", "jsonl"])
    header = chance.random() < 0.7
    excel = "xlsx" in kind or kind == "openpyxl"
    # XML holds no control characters, Excel's writers have line ends of their own, and = makes a formula of a text.
    odd = [part for part in ODD + WIDE if not (excel and ("\r" in part or part in "\x0b\x0c\x1f=1+1"))]
    rows = table(chance, "utf-8", odd)

    def write(path, columns):
        if kind == "jsonl":
            polars.DataFrame(columns).write_ndjson(path)
        elif kind == "parquet":
            polars.DataFrame(columns).write_parquet(path)
        elif kind == "polars.xlsx":
            polars.DataFrame(columns).write_excel(path)
        else:
            pandas.DataFrame(columns).to_excel(path, index=False, header=header, engine=kind)

    return rows, f"a.{'xlsx' if excel else kind}", _columns(chance, rows, ("text", "label")), write, kind


def _columns(chance, rows, names):
    texts, labels = zip(*rows, strict=True)
    columns = dict(zip(names, (list(texts), list(labels)), strict=True))
    return dict(reversed(columns.items())) if chance.random() < 0.5 else columns


# === There and back ===


def read_back(path):
    """(text, label or reason) of all rows, as `init` and then ingestion read them."""
    task = config.load(write_config(path, path.parent / "proposed.yaml", force=True).path)
    rows = []
    for file in task_files.of_task(task.data, task.folder):
        formats.check(file, task.data)
        for row in formats.read(formats.settled(file, task.data), task.data):
            parsed = parse(row, task.data)
            rows.append((parsed.text, parsed.fault.reason if parsed.fault else parsed.labels[0]))
    return task.data, rows


@settings(max_examples=FILES or 60, derandomize=not FILES, deadline=None, phases=[Phase.generate])
@given(st.integers(0, 2**32))
def test_each_row_comes_back_or_the_file_is_refused_in_words(seed):
    chance = random.Random(seed)
    rows, name, columns, write, note = chance.choice([delimited, delimited, other])(chance)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path, columns)
        try:
            options, read = read_back(path)
        except UserError as error:
            assert name in str(error) and "not clear whether the first line names the columns" in str(error), note
            return
        assert len(read) == len(rows), (note, options)
        for (text, label), (back, found) in zip(rows, read, strict=True):
            assert (back, found) == (text, label), (note, options)
