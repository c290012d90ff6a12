"""An object store's folder, over real HTTP: a small S3 that lists and hands out objects."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import pytest

from components import sources
from components.errors import LineError
from components.object_store import local_copy
from components.options import DataOptions

OBJECTS = {"data/train/a.csv": b"text,label\ngood,yes\n", "data/train/b.csv": b"text,label\nbad,no\n", "other": b"x"}
STAMP = "2026-11-22T06:00:00.000Z"


class S3(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        address = urlsplit(self.path)
        key = address.path.removeprefix("/bucket").removeprefix("/")
        if "list-type" in address.query:
            self.answer(200, listing(parse_qs(address.query)))
        elif key in OBJECTS:
            self.answer(200, OBJECTS[key])
        else:
            self.answer(404, b"")

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Sun, 22 Nov 2026 06:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        """The test's output is not an access log."""


def listing(query):
    prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
    keys, folders = [], set()
    for key in sorted(OBJECTS):
        inside = key.removeprefix(prefix)
        if not key.startswith(prefix):
            continue
        if delimiter and delimiter in inside:
            folders.add(prefix + inside.partition(delimiter)[0] + delimiter)
        else:
            keys.append(f"<Contents><Key>{escape(key)}</Key><Size>{len(OBJECTS[key])}</Size>"
                        f"<LastModified>{STAMP}</LastModified></Contents>")  # fmt: skip
    shown = "".join(keys) + "".join(f"<CommonPrefixes><Prefix>{each}</Prefix></CommonPrefixes>" for each in folders)
    count = len(keys) + len(folders)
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>'
        f"<KeyCount>{count}</KeyCount><IsTruncated>false</IsTruncated>{shown}</ListBucketResult>"
    ).encode()


@pytest.fixture
def _store(monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), S3) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {"ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "ACCESS_KEY_ID": "id",
                       "SECRET_ACCESS_KEY": "key", "REGION": "us-east-1", "EC2_METADATA_DISABLED": "true"}  # fmt: skip
        for name, value in environment.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        yield
        server.shutdown()


@pytest.mark.usefixtures("_store")
@pytest.mark.parametrize("scheme", ["s3", "minio"])
def test_a_folder_is_brought_and_read_as_a_local_one(scheme):
    with local_copy(f"{scheme}://bucket/data") as folder:
        files = sources.of_options(DataOptions(source="train/*.csv"), folder)
        assert [file.name for file in files] == ["train/a.csv", "train/b.csv"]
        assert Path(files[0].path).read_bytes() == OBJECTS["data/train/a.csv"]
        fingerprint = sources.fingerprint(files)
    assert not Path(folder).exists()
    with local_copy("s3://bucket/data/") as again:
        assert sources.fingerprint(sources.of_options(DataOptions(source="train/*.csv"), again)) == fingerprint


@pytest.mark.usefixtures("_store")
def test_a_folder_that_is_not_there_is_named():
    with (
        pytest.raises(LineError, match="s3://bucket/nothing: there is no such folder"),
        local_copy("s3://bucket/nothing"),
    ):
        pass


def test_another_kind_of_address_is_refused_with_those_that_go():
    with pytest.raises(LineError, match="gs://, s3://, minio://"), local_copy("ftp://bucket/data"):
        pass


def test_a_local_folder_is_itself():
    with local_copy("/data") as folder:
        assert folder == "/data"
