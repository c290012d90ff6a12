import datetime
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import windows_of
from windows_of import CLASSES, DAY

from bertline.monitoring.windows import Records
from bertline.serving import record_files

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def written(folder, **columns):
    """A part of three records: an hour, a day and a week old."""
    scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]], np.float32)
    times = [NOW - age for age in (DAY / 24, DAY, 7 * DAY)]
    made = windows_of.records(times, scores, ["one", "two!", "three"], np.arange(6).reshape(3, 2), **columns)
    return record_files.Parts(folder, 30, 10**9).write(made)


def test_a_window_has_the_records_between_two_moments(tmp_path):
    written(tmp_path)
    window = Records(tmp_path, "reviews", CLASSES).window(NOW - DAY, NOW, 7)
    assert (window.rows, window.failed) == (2, 0)  # the moment at its start is in it
    assert [CLASSES[label] for label in window.labels] == ["negative", "positive"]
    np.testing.assert_allclose(window.confidence, [0.7, 0.6])
    assert window.characters.tolist() == [3, 4]
    assert np.isnan(window.unknown).all() and np.isnan(window.abstained).all()
    table = window.read(np.array([1, 0]), ("text", "embedding"))
    assert table["text"].to_pylist() == ["two!", "one"]
    assert table["embedding"].to_pylist() == [[2.0, 3.0], [0.0, 1.0]]
    rows, ids = window.find(["r1", "r2", "unheard of"])
    assert (rows.tolist(), ids) == ([1], ["r1"])


def test_of_a_part_that_lies_in_another_window_only_the_footer_is_read(tmp_path, monkeypatch):
    scores = np.array([[0.7, 0.2, 0.1]] * 2, np.float32)
    for hours in (1, 2, 5, 8):
        ages = [datetime.timedelta(hours=hours, minutes=minutes) for minutes in (0, 30)]
        windows_of.write(tmp_path, NOW, windows_of.records([NOW - age for age in ages], scores))
    read = []

    class Watched(pq.ParquetFile):
        def read(self, *arguments, **options):
            table = super().read(*arguments, **options)
            read.append(len(table))
            return table

    monkeypatch.setattr(pq, "ParquetFile", Watched)
    records, hour = Records(tmp_path, "reviews", CLASSES), datetime.timedelta(hours=1)
    rows = [records.window(NOW - (past + 1) * hour, NOW - past * hour, 7).rows for past in range(9)]
    assert rows == [1, 2, 1, 0, 1, 1, 0, 1, 1]  # a moment at a window's start is in it
    assert len(read) == sum(map(bool, rows)) + 1, "the part in two windows is read for each"


def test_other_models_versions_and_failures_are_counted_apart(tmp_path):
    written(tmp_path, version=[7, 8, 7])
    written(tmp_path, model=["reviews", "other", "other"], status=["UNAVAILABLE", "OK", "OK"], classes=[None] * 3)
    window = Records(tmp_path, "reviews", CLASSES).window(NOW - DAY, NOW, 7)
    assert (window.rows, window.failed) == (1, 1)
    assert window.versions == {7: 1, 8: 1}
    assert window.statuses == {"OK": 2, "UNAVAILABLE": 1}


def test_unknown_wordpieces_abstained_and_columns(tmp_path):
    kept = [[("shop", "north")], [("shop", "south")], [("shop", "north")]]
    written(tmp_path, pieces=[10, 20, 10], unknown=[1, 0, 5], abstained=[True, False, None], columns=kept)
    window = Records(tmp_path, "reviews", CLASSES).window(NOW - 8 * DAY, NOW, 7)
    np.testing.assert_allclose(window.unknown, [0.1, 0, 0.5])
    np.testing.assert_array_equal(window.abstained, [1, 0, np.nan])
    assert window.columns == {"shop": {"north": 2, "south": 1}}


def test_a_multi_label_models_answers_are_sets(tmp_path):
    written(tmp_path, label=[None] * 3, labels=[["negative", "positive"], [], ["neutral"]])
    window = Records(tmp_path, "reviews", CLASSES).window(NOW - 8 * DAY, NOW, 7)
    assert window.labels.tolist() == [[True, False, True], [False, False, False], [False, True, False]]
    np.testing.assert_allclose(window.confidence, [0.7 * 0.8 * 0.1, 0.9 * 0.7 * 0.4, 0.8 * 0.5 * 0.7], rtol=1e-5)


def test_a_truncated_file_is_named_and_left_out_and_stays_where_it_is(tmp_path):
    whole, broken = written(tmp_path), written(tmp_path)
    broken.write_bytes(broken.read_bytes()[:-10])
    records = Records(tmp_path, "reviews", CLASSES)
    assert records.window(NOW - DAY, NOW, 7).rows == 2
    (words,) = records.reading.words(tmp_path)
    assert words.startswith(f"{broken.relative_to(tmp_path)} cannot be read and is left out: Parquet magic bytes")
    assert broken.exists() and whole.exists()


def test_records_of_days_to_come_are_named_and_count_once_they_have_come(tmp_path):
    part = written(tmp_path)
    later = tmp_path / f"date={(NOW + 40 * DAY).date()}"
    shutil.move(part.parent, later)
    records = Records(tmp_path, "reviews", CLASSES)
    assert records.window(NOW - DAY, NOW, 7).rows == 0
    (words,) = records.reading.words(tmp_path)
    assert words == (
        f"1 files are of days to come, {later.name} the first: the server's clock was ahead. They count once their "
        "time has come."
    )
    assert list(later.iterdir())


@pytest.mark.parametrize("folder", ["nothing", "empty"])
def test_no_records_make_an_empty_window(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    window = Records(tmp_path / folder, "reviews", CLASSES).window(NOW - DAY, NOW, 7)
    assert (window.rows, window.failed, len(window.labels)) == (0, 0, 0)
