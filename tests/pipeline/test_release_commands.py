import json
from pathlib import Path

import factories
import pytest
from past_runs import PastRuns
from typer.testing import CliRunner

from bertline.errors import UserError
from bertline.pipeline import cli, lineage, local_runner
from bertline.pipeline import config as configs
from bertline.serving import push, rollback


@pytest.fixture
def config(tmp_path):
    """A task whose serving folder holds the releases 100 and 200, of two runs on record."""
    path = factories.write_task(tmp_path, factories.reviews(3))
    task = configs.load(path)
    runs = PastRuns(task.root_folder)
    model = tmp_path / "model"
    model.mkdir()
    for version, inputs in ((100, "a"), (200, "b")):
        (model / "saved_model.pb").write_text(inputs)
        record = {"inputs": inputs, "metrics": {"accuracy": 0.875}}
        push.publish(model, task.serving_folder, record, now=lambda version=version: version)
        runs.add_pushed(f"run of {version}", str(version), inputs=inputs)
    return path


def bertline(*arguments):
    ran = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if ran.exception and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    return " ".join(ran.stdout.split())


def listed(config):
    ran = CliRunner().invoke(cli.app, ["releases", str(config), "--json"])
    return [json.loads(line) for line in ran.stdout.splitlines()]


def facts(config):
    """What a run would find out."""
    task = configs.load(config)
    return local_runner.gather_facts(task, lineage.Store(task), "data")


def test_there_and_back_in_words(config):
    shown = bertline("rollback", config, "--reason", "angry customers")
    assert "withdrawn: 200; served: 100" in shown
    assert f"the way back: bertline rollback {config} --undo" in shown.replace("\n", "")
    assert [(each["version"], each["state"]) for each in listed(config)] == [(100, "served"), (200, "withdrawn")]
    assert listed(config)[1]["withdrawal"]["reason"] == "angry customers"
    assert "angry customers" in bertline("releases", config)
    assert "in service again: 200; served: 200" in bertline("rollback", config, "--undo")
    assert [(each["version"], each["state"]) for each in listed(config)] == [(100, "kept"), (200, "served")]


def test_releases_tell_the_canary_from_what_is_served(config):
    """With serve.canary in the config, the newest version answers only once it is promoted."""
    text = config.read_text().replace("serve: {port: 0}", "serve: {port: 0, canary: {}}")
    config.write_text(text)
    folder = Path(configs.load(config).serving_folder)
    (folder / "100" / "canary.json").write_text('{"state": "promoted", "at": "2026-11-28T10:00", "reason": "it held"}')
    assert [(each["version"], each["state"]) for each in listed(config)] == [(100, "served"), (200, "canary")]
    judging = {"state": "judging", "began": "2026-11-28T11:00", "against": 100, "counts": {"requests": 1234}}
    (folder / "200" / "canary.json").write_text(json.dumps(judging))
    assert "promoted 2026-11-28T10:00 it held" in bertline("releases", config)
    assert "tried since 2026-11-28T11:00 against 100, 1,234 requests" in bertline("releases", config)
    assert "withdrawn: 200; served: 100" in bertline("rollback", config)
    assert "in service again: 200; served: 100" in bertline("rollback", config, "--undo")
    config.write_text(text.replace(", canary: {}", ""))
    assert [(each["version"], each["state"]) for each in listed(config)] == [(100, "kept"), (200, "served")]


def test_a_canarys_reason_is_shown_once(config):
    reason = "canary: agreement 0.341 of 41 texts"
    folder = Path(configs.load(config).serving_folder)
    rollback.withdraw(folder, 200, 100, reason)
    record = {"state": "withdrawn", "at": "2026-11-28T11:00", "reason": reason}
    (folder / "withdrawn-200" / "canary.json").write_text(json.dumps(record))
    assert bertline("releases", config).count("0.341") == 1
    shown = CliRunner().invoke(cli.app, ["releases", str(config), "--json"]).stdout
    assert shown.count(reason) == 1 and listed(config)[1]["canary"]["state"] == "withdrawn"


def test_to_names_the_version(config):
    assert "withdrawn: 200; served: 100" in bertline("rollback", config, "--to", "100")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--to", "200"), "200 is the version that is served"),
        (("--to", "7"), "there is no release 7"),
        (("--undo",), "nothing to undo"),
        (("--undo", "--to", "100"), "leave out --to and --reason"),
    ],
)
def test_what_cannot_be_is_a_persons_error(config, arguments, words):
    with pytest.raises(UserError, match=words):
        bertline("rollback", config, *arguments)
    assert [each["state"] for each in listed(config)] == ["kept", "served"]


def test_empty_folder_says_how_to_fill_it(tmp_path):
    config = factories.write_task(tmp_path, factories.reviews(3))
    with pytest.raises(UserError, match="holds no pushed version; `bertline run"):
        bertline("releases", config)


def test_rollback_asks_the_push_stage_again_and_counts_nothing_as_lost(config):
    before = facts(config)
    bertline("rollback", config)
    after = facts(config)
    assert (before.vanished, before.withdrawn, before.last_blessed) == (0, "", "200")
    assert (after.vanished, after.withdrawn, after.last_blessed) == (0, "200", "100")
    assert json.loads(after.release)["parent"] == 100
    bertline("rollback", config, "--undo")
    assert facts(config) == before, "the cached push counts again"


def test_lost_version_still_counts(config):
    PastRuns(configs.load(config).root_folder).add_pushed("run of 50", "50")
    assert facts(config).vanished == 1
