import csv

import pytest

from bertline.components import spreadsheet

HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", "\r=1", "\n=1", "'tis", "''", "＝1+1", "=cmd|' /C calc'!A0"]
HARMLESS = ["", "good", "1 = 1", "a\nb", 'say "no", or', "好 😀", "a'b"]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_could_run_is_marked_as_text(text):
    assert spreadsheet.guarded(text) == "'" + text


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_stay_as_they_are(text):
    assert spreadsheet.guarded(text) == text


def test_what_was_written_is_read_back(tmp_path):
    path = str(tmp_path / "rows.csv")
    texts = [*HOSTILE, *HARMLESS]
    spreadsheet.write(path, ("score", "text"), [(-0.5, text) for text in texts])
    assert [row["text"] for row in spreadsheet.read(path)] == texts
    with open(path, encoding="utf-8", newline="") as file:
        raw = list(csv.reader(file))
    assert raw[0] == ["score", "text"]
    assert raw[1] == ["-0.5", "'=1+1"]  # a number is a number
