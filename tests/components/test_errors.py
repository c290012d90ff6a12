import pytest

from bertline.components.errors import root_cause
from bertline.errors import UserError

IN_A_WORKER = """\
Traceback (most recent call last):
  File "apache_beam/runners/common.py", line 1498, in apache_beam.runners.common.DoFnRunner.process
  File "/opt/bertline/components/ingestion.py", line 170, in write
bertline.errors.UserError: reviews.csv: row 7: no text
Correct it, or raise data.max_quarantined.

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "apache_beam/runners/worker/sdk_worker.py", line 313, in _execute
bertline.errors.UserError: reviews.csv: row 7: no text
Correct it, or raise data.max_quarantined. [while running 'Write-ptransform-30']

"""
SAID = "reviews.csv: row 7: no text\nCorrect it, or raise data.max_quarantined."


def wrapped(inner):
    try:
        raise RuntimeError("the stage failed") from inner
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "inner",
    [
        UserError(SAID),
        UserError(f"{SAID} [while running 'Write']"),
        RuntimeError(IN_A_WORKER),
        RuntimeError(
            f"Pipeline job-1 failed in state FAILED: java.lang.RuntimeException: Error received: {IN_A_WORKER}"
        ),
        RuntimeError(f"bertline.errors.UserError: {SAID}"),
    ],
    ids=["here", "with the step", "from a worker", "from a job server", "without a traceback"],
)
def test_the_users_error_is_found_under_what_was_wrapped_around_it(inner):
    found = root_cause(wrapped(inner))
    assert isinstance(found, UserError)
    assert str(found) == SAID


def test_a_job_that_its_engine_gave_up_is_told_by_its_last_line():
    said = 'Pipeline job-7 failed in state FAILED: Error running.\nTraceback (recent):\n  File "a.py"\nX: lost.'
    assert str(root_cause(wrapped(RuntimeError(said)))) == (
        "the Beam job ended as FAILED on its engine: X: lost. The engine's logs say more. If a worker was lost, run "
        "again: nothing half-done is left, and finished stages are cached."
    )


def test_any_other_error_is_given_back_as_it_is():
    error = wrapped(RuntimeError("ValueError: no UserError: of ours"))
    assert root_cause(error) is error


def test_errors_that_name_each_other_end_the_search():
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__context__, other.__context__ = other, one
    assert root_cause(one) is one
