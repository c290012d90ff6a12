"""Packed files: read by what they are, whatever they are called, and in memory that does not grow with them."""

import bz2
import gzip
import io
import lzma
import tarfile
import tracemalloc
import zipfile

import pyarrow
import pytest
import zstandard

from bertline.components.data import formats, task_files
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.pipeline import config
from bertline.pipeline.init import write_config

OPTIONS = DataOptions(source=["."])
TABLE = b"text,label\n" + b"".join(b"some words %d,%s\n" % (n, (b"pos", b"neg")[n % 2]) for n in range(40))
ROWS = [(f"some words {n}", ("pos", "neg")[n % 2]) for n in range(40)]


def lz4(content):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "lz4") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def zipped(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def zipped_table(content):
    return zipped(**{"a.csv": content, "__MACOSX/._a.csv": b"left behind"})


PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
    ".lz4": lz4,
    ".zip": zipped_table,
}


def read(path, options=OPTIONS):
    """The file's notes and its rows."""
    [file] = task_files.expand([path.name], str(path.parent))
    formats.check(file, options)
    file = formats.settled(file, options)
    return file.notes, [row.values for row in formats.read(file, options)]


def refusal(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError) as stop:
        read(path)
    return str(stop.value)


@pytest.mark.parametrize("ending", PACKERS)
def test_a_packed_file_is_unpacked_as_it_is_read(tmp_path, ending):
    packed = PACKERS[ending](TABLE)
    for name in (f"a.csv{ending}", f"A.CSV{ending.upper()}"):
        (tmp_path / name).write_bytes(packed)
        assert read(tmp_path / name) == ((), ROWS)
    assert "cut short" in refusal(tmp_path / f"a.csv{ending}", packed[: len(packed) // 2])


@pytest.mark.parametrize("ending", PACKERS)
def test_init_and_run_read_a_packed_file_by_what_it_is_and_say_so(tmp_path, ending):
    (tmp_path / "a.csv").write_bytes(PACKERS[ending](TABLE))
    written = write_config(tmp_path / "a.csv", tmp_path / "a.yaml")
    assert any("a.csv: " in warning and "unpacked" in warning for warning in written.warnings)
    loaded = config.load(written.path)
    assert (loaded.data.text, loaded.data.labels) == ("text", ["neg", "pos"])
    notes, rows = read(tmp_path / "a.csv", loaded.data)
    assert rows == ROWS
    assert len(notes) == 1


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip"])
def test_a_plain_file_with_the_ending_of_a_packed_one(tmp_path, ending):
    (tmp_path / f"a.csv{ending}").write_bytes(TABLE)
    [note], rows = read(tmp_path / f"a.csv{ending}")
    assert rows == ROWS
    assert f"its name ends in {ending}" in note


def test_streams_that_were_joined_are_read_to_the_end(tmp_path):
    for ending in (".gz", ".bz2", ".xz", ".zst"):
        pack = PACKERS[ending]
        (tmp_path / f"a.csv{ending}").write_bytes(pack(TABLE[:100]) + pack(TABLE[100:]))
        assert read(tmp_path / f"a.csv{ending}")[1] == ROWS


def test_a_member_of_a_zip_archive_is_named_where_there_are_several(tmp_path):
    path = tmp_path / "download.zip"
    message = refusal(path, zipped(**{"data/train.csv": TABLE, "data/test.csv": TABLE, "readme.txt": b"x"}))
    assert "holds 3 files: data/train.csv, data/test.csv, readme.txt" in message
    assert "download.zip!data/train.csv" in message
    options = DataOptions(source=["download.zip!data/train.csv"], test_source="download.zip!data/test.csv")
    train, test = task_files.of_task(options, str(tmp_path))
    assert (train.name, test.name) == ("download.zip!data/train.csv", "download.zip!data/test.csv")
    assert [row.values for row in formats.read(train, options)] == ROWS
    assert task_files.fingerprint([train]) != task_files.fingerprint([test])
    loaded = config.load(write_config(f"{path}!data/train.csv", tmp_path / "a.yaml").path)
    assert loaded.data.source == ["download.zip!data/train.csv"]
    with pytest.raises(UserError, match=r"download.zip!dev.csv: the zip archive holds no such file. It holds data/tr"):
        write_config(f"{path}!dev.csv", tmp_path / "b.yaml")


def test_archives_and_tables_that_cannot_be_read_packed_are_refused_in_words(tmp_path):
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as archive:
        entry = tarfile.TarInfo("a.csv")
        entry.size = len(TABLE)
        archive.addfile(entry, io.BytesIO(TABLE))
    assert "not text but a tar archive; unpack it" in refusal(tmp_path / "a.csv.gz", tar.getvalue())
    assert "packed with gzip twice" in refusal(tmp_path / "a.csv.gz", gzip.compress(gzip.compress(TABLE)))
    assert "holds no file" in refusal(tmp_path / "a.zip", zipped(**{"data/": b""}))
    assert "set data.format" in refusal(tmp_path / "a.zip", zipped(data=TABLE))
    assert "7z archive" in refusal(tmp_path / "a.csv", b"7z\xbc\xaf\x27\x1c" + TABLE)
    for name, said in (("a.xls", "save it as .xlsx"), ("a.ods", "save it as .xlsx"), ("a.7z", "unpack it")):
        assert said in refusal(tmp_path / name, bytes(16))
    assert "a.xls: not .xls but text. Set data.format" in refusal(tmp_path / "a.xls", TABLE)


def test_a_damaged_member_is_named(tmp_path):
    content = bytearray(zipped(**{"a.csv": TABLE}))
    content[60] ^= 0xFF
    assert "not zip, damaged or cut short" in refusal(tmp_path / "a.csv.zip", bytes(content))


@pytest.mark.parametrize("ending", PACKERS)
def test_a_file_that_unpacks_to_a_thousandfold_takes_no_memory(tmp_path, ending):
    content = b"text,label\n" + (b"word " * 1000 + b",pos\n") * 5000  # 25 MB; xz takes 8 for itself
    (tmp_path / f"a.csv{ending}").write_bytes(PACKERS[ending](content))
    [file] = task_files.expand([f"a.csv{ending}"], str(tmp_path))
    tracemalloc.start()
    assert sum(1 for _ in formats.read(file, OPTIONS.model_copy(update={"quoting": "standard"}))) == 5000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12_000_000
