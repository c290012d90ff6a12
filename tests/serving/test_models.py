"""A config that takes the place of another: all of it, at once, or nothing of it."""

import threading
import time
from types import SimpleNamespace

import pytest
from google.protobuf import text_format

from bertline.serving.errors import RequestError
from bertline.serving.models import Models
from bertline.serving.protos import ModelServerConfig, ModelSpec
from bertline.serving.versions import AVAILABLE, Polling


class Loader:
    """Stands for the loading of models: versions with a gate wait for it, and closed ones are noted."""

    def __init__(self):
        self.closed = []
        self.gates = {}

    def __call__(self, model, path, version):
        if version in self.gates:
            self.gates[version].wait(20)
        if (path / "saved_model.pb").read_text() == "broken":
            raise ValueError(f"{path}: broken")
        return SimpleNamespace(model=model, version=version, close=lambda: self.closed.append((model, version)))


@pytest.fixture
def load():
    return Loader()


@pytest.fixture
def models(load, tmp_path):
    for name, version in (("a", 1), ("a", 2), ("b", 1)):
        add(tmp_path / name, version)
    made = Models(load, Polling(60))
    yield made
    made.stop()


def add(folder, version, content="graph"):
    (folder / str(version)).mkdir(parents=True)
    (folder / str(version) / "saved_model.pb").write_text(content)


def config(folder, **lines):
    """A config of models in their folders, with more lines for each."""
    entries = (f'config {{ name: "{name}" base_path: "{folder}/{name}" {more} }}' for name, more in lines.items())
    return text_format.Parse(f"model_config_list {{ {' '.join(entries)} }}", ModelServerConfig())


def pinned(version, label="stable"):
    return (
        f"model_version_policy {{ specific {{ versions: {version} }} }} "
        f"version_labels {{ key: '{label}' value: {version} }}"
    )


def answered(models, name, label=""):
    try:
        with models.acquire(ModelSpec(name=name, version_label=label)) as servable:
            return servable.version
    except RequestError as error:
        return error.code.name


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_label_moves_with_the_policy_and_is_always_answered(models, load, tmp_path):
    add(tmp_path / "slow", 7)
    models.reload(config(tmp_path, a=pinned(1)))
    load.gates[7] = threading.Event()
    moving = threading.Thread(target=models.reload, args=(config(tmp_path, a=pinned(2), slow=""),))
    moving.start()
    wait_for(lambda: {state.state for state in models.states("a").values()} == {AVAILABLE} and 2 in models.states("a"))
    assert answered(models, "a", "stable") == 1, "the config's other model still loads"
    load.gates[7].set()
    moving.join()
    assert answered(models, "a", "stable") == 2
    wait_for(lambda: load.closed == [("a", 1)])


def test_a_refused_config_changes_nothing(models, load, tmp_path):
    add(tmp_path / "bad", 1, "broken")
    models.reload(config(tmp_path, a=pinned(1), b=""))
    for refused, words in (
        (config(tmp_path, a=pinned(2), bad=""), "model bad: version 1 did not load"),
        (config(tmp_path, a=pinned(2), b="version_labels { key: 'stable' value: 9 }"), "label stable to version 9"),
        (config(tmp_path, a=pinned(2, label="new"), b="logging_config { log_collector_config { type: 'x' } }"), "type"),
        (config(tmp_path, a=pinned(2) + "version_labels { key: 'old' value: 1 }"), "label old to version 1"),
    ):
        with pytest.raises(RequestError, match=words):
            models.reload(refused)
        assert (answered(models, "a"), answered(models, "a", "stable")) == (1, 1)
        assert answered(models, "a", "new") == "INVALID_ARGUMENT"
        assert sorted(models.names()) == ["a", "b"]
    wait_for(lambda: load.closed.count(("a", 2)) == 4)
    assert ("a", 1) not in load.closed and ("b", 1) not in load.closed


def test_a_model_that_is_left_out_finishes_its_requests_beside_the_reload(models, load, tmp_path):
    models.reload(config(tmp_path, a="", b=""))
    with models.acquire(ModelSpec(name="b")):
        models.reload(config(tmp_path, a=""))
        assert answered(models, "b") == "NOT_FOUND"
        assert load.closed == []
    wait_for(lambda: load.closed == [("b", 1)])


def test_a_model_moves_to_another_folder(models, load, tmp_path):
    models.reload(config(tmp_path, a=""))
    add(tmp_path / "elsewhere", 5)
    moved = config(tmp_path, a="")
    moved.model_config_list.config[0].base_path = str(tmp_path / "elsewhere")
    models.reload(moved)
    assert answered(models, "a") == 5
    wait_for(lambda: load.closed == [("a", 2)])
