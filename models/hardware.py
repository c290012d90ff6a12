"""What the machine offers, and the precision and distribution that suit it."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from bertline.errors import UserError
from bertline.models.recipe import Distribution, Precision

# With these CPU flags oneDNN multiplies bfloat16 in hardware. Without them bfloat16 is slower than float32.
_BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")


@dataclass(frozen=True)
class Hardware:
    """What TensorFlow can use here."""

    cores: int  # that this process may run on
    bfloat16_flags: tuple[str, ...]  # of amx_bf16, avx512_bf16
    gpus: tuple[tuple[str, tuple[int, int] | None], ...]  # name and compute capability
    tpu: bool

    @property
    def precision(self) -> str:
        """The precision that `precision: auto` chooses."""
        if self.tpu:
            return "mixed_bfloat16"
        if self.gpus:
            capability = min(capability or (0, 0) for _, capability in self.gpus)
            # bfloat16 came with compute capability 8, tensor cores for float16 with 7
            return "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16" if capability >= (7, 0) else "float32"
        return "mixed_bfloat16" if self.bfloat16_flags else "float32"

    @property
    def distribution(self) -> str:
        """The strategy that `distribution: auto` chooses."""
        return "tpu" if self.tpu else "mirrored" if len(self.gpus) > 1 else "one_device"

    def __str__(self) -> str:
        """Such as "cpu x2, bf16 (AMX)"."""
        short = {"mixed_bfloat16": "bf16", "mixed_float16": "fp16", "float32": "float32"}[self.precision]
        if self.tpu:
            return f"tpu, {short}"
        if self.gpus:
            return f"{self.gpus[0][0]} x{len(self.gpus)}, {short}"
        how = {"amx_bf16": " (AMX)", "avx512_bf16": " (AVX512)"}.get(next(iter(self.bfloat16_flags), ""), "")
        return f"cpu x{self.cores}, {short}{how}"


def describe() -> Hardware:
    """What is here; does not initialise the devices of a TPU."""
    gpus = []
    for device in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        gpus.append((details.get("device_name", "gpu"), details.get("compute_capability")))
    return Hardware(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        bfloat16_flags=tuple(flag for flag in _BFLOAT16_FLAGS if flag in _cpu_flags()),
        gpus=tuple(gpus),
        tpu=bool(os.environ.get("TPU_NAME") or tf.config.list_physical_devices("TPU")),
    )


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    if platform.machine() not in ("x86_64", "AMD64") or not info.is_file():
        return set()
    lines = (line for line in info.read_text().splitlines() if line.startswith("flags"))
    return set(next(lines, "").split())


def compute_dtype(precision: Precision) -> tf.DType:
    """The dtype of the matrix products: the config's choice, or the hardware's for auto."""
    resolved = describe().precision if precision == "auto" else precision
    return {"float32": tf.float32, "mixed_bfloat16": tf.bfloat16, "mixed_float16": tf.float16}[resolved]


def strategy(distribution: Distribution) -> tf.distribute.Strategy:
    """The tf.distribute strategy: the config's choice, or the hardware's for auto.

    For multi_worker it must be called before TensorFlow does anything else in the process.

    Raises:
        UserError: there is no TPU, or nothing says where the workers are.
    """
    kind = describe().distribution if distribution == "auto" else distribution
    if kind == "tpu":
        return _tpu_strategy()
    if kind == "multi_worker":
        return _multi_worker_strategy()
    if kind == "mirrored":
        # Logical devices: a GPU or CPU that was split counts as its parts.
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return _mirrored_strategy(tuple(device.name for device in devices))
    return tf.distribute.get_strategy()  # the default strategy: the one GPU where there is one, else the CPU


@functools.cache  # each strategy numbers its collectives from the same start, and those of two in a process collide
def _mirrored_strategy(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(devices)


def _multi_worker_strategy() -> tf.distribute.Strategy:
    if not os.environ.get("TF_CONFIG"):
        raise UserError(
            "distribution: multi_worker needs TF_CONFIG in the environment, which tells each worker where the others "
            "are and which one it is; Kubeflow's training operator sets it. For a single machine choose auto"
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise UserError(
            f"distribution: multi_worker must be set up before TensorFlow does anything else in the process ({error}); "
            "run the Trainer in a process of its own, as a compiled pipeline does"
        ) from error


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes what a run leaves: of several workers only the chief does."""
    resolver = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or not resolver.task_type:
        return True
    return resolver.task_type == "chief" or (
        resolver.task_type == "worker" and resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs
    )


def _tpu_strategy() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise UserError(f"distribution: no TPU is reached ({error}); choose auto, one_device or mirrored") from error
    return tf.distribute.TPUStrategy(resolver)
