import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import factories
import pytest

BERTLINE = Path(sys.executable).with_name("bertline")


@dataclass
class Line:
    """A task in a folder of its own, and its command line."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "task.yaml"

    @property
    def serving(self) -> Path:
        return self.folder / "runs" / "serving"

    def bertline(self, *arguments, **options) -> subprocess.CompletedProcess:
        return subprocess.run(
            [BERTLINE, *map(str, arguments)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
            **options,
        )

    def run(self) -> subprocess.CompletedProcess:
        return self.bertline("run", self.config)

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


@pytest.fixture(scope="session")
def line(tmp_path_factory):
    """A task whose line has been run once, to a pushed version. Tests of one file use it in order."""
    folder = tmp_path_factory.mktemp("line")
    config = factories.write_task(folder, factories.reviews(900))
    made = Line(folder)
    made.first_config = config.read_text(encoding="utf-8")
    made.first = made.run()
    made.first_metrics, made.first_release = first_evaluation(folder)
    return made


def first_evaluation(folder):
    """The metrics.json of the one run so far, and the release.json of what it pushed."""
    (metrics,) = folder.glob("runs/artifacts/Evaluator/evaluation/*/metrics.json")
    (release,) = folder.glob("runs/serving/*/release.json")
    return json.loads(metrics.read_text(encoding="utf-8")), json.loads(release.read_text(encoding="utf-8"))
