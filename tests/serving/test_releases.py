import json

import pytest
from unprivileged import unprivileged

from bertline.errors import UserError
from bertline.serving import releases, standing, storage


def release(folder, version, **record):
    path = folder / str(version)
    path.mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"")
    (path / "release.json").write_text(json.dumps(record))
    return path


def test_reads_whole_releases_in_order(tmp_path):
    release(tmp_path, 200, inputs="b", parent=100, metrics={"accuracy": 0.8}, digest="d", git_commit="c0ffee")
    release(tmp_path, 100, inputs="a", parent=None)
    release(tmp_path, ".unfinished-300", inputs="c")
    (tmp_path / "400").mkdir()  # no saved_model.pb
    (tmp_path / "notes.txt").write_text("")
    first, second = releases.read(tmp_path)
    assert (first.version, first.parent, first.metrics) == (100, None, {})
    assert (second.version, second.parent, second.metrics["accuracy"]) == (200, 100, 0.8)
    assert second.path == str(tmp_path / "200")
    assert second.record["git_commit"] == "c0ffee"
    assert releases.versions(tmp_path) == [100, 200, 400]


def test_no_folder_has_no_releases(tmp_path):
    assert releases.read(tmp_path / "absent") == []
    assert releases.find_last_blessed(tmp_path / "absent", "a") is None


def test_version_of_other_hands_is_no_release(tmp_path):
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "saved_model.pb").write_bytes(b"")
    assert releases.read(tmp_path) == []


def test_last_blessed_is_the_newest_of_other_inputs(tmp_path):
    release(tmp_path, 100, inputs="a")
    release(tmp_path, 200, inputs="b")
    release(tmp_path, 300, inputs="c")
    assert releases.find_last_blessed(tmp_path, "c").version == 200
    assert releases.find_last_blessed(tmp_path, "new").version == 300


def test_rerun_meets_the_last_blessed_of_the_first_time(tmp_path):
    release(tmp_path, 100, inputs="a")
    before = releases.find_last_blessed(tmp_path, "b")
    release(tmp_path, 200, inputs="b")
    assert releases.find_last_blessed(tmp_path, "b") == before
    assert before.version == 100


@pytest.mark.parametrize("look", [standing.overview, releases.read_withdrawn])
def test_folder_that_may_not_be_read_is_told(tmp_path, monkeypatch, look):
    (tmp_path / "serving").mkdir(mode=0)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # others may not enter the folders above
    with unprivileged(), pytest.raises(UserError, match="serving cannot be read: Permission denied"):
        look("serving")


@pytest.mark.parametrize("text", ["{", "[]", '{"parent": "x"}', '{"metrics": 3}'])
def test_broken_record_is_named(tmp_path, text):
    (release(tmp_path, 100) / "release.json").write_text(text)
    with pytest.raises(UserError, match=r"100/release.json: not a release record"):
        releases.read(tmp_path)


def test_overview_tells_served_kept_withdrawn_and_other_hands_versions(tmp_path):
    release(tmp_path, 100, inputs="a", pushed_at="2026-11-21T23:52:21+00:00")
    release(tmp_path, 200, inputs="b", parent=100, metrics={"accuracy": 0.8})
    withdrawal = {"at": "2026-11-22T01:00:00.000+00:00", "reason": "angry customers", "to": 200}
    withdrawn = release(tmp_path, "withdrawn-300", inputs="c", withdrawals=[{"at": "before"}, withdrawal])
    (tmp_path / "150").mkdir()
    (tmp_path / "150" / "saved_model.pb").write_bytes(b"12345")
    (tmp_path / "400").mkdir()  # no saved_model.pb: not whole
    listed = standing.overview(tmp_path)
    assert [(release["version"], release["state"]) for release in listed] == [
        (100, "kept"),
        (150, "kept"),
        (200, "served"),
        (300, "withdrawn"),
    ]
    assert [release["pushed_at"] for release in listed] == ["2026-11-21T23:52:21+00:00", None, None, None]
    assert listed[1]["bytes"] == 5
    assert (listed[2]["parent"], listed[2]["metrics"], listed[2]["withdrawal"]) == (100, {"accuracy": 0.8}, None)
    assert listed[3]["withdrawal"] == withdrawal
    assert listed[3]["bytes"] == (withdrawn / "release.json").stat().st_size
    assert standing.overview(tmp_path / "absent") == []


def test_release_that_a_person_moved_aside_is_withdrawn_too(tmp_path):
    release(tmp_path, 100)
    release(tmp_path, 200).rename(tmp_path / "withdrawn-200")
    (tmp_path / "withdrawn-notes").mkdir()
    (withdrawn,) = releases.read_withdrawn(tmp_path)
    assert (withdrawn.version, withdrawn.withdrawal.at) == (200, "")
    assert [each.version for each in releases.read(tmp_path)] == [100]


def test_overview_of_a_remote_folder():
    folder = "ram://bucket/overview"
    for name, text in (("saved_model.pb", "12345"), ("release.json", "{}")):
        with storage.open_file(f"{folder}/7/{name}", "w") as file:
            file.write(text)
    (listed,) = standing.overview(folder)
    assert (listed["version"], listed["state"], listed["bytes"]) == (7, "served", 7)


def test_a_version_renamed_meanwhile_is_no_error(tmp_path, monkeypatch):
    """A rollback renames folders while others read them."""
    release(tmp_path, 100)
    release(tmp_path, 200)
    exists = storage.exists

    def renamed_after(path):
        there = exists(path)
        if path.endswith("200/release.json") and there:
            (tmp_path / "200").rename(tmp_path / "withdrawn-200")
        return there

    monkeypatch.setattr(storage, "exists", renamed_after)
    assert [each.version for each in releases.read(tmp_path)] == [100]
    monkeypatch.undo()
    files = storage.files
    monkeypatch.setattr(storage, "files", lambda folder: [*files(folder), ".release.json.unfinished"])
    assert storage.size(tmp_path / "100") > 0
