import datetime
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import windows_of
from windows_of import CLASSES, DAY

from bertline.errors import UserError
from bertline.monitoring import alarms, history, judge, looks, telling_apart
from bertline.monitoring.options import MonitorOptions
from bertline.monitoring.windows import Records
from bertline.pipeline.monitor import Outlets

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def reference():
    return windows_of.reference(np.random.default_rng(0))


@pytest.fixture(scope="module")
def traffic(tmp_path_factory):
    """Six days like the test rows, and a day in which a fifth of the texts are of another kind, mostly positive."""
    folder, chance = tmp_path_factory.mktemp("records"), np.random.default_rng(1)

    def add(rows, ages, shares, words, vectors):
        _, scores = windows_of.drawn(chance, rows, shares)
        texts = [f"{words} {'x' * (length - len(words) - 1)}" for length in chance.poisson(80, rows)]
        times = [NOW - age * DAY for age in ages]
        pieces = {"pieces": [20] * rows, "unknown": chance.binomial(20, 0.01, rows).tolist()}
        windows_of.write(folder, times[0], windows_of.records(times, scores, texts, vectors, **pieces))

    usual = (0.5, 0.3, 0.2)
    for day in range(1, 7):
        ages = day + np.linspace(0.01, 0.99, 800)
        add(800, ages, usual, "as usual", chance.normal(size=(800, 16)))
    add(800, np.linspace(0.01, 0.99, 800), usual, "as usual", chance.normal(size=(800, 16)))
    add(200, np.linspace(0.01, 0.99, 200), (0.0, 0.1, 0.9), "voucher", chance.normal(1.0, 1, size=(200, 16)))
    return folder


def judged(folder, reference, days_ago=0, **options):
    records = Records(folder, "reviews", CLASSES)
    end = NOW - days_ago * DAY
    window, *before = (records.window(end - DAY * (past + 1), end - DAY * past, 7) for past in range(6 - days_ago))
    return judge.judge(window, reference, before, MonitorOptions(**options), notes=records.reading.words(folder))


@pytest.fixture(scope="module")
def report(traffic, reference):
    """Of the day that is not as usual."""
    return judged(traffic, reference)


def test_an_alarm_says_what_moved_by_how_much_and_which_texts_show_it(report):
    raised = {each.look.key: each for each in report.alarms}
    assert {"labels against the test rows", "labels against the windows before"} <= set(raised)
    labels = raised["labels against the windows before"]
    assert re.fullmatch(r"positive (19|2\d)\.\d% -> 3\d\.\d%", labels.look.words)
    assert len(labels.texts) == 10 and {text["label"] for text in labels.texts} == {"positive"}
    texts = raised["texts against the windows before"]
    assert "voucher" in texts.telling_words
    assert sum("voucher" in text["text"] for text in texts.texts) >= 9
    told = alarms.words(report, texts)
    assert (
        "a classifier tells them apart with AUC 0." in told
        and f"since the window that began {NOW - DAY:%Y-%m-%d}" in told
    )
    assert told.count("voucher") >= 10 and texts.way_out in told
    assert "length against the windows before" not in raised  # nothing happened to it
    json.dumps(report.as_dict())


def test_a_large_window_says_that_its_texts_are_a_sample(traffic, reference, monkeypatch):
    monkeypatch.setattr("bertline.monitoring.telling_apart.MOST_ROWS", 400)
    texts = [each.look.words for each in judged(traffic, reference).judged if each.look.name == "texts"]
    assert texts and all(words.endswith("), by an even sample of 400 of 1,000") for words in texts)


def test_the_days_before_are_as_usual(traffic, reference):
    report = judged(traffic, reference, days_ago=1)
    assert [each.look.key for each in report.alarms] == []
    assert report.before == 4 and len(report.judged) >= 10
    assert report.milliseconds == {"p50": 10.0, "p99": 10.0, "p99_before": 10.0}


