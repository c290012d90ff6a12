import pytest

from bertline.components.data import task_files
from bertline.errors import UserError


def test_globs_folders_and_packages(tmp_path):
    for name in ("b.csv", "a.csv", "notes.txt"):
        (tmp_path / name).write_text("text,label\n")
    assert [file.name for file in task_files.expand(["*.csv", "a.csv"], str(tmp_path))] == ["a.csv", "b.csv"]
    assert [file.name for file in task_files.expand(["."], str(tmp_path))] == ["a.csv", "b.csv"]
    with pytest.raises(UserError, match=r"no_such_package.*not installed"):
        task_files.expand(["package://no_such_package/a.csv"], ".")


def test_fingerprint_sees_one_changed_byte_and_the_order(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(f"text,label\n{name},pos\n")
    files = task_files.expand(["a.csv", "b.csv"], str(tmp_path))
    before = task_files.fingerprint(files)
    assert task_files.fingerprint(files) == before
    assert task_files.fingerprint(files[::-1]) != before
    (tmp_path / "b.csv").write_text("text,label\nb.csv,poz\n")
    assert task_files.fingerprint(files) != before


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "reviews.csv").write_text("text,label\n")
    with pytest.raises(UserError, match=r"'review.csv' does not exist.*Did you mean 'reviews.csv'"):
        task_files.expand(["review.csv"], str(tmp_path))
