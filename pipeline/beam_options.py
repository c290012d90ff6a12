"""The `beam:` section of a config: which engine spreads the work on rows, and the arguments that say so to Beam."""

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

# Beam's default local runner fetches a binary at run time. This is the one in memory, which needs nothing; named by its
# class, it is spared the look whether the default would do, which costs TFMA's graph two seconds.
IN_MEMORY = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
MULTI_PROCESSING = "bertline.components.worker_processes.Runner"  # the same, which sees when a worker is lost
COMMON = (
    # Transform and TFMA build graphs of hundreds of steps whose types are theirs to get right: a second each.
    "--no_pipeline_type_check",
)
# Unless an image is named, TFX packs its sources for remote workers, seconds a stage. Nobody reads them: workers run in
# bertline's own installation.
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
    asked = str(name).lower()
    if "dask" in asked:
        raise ValueError(DASK)
    if asked.removesuffix("runner") in ENGINES:
        raise ValueError("name the way there: `runner: portable`, with the engine's job server as job_endpoint")
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
    """How an engine's machines come by Python workers that have bertline; one of the three."""

    external: Address | None = None  # a worker pool, as each of the engine's machines sees it: localhost:50000
    docker: str | None = None  # an image with Beam's boot program, started by the engine's machines
    process: str | None = None  # a command that is Beam's boot program, on each of the engine's machines

    @model_validator(mode="after")
    def _one_is_given(self) -> WorkerEnvironment:
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError(f"name one of external, docker and process, not {' and '.join(given) or 'none'}")
        return self


class DataflowOptions(Section):
    """Google Cloud Dataflow."""

    project: str
    region: str
    temp_location: Annotated[str, AfterValidator(_gcs_folder)]
    image: str  # bertline with Beam's boot program: docs/beam.md
    machine_type: str | None = None  # null: Dataflow's own choice
    max_workers: PositiveInt | None = None  # the most that it scales to; null: Dataflow's own limit


