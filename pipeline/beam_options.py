"""The `beam:` section of a config: which engine does the work on rows, and Beam's arguments for it."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
import socket
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, model_validator

from bertline.errors import UserError
from bertline.models.recipe import Section
from bertline.pipeline.stages import Beam, Node

SECONDS = 5.0  # to reach a job server
GCS = "gs://"

# === Beam's arguments ===

# Beam's default local runner fetches a binary at run time. The runner in memory needs nothing. It is named by its class
# so that Beam does not check first whether the default would do, which takes two seconds for TFMA's graph.
IN_MEMORY = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
MULTI_PROCESSING = "bertline.components.worker_processes.Runner"  # the same runner, but it notices a lost worker
COMMON = (
    # Transform and TFMA build graphs of hundreds of steps, and checking the types in each graph takes a second.
    "--no_pipeline_type_check",
)
# Unless an image is named, TFX packs its sources for remote workers, which takes seconds per stage. Nothing reads them:
# workers have bertline installed.
NO_IMAGE = "none"

DATAFLOW = "--runner=DataflowRunner"

# === What `options` may not hold ===

ELSEWHERE = {
    "runner": "beam.runner",
    "direct_running_mode": "beam.runner",
    "direct_num_workers": "beam.workers",
    "parallelism": "beam.workers",
    "num_workers": "beam.workers",
    "job_endpoint": "beam.job_endpoint",
    "artifact_endpoint": "beam.artifact_endpoint",
    "environment_type": "beam.environment",
    "environment_config": "beam.environment",
    "environment_option": "beam.environment",
    "environment_options": "beam.environment",
    "project": "beam.dataflow.project",
    "region": "beam.dataflow.region",
    "temp_location": "beam.dataflow.temp_location",
    "sdk_container_image": "beam.dataflow.image, or beam.environment.docker",
    "worker_harness_container_image": "beam.dataflow.image, or beam.environment.docker",
    "worker_machine_type": "beam.dataflow.machine_type",
    "max_num_workers": "beam.dataflow.max_workers",
}
SECRETS = frozenset({"s3_access_key_id", "s3_secret_access_key", "s3_session_token", "azure_connection_string"})
DASK = (
    "Beam 2.77's DaskRunner is refused: with it ExampleGen ended as done and had written nothing. "
    "Take multi-processing, or portable with a job server"
)
ENGINES = ("flink", "spark")


def _address(text: str) -> str:
    if not re.fullmatch(r"[^\s:/]+:\d{1,5}", text):
        raise ValueError("write it as HOST:PORT, without a scheme")
    return text


def _runner(name: object) -> object:
    lower = str(name).lower()
    if "dask" in lower:
        raise ValueError(DASK)
    if lower.removesuffix("runner") in ENGINES:
        raise ValueError("write `runner: portable`, and name the engine's job server in job_endpoint")
    return name


def _gcs_folder(address: str) -> str:
    if not re.fullmatch(r"gs://[a-z0-9][-_a-z0-9.]+[a-z0-9]/.+", address):
        raise ValueError("Dataflow keeps its files in a folder gs://BUCKET/PATH")
    return address


Address = Annotated[str, AfterValidator(_address)]
Runner = Annotated[
    Literal["in-memory", "multi-processing", "portable", "dataflow"],
    BeforeValidator(_runner),
]


class WorkerEnvironment(Section):
    """How an engine's machines get Python workers that have bertline; set one of the three."""

    external: Address | None = None  # a worker pool, as each of the engine's machines reaches it: localhost:50000
    docker: str | None = None  # an image with Beam's boot program, started by the engine's machines
    process: str | None = None  # a command that is Beam's boot program, on each of the engine's machines

    @model_validator(mode="after")
    def _one_is_given(self) -> WorkerEnvironment:
        kinds = [name for name, value in self if value is not None]
        if len(kinds) != 1:
            raise ValueError(f"name one of external, docker and process, not {' and '.join(kinds) or 'none'}")
        return self


