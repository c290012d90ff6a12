import logging
import shutil
import threading
import time
from types import SimpleNamespace

import pytest
from google.protobuf import text_format

from bertline.serving.versions import AVAILABLE, END, UNLOADING, Polling, VersionPolicy, Versions, complete_versions


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL)


def add(folder, version, content="graph"):
    (folder / str(version)).mkdir()
    (folder / str(version) / "saved_model.pb").write_text(content)


def versions(folder, policy="", **polling):
    """Versions with a stand-in for the loading of models; a graph "broken" or "vanishes" does not load."""
    loads = []

    def load(path, version):
        loads.append(version)
        graph = (path / "saved_model.pb").read_text()
        if graph == "broken":
            raise ValueError(f"{path}: broken")
        if graph == "vanishes":
            shutil.rmtree(path)
            (path / "saved_model.pb").read_text()
        return SimpleNamespace(version=version, close=lambda: closed.append(version))

    closed = []
    made = Versions(folder, load, Polling(60, **polling), text_format.Parse(policy, VersionPolicy()))
    made.closed = closed
    made.loads = loads
    return made


def serving(made, version=None):
    with made.acquire(version) as servable:
        return servable.version if servable else None


def test_only_whole_versions_count(tmp_path):
    for name in ("9", "00000010", ".unfinished-11", "12-old", "v13", "9223372036854775808", "99999999999999999999"):
        add(tmp_path, name)
    (tmp_path / "15").mkdir()
    (tmp_path / "16").write_text("a file")
    add(tmp_path, "9223372036854775807")
    assert complete_versions(tmp_path) == {
        9: [tmp_path / "9"],
        10: [tmp_path / "00000010"],
        2**63 - 1: [tmp_path / "9223372036854775807"],
    }
    assert complete_versions(tmp_path / "absent") == {}


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


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", [3]),
        ("latest { num_versions: 2 }", [2, 3]),
        ("all {}", [1, 2, 3]),
        ("specific { versions: [1, 3, 8] }", [1, 3]),
    ],
)
def test_policy_chooses_the_versions(tmp_path, policy, expected):
    for version in (1, 2, 3):
        add(tmp_path, version)
    made = versions(tmp_path, policy)
    made.refresh()
    assert made.loaded() == expected


def test_a_new_policy_loads_before_it_unloads(tmp_path):
    for version in (1, 2):
        add(tmp_path, version)
    made = versions(tmp_path)
    made.refresh()
    made.adopt(text_format.Parse("specific { versions: 1 }", VersionPolicy()))
    assert made.loaded() == [1]
    wait_for(lambda: made.closed == [2])
    made.adopt(text_format.Parse("specific { versions: 7 }", VersionPolicy()))
    assert made.loaded() == [1], "rather the old version than none"


def test_a_policy_being_prepared_keeps_what_the_present_one_serves(tmp_path):
    for version in (1, 2):
        add(tmp_path, version)
    made = versions(tmp_path)
    made.refresh()
    first = text_format.Parse("specific { versions: 1 }", VersionPolicy())
    assert made.prepare(first) == [1]
    made.refresh()
    assert made.loaded() == [1, 2]
    made.adopt(first)
    assert made.loaded() == [1]
    assert made.loads == [2, 1]


def test_two_newest_of_which_one_is_broken(tmp_path):
    for version, content in ((1, "graph"), (2, "broken"), (3, "graph")):
        add(tmp_path, version, content)
    made = versions(tmp_path, "latest { num_versions: 2 }")
    made.refresh()
    assert made.loaded() == [1, 3]


def test_failed_version_is_tried_again_so_many_times(tmp_path):
    add(tmp_path, 1, "broken")
    made = versions(tmp_path, max_load_retries=2, retry_seconds=0.0)
    for _ in range(5):
        made.refresh()
    assert made.loads == [1, 1, 1]


def test_version_that_vanishes_while_it_loads_leaves_the_old_one(tmp_path):
    add(tmp_path, 1)
    made = versions(tmp_path)
    made.refresh()
    add(tmp_path, 2, "vanishes")
    made.refresh()
    made.refresh()
    assert made.loaded() == [1]
    assert made.states()[2].state == END and "did not load" in made.states()[2].message


def test_junk_and_symlink_loops_are_passed_over(tmp_path):
    add(tmp_path, 1)
    (tmp_path / "2").symlink_to(tmp_path / "2")
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "saved_model.pb").symlink_to(tmp_path / "3" / "saved_model.pb")
    (tmp_path / "1" / "loop").symlink_to(tmp_path)
    (tmp_path / "4").write_bytes(b"\0")
    (tmp_path / "\udcff").mkdir()
    made = versions(tmp_path)
    made.refresh()
    assert made.loaded() == [1]


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
