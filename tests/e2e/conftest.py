import factories
import pytest
from lines import Line, first_evaluation


@pytest.fixture(scope="session")
def line(tmp_path_factory, warm):
    """A task whose line has been run once, to a pushed version. Tests of one file use it in order."""
    folder = tmp_path_factory.mktemp("line")
    config = factories.write_task(folder, factories.reviews(900))
    made = Line(folder, warm)
    made.first_config = config.read_text(encoding="utf-8")
    made.first = made.run_as_installed()
    made.first_metrics, made.first_release = first_evaluation(folder)
    return made
