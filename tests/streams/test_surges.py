"""Surges in streams of some weeks: what is one, since when, and which texts show it."""

import datetime
import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import readers
from readers import hour, read_all, table

from bertline.pipeline.screen import Screen
from bertline.pipeline.stream import follow
from bertline.streams import page, surges
from bertline.streams.baselines import Baseline, Clock
from bertline.streams.options import StreamOptions
from bertline.streams.surges import Watch

DAYS = 17
SURGE = (DAYS - 1) * 24 + 9  # at 09:00 of the last day
NAMES = {"Acme": [], "Globex": []}


def write(folder, surge=True):
    """Acme by day more than by night, a third of it dull; Globex seldom; at the end much of Acme, most of it dull."""
    chance = np.random.default_rng(5)
    with (folder / "posts.jsonl").open("w") as file:
        for number in range(DAYS * 24):
            usual = 6 if 6 <= number % 24 < 20 else 2
            texts = int(chance.poisson(usual))
            dull = chance.random(texts) < 1 / 3
            if surge and SURGE <= number < SURGE + 2:
                dull = np.append(dull, np.ones(25, bool))
            for each in dull:
                row = {"text": f"{'dull' if each else 'fine'} Acme at {number}", "time": hour(number)}
                file.write(json.dumps(row) + "\n")
            if number % 9 == 0:
                file.write(json.dumps({"text": "fine Globex", "time": hour(number)}) + "\n")


def watch(engine, **surge):
    return Watch(StreamOptions(surge=surge), engine.store, engine.names, engine.models)


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    """An engine that has read the surge, and the look at it."""
    folder = tmp_path_factory.mktemp("surge")
    write(folder)
    engine = readers.engine(folder, NAMES, batch=1000)
    watching = watch(engine)
    read_all(engine)
    yield engine, watching.look()
    engine.close()


def test_a_surge_is_found_in_its_windows_and_in_no_other(looked):
    _, look = looked
    assert look.judged == 46  # from the 16th day on, but for the last hours, which may not have ended
    assert look.series == 2 + 2 + 3  # entities, labels, negative shares of all and of each entity
    start = datetime.datetime.fromisoformat(hour(SURGE))
    kinds = {(row["kind"], row["entity"], row["label"]) for row in look.surges}
    assert kinds >= {("count", "Acme", ""), ("count", "", "negative"), ("share", "Acme", "negative")}
    assert ("count", "Globex", "") not in kinds and ("count", "", "positive") not in kinds
    assert {row["start"] for row in look.surges} <= {start, start + datetime.timedelta(hours=1)}
    acme = [row for row in look.surges if (row["kind"], row["entity"]) == ("count", "Acme")]
    assert [(row["start"], row["since"], row["told"]) for row in acme] == [
        (start, start, False),
        (start + datetime.timedelta(hours=1), start, True),
    ]
    assert acme[0]["texts"] >= 25 and 4 < acme[0]["expected"] < 9 and acme[0]["expected"] < acme[0]["upper"] < 25


def test_the_texts_behind_it(looked):
    engine, look = looked
    [row, *_] = [row for row in look.surges if (row["kind"], row["entity"]) == ("share", "Acme")]
    texts = engine.store.texts_by_id(row["ids"])
    place = SURGE + row["start"].hour - 9
    assert {text["text"] for text in texts} == {f"dull Acme at {place}"} and len(texts) == surges.SHOWN_TEXTS
    words = surges.message(row, datetime.timedelta(hours=1), texts)
    when = f"{row['start']:%Y-%m-%d %H:%M}"
    assert words.startswith(f"Acme: share of negative (mood): {row['texts']} of {row['of']} texts from {when} to")
    assert f"\n- negative 0.75: dull Acme at {place}" in words
    assert f"Since {row['since']:%Y-%m-%d %H:%M} UTC. By chance: " in words


def test_the_page_has_entities_timelines_surges_and_texts(looked):
    engine, look = looked
    text = page.render(
        engine.store, "news <b>", engine.names, engine.models, datetime.timedelta(hours=1), "2026-11-18 00:00 UTC"
    )
    assert "news &lt;b&gt;" in text and not re.search(r"""(src|href)="(?!#)|url\(|<script""", text)
    assert all(surges.words(row, datetime.timedelta(hours=1)) in text for row in look.surges)
    assert text.count("<svg") == 3 and text.index(">All texts</h3>") < text.index(">Acme</h3>")
    assert f"<br>dull Acme at {SURGE}</li>" in text
    named = re.findall(r'<th scope="row">(.*?)</th><td class="n">(.*?)</td>', text)
    assert [name for name, _ in named] == ["all texts", "Acme", "Globex"]


def test_a_window_is_judged_once_over_restarts(looked, tmp_path):
    engine, look = looked
    again = watch(engine).look()
    assert (again.judged, again.surges) == (0, [])
    assert len(table(engine, "SURGES")) == len(look.surges)


