"""The `kubeflow:` section of a config: where the same line runs on a cluster, and what each stage gets there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from bertline.models.recipe import Section

QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
REMOTE = ("gs://", "s3://", "minio://")  # what Kubeflow's launcher copies to and from


def _quantity(text: str) -> str:
    if not QUANTITY.fullmatch(text):
        raise ValueError("write it in Kubernetes' form: 500m or 2 for CPUs, 8Gi for memory")
    return text


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("give an absolute path, where the containers see it")
    return path


Quantity = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_quantity)]
ContainerPath = Annotated[str, AfterValidator(_absolute)]


class Toleration(Section):
    """A taint of nodes on which a stage may run all the same, with Kubernetes' own keys."""

    key: str = ""  # with Exists, no key tolerates everything
    operator: Literal["Exists", "Equal"] = "Exists"  # Equal compares the value too
    value: str = ""  # with Equal
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None  # null: all effects

    def manifest(self) -> dict[str, str]:
        """The toleration in a pod's manifest."""
        return self.model_dump(exclude_defaults=True) | {"operator": self.operator}


class StageOptions(Section):
    """What a stage's pod asks for. null leaves the choice to the cluster."""

    cpu: Quantity | None = None  # requested, and the limit
    memory: Quantity | None = None  # requested, and the limit: a pod that needs more is killed
    accelerator: str | None = None  # the resource's name: nvidia.com/gpu, amd.com/gpu, google.com/tpu
    accelerators: PositiveInt = 1  # how many of them the pod gets
    tpu_type: str | None = None  # GKE's gke-tpu-accelerator, such as tpu-v5-lite-podslice
    tpu_topology: str | None = None  # GKE's gke-tpu-topology, such as 2x2
    node_selector: dict[str, str] = Field(default_factory=dict)  # labels that a node must have
    tolerations: list[Toleration] = Field(default_factory=list)  # taints of nodes that the pod may run on
    # A stage that fails over its data or options would only fail again; set it for spot nodes.
    retries: NonNegativeInt = 0
    retry_wait_seconds: PositiveInt = 60  # doubled with each retry
    timeout_seconds: PositiveInt | None = None  # null: no limit, since only you know how long training may take

    @model_validator(mode="after")
    def _tpu_is_asked_for(self) -> StageOptions:
        if (self.tpu_type or self.tpu_topology) and self.accelerator != "google.com/tpu":
            raise ValueError("tpu_type and tpu_topology need accelerator: google.com/tpu")
        return self

    def resources(self) -> dict[str, dict[str, str]]:
        """Requests and limits of a container in a pod's manifest."""
        resources = {"cpu": self.cpu, "memory": self.memory}
        if self.accelerator:
            resources[self.accelerator] = str(self.accelerators)
        amounts = {name: amount for name, amount in resources.items() if amount}
        return {"requests": amounts, "limits": amounts} if amounts else {}

    def node_labels(self) -> dict[str, str]:
        """The labels that a node must have to run the stage."""
        labels = dict(self.node_selector)
        if self.tpu_type:
            labels["cloud.google.com/gke-tpu-accelerator"] = self.tpu_type
        if self.tpu_topology:
            labels["cloud.google.com/gke-tpu-topology"] = self.tpu_topology
        return labels


class Secret(Section):
    """A Kubernetes secret whose keys a stage sees as environment variables. Only names stand here, never values."""

    name: str  # of the secret in the pods' namespace
    env: dict[str, str] = Field(min_length=1)  # variable -> key in the secret


class Volume(Section):
    """A persistent volume claim that is mounted in every stage's pod."""

    claim: str  # a PersistentVolumeClaim in the pods' namespace
    path: ContainerPath  # where the pods see it


class KubeflowOptions(Section):
    """A cluster with Kubeflow Pipelines 2."""

    image: str | None = None  # holds bertline and the weights; null: named with --image
    pipeline_root: str | None = None  # where artifacts go: gs://, s3:// or minio://; null: the installation's own
    # The cluster's counterpart of the config's `root`: a path in one of the volumes, or gs://. It holds the serving
    # folder, the quarantine and, in a volume, the checkpoints.
    root: str | None = None
    # Where relative data sources start on the cluster: a path in a volume, or an address at gs://, s3:// or minio://,
    # from which the pod copies the files that the sources name. null: sources must be absolute or package://
    data_folder: str | None = None
    secrets: list[Secret] = Field(default_factory=list)  # such as the object store's keys
    volumes: list[Volume] = Field(default_factory=list)  # such as the one that root is in
    labels: dict[str, str] = Field(default_factory=dict)  # on every pod, for quotas and bills
    default: StageOptions = StageOptions()  # for every stage
    stages: dict[str, StageOptions] = Field(default_factory=dict)  # by the stage's name; overrides `default`

    # With train.distribution: multi_worker, the number of pods that train, as a TFJob; each gets what `stages.Trainer`
    # asks for. null: training runs in the Trainer's own pod
    workers: int | None = Field(default=None, ge=2)

    @field_validator("pipeline_root")
    @classmethod
    def _launcher_reaches_it(cls, root: str | None) -> str | None:
        if root is not None and not root.startswith(REMOTE):
            raise ValueError(f"must start with {', '.join(REMOTE)}")
        return root

    @model_validator(mode="after")
    def _workers_share_a_volume(self) -> KubeflowOptions:
        if self.workers and not any(Path(self.root or "").is_relative_to(volume.path) for volume in self.volumes):
            raise ValueError("workers: root must be a path in one of volumes, where they share files and checkpoints")
        return self

    def of_stage(self, name: str) -> StageOptions:
        """What a stage gets: the default, with what its own entry sets."""
        own = self.stages.get(name, StageOptions())
        return StageOptions(**{**self.default.model_dump(exclude_unset=True), **own.model_dump(exclude_unset=True)})
