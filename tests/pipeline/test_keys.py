import pytest
from typer.testing import CliRunner

from bertline.errors import UserError
from bertline.pipeline.commands.keys import app
from bertline.serving.access import Access
from bertline.serving.errors import RequestError


def call(*words) -> str:
    """What a command prints on the standard output."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_key_is_printed_once_listed_and_removed(tmp_path):
    file = tmp_path / "keys.yaml"
    key = call("add", file, "mobile-app", "--per-minute", 600, "--days", 30).strip()
    keys = Access.read(file)
    assert keys.check(key) == "mobile-app"

    header, row = call("list", file).splitlines()
    assert header.split() == ["name", "role", "rate", "created", "expires"]
    assert row.startswith("mobile-app  predict  600 per 1 minute") and key not in row

    assert call("remove", file, "mobile-app") == f"removed mobile-app from {file}\n"
    with pytest.raises(RequestError, match="unknown API key"):
        keys.check(key)
    assert len(call("list", file).splitlines()) == 1


def test_a_key_without_limits_is_listed_so(tmp_path):
    call("add", tmp_path / "keys.yaml", "a")
    row = call("list", tmp_path / "keys.yaml").splitlines()[1]
    assert "no limit" in row and row.split()[-1] == "never"


def test_an_administrators_key(tmp_path):
    key = call("add", tmp_path / "keys.yaml", "operator", "--role", "admin").strip()
    assert Access.read(tmp_path / "keys.yaml").check(key, role="admin") == "operator"
    assert "operator  admin" in call("list", tmp_path / "keys.yaml")
    result = CliRunner().invoke(app, ["add", str(tmp_path / "keys.yaml"), "a", "--role", "root"])
    assert result.exit_code == 2 and "--role" in result.output


def test_errors_are_a_persons(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.yaml: cannot be read: No such file or directory"):
        call("list", tmp_path / "nowhere.yaml")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        call("add", tmp_path / "file" / "keys.yaml", "a")
    with pytest.raises(UserError, match="name 'two words'"):
        call("add", tmp_path / "keys.yaml", "two words")


def test_a_rate_below_one_is_a_wrong_call(tmp_path):
    result = CliRunner().invoke(app, ["add", str(tmp_path / "keys.yaml"), "a", "--per-minute", "0"])
    assert result.exit_code == 2 and "--per-minute" in result.output
