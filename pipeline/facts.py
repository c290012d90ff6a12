"""The facts of a run before its first stage: the data, the code, the backbone, and the model in service.

A local run collects them before it starts, a run on a cluster in its first stage; both use these functions.
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
from bertline.pipeline.config import check_the_folder, digest_of
from bertline.pipeline.stages import Node
from bertline.serving import releases

if TYPE_CHECKING:
    from tfx.dsl.placeholder.placeholder import Placeholder

LIBRARIES = ("bertline", "tensorflow", "tensorflow-text", "keras", "keras-hub", "tfx", "apache-beam")


@dataclass(frozen=True)
class RunFacts:
    """What keys the cache beside the config. Values in a local run, outputs of the first stage on a cluster.

    Attributes:
        fingerprint: hash of the contents of all source files.
        last_blessed: version of the release to compare with, "" for none.
        release: JSON for release.json: fingerprints, git commit, library versions, parent.
        cache_keys: by stage, what the cache must know of its code, the libraries and the backbone (see cache_keys.py).
        vanished: how many recorded versions are gone from the serving folder. Each new loss runs the push stage again.
        withdrawn: the versions that were rolled back, with commas between them. A rollback runs the push stage again.
        untracked: how often the experiment tracker could not be reached. Each failure runs the tracking stage again.
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


def look(
    config: dict[str, Any],
    data_fingerprint: str,
    serving_folder: str | Path,
    commit: str | None,
    files: Mapping[Node, str],
) -> RunFacts:
    """Collects the facts from data, code, backbone and serving folder.

    Args:
        config: the config's sections as JSON values.
        data_fingerprint: hash of the contents of all source files.
        serving_folder: where models are pushed, local or remote.
        commit: the code's commit in git, None where it is unknown.
        files: by stage, hash of the files that only it reads (see stage_files.py).

    Raises:
        UserError: the backbone cannot be found, the config does not fit it, or a release.json in the serving folder
            cannot be read.
    """
    from bertline.models import backbone_folder  # brings Keras

    model = ModelOptions.model_validate(config["model"])
    keys, digest = cache_keys.of_stages(model, files), digest_of(config)
    if model.family != "bilstm" and isinstance(model.backbone, str) and (at := backbone_folder.find(model.backbone)):
        check_the_folder(config, at)
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