def test_small_windows_say_that_they_are_small(traffic, reference):
    report = judged(traffic, reference, minimum_requests=5000)
    assert report.small.startswith("1,000 answers are too few to judge by: monitor.minimum_requests is 5,000")
    assert report.judged == [] == report.alarms


def test_a_difference_that_is_sure_and_small_is_no_alarm(traffic, reference):
    report = judged(traffic, reference, smallest_shift=0.9)
    labels = next(each for each in report.judged if each.look.name == "labels")
    assert labels.adjusted < report.level and not labels.alarm


def test_fewer_false_alarms_a_month_and_more_looks_make_a_stricter_level():
    daily = judge.level(MonitorOptions())
    assert daily == pytest.approx(1 / 30)
    assert judge.level(MonitorOptions(), datetime.timedelta(hours=1)) == pytest.approx(1 / 720)
    assert judge.level(MonitorOptions(false_alarms=0.5)) == pytest.approx(daily / 2)
    assert judge.level(MonitorOptions(window="30d")) == judge.HIGHEST_LEVEL


def test_an_alarm_that_stays_keeps_its_beginning(report, tmp_path):
    history.add(tmp_path, report)
    with (tmp_path / history.FILE).open("ab") as file:
        file.write(b'\n{"cut by a crash within a letter: \xe2\x80')
    known = history.open_since(history.read(tmp_path), 7)
    assert known == {each.look.key: report.start for each in report.alarms}
    assert history.open_since(history.read(tmp_path), 8) == {}
    assert history.untold(history.read(tmp_path), 7) == set()
    history.add(tmp_path, report, {report.alarms[0].look.key})
    assert history.untold(history.read(tmp_path), 7) == {report.alarms[0].look.key}
    assert b"voucher" not in (tmp_path / history.FILE).read_bytes()  # texts stay where they are bounded in age


def test_failures_alarm_where_there_were_none():
    chance = np.random.default_rng(2)
    before = [windows_of.window(chance, 500)[0] for _ in range(4)]
    now, _ = windows_of.window(chance, 500, statuses={"UNAVAILABLE": 30})
    (look,) = looks.of_errors(now, before)
    assert look.p_value < 1e-6 and look.words == "0.00% -> 5.66% of the requests fail (UNAVAILABLE 30)"
    (other_way,) = looks.of_errors(before[0], [now])
    assert other_way.p_value == 1.0


def slower(window, factor):
    return replace(window, milliseconds=window.milliseconds * np.float32(factor))


def test_answers_that_take_longer_alarm_and_faster_ones_do_not():
    chance = np.random.default_rng(5)
    before = [windows_of.window(chance, 500)[0] for _ in range(4)]
    now = windows_of.window(chance, 500)[0]
    (look,) = looks.of_latency(slower(now, 2), before, 0.5)
    assert look.p_value < 1e-3 and look.distance > look.least
    assert re.fullmatch(r"p95 (\d+) -> \d+ ms; 5\.0% -> [34]\d\.\d% of the answers take longer than \1 ms", look.words)
    assert now.milliseconds[look.rows()[0]] == now.milliseconds.max()
    (little,) = looks.of_latency(slower(now, 1.3), before, 0.5)
    assert little.distance < little.least
    (faster,) = looks.of_latency(slower(now, 0.5), before, 0.5)
    assert faster.p_value == 1.0 and faster.distance == 0.0
    assert list(looks.of_latency(slower(now, 2), before[:1], 0.5)) == [], "nobody knows how much windows differ"
    assert list(looks.of_latency(replace(now, milliseconds=now.milliseconds * np.nan), before, 0.5)) == []


def test_latency_that_differs_from_window_to_window_anyway_is_no_news():
    chance = np.random.default_rng(6)
    values = []
    for _ in range(200):
        *before, now = (slower(windows_of.window(chance, 300)[0], factor) for factor in chance.lognormal(0, 0.2, 8))
        (look,) = looks.of_latency(now, before, 0.5)
        values.append(look.p_value)
    # Without the windows' own differences, half of them would be.
    assert np.mean(np.array(values) < 0.05) < 0.1


