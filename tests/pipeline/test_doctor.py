import socket
import sys

import factories
import pytest
from unprivileged import unprivileged

from bertline.pipeline import config as configs
from bertline.pipeline import doctor, metadata_store
from bertline.pipeline.checks import Check, disk

GIB = 1 << 30


def test_every_check_says_what_was_found():
    found = {check.name: check for check in doctor.checks()}
    assert found["python"].value.startswith("3.11.")
    assert found["python"].value.endswith(sys.executable)
    assert found["c library"].value.startswith("glibc 2.")
    assert "tfx 1.21.0" in found["libraries"].value and "tensorflow 2.21.0" in found["libraries"].value
    assert found["precision"].value.split()[0] in ("float32", "mixed_bfloat16", "mixed_float16")
    assert found["distribution"].value.split()[0] in ("one_device", "mirrored", "tpu")
    assert {"processor", "memory", "accelerators", "model server", "docker"} <= set(found)
    assert {"disk", "serve.port", "serve.rest_port"} <= set(found)
    assert all(check.advice for check in found.values() if check.state != "ok")


@pytest.mark.parametrize(("available", "state"), [(3 * GIB, "fail"), (5 * GIB, "warn"), (7 * GIB, "ok")])
def test_memory(available, state):
    check = doctor.memory(available, 8 * GIB)
    assert check.state == state
    assert check.value == f"{available // GIB}.0 GiB free of 8.0 GiB"


def docker(folder, script):
    (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "docker").chmod(0o755)
    return doctor.docker()


def test_docker_counts_only_with_an_engine(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin", prepend=None)
    client_only = docker(tmp_path, 'echo "Cannot connect to the Docker daemon" >&2; exit 1')
    assert (client_only.value, client_only.state) == ("client only, no engine answers", "warn")
    assert docker(tmp_path, "echo 27.3.1") == Check("docker", "engine 27.3.1")
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


def test_libraries_that_do_not_start_are_a_finding(monkeypatch):
    def look():
        raise ImportError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(doctor, "choice", look)
    found = {check.name: check for check in doctor.checks()}
    assert found["choice"].state == "fail" and "libcuda" in found["choice"].value
    assert "libraries" in found["choice"].advice
    assert "docker" in found, "the other looks go on"


def test_older_python_and_c_library_fail(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    assert doctor.python().state == "fail"
    monkeypatch.setattr(doctor.os, "confstr", lambda name: "glibc 2.36")
    check = doctor.c_library()
    assert check.state == "fail" and check.value.startswith("glibc 2.36") and "make setup" in check.advice


# === A config's own ===


@pytest.fixture
def config(tmp_path):
    return factories.write_task(tmp_path, factories.reviews(3))


def of_task(config, **changes):
    """What is found of a config with other values: name -> Check."""
    task = configs.load(config)
    return {check.name: check for check in doctor.of_task(task.model_copy(update=changes))}


def serve(config, **changes):
    return configs.load(config).serve.model_copy(update=changes)


def test_a_config_that_asks_for_nothing_amiss(config):
    found = of_task(config, serve=serve(config, rest_port=None))
    folder = config.parent
    assert found["root"].value.endswith(f"GiB free in {folder}/runs")
    assert found["serve.port"].value == "any free port" and "serve.rest_port" not in found
    assert found["metadata"].value == f"{folder}/runs/metadata.sqlite"
    assert found["data"].value.startswith("1 file, ")
    assert found["backbone"].value == f"random weights, vocabulary {folder}/vocab.txt"
    assert found["beam, in-memory"].value == "on this machine"
    assert {check.state for check in found.values()} <= {"ok", "warn"}


def test_the_configs_own_ports_are_looked_at(config):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        found = of_task(config, serve=serve(config, rest_port=taken))
        assert found["serve.rest_port"].state == "warn"
        assert found["serve.rest_port"].value.startswith(f"127.0.0.1:{taken} is not free")
        assert "set serve.rest_port, or call it with --rest-port" in found["serve.rest_port"].advice
    found = of_task(config, serve=serve(config, port=taken, rest_port=taken))
    assert found["ports"].state == "fail"


def test_the_configs_own_folders_are_looked_at(config, tmp_path, monkeypatch):
    found = of_task(config, root="gs://bucket/reviews", serve=serve(config, folder=str(tmp_path / "elsewhere")))
    assert (found["root"].state, found["root"].value) == ("warn", "gs://bucket/reviews: not on this machine")
    assert found["serving folder"].value.endswith(f"GiB free in {tmp_path}/elsewhere")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    assert of_task(config)["root"].state == "fail"


def test_a_folder_below_a_file_fails(config):
    found = of_task(config, root=str(config / "runs"))["root"]
    assert found.state == "fail" and found.advice
    assert found.value == f"{config}/runs cannot be written: {config} is no folder"


def test_a_folder_that_cannot_be_reached_fails(tmp_path):
    (tmp_path / "locked").mkdir(mode=0)
    with unprivileged():
        found = disk("root", tmp_path / "locked" / "deep" / "runs")
    assert (found.state, found.value) == ("fail", f"{tmp_path}/locked/deep/runs cannot be written")


def test_what_ends_the_look_at_a_config_is_not_taken_for_the_libraries(config, monkeypatch):
    def look(task):
        raise PermissionError(13, "Permission denied", "reviews.csv")

    monkeypatch.setattr(doctor, "of_task", look)
    found = {check.name: check for check in doctor.checks(configs.load(config))}["config"]
    assert found.state == "fail" and "reviews.csv" in found.value
    assert "libraries" not in found.advice


def test_what_a_config_names_and_is_not_there_fails(config):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"postgresql://keeper@127.0.0.1:{port}/reviews"
    (config.parent / "reviews.csv").unlink()
    (config.parent / "vocab.txt").unlink()
    found = of_task(config, metadata=address)
    assert {name for name, check in found.items() if check.state == "fail"} == {"metadata", "data", "backbone"}
    assert f"127.0.0.1:{port} cannot be reached" in found["metadata"].value
    assert "'reviews.csv' does not exist" in found["data"].value
    assert "there is no such file" in found["backbone"].value


def test_a_database_that_answers(config, monkeypatch):
    monkeypatch.delenv(metadata_store.PASSWORD, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"mysql://keeper@127.0.0.1:{server.getsockname()[1]}/reviews"
        found = of_task(config, metadata=address)
    assert found["metadata"] == Check("metadata", f"{address} answers; {metadata_store.PASSWORD} is not set")
