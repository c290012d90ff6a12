"""The stages' Beam work on each engine that runs here: the same rows, quarantine and figures, and after a lost worker.

The portable engine is Beam's own job server with a pool of workers, each in a process of its own: the path on which
Flink and Spark call the same workers.
"""

import csv
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import apache_beam as beam
import factories
import numpy as np
import psutil
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import channel_utils, standard_artifacts

from components import evaluator, example_gen, ingestion, shards, sources, splitting, statistics, validation
from components.artifacts import Quarantine
from components.errors import LineError, root_cause
from components.options import DataOptions, EvaluateOptions
from models.features import SPLITS
from pipeline import beam_options
from pipeline.beam_options import BeamOptions

TOP = Path(__file__).parents[2]
ENGINES = ("multi-processing", "portable")
STARTED = 60  # seconds in which a server is up


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def job_server(tmp_path_factory):
    """A job server and a worker pool; returns the section of a config that names them."""
    folder = tmp_path_factory.mktemp("job-server")
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PYTHONPATH": str(TOP), "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    jobs, workers = free_port(), free_port()
    commands = (
        ["apache_beam.runners.portability.local_job_service_main", f"--port={jobs}"],
        ["apache_beam.runners.worker.worker_pool_main", f"--service_port={workers}"],
    )
    with open(folder / "log", "wb") as log:
        started = [
            subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=log, stderr=log)
            for command in commands
        ]
    try:
        for port in (jobs, workers):
            until = time.monotonic() + STARTED
            while beam_options.unreachable(f"127.0.0.1:{port}"):
                assert time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.2)
        yield {
            "runner": "portable",
            "job_endpoint": f"127.0.0.1:{jobs}",
            "environment": {"external": f"127.0.0.1:{workers}"},
        }
    finally:
        for process in started:
            process.terminate()
            process.wait()


@pytest.fixture(params=ENGINES)
def arguments(request):
    """Beam's arguments for an engine."""
    if request.param == "portable":
        return beam_options.arguments(BeamOptions(**request.getfixturevalue("job_server")))
    return beam_options.arguments(BeamOptions(runner=request.param, workers=2))


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
    monkeypatch.setattr(example_gen, "BYTES_A_TASK", 1)


@pytest.fixture
def ingested(tables, tmp_path, task_a_file):
    return ingest(tables, tmp_path / "in-memory", IN_MEMORY)


def test_ingestion_leaves_the_same_rows_and_quarantine(tables, tmp_path, ingested, arguments):
    assert len([name for name in ingested if "Split-train" in name]) == 3
    assert ingested["quarantine/quarantine.csv"].count(b"\r\n") == 1 + 3 * 3
    assert ingest(tables, tmp_path / "other", arguments) == ingested


def test_a_bundle_run_twice_leaves_nothing_twice(tables, tmp_path, ingested):
    assert ingest(tables, tmp_path / "twice", [*IN_MEMORY, "--direct_runner_bundle_repeat=1"]) == ingested


def test_a_fault_in_a_worker_is_told_in_its_own_words(tables, tmp_path, arguments):
    task = ingestion.Task(
        [(0, sources.SourceFile("/elsewhere/a.csv", "a.csv", "csv"))],
        DataOptions(source="a.csv"),
        str(tmp_path),
        str(tables),
        str(tables),
    )
    plan = splitting.Plan({0: np.zeros(1, np.uint8)}, ["neg", "pos"], {"unreadable": []})
    with pytest.raises(Exception, match="while running") as caught, beam.Pipeline(argv=list(arguments)) as pipeline:
        _ = pipeline | beam.Create([task]) | beam.FlatMap(ingestion.write, plan)
    cause = root_cause(caught.value)
    assert isinstance(cause, LineError)
    assert str(cause).startswith("/elsewhere/a.csv: a Beam worker on ")
    assert str(cause).endswith("in gs://, s3:// or minio:// (kubeflow.data_folder).")


# === A lost worker ===