class BeamOptions(Section):
    """What runs the Beam pipelines of ingestion, statistics, tokenisation and evaluation.

    The same rows and figures come out of each, so none of it keys a model.
    """

    # in-memory: this process, quickest up to some million rows. The others pay for the start of their workers,
    # some 20 s a stage, and are worth it where the rows take minutes.
    runner: Runner = "in-memory"
    # How much at a time: processes (null: one a core), Flink's parallelism (null: its own default), Dataflow's machines
    # at the start (null: its own choice)
    workers: PositiveInt | None = None
    job_endpoint: Address | None = None  # portable: the job server
    artifact_endpoint: Address | None = None  # portable: null takes the one that the job server names
    environment: WorkerEnvironment | None = None  # portable
    dataflow: DataflowOptions | None = None
    # Anything else that Beam takes, by the name of its pipeline option, such as {sdk_worker_parallelism: 2}
    options: dict[str, bool | int | float | str | list[str]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_the_runner(self) -> BeamOptions:
        for check in (check_portable, check_dataflow, check_workers, check_options):
            check(self)
        return self


# === Rules ===


def check_portable(beam: BeamOptions) -> None:
    """Raises ValueError where a job server is not named, or is and would not be asked."""
    given = [name for name in ("job_endpoint", "artifact_endpoint", "environment") if getattr(beam, name)]
    if beam.runner != "portable" and given:
        raise ValueError(f"{given[0]} is for `runner: portable`, not {beam.runner}; change one of the two")
    if beam.runner == "portable" and not beam.job_endpoint:
        raise ValueError("runner: portable needs job_endpoint, the HOST:PORT of a job server")
    if beam.runner == "portable" and not beam.environment:
        raise ValueError(
            "runner: portable needs environment: where the engine finds workers that have bertline, "
            "such as {external: localhost:50000}; Beam's own image does not have it"
        )


def check_dataflow(beam: BeamOptions) -> None:
    """Raises ValueError where Dataflow's options are missing, or would not be read."""
    if beam.runner == "dataflow" and not beam.dataflow:
        raise ValueError("runner: dataflow needs dataflow: {project, region, temp_location, image}")
    if beam.runner != "dataflow" and beam.dataflow:
        raise ValueError(f"dataflow is for `runner: dataflow`, not {beam.runner}; change one of the two")


def check_workers(beam: BeamOptions) -> None:
    """Raises ValueError for more workers than the runner has, or may have."""
    if beam.runner == "in-memory" and (beam.workers or 1) > 1:
        raise ValueError(f"workers: {beam.workers}: in-memory has one; `runner: multi-processing` has more")
    most = beam.dataflow and beam.dataflow.max_workers
    if most and (beam.workers or 1) > most:
        raise ValueError(f"workers: {beam.workers} is above dataflow.max_workers, {most}")


def check_options(beam: BeamOptions) -> None:
    """Raises ValueError for an option that Beam does not know, or that has a place or a reason not to be here."""
    for name, value in beam.options.items():
        if "dask" in f"{name} {value}".lower():
            raise ValueError(f"options.{name}: {DASK}")
        if name in ELSEWHERE:
            raise ValueError(f"options.{name}: its place is {ELSEWHERE[name]}")
        if name in SECRETS:
            raise ValueError(f"options.{name}: a secret has no place in a config; workers find it in their environment")
        if value is False:
            raise ValueError(f"options.{name}: false is what leaving it out says")
    if beam.options:
        _check_by_beam(beam.options)


def _check_by_beam(options: dict[str, bool | int | float | str | list[str]]) -> None:
    from apache_beam.options.pipeline_options import PipelineOptions  # takes seconds

    known = set(PipelineOptions([]).get_all_options())
    for name, value in options.items():
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                parsed = PipelineOptions(_flags({name: value})).get_all_options(retain_unknown_options=True)
        except SystemExit:  # argparse's way to refuse a value
            reason = said.getvalue().rpartition("error: ")[2].strip()
            raise ValueError(f"options.{name}: {value!r}: {reason}") from None
        if set(parsed) - known:
            nearest = difflib.get_close_matches(name, [*known, *ELSEWHERE], n=1, cutoff=0.5)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(f"options.{name}: Beam has no such pipeline option{hint}")


def check_runs_here(beam: BeamOptions) -> None:
    """Looks whether a run of this machine can begin.

    Raises:
      UserError: the engine reads no folder of this machine, or its job server does not answer.
    """
    if beam.runner == "dataflow":
        raise UserError(
            "beam.runner: dataflow sees no folder of this machine, and runs here keep their artifacts in one. "
            "Compile the line for a cluster (`bertline compile`), or take another runner."
        )
    if beam.job_endpoint and (fault := unreachable(beam.job_endpoint)):
        raise UserError(
            f"beam.job_endpoint: {beam.job_endpoint} cannot be reached: {fault}. Start the job server, mend the "
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
    """What a stage of a cluster's line gets: the config's, or in memory where Dataflow cannot serve it."""
    return BeamOptions() if beam.runner == "dataflow" and node.beam is Beam.NOT_ON_DATAFLOW else beam


def arguments(beam: BeamOptions) -> list[str]:
    """The command line of every Beam pipeline, whoever runs the stage."""
    flags = {
        "in-memory": _in_memory,
        "multi-processing": _multi_processing,
        "portable": _portable,
        "dataflow": _dataflow,
    }[beam.runner](beam)
    given = {name: value for name, value in flags.items() if value is not None}
    return [*_flags(given), *COMMON, *_flags(beam.options)]


def _in_memory(_: BeamOptions) -> dict[str, str | int | bool | None]:
    return {"runner": IN_MEMORY, "sdk_container_image": NO_IMAGE}


def _multi_processing(beam: BeamOptions) -> dict[str, str | int | bool | None]:
    return {
        "runner": MULTI_PROCESSING,
        "direct_running_mode": "multi_processing",
        "direct_num_workers": beam.workers or 0,  # Beam takes 0 for one a core
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
        # The image has our modules; what the command line's own module holds is of no use to a worker.
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
