"""Kubeflow Pipelines' API over real HTTP, as far as a client needs it to start runs."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

API = "/apis/v2beta1"


@contextmanager
def running():
    """A Kubeflow that answers while the block runs."""
    with Kubeflow() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class Kubeflow(ThreadingHTTPServer):
    """An API that knows experiments, runs and recurring runs, and asks for a bearer token if it has one.

    Each run has ended in its `state`.
    """

    def __init__(self, token=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.token, self.state, self.created, self.experiments = token, "SUCCEEDED", [], {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        address = urlsplit(self.path)
        if not self.allowed():
            return
        if address.path == f"{API}/experiments":
            wanted = json.loads(parse_qs(address.query)["filter"][0])["predicates"][0]
            name = wanted.get("stringValue") or wanted.get("string_value")
            experiments = [
                experiment for experiment in self.server.experiments.values() if experiment["display_name"] == name
            ]
            self.answer({"experiments": experiments, "total_size": len(experiments)})
        elif address.path == f"{API}/runs/run-1":
            self.answer({"run_id": "run-1", "state": self.server.state})
        else:
            self.answer({})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        kind = urlsplit(self.path).path.removeprefix(f"{API}/")
        self.server.created.append((kind, body))
        if kind == "experiments":
            self.server.experiments["experiment-1"] = made = {**body, "experiment_id": "experiment-1"}
            self.answer(made)
        else:
            self.answer({**body, "run_id": "run-1", "recurring_run_id": "schedule-1"})

    def allowed(self):
        if self.server.token and self.headers.get("authorization") != f"Bearer {self.server.token}":
            self.answer({"error": "who are you?"}, 401)
            return False
        return True

    def answer(self, body, status=200):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_):
        """The test's output is not an access log."""
