"""The stages' Beam work on each engine that runs here: the same rows, quarantine and figures, and after a lost worker.

The portable engine is Beam's own job server with a pool of workers, each in a process of its own: the path on which
Flink and Spark call the same workers. A whole line on each engine is in tests/e2e/test_engines.py.
"""

import contextlib
import csv
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import apache_beam as beam
import engines
import factories
import numpy as np
import psutil
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
import tensorflow_model_analysis as tfma
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import channel_utils, standard_artifacts

from bertline.components import (
    example_gen,
    shards,
    spans,
    statistics,
    text_statistics,
    tfma_counts,
    tokenisation,
    validation,
)
from bertline.components.answers import slice_columns
from bertline.components.artifacts import Quarantine
from bertline.components.errors import root_cause
from bertline.components.options import DataOptions, EvaluateOptions
from bertline.errors import UserError
from bertline.models.features import CANDIDATE, SPLITS
from bertline.pipeline import beam_options
from bertline.pipeline.beam_options import BeamOptions


@pytest.fixture(scope="module")
def job_server(tmp_path_factory):
    with engines.job_server(tmp_path_factory.mktemp("job-server")) as section:
        yield section


@pytest.fixture
def multi_processing():
    return beam_options.arguments(BeamOptions(runner="multi-processing", workers=2))


@pytest.fixture
def portable(job_server):
    return beam_options.arguments(BeamOptions(**job_server))


@pytest.fixture(params=["multi_processing", "portable"])
def arguments(request):
    return request.getfixturevalue(request.param)


IN_MEMORY = beam_options.arguments(BeamOptions())

# === Ingestion ===


def ingest(folder, out, arguments, **options):
    """Runs ExampleGen on the CSV files of a folder; returns what it left: a file's name -> its bytes or its records."""
    examples, quarantine = standard_artifacts.Examples(), Quarantine()
    examples.uri, quarantine.uri = str(out / "examples"), str(out / "quarantine")
    for artifact in (examples, quarantine):
        Path(artifact.uri).mkdir(parents=True, exist_ok=True)
    example_gen.ExampleGen.test_call(
        examples=examples,
        quarantine=quarantine,
        data=DataOptions(**{"source": "*.csv", "max_quarantined": 0.5, **options}).model_dump_json(),
        base_folder=str(folder),
        fingerprint="cafe",
        beam_pipeline=beam.Pipeline(argv=list(arguments)),
    )
    return left(out)


