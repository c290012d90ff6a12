import json

from bertline.pipeline import stage

EXAMPLES = {"schemaTitle": "", "instanceSchema": "title: tfx.Examples\ntype: object\n"}


REPORT = "title: bertline.DataReport\ntype: object\n"


def execution(uri):
    given = {"name": "7", "uri": uri, "type": {"instanceSchema": ""}, "metadata": {"blessed": 1}}
    made = {
        "name": "report",
        "uri": "gs://bucket/run/report",
        "type": {"instanceSchema": REPORT},
    }
    return {
        "inputs": {"artifacts": {"examples": {"artifacts": [given]}}, "parameterValues": {"epochs": 2}},
        "outputs": {"artifacts": {"report": {"artifacts": [made]}}, "outputFile": "/tmp/output.json"},
    }


def localised(tmp_path, uri):
    return stage.localised(execution(uri), {"artifacts": {"examples": {"artifactType": EXAMPLES}}}, tmp_path)


def test_addresses_become_the_launchers_folders(tmp_path):
    found = localised(tmp_path, "minio://mlpipeline/run/examples")
    assert (
        found["inputs"]["artifacts"]["examples"]["artifacts"][0]["uri"] == f"{tmp_path}/minio/mlpipeline/run/examples"
    )
    assert found["outputs"]["artifacts"]["report"]["artifacts"][0]["uri"] == f"{tmp_path}/gcs/bucket/run/report"
    assert (tmp_path / "gcs/bucket/run/report").is_dir()


def test_dataflow_is_told_the_addresses(tmp_path):
    given = execution("gs://bucket/run/examples")
    found = stage.localised(given, {"artifacts": {"examples": {"artifactType": EXAMPLES}}}, tmp_path, kept=("gs://",))
    assert found["inputs"]["artifacts"]["examples"]["artifacts"][0]["uri"] == "gs://bucket/run/examples"
    assert found["outputs"]["artifacts"]["report"]["artifacts"][0]["uri"] == "gs://bucket/run/report"
    assert list(tmp_path.iterdir()) == []


def test_types_are_the_declared_ones_by_names_that_tfx_finds(tmp_path):
    found = localised(tmp_path, "s3://bucket/examples")
    assert found["inputs"]["artifacts"]["examples"]["artifacts"][0]["type"] == {"schemaTitle": "tfx.Examples"}
    assert found["outputs"]["artifacts"]["report"]["artifacts"][0]["type"] == {
        "schemaTitle": "bertline.components.artifacts.DataReport"
    }


def test_what_it_was_given_stays_as_it_was(tmp_path):
    given = execution("s3://bucket/examples")
    before = json.dumps(given)
    stage.localised(given, {"artifacts": {"examples": {"artifactType": EXAMPLES}}}, tmp_path)
    assert json.dumps(given) == before


def test_the_vertex_and_the_launchers_folders(tmp_path):
    assert stage.local_path("gs://bucket/a", tmp_path) == f"{tmp_path}/gcs/bucket/a"
    assert stage.local_path("/data/a", tmp_path) == "/data/a"
