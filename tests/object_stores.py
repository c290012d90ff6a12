"""Small object stores over real HTTP, which list and hand out objects: S3's protocol, and Google Cloud Storage's."""

import json
import tempfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

STAMP = "2026-11-22T06:00:00.000Z"
BUCKET = "bucket"


@contextmanager
def s3(objects, monkeypatch):
    """Serves `objects`, key -> bytes, as s3://bucket/KEY to what the block runs."""
    with _served(_S3, objects) as url:
        environment = {"ENDPOINT_URL": url, "ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key", "REGION": "us-east-1",
                       "EC2_METADATA_DISABLED": "true"}  # fmt: skip
        for name, value in environment.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        yield


@contextmanager
def google(objects, monkeypatch):
    """Serves `objects`, key -> bytes, as gs://bucket/KEY to what the block runs."""
    with _served(_Google, objects) as url, tempfile.NamedTemporaryFile("w", suffix=".json") as credentials:
        user = {"client_id": "id", "client_secret": "secret", "refresh_token": "token", "token_uri": f"{url}/token"}
        json.dump({"type": "authorized_user", **user}, credentials)
        credentials.flush()
        monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", url)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", credentials.name)
        yield


@contextmanager
def _served(handler, objects):
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.objects = objects
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Sun, 22 Nov 2026 06:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def hand_out(self, key):
        contents = self.server.objects.get(key)
        self.answer(404 if contents is None else 200, contents or b"")

    def log_message(self, *_):
        """The test's output is not an access log."""


class _S3(_Handler):
    def do_GET(self):
        address = urlsplit(self.path)
        if "list-type" in address.query:
            self.answer(200, self.listing(parse_qs(address.query)))
        else:
            self.hand_out(unquote(address.path.removeprefix(f"/{BUCKET}").removeprefix("/")))

    def listing(self, query):
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        keys, folders = [], set()
        for key, contents in sorted(self.server.objects.items()):
            inside = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if delimiter and delimiter in inside:
                folders.add(prefix + inside.partition(delimiter)[0] + delimiter)
            else:
                keys.append(f"<Contents><Key>{escape(key)}</Key><Size>{len(contents)}</Size>"
                            f"<LastModified>{STAMP}</LastModified></Contents>")  # fmt: skip
        shown = "".join(keys) + "".join(f"<CommonPrefixes><Prefix>{each}</Prefix></CommonPrefixes>" for each in folders)
        count = len(keys) + len(folders)
        return (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><KeyCount>{count}</KeyCount><IsTruncated>false</IsTruncated>{shown}"
            "</ListBucketResult>"
        ).encode()


class _Google(_Handler):
    def do_POST(self):  # who asks gets a token
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, b'{"access_token": "token", "token_type": "Bearer", "expires_in": 3600}')

    def do_GET(self):
        address = urlsplit(self.path)
        query = parse_qs(address.query)
        path = address.path.removeprefix("/storage/v1/b/")
        if path == f"{BUCKET}/o":
            prefix = query.get("prefix", [""])[0]
            items = [self.described(key) for key in sorted(self.server.objects) if key.startswith(prefix)]
            self.answer(200, json.dumps({"kind": "storage#objects", "items": items}).encode())
        elif path.startswith(f"{BUCKET}/o/") and query.get("alt") != ["media"]:
            key = unquote(path.removeprefix(f"{BUCKET}/o/"))
            if key in self.server.objects:
                self.answer(200, json.dumps(self.described(key)).encode())
            else:
                self.answer(404, b"{}")
        else:
            self.hand_out(unquote(path.removeprefix(f"{BUCKET}/o/")))

    def described(self, key):
        return {
            "kind": "storage#object",
            "name": key,
            "bucket": BUCKET,
            "generation": "1",
            "size": str(len(self.server.objects[key])),
            "timeCreated": STAMP,
            "updated": STAMP,
        }
