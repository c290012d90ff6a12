import os

import factories
import pytest
from typer.testing import CliRunner

from bertline.errors import UserError
from bertline.pipeline import cli, review
from bertline.pipeline import config as configs

RUNS = ("2026-11-21T10:00:00", "2026-11-22T09:30:00")


@pytest.fixture
def config(tmp_path):
    return factories.write_task(tmp_path, factories.reviews(3))


@pytest.fixture
def reviewed(config):
    """A task with the pages of two runs."""
    for run_id in RUNS:
        page = review.page_file(configs.load(config), run_id)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("<!doctype html>")
    return config


def test_the_newest_page_is_found_and_that_of_a_run(reviewed):
    newest = CliRunner().invoke(cli.app, ["review", str(reviewed), "--no-open"])
    assert newest.stdout.strip().endswith("review/2026-11-22T093000.html")
    older = CliRunner().invoke(cli.app, ["review", str(reviewed), RUNS[0], "--no-open"])
    assert older.stdout.strip().endswith("review/2026-11-21T100000.html")
    again = CliRunner().invoke(cli.app, ["review", str(reviewed), older.stdout.strip(), "--no-open"])
    assert again.stdout == older.stdout


def test_the_newest_page_is_the_last_one_written_whatever_its_name(reviewed):
    page = review.page_file(configs.load(reviewed), "2026-11-22T08:00:00Z")  # after a local time of 09:30
    page.write_text("<!doctype html>")
    os.utime(page, (page.stat().st_atime, page.stat().st_mtime + 60))
    assert review.find(configs.load(reviewed), None) == page


def test_the_page_is_opened_from_disk(reviewed, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    assert CliRunner().invoke(cli.app, ["review", str(reviewed)]).exit_code == 0
    assert opened[0].startswith("file:///")
    assert opened[0].endswith("2026-11-22T093000.html")


def test_without_a_browser_the_way_out_is_named(reviewed, monkeypatch):
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    result = CliRunner().invoke(cli.app, ["review", str(reviewed)])
    assert isinstance(result.exception, UserError)
    assert "--no-open" in str(result.exception)


def test_a_missing_page_is_told(config, reviewed):
    with pytest.raises(UserError, match=r"run 2020 has no review page.*2026-11-22T093000"):
        review.find(configs.load(reviewed), "2020")


def test_no_page_at_all_is_told(config):
    with pytest.raises(UserError, match="no review pages yet"):
        review.find(configs.load(config), None)
