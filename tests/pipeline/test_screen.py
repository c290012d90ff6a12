"""What a person sees: strings from data, files and errors stand on the screen as they are."""

import io
import json
import sys

import factories
import pytest
from past_runs import PastRuns
from typer.testing import CliRunner

from bertline.pipeline import cli, metadata_store
from bertline.pipeline import config as configs
from bertline.pipeline.screen import Screen, gates_table, line
from bertline.serving import push

HOSTILE = "[/eu] [bold]:warning:\x1b[2J\x07"
SHOWN = "[/eu] [bold]:warning:[2J"


@pytest.fixture
def folder(tmp_path):
    """A folder whose path is hostile too."""
    folder = tmp_path / "[" / "eu] [bold]:warning:"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def config(folder):
    """A task whose paths are hostile, with two releases and a run that was blocked for a hostile reason."""
    path = factories.write_task(folder, [(f"{word} {HOSTILE}", HOSTILE, HOSTILE) for word in ("good", "bad", "so")])
    path.write_text(path.read_text().replace(f"{folder}/vocab", f"'{folder}/vocab").replace("vocab.txt", "vocab.txt'"))
    path.write_text(path.read_text().replace(f"root: {folder}/runs", f"root: '{folder}/runs'"))
    task = configs.load(path)
    PastRuns(task.root_folder).add_pushed("2026-11-21T10:00:00", "", f"shop={HOSTILE} lost 0.1")
    model = folder / "model"
    model.mkdir()
    for version in (100, 200):
        (model / "saved_model.pb").write_text(str(version))
        push.publish(model, task.serving_folder, {"inputs": str(version)}, now=lambda version=version: version)
    return path


def shown(*arguments):
    """What a command prints, joined to one line where the screen has folded it."""
    ran = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    assert "\x1b" not in ran.output and "\x07" not in ran.output
    return " ".join(ran.output.split())


def test_runs_and_their_reasons(config):
    assert f"shop={SHOWN} lost 0.1" in shown("runs", config)


def test_releases_and_rollbacks(config):
    assert str(config) in shown("rollback", config, "--reason", HOSTILE).replace("\n", "")
    assert SHOWN in shown("releases", config)


def test_a_proposal_from_a_hostile_file(folder):
    rows = [(f"{text} {number}", label) for number, (text, label, _) in enumerate(factories.reviews(60))]
    source = factories.write_csv(folder / "reviews.csv", rows, header=("text", "[/eu] [bold]"))
    target = folder / "config.yaml"
    assert f"wrote {target}" in shown("init", source, "--output", target, "--label", "[/eu] [bold]")


def test_a_machine_with_a_hostile_config(config):
    assert f"GiB free in {config.parent}/runs" in shown("doctor", config)


@pytest.mark.parametrize("arguments", [("run", f"{SHOWN}.yaml"), ("predict", f"{SHOWN}.yaml", "a text")])
def test_an_error(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bertline", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"bertline: {SHOWN}.yaml does not exist.")


def test_a_wrong_call(config):
    assert "--[/eu][bold]" in shown("runs", config, "--[/eu][bold]")


def test_a_run():
    """Stages, gates and errors, as the runner prints them."""
    output = io.StringIO()
    screen = Screen(output, width=140)
    screen.print(line(HOSTILE, HOSTILE, 1.0))
    passed = {"gate": f"{HOSTILE} >= 1", "value": "[/eu]", "passed": True, "reason": "", "interval": None, "note": ""}
    screen.print(gates_table([{**passed, "note": HOSTILE}, {**passed, "passed": False, "reason": HOSTILE}]))
    stage, first, second = (row.rstrip() for row in output.getvalue().splitlines() if "1" in row or "[/eu]" in row)
    assert SHOWN in stage
    assert first.count(SHOWN) == second.count(SHOWN) == 2
    assert "\x1b" not in output.getvalue()


# === Errors ===


def test_an_error_that_is_not_the_users_leaves_its_traceback_in_a_log(config, tmp_path, monkeypatch, capsys):
    log = tmp_path / "bertline.log"
    monkeypatch.setattr(cli, "LIBRARY_LOG", log)
    monkeypatch.setattr(metadata_store, "connect", lambda _: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["bertline", "runs", str(config)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("bertline: ") and "Error" in first
    assert second == f"This is a fault of bertline or of a library; its traceback is in {log}"
    assert "Traceback (most recent call last)" in log.read_text()


def test_a_root_that_cannot_be_written_is_told_in_words(config, monkeypatch, capsys):
    folder = config.parent
    text = config.read_text().replace(f"{folder}/runs", f"{folder}/vocab.txt/runs")
    config.write_text(text.replace("serve: {port: 0}", f"serve: {{folder: '{folder}/runs/serving', port: 0}}"))
    monkeypatch.setattr(sys, "argv", ["bertline", "predict", str(config), "a text"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert f"bertline: {folder}/vocab.txt/runs/logs/serve.log cannot be written: Not a directory" in error
    assert "Set `root` in the config to a folder of your own" in error


def test_json_is_no_place_for_the_screen(config):
    ran = CliRunner().invoke(cli.app, ["runs", str(config), "--json"])
    assert json.loads(ran.stdout)["reason"] == f"shop={HOSTILE} lost 0.1"
