"""The line: which stage reads what. Wiring only; runners decide where it runs."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tfx import v1 as tfx

from components.canary import Canary
from components.evaluator import Evaluator
from components.example_gen import ExampleGen
from components.last_blessed import LastBlessed
from components.pusher import Pusher
from components.trainer import Trainer
from components.transform import transform
from components.validation import DataGate, schema_gen, statistics_gen
from pipeline.config import Config


@dataclass(frozen=True)
class RunFacts:
    """What a runner finds out before a run, and what keys the cache beside the config.

    Attributes:
      data_fingerprint: hash of the contents of all source files.
      baseline: version of the release to compare with, "" for none, "auto" to look when the stage runs.
      release: JSON for release.json: fingerprints, git commit, library versions, parent.
      vanished: how many pushed versions on record are gone from the serving folder; a new loss pushes again.
      code: hash of the stages' code; a new version of bertline does not reuse an older one's results.
    """

    data_fingerprint: str
    baseline: str
    release: str
    vanished: int
    code: str