def left(out):
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(out)): list(tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator())
        if path.suffix == ".gz"
        else path.read_bytes()
        for path in files
    }


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Three files of 160 rows each, with rows for the quarantine in each of them."""
    folder = tmp_path_factory.mktemp("tables")
    for number in range(3):
        rows = [(f"text {row} of {number}", ("neg", "pos")[row % 2]) for row in range(160)]
        rows[7], rows[8], rows[9] = ("", "pos"), ("no label", ""), ("both ways", ("neg", "pos")[number % 2])
        with open(folder / f"{number}.csv", "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("text", "label"), *rows])
    return folder


@pytest.fixture
def task_a_file(monkeypatch):
    """A task for each file, and several ranges of the hash."""
    monkeypatch.setattr(example_gen, "BYTES_PER_TASK", 1)
    monkeypatch.setattr(example_gen, "BYTES_PER_RANGE", 2000)


@pytest.fixture
def ingested(tables, tmp_path, task_a_file):
    return ingest(tables, tmp_path / "in-memory", IN_MEMORY)


def test_ingestion_leaves_the_same_rows_and_quarantine(tables, tmp_path, ingested, arguments):
    assert len([name for name in ingested if "Split-train" in name]) == 3
    assert ingested["quarantine/quarantine.csv"].count(b"\r\n") == 1 + 3 * 3
    assert ingest(tables, tmp_path / "other", arguments) == ingested


def test_any_number_of_ranges_leaves_the_same(tables, tmp_path, ingested, monkeypatch):
    monkeypatch.setattr(example_gen, "BYTES_PER_RANGE", 10**9)
    assert ingest(tables, tmp_path / "one range", IN_MEMORY) == ingested


def test_a_bundle_run_twice_leaves_nothing_twice(tables, tmp_path, ingested):
    assert ingest(tables, tmp_path / "twice", [*IN_MEMORY, "--direct_runner_bundle_repeat=1"]) == ingested


def test_a_fault_in_a_worker_of_another_process_is_told_in_its_own_words(tmp_path, job_server):
    on_engine = beam.Pipeline(argv=beam_options.arguments(BeamOptions(**job_server)))
    with pytest.raises(Exception, match="while running") as caught, on_engine as pipeline:
        _ = pipeline | beam.Create([["data-{SPAN}.csv"]]) | beam.Map(spans.window, str(tmp_path), None)
    cause = root_cause(caught.value)
    assert isinstance(cause, UserError)
    assert str(cause).startswith(f"data source 'data-{{SPAN}}.csv': no span is there yet (looked in {tmp_path} for ")
    assert str(cause).endswith("Correct the pattern in the config.")


# === A lost worker ===


@pytest.fixture(scope="module")
def large_tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    for number in range(2):
        with open(folder / f"{number}.csv", "w", newline="", encoding="utf-8") as stream:
            rows = ((f"text {row} of {number}", ("neg", "pos")[row % 2]) for row in range(8000))
            csv.writer(stream).writerows([("text", "label"), *rows])
    return folder


@pytest.fixture(scope="module")
def undisturbed(large_tables, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example_gen, "BYTES_PER_TASK", 1)
        return ingest(large_tables, tmp_path_factory.mktemp("undisturbed"), IN_MEMORY)


def workers(program, of=None):
    """The worker processes below a process, this one if none is named, without the process that they are forks of."""
    found, above = [], psutil.Process(of)
    for child in above.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # what a start runs for a moment, `ldconfig` for one
            if child.ppid() != above.pid and program in " ".join(child.cmdline()):
                found.append(child)
    return found


def kill_one(program, is_time, killed):
    """Waits for the time to kill a worker, and kills it."""
    until = time.monotonic() + engines.STARTED
    while time.monotonic() < until and not (is_time() and (found := workers(program))):
        time.sleep(0.02)
    found[0].kill()
    killed.append(found[0].pid)


LOST = "a Beam worker is lost (exit code -9"
GIVEN_UP = "the Beam job ended as FAILED on its engine: RuntimeError: Channel closed prematurely."


@pytest.mark.parametrize(
    ("engine", "program", "moment", "said"),
    [
        ("multi_processing", "forkserver", "it starts", LOST),
        ("multi_processing", "forkserver", "it writes", LOST),
        ("portable", "SdkHarness", "it writes", GIVEN_UP),
    ],
)
def test_a_lost_worker_ends_the_stage_in_words_and_the_next_try_leaves_the_same(
    large_tables, undisturbed, tmp_path, task_a_file, request, engine, program, moment, said
):
    out, killed = tmp_path / "out", []
    half = out / "examples" / shards.UNFINISHED
    is_time = (lambda: True) if moment == "it starts" else (lambda: any(half.glob("*")))
    killer = threading.Thread(target=kill_one, args=(program, is_time, killed))
    arguments = request.getfixturevalue(engine)
    killer.start()
    with pytest.raises(Exception, match=r"Beam worker|Channel closed") as caught:
        ingest(large_tables, out, arguments)
    killer.join()
    assert len(killed) == 1
    assert str(root_cause(caught.value)).startswith(said)
    assert not [name for name in left(out) if "Split-" in name and not name.endswith(shards.ENDING)]
    assert ingest(large_tables, out, IN_MEMORY) == undisturbed


SLEEPS = """
import sys, time
import apache_beam as beam
if __name__ == "__main__":
    with beam.Pipeline(argv=sys.argv[1:]) as pipeline:
        _ = pipeline | beam.Create([600]) | beam.Map(time.sleep)
