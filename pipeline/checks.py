"""What `bertline doctor` finds, one line per look, and the looks that need no library but the standard one."""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bertline.components.options import ServeOptions

State = Literal["ok", "warn", "fail"]

GIB = 1 << 30
# A small BERT is 90 MB, kept as artifact, release and (three times, with AdamW's state) checkpoint.
DISK_NEEDED, DISK_WISHED = 1 * GIB, 10 * GIB


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        value: what is there.
        state: "ok", "warn" (a run works, with the limit that `advice` names) or "fail" (it will not).
        advice: the way out; "" where none is needed or `value` has it.
    """

    name: str
    value: str
    state: State = "ok"
    advice: str = ""


def disk(name: str, folder: Path) -> Check:
    """Free disk below a folder, which a run makes if it is not there yet."""
    # Not Path.exists, which raises where a folder above may not be entered.
    present = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
    if not present.is_dir() or not os.access(present, os.W_OK | os.X_OK):
        why = "" if present.is_dir() else f": {present} is no folder"
        advice = "set root or serve.folder to one of yours"
        return Check(name, f"{folder.absolute()} cannot be written{why}", "fail", advice)
    free = shutil.disk_usage(present).free
    value = f"{free / GIB:.1f} GiB free in {folder.absolute()}"
    if free < DISK_NEEDED:
        return Check(name, value, "fail", f"a run needs {DISK_NEEDED // GIB} GiB: free some, or set root elsewhere")
    if free < DISK_WISHED:
        return Check(name, value, "warn", "set serve.keep_versions, and delete old runs' artifacts")
    return Check(name, value)


def ports(serve: ServeOptions) -> list[Check]:
    """The ports that `bertline serve` would listen on."""
    keys = {"serve.port": serve.port, "serve.rest_port": serve.rest_port}
    if serve.port and serve.port == serve.rest_port:
        return [Check("ports", f"serve.port and serve.rest_port are both {serve.port}", "fail", "change one of them")]
    return [port_free(serve.host, port, key) for key, port in keys.items() if port is not None]


def port_free(host: str, port: int, key: str) -> Check:
    """Whether a server could listen on a port that a key of the config names."""
    if not port:
        return Check(key, "any free port")
    place = f"{host}:{port}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as grpc does: closed connections do not count
        try:
            probe.bind((host, port))
        except OSError as error:
            advice = (
                f"`bertline serve` needs another: set {key}, or call it with --{key.split('.')[1].replace('_', '-')}"
            )
            return Check(key, f"{place} is not free: {error.strerror}", "warn", advice)
    return Check(key, f"{place} is free")
