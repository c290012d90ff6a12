import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bertline.errors import UserError
from bertline.serving import push, releases, rollback, storage
from bertline.serving.client import Client
from bertline.serving.server import Server
from bertline.serving.versions import Polling

TOP = Path(__file__).parents[2]


@pytest.fixture
def serving(tmp_path):
    """A folder with the releases 100, 200 and 300, of the inputs a, b and c."""
    source = tmp_path / "model"
    source.mkdir()
    for version, inputs in ((100, "a"), (200, "b"), (300, "c")):
        (source / "saved_model.pb").write_text(f"graph of {inputs}")
        push.publish(source, tmp_path / "serving", {"inputs": inputs}, now=lambda version=version: version)
    return tmp_path / "serving"


def test_default_goes_back_by_one_and_says_why(serving):
    (withdrawn,) = rollback.roll_back(serving, reason="angry customers")
    assert (withdrawn.version, withdrawn.path) == (300, f"{serving}/withdrawn-300")
    assert releases.versions(serving) == [100, 200]
    (noted,) = json.loads((serving / "withdrawn-300" / "release.json").read_text())["withdrawals"]
    assert (noted["reason"], noted["to"]) == ("angry customers", 200)
    assert noted["at"] == withdrawn.withdrawal.at
    assert noted["at"].startswith(time.strftime("%Y-", time.gmtime()))


def test_undo_puts_back_what_the_last_rollback_took_out_and_keeps_the_history(serving):
    before = storage.files(serving / "300")
    rollback.roll_back(serving)
    rollback.roll_back(serving, to=100)
    assert [release.version for release in rollback.undo(serving)] == [200]
    assert releases.versions(serving) == [100, 200]
    assert [release.version for release in rollback.undo(serving)] == [300]
    assert releases.versions(serving) == [100, 200, 300]
    assert storage.files(serving / "300") == before
    (noted,) = releases.read(serving)[-1].record["withdrawals"]
    assert noted["at"] < noted["restored_at"]
    with pytest.raises(UserError, match="nothing to undo"):
        rollback.undo(serving)


def test_newest_goes_last_and_comes_back_first(serving, monkeypatch):
    """A server that looks meanwhile sees the old newest or the target, never what lies between."""
    seen = []
    rename = Path.rename

    def watched(path, target):
        rename(path, target)
        seen.append(releases.versions(serving)[-1])

    monkeypatch.setattr(Path, "rename", watched)
    rollback.roll_back(serving, to=100)
    rollback.undo(serving)
    assert seen == [300, 100, 300, 300]


