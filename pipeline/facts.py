"""What a run is known by before its first stage: the data, the code, and the model in service that it must match.

A local run looks before it starts, a run on a cluster in its first stage; both find the same with these functions.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertline.models.recipe import ModelOptions
from bertline.pipeline import cache_keys
from bertline.pipeline.config import digest_of
from bertline.pipeline.stages import Node
from bertline.serving import releases

if TYPE_CHECKING:
    from tfx.dsl.placeholder.placeholder import Placeholder

LIBRARIES = ("bertline", "tensorflow", "tensorflow-text", "keras", "keras-hub", "tfx", "apache-beam")


@dataclass(frozen=True)
class RunFacts:
    """What keys the cache beside the config: values in a local run, outputs of the first stage on a cluster.

    Attributes:
      fingerprint: hash of the contents of all source files.
      last_blessed: version of the release to compare with, "" for none.
      release: JSON for release.json: fingerprints, git commit, library versions, parent.
      cache_keys: by stage, what the cache must know of its code, the libraries and the backbone (see cache_keys.py).
      vanished: how many pushed versions on record are gone from the serving folder; a new loss pushes again.
      withdrawn: the versions that were rolled back, with commas between them; a rollback asks the push stage again.
      untracked: how often the experiment tracker could not be told; each time asks the tracking stage again.
      history: JSON list of the figures of runs with other inputs, for the review page (see lineage.past_figures).
    """

    fingerprint: str | Placeholder
    last_blessed: str | Placeholder
    release: str | Placeholder
    cache_keys: Mapping[Node, str | Placeholder]
    vanished: int = 0
    withdrawn: str = ""
    untracked: int = 0
    history: str = "[]"


def look(config: dict[str, Any], data_fingerprint: str, serving_folder: str | Path, commit: str | None) -> RunFacts:
    """The facts that data, code, backbone and serving folder tell.

    Args:
      config: the config's sections as JSON values.
      data_fingerprint: hash of the contents of all source files.
      serving_folder: where models are pushed, local or remote.
      commit: what git says of the code, None where it is not asked.

    Raises:
      ValueError: a release.json in the serving folder cannot be read; the message names the file.
    """
    keys, digest = cache_keys.of_stages(ModelOptions.model_validate(config["model"])), digest_of(config)
    code = hashlib.sha256(json.dumps([key for node, key in keys.items() if node.makes_model]).encode()).hexdigest()[:16]
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
        fingerprint=data_fingerprint,
        last_blessed=str(last_blessed.version) if last_blessed else "",
        release=json.dumps(release, sort_keys=True),
        cache_keys=keys,
    )


def git_commit() -> str | None:
    """The commit of the folder the run was started in, "+changes" where it differs; None outside git."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changes else "")
