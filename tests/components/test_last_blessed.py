import json

import object_stores
import pytest
from tfx.types import standard_artifacts

from bertline.components.last_blessed import LastBlessed
from bertline.errors import UserError


@pytest.fixture
def serving(tmp_path):
    for version, inputs in ((100, "a"), (200, "b")):
        folder = tmp_path / "serving" / str(version)
        (folder / "variables").mkdir(parents=True)
        (folder / "saved_model.pb").write_text(f"graph {version}")
        (folder / "variables" / "variables.index").write_text("weights")
        (folder / "release.json").write_text(json.dumps({"inputs": inputs}))
    return tmp_path / "serving"


def find(tmp_path, serving, release, weights=0):
    (tmp_path / "artifact").mkdir(parents=True)  # TFX makes it
    model = standard_artifacts.Model()
    model.uri = str(tmp_path / "artifact")
    LastBlessed.test_call(model=model, serving_folder=str(serving), release=release, weights=weights)
    return model


def trained_in(serving, address):
    (serving / "100" / "release.json").write_text(json.dumps({"inputs": "a", "weights": str(address)}))


def test_copies_the_release_without_its_record(tmp_path, serving):
    model = find(tmp_path, serving, "100")
    copied = tmp_path / "artifact" / "Format-Serving"
    assert (copied / "saved_model.pb").read_text() == "graph 100"
    assert (copied / "variables" / "variables.index").read_text() == "weights"
    assert not (copied / "release.json").exists()
    assert model.get_int_custom_property("present") == 1
    assert model.get_string_custom_property("version") == "100"


def test_the_keras_weights_of_the_run_that_pushed_come_along_where_they_are_wanted(tmp_path, serving):
    trained_in(serving, tmp_path / "trained")
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "classifier.weights.h5").write_text("weights")
    find(tmp_path / "wanted", serving, "100", weights=1)
    assert (tmp_path / "wanted" / "artifact" / "Keras" / "classifier.weights.h5").read_text() == "weights"
    find(tmp_path / "not", serving, "100")
    assert not (tmp_path / "not" / "artifact" / "Keras").exists()


@pytest.mark.parametrize("scheme", ["s3", "minio", "gs"])
def test_the_weights_of_a_run_on_a_cluster_come_from_its_object_store(tmp_path, serving, scheme, monkeypatch):
    trained_in(serving, f"{scheme}://{object_stores.BUCKET}/run/weights")
    protocol = object_stores.google if scheme == "gs" else object_stores.s3
    with protocol({"run/weights/classifier.weights.h5": b"weights"}, monkeypatch):
        find(tmp_path, serving, "100", weights=1)
    assert (tmp_path / "artifact" / "Keras" / "classifier.weights.h5").read_text() == "weights"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("/runs/1/weights", "/runs/1/weights is gone"),
        ("s3://bucket/weights", "s3://bucket/weights: there is no"),
        ("", "its release.json does not say where they are"),
    ],
)
def test_weights_that_are_gone_are_told_with_the_way_out(tmp_path, serving, address, said, monkeypatch):
    trained_in(serving, address)
    with (
        object_stores.s3({}, monkeypatch),
        pytest.raises(UserError, match=rf"version 100 has no weights .*{said}.*train\.warm_start: false"),
    ):
        find(tmp_path, serving, "100", weights=1)


def test_copy_outlives_the_release(tmp_path, serving):
    find(tmp_path, serving, "200")
    (serving / "200" / "saved_model.pb").unlink()
    assert (tmp_path / "artifact" / "Format-Serving" / "saved_model.pb").read_text() == "graph 200"


def test_none_leaves_an_empty_folder(tmp_path, serving):
    model = find(tmp_path, serving, "")
    assert model.get_int_custom_property("present") == 0
    assert list((tmp_path / "artifact").iterdir()) == []


def test_release_gone_since_the_start_is_named(tmp_path, serving):
    with pytest.raises(UserError, match="300: this release is gone"):
        find(tmp_path, serving, "300")
