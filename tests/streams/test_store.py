"""Exactly once: over kills, a database that goes away, an answer that is lost, and a second process."""

import datetime
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import postgresql
import pytest
import readers
from readers import hour, read_all, table

from bertline.errors import UserError
from bertline.streams.store import Away

PASSWORD = "kept/to@ourselves"
ROWS = 2300

# Forks children that read while the file grows and is rotated, and kills them; says how many it killed.
KILLER = """
import os, random, signal, sys, time
sys.path[:0] = [{tests!r}, {own!r}]
from pathlib import Path
import readers, sqlalchemy, bertline.streams.files, bertline.streams.tables
from sqlalchemy.dialects import postgresql, sqlite
folder, chance, kills = Path({folder!r}), random.Random(3), 0
longest = 0.09  # seconds that a child may work; fewer where it ends by itself before
lines = (folder / "all.jsonl").read_bytes().splitlines(keepends=True)
written = 100
(folder / "posts.jsonl").write_bytes(b"".join(lines[:written]))
engine = readers.engine(folder, batch=20)
readers.read_all(engine)
engine.close()
while True:
    child = os.fork()
    if not child:
        engine = readers.engine(folder, batch=20)
        readers.read_all(engine)
        os._exit(0)
    time.sleep(chance.uniform(0.01, longest))
    if written < len(lines):
        some = b"".join(lines[written : written + 50])
        written += 50
        with (folder / "posts.jsonl").open("ab") as file:
            file.write(some[:-7]); file.flush()
            os.kill(child, signal.SIGKILL)
            file.write(some[-7:])
        if kills % 5 == 4:
            (folder / "posts.jsonl").rename(folder / f"posts.jsonl.{{written}}")  # never a name twice
    elif kills < 30:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    kills += os.WIFSIGNALED(status)
    longest = longest if os.WIFSIGNALED(status) else max(longest * 0.8, 0.015)
    if not os.WIFSIGNALED(status) and written >= len(lines):
        assert status == 0, status
        break
print(kills)
"""


def test_twenty_kills_lose_nothing_and_double_nothing(tmp_path):
    rows = [json.dumps({"text": f"{'dull' if n % 3 else 'fine'} Acme {n}", "time": hour(n % 50)}) for n in range(ROWS)]
    rows[::400] = ["{broken"] * len(rows[::400])
    (tmp_path / "all.jsonl").write_text("\n".join(rows) + "\n")
    program = KILLER.format(tests=str(Path(__file__).parents[1]), own=str(Path(__file__).parent), folder=str(tmp_path))
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) >= 20
    engine = readers.engine(tmp_path)
    assert read_all(engine) == []
    good = [json.loads(row)["text"] for row in rows if row != "{broken"]
    assert sorted(row["text"] for row in table(engine, "TEXTS")) == sorted(good)
    assert len(table(engine, "QUARANTINE")) == ROWS - len(good)
    counts = table(engine, "COUNTS")
    for series, expected in {
        ("", "", ""): good,
        ("Acme", "", ""): good,
        ("Acme", "mood", "negative"): [text for text in good if "dull" in text],
    }.items():
        counted = sum(row["texts"] for row in counts if (row["entity"], row["model"], row["label"]) == series)
        assert counted == len(expected), series
    assert len(table(engine, "MENTIONS")) == len(good)
    engine.close()


def posts(folder, first, last):
    with (folder / "posts.jsonl").open("a") as file:
        file.writelines(json.dumps({"text": f"dull Acme {n}", "time": hour(n)}) + "\n" for n in range(first, last))


def test_a_second_process_stores_nothing_twice(tmp_path):
    posts(tmp_path, 0, 10)
    first, second = readers.engine(tmp_path), readers.engine(tmp_path)
    with pytest.raises(UserError, match="another process reads into sqlite"):
        first.step()
    second.step()
    assert len(table(first, "TEXTS")) == 10
    with pytest.raises(UserError, match=r"the counts in sqlite.* are of 3600 seconds each, not of 86400"):
        readers.engine(tmp_path, window="1d")


