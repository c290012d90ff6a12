import socket
import sys

import pytest

from bertline.pipeline import doctor

GIB = 1 << 30


def test_every_check_says_what_was_found(tmp_path):
    found = {check.name: check for check in doctor.checks(tmp_path, port=0)}
    assert found["python"].value.startswith("3.11.")
    assert found["python"].value.endswith(sys.executable)
    assert found["c library"].value.startswith("glibc 2.")
    assert "tfx 1.21.0" in found["libraries"].value and "tensorflow 2.21.0" in found["libraries"].value
    assert found["precision"].value.split()[0] in ("float32", "mixed_bfloat16", "mixed_float16")
    assert found["distribution"].value.split()[0] in ("one_device", "mirrored", "tpu")
    assert {"processor", "memory", "disk", "accelerators", "model server", "docker"} <= set(found)
    assert all(check.advice for check in found.values() if check.state != "ok")


@pytest.mark.parametrize(("available", "state"), [(3 * GIB, "fail"), (5 * GIB, "warn"), (7 * GIB, "ok")])
def test_memory(available, state):
    check = doctor.memory(available, 8 * GIB)
    assert check.state == state
    assert check.value == f"{available // GIB}.0 GiB free of 8.0 GiB"


def test_taken_port_is_told_with_the_way_out():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        check = doctor.port_free(other.getsockname()[1])
    assert check.state == "warn" and "not free" in check.value and "serve.port" in check.advice


def docker(folder, script):
    (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "docker").chmod(0o755)
    return doctor.docker()


def test_docker_counts_only_with_an_engine(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin", prepend=None)
    client_only = docker(tmp_path, 'echo "Cannot connect to the Docker daemon" >&2; exit 1')
    assert (client_only.value, client_only.state) == ("client only, no engine answers", "warn")
    assert docker(tmp_path, "echo 27.3.1") == doctor.Check("docker", "engine 27.3.1")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert doctor.docker().value.startswith("none")


def test_real_model_server_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.model_server().value.startswith("embedded")
    (tmp_path / "tensorflow_model_server").write_text("#!/bin/sh\n")
    (tmp_path / "tensorflow_model_server").chmod(0o755)
    assert doctor.model_server().value == str(tmp_path / "tensorflow_model_server")


def test_missing_library_fails_with_the_way_out(monkeypatch):
    monkeypatch.setattr(doctor, "LIBRARIES", ("tensorflow", "no-such-library"))
    check = doctor.libraries()
    assert check.state == "fail" and check.advice == "no-such-library missing: `make setup`"


def test_libraries_that_do_not_start_are_a_finding():
    def look():
        raise ImportError("libcuda.so.1: cannot open shared object file")

    (check,) = doctor._guarded("choice", look)
    assert check.state == "fail" and "libcuda" in check.value


def test_older_python_and_c_library_fail(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    assert doctor.python().state == "fail"
    monkeypatch.setattr(doctor.os, "confstr", lambda name: "glibc 2.36")
    check = doctor.c_library()
    assert check.state == "fail" and check.value.startswith("glibc 2.36") and "make setup" in check.advice
