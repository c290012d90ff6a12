import base64
import datetime
import re
import stat
import urllib.error
import urllib.request

import factories
import pytest

from bertline.errors import UserError
from bertline.monitoring import page
from bertline.monitoring.judge import Judged, Report
from bertline.monitoring.live import Live
from bertline.monitoring.looks import Look
from bertline.serving.access import Access
from bertline.serving.keys import ADMIN, add_key

START, DAY = datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC), datetime.timedelta(days=1)
TEXTS = [{"id": "r1", "text": "<b>no</b> refund", "label": "negative", "probability": 0.93}]


def report(day, alarm, version=7, small=""):
    look = Look("labels", "the windows before", "negative 31.0% -> 44.2%", 0.13, 0.05, 1e-5)
    judged = Judged(look, 3e-5, alarm, START, TEXTS if alarm else [], ["voucher"] if alarm else [])
    latency = Judged(Look("latency", "the windows before", "p95 12 -> 12 ms", 0.0, 0.5, 0.6), 0.6, False, START)
    figures = {"estimated accuracy": {"accuracy": 0.7 + day / 100, "interval": [0.68, 0.8], "test": 0.79}}
    return Report(
        task="reviews",
        version=version,
        start=START + day * DAY,
        end=START + (day + 1) * DAY,
        answered=1200,
        small=small,
        level=0.033,
        judged=[] if small else [judged, latency],
        accuracy={} if small else figures,
        milliseconds={"p50": 5.0, "p99": 20.0},
        before=7,
        notes=[],
    )


@pytest.fixture(scope="module")
def html():
    """The page of a fourth window, which has an alarm; the second one had too few answers."""
    past = [report(0, False), report(1, False, small="12 answers are too few"), report(2, True, version=8)]
    newest = report(3, True, version=8)
    return page.render(newest, [each.as_dict() for each in (*past, newest)])


def test_the_page_says_in_words_what_is_an_alarm_and_leads_to_its_texts(html):
    assert "1 of 2 looks are alarms" in html and "<title>reviews: 1 alarms</title>" in html
    assert '<a href="#alarm-1">labels against the windows before</a>: negative 31.0% -&gt; 44.2%' in html
    assert '<h3 id="alarm-1">' in html and "Words that tell them apart: voucher" in html
    assert "&lt;b&gt;no&lt;/b&gt; refund" in html and "<b>no</b>" not in html
    windows = factories.page_tables(html)["windows-table"]
    assert [row[0] for row in windows] == [f"2026-11-2{day} 00:00 UTC" for day in (4, 3, 2, 1)]
    assert windows[2][1:] == [7, 1200, "", "", "too few answers"]
    assert windows[3][1:] == [7, 1200, 0.7, "", "none"]


def test_the_timelines_show_each_window_and_where_a_version_began(html):
    accuracy, looks = re.findall(r'<svg class="chart".*?</svg>', html, re.DOTALL)
    assert "In the newest window: estimated 0.730; dashed, that of the test rows." in accuracy
    assert "version 8" in accuracy
    assert "2 looks in 4 windows, 2 times an alarm." in looks
    assert looks.count("var(--bad)") >= 2 and "too few answers" in looks


def test_the_page_fetches_nothing_and_a_file_of_it_is_its_owners_alone(html, tmp_path):
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", html) and "<script" not in html
    page.write(tmp_path / "page.html", html)
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o600
    with pytest.raises(UserError, match="cannot be written"):
        page.write(tmp_path / "nowhere" / "page.html", html)


def asked(live, path="/", **headers):
    """The status, the body and the headers of an answer."""
    request = urllib.request.Request(f"http://{live.address}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


@pytest.fixture
def live():
    made = Live(0)
    yield made
    made.close()


def test_the_newest_page_is_served_on_loopback_and_under_its_own_name_only(live):
    assert asked(live)[0] == 503
    live.show("<p>first", "default-src 'none'")
    live.show("<p>second", "style-src 'none'")
    status, body, headers = asked(live)
    assert (status, body) == (200, "<p>second")
    assert headers["content-security-policy"] == "style-src 'none'" and headers["cache-control"] == "no-store"
    assert asked(live, "/etc/passwd")[0] == 404
    assert asked(live, Host="evil.example.com:80")[0] == 421
    with pytest.raises(UserError, match="choose another"):
        Live(int(live.address.rpartition(":")[2]))


def test_a_key_of_the_role_admin_opens_the_page_also_as_a_browsers_password(tmp_path):
    admin, other = (add_key(tmp_path / "keys.yaml", name, role=role) for name, role in (("a", ADMIN), ("b", "predict")))
    live = Live(0, Access.read(tmp_path / "keys.yaml"))
    try:
        live.show("<p>texts", "default-src 'none'")
        basic = base64.b64encode(f"me:{admin}".encode()).decode()
        assert asked(live, Authorization=f"Basic {basic}")[:2] == (200, "<p>texts")
        assert asked(live, Authorization=f"Bearer {admin}")[0] == 200
        for headers in ({}, {"x-api-key": other}, {"Authorization": "Basic !"}, {"x-api-key": "wrong"}):
            status, body, answered = asked(live, **headers)
            assert status == 401 and "texts" not in body and answered["www-authenticate"].startswith("Basic")
    finally:
        live.close()
