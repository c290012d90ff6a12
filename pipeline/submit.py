"""Submits a compiled line to Kubeflow Pipelines 2, to run once or on a schedule."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bertline.errors import UserError
from bertline.pipeline import run_ids
from bertline.pipeline.kubeflow import Compiled

if TYPE_CHECKING:
    from kfp import Client

TOKEN_VARIABLE = "KUBEFLOW_TOKEN"
COOKIE_VARIABLE = "KUBEFLOW_COOKIE"  # of a session behind Dex or a similar login, such as authservice_session=...
# The file in which a pod finds its service account's token for Kubeflow, if it asks for one; kfp's own variable.
ACCOUNT_TOKEN_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"
ACCOUNT_TOKEN_FILE = "/var/run/secrets/kubeflow/pipelines/token"
WAIT_SECONDS = 7 * 24 * 3600  # Kubeflow's own timeouts end a run sooner


@dataclass(frozen=True)
class Api:
    """Where the API is, and how to authenticate.

    Attributes:
        host: URL; None finds the API from inside the cluster, or through kubectl's config.
        namespace: the user's in a multi-user installation; None in any other.
        token_file: holds a bearer token; None takes KUBEFLOW_TOKEN, KUBEFLOW_COOKIE, else the pod's service account.
        ca_file: certificates (PEM) of the authority that signed the server's; None for a public authority.
    """

    host: str | None
    namespace: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None


@dataclass(frozen=True)
class Submission:
    """What to submit, and its names in Kubeflow.

    Attributes:
        compiled: the pipeline; its parameters keep the config's values.
        name: the run's name.
        experiment: the experiment that lists the run; it is made if missing.
        caching: False runs every stage.
        service_account: the pods' account in Kubernetes; None for the installation's.
    """

    compiled: Compiled
    name: str
    experiment: str
    caching: bool = True
    service_account: str | None = None


def run_name(pipeline: str) -> str:
    """Such as "sentiment 2026-11-22T06:10:00Z"."""
    return f"{pipeline} {run_ids.new()}"


def start(submission: Submission, api: Api) -> str:
    """Starts a run; returns its id.

    Raises:
        UserError: the API cannot be reached, or refuses.
    """
    with _client(api) as client, _package(submission) as package:
        started = client.create_run_from_pipeline_package(
            package,
            run_name=submission.name,
            experiment_name=submission.experiment,
            namespace=api.namespace,
            service_account=submission.service_account,
            # The open source backend reads the root from the run, not from the pipeline.
            pipeline_root=submission.compiled.spec.get("defaultPipelineRoot"),
            **_caching(submission),
        )
    return started.run_id


def schedule(submission: Submission, api: Api, cron: str) -> str:
    """Starts a run at each time of a cron expression, never two at once; returns the schedule's id.

    Args:
        submission: what to run.
        api: where.
        cron: minute, hour, day, month and weekday, as in crontab; of six fields the first is the second.

    Raises:
        UserError: as `start`, or the expression has another number of fields.
    """
    with _client(api) as client, _package(submission) as package:
        experiment = client.create_experiment(submission.experiment, namespace=api.namespace)
        scheduled = client.create_recurring_run(
            experiment.experiment_id,
            submission.name,
            cron_expression=six_fields(cron),
            pipeline_package_path=package,
            # An object store has no lock, so two pushes at once would not notice each other.
            max_concurrency=1,
            no_catchup=True,
            service_account=submission.service_account,
            # The open source backend reads the root from the run, not from the pipeline.
            pipeline_root=submission.compiled.spec.get("defaultPipelineRoot"),
            **_caching(submission),
        )
    return scheduled.recurring_run_id


def wait(run_id: str, api: Api) -> str:
    """Waits for a run to end; returns its state: SUCCEEDED, FAILED, SKIPPED or CANCELED.

    Raises:
        UserError: as `start`.
    """
    with _client(api) as client:
        return client.wait_for_run_completion(run_id, timeout=WAIT_SECONDS).state


def six_fields(cron: str) -> str:
    """The expression in Kubeflow's form, with the second first.

    Raises:
        UserError: it has neither five fields nor six.
    """
    count = len(cron.split())
    if count not in (5, 6):
        raise UserError(f"--cron {cron!r}: expected minute, hour, day, month and weekday, as '0 3 * * *' for 3 a.m.")
    return f"0 {cron}" if count == 5 else cron


@contextmanager
def _package(submission: Submission) -> Iterator[str]:
    """The pipeline in a file, the only form that kfp's client accepts."""
    with tempfile.TemporaryDirectory(prefix="bertline-submit-") as folder:
        package = Path(folder) / "pipeline.yaml"
        package.write_text(submission.compiled.dump(), encoding="utf-8")
        yield str(package)


def _caching(submission: Submission) -> dict[str, bool]:
    # True would also cache the stages that must run each time.
    return {} if submission.caching else {"enable_caching": False}


@contextmanager
def _client(api: Api) -> Iterator[Client]:
    """kfp's client; its errors become UserErrors."""
    import kfp
    import kfp_server_api
    from urllib3.exceptions import HTTPError

    class AskedOnce(kfp.Client):
        def get_kfp_healthz(self, sleep_duration: int = 0) -> kfp_server_api.V2beta1GetHealthzResponse:
            return self._healthz_api.healthz_service_get_healthz()  # kfp asks five times, even where a token is wrong

    where = api.host or "the cluster's API"
    try:
        yield AskedOnce(
            host=api.host,
            namespace=api.namespace or "kubeflow",
            existing_token=_token(api),
            cookies=os.environ.get(COOKIE_VARIABLE),
            credentials=_account(),
            ssl_ca_cert=str(api.ca_file) if api.ca_file else None,
        )
    except kfp_server_api.ApiException as error:
        way_out = f" Give a token in --token-file or {TOKEN_VARIABLE}." if error.status in (401, 403) else ""
        raise UserError(f"{where} answered {error.status} {error.reason}: {_detail(error)}{way_out}") from error
    except HTTPError as error:
        raise UserError(f"{where} cannot be reached: {error}") from error


def _detail(error: object) -> str:
    body = getattr(error, "body", None) or b""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    return " ".join(text.split())[:300]


def _token(api: Api) -> str | None:
    if api.token_file:
        try:
            return api.token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UserError(f"--token-file {api.token_file} cannot be read: {error.strerror}") from error
    return os.environ.get(TOKEN_VARIABLE)


def _account() -> object | None:
    from kfp.client import ServiceAccountTokenVolumeCredentials

    path = os.environ.get(ACCOUNT_TOKEN_VARIABLE, ACCOUNT_TOKEN_FILE)
    return ServiceAccountTokenVolumeCredentials(path=path) if Path(path).exists() else None
