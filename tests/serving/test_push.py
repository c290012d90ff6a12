import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from unprivileged import give_away

from bertline.errors import UserError
from bertline.serving import push, releases, storage

TOP = Path(__file__).parents[2]


@pytest.fixture
def saved_model(tmp_path):
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"weights")
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != releases.LOCK_FILE)


def publish(source, folder, inputs="a", **options):
    return push.publish(source, folder, {"inputs": inputs, "parent": None}, **options)


def test_version_is_the_time_and_holds_all_files_with_its_record(saved_model, tmp_path):
    release, new = publish(saved_model, tmp_path / "serving", now=lambda: 1700000000.9)
    assert new and release.version == 1700000000
    pushed = tmp_path / "serving" / "1700000000"
    assert (pushed / "saved_model.pb").read_bytes() == b"graph"
    assert (pushed / "variables" / "variables.data-00000-of-00001").read_bytes() == b"weights"
    record = json.loads((pushed / "release.json").read_text())
    assert record["version"] == 1700000000
    assert record["pushed_at"] == "2023-11-14T22:13:20+00:00"
    assert record["inputs"] == "a"
    assert len(record["digest"]) == 64


def test_versions_grow_where_the_clock_does_not(saved_model, tmp_path):
    publish(saved_model, tmp_path, "a", now=lambda: 1700000000)
    assert publish(saved_model, tmp_path, "b", now=lambda: 1700000000)[0].version == 1700000001
    assert publish(saved_model, tmp_path, "c", now=lambda: 1600000000)[0].version == 1700000002


def test_same_inputs_and_files_are_not_pushed_twice(saved_model, tmp_path):
    serving = tmp_path / "serving"
    first, _ = publish(saved_model, serving, now=lambda: 1)
    again, new = publish(saved_model, serving, now=lambda: 2)
    assert (again.version, new) == (first.version, False)
    (saved_model / "saved_model.pb").write_bytes(b"other")
    assert publish(saved_model, serving, now=lambda: 3)[1]
    assert publish(saved_model, serving, "b", now=lambda: 4)[1]
    assert names(serving) == ["1", "3", "4"]


def test_oldest_releases_go_and_other_hands_versions_stay(saved_model, tmp_path):
    serving = tmp_path / "serving"
    (serving / "1").mkdir(parents=True)
    (serving / "1" / "saved_model.pb").write_bytes(b"")
    for version in (10, 20, 30):
        publish(saved_model, serving, str(version), keep_versions=2, now=lambda version=version: version)
    assert names(serving) == ["1", "20", "30"]


