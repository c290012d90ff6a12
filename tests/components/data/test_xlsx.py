"""Excel workbooks as Excel, pandas and polars write them: `init` and `run` read the same rows."""

import datetime
import zipfile

import openpyxl
import pandas
import polars
import pytest
import xlsxwriter

from bertline.components.data import formats, task_files
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.pipeline import config
from bertline.pipeline.init import write_config

OPTIONS = DataOptions(source=["."])
TEXTS = [f"some words {n} é" for n in range(40)]
LABELS = [("pos", "neg")[n % 2] for n in range(40)]
EXPECTED = list(zip(TEXTS, LABELS, strict=True))


def workbook(path, **sheets):
    """A workbook of rows by sheet, as openpyxl writes it; it computes no formula."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def settled(path, options=OPTIONS):
    [file] = task_files.expand([path.name], str(path.parent))
    formats.check(file, options)
    return formats.settled(file, options)


def values(path, options=OPTIONS):
    rows = list(formats.read(settled(path, options), options))
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    return [row.fault.detail if row.fault else row.values for row in rows]


def by_init(path, **named):
    written = write_config(path, path.parent / "a.yaml", force=True, **named)
    loaded = config.load(written.path)
    return written, loaded.data, values(path, loaded.data)


def refusal(path, options=OPTIONS):
    with pytest.raises(UserError) as stop:
        values(path, options)
    return str(stop.value)


def test_what_pandas_and_polars_write(tmp_path):
    frame = pandas.DataFrame({"text": TEXTS, "label": LABELS})
    frame.to_excel(tmp_path / "pandas.xlsx")  # with its index, in a column without a name
    frame.to_excel(tmp_path / "by_xlsxwriter.xlsx", index=False, engine="xlsxwriter")
    polars.DataFrame({"text": TEXTS, "label": LABELS}).write_excel(tmp_path / "polars.xlsx")
    for name in ("pandas.xlsx", "by_xlsxwriter.xlsx", "polars.xlsx"):
        _, options, rows = by_init(tmp_path / name)
        assert (options.text, options.label, options.sheet) == ("text", "label", None)
        assert rows == EXPECTED


def test_cells_become_the_texts_of_their_values(tmp_path):
    cells = [1, 1.0, 4.5, True, False, "007", datetime.date(2026, 1, 31), datetime.datetime(2026, 1, 31, 8, 30), None]
    workbook(tmp_path / "a.xlsx", A=[("text", "label"), *(("words", cell) for cell in cells)])
    texts = ["1", "1", "4.5", "true", "false", "007", "2026-01-31", "2026-01-31 08:30:00", None]
    assert [label for _, label in values(tmp_path / "a.xlsx")] == texts


def test_no_letter_is_lost(tmp_path):
    texts = ["two\r\nlines", "\ttab ", " spaces ", "<b>&amp;", "bell \x07", "😀 很好", "=1+1 said", "_x0041_"]
    book = xlsxwriter.Workbook(tmp_path / "a.xlsx", {"strings_to_formulas": False})
    sheet = book.add_worksheet()
    for number, row in enumerate([("text", "label"), *((text, "a") for text in texts)]):
        sheet.write_row(number, 0, row)
    book.close()
    assert [text for text, _ in values(tmp_path / "a.xlsx")] == texts


def test_empty_rows_are_none_and_the_first_other_one_names_the_columns(tmp_path):
    rows = [(1, "a", "x"), (), (2, "b"), (None, None, None, "far"), (3, "c", "y")]
    workbook(tmp_path / "a.xlsx", A=[(), (None, None), ("id", " text ", "label"), *rows])
    assert values(tmp_path / "a.xlsx") == [("a", "x"), ("b", None), (None, None), ("c", "y")]


def test_formulas_and_errors(tmp_path):
    book = xlsxwriter.Workbook(tmp_path / "a.xlsx")
    sheet = book.add_worksheet()
    sheet.write_row("A1", ("text", "label", "other"))
    sheet.write_row("A2", ("a",))
    sheet.write_formula("B2", '="p"&"os"', None, "pos")
    sheet.write_row("A4", ("b",))
    sheet.write_formula("B4", "=1/0", None, "#DIV/0!")
    sheet.write_row("A5", ("c", "neg"))
    sheet.write_formula("C5", "=1/0", None, "#DIV/0!")
    book.close()
    wrong = "the error #DIV/0! (column 'label', row 4 of the sheet)"
    assert values(tmp_path / "a.xlsx") == [("a", "pos"), wrong, ("c", "neg")]
    workbook(tmp_path / "b.xlsx", A=[("text", "label"), ("a", '="pos"'), ('="b"', None), ("c", "x")])
    first, second, third = values(tmp_path / "b.xlsx")
    assert first.startswith("a formula without a result (column 'label', row 2 of the sheet): open the workbook in ")
    assert second.startswith("a formula without a result (column 'text', row 3")
    assert third == ("c", "x")


def test_the_first_sheet_is_read_unless_another_one_is_named(tmp_path):
    rows = [("text", "label"), *EXPECTED]
    other = [("text", "label"), *((f"other {text}", label) for text, label in EXPECTED)]
    workbook(tmp_path / "a.xlsx", Data=rows, More=other, Empty=[])
    written, options, read_back = by_init(tmp_path / "a.xlsx")
    assert (options.sheet, read_back) == ("Data", EXPECTED)
    assert any("the sheet 'Data' is read, not 'More' (see data.sheet)" in warning for warning in written.warnings)
    assert values(tmp_path / "a.xlsx", DataOptions(source=["."], sheet="More")) == other[1:]
    message = refusal(tmp_path / "a.xlsx", DataOptions(source=["."], sheet="Moor"))
    assert "no sheet 'Moor' (data.sheet). The workbook has 'Data', 'More', 'Empty'" in message
    workbook(tmp_path / "b.xlsx", Cover=[], Data=rows)
    assert "the sheet 'Cover' is empty. These hold something: 'Data'; set data.sheet" in refusal(tmp_path / "b.xlsx")


def test_a_workbook_is_known_whatever_its_name(tmp_path):
    workbook(tmp_path / "a.xlsx", A=[("text", "label"), *EXPECTED]).rename(tmp_path / "a.csv")
    written, _, rows = by_init(tmp_path / "a.csv")
    assert rows == EXPECTED
    assert any("read as an Excel workbook, which it is" in warning for warning in written.warnings)


def test_what_is_no_workbook_is_refused_in_words(tmp_path):
    path = tmp_path / "a.xlsx"
    path.write_text("text,label\na,b\n")
    assert "a.xlsx: not .xlsx but text. Set data.format to what it is, such as csv" in refusal(path)
    path.write_bytes(bytes(100))
    assert "not an Excel workbook (.xlsx), damaged or cut short" in refusal(path)
    path.write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    assert "an old Excel workbook, or one with a password" in refusal(path)
    workbook(path, A=[("text", "label"), *EXPECTED])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "damaged or cut short" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
    assert "a LibreOffice spreadsheet: save it as .xlsx, or as CSV UTF-8" in refusal(path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.xlsx", content)
    assert "a workbook is not read packed; unpack the file" in refusal(tmp_path / "a.zip")


def test_a_column_twice_and_a_missing_one(tmp_path):
    workbook(tmp_path / "a.xlsx", A=[("text", "label", "text"), ("a", "b", "c")])
    assert "the column 'text' (data.text) appears 2 times" in refusal(tmp_path / "a.xlsx")
    workbook(tmp_path / "a.xlsx", A=[("Text", "label"), ("a", "b")])
    message = refusal(tmp_path / "a.xlsx")
    assert "no column 'text' (data.text). Columns found: 'Text', 'label'. Did you mean 'Text'?" in message
