"""A Hugging Face hub on this machine, of which the real client fetches folders."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serving(folders: dict[str, Path]):
    """Serves folders by their names, such as owner/name; yields the address, and the paths that were asked for."""
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET(body=False)

        def do_GET(self, body=True):
            path = urlsplit(self.path).path
            asked.append(path)
            for name, folder in folders.items():
                files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
                if path.startswith(f"/api/models/{name}"):
                    siblings = [{"rfilename": file} for file in files]
                    listed = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "private": False}
                    tree = [
                        {"type": "file", "path": each, "size": files[each].stat().st_size, "oid": each}
                        for each in files
                    ]
                    return self._give(json.dumps(tree if "/tree/" in path else listed).encode(), {}, body)
                file = files.get(path.removeprefix(f"/{name}/resolve/").partition("/")[2])
                if path.startswith(f"/{name}/resolve/") and file:
                    content = file.read_bytes()
                    headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
                    return self._give(content, headers, body)
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _give(self, content, headers, body):
            self.send_response(200)
            for name, value in {**headers, "Content-Length": len(content)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
