"""The review page in headless Chromium, without a network."""

import browser as browsers
import factories
import pytest

from bertline.components.review_page import page

pytestmark = browsers.needed
HOSTILE = """<script>document.title = "taken"</script><img src=x onerror="document.title='taken'">"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser that has opened the page from disk, with a log of its console and its requests."""
    file = tmp_path_factory.mktemp("review") / "review.html"
    evidence = factories.review_evidence(["no", "yes", HOSTILE], 90, texts=[HOSTILE] * 90)
    file.write_text(page.render(evidence, "today"), encoding="utf-8")
    with browsers.opened(file) as driver:
        yield driver


def column(browser, table, index):
    script = "return [...document.querySelectorAll(arguments[0])].map((row) => row.cells[arguments[1]].textContent)"
    return browser.execute_script(script, f"#{table} tbody tr", index)


def header(browser, table, index):
    return browser.find_elements("css selector", f"#{table} thead th")[index]


def test_a_table_sorts_by_its_figures_in_both_directions(browser):
    before = [float(value) for value in column(browser, "class-table", 3)]
    header(browser, "class-table", 3).find_element("tag name", "button").click()
    assert header(browser, "class-table", 3).get_attribute("aria-sort") == "ascending"
    assert [float(value) for value in column(browser, "class-table", 3)] == sorted(before)
    header(browser, "class-table", 3).find_element("tag name", "button").click()
    assert header(browser, "class-table", 3).get_attribute("aria-sort") == "descending"
    assert [float(value) for value in column(browser, "class-table", 3)] == sorted(before, reverse=True)


def test_a_table_sorts_from_the_keyboard(browser):
    header(browser, "slice-table", 0).find_element("tag name", "button").send_keys("\ue007")  # Enter
    assert column(browser, "slice-table", 0) == ["shop=north", "shop=south"]


def test_the_slider_says_what_its_threshold_gives(browser):
    slider, kept = (browser.find_element("id", name) for name in ("threshold", "kept"))
    slider.send_keys("\ue010")  # End: the highest threshold
    assert browser.find_element("id", "threshold-value").text == "1.00"
    slider.send_keys("\ue011")  # Home: every row is answered
    assert browser.find_element("id", "threshold-value").text == "0.00"
    assert kept.text.startswith("90 rows are answered (100.0%)")


def test_the_slider_says_what_calling_a_class_from_a_threshold_on_gives(browser):
    browser.execute_script(
        "const asked = document.getElementById('asked'); asked.value = '1'; asked.dispatchEvent(new Event('input'))"
    )
    browser.find_element("id", "threshold").send_keys("\ue011")  # Home: every row is called so
    kept = browser.find_element("id", "kept").text
    assert kept == "90 rows are called so: precision 0.333, recall 1.000, F1 0.500; 60 false alarms, 0 missed."


def test_a_slice_opens(browser):
    slice_ = browser.find_element("css selector", "#slices details")
    assert not slice_.find_element("tag name", "table").is_displayed()
    slice_.find_element("tag name", "summary").click()
    assert slice_.find_element("tag name", "table").is_displayed()


def test_hostile_texts_are_shown_and_do_not_run(browser):
    assert HOSTILE in browser.find_element("id", "wrong-table").text
    assert browser.title.startswith("Review of reviews")


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_is_no_wider_than_its_window(browser, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_a_script_that_is_not_the_pages_own_is_refused(browser):
    script = "const s = document.createElement('script'); s.textContent = 'window.taken = 1'; document.body.append(s)"
    browser.execute_script(script)
    assert browser.execute_script("return window.taken") is None
    (refusal,) = [entry for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]]
    assert refusal["level"] == "SEVERE"


def test_the_console_is_silent_and_nothing_is_requested_but_the_page(browser):
    browser.get_log("browser")
    browser.get_log("performance")
    browser.refresh()
    assert browser.get_log("browser") == []
    requested = [
        entry["message"] for entry in browser.get_log("performance") if 'Network.requestWillBeSent"' in entry["message"]
    ]
    assert len(requested) == 1
    assert browser.address in requested[0]
