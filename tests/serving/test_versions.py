import logging
import shutil
import threading
import time
from types import SimpleNamespace

import pytest

from serving.versions import AVAILABLE, END, UNLOADING, Versions, complete_versions


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL)


def add(folder, version, content="graph"):
    (folder / str(version)).mkdir()
    (folder / str(version) / "saved_model.pb").write_text(content)


def versions(folder):
    """Loads a version by its number alone; one whose graph says "broken" does not load."""
    loads = []

    def load(path, version):
        loads.append(version)
        if (path / "saved_model.pb").read_text() == "broken":
            raise ValueError(f"{path}: broken")
        return SimpleNamespace(version=version)

    made = Versions(folder, load, poll_seconds=60)
    made.loads = loads
    return made


def serving(made, version=None):
    with made.acquire(version) as servable:
        return servable.version if servable else None


def test_only_whole_versions_count(tmp_path):
    for name in ("9", "10", ".unfinished-11", "12-old", "v13", "014", "99999999999999999999"):
        add(tmp_path, name)
    (tmp_path / "15").mkdir()
    (tmp_path / "16").write_text("a file")
    assert complete_versions(tmp_path) == [9, 10]
    assert complete_versions(tmp_path / "absent") == []


def test_newest_is_served_and_only_it(tmp_path):
    add(tmp_path, 1)
    add(tmp_path, 2)
    made = versions(tmp_path)
    made.refresh()
    assert (serving(made), serving(made, 2), serving(made, 1)) == (2, 2, None)
    assert made.loads == [2]


def test_failed_version_is_not_tried_again_until_it_changes(tmp_path):
    add(tmp_path, 1)
    add(tmp_path, 2, "broken")
    made = versions(tmp_path)
    for _ in range(3):
        made.refresh()
    assert made.loads == [2, 1]
    assert serving(made) == 1
    assert made.states()[2].state == END and "broken" in made.states()[2].message
    (tmp_path / "2" / "saved_model.pb").write_text("repaired")
    made.refresh()
    assert serving(made) == 2


def test_removing_the_newest_goes_back_to_the_one_before(tmp_path):
    add(tmp_path, 1)
    add(tmp_path, 2)
    made = versions(tmp_path)
    made.refresh()
    shutil.rmtree(tmp_path / "2")
    made.refresh()
    assert serving(made) == 1


def test_removing_all_leaves_the_loaded_one(tmp_path):
    add(tmp_path, 1)
    made = versions(tmp_path)
    made.refresh()
    shutil.rmtree(tmp_path / "1")
    made.refresh()
    assert serving(made) == 1


def test_replaced_version_stays_until_its_requests_are_done(tmp_path):
    add(tmp_path, 1)
    made = versions(tmp_path)
    made.refresh()
    with made.acquire(None) as old:
        add(tmp_path, 2)
        made.refresh()
        assert serving(made) == 2
        wait_for(lambda: made.states()[1].state == UNLOADING)
        time.sleep(0.05)
        assert made.states()[1].state == UNLOADING
        assert old.version == 1
    wait_for(lambda: made.states()[1].state == END)
    assert made.states()[2].state == AVAILABLE


def test_slow_request_does_not_hold_up_the_next_version(tmp_path):
    add(tmp_path, 1)
    made = versions(tmp_path)
    made.refresh()
    with made.acquire(None):
        for version in (2, 3):
            add(tmp_path, version)
            done = threading.Thread(target=made.refresh)
            done.start()
            done.join(timeout=5)
            assert serving(made) == version


def wait_for(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
