"""A task in a folder, and its command line."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from warm import Warm

BERTLINE = Path(sys.executable).with_name("bertline")


class States:
    """The states of a folder, by name: every test begins with the one it needs, whatever the tests before it did.

    The folder stays where it is, since what a line leaves there names it.
    """

    def __init__(self, folder: Path):
        self.folder, self._copies = folder, folder.with_name(f"{folder.name}-states")

    def keep(self, name: str) -> None:
        """Makes the folder as it is now the state of this name."""
        shutil.copytree(self.folder, self._copies / name, symlinks=True)

    def put_back(self, name: str) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self._copies / name, self.folder, symlinks=True)


@dataclass
class Line:
    """A task in a folder of its own, and its command line."""

    folder: Path
    warm: Warm
    states: States = field(init=False)
    ran: dict[str, subprocess.CompletedProcess] = field(default_factory=dict)  # state -> the run that led to it

    def __post_init__(self):
        self.states = States(self.folder)

    def first_run(self) -> None:
        """Runs the task, to the state "pushed"; keeps its config, figures and release, which stay what they are."""
        self.first_config = self.config.read_text(encoding="utf-8")
        self.ran["pushed"] = ran = self.run_as_installed()
        assert ran.returncode == 0, ran.stdout + ran.stderr
        self.first_metrics, self.first_release = first_evaluation(self.folder)
        self.states.keep("pushed")

    def at(self, state: str, change: Callable[["Line"], None] = lambda line: None) -> "Line":
        """The line in a state.

        Args:
            state: "pushed", after the first run; or another name, for the state after one more run.
            change: what is changed between the two runs.
        """
        if state not in self.ran:
            self.states.put_back("pushed")
            change(self)
            self.ran[state] = self.run()
            self.states.keep(state)
        self.states.put_back(state)
        return self

    @property
    def config(self) -> Path:
        return self.folder / "task.yaml"

    @property
    def serving(self) -> Path:
        return self.folder / "runs" / "serving"

    def bertline(self, *arguments, input: str = "") -> subprocess.CompletedProcess:
        return self.warm.bertline(*arguments, cwd=self.folder, input=input)

    def run(self) -> subprocess.CompletedProcess:
        return self.bertline("run", self.config)

    def run_as_installed(self) -> subprocess.CompletedProcess:
        """The command of the environment, in a process of its own."""
        command = [BERTLINE, "run", self.config]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=900, check=False)

    def start(self) -> subprocess.Popen:
        return subprocess.Popen([BERTLINE, "run", self.config], cwd=self.folder, start_new_session=True)

    def versions(self) -> list[str]:
        return sorted(path.name for path in self.serving.iterdir() if path.name.isdigit())

    def runs(self) -> list[dict]:
        listed = self.bertline("runs", self.config, "--json")
        return [json.loads(line) for line in listed.stdout.splitlines()]

    def edit(self, old: str, new: str, file: str = "task.yaml") -> None:
        text = (self.folder / file).read_text(encoding="utf-8")
        assert old in text
        (self.folder / file).write_text(text.replace(old, new, 1), encoding="utf-8")


def first_evaluation(folder):
    """The metrics.json of the one run so far, and the release.json of what it pushed."""
    (metrics,) = folder.glob("runs/artifacts/Evaluator/evaluation/*/metrics.json")
    (release,) = folder.glob("runs/serving/*/release.json")
    return json.loads(metrics.read_text(encoding="utf-8")), json.loads(release.read_text(encoding="utf-8"))


def figures(metrics):
    """What a model's figures are, without what differs between two exports of the same weights: names, and the time."""
    return {name: value for name, value in metrics.items() if name not in ("model_bytes", "inference_seconds")}
