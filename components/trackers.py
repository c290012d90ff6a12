"""Experiment trackers: TensorBoard's hparams, MLflow, Weights & Biases. Each is imported only if the config names it.

Keys and passwords come only from the environment: WANDB_API_KEY, MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME
with MLFLOW_TRACKING_PASSWORD.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from bertline.components import markdown
from bertline.components.options import TrackingOptions
from bertline.errors import UserError
from bertline.serving.storage import is_remote

PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny", "wandb": "wandb"}  # as PyPI names them
SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")
RUN_TAG = "bertline.run"


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told about a run.

    Attributes:
        id: the same for the same evaluation, so that a run is written down only once.
        project: MLflow's experiment, W&B's project.
        parameters: the config's, by dotted key.
        epochs: the curves, one dictionary per epoch, the first epoch first.
        figures: the final ones.
        gates: what each gate said, in words.
        facts: `outcome` ("pushed" or "blocked"), `version`, hashes, commit, parent.
        page: file of the review page; "" to leave it out.
    """

    id: str
    project: str
    parameters: dict[str, bool | int | float | str]
    epochs: list[dict[str, float]]
    figures: dict[str, float]
    gates: dict[str, str]
    facts: dict[str, str]
    page: str = ""


def check(options: TrackingOptions) -> None:
    """Refuses, before a run starts, a setup that would keep the tracker from being told at its end.

    Raises:
        UserError: the tracker is not installed, W&B has no key, or an address holds a password.
    """
    if not options.tool:
        return
    if importlib.util.find_spec(options.tool) is None:
        package = PACKAGES[options.tool]
        raise UserError(
            f"tracking.tool: {options.tool} is not installed here. `pip install {package}` (the extra "
            "`tracking` has it), or take `tracking` out of the config."
        )
    is_sent = options.tool == "wandb" and os.environ.get("WANDB_MODE", "online") == "online"
    if is_sent and not os.environ.get("WANDB_API_KEY"):
        raise UserError(
            "tracking.tool: wandb needs the API key in the environment variable WANDB_API_KEY; "
            "WANDB_MODE=offline writes files only, for `wandb sync` to send."
        )
    if options.tool == "mlflow" and urlsplit(os.environ.get("MLFLOW_TRACKING_URI", "")).password:
        raise UserError(
            "MLFLOW_TRACKING_URI holds a password, which would end up in logs; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD."
        )


def write(run: TrackedRun, options: TrackingOptions, folder: str) -> str:
    """Tells the tracker about a run. A second time, the same entry is brought up to date.

    Args:
        run: what the tracker is told.
        options: the tracker and where it is.
        folder: the task's root, for the files of a tracker without a server; "" for none.

    Returns:
        Where a person finds the run.

    Raises:
        UserError: there is no folder for the tracker's files.
        Exception: any that the tracker's client raises, such as when its server does not answer.
    """
    is_sent = options.tool == "wandb" or options.address or os.environ.get("MLFLOW_TRACKING_URI")
    if not folder and not is_sent:
        raise UserError(f"{options.tool} keeps files, and there is no folder for them; set `root`.")
    writers = {"tensorboard": _to_tensorboard, "mlflow": _to_mlflow, "wandb": _to_wandb}
    return writers[options.tool](run, options, folder)


def without_secrets(text: str) -> str:
    """A message without the keys and passwords of the environment."""
    for name in SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, f"${name}")
    return text


# === TensorBoard ===


def _to_tensorboard(run: TrackedRun, options: TrackingOptions, folder: str) -> str:
    import tensorflow as tf
    from tensorboard.plugins.hparams import api_pb2, summary, summary_v2

    logs = f"{folder}/tensorboard/{run.id}"
    if tf.io.gfile.isdir(logs):
        tf.io.gfile.rmtree(logs)
    with tf.summary.create_file_writer(logs).as_default():
        summary_v2.hparams({**run.parameters, "version": run.facts["version"]}, trial_id=run.id)
        for step, epoch in enumerate(run.epochs, 1):
            for name, value in epoch.items():
                tf.summary.scalar(name, value, step=step)
        for name, value in run.figures.items():
            tf.summary.scalar(name, value, step=len(run.epochs))
        tf.summary.text("gates", _table(run.gates), step=0)
        tf.summary.text("facts", _table(run.facts), step=0)
        ended = summary.session_end_pb(api_pb2.STATUS_SUCCESS)
        tf.summary.experimental.write_raw_pb(ended.SerializeToString(), step=0)
    return logs


# === MLflow ===


def _to_mlflow(run: TrackedRun, options: TrackingOptions, folder: str) -> str:
    # MLflow reports its use to its makers unless this is set.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # The store of plain files must be asked for. It is the only one that the small package can write by itself.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    # Its default of seven tries takes four minutes if a server is down; the next `bertline run` tries again anyway.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    address = options.address or os.environ.get("MLFLOW_TRACKING_URI") or f"{folder}/mlruns"
    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name(run.project)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(run.project)
    # An earlier entry of this run, whole or broken off, is deleted: MLflow adds to figures and never replaces them.
    for old in client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{run.id}'"):
        client.delete_run(old.info.run_id)
    run_id = client.create_run(experiment_id, run_name=run.id, tags={RUN_TAG: run.id}).info.run_id
    now = int(time.time() * 1000)
    points = [(name, value, step) for step, epoch in enumerate(run.epochs, 1) for name, value in epoch.items()]
    points += [(name, value, 0) for name, value in run.figures.items()]
    tags = {**run.facts, "mlflow.note.content": _table(run.gates)}
    client.log_batch(
        run_id,
        [Metric(name, value, now, step) for name, value, step in points],
        [Param(name, str(value)) for name, value in run.parameters.items()],
        [RunTag(name, value) for name, value in tags.items()],
    )
    client.log_dict(run_id, run.gates, "gates.json")
    if run.page:
        client.log_artifact(run_id, run.page)
    client.set_terminated(run_id, "FINISHED")
    return f"{address} experiment {run.project}, run {run.id}"


# === Weights & Biases ===


def _to_wandb(run: TrackedRun, options: TrackingOptions, folder: str) -> str:
    import wandb

    settings = wandb.Settings(
        init_timeout=30,  # seconds; the default of 90 is long if a server is down
        console="off",
        silent=True,
        **({"base_url": options.address} if options.address else {}),
        # W&B learns nothing about the machine, its user, its code or its packages.
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        save_code=False,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
    )
    # The client writes local files, which it then sends.
    folder = folder if folder and not is_remote(folder) else tempfile.gettempdir()
    os.makedirs(folder, exist_ok=True)
    session = wandb.init(
        project=run.project,
        id=run.id,
        name=run.id,
        config=run.parameters,
        dir=folder,
        resume="allow",
        settings=settings,
    )
    try:
        session.define_metric("epoch")
        session.define_metric("*", step_metric="epoch")
        for number, epoch in enumerate(run.epochs, 1):
            session.log({"epoch": number, **epoch}, step=number)
        session.summary.update({**run.figures, **run.facts, "gates": run.gates})
        if run.page:
            page = wandb.Artifact(f"review-{run.id}", type="review")
            page.add_file(run.page)
            session.log_artifact(page)
        where = session.url or session.settings.sync_dir
    finally:
        session.finish()
        wandb.teardown()
    return where


def _table(values: dict[str, str]) -> str:
    """A Markdown table of two columns; gates and reasons hold values of the data."""
    rows = [f"| {markdown.plain(name)} | {markdown.plain(value)} |" for name, value in values.items()]
    return "\n".join(["| | |", "|---|---|", *rows])
