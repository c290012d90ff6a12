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


def test_what_other_programs_take_is_a_share_of_the_processors():
    others = evaluator.Others()
    sum(range(30_000_000))  # our own work does not count
    assert 0 <= others.percent() <= 101
