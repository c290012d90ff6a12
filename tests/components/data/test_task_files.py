import pytest

from bertline.components.data import formats, task_files
from bertline.components.options import DataOptions
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


# === Folders ===


def tree(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text,label\na,pos\n" if name.endswith(".csv") else "a text")
    return folder


def read_as(folder):
    return [(file.name, file.format) for file in task_files.expand(["data"], str(folder))]


def test_folders_of_data_files_are_files_not_classes(tmp_path):
    tree(tmp_path / "data", "2019/01.csv", "2019/02.csv", "2020/01.csv", "reviews.csv", "README.md")
    names = ["data/2019/01.csv", "data/2019/02.csv", "data/2020/01.csv", "data/reviews.csv"]
    assert read_as(tmp_path) == [(name, "csv") for name in names]


def test_a_folder_is_entered_once_however_many_links_lead_to_it(tmp_path):
    tree(tmp_path / "data", "pos/1.txt", "neg/1.txt")
    (tmp_path / "data" / "all").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "neg" / "up").symlink_to(tmp_path / "data")
    assert read_as(tmp_path) == [("data/neg/1.txt", "folders"), ("data/pos/1.txt", "folders")]
    tree(tmp_path / "years", "2019/a.csv", "2020/a.csv")
    (tmp_path / "years" / "0-latest").symlink_to(tmp_path / "years" / "2020")
    files = task_files.expand(["years"], str(tmp_path))
    assert [file.name for file in files] == ["years/2019/a.csv", "years/2020/a.csv"]


def test_a_link_to_its_own_folder_does_not_hide_the_folders_of_splits(tmp_path):
    tree(tmp_path / "data", "train/a.csv", "test/a.csv")
    (tmp_path / "data" / "all").symlink_to(tmp_path / "data")
    assert set(task_files.split_sources("data", str(tmp_path))) == {"train", "test"}


def test_class_folders_may_have_a_readme_beside_them(tmp_path):
    tree(tmp_path / "data", "pos/1.txt", "neg/1.txt", "README.md", "pos/.hidden", "__pycache__/a.pyc")
    assert read_as(tmp_path) == [("data/neg/1.txt", "folders"), ("data/pos/1.txt", "folders")]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["reviews.csv", "old/notes.txt"], ["mixture", "reviews.csv", "old/notes.txt", "data/*.csv"]),
        (["pos/1.txt", "neg/1.csv"], ["mixture", "neg/1.csv", "pos/1.txt"]),
        (["sport/1.txt", "sport/ball/2.txt"], ["sport/ball/2.txt", "beside it sport/1.txt", "such as data/sport"]),
        (
            ["train/pos/1.txt", "train/neg/1.txt", "test/pos/1.txt"],
            ["folder per split (train, test)", "data.source: data/train, data.test_source: data/test"],
        ),
        (
            ["Train/a.csv", "dev/a.csv", "test/a.csv"],
            ["data.source: data/Train, data.validation_source: data/dev, data.test_source: data/test"],
        ),
    ],
)
def test_what_a_folder_cannot_be_is_refused_with_what_was_found(tmp_path, names, said):
    tree(tmp_path / "data", *names)
    with pytest.raises(UserError) as stop:
        read_as(tmp_path)
    for words in said:
        assert words in str(stop.value)


def test_split_folders_are_known_by_their_names_and_what_is_in_them(tmp_path):
    tree(tmp_path / "splits", "train/pos/1.txt", "test/neg/1.txt", "README")
    tree(tmp_path / "classes", "train/1.txt", "test/1.txt")  # texts about trains and tests
    tree(tmp_path / "more", "train/a.csv", "test/a.csv", "other/a.csv")
    assert task_files.split_sources("splits/", str(tmp_path)) == {"train": "splits/train", "test": "splits/test"}
    assert task_files.split_sources("classes", str(tmp_path)) == {}
    assert task_files.split_sources("more", str(tmp_path)) == {}


@pytest.mark.parametrize(
    ("names", "places", "others"),
    [
        (["train.csv", "test.csv", "README.md"], {"train": "train.csv", "test": "test.csv"}, []),
        (
            ["reviews_train.csv.gz", "reviews_dev.csv.gz"],
            {"train": "reviews_train.csv.gz", "validation": "reviews_dev.csv.gz"},
            [],
        ),
        (
            ["data/train-00000-of-00002.csv", "data/train-00001-of-00002.csv", "data/test-00000-of-00001.csv"],
            {"train": "data/train-0000*-of-00002.csv", "test": "data/test-00000-of-00001.csv"},
            [],
        ),
        (
            [
                *("plain_text/train-00000-of-00001.csv", "plain_text/test-00000-of-00001.csv"),
                "plain_text/unsupervised-00000-of-00001.csv",
            ],
            {"train": "plain_text/train-00000-of-00001.csv", "test": "plain_text/test-00000-of-00001.csv"},
            ["plain_text/unsupervised-00000-of-00001.csv"],
        ),
        (["train.csv", "notes.csv"], {}, []),
        (["train-1.csv", "train-2.csv"], {}, []),
    ],
)
def test_files_whose_names_tell_their_split_are_splits(tmp_path, names, places, others):
    tree(tmp_path / "data", *names)
    found = task_files.split_sources("data", str(tmp_path))
    assert found == {split: f"data/{place}" for split, place in places.items()}
    assert task_files.of_no_split("data", str(tmp_path)) == others
    if places:
        with pytest.raises(UserError, match=r"holds a file per split .*data\.source: data/\S*train\S*, data\."):
            read_as(tmp_path)
        read = [file.name for place in found.values() for file in task_files.expand([place], str(tmp_path))]
        assert sorted(read) == sorted(f"data/{name}" for name in names if name not in others and name != "README.md")


def test_files_that_are_still_to_be_copied_are_known_by_their_names(tmp_path):
    """On a cluster all files are empty when the sources decide which of them to bring."""
    for name in ("a.csv.zip", "b.zip", "c.xlsx", "d.json", "part-0", "hf/README.md", "hf/data/x.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    sources = ["a.csv.zip", "b.zip!train.csv", "c.xlsx", "d.json", "part-0", "hf/data"]
    brought = task_files.paths_of_task(DataOptions(source=sources))(str(tmp_path))
    names = ["a.csv.zip", "b.zip", "c.xlsx", "d.json", "part-0", "hf/data/x.parquet", "hf/README.md"]
    assert brought == [str(tmp_path / name) for name in names]
    for name in ("part-0", "b.zip"):
        [file] = task_files.expand([name], str(tmp_path))
        with pytest.raises(UserError, match=rf"{name}: the file is empty"):
            formats.check(file, DataOptions(source=[name]))


def test_tables_that_a_folder_passes_over_are_named(tmp_path):
    tree(tmp_path / "data", "a.csv", "b.csv", "old.xls", "more.zip", "README.md", "sub/c.csv", "sub/README.md")
    first, *others = task_files.expand(["data"], str(tmp_path))
    assert len(others) == 2
    assert first.notes == ("data: not read, since each is an archive or a table of another kind: more.zip, old.xls",)


def test_splits_of_several_data_sets_are_not_mixed(tmp_path):
    tree(tmp_path / "data", "en/train.csv", "en/test.csv", "fr/train.csv", "fr/test.csv")
    with pytest.raises(UserError, match=r"the splits of several data sets \(en, fr\)"):
        read_as(tmp_path)
    tree(tmp_path / "odd" / "data", "train_1.csv", "1_train.csv", "test.csv")
    with pytest.raises(UserError, match=r"no name in common that test.csv has not"):
        read_as(tmp_path / "odd")
