"""A task in a folder, and its command line."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from warm import Warm

BERTLINE = Path(sys.executable).with_name("bertline")


@dataclass
class Line:
    """A task in a folder of its own, and its command line."""

    folder: Path
    warm: Warm

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