def test_what_is_new_in_the_list_is_no_surge(tmp_path):
    write(tmp_path, surge=False)
    engine = readers.engine(tmp_path, {"Globex": []}, batch=1000)
    watch(engine)
    read_all(engine)
    engine.close()
    last = DAYS * 24
    with (tmp_path / "posts.jsonl").open("a") as file:
        for number in range(last, last + 3):
            file.writelines(json.dumps({"text": "fine Acme", "time": hour(number)}) + "\n" for _ in range(6))
    engine = readers.engine(tmp_path, NAMES, batch=1000)
    watching = watch(engine)
    read_all(engine)
    look = watching.look()
    assert look.judged > 46 and look.series == 7 - 2  # Acme and its share have no past yet
    assert [row for row in look.surges if row["entity"] == "Acme"] == []
    engine.close()


def test_what_left_the_list_and_came_back_is_new(tmp_path):
    write(tmp_path, surge=False)
    engine = readers.engine(tmp_path, NAMES, batch=1000)
    watch(engine)
    read_all(engine)
    assert watch(engine)._since == dict.fromkeys(["entity:Acme", "entity:Globex", "model:mood"])
    for names in ({"Globex": []}, NAMES):
        engine.close()
        engine = readers.engine(tmp_path, names, batch=1000)
        since = watch(engine)._since
    assert since == {"entity:Acme": engine.store.newest(), "entity:Globex": None, "model:mood": None}
    engine.close()


def test_a_short_past_says_so(tmp_path):
    with (tmp_path / "posts.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": "fine Acme", "time": hour(n)}) + "\n" for n in range(50))
    engine = readers.engine(tmp_path, NAMES, batch=1000)
    read_all(engine)
    look = watch(engine).look()
    assert (look.judged, look.small) == (0, "the texts go back 2.0 days; alarms begin once they go back 15")
    engine.close()


def hours(days):
    return [datetime.datetime(2026, 11, 2, tzinfo=datetime.UTC) + datetime.timedelta(hours=n) for n in range(days * 24)]


def test_hours_and_weekdays_decide_what_is_likely():
    clock = Clock(hours(57), datetime.UTC)
    means = np.where(clock.hours < 8, 2, 20) * np.where(clock.weekdays >= 5, 0.2, 1.0)
    counts = np.random.default_rng(0).poisson(means)
    baseline = Baseline(counts[: 56 * 24], clock.at(slice(0, 56 * 24)))
    monday = {hour: baseline.expected(clock.at(slice(56 * 24 + hour, 56 * 24 + hour + 1))) for hour in (3, 15)}
    assert monday[3].mean == pytest.approx(2, rel=0.2) and monday[15].mean == pytest.approx(20, rel=0.1)
    assert monday[3].chance(12) < 1e-4 and monday[15].chance(25) > 0.05
    assert 0.9 < monday[15].dispersion < 1.2


def test_a_past_surge_does_not_hide_a_new_one():
    clock = Clock(hours(57), datetime.UTC)
    counts = np.random.default_rng(0).poisson(10.0, 57 * 24)
    now = clock.at(slice(56 * 24, 56 * 24 + 1))
    quiet = Baseline(counts[: 56 * 24], clock.at(slice(0, 56 * 24))).expected(now)
    counts[20 * 24 : 20 * 24 + 12] = 100
    loud = Baseline(counts[: 56 * 24], clock.at(slice(0, 56 * 24))).expected(now)
    assert loud.mean == pytest.approx(quiet.mean, rel=0.05) and loud.upper(1e-4) < 1.3 * quiet.upper(1e-4)


def test_what_nobody_wrote_of_has_an_expectation_too():
    clock = Clock(hours(15), datetime.UTC)
    expected = Baseline(np.zeros(14 * 24), clock.at(slice(0, 14 * 24))).expected(clock.at(slice(0, 1)))
    assert 0 < expected.mean < 0.01 and expected.chance(5) < 1e-6


def test_a_series_that_is_always_the_same_has_an_expectation_too():
    clock = Clock(hours(15), datetime.UTC)
    expected = Baseline(np.full(14 * 24, 2.0), clock.at(slice(0, 14 * 24))).expected(clock.at(slice(0, 1)))
    assert expected.mean == pytest.approx(2) and expected.dispersion == 1


def test_a_source_that_is_never_at_rest_is_judged_too(tmp_path):
    """More comes between any two steps; the backlog before it is read first."""
    (tmp_path / "posts.jsonl").write_text("".join(f'{{"text": "fine {n}"}}\n' for n in range(25)))
    options = SimpleNamespace(every=datetime.timedelta(0), keep=None)
    engine, looks, steps = readers.engine(tmp_path, batch=10, time=None), [], []
    step = engine.step

    def busy():
        tally = step()
        steps.append(tally.read)
        if len(steps) < 12:
            with (tmp_path / "posts.jsonl").open("a") as file:
                file.write('{"text": "fine"}\n')
        return tally

    engine.step = busy
    watched = SimpleNamespace(look=lambda shown: looks.append(len(steps)))
    all_ = follow(engine, watched, SimpleNamespace(stream=options), Screen(io.StringIO()), once=True)
    engine.close()
    assert steps[:3] == [10, 10, 7] and set(steps[3:-1]) == {1} and all_.stored == 25 + 11
    assert looks[:2] == [3, 4] and len(looks) >= 9  # as soon as the backlog is read
