import os
import sys
from pathlib import Path

# Tests import the shared factories by name, and keep TensorFlow's start-up messages off the screen.
sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_collection_modifyitems(items):
    # Fast tests first: the end-to-end runs share one pipeline run and come last.
    items.sort(key=lambda item: "/e2e/" in str(item.path))
