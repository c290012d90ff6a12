import dataclasses
import io
from pathlib import Path

import factories
import numpy as np
import pytest

from bertline.components import gates
from bertline.components.options import EvaluateOptions
from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import evaluated, explain_gate
from bertline.pipeline.evaluated import Run
from bertline.pipeline.screen import Screen

CLASSES = ["bad", "good"]
# 60 rows answered rightly and 40 wrongly, each a little further from its label than the one before; shops in turn.
LABELS = ["good"] * 60 + ["bad"] * 40
SHORT_BY = [0.8] * 60 + [0.01 * (row + 1) for row in range(40)]


def run(**options) -> Run:
    chosen = EvaluateOptions(
        slices=["shop"], length_buckets=[], gates={"not_worse_by": None, "beats_majority": False, **options}
    )
    short_by = np.array(SHORT_BY)
    answers = factories.answers(
        CLASSES,
        [CLASSES.index(label) for label in LABELS],
        [1] * 100,
        np.stack([0.5 - short_by / 2, 0.5 + short_by / 2], -1),
        previous=[1] * 60 + [0] * 30 + [1] * 10,
        columns={
            "row_id": [f"row-{row}" for row in range(100)],
            "text": [f"text {row}" for row in range(100)],
            "shop": ["north" if row % 2 else "south" for row in range(100)],
        },
        version="17",
    ).sliced(chosen)
    return judged(Run("2026-11-22T00:00:00", [], "", factories.metrics(answers), answers, chosen, Path()))


def judged(explained: Run, **changes) -> Run:
    """The run with these changes of its answers, and what its gates say of them."""
    answers = dataclasses.replace(explained.answers, **changes)
    verdicts = gates.judge(factories.metrics(answers), answers, explained.options.gates)
    return dataclasses.replace(explained, answers=answers, verdicts=[verdict.as_dict() for verdict in verdicts])


def blocking(explained: Run) -> dict:
    (verdict,) = [each for each in explained.verdicts if not each["passed"]]
    return verdict


def shown(explained: Run) -> str:
    output = io.StringIO()
    explain_gate.show(explained, Screen(output, width=140))
    return output.getvalue()


def test_a_floor_is_reached_by_the_wrong_rows_nearest_to_being_right():
    explained = run(accuracy=0.65)
    change = explain_gate.change(explained, blocking(explained))
    assert change.needed == 5  # 60 of 100 are right and 65 are asked
    assert change.rows.tolist() == [60, 61, 62, 63, 64]
    text = shown(explained)
    assert "accuracy 0.600 is below the config's floor of 0.65" in text
    assert "measured 0.600, between 0.502 and 0.691; missed by 0.05" in text
    assert "5 more right answers would have let it pass" in text
    assert "row-60  bad    good      0.010     text 60" in text
    assert "row-65" not in text


def test_a_loss_against_the_last_model_is_made_good_by_rows_that_it_had_right():
    explained = run(not_worse_by=0.05)
    change = explain_gate.change(explained, blocking(explained))
    assert set(change.rows) <= set(range(60, 90))
    for righted in (change.needed - 1, change.needed):
        predicted = np.array([1] * 60 + [0] * righted + [1] * (40 - righted))
        assert judged(explained, predicted=predicted).verdicts[0]["passed"] == (righted == change.needed)


def test_rows_of_the_slice_alone_help_a_slice():
    explained = run(slices={"minimum_rows": 10, "accuracy": 0.78})
    verdicts = [verdict for verdict in explained.verdicts if not verdict["passed"]]
    assert {verdict["slice"] for verdict in verdicts} == {"shop=north", "shop=south"}
    for verdict in verdicts:
        shops = {explained.answers.columns["shop"][row] for row in explain_gate.change(explained, verdict).rows}
        assert {f"shop={shop}" for shop in shops} == {verdict["slice"]}


def test_groups_are_helped_by_the_group_that_is_favoured_least():
    explained = run(fairness={"column": "shop", "label": "bad", "equal_opportunity": 0.1}, slices={"minimum_rows": 10})
    # No bad row is found in either shop; give north all of its own.
    predicted = np.full(100, 1)
    predicted[61::2] = 0
    explained = judged(explained, predicted=predicted)
    verdict = next(each for each in explained.verdicts if each["kind"] == "fairness.equal_opportunity")
    change = explain_gate.change(explained, verdict)
    assert {explained.answers.columns["shop"][row] for row in change.rows} == {"south"}
    assert 10 <= change.needed <= 20


def test_no_single_row_changes_the_calibration():
    explained = run(max_calibration_error=0.1)
    assert explain_gate.change(explained, blocking(explained)) is None
    assert "no single row would change that" in shown(explained)


def test_a_text_cannot_command_the_terminal():
    explained = run(accuracy=0.65)
    explained.answers.columns["text"][60] = "\x1b[2Jgone [bold]" + "x" * 100
    text = shown(explained)
    assert "\x1b" not in text
    assert "[2Jgone [bold]xxx" in text
    assert "\N{HORIZONTAL ELLIPSIS}" in text


def test_gates_and_reasons_are_shown_as_they_stand():
    explained = run(accuracy=0.65)
    blocking(explained).update(gate="[/eu] >= 1", reason="slice shop=[bold]eu[/bold] :warning:")
    text = shown(dataclasses.replace(explained, run_id="[/eu]"))
    assert "run [/eu]: 1 of 1 verdicts block it" in text
    assert "\n[/eu] >= 1\n  slice shop=[bold]eu[/bold] :warning:\n" in text


def test_nothing_blocked():
    assert "nothing blocked it; 1 gates passed" in shown(run(accuracy=0.5))


def test_what_the_canary_refused_is_said():
    assert "the canary did not: p99 900 ms" in shown(dataclasses.replace(run(accuracy=0.5), canary="p99 900 ms"))


def test_a_task_without_runs_says_so(tmp_path):
    (tmp_path / "task.yaml").write_text(f"name: reviews\nroot: {tmp_path}/runs\ndata: {{source: reviews.csv}}\n")
    with pytest.raises(UserError, match="no runs yet"):
        evaluated.read(configs.load(tmp_path / "task.yaml"), None)
