"""An object store's folder, over real HTTP."""

from pathlib import Path

import object_stores
import pytest

from components import sources
from components.errors import LineError
from components.object_store import local_copy
from components.options import DataOptions

OBJECTS = {"data/train/a.csv": b"text,label\ngood,yes\n", "data/train/b.csv": b"text,label\nbad,no\n", "other": b"x"}


@pytest.fixture(params=["s3", "minio", "gs"])
def store(request, monkeypatch):
    """The bucket's address."""
    protocol = object_stores.google if request.param == "gs" else object_stores.s3
    with protocol(OBJECTS, monkeypatch):
        yield f"{request.param}://{object_stores.BUCKET}"


def test_a_folder_is_brought_and_read_as_a_local_one(store):
    with local_copy(f"{store}/data") as folder:
        files = sources.of_options(DataOptions(source="train/*.csv"), folder)
        assert [file.name for file in files] == ["train/a.csv", "train/b.csv"]
        assert Path(files[0].path).read_bytes() == OBJECTS["data/train/a.csv"]
        fingerprint = sources.fingerprint(files)
    assert not Path(folder).exists()
    with local_copy(f"{store}/data/") as again:
        assert sources.fingerprint(sources.of_options(DataOptions(source="train/*.csv"), again)) == fingerprint


def test_a_folder_that_is_not_there_is_named(store):
    with pytest.raises(LineError, match=f"{store}/nothing: there is no such folder"), local_copy(f"{store}/nothing"):
        pass


def test_another_kind_of_address_is_refused_with_those_that_go():
    with pytest.raises(LineError, match="gs://, s3://, minio://"), local_copy("ftp://bucket/data"):
        pass


def test_a_local_folder_is_itself():
    with local_copy("/data") as folder:
        assert folder == "/data"
