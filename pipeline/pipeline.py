"""The line: which stage reads what. Wiring only; runners decide where it runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ml_metadata.proto import metadata_store_pb2 as mlmd
from tfx import components as tfx_components
from tfx.orchestration.pipeline import Pipeline

from components.baseline import Baseline
from components.canary import Canary
from components.evaluator import Evaluator
from components.example_gen import ExampleGen
from components.last_blessed import LastBlessed
from components.pusher import Pusher
from components.review import Review
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
      withdrawn: the versions that were rolled back, with commas between them; a rollback asks the push stage again.
      history: JSON list of the figures of runs with other inputs, for the review page (see lineage.past_figures).
      code: hash of the stages' code; a new version of bertline does not reuse an older one's results.
    """

    data_fingerprint: str
    baseline: str
    release: str
    vanished: int
    withdrawn: str
    history: str
    code: str


def create_pipeline(
    config: Config, facts: RunFacts, *, pipeline_root: str, metadata: mlmd.ConnectionConfig, beam: Sequence[str]
) -> Pipeline:
    """Wires the stages.

    Args:
      config: the task.
      facts: what the runner found out.
      pipeline_root: folder of the artifacts.
      metadata: how the metadata store is reached.
      beam: arguments of every Beam pipeline.
    """
    ingest = ExampleGen(
        data=config.data.model_dump_json(),
        base_folder=config.folder,
        # New code must not find old results: it reads the data anew, and all that follows is keyed by what it reads.
        fingerprint=f"{facts.data_fingerprint}-{facts.code}",
        quarantine_folder=config.below_root("quarantine"),
    )
    examples = ingest.outputs["examples"]

    statistics = statistics_gen(examples, config.data)
    schema = schema_gen(statistics.outputs["statistics"], config.validation, config.folder)
    anomalies = tfx_components.ExampleValidator(
        statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"]
    )
    data_gate = DataGate(
        examples=examples,
        schema=schema.outputs["schema"],
        anomalies=anomalies.outputs["anomalies"],
        data=config.data.model_dump_json(),
        validation=config.validation.model_dump_json(),
        model=config.model.model_dump_json(),
    )

    tokens = transform(examples, schema.outputs["schema"], config.model, config.data)
    tokens.add_upstream_node(data_gate)
    trainer = Trainer(
        transform_graph=tokens.outputs["transform_graph"],
        transformed_examples=tokens.outputs["transformed_examples"],
        model_options=config.model.model_dump_json(),
        train_options=config.train.model_dump_json(),
        checkpoint_dir=config.below_root("checkpoints"),
    )

    baseline = Baseline(examples=examples) if config.evaluate.baseline else None
    last_blessed = LastBlessed(serving_folder=config.serving_folder, release=facts.baseline)
    evaluator = Evaluator(
        examples=examples,
        model=trainer.outputs["model"],
        baseline=last_blessed.outputs["model"],
        options=config.evaluate.model_dump_json(),
        keep=json.dumps(config.data.keep),
        **({"tfidf": baseline.outputs["answers"]} if baseline else {}),
    )
    canary = Canary(
        model=trainer.outputs["model"],
        evaluation=evaluator.outputs["evaluation"],
        blessing=evaluator.outputs["blessing"],
        options=config.canary.model_dump_json(),
    )
    pusher = Pusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=canary.outputs["canary"],
        evaluation=evaluator.outputs["evaluation"],
        serving_folder=config.serving_folder,
        release=facts.release,
        vanished=facts.vanished,
        withdrawn=facts.withdrawn,
        keep_versions=config.serve.keep_versions,
        warmup_rows=config.serve.warmup_rows,
    )
    review = Review(
        evaluation=evaluator.outputs["evaluation"],
        blessing=evaluator.outputs["blessing"],
        canary=canary.outputs["canary"],
        pushed_model=pusher.outputs["pushed_model"],
        model_run=trainer.outputs["model_run"],
        quarantine=ingest.outputs["quarantine"],
        data_report=data_gate.outputs["report"],
        anomalies=anomalies.outputs["anomalies"],
        release=facts.release,
        history=facts.history,
    )
    return Pipeline(
        pipeline_name=config.name,
        pipeline_root=pipeline_root,
        components=[
            ingest,
            statistics,
            schema,
            anomalies,
            data_gate,
            tokens,
            *([baseline] if baseline else []),
            trainer,
            last_blessed,
            evaluator,
            canary,
            pusher,
            review,
        ],
        enable_cache=True,
        metadata_connection_config=metadata,
        beam_pipeline_args=list(beam),
    )