@pytest.fixture(scope="module")
def large_tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    for number in range(2):
        with open(folder / f"{number}.csv", "w", newline="", encoding="utf-8") as stream:
            rows = ((f"text {row} of {number}", ("neg", "pos")[row % 2]) for row in range(60_000))
            csv.writer(stream).writerows([("text", "label"), *rows])
    return folder


def workers_of(process, module):
    found = []
    for child in psutil.Process(process).children(recursive=True):
        try:
            if module in " ".join(child.cmdline()) and child.name() != "sh":
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def kill_a_worker_that_writes(out, seen):
    """Waits for the second pass to have begun, and kills a worker of this process."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if any((out / "examples" / shards.UNFINISHED).glob("*")):
            seen.extend(workers_of(os.getpid(), "sdk_worker_main"))
            os.kill(seen[0].pid, signal.SIGKILL)
            return
        time.sleep(0.02)


def test_a_lost_worker_ends_the_stage_in_words_and_the_next_try_leaves_the_same(large_tables, tmp_path, task_a_file):
    out = tmp_path / "out"
    seen = []
    killer = threading.Thread(target=kill_a_worker_that_writes, args=(out, seen))
    killer.start()
    began = time.monotonic()
    with pytest.raises(Exception, match="Beam worker") as caught:
        ingest(large_tables, out, beam_options.arguments(BeamOptions(runner="multi-processing", workers=2)))
    killer.join()
    assert len(seen) == 2
    assert str(root_cause(caught.value)).startswith("a Beam worker is lost (Worker subprocess exited with return code")
    assert not [name for name in left(out) if "Split-" in name and not name.endswith(".gz")]
    assert ingest(large_tables, out, IN_MEMORY) == ingest(large_tables, tmp_path / "undisturbed", IN_MEMORY)
    print(time.monotonic() - began)


# === Statistics and metrics ===


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    rows = [(f"text number {row} " + "very " * (row % 7), ("neg", "pos")[row % 2]) for row in range(300)]
    splits = {"train": rows[:200], "validation": rows[200:250], "test": rows[250:]}
    return factories.raw_examples(tmp_path_factory.mktemp("examples"), splits, ["neg", "pos"])[0]


def counted(folder, examples, arguments):
    """Runs StatisticsGen; returns a split's name -> its statistics."""
    channel = channel_utils.as_channel([examples])
    properties = validation.statistics_gen(channel, DataOptions(source="x")).exec_properties
    written = standard_artifacts.ExampleStatistics()
    written.uri = str(folder)
    context = BaseBeamExecutor.Context(beam_pipeline_args=list(arguments), tmp_dir=str(folder / "tmp"), unique_id="1")
    statistics.Executor(context).Do({"examples": [examples]}, {"statistics": [written]}, properties)
    return {split: tfdv.load_stats_binary(str(folder / f"Split-{split}" / "FeatureStats.pb")) for split in SPLITS}


def test_statistics_are_the_same(examples, tmp_path, arguments):
    assert counted(tmp_path / "other", examples, arguments) == counted(tmp_path / "in-memory", examples, IN_MEMORY)


def test_tfmas_metrics_are_the_same(tmp_path, arguments):
    labels = [("neg", "pos", "new")[row % 3] for row in range(90)]
    table = {
        "text": ["x" * (row % 20) for row in range(90)],
        "label": labels,
        "shop": [("north", "south")[row % 2] for row in range(90)],
    }
    probabilities = np.random.default_rng(3).dirichlet([1, 1, 1], 90).astype(np.float32)
    classes = ["neg", "new", "pos"]
    answers = evaluator.Predictions(classes, [classes[column] for column in probabilities.argmax(1)], probabilities)
    options = EvaluateOptions(slices=["shop"], length_buckets=[10])
    found = [
        evaluator.run_tfma(beam.Pipeline(argv=list(each)), table, answers, None, options, str(tmp_path / str(number)))
        for number, each in enumerate((IN_MEMORY, arguments))
    ]
    np.testing.assert_equal(found[1], found[0])
    assert set(found[0]["candidate"]["slices"]) == {"shop=north", "shop=south", "text_length=0-9", "text_length=10+"}