def test_measured_accuracy_is_judged_once_labels_are_there(reference):
    now, right = windows_of.window(np.random.default_rng(3), 500)
    wrong = right & (np.arange(500) % 5 > 0)  # a fifth fewer are right: the texts mean something else now
    estimated, measured = looks.of_accuracy(now, reference, 0.03, wrong)
    assert estimated[0].p_value > 0.01  # what no estimate without labels can see
    assert measured[0].p_value < 1e-4 and measured[0].distance > 0.1
    (alone,) = looks.of_accuracy(now, reference, 0.03, wrong[:20])  # too few to say
    assert alone[0].name == looks.ESTIMATED


def test_telling_apart_finds_nothing_where_there_is_nothing():
    chance = np.random.default_rng(4)
    told = [telling_apart.tell_apart(*chance.normal(size=(2, 300, 20)), seed=seed) for seed in range(20)]
    assert np.mean([each.area for each in told]) == pytest.approx(0.5, abs=0.02)
    assert sum(each.p_value < 0.05 for each in told) <= 4
    moved = telling_apart.tell_apart(chance.normal(0.3, 1, (300, 20)), chance.normal(size=(300, 20)))
    assert moved.p_value < 1e-6 and moved.interval[0] > 0.6


# === On their way ===


def test_prometheus_reads_what_the_window_came_to(report, tmp_path):
    gauges = alarms.Gauges()
    gauges.take(report)
    gauges.write(tmp_path / "monitor.prom")
    text = (tmp_path / "monitor.prom").read_text()
    assert 'bertline_monitor_alarm{against="the windows before",look="texts",model="reviews"} 1.0' in text
    assert 'bertline_monitor_alarm{against="the windows before",look="length",model="reviews"} 0.0' in text
    assert f'bertline_monitor_answers{{model="reviews"}} {report.answered}.0' in text
    gauges.take(replace(report, small="too few", judged=[]))
    gauges.write(tmp_path / "monitor.prom")
    assert 'look="texts",model="reviews"} 1.0' in (tmp_path / "monitor.prom").read_text()  # no alarm is cleared by that


def test_people_are_told_of_each_new_alarm_once(report, webhook, monkeypatch, tmp_path):
    address, got = webhook
    monkeypatch.setenv("HOOK", "token")
    outlets = Outlets(messages=alarms.Messages([f"json://{address}/${{HOOK}}"]))
    known = {each.look.key for each in report.alarms if each.look.name != looks.TEXTS}
    assert outlets.take(report, known) == ""
    assert got.qsize() == len([each for each in report.alarms if each.look.name == looks.TEXTS]) == 2
    for told in (got.get(), got.get()):
        assert told["title"].startswith("bertline: reviews: texts against the ")
        assert "Words that tell the texts apart: " in told["message"] and "Label some" in told["message"]
        assert told["message"].count("voucher") >= 10
    assert outlets.take(report, {each.look.key for each in report.alarms}) == "" and got.empty()
    outlets.file = tmp_path / "not" / "there.prom"
    with pytest.raises(UserError, match=r"there\.prom cannot be written"):
        outlets.take(report, known)
    assert got.qsize() == 2  # people are told before a disk can be in the way


def test_an_address_that_nobody_knows_or_that_does_not_answer_is_said(report):
    with pytest.raises(UserError, match=r"monitor\.notify: pigeon://\.\.\.: apprise does not know such an address"):
        alarms.Messages(["pigeon://loft/secret"])
    with pytest.raises(UserError, match="the environment has no variable NOT_SET_HERE"):
        alarms.Messages(["json://127.0.0.1/${NOT_SET_HERE}"])
    said = alarms.Messages(["json://127.0.0.1:9/secret"]).send(report, report.alarms[:1])
    assert said == "not everybody of monitor.notify could be told (json://...); the log says why"
