import os
import sys
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


@pytest.fixture(scope="session")
def warm():
    """Runs `bertline` and the stages' commands without the ten seconds of their imports; see warm.Warm."""
    from warm import Warm

    with Warm() as process:
        yield process


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config, items):
    """Puts the tests in order, and those together that share what is dear to make.

    In one process the fast tests come first. Of `make test`'s two processes one begins with the end-to-end runs: they
    take longest, and at the end the other would wait for them. A file's tests share its fixtures, and those of the
    end-to-end run theirs over several files.
    """
    in_parallel = hasattr(config, "workerinput")
    whole_line = {item: "/e2e/" in str(item.path) for item in items}
    items.sort(key=lambda item: whole_line[item] != in_parallel)
    for item in items:
        of_the_run = whole_line[item] and "task" in item.fixturenames
        item.add_marker(pytest.mark.xdist_group("the end-to-end run" if of_the_run else str(item.path)))
