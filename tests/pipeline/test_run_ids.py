import time

import pytest

from bertline.pipeline import run_ids


def test_ids_are_in_order_where_the_clock_is_set_back(monkeypatch):
    started = []
    for zone in ("UTC-2", "UTC-1", "UTC+5"):  # summer time, winter time, a machine elsewhere
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        started.append(run_ids.new())
    monkeypatch.undo()
    time.tzset()
    assert sorted(started) == started
    assert all(run_id.endswith("Z") for run_id in started)


def test_a_files_name_has_no_colon_and_sorts_as_the_id_does():
    assert run_ids.file_stem("2026-11-22T06:10:00Z") == "2026-11-22T061000Z"


@pytest.mark.parametrize("run_id", ["2026-11-22T06:10:00Z", "2025-11-22T06:10:00", "nightly"])
def test_a_run_is_meant_by_each_of_its_names(run_id):
    stem = run_ids.file_stem(run_id)
    for spelling in (run_id, stem, f"{stem}.log", f"runs/a/review/{stem}.html", f"/runs/a/review/{stem}.tfma.html"):
        assert run_ids.of_spelling(spelling) == run_id
