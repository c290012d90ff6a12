"""Files that grow, rotate, and are cut: each line is taken once, and what cannot be taken is named."""

import csv
import io
import json
import os
import shutil

import pytest
import readers
from readers import hour, read_all, table

from bertline.errors import UserError

FEW = {"batch": 3}


@pytest.fixture
def opened(tmp_path):
    """Engines over the folder, closed at the end; each is a new process as far as it can tell."""
    engines = []

    def anew(**options):
        engines.append(readers.engine(tmp_path, **{**FEW, **options}))
        return engines[-1]

    yield anew
    for engine in engines:
        engine.close()


def lines(first, last):
    return "".join(json.dumps({"text": f"Acme {n}", "time": hour(n)}) + "\n" for n in range(first, last))


def texts(engine):
    return sorted((row["text"] for row in table(engine, "TEXTS")), key=lambda text: int(text.split()[-1]))


def numbered(last):
    return [f"Acme {number}" for number in range(last)]


def test_a_file_grows_and_its_last_line_is_written_in_two_goes(tmp_path, opened):
    posts = tmp_path / "posts.jsonl"
    engine = opened()
    assert read_all(engine) == []  # not there yet
    whole = lines(0, 10).encode()
    posts.write_bytes(whole[:-20])
    read_all(engine)
    assert texts(engine) == numbered(9)
    assert engine.sources[0].unfinished() == [f"{posts}: the last line has no end yet; it is read once it has one"]
    with posts.open("ab") as file:
        file.write(whole[-20:-1])  # a whole object, whose line has no end
        file.flush()
        read_all(engine)
        assert texts(engine) == numbered(10)
        file.write(b"\n" + lines(10, 12).encode())
    read_all(opened())
    assert texts(engine) == numbered(12)
    assert table(engine, "QUARANTINE") == []
    counted = {(row["entity"], row["model"], row["label"]): 0 for row in table(engine, "COUNTS")}
    for row in table(engine, "COUNTS"):
        counted[row["entity"], row["model"], row["label"]] += row["texts"]
    assert counted == {
        ("", "", ""): 12, ("", "mood", "positive"): 12, ("Acme", "", ""): 12, ("Acme", "mood", "positive"): 12,
    }  # fmt: skip


def test_a_source_is_its_place_however_it_is_spelled(tmp_path, opened):
    (tmp_path / "posts").mkdir()
    (tmp_path / "posts" / "a.jsonl").write_text(lines(0, 5))
    read_all(opened(source="posts"))
    for source in ("./posts/", str(tmp_path / "posts")):
        engine = opened(source=source)
        read_all(engine)
        assert texts(engine) == numbered(5)
    for again in ("./posts", "posts/a.jsonl"):
        with pytest.raises(UserError, match=f"posts and {again} are the same files, or one holds the other"):
            opened(source=["posts", again])


def test_a_row_holds_what_was_found(tmp_path, opened):
    (tmp_path / "posts.jsonl").write_text(
        json.dumps({"at": 1793620800000, "who": {"id": 7}, "body": "dull ACME inc. and Globex"}) + "\n"
    )
    engine = opened(text="body", time="at", id="who.id")
    read_all(engine)
    [row] = table(engine, "TEXTS")
    assert (row["id"], row["time"].isoformat(), row["number"]) == ("7", "2026-11-02T12:00:00+00:00", 1)
    assert row["entities"] == ["Acme", "Globex"]
    assert row["answers"] == {
        "mood": {"version": "7", "label": "negative", "probabilities": {"negative": 0.75, "positive": 0.25}}
    }
    assert [(each["entity"], each["text_id"]) for each in table(engine, "MENTIONS")] == [("Acme", "7"), ("Globex", "7")]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_file_is_rotated_before_all_of_it_was_read(tmp_path, opened, restarted):
    posts, old = tmp_path / "posts.jsonl", tmp_path / "posts.jsonl.1"
    posts.write_text(lines(0, 7))
    engine = opened()
    engine.step()  # three of them
    posts.rename(old)
    posts.write_text(lines(7, 9))
    with old.open("a") as file:
        file.write(lines(9, 11))  # a writer that had it open
    engine = opened() if restarted else engine
    read_all(engine)
    assert texts(engine) == numbered(11)
    assert len({row["id"] for row in table(engine, "TEXTS")}) == 11
    shutil.copy(old, tmp_path / "posts.jsonl.2")
    old.unlink()
    read_all(engine)
    assert texts(engine) == numbered(11)


def test_a_file_is_cut_and_begins_anew(tmp_path, opened):
    posts = tmp_path / "posts.jsonl"
    posts.write_text(lines(0, 7))
    engine = opened()
    read_all(engine)
    posts.write_text(lines(7, 15))  # the same file, and longer than it was
    assert read_all(engine) == [f"{posts} was cut, after 7 lines; it is read from its beginning"]
    posts.write_text(lines(15, 16))
    engine = opened()
    assert read_all(engine) == [f"{posts} was cut, after 8 lines; it is read from its beginning"]
    assert texts(engine) == numbered(16)
    copy = tmp_path / "copy"
    shutil.copy(posts, copy)
    copy.write_text(posts.read_text() + lines(16, 17))
    os.replace(copy, posts)  # as an editor or rsync writes it
    assert read_all(engine) == []
    assert texts(engine) == numbered(17)