def test_rollback_killed_half_way_is_completed_by_the_same_call(serving):
    code = f"""
import os, pathlib, signal
from bertline.serving import rollback

rename = pathlib.Path.rename
def once(*arguments):
    rename(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

pathlib.Path.rename = once
rollback.roll_back({str(serving)!r}, to=100)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=TOP).returncode == -signal.SIGKILL
    assert releases.versions(serving) == [100, 300]
    rollback.roll_back(serving, to=100)
    assert releases.versions(serving) == [100]
    assert releases.withdrawn_versions(serving) == [200, 300]


def test_a_rename_that_fails_is_tried_again_and_noted_once(serving, monkeypatch):
    def locked(*_):
        raise OSError(16, "Device or resource busy")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", locked)
        for _ in range(2):
            with pytest.raises(UserError, match="Device or resource busy"):
                rollback.withdraw(serving, 300, 200, "slow")
            with pytest.raises(UserError, match="Device or resource busy"):
                rollback.roll_back(serving, reason="slow")
    assert rollback.withdraw(serving, 300, 200, "slow").withdrawal.reason == "slow"
    assert rollback.withdraw(serving, 300, 100, "another's words").withdrawal.to == 200
    assert len(releases.read_withdrawn(serving)[0].record["withdrawals"]) == 1
    rollback.undo(serving)
    (again,) = rollback.roll_back(serving, reason="slow")
    assert len(again.record["withdrawals"]) == 2, "a second withdrawal is another one"


@pytest.mark.parametrize(
    ("to", "words"),
    [
        (300, "300 is the version that is served"),
        (150, "there is no release 150; older releases in service: 100, 200"),
        (400, "there is no release 400"),
    ],
)
def test_wrong_targets_are_refused(serving, to, words):
    with pytest.raises(UserError, match=words):
        rollback.roll_back(serving, to=to)
    assert releases.versions(serving) == [100, 200, 300]


def test_withdrawn_target_names_the_way_back(serving):
    rollback.roll_back(serving)
    with pytest.raises(UserError, match=r"300 is itself withdrawn; .*--undo"):
        rollback.roll_back(serving, to=300)


def test_last_release_stays(serving):
    rollback.roll_back(serving, to=100)
    with pytest.raises(UserError, match="100 is the only release; without it nothing would be left"):
        rollback.roll_back(serving)
    assert releases.versions(serving) == [100]


def test_absent_empty_and_remote_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="absent: there is no such folder"):
        rollback.undo(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    with pytest.raises(UserError, match="no release is in service"):
        rollback.roll_back(tmp_path)
    with pytest.raises(UserError, match=r"gs://bucket/x: object stores rename no folders"):
        rollback.roll_back("gs://bucket/x")
    with pytest.raises(UserError, match=r"specific \{ versions: VERSION \}"):
        rollback.undo("gs://bucket/x")


def test_newer_version_of_other_hands_stops_it_before_anything_moves(serving):
    (serving / "250").mkdir()
    with pytest.raises(UserError, match=rf"250 was not pushed by bertline; .*mv {serving}/250 {serving}/withdrawn-250"):
        rollback.roll_back(serving, to=100)
    assert releases.versions(serving) == [100, 200, 250, 300]
    (serving / "250").rename(serving / "withdrawn-250")
    assert [release.version for release in rollback.roll_back(serving, to=100)] == [200, 300]
    assert [release.version for release in rollback.undo(serving)] == [200, 300]


# === What a push makes of it ===


@pytest.fixture
def model(serving):
    return serving.parent / "model"  # as it was pushed last: graph of c


def test_rolled_back_model_is_not_pushed_again(serving, model):
    rollback.roll_back(serving, reason="angry customers")
    with pytest.raises(push.RolledBack, match=r"rolled back on .* \(angry customers\): it is version 300"):
        push.publish(model, serving, {"inputs": "c"})
    with pytest.raises(push.RolledBack):  # trained again from the same config, data and code
        (model / "saved_model.pb").write_text("graph of c, retrained")
        push.publish(model, serving, {"inputs": "c"})
    with pytest.raises(push.RolledBack):  # the same files under a new fingerprint
        (model / "saved_model.pb").write_text("graph of c")
        push.publish(model, serving, {"inputs": "d"})
    assert releases.versions(serving) == [100, 200]
    rollback.undo(serving)
    assert push.publish(model, serving, {"inputs": "c"})[0].version == 300


def test_version_numbers_grow_beyond_those_withdrawn(serving, model):
    rollback.roll_back(serving)
    (model / "saved_model.pb").write_text("graph of d")
    release, _ = push.publish(model, serving, {"inputs": "d"}, now=lambda: 250)
    assert release.version == 301
    rollback.undo(serving)
    assert releases.versions(serving) == [100, 200, 300, 301]


def test_last_blessed_is_the_one_that_is_served(serving):
    rollback.roll_back(serving)
    assert releases.find_last_blessed(serving, "new").version == 200


def test_pruning_counts_what_is_in_service_and_takes_older_withdrawn_ones_along(serving, model):
    rollback.roll_back(serving)
    for version, inputs in ((400, "d"), (500, "e")):
        (model / "saved_model.pb").write_text(f"graph of {inputs}")
        push.publish(model, serving, {"inputs": inputs}, keep_versions=2, now=lambda version=version: version)
        expected = {400: ([200, 400], [300]), 500: ([400, 500], [])}[version]
        assert (releases.versions(serving), releases.withdrawn_versions(serving)) == expected


# === A server that runs meanwhile ===


def test_running_server_goes_back_and_forth_without_a_failed_request(mood_models, tmp_path):
    """Version 1 knows "good", version 2 knows "great"; "great" tells which one answers."""
    serving = tmp_path / "serving"
    for version, word in ((1, "good"), (2, "great")):
        push.publish(mood_models[word], serving, {"inputs": word}, now=lambda version=version: version)
    answers, failures, stop = [], [], threading.Event()

    def ask(address):
        with Client(address, "mood") as client:
            while not stop.is_set():
                try:
                    answers.append(client.predict(["great"])[0].label)
                except Exception as error:
                    failures.append(error)
                    return

    def wait_for(label):
        deadline = time.monotonic() + 30
        while answers[-1:] != [label]:
            assert time.monotonic() < deadline, f"{answers[-1:]}, never {label}; {failures}"
            time.sleep(0.01)

    with Server.of(serving, "mood", port=0, polling=Polling(seconds=0.1)) as server:
        client = threading.Thread(target=ask, args=(server.address,))
        client.start()
        try:
            wait_for("positive")
            rollback.roll_back(serving)
            wait_for("negative")
            rollback.undo(serving)
            wait_for("positive")
        finally:
            stop.set()
            client.join()
    assert failures == []
    changes = [answer for before, answer in itertools.pairwise(answers) if before != answer]
    assert changes == ["negative", "positive"]
