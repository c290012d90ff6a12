import pytest
from factories import write_task
from typer.testing import CliRunner

from components.errors import LineError
from pipeline import cli, lineage
from pipeline import config as configs


def label_issues(*arguments):
    result = CliRunner().invoke(cli.app, ["label-issues", *map(str, arguments)])
    if isinstance(result.exception, LineError):
        raise result.exception
    return result


def test_without_a_run_that_looked_there_is_nothing_to_write(tmp_path):
    config = write_task(tmp_path, [])
    with pytest.raises(LineError, match=r"no runs yet under .*runs"):
        label_issues(config)
    task = configs.load(config)
    task.root_folder.mkdir()
    lineage.Store(task).run_ids()  # makes an empty store
    with pytest.raises(LineError, match="no run has completed its LabelQuality yet"):
        label_issues(config)
    with pytest.raises(LineError, match="yesterday is no run under"):
        label_issues(config, "yesterday")
