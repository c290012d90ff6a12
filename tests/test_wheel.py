"""The wheel, installed where there is no checkout: what is in it, and the line's commands from a stranger's folder."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path

import factories
import pytest

TOP = Path(__file__).parents[1]
# Import folder -> where it stands in the repository.
FOLDERS = {
    "bertline": "bertline",
    **{f"bertline/{name}": name for name in ("pipeline", "streams", "monitoring", "components", "models", "serving")},
}
# What a person reads or copies in a checkout, and no code opens.
OF_A_CHECKOUT = re.compile(
    r"serving/README\.md|serving/deploy/(?!config/.*\.config$).*|(?:pipeline|monitoring)/deploy/.*"
)
BUILD = "import sys, setuptools.build_meta as backend; print(backend.build_wheel(sys.argv[1]))"
# A stranger's own files, by names that bertline's folders and libraries have too: none of them may ever be imported.
TRAPS = (
    "bertline",
    "pipeline",
    "streams",
    "monitoring",
    "components",
    "models",
    "serving",
    "tfx",
    "numpy",
    "apache_beam",
)
TRAP = "import pathlib\npathlib.Path(__file__).with_suffix('.sprung').touch()\nraise SystemExit('the wrong code ran')\n"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the tree: what an earlier build left behind could hide that a file is missing."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS.values():
        shutil.copytree(TOP / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, source)
    built = subprocess.run([sys.executable, "-c", BUILD, out], cwd=source, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = out.glob("*.whl")
    return file


def test_it_holds_what_the_tree_holds(wheel):
    tree = {
        f"{package}/{path.relative_to(TOP / folder).as_posix()}"
        for package, folder in FOLDERS.items()
        for path in (TOP / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and not OF_A_CHECKOUT.fullmatch(path.relative_to(TOP).as_posix())
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == tree, "pyproject.toml's packages and package-data say what goes in"


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """The folder of the commands of an environment with nothing but the wheel; libraries are this environment's."""
    environment = tmp_path_factory.mktemp("environment")
    packages = environment / "lib/python3.11/site-packages"
    (environment / "bin").mkdir()
    packages.mkdir(parents=True)
    # A link to this interpreter, which may be one with a C runtime of its own (scripts/c_runtime.sh).
    (environment / "bin/python").symlink_to(sys.executable)
    (environment / "pyvenv.cfg").write_text(f"home = {Path(sys.base_prefix) / 'bin'}\n")
    # Python reads no .pth files in a folder that a .pth file adds, so this checkout's own stays behind.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = ["uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", environment / "bin/python"]
    subprocess.run([Path(sys.executable).with_name(command[0]), *command[1:], wheel], check=True)
    return environment / "bin"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A stranger's folder: a table, a task for a tiny BERT, and code of their own."""
    folder = tmp_path_factory.mktemp("stranger")
    for name in TRAPS:
        (folder / f"{name}.py").write_text(TRAP)
    for name in ("pipeline", "components", "serving", "models"):
        (folder / name).mkdir()
        for module in ("__init__", "cli", "server", "stage"):
            (folder / name / f"{module}.py").write_text(TRAP)
    config = factories.write_task(folder, factories.reviews(80), epochs=1)
    text = config.read_text(encoding="utf-8")
    text = text.replace("gates: {accuracy: 0.8, macro_f1: 0.8}", "gates: {accuracy: 0, beats_majority: false}")
    config.write_text(f"{text}beam: {{runner: multi-processing, workers: 1}}\n", encoding="utf-8")
    yield folder
    assert sorted(folder.rglob("*.sprung")) == []


def environment_of(installed):
    """This process's variables, but for those that say where Python looks for code."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return kept | {"PATH": f"{installed}:{kept['PATH']}"}


def bertline(installed, folder, *arguments):
    return subprocess.run(
        [installed / "bertline", *arguments],
        cwd=folder, env=environment_of(installed), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


@contextmanager
def started(installed, folder, words, *arguments):
    """A command that goes on until SIGINT, from the line on that `words` match; yields the match."""
    with subprocess.Popen(
        # A background job of a shell starts with SIGINT ignored, and so would what it starts. (A preexec_fn would fork
        # this process, in which gRPC has threads.)
        ["env", "--default-signal=INT", installed / "bertline", *arguments],
        cwd=folder, env=environment_of(installed), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        watchdog = threading.Timer(600, process.kill)
        watchdog.start()
        try:
            shown = ""
            while not (match := re.search(words, shown)):
                line = process.stdout.readline()
                assert line, shown
                shown += line
            yield match
        finally:
            watchdog.cancel()
            process.send_signal(signal.SIGINT)
            process.wait(30)


def test_the_commands_are_the_wheels_own(installed, folder):
    shown = subprocess.run(
        [installed / "python", "-P", "-c", "import bertline.serving, sys; print(bertline.serving.__file__)"],
        cwd=folder, env=environment_of(installed), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(shown.stdout.strip()).is_relative_to(installed.parent)


def test_a_stranger_goes_from_a_file_to_an_answer(installed, folder):
    proposed = bertline(installed, folder, "init", "reviews.csv", "-o", "proposed.yaml")
    assert proposed.returncode == 0, proposed.stdout + proposed.stderr
    assert "reviews.csv" in (folder / "proposed.yaml").read_text(encoding="utf-8")

    ran = bertline(installed, folder, "run", "task.yaml")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(list(folder.glob("runs/serving/*/release.json"))) == 1

    with started(installed, folder, r"answering on (\S+:\d+)", "serve", "task.yaml", "--embedded") as match:
        answered = bertline(installed, folder, "predict", "task.yaml", "--address", match[1], "great love it was")
    assert answered.returncode == 0, answered.stdout + answered.stderr
    label, probability, text = answered.stdout.rstrip("\n").split("\t")
    assert label in factories.MOODS and 0 < float(probability) <= 1 and text == "great love it was"

    # `watch` starts `run` in a process of its own, which finds everything cached.
    with started(installed, folder, "watching for a change", "watch", "task.yaml"):
        pass
