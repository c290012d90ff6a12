"""The whole line on an engine of Beam's: the same rows, token ids, figures and release as in memory.

Not in `make test`, which compares the engines stage by stage (tests/components/test_beam_runners.py).
"""

import engines
import factories
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from lines import Line, first_evaluation

pytestmark = pytest.mark.shipped


@pytest.fixture(params=["multi-processing", "portable"])
def section(request, tmp_path):
    """The section of a config that names the engine."""
    if request.param == "multi-processing":
        yield "{runner: multi-processing, workers: 2}"
    else:
        with engines.job_server(tmp_path) as section:
            yield str(section)


def left(folder, artifact):
    """What the first run in a folder left as an artifact: a file's path in it -> its content."""
    first = min(folder.glob(f"runs/artifacts/{artifact}/*"), key=lambda path: int(path.name))
    return {str(path.relative_to(first)): content(path) for path in sorted(first.rglob("*")) if path.is_file()}


def content(path):
    """What a file says: a serialized message can say the same in another order."""
    if path.suffix == ".gz":
        records = tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator()
        return [tf.train.Example.FromString(record) for record in records]
    return tfdv.load_stats_binary(str(path)) if path.suffix == ".pb" else path.read_bytes()


def test_a_line_leaves_the_same_rows_figures_and_release(line, warm, tmp_path, section):
    folder = tmp_path / line.folder.name  # the data's fingerprint takes in its name: it can be a label
    folder.mkdir()
    factories.write_csv(folder / "reviews.csv", factories.reviews(900))
    other = Line(folder, warm)
    config = line.first_config.replace(str(line.serving.parent), str(other.serving.parent))
    other.config.write_text(f"{config}beam: {section}\n", encoding="utf-8")
    ran = other.run()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for artifact in (
        "ExampleGen/examples",
        "ExampleGen/quarantine",
        "StatisticsGen/statistics",
        "DataGate/report",
        "Transform/transformed_examples",
    ):
        files = left(folder, artifact)
        assert files
        assert files == left(line.folder, artifact), artifact
    metrics, release = first_evaluation(folder)
    changing = {"inference_seconds", "model_bytes"}
    assert without(metrics, changing) == without(line.first_metrics, changing)
    same = ("inputs", "config_hash", "data_hash", "code_hash", "libraries", "name")
    assert {name: release[name] for name in same} == {name: line.first_release[name] for name in same}


def without(figures, names):
    return {name: figure for name, figure in figures.items() if name not in names}
