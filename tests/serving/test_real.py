import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bertline.errors import UserError
from bertline.serving import flags, real


@pytest.fixture
def model_server(tmp_path, monkeypatch):
    """A program of the real one's name on the PATH, which writes down its arguments."""
    program = tmp_path / "bin" / "tensorflow_model_server"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >"$(dirname "$0")/arguments"\nexit 7\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return program


def test_hands_over_with_its_flags_and_exit_status(model_server, tmp_path):
    command = real.command(tmp_path / "serving", "mood", "0.0.0.0", 8500)
    code = f"from bertline.serving import real; real.hand_over({command!r})"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 7
    assert (model_server.parent / "arguments").read_text().split() == [
        "--port=8500",
        "--model_name=mood",
        f"--model_base_path={tmp_path}/serving",
        "--file_system_poll_wait_seconds=1",
        "--enable_grpc_healthcheck_service=true",
        "--tensorflow_intra_op_parallelism=1",
        "--tensorflow_inter_op_parallelism=-1",
    ]


def test_each_file_has_its_flag_and_the_embedded_server_takes_the_same(model_server, tmp_path):
    files = {}
    for name in ("batching_parameters_file", "monitoring_config_file", "ssl_config_file"):
        files[name] = tmp_path / name
        files[name].touch()
    command = real.command(tmp_path, "mood", "0.0.0.0", 8500, rest_port=8501, **files)
    assert [flag for flag in command if "file=" in flag] == [f"--{name}={file}" for name, file in files.items()]
    assert {"--rest_api_port=8501", "--enable_batching=true"} < set(command)
    options, _ = flags.parse(command[1:])
    assert (options.port, options.rest_port) == (8500, 8501)
    assert options.batching is not None and options.tls is not None


def test_relative_folder_becomes_absolute_and_remote_stays(model_server):
    assert f"--model_base_path={Path.cwd()}/runs/x" in real.command("runs/x", "mood")
    assert "--model_base_path=gs://bucket/x" in real.command("gs://bucket/x", "mood")


def test_loopback_is_warned_of(model_server, caplog):
    caplog.set_level(logging.WARNING, "bertline.serving")
    real.command("runs/x", "mood", "127.0.0.1", 8500)
    assert "listens on all addresses, not only on 127.0.0.1" in caplog.text


def test_port_zero_is_refused(model_server):
    with pytest.raises(UserError, match=r"^port: .* set serve\.port, such as 8500"):
        real.command("runs/x", "mood", port=0)
    with pytest.raises(UserError, match=r"^rest_port: .* set serve\.rest_port, such as 8501"):
        real.command("runs/x", "mood", rest_port=0)


def test_none_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert real.command("runs/x", "mood") is None
