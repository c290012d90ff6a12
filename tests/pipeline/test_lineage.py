import factories
import pytest
from past_runs import PastRuns

from bertline.components.evaluation import write_metrics
from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import lineage, metadata_store
from bertline.pipeline.stages import Node


@pytest.fixture
def task(tmp_path):
    return configs.load(factories.write_task(tmp_path, factories.reviews(3)))


# === Which run is meant ===


@pytest.mark.parametrize(
    "spelling",
    [
        "2026-11-22T06:10:00Z",
        "2026-11-22T061000Z",
        "runs/reviews/review/2026-11-22T061000Z.html",
        "2026-11-22T061000Z.log",
    ],
)
def test_a_run_is_found_by_each_of_its_names(task, spelling):
    runs = PastRuns(task.root_folder)
    for run_id in ("2026-11-22T06:10:00Z", "2026-11-22T07:10:00Z"):
        runs.add_pushed(run_id, "17")
    assert lineage.find(task, spelling, Node.EVALUATOR)[1] == "2026-11-22T06:10:00Z"


def test_a_run_of_an_older_version_is_found(task):
    PastRuns(task.root_folder).add_pushed("2025-11-22T06:10:00", "17")
    assert lineage.find(task, "2025-11-22T061000", Node.EVALUATOR)[1] == "2025-11-22T06:10:00"
    with pytest.raises(UserError, match="2025-11-22T06:10:00Z is no run under"):
        lineage.find(task, "2025-11-22T06:10:00Z", Node.EVALUATOR)


def test_the_newest_run_is_the_one_that_came_so_far(task):
    runs = PastRuns(task.root_folder)
    runs.add_pushed("2026-11-22T06:10:00Z", "17")
    runs.add("2026-11-23T06:10:00Z", [("Trainer", "FAILED", {})])
    assert lineage.find(task, None, Node.EVALUATOR)[1] == "2026-11-22T06:10:00Z"
    with pytest.raises(UserError, match="run 2026-11-23T06:10:00Z ended before its Evaluator"):
        lineage.find(task, "2026-11-23T061000Z", Node.EVALUATOR)


# === Past figures, for the review page ===


def evaluation(folder, accuracy):
    folder.mkdir()
    metrics = factories.metrics(factories.answers(["bad", "good"], [0, 1] * 5, [0, 1] * 5), accuracy=accuracy)
    write_metrics(str(folder), metrics)
    return folder


def test_past_figures_are_those_of_other_inputs_and_of_each_evaluation_once(task, tmp_path):
    first, second = evaluation(tmp_path / "1", 0.7), evaluation(tmp_path / "2", 0.8)
    runs = PastRuns(task.root_folder)
    runs.add_pushed("a", "", "accuracy is low", inputs="x", folder=first)
    runs.add_pushed("b", "17", inputs="x", folder=first)
    runs.add_pushed("c", "18", inputs="y", folder=second)
    runs.add_pushed("d", "", inputs="z", folder=tmp_path / "gone")
    store = lineage.Store(task)
    (shown,) = lineage.past_figures(store, "y")
    assert set(shown.pop("intervals")) == {"accuracy", "macro_f1", "balanced_accuracy", "calibration_error"}
    assert shown == {"run": "a", "outcome": "pushed", "version": "17", "rows": 10, "accuracy": 0.7, "macro_f1": 1.0}
    assert [each["run"] for each in lineage.past_figures(store, "new")] == ["a", "c"]


def test_an_evaluation_of_another_version_is_left_out(task, tmp_path):
    runs = PastRuns(task.root_folder)
    runs.add_pushed("a", "17", inputs="x", folder=evaluation(tmp_path / "1", 0.7))
    runs.add_pushed("b", "18", inputs="y", folder=evaluation(tmp_path / "2", 0.8))
    (tmp_path / "1" / "metrics.json").write_text('{"accuracy": 0.7}')
    assert [each["run"] for each in lineage.past_figures(lineage.Store(task), "new")] == ["b"]


class Counting:
    """A metadata store that counts the calls and the rows of their answers."""

    def __init__(self, store):
        self._store, self.calls, self.rows = store, 0, 0

    def __getattr__(self, name):
        def call(*arguments, **options):
            answer = getattr(self._store, name)(*arguments, **options)
            self.calls += 1
            self.rows += len(answer) if isinstance(answer, list) else 1
            return answer

        return call


def test_what_is_read_does_not_grow_with_the_number_of_runs(task, tmp_path, monkeypatch):
    monkeypatch.setattr(lineage, "HISTORY_RUNS", 5)
    monkeypatch.setattr(lineage, "PORTION", 8)
    connect, opened = metadata_store.connect, []
    monkeypatch.setattr(metadata_store, "connect", lambda place: opened.append(Counting(connect(place))) or opened[-1])
    runs = PastRuns(task.root_folder)
    read = []
    for start in (0, 20):  # 20 runs, then 60
        for run in range(start, 3 * start or 20):
            runs.add_pushed(f"run {run}", "17", inputs=str(run), folder=evaluation(tmp_path / str(run), 0.7))
        opened.clear()
        shown = lineage.past_figures(lineage.Store(task), "new")
        lineage.find(task, None, Node.EVALUATOR)
        read.append([(store.calls, store.rows) for store in opened])
    assert [each["run"] for each in shown] == [f"run {run}" for run in range(55, 60)]
    assert len(read[0]) == 2 and read[0] == read[1]