class Proxy:
    """Stands between a client and PostgreSQL; it can refuse, or lose the answer to a COMMIT."""

    def __init__(self, address):
        self._to, self.mode, self.lost = address.split(":"), "pass", 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.mode == "refuse":
                client.close()
                continue
            server = socket.create_connection(self._to)
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source, target, asks):
        try:
            while data := source.recv(1 << 16):
                if asks and self.mode == "lose" and b"COMMIT" in data:
                    self.mode, self.lost = "pass", self.lost + 1
                    source.shutdown(socket.SHUT_RDWR)  # the client hears no more
                target.sendall(data)
        except OSError:
            pass
        finally:
            for each in (source, target):
                each.close()

    def close(self):
        self._listener.close()


def test_postgresql_that_goes_away_and_an_answer_that_is_lost(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAM_PASSWORD", PASSWORD)
    with postgresql.running(PASSWORD) as address:
        proxy = Proxy(address)
        url = f"postgresql://keeper:${{STREAM_PASSWORD}}@{proxy.address}/postgres"
        engine = readers.engine(tmp_path, url=url, batch=4)
        posts(tmp_path, 0, 10)
        engine.step()
        proxy.mode = "refuse"
        for _ in range(2):
            with pytest.raises(Away, match="does not answer") as away:
                engine.step()
            assert PASSWORD not in str(away.value)
        proxy.mode = "lose"
        with pytest.raises(Away):
            engine.step()
        assert proxy.lost == 1
        read_all(engine)
        posts(tmp_path, 10, 13)
        again = readers.engine(tmp_path, url=url)
        read_all(again)
        assert sorted(row["number"] for row in table(again, "TEXTS")) == list(range(1, 14))
        counted = [row for row in table(again, "COUNTS") if row["label"] == "negative" and not row["entity"]]
        assert [(row["start"].hour, row["texts"]) for row in sorted(counted, key=lambda row: row["start"])] == [
            (n, 1) for n in range(13)
        ]
        assert again.store.forget(datetime.datetime.fromisoformat(hour(11))) == 11
        assert [len(table(again, name)) for name in ("TEXTS", "MENTIONS")] == [2, 2]
        proxy.close()


def test_old_texts_go_with_their_mentions_and_counts_stay(tmp_path):
    secret = "this very sentence"
    with (tmp_path / "posts.jsonl").open("w") as file:
        for number in range(48):
            file.write(
                json.dumps({"text": f"fine Acme {secret if number < 24 else ''} {number}", "time": hour(number)})
            )
            file.write("\n")
    engine = readers.engine(tmp_path)
    read_all(engine)
    counted = table(engine, "COUNTS")
    day_later = datetime.datetime.fromisoformat(hour(24))
    assert engine.store.forget(day_later) == 24 and engine.store.forget(day_later) == 0
    assert min(row["time"] for row in table(engine, "TEXTS")) == day_later
    assert len(table(engine, "MENTIONS")) == len(table(engine, "TEXTS")) == 24
    assert table(engine, "COUNTS") == counted
    engine.store.forget(day_later + datetime.timedelta(days=2))
    assert table(engine, "TEXTS") == [] and engine.store.newest() == datetime.datetime.fromisoformat(hour(47))
    engine.close()
    assert secret.encode() not in (tmp_path / "stream.db").read_bytes()


def test_old_texts_go_part_by_part_and_quarantine_by_when_it_came(tmp_path, monkeypatch):
    monkeypatch.setattr("bertline.streams.store.FORGOTTEN", 7)
    rows = [json.dumps({"text": f"Acme {number}", "time": hour(number // 5)}) for number in range(20)] + ["{broken"]
    (tmp_path / "posts.jsonl").write_text("\n".join(rows) + "\n")
    engine = readers.engine(tmp_path)
    read_all(engine)
    before = datetime.datetime.fromisoformat(hour(3))
    removed = [engine.store.forget(before) for _ in range(4)]
    assert removed == [7, 7, 1, 0] and len(table(engine, "MENTIONS")) == len(table(engine, "TEXTS")) == 5
    assert len(table(engine, "QUARANTINE")) == 1
    engine.store.forget(datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1))
    assert table(engine, "QUARANTINE") == []
    engine.close()
