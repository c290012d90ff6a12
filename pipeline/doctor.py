"""What this machine has, what a run would choose on it, and what will not work."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from bertline.components.options import ServeOptions
from bertline.pipeline.checks import GIB, Check, disk, ports
from bertline.serving import real

if TYPE_CHECKING:
    from bertline.pipeline.config import Config

NEEDED_GLIBC = (2, 39)  # ml-metadata and tensorflow-data-validation 1.21 are built for it
LIBRARIES = ("tfx", "tensorflow", "keras", "keras-hub", "apache-beam", "ml-metadata", "tensorflow-serving-api")
# Estimates for a small BERT: libraries and Beam 2 GiB, weights with AdamW's state and activations 1 to 2 GiB.
MEMORY_NEEDED, MEMORY_WISHED = 4 * GIB, 6 * GIB
DOCKER_SECONDS = 5  # an engine that takes longer to say its version will not serve either
CONFIG_ADVICE = "correct this first: it ended the look at the config"


def checks(task: Config | None = None) -> list[Check]:
    """Looks at everything; takes seconds, for TensorFlow has to start to see the devices.

    Args:
        task: whose folders, ports, database, backbone, data and engine are looked at. None looks at the current
            folder's disk and the default ports.
    """
    return [
        python(),
        c_library(),
        processor(),
        memory(psutil.virtual_memory().available, psutil.virtual_memory().total),
        libraries(),
        *_guarded("choice", choice, "the libraries do not start: `make setup`"),
        model_server(),
        docker(),
        *(_guarded("config", lambda: of_task(task), CONFIG_ADVICE) if task else of_defaults()),
    ]


def of_task(task: Config) -> list[Check]:
    """What a task's config asks of this machine."""
    from bertline.pipeline import task_checks  # needs the libraries, which may be what is amiss

    return task_checks.of_task(task)


def of_defaults() -> list[Check]:
    """What a config without keys of its own would need."""
    return [disk("disk", Path()), *ports(ServeOptions())]


def _guarded(name: str, look: Callable[[], list[Check]], advice: str) -> list[Check]:
    """A look that needs the installed libraries. An error in it is one more finding; the other looks go on."""
    try:
        return look()
    except Exception as error:
        return [Check(name, f"{type(error).__name__}: {error}", "fail", advice)]


def python() -> Check:
    """The interpreter: version and place."""
    value = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info[:2] == (3, 11):
        return Check("python", value)
    return Check("python", value, "fail", "TFX 1.21 with keras-hub 0.32 runs only on Python 3.11: `make setup`")


def c_library() -> Check:
    """glibc: version, and whether it is the system's or the environment's own."""
    name, version = platform.libc_ver()
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION").split()[1]
    except (ValueError, OSError, AttributeError):
        return Check("c library", f"{name or 'unknown'} {version}".strip(), "fail", _CONTAINER)
    private = Path(sys.prefix) / "c-runtime"
    whose = "the environment's own (.venv/c-runtime)" if _loaded_from(private) else "the system's"
    value = f"glibc {version}, {whose}"
    if tuple(int(part) for part in version.split(".")[:2]) >= NEEDED_GLIBC:
        return Check("c library", value)
    return Check("c library", value, "fail", f"TFX 1.21 needs glibc 2.39: `make setup` adds one, or {_CONTAINER}")


_CONTAINER = "use a host with glibc 2.39 or newer (Debian 13, Ubuntu 24.04) or the python:3.11-slim-trixie image"


def _loaded_from(folder: Path) -> bool:
    """Whether this process has mapped its C library from under `folder`."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return False
    return any("libc.so" in line and str(folder) in line for line in maps.read_text().splitlines())


def processor() -> Check:
    """Cores this process may use, and the instructions that make bfloat16 fast."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags = _cpu_flags()
    fast = [name for flag, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512_BF16")) if flag in flags]
    value = f"{cores} cores, {', '.join(fast) or 'no AMX, no AVX512_BF16'}"
    if cores == 1:
        return Check("processor", value, "warn", "training on one core takes long: set data.limits.train")
    return Check("processor", value)


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def memory(available: int, total: int) -> Check:
    """Memory that is free, and all that the machine has, in bytes."""
    value = f"{available / GIB:.1f} GiB free of {total / GIB:.1f} GiB"
    if available < MEMORY_NEEDED:
        return Check("memory", value, "fail", f"a run needs {MEMORY_NEEDED // GIB} GiB: close other programs")
    if available < MEMORY_WISHED:
        return Check("memory", value, "warn", "lower train.batch_size and model.max_length if a run is killed")
    return Check("memory", value)


def libraries() -> Check:
    """Versions of the main libraries."""
    installed, missing = [], []
    for name in LIBRARIES:
        try:
            installed.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check("libraries", ", ".join(installed), "fail", f"{', '.join(missing)} missing: `make setup`")
    return Check("libraries", ", ".join(installed))


def choice() -> list[Check]:
    """Accelerators, and the precision and distribution that a run would choose."""
    import bertline.serving.runtime  # noqa: F401  TensorFlow without Keras starts in less than half the time
    from bertline.models import hardware

    offer = hardware.describe()
    accelerators = [name for name, _ in offer.gpus] + ["TPU"] * offer.tpu
    slow = not accelerators and offer.precision == "float32"
    return [
        Check("accelerators", ", ".join(accelerators) or "none"),
        Check(
            "precision",
            f"{offer.precision} (auto)",
            "warn" if slow else "ok",
            "this processor has no bfloat16: training takes about twice as long" if slow else "",
        ),
        Check("distribution", f"{offer.distribution} (auto)"),
    ]


def model_server() -> Check:
    """A real TF Serving on the PATH."""
    program = shutil.which(real.PROGRAM)
    return Check("model server", program or f"embedded; no {real.PROGRAM} on the PATH")


def docker() -> Check:
    """A Docker engine that answers; a client without one cannot run anything."""
    client = shutil.which("docker")
    if client is None:
        return Check("docker", "none; not needed for runs on this machine")
    command = [client, "version", "--format", "{{.Server.Version}}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=DOCKER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        answer = None
    if answer and answer.returncode == 0 and answer.stdout.strip():
        return Check("docker", f"engine {answer.stdout.strip()}")
    return Check("docker", "client only, no engine answers", "warn", "images can neither be built nor run here")