"""


def test_no_worker_outlives_a_run_that_is_killed(tmp_path, multi_processing):
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    run = subprocess.Popen([sys.executable, tmp_path / "sleeps.py", *multi_processing])
    until = time.monotonic() + engines.STARTED
    while not workers("forkserver", run.pid):
        assert time.monotonic() < until
        time.sleep(0.2)
    below = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    assert psutil.wait_procs(below, timeout=engines.STARTED)[1] == []


# === The other stages ===


@pytest.fixture(scope="module")
def transformed(tmp_path_factory):
    """The vocabulary's options, the Examples and the TransformGraph of a few reviews."""
    folder = tmp_path_factory.mktemp("transformed")
    model = factories.tiny_model_options(folder)
    rows = [(text, label) for text, label, _ in factories.reviews(300)]
    splits = {"train": rows[:200], "validation": rows[200:250], "test": rows[250:]}
    examples, schema = factories.raw_examples(folder, splits, sorted({label for _, label in rows}))
    graph, _ = factories.transformed(folder, model, examples, schema)
    return model, examples, graph


class Shared:
    """A pipeline that several stages add to, each in a block of its own, and that runs at the end of an outer block.

    Workers start once, not once a stage.
    """

    def __init__(self, arguments):
        self.pipeline = beam.Pipeline(argv=[*arguments, "--auto_unique_labels"])

    def __enter__(self):
        return self.pipeline

    def __exit__(self, *_):
        pass


def count_and_tokenise(folder, transformed, arguments):
    """What StatisticsGen, DataGate, Transform and Evaluator have Beam do, in one job; returns what they have left."""
    model, examples, graph = transformed
    shared = Shared(arguments)
    folders = {name: folder / name for name in ("statistics", "texts", "tokens", "metrics")}
    for each in folders.values():
        each.mkdir(parents=True)
    with shared.pipeline as pipeline:
        channel = channel_utils.as_channel([examples])
        properties = validation.statistics_gen(channel, DataOptions(source="x")).exec_properties
        written = standard_artifacts.ExampleStatistics()
        written.uri = str(folders["statistics"])
        context = BaseBeamExecutor.Context(make_beam_pipeline_fn=lambda: shared)
        statistics.Executor(context).Do({"examples": [examples]}, {"statistics": [written]}, properties)
        target = folders["texts"] / "text_statistics.json"
        text_statistics.measure(pipeline, examples.uri, model, pair=False, target=str(target))
        tokenisation.tokenise(pipeline, graph.uri, examples.uri, str(folders["tokens"]))
        tfma_counts.analyse(shared, *answers(), str(folders["metrics"]))
    metrics = tfma.load_eval_result(str(folders["metrics"]))
    return {
        "statistics": {
            split: tfdv.load_stats_binary(f"{written.uri}/Split-{split}/FeatureStats.pb") for split in SPLITS
        },
        "texts": json.loads(target.read_text()),
        "tokens": {
            name: [tf.train.Example.FromString(row) for row in found] if name.endswith(".gz") else json.loads(found)
            for name, found in left(folders["tokens"]).items()
        },
        "metrics": dict(metrics.slicing_metrics),
        "plots": dict(metrics.plots),
    }


def answers():
    """A batch of a model's answers to 90 rows, and what TFMA is asked of them."""
    classes = ["neg", "new", "pos"]
    probabilities = np.random.default_rng(3).dirichlet([1, 1, 1], 90).astype(np.float32)
    columns = {
        "text": ["x" * (row % 20) for row in range(90)],
        "shop": [("north", "south")[row % 2] for row in range(90)],
    }
    labels = [row % 3 for row in range(90)]
    rows = factories.answers(classes, labels, probabilities.argmax(1), probabilities, columns=columns)
    slices = slice_columns(columns, EvaluateOptions(slices=["shop"], length_buckets=[10]))
    batch = tfma_counts.record_batch({CANDIDATE: rows}, slices)
    return batch, tfma_counts.eval_config([CANDIDATE], len(classes), list(slices))


@pytest.fixture(scope="module")
def in_memory(transformed, tmp_path_factory):
    return count_and_tokenise(tmp_path_factory.mktemp("in-memory"), transformed, IN_MEMORY)


def test_statistics_token_ids_and_metrics_are_the_same(in_memory, transformed, tmp_path, arguments):
    found = count_and_tokenise(tmp_path, transformed, arguments)
    assert {split: len(rows) for split, rows in found["tokens"].items()}["Split-train/data_tfrecord-00000-of-00001.gz"]
    assert found["texts"]["splits"]["train"]["rows"] == 200
    assert len(found["metrics"]) == 1 + 2 + 2  # all rows, two shops, two lengths
    assert found == in_memory
