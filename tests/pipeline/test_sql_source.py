"""A database's rows from `bertline init` to a run of the line."""

import re

import factories
import postgresql
import psycopg
import pytest
from typer.testing import CliRunner

from bertline.pipeline import cli, config

PASSWORD = "kept/to@ourselves"
QUERY = "SELECT title, body, label, shop FROM reviews ORDER BY id"


@pytest.fixture(scope="module")
def server():
    with postgresql.running(PASSWORD) as address:
        host, port = address.split(":")
        place = f"host={host} port={port} user=keeper password={PASSWORD} dbname=postgres"
        with psycopg.connect(place, autocommit=True) as shop:
            shop.execute("CREATE TABLE reviews (id serial, title text, body text, label text, shop text)")
            for number, (text, label, name) in enumerate(factories.reviews(90)):
                title = f"a title {number} of it"
                row = (title, text, label, name)
                shop.execute("INSERT INTO reviews (title, body, label, shop) VALUES (%s, %s, %s, %s)", row)
            yield f"postgresql://keeper:${{SHOP_PASSWORD}}@{address}/postgres", shop


def test_what_init_writes_runs_and_an_unchanged_answer_runs_nothing_again(server, tmp_path, warm, monkeypatch):
    """Runs that end at the data gate, which is soon."""
    url, shop = server
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    arguments = ["init", "--url", url, "--query", QUERY, "-o", str(tmp_path / "proposed.yaml")]
    proposed = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert "90 rows; columns: title, body, label, shop" in proposed.output
    data = config.load(tmp_path / "proposed.yaml").data
    assert (data.text, data.label, data.source[0].url, data.source[0].query) == (["title", "body"], "label", url, QUERY)

    task = factories.write_task(tmp_path, factories.reviews(9))
    [source] = re.findall(r"^  source: .*$", (tmp_path / "proposed.yaml").read_text(), re.MULTILINE)
    text = task.read_text(encoding="utf-8").replace("max_length: 16", "max_length: 4")  # cuts most texts short
    task.write_text(text.replace("  source: reviews.csv", f"{source}\n  text: [title, body]"), encoding="utf-8")

    def ingest():
        run = warm.bertline("run", task, cwd=tmp_path, env={"SHOP_PASSWORD": PASSWORD})
        assert run.returncode == 1 and "truncated" in run.stdout, run.stdout + run.stderr
        assert PASSWORD not in run.stdout + run.stderr
        return re.search(r"ingest (.*?) (?:validate|failed|tokenise)", " ".join(run.stdout.split()))[1]

    assert "90 rows of 90: 0 duplicates joined, 0 quarantined" in (first := ingest()) and "(cached)" not in first
    assert "(cached)" in ingest()
    shop.execute("INSERT INTO reviews (title, body, label, shop) VALUES ('more', 'of it all', 'neutral', 'north')")
    assert "91 rows of 91" in (third := ingest()) and "(cached)" not in third
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]
    assert any(path.suffix == ".log" for path in written)
    assert len(list((tmp_path / "runs" / "queries").iterdir())) == 1
