import hashlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from benchmarks import evaluator
from bertline.errors import UserError
from bertline.pipeline import config


def test_the_limit_is_one_and_a_half_passes_and_fifteen_seconds():
    assert evaluator.limit(8.0) == 27.0


def test_a_task_without_a_run_is_told_to_run(tmp_path):
    (tmp_path / "task.yaml").write_text(f"name: reviews\nroot: {tmp_path}\ndata: {{source: a.csv}}\n")
    with pytest.raises(UserError, match=r"no evaluated run under .*; start one with `bertline run`"):
        evaluator.FinishedRun(config.load(tmp_path / "task.yaml"))


PROCESSORS = psutil.cpu_count()


def test_the_work_of_other_programs_counts():
    with subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) as other:
        others = evaluator.Others()
        time.sleep(0.5)
        percent = others.percent()
        other.kill()
    assert percent > 50 / PROCESSORS  # it had a processor of its own, or others had all of them


def test_our_own_work_does_not_count():
    others, began, used = evaluator.Others(), time.monotonic(), time.process_time()
    with ThreadPoolExecutor(PROCESSORS) as pool:
        list(pool.map(hashlib.sha256, [bytes(200_000_000)] * PROCESSORS))  # without the interpreter's lock
    percent = others.percent()
    own = 100 * (time.process_time() - used) / (PROCESSORS * (time.monotonic() - began))
    assert percent < 100 - own + 10
