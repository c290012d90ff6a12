import json

import pytest

from serving import releases


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
    assert releases.find_baseline(tmp_path / "absent", "a") is None


def test_version_of_other_hands_is_no_release(tmp_path):
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "saved_model.pb").write_bytes(b"")
    assert releases.read(tmp_path) == []


def test_baseline_is_the_newest_of_other_inputs(tmp_path):
    release(tmp_path, 100, inputs="a")
    release(tmp_path, 200, inputs="b")
    release(tmp_path, 300, inputs="c")
    assert releases.find_baseline(tmp_path, "c").version == 200
    assert releases.find_baseline(tmp_path, "new").version == 300


def test_rerun_meets_the_baseline_of_the_first_time(tmp_path):
    release(tmp_path, 100, inputs="a")
    before = releases.find_baseline(tmp_path, "b")
    release(tmp_path, 200, inputs="b")
    assert releases.find_baseline(tmp_path, "b") == before
    assert before.version == 100


@pytest.mark.parametrize("text", ["{", "[]", '{"parent": "x"}', '{"metrics": 3}'])
def test_broken_record_is_named(tmp_path, text):
    (release(tmp_path, 100) / "release.json").write_text(text)
    with pytest.raises(ValueError, match=r"100/release.json: not a release record"):
        releases.read(tmp_path)
