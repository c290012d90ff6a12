"""What a run is known by before its first stage: the data, the code, and the model in service that it must match.

A local run looks before it starts, a run on a cluster in its first stage; both find the same with these functions.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from importlib import metadata as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertline.pipeline.config import digest_of
from bertline.serving import releases

if TYPE_CHECKING:
    from tfx.dsl.placeholder.placeholder import Placeholder

LIBRARIES = ("bertline", "tensorflow", "tensorflow-text", "keras", "keras-hub", "tfx", "apache-beam")
CODE_SUFFIXES = {".py", ".j2", ".css", ".js"}  # the last three are the review page's


@dataclass(frozen=True)
class RunFacts:
    """What keys the cache beside the config: values in a local run, outputs of the first stage on a cluster.

    Attributes:
      fingerprint: hash of the contents of all source files, and of the stages' code: a new version of bertline does not
        reuse an older one's results.
      last_blessed: version of the release to compare with, "" for none.
      release: JSON for release.json: fingerprints, git commit, library versions, parent.
      vanished: how many pushed versions on record are gone from the serving folder; a new loss pushes again.
      withdrawn: the versions that were rolled back, with commas between them; a rollback asks the push stage again.
      untracked: how often the experiment tracker could not be told; each time asks the tracking stage again.
      history: JSON list of the figures of runs with other inputs, for the review page (see lineage.past_figures).
    """

    fingerprint: str | Placeholder
    last_blessed: str | Placeholder
    release: str | Placeholder
    vanished: int = 0
    withdrawn: str = ""
    untracked: int = 0
    history: str = "[]"


def code_fingerprint() -> str:
    """Hash of the stages' source code, so that an upgrade does not reuse results of older code."""
    digest = hashlib.sha256()
    top = Path(__file__).resolve().parent.parent
    for folder in ("components", "models", "serving"):
        for path in sorted((top / folder).rglob("*")):
            if path.suffix in CODE_SUFFIXES:
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def look(config: dict[str, Any], data_fingerprint: str, serving_folder: str | Path, commit: str | None) -> RunFacts:
    """The facts that data, code and serving folder tell.

    Args:
      config: the config's sections as JSON values.
      data_fingerprint: hash of the contents of all source files.
      serving_folder: where models are pushed, local or remote.
      commit: what git says of the code, None where it is not asked.

    Raises:
      ValueError: a release.json in the serving folder cannot be read; the message names the file.
    """
    code, digest = code_fingerprint(), digest_of(config)
    inputs = hashlib.sha256(f"{digest} {data_fingerprint} {code}".encode()).hexdigest()[:32]
    last_blessed = releases.find_last_blessed(serving_folder, inputs)
    release = {
        "name": config["name"],
        "inputs": inputs,
        "config_hash": digest,
        "data_hash": data_fingerprint,
        "code_hash": code,
        "parent": last_blessed.version if last_blessed else None,
        "git_commit": commit,
        "libraries": {name: installed.version(name) for name in LIBRARIES},
    }
    return RunFacts(
        fingerprint=f"{data_fingerprint}-{code}",
        last_blessed=str(last_blessed.version) if last_blessed else "",
        release=json.dumps(release, sort_keys=True),
    )


def git_commit() -> str | None:
    """The commit of the folder the run was started in, "+changes" where it differs; None outside git."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changes else "")
