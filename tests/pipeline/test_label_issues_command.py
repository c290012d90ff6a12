import pytest
from factories import write_task
from typer.testing import CliRunner

from bertline.errors import UserError
from bertline.pipeline import cli, lineage
from bertline.pipeline import config as configs


def label_issues(*arguments):
    result = CliRunner().invoke(cli.app, ["label-issues", *map(str, arguments)])
    if isinstance(result.exception, UserError):
        raise result.exception
    return result


def test_without_a_run_that_looked_there_is_nothing_to_write(tmp_path):
    config = write_task(tmp_path, [])
    with pytest.raises(UserError, match=r"no runs yet under .*runs"):
        label_issues(config)
    task = configs.load(config)
    task.root_folder.mkdir()
    lineage.Store(task).run_ids()  # makes an empty store
    with pytest.raises(UserError, match="no run has completed its LabelQuality yet"):
        label_issues(config)
    with pytest.raises(UserError, match="yesterday is no run under"):
        label_issues(config, "yesterday")