class DataflowOptions(Section):
    """Google Cloud Dataflow."""

    project: str  # that the jobs run in and are billed to
    region: str  # of the machines; near the data
    temp_location: Annotated[str, AfterValidator(_gcs_folder)]  # gs://, for Dataflow's own files
    image: str  # bertline with Beam's boot program: docs/beam.md
    machine_type: str | None = None  # null: Dataflow's own choice
    max_workers: PositiveInt | None = None  # the most that it scales to; null: Dataflow's own limit


class BeamOptions(Section):
    """What runs the Beam pipelines of ingestion, statistics, tokenisation and evaluation.

    Every engine produces the same rows and figures, so nothing here keys a model.
    """

    # in-memory runs in this process, and is quickest up to some million rows. The others first start their workers:
    # some 10 s for a run's first stage, 1 to 3 s for each later one. That is worth it where the rows take minutes.
    runner: Runner = "in-memory"
    # How much runs at a time: processes (null: one per core), Flink's parallelism (null: its own default), Dataflow's
    # machines at the start (null: its own choice)
    workers: PositiveInt | None = None
    job_endpoint: Address | None = None  # portable: the job server
    artifact_endpoint: Address | None = None  # portable; null: the one that the job server names
    environment: WorkerEnvironment | None = None  # portable
    dataflow: DataflowOptions | None = None
    # Any other of Beam's pipeline options by its name, such as {sdk_worker_parallelism: 2}
    options: dict[str, bool | int | float | str | list[str]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_the_runner(self) -> BeamOptions:
        for check in (check_portable, check_dataflow, check_workers, check_options):
            check(self)
        return self


# === Rules ===


def check_portable(beam: BeamOptions) -> None:
    """Raises ValueError where a portable runner has no job server, or another runner has one that it would not use."""
    portable = [name for name in ("job_endpoint", "artifact_endpoint", "environment") if getattr(beam, name)]
    if beam.runner != "portable" and portable:
        raise ValueError(f"{portable[0]} is for `runner: portable`, not {beam.runner}; change one of the two")
    if beam.runner == "portable" and not beam.job_endpoint:
        raise ValueError("runner: portable needs job_endpoint, the HOST:PORT of a job server")
    if beam.runner == "portable" and not beam.environment:
        raise ValueError(
            "runner: portable needs environment, which says where the engine finds workers that have bertline, "
            "such as {external: localhost:50000}; Beam's own image does not have bertline"
        )


def check_dataflow(beam: BeamOptions) -> None:
    """Raises ValueError where Dataflow's options are missing, or another runner would ignore them."""
    if beam.runner == "dataflow" and not beam.dataflow:
        raise ValueError("runner: dataflow needs dataflow: {project, region, temp_location, image}")
    if beam.runner != "dataflow" and beam.dataflow:
        raise ValueError(f"dataflow is for `runner: dataflow`, not {beam.runner}; change one of the two")


def check_workers(beam: BeamOptions) -> None:
    """Raises ValueError for more workers than the runner can have, or is allowed."""
    if beam.runner == "in-memory" and (beam.workers or 1) > 1:
        raise ValueError(f"workers: {beam.workers}: in-memory has one; `runner: multi-processing` can have more")
    max_workers = beam.dataflow and beam.dataflow.max_workers
    if max_workers and (beam.workers or 1) > max_workers:
        raise ValueError(f"workers: {beam.workers} is above dataflow.max_workers, {max_workers}")


def check_options(beam: BeamOptions) -> None:
    """Raises ValueError for an option that Beam does not know, that has a key of its own, or that must not be set."""
    for name, value in beam.options.items():
        if "dask" in f"{name} {value}".lower():
            raise ValueError(f"options.{name}: {DASK}")
        if name in ELSEWHERE:
            raise ValueError(f"options.{name}: set {ELSEWHERE[name]} instead")
        if name in SECRETS:
            raise ValueError(f"options.{name}: a secret must not be in a config; set it in the workers' environment")
        if value is False:
            raise ValueError(f"options.{name}: leave it out, which means false")
    if beam.options:
        _check_by_beam(beam.options)


def _check_by_beam(options: dict[str, bool | int | float | str | list[str]]) -> None:
    from apache_beam.options.pipeline_options import PipelineOptions  # takes seconds

    known = set(PipelineOptions([]).get_all_options())
    for name, value in options.items():
        output = io.StringIO()
        try:
            with contextlib.redirect_stderr(output):
                parsed = PipelineOptions(_flags({name: value})).get_all_options(retain_unknown_options=True)
        except SystemExit:  # argparse's way to refuse a value
            reason = output.getvalue().rpartition("error: ")[2].strip()
            raise ValueError(f"options.{name}: {value!r}: {reason}") from None
        if set(parsed) - known:
            nearest = difflib.get_close_matches(name, [*known, *ELSEWHERE], n=1, cutoff=0.5)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(f"options.{name}: Beam has no such pipeline option{hint}")


def check_runs_here(beam: BeamOptions) -> None:
    """Checks whether a run on this machine can begin.

    Raises:
        UserError: the engine cannot read this machine's folders, or its job server does not answer.
    """
    if beam.runner == "dataflow":
        raise UserError(
            "beam.runner: dataflow cannot see this machine's folders, where runs here keep their artifacts. "
            "Compile the line for a cluster (`bertline compile`), or choose another runner."
        )
    if beam.job_endpoint and (fault := unreachable(beam.job_endpoint)):
        raise UserError(
            f"beam.job_endpoint: {beam.job_endpoint} cannot be reached: {fault}. Start the job server, correct the "
            "address, or leave `beam` out: the work is then done in this process."
        )


def unreachable(address: str) -> str:
    """Why nothing answers at HOST:PORT; "" where something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=SECONDS).close()
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


# === Arguments ===


def of_stage(beam: BeamOptions, node: Node) -> BeamOptions:
    """A stage's options on a cluster: the config's, or in memory where the stage cannot run on Dataflow."""
    return BeamOptions() if beam.runner == "dataflow" and node.beam is Beam.NOT_ON_DATAFLOW else beam


def arguments(beam: BeamOptions) -> list[str]:
    """The command line of every Beam pipeline, whatever runs the stage."""
    flags = {
        "in-memory": _in_memory,
        "multi-processing": _multi_processing,
        "portable": _portable,
        "dataflow": _dataflow,
    }[beam.runner](beam)
    set_flags = {name: value for name, value in flags.items() if value is not None}
    return [*_flags(set_flags), *COMMON, *_flags(beam.options)]


def _in_memory(_: BeamOptions) -> dict[str, str | int | bool | None]:
    return {"runner": IN_MEMORY, "sdk_container_image": NO_IMAGE}


def _multi_processing(beam: BeamOptions) -> dict[str, str | int | bool | None]:
    return {
        "runner": MULTI_PROCESSING,
        "direct_running_mode": "multi_processing",
        "direct_num_workers": beam.workers or 0,  # to Beam, 0 means one per core
        "sdk_container_image": NO_IMAGE,
    }


def _portable(beam: BeamOptions) -> dict[str, str | int | bool | None]:
    (kind, value), *_ = beam.environment.model_dump(exclude_none=True).items()
    by_kind = {
        "external": {"environment_config": value},
        "docker": {"environment_config": value},
        "process": {"environment_option": f"process_command={value}"},
    }
    return {
        "runner": "PortableRunner",
        "job_endpoint": beam.job_endpoint,
        "artifact_endpoint": beam.artifact_endpoint,
        "environment_type": kind.upper(),
        **by_kind[kind],
        "parallelism": beam.workers,
        "sdk_container_image": value if kind == "docker" else NO_IMAGE,
    }


def _dataflow(beam: BeamOptions) -> dict[str, str | int | bool | None]:
    service = beam.dataflow
    return {
        "runner": DATAFLOW.removeprefix("--runner="),
        "project": service.project,
        "region": service.region,
        "temp_location": service.temp_location,
        "sdk_container_image": service.image,
        "worker_machine_type": service.machine_type,
        "num_workers": beam.workers,
        "max_num_workers": service.max_workers,
        # The image has bertline's modules; a worker needs nothing of the command line's own module.
        "no_save_main_session": True,
    }


def _flags(values: dict[str, bool | int | float | str | list[str] | None]) -> list[str]:
    """--name for true, --name=value, or one for each value of a list."""
    flags = []
    for name, value in values.items():
        if value is True:
            flags.append(f"--{name}")
        else:
            flags += [f"--{name}={each}" for each in (value if isinstance(value, list) else [value])]
    return flags