def test_a_folder_in_which_files_appear_and_are_renamed(tmp_path, opened):
    folder = tmp_path / "posts"
    (folder / "more").mkdir(parents=True)
    engine = opened(source="posts")
    (folder / "a.jsonl").write_text(lines(0, 5))
    (folder / "readme.txt").write_text("no texts\n")
    read_all(engine)
    (folder / "a.jsonl").rename(folder / "a-old.jsonl")
    with (folder / "a-old.jsonl").open("a") as file:
        file.write(lines(5, 7))
    rows = io.StringIO()
    csv.writer(rows).writerows([["time", "text"], *([hour(n), f"Acme {n}"] for n in range(7, 9))])
    (folder / "more" / "b.csv").write_text(rows.getvalue())
    engine = opened(source="posts")
    read_all(engine)
    assert texts(engine) == numbered(9)


def test_csv_whose_fields_hold_line_ends(tmp_path, opened):
    posts = tmp_path / "posts.csv"
    head = f'\ufefftext,time\n"one\nAcme, ""two""\n\n3",{hour(1)}\n'.encode()
    engine = opened(source="posts.csv")
    posts.write_bytes(head[:-40])
    read_all(engine)
    assert table(engine, "TEXTS") == []
    posts.write_bytes(
        head + f'a,b,c\ntext,time\n\n"x"y,1\n\xff,{hour(1)}\n'.encode("latin-1") + f"Acme 4,{hour(1)}\r\n".encode()
    )
    read_all(engine)
    assert [row["text"] for row in table(engine, "TEXTS")] == ['one\nAcme, "two"\n\n3', "Acme 4"]
    assert [(row["line"], row["reason"]) for row in table(engine, "QUARANTINE")] == [
        (6, "broken line"), (9, "broken line"), (10, "not UTF-8"),
    ]  # fmt: skip


def test_a_quote_that_is_never_closed_costs_one_line(tmp_path, opened, monkeypatch):
    from bertline.streams import lines as formats

    monkeypatch.setattr(formats, "LONGEST_RECORD", 2000)
    rest = "".join(f"Acme {n},{hour(n)}\n" for n in range(200))
    (tmp_path / "posts.csv").write_text(f'text,time\n"never closed,{hour(1)}\n{rest}')
    engine = opened(source="posts.csv", batch=100)
    read_all(engine)
    assert texts(engine) == numbered(200)
    assert [row["detail"] for row in table(engine, "QUARANTINE")] == ["a quote is opened and not closed"]


BAD = {
    b'{"text": "x", ': ("broken line", "not JSON"),
    b"[1]": ("broken line", "expected an object, found list"),
    b'{"text": "\\ud800", "time": 1793620800}': ("broken line", "not JSON"),
    b'{"text": "\xff", "time": 1793620800}': ("broken line", "not JSON"),
    b'{"txt": "x", "time": 1793620800}': ("no text", "there is no field 'text'; fields: txt, time"),
    b'{"text": ["x"], "time": 1793620800}': ("no text", "'text' holds list, not a text"),
    b'{"text": " ", "time": 1793620800}': ("no text", "'text' is empty"),
    b'{"text": "a\\u0000b", "time": 1793620800}': ("no text", "'text' holds a zero byte"),
    b'{"text": "x"}': ("no time", "there is no field 'time', or it is empty"),
    b'{"text": "x", "time": "yesterday"}': ("no time", "'time': 'yesterday' is no time that can be read"),
    b'{"text": "x", "time": true}': ("no time", "'time': 'True' is no time that can be read"),
    b'{"text": "x", "time": 0}': ("no time", "'time': '0' is before 1990"),
    b'{"text": "x", "time": "2099-01-01"}': ("time in the future", "2099-01-01 00:00:00 UTC is after this machine's"),
}


def test_bad_records_go_to_quarantine_as_they_came(tmp_path, opened):
    content = b"\n".join([*BAD, lines(0, 1).encode()])
    (tmp_path / "posts.jsonl").write_bytes(content)
    engine = opened()
    read_all(engine)
    assert texts(engine) == ["Acme 0"]
    refused = table(engine, "QUARANTINE")
    assert [row["content"].rstrip(b"\n") for row in refused] == list(BAD)
    assert [row["line"] for row in refused] == list(range(1, len(BAD) + 1))
    for row, (reason, detail) in zip(refused, BAD.values(), strict=True):
        assert row["reason"] == reason and row["detail"].startswith(detail)


def test_an_id_that_comes_again_is_counted_once(tmp_path, opened):
    once = [json.dumps({"id": n, "text": f"Acme {n}", "time": hour(n)}) for n in range(5)]
    (tmp_path / "posts.jsonl").write_text("\n".join([*once, *once[3:], ""]))
    engine = opened(id="id")
    read_all(engine)
    assert texts(engine) == numbered(5)
    assert [row["reason"] for row in table(engine, "QUARANTINE")] == ["repeated id"] * 2
    assert sum(row["texts"] for row in table(engine, "COUNTS") if row["entity"] == row["model"] == "") == 5
