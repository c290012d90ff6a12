import re

import pytest

from bertline.components import spans
from bertline.components.data import task_files
from bertline.components.options import DataOptions
from bertline.errors import UserError


def folders(tmp_path, *names):
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "rows.csv").write_text("text,label\na,x\n")


def names(tmp_path, pattern, newest=None):
    return [file.name for file in task_files.expand([pattern], str(tmp_path), newest_spans=newest)]


def test_a_window_of_the_newest_spans_by_number_not_by_name(tmp_path):
    folders(tmp_path, "data-9", "data-10", "data-011", "data-old", "other-12")
    assert spans.window(["data-{SPAN}"], str(tmp_path), None) == [9, 10, 11]
    assert names(tmp_path, "data-{SPAN}", 2) == ["data-10/rows.csv", "data-011/rows.csv"]
    assert names(tmp_path, "data-{SPAN}/*.csv", 1) == ["data-011/rows.csv"]


def test_a_span_in_the_name_of_a_file_or_of_a_folder_further_up(tmp_path):
    folders(tmp_path, "20261121/day", "20261122/day")
    (tmp_path / "a-3.csv.gz").write_bytes(b"")
    assert names(tmp_path, "{SPAN}/day/rows.csv", 1) == ["20261122/day/rows.csv"]
    assert names(tmp_path, "a-{SPAN}.csv.gz") == ["a-3.csv.gz"]


def test_sources_without_a_span_are_taken_beside_those_with_one(tmp_path):
    folders(tmp_path, "data-1", "data-2", "base")
    files = task_files.expand(["base", "data-{SPAN}"], str(tmp_path), newest_spans=1)
    assert [file.name for file in files] == ["base/rows.csv", "data-2/rows.csv"]


def test_no_span_and_two_names_of_one_span_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"'data-\{SPAN\}': no span is there yet \(looked in .* for data-1, with any"):
        names(tmp_path, "data-{SPAN}")
    folders(tmp_path, "data-7", "data-07")
    with pytest.raises(UserError, match="data-07 and data-7 are both span 7"):
        names(tmp_path, "data-{SPAN}")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"source": ["a.csv"], "newest_spans": 2}, "newest_spans needs a source with {SPAN} in it"),
        ({"source": ["{SPAN}/{SPAN}.csv"]}, "has {SPAN} more than once"),
        ({"source": ["*-{SPAN}.csv"]}, "wildcards may stand after the name that has {SPAN}"),
    ],
)
def test_what_cannot_be_matched_is_refused_with_the_config(options, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        DataOptions(**options)
