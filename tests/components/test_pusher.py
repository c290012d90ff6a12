import json

import pytest
from tfx.types import standard_artifacts

from components import pusher
from components.errors import LineError
from serving import releases


@pytest.fixture(autouse=True)
def saved_model(tmp_path):
    folder = tmp_path / "model" / "Format-Serving"
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")


def artifact(kind, folder, **properties):
    made = kind()
    folder.mkdir(parents=True, exist_ok=True)
    made.uri = str(folder)
    for name, value in properties.items():
        made.set_int_custom_property(name, value)
    return made


def push(tmp_path, model_blessed, infra_blessed):
    evaluation = artifact(standard_artifacts.ModelEvaluation, tmp_path / "evaluation")
    metrics = {"accuracy": 0.75, "rows": 4, "per_class": {"a": {}}, "classes": ["a", "b"]}
    (tmp_path / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    pushed = artifact(standard_artifacts.PushedModel, tmp_path / "pushed")
    pusher.Pusher.EXECUTOR_SPEC.executor_class._FUNCTION(
        model=artifact(standard_artifacts.Model, tmp_path / "model"),
        model_blessing=artifact(standard_artifacts.ModelBlessing, tmp_path / "gates", blessed=model_blessed),
        infra_blessing=artifact(standard_artifacts.InfraBlessing, tmp_path / "canary", blessed=infra_blessed),
        evaluation=evaluation,
        pushed_model=pushed,
        serving_folder=str(tmp_path / "serving"),
        release=json.dumps({"inputs": "a", "parent": 7, "git_commit": "c0ffee"}),
        vanished=0,
        keep_versions=0,
    )
    return pushed


@pytest.mark.parametrize(
    ("model_blessed", "infra_blessed", "summary"),
    [(0, 0, "not pushed: gates blocked"), (1, 0, "not pushed: canary failed")],
)
def test_blocked_model_leaves_the_folder_alone(tmp_path, model_blessed, infra_blessed, summary):
    pushed = push(tmp_path, model_blessed, infra_blessed)
    assert pushed.get_string_custom_property("summary") == summary
    assert pushed.get_int_custom_property("pushed") == 0
    assert pushed.get_string_custom_property("pushed_version") == ""
    assert not (tmp_path / "serving").exists()


def test_blessed_model_is_pushed_once(tmp_path):
    pushed = push(tmp_path, 1, 1)
    (release,) = releases.read(tmp_path / "serving")
    assert pushed.get_string_custom_property("summary") == release.path
    assert pushed.get_string_custom_property("pushed_version") == str(release.version)
    assert (release.parent, release.metrics) == (7, {"accuracy": 0.75, "rows": 4})
    assert json.loads((tmp_path / "pushed" / "release.json").read_text())["git_commit"] == "c0ffee"
    again = push(tmp_path, 1, 1)
    assert again.get_string_custom_property("summary") == f"already serving {release.version}"
    assert again.get_string_custom_property("pushed_version") == str(release.version)


def test_folder_that_cannot_be_written_stops_the_line(tmp_path):
    (tmp_path / "serving").write_text("a file")
    with pytest.raises(LineError, match=r"serving: writing failed"):
        push(tmp_path, 1, 1)