def test_kill_in_the_middle_of_a_push_leaves_no_version(saved_model, tmp_path):
    serving = tmp_path / "serving"
    publish(saved_model, serving, "old", now=lambda: 100)
    code = f"""
import shutil, sys, time
from bertline.serving import push

def copy(source, destination):
    shutil.copyfile(source, destination)
    print("copied", flush=True)
    time.sleep(60)

push.publish({str(saved_model)!r}, {str(serving)!r}, {{"inputs": "new"}}, copy_file=copy)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=TOP, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"copied\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(names(serving)) == 2, "the push was not under way"
    assert releases.versions(serving) == [100]
    publish(saved_model, serving, "new", now=lambda: 200)
    assert names(serving) == ["100", "200"]


def test_full_disk_leaves_nothing_behind(saved_model, tmp_path):
    def copy(source, destination):
        Path(destination).write_bytes(b"half")
        raise OSError(28, "No space left on device", destination)

    with pytest.raises(UserError, match="No space left on device"):
        publish(saved_model, tmp_path / "serving", copy_file=copy)
    assert names(tmp_path / "serving") == []


@pytest.mark.parametrize("name", ["saved_model.pb", "assets", "assets.extra/deep/words.txt"])
def test_a_link_in_the_model_is_refused_before_anything_is_written(saved_model, tmp_path, name):
    link = saved_model / name
    link.unlink(missing_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to("/etc" if name == "assets" else "/etc/passwd")
    with pytest.raises(UserError, match=rf"{name}: a link, or no plain file"):
        publish(saved_model, tmp_path / "serving")
    assert not (tmp_path / "serving").exists()


def test_what_is_no_file_is_refused(saved_model, tmp_path):
    os.mkfifo(saved_model / "pipe")
    with pytest.raises(UserError, match="pipe: a link, or no plain file"):
        publish(saved_model, tmp_path / "serving")


def test_a_hard_link_is_a_copy_of_ones_own_file_or_refused(saved_model, tmp_path, monkeypatch):
    (tmp_path / "own").write_bytes(b"graph")
    (saved_model / "saved_model.pb").unlink()
    os.link(tmp_path / "own", saved_model / "saved_model.pb")
    assert publish(saved_model, tmp_path / "serving")[1]
    give_away(saved_model, monkeypatch)
    with pytest.raises(UserError, match=r"saved_model.pb: a link"):
        publish(saved_model, tmp_path / "serving", "b")


def test_leftovers_of_any_kind_go_and_what_they_point_at_stays(saved_model, tmp_path):
    serving, kept = tmp_path / "serving", tmp_path / "kept"
    serving.mkdir()
    kept.mkdir()
    (kept / "file").write_bytes(b"precious")
    (serving / ".unfinished-1").symlink_to(kept)
    (serving / ".unfinished-2").symlink_to(kept / "file")
    (serving / ".unfinished-3").symlink_to("nowhere")
    (serving / ".unfinished-4").write_bytes(b"a file")
    (serving / ".unfinished-5").mkdir()
    (serving / ".unfinished-5" / "link").symlink_to(kept)
    os.mkfifo(serving / ".unfinished-6")
    publish(saved_model, serving, now=lambda: 9)
    assert names(serving) == ["9"] and (kept / "file").read_bytes() == b"precious"


def test_no_moment_shows_a_partial_version(saved_model, tmp_path):
    serving = tmp_path / "serving"
    seen = []

    def copy(source, destination):
        seen.append(releases.versions(serving))
        Path(destination).write_bytes(Path(source).read_bytes())

    publish(saved_model, serving, copy_file=copy)
    assert seen == [[], []]


def test_two_pushes_at_once_take_turns(saved_model, tmp_path):
    at_work = []

    def copy(source, destination):
        at_work.append(threading.get_ident())
        time.sleep(0.05)
        Path(destination).write_bytes(Path(source).read_bytes())

    threads = [
        threading.Thread(target=publish, args=(saved_model, tmp_path / "serving", name), kwargs={"copy_file": copy})
        for name in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(tmp_path / "serving")) == 2
    assert at_work[0] == at_work[1] and at_work[2] == at_work[3], "the copies were interleaved"


def test_folder_that_cannot_be_written_is_named(saved_model, tmp_path):
    (tmp_path / "serving").write_text("a file")
    with pytest.raises(UserError, match=r"serving: writing failed"):
        publish(saved_model, tmp_path / "serving")


def test_extra_files_appear_with_the_version_and_leave_the_model_and_its_digest_alone(saved_model, tmp_path):
    (tmp_path / "requests").write_bytes(b"rows")
    extra = {releases.WARMUP_FILE: str(tmp_path / "requests")}
    release, _ = publish(saved_model, tmp_path / "serving", extra=extra, now=lambda: 1)
    assert (tmp_path / "serving" / "1" / "assets.extra" / "tf_serving_warmup_requests").read_bytes() == b"rows"
    assert not (saved_model / "assets.extra").exists()
    assert release.digest == push.digest_of(saved_model)
    assert not publish(saved_model, tmp_path / "serving", now=lambda: 2)[1], "without them it is the same model"


def test_extra_files_go_into_a_remote_folder_before_the_version_counts(saved_model, tmp_path):
    (tmp_path / "requests").write_bytes(b"rows")
    copied = []

    def copy(source, destination):
        copied.append(destination)
        storage.copy_file(source, destination)

    extra = {releases.WARMUP_FILE: str(tmp_path / "requests")}
    publish(saved_model, "ram://bucket/extra", extra=extra, copy_file=copy, now=lambda: 1)
    assert "ram://bucket/extra/1/assets.extra/tf_serving_warmup_requests" in copied
    assert copied[-1] == "ram://bucket/extra/1/saved_model.pb"


def test_remote_folder(saved_model):
    release, new = publish(saved_model, "ram://bucket/serving", now=lambda: 100)
    assert new and release.version == 100
    assert not publish(saved_model, "ram://bucket/serving", now=lambda: 200)[1]
    assert publish(saved_model, "ram://bucket/serving", "b", now=lambda: 100)[0].version == 101
    assert [each.version for each in releases.read("ram://bucket/serving")] == [100, 101]
