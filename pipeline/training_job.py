"""Training on several machines of a cluster: a TFJob of Kubeflow's training operator, whose pods run the Trainer.

The operator gives each pod TF_CONFIG, which `train.distribution: multi_worker` needs. The stage's own pod creates the
job and waits for it (see bertline.pipeline.stage).
"""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bertline.errors import UserError
from bertline.pipeline.kubeflow_options import KubeflowOptions
from bertline.pipeline.stages import Node

GROUP, VERSION, PLURAL = "kubeflow.org", "v1", "tfjobs"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
POLL_SECONDS = 5.0  # training takes minutes at least
KEPT_SECONDS = 24 * 3600  # a finished job stays for a day, so that its pods' logs can be read
ROLE = "pipeline/deploy/training-job-role.yaml"


def manifest(options: KubeflowOptions, image: str) -> dict[str, Any]:
    """The TFJob without what a run adds: its name, and the pods' command.

    Args:
        options: the cluster; `workers`, and what each of them asks for in `stages.Trainer`.
        image: the container image.
    """
    stage = options.of_stage(Node.TRAINER)
    container = {
        "name": "tensorflow",  # the operator gives TF_CONFIG to the container of this name
        "image": image,
        "env": [
            {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": key}}}
            for secret in options.secrets
            for variable, key in sorted(secret.env.items())
        ],
        "resources": stage.resources(),
        "volumeMounts": [{"name": f"volume-{place}", "mountPath": volume.path}
                         for place, volume in enumerate(options.volumes)],
    }  # fmt: skip
    pod = {
        "containers": [container],
        "volumes": [{"name": f"volume-{place}", "persistentVolumeClaim": {"claimName": volume.claim}}
                    for place, volume in enumerate(options.volumes)],
        "nodeSelector": stage.node_labels(),
        "tolerations": [toleration.manifest() for toleration in stage.tolerations],
    }  # fmt: skip
    policy = {
        "cleanPodPolicy": "Running",
        # When one worker is lost, all stop and start again, and each start counts.
        "backoffLimit": stage.retries * options.workers,
        "ttlSecondsAfterFinished": KEPT_SECONDS,
        **({"activeDeadlineSeconds": stage.timeout_seconds} if stage.timeout_seconds else {}),
    }
    # A service mesh's sidecar would stand between the workers, and outlive them.
    metadata = {"labels": options.labels, "annotations": {"sidecar.istio.io/inject": "false"}}
    workers = {
        "replicas": options.workers,
        "restartPolicy": "OnFailure",
        "template": {"metadata": metadata, "spec": pod},
    }
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TFJob",
        "metadata": {"labels": options.labels},
        "spec": {"runPolicy": policy, "tfReplicaSpecs": {"Worker": workers}},
    }


def run(job: dict[str, Any], name: str, command: Sequence[str], env: dict[str, str]) -> None:
    """Runs the job on the cluster and waits for its end; joins a job of this name that is there already.

    Args:
        job: what `manifest` returns.
        name: the job's; the same in each try of a stage, so that a retry does not train beside the first try.
        command: what each pod runs.
        env: further environment variables of each pod.

    Raises:
        UserError: the job failed, or the cluster refuses it.
    """
    from kubernetes import client

    namespace = _connect()
    api = client.CustomObjectsApi()
    place = {"group": GROUP, "version": VERSION, "namespace": namespace, "plural": PLURAL}
    try:
        if _outcome(running := _existing(api, place, name)) == "Failed":
            api.delete_namespaced_custom_object(**place, name=name, propagation_policy="Foreground")
            while running := _existing(api, place, name):
                time.sleep(POLL_SECONDS)
        if running is None:
            running = api.create_namespaced_custom_object(**place, body=filled(job, name, command, env))
            logging.info("TFJob %s/%s", namespace, name)
        while not _outcome(running):
            time.sleep(POLL_SECONDS)
            running = api.get_namespaced_custom_object(**place, name=name)
    except client.ApiException as error:
        raise UserError(f"TFJob {namespace}/{name}: {_in_words(error)}") from error
    if _outcome(running) == "Failed":
        raise UserError(
            f"TFJob {namespace}/{name} failed: {_conditions(running)['Failed']} The log of its first pod says why: "
            f"kubectl -n {namespace} logs {name}-worker-0"
        )


def filled(job: dict[str, Any], name: str, command: Sequence[str], env: dict[str, str]) -> dict[str, Any]:
    """The job under a name, whose workers run the command with these environment variables too."""
    named = copy.deepcopy(job)
    named["metadata"]["name"] = name
    (container,) = named["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    container["command"] = list(command)
    container["env"] += [{"name": key, "value": value} for key, value in env.items()]
    return named


def _connect() -> str:
    """Finds the cluster, from one of its pods or through kubectl's config; returns the namespace."""
    from kubernetes import config

    if NAMESPACE_FILE.is_file():
        config.load_incluster_config()
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    kubectl = os.environ.get("KUBECONFIG")
    config.load_kube_config(kubectl)
    return config.list_kube_config_contexts(kubectl)[1]["context"].get("namespace", "default")


def _existing(api: Any, place: dict[str, str], name: str) -> dict[str, Any] | None:
    from kubernetes import client

    try:
        return api.get_namespaced_custom_object(**place, name=name)
    except client.ApiException as error:
        # A cluster without the operator answers 404 too; creating the job then fails with a clear reason.
        if error.status == 404:
            return None
        raise


def _conditions(job: dict[str, Any]) -> dict[str, str]:
    """The conditions that hold, and the operator's message on each."""
    conditions = job.get("status", {}).get("conditions", [])
    return {each["type"]: each.get("message", "") for each in conditions if each["status"] == "True"}


def _outcome(job: dict[str, Any] | None) -> str | None:
    """ "Succeeded", "Failed", or None before the end."""
    return next((name for name in ("Succeeded", "Failed") if job and name in _conditions(job)), None)


def _in_words(error: Any) -> str:
    if error.status == 403:
        return f"the pod's service account may not create one; `kubectl apply -f {ROLE}` allows it."
    if error.status == 404:
        return "this cluster knows no TFJob: install Kubeflow's training operator (v1), or set kubeflow.workers: null."
    return f"the cluster answered {error.status} {error.reason}: {error.body}"
