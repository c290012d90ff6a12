"""Training on several machines of a cluster: a TFJob of Kubeflow's training operator, whose pods run the Trainer.

The operator gives each pod TF_CONFIG, with which `train.distribution: multi_worker` works. The stage's own pod asks for
the job and waits (see bertline.pipeline.stage).
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
KEPT_SECONDS = 24 * 3600  # a job that is done stays so long, for its pods' logs
ROLE = "pipeline/deploy/training-job-role.yaml"


def manifest(options: KubeflowOptions, image: str) -> dict[str, Any]:
    """The TFJob without what a run adds: its name, and the pods' command.

    Args:
        options: the cluster; `workers` and what the Trainer's pod would ask for.
        image: the container image.
    """
    stage = options.of_stage(Node.TRAINER)
    container = {
        "name": "tensorflow",  # by this name the operator finds the one that gets TF_CONFIG
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
        # When a worker is lost all stop and start again, and each of these starts is counted.
        "backoffLimit": stage.retries * options.workers,
        "ttlSecondsAfterFinished": KEPT_SECONDS,
        **({"activeDeadlineSeconds": stage.timeout_seconds} if stage.timeout_seconds else {}),
    }
    # A mesh's sidecar would stand between the workers, and outlive them.
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
    """Has the cluster run the job, and waits for its end; one of this name that is there already is taken up.

    Args:
        job: of `manifest`.
        name: of the job; the same for each try of the same stage, so that a retried one does not train beside it.
        command: of each pod.
        env: further variables of each pod.

    Raises:
        UserError: the job failed, or the cluster does not take it.
    """
    from kubernetes import client

    namespace = _connect()
    api = client.CustomObjectsApi()
    place = {"group": GROUP, "version": VERSION, "namespace": namespace, "plural": PLURAL}
    try:
        if _outcome(job_there := _found(api, place, name)) == "Failed":
            api.delete_namespaced_custom_object(**place, name=name, propagation_policy="Foreground")
            while job_there := _found(api, place, name):
                time.sleep(POLL_SECONDS)
        if job_there is None:
            job_there = api.create_namespaced_custom_object(**place, body=_filled(job, name, command, env))
            logging.info("TFJob %s/%s", namespace, name)
        while not _outcome(job_there):
            time.sleep(POLL_SECONDS)
            job_there = api.get_namespaced_custom_object(**place, name=name)
    except client.ApiException as error:
        raise UserError(f"TFJob {namespace}/{name}: {_in_words(error)}") from error
    if _outcome(job_there) == "Failed":
        raise UserError(
            f"TFJob {namespace}/{name} failed: {_conditions(job_there)['Failed']} The log of its first pod says why: "
            f"kubectl -n {namespace} logs {name}-worker-0"
        )


def _filled(job: dict[str, Any], name: str, command: Sequence[str], env: dict[str, str]) -> dict[str, Any]:
    filled = copy.deepcopy(job)
    filled["metadata"]["name"] = name
    (container,) = filled["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    container["command"] = list(command)
    container["env"] += [{"name": key, "value": value} for key, value in env.items()]
    return filled


def _connect() -> str:
    """Finds the cluster, from a pod of its own or through kubectl's config; returns the namespace."""
    from kubernetes import config

    if NAMESPACE_FILE.is_file():
        config.load_incluster_config()
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    kubectl = os.environ.get("KUBECONFIG")
    config.load_kube_config(kubectl)
    return config.list_kube_config_contexts(kubectl)[1]["context"].get("namespace", "default")


def _found(api: Any, place: dict[str, str], name: str) -> dict[str, Any] | None:
    from kubernetes import client

    try:
        return api.get_namespaced_custom_object(**place, name=name)
    except client.ApiException as error:
        # A cluster without the operator answers 404 too, in words of its own; creating the job will tell.
        if error.status == 404:
            return None
        raise


def _conditions(job: dict[str, Any]) -> dict[str, str]:
    """The conditions that hold, and what the operator says of each."""
    listed = job.get("status", {}).get("conditions", [])
    return {each["type"]: each.get("message", "") for each in listed if each["status"] == "True"}


def _outcome(job: dict[str, Any] | None) -> str | None:
    """ "Succeeded", "Failed", or None before the end."""
    return next((name for name in ("Succeeded", "Failed") if job and name in _conditions(job)), None)


def _in_words(error: Any) -> str:
    if error.status == 403:
        return f"the pod's service account may not ask for one; `kubectl apply -f {ROLE}` lets it."
    if error.status == 404:
        return "this cluster knows no TFJob: install Kubeflow's training operator (v1), or set kubeflow.workers: null."
    return f"the cluster answered {error.status} {error.reason}: {error.body}"
