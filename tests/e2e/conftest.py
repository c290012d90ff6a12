import factories
import pytest
from lines import Line


@pytest.fixture(scope="session")
def task(tmp_path_factory, warm):
    """A task whose line has been run once. What a test does to its folder is undone by `line` and its kin."""
    folder = tmp_path_factory.mktemp("line")
    factories.write_task(folder, factories.reviews(900))
    made = Line(folder, warm)
    made.first_run()
    return made


@pytest.fixture
def line(task):
    """The task after its first run, which pushed a version."""
    return task.at("pushed")


@pytest.fixture
def retrained(task):
    """The task after a second run, over a changed row: two versions."""
    return task.at("retrained", lambda line: line.edit("positive", "negative", "reviews.csv"))


@pytest.fixture
def blocked(task):
    """The task after a second run, over shuffled labels: its model is blocked."""
    return task.at("blocked", shuffle_labels)


def shuffle_labels(line):
    factories.write_csv(line.folder / "reviews.csv", factories.shuffled(factories.reviews(900)))
    # No floor: what must block it is that it is worse than the last model, and than always answering one label.
    line.edit("gates: {accuracy: 0.8, macro_f1: 0.8}", "gates: {}")
