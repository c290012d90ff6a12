import gc
import http.server
import json
import os
import queue
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import settings

# `make test` tries some of the inputs that Hypothesis thinks of, always the same; `make fuzz` many, new ones each time.
settings.register_profile("bounded", max_examples=60, derandomize=True, database=None)
settings.register_profile("fuzz", max_examples=5000, print_blob=True)
settings.load_profile("bounded")

# Tests import the shared factories by name, and keep TensorFlow's start-up messages off the screen.
sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
gc.set_threshold(50_000)  # as in `bertline`: looking for garbage at every 700 new objects takes a tenth of the time
# ONNX Runtime tells its maker of each session, but for this; a test holds that nothing here calls anybody.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


@pytest.fixture(autouse=True, scope="module")
def _what_is_there_is_not_looked_at_again():
    """A server collects garbage when it unloads a version: seconds, with all that the files before have imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def warm():
    """Runs `bertline` and the stages' commands without the ten seconds of their imports; see warm.Warm."""
    from warm import Warm

    with Warm() as process:
        yield process


@pytest.fixture
def webhook():
    """A real HTTP server: its address, and a queue of the bodies that it got."""
    got = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}", got
        server.shutdown()
        thread.join()


def pytest_collection_modifyitems(config, items):
    # Fast tests first; but in two processes the lines, which take longest, so that neither waits for the other's end.
    in_parallel = hasattr(config, "workerinput")
    items.sort(key=lambda item: ("/e2e/" in str(item.path)) != in_parallel)
