"""Each shipped config at full size, compiled and executed as Kubeflow does it, beside the local line: the same outcome.

Not in `make test`, which has no half hour for it: `make test-shipped`.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import backend
import pytest

from bertline.pipeline import config as configs
from bertline.pipeline import kubeflow

pytestmark = pytest.mark.shipped
TOP = Path(__file__).parents[2]
BERTLINE = Path(sys.executable).with_name("bertline")
STAGE_SECONDS = 3 * 3600  # training on all tweets takes a quarter of an hour on two idle cores


def anywhere(config):
    """A config's text for any folder to run in: with the unpacked weights by their whole path."""
    weights = TOP / "weights" / "multilingual-e5-small"
    if "backbone: weights/" in config and not weights.is_dir():
        subprocess.run([BERTLINE, "unpack", weights], check=True)
    return config.replace("backbone: weights/", f"backbone: {TOP}/weights/")


class Shipped:
    """A shipped config on a cluster, each stage's command started as it is; run once."""

    def __init__(self, file, folder):
        self.folder, self.text = folder, anywhere(file.read_text(encoding="utf-8"))
        volume = folder / "volume"
        config = folder / file.name
        config.write_text(
            f"{self.text}kubeflow:\n"
            "  image: registry.example.com/bertline:1\n"
            f"  root: {volume}\n  volumes: [{{claim: models, path: {volume}}}]\n",
            encoding="utf-8",
        )
        (folder / "kubeflow").mkdir()
        self.serving = volume / "serving"
        self.config = configs.load(config)
        self.backend = backend.Backend(folder / "kubeflow", seconds=STAGE_SECONDS)
        self.compiled = kubeflow.compile_line(self.config).dump()
        self.first = self.backend.run(self.compiled)

    def versions(self):
        return sorted(path.name for path in self.serving.iterdir() if path.name.isdigit())

    def local_release(self, inputs):
        """The release.json of a local run of the same config, data and code: one in runs/, else one that is made."""
        for record in TOP.glob(f"runs/{self.config.name}/serving/*/release.json"):
            release = json.loads(record.read_text())
            if release["inputs"] == inputs:
                return release
        local = self.folder / "local"
        local.mkdir()
        (local / "task.yaml").write_text(self.text, encoding="utf-8")
        subprocess.run([BERTLINE, "run", "task.yaml"], cwd=local, check=True)
        (record,) = local.glob("runs/*/serving/*/release.json")
        return json.loads(record.read_text())


@pytest.fixture(scope="module", params=sorted((TOP / "configs").glob("*.yaml")), ids=lambda file: file.stem)
def shipped(request, tmp_path_factory):
    made = Shipped(request.param, tmp_path_factory.mktemp(request.param.stem))
    yield made
    shutil.rmtree(made.folder)  # gigabytes


def test_it_is_blessed_and_pushed_with_the_local_lines_figures(shipped, capsys):
    assert shipped.first.states("succeeded") == set(shipped.first.tasks), shipped.first
    (version,) = shipped.versions()
    assert shipped.first.metadata("Pusher", "pushed_model")["pushed_version"] == version
    assert all(verdict["passed"] for verdict in json.loads(shipped.first.metadata("Evaluator", "blessing")["verdicts"]))
    release = json.loads((shipped.serving / version / "release.json").read_text())
    local = shipped.local_release(release["inputs"])
    with capsys.disabled():
        print(f"\n{shipped.config.name}: compiled, local")
        for name, value in release["metrics"].items():
            print(f"  {name:18} {value:<12.6g} {local['metrics'][name]:.6g}")
    same = ("name", "inputs", "config_hash", "data_hash", "code_hash", "libraries", "parent")
    assert {name: release[name] for name in same} == {name: local[name] for name in same}
    figures, expected = ({**record["metrics"], "inference_seconds": 0} for record in (release, local))
    assert figures == pytest.approx(expected, rel=1e-4)  # a model's bytes hold paths


def test_a_gate_raised_for_one_run_stops_the_push_and_trains_nothing(shipped):
    before = shipped.versions()
    evaluate = shipped.config.evaluate.model_dump(mode="json")
    evaluate["gates"]["accuracy"] = 0.9999
    run = shipped.backend.run(shipped.compiled, {"evaluate": json.dumps(evaluate)})
    assert "Trainer" in run.states("cached")
    assert run.states("failed") == set()
    assert run.metadata("Pusher", "pushed_model")["summary"] == "not pushed: gates blocked"
    assert shipped.versions() == before
