"""The line: which stage reads what. Only the wiring is here; runners decide where it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ml_metadata.proto import metadata_store_pb2 as mlmd
from tfx import components as tfx_components
from tfx.dsl.components.base.base_node import BaseNode
from tfx.orchestration.data_types import RuntimeParameter
from tfx.orchestration.pipeline import Pipeline
from tfx.types.channel import BaseChannel

from bertline.components.augmenter import Augmenter
from bertline.components.baseline import Baseline
from bertline.components.canary import Canary
from bertline.components.compressor import Compressor
from bertline.components.embedder import Embedder
from bertline.components.evaluator import Evaluator
from bertline.components.example_gen import ExampleGen
from bertline.components.explainer import Explainer
from bertline.components.exporter import Exporter
from bertline.components.label_quality import LabelQuality
from bertline.components.last_blessed import LastBlessed
from bertline.components.model_card import ModelCard
from bertline.components.options import CompressOptions
from bertline.components.pretrainer import Pretrainer
from bertline.components.probe import Probe
from bertline.components.pseudo_labeller import PseudoLabeller
from bertline.components.pusher import Pusher
from bertline.components.review import Review
from bertline.components.student_exporter import StudentExporter
from bertline.components.student_gate import StudentGate
from bertline.components.tracking import Track
from bertline.components.trainer import Trainer
from bertline.components.transform import transform
from bertline.components.tuner import Tuner
from bertline.components.validation import DataGate, schema_gen, statistics_gen
from bertline.pipeline import cache_keys, stages
from bertline.pipeline.config import Config
from bertline.pipeline.facts import RunFacts
from bertline.pipeline.stages import Node


@dataclass(frozen=True)
class Settings:
    """What stages get when they run: values in a local run, mostly the pipeline's parameters on a cluster.

    Attributes:
        sections: the config's sections of RUNTIME_SECTIONS as JSON, by name.
        data_folder: the folder where relative sources start.
        serving_folder: where models are pushed.
        quarantine_folder: where quarantine.csv is copied to, "" for nowhere.
        checkpoint_folder: keeps the checkpoints of an interrupted training.
        tuning_folder: keeps the trials of a search, local.
        tracking_folder: where an experiment tracker's files are kept, "" for nowhere.
    """

    sections: Mapping[str, str | RuntimeParameter]
    data_folder: str | RuntimeParameter
    serving_folder: str | RuntimeParameter
    quarantine_folder: str
    checkpoint_folder: str
    tuning_folder: str
    tracking_folder: str

    @classmethod
    def local(cls, config: Config) -> Settings:
        """The config's own values."""
        return cls(
            sections=config.runtime_sections(),
            data_folder=config.folder,
            serving_folder=config.serving_folder,
            quarantine_folder=config.below_root("quarantine"),
            checkpoint_folder=config.below_root("checkpoints"),
            tuning_folder=config.below_root("tuning"),
            tracking_folder=config.below_root(),
        )


def create_pipeline(
    config: Config,
    facts: RunFacts,
    settings: Settings,
    *,
    pipeline_root: str,
    metadata: mlmd.ConnectionConfig | None = None,
    before: Sequence[BaseNode] = (),
) -> Pipeline:
    """Wires the stages. The runner sets Beam's arguments, since here they would key the cache.

    Args:
        config: the task; it decides which stages there are, and what their graphs hold.
        facts: what the runner found out.
        settings: what the stages get when they run.
        pipeline_root: folder of the artifacts.
        metadata: the connection to the metadata store; None where the cluster keeps one.
        before: the runner's own stages, which come first.

    Raises:
        LookupError: a stage has no row in the table of stages.
    """
    ingest = ExampleGen(
        data=settings.sections["data"],
        base_folder=settings.data_folder,
        fingerprint=facts.fingerprint,
        quarantine_folder=settings.quarantine_folder,
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
        data=settings.sections["data"],
        validation=settings.sections["validation"],
        model=config.model.model_dump_json(),
    )

    tokens = transform(examples, schema.outputs["schema"], config.model, config.data)
    tokens.add_upstream_node(data_gate)
    pretrainer = config.pretrain and Pretrainer(
        examples=examples,
        options=config.pretrain.model_dump_json(),
        model_options=config.model.model_dump_json(),
        data=settings.sections["data"],
        precision=config.train.precision,
        base_folder=settings.data_folder,
        checkpoint_dir=settings.checkpoint_folder,
    )
    if pretrainer:
        pretrainer.add_upstream_node(data_gate)
    weights = {"backbone": pretrainer.outputs["backbone"]} if pretrainer else {}
    probing = probe_stages(config, examples, tokens, weights) if config.probes else []
    probe = probing[-1] if probing else None
    augmenter = config.train.augment and Augmenter(
        examples=examples,
        transform_graph=tokens.outputs["transform_graph"],
        options=config.train.augment.model_dump_json(),
        model_options=config.model.model_dump_json(),
        precision=config.train.precision,
        base_folder=settings.data_folder,
        **weights,
    )
    pseudo_labeller = config.train.unlabelled and PseudoLabeller(
        examples=examples,
        transform_graph=tokens.outputs["transform_graph"],
        head=probe.outputs["head"],
        source=config.train.unlabelled,
        threshold=config.train.pseudo_threshold,
        data=settings.sections["data"],
        model_options=config.model.model_dump_json(),
        precision=config.train.precision,
        base_folder=settings.data_folder,
        **weights,
    )
    more_rows = {
        **({"variants": augmenter.outputs["variants"]} if augmenter else {}),
        **({"pseudo_labels": pseudo_labeller.outputs["rows"]} if pseudo_labeller else {}),
    }
    tuner = config.tune.every_run and Tuner(
        transform_graph=tokens.outputs["transform_graph"],
        transformed_examples=tokens.outputs["transformed_examples"],
        model_options=config.model.model_dump_json(),
        train_options=settings.sections["train"],
        tune_options=settings.sections["tune"],
        folder=settings.tuning_folder,
        code=facts.cache_keys[Node.TRAINER],
        **({"probe": probe.outputs["head"]} if probe else {}),
        **more_rows,
        **weights,
    )
    last_blessed = LastBlessed(
        serving_folder=settings.serving_folder, release=facts.last_blessed, weights=int(config.train.warm_start)
    )
    trainer = Trainer(
        transform_graph=tokens.outputs["transform_graph"],
        transformed_examples=tokens.outputs["transformed_examples"],
        model_options=config.model.model_dump_json(),
        train_options=settings.sections["train"],
        checkpoint_dir=settings.checkpoint_folder,
        **({"last_blessed": last_blessed.outputs["model"]} if config.train.warm_start else {}),
        **({"probe": probe.outputs["head"]} if probe and config.trains_from_probe else {}),
        **({"hyperparameters": tuner.outputs["best_hyperparameters"]} if tuner else {}),
        **more_rows,
        **weights,
    )
    exporter = Exporter(
        weights=trainer.outputs["weights"],
        model_run=trainer.outputs["model_run"],
        transform_graph=tokens.outputs["transform_graph"],
        model_options=config.model.model_dump_json(),
        options=settings.sections["export"],
    )
    several = {"multi_label": int(config.data.multi_label is not None)}
    compressing = (
        compress_stages(config, settings, examples, tokens, trainer, exporter, more_rows)
        if config.compress.makes_student
        else []
    )
    judged = compressing[-1].outputs if compressing else {**trainer.outputs, "model": exporter.outputs["model"]}
    trade = {"compression": compressing[-1].outputs["report"]} if compressing else {}
    baseline = Baseline(examples=examples, **several) if config.evaluate.baseline else None
    evaluator = Evaluator(
        examples=examples,
        model=judged["model"],
        last_blessed=last_blessed.outputs["model"],
        options=settings.sections["evaluate"],
        keep=json.dumps(config.data.keep),
        **several,
        **({"tfidf": baseline.outputs["answers"]} if baseline else {}),
        **({"probe": probe.outputs["answers"]} if probe and config.train.method != "probe" else {}),
    )
    canary = Canary(
        model=judged["model"],
        evaluation=evaluator.outputs["evaluation"],
        blessing=evaluator.outputs["blessing"],
        options=settings.sections["canary"],
    )
    model_card = ModelCard(
        evaluation=evaluator.outputs["evaluation"],
        blessing=evaluator.outputs["blessing"],
        model_run=judged["model_run"],
        model=judged["model"],
        quarantine=ingest.outputs["quarantine"],
        data_report=data_gate.outputs["report"],
        config=config.model_dump_json(include={"name", "data", "model", "train", "card"}),
        release=facts.release,
        **trade,
        **weights,
    )
    pusher = Pusher(
        model=judged["model"],
        weights=trainer.outputs["weights"],  # for warm starts, which train a teacher
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=canary.outputs["canary"],
        evaluation=evaluator.outputs["evaluation"],
        model_card=model_card.outputs["model_card"],
        serving_folder=settings.serving_folder,
        release=facts.release,
        vanished=facts.vanished,
        withdrawn=facts.withdrawn,
        keep_versions=config.serve.keep_versions,
        warmup_rows=config.serve.warmup_rows,
        **trade,
        **weights,
    )
    label_quality = LabelQuality(
        examples=examples,
        model_run=judged["model_run"],
        model=judged["model"],
        evaluation=evaluator.outputs["evaluation"],
        **({"embeddings": probing[0].outputs["embeddings"], "head": probe.outputs["head"]} if probe else {}),
    )
    explainer = Explainer(
        weights=judged["weights"],
        model=judged["model"],
        transform_graph=tokens.outputs["transform_graph"],
        evaluation=evaluator.outputs["evaluation"],
        model_options=config.model.model_dump_json(),
    )
    for reporting in (label_quality, explainer):
        reporting.add_upstream_node(pusher)  # a cluster starts nothing after a lost pod, so the push comes first
    review = Review(
        evaluation=evaluator.outputs["evaluation"],
        blessing=evaluator.outputs["blessing"],
        canary=canary.outputs["canary"],
        pushed_model=pusher.outputs["pushed_model"],
        model_card=model_card.outputs["model_card"],
        model_run=judged["model_run"],
        model=judged["model"],
        label_report=label_quality.outputs["report"],
        quarantine=ingest.outputs["quarantine"],
        data_report=data_gate.outputs["report"],
        anomalies=anomalies.outputs["anomalies"],
        attributions=explainer.outputs["attributions"],
        release=facts.release,
        history=facts.history,
        **trade,
    )
    track = config.tracking.tool and Track(
        evaluation=evaluator.outputs["evaluation"],
        blessing=evaluator.outputs["blessing"],
        canary=canary.outputs["canary"],
        pushed_model=pusher.outputs["pushed_model"],
        model_run=judged["model_run"],
        review=review.outputs["review"],
        options=config.tracking.model_dump_json(),
        data=settings.sections["data"],
        model=config.model.model_dump_json(),
        train=settings.sections["train"],
        export=settings.sections["export"],
        evaluate=settings.sections["evaluate"],
        folder=settings.tracking_folder,
        release=facts.release,
        untracked=facts.untracked,
    )
    nodes = [
        *before,
        ingest,
        statistics,
        schema,
        anomalies,
        data_gate,
        tokens,
        *([baseline] if baseline else []),
        *([pretrainer] if pretrainer else []),
        *probing,
        *([augmenter] if augmenter else []),
        *([pseudo_labeller] if pseudo_labeller else []),
        *([tuner] if tuner else []),
        last_blessed,
        trainer,
        exporter,
        *compressing,
        evaluator,
        canary,
        model_card,
        pusher,
        label_quality,
        explainer,
        review,
        *([track] if track else []),
    ]
    stages.check_listed(node.id for node in nodes)
    for node in nodes:
        if node.id in cache_keys.KEYED:
            # No stage reads it, but the cache does, here and on a cluster.
            node.spec.exec_properties["cache_key"] = facts.cache_keys[Node(node.id)]
    return Pipeline(
        pipeline_name=config.name,
        pipeline_root=pipeline_root,
        components=nodes,
        enable_cache=True,
        metadata_connection_config=metadata,
    )


def probe_stages(
    config: Config, examples: BaseChannel, tokens: BaseNode, weights: Mapping[str, BaseChannel]
) -> list[BaseNode]:
    """The Embedder and the Probe.

    They take single options instead of the section `train`, which would make a new learning rate embed all rows again.

    Args:
        config: the task.
        examples: of ingestion.
        tokens: the Transform stage.
        weights: the pre-trained backbone under its name among inputs, {} for the configured one.
    """
    train = config.train
    embedder = Embedder(
        transform_graph=tokens.outputs["transform_graph"],
        transformed_examples=tokens.outputs["transformed_examples"],
        model_options=config.model.model_dump_json(),
        precision=train.precision,
        train_rows=0 if train.method == "probe" else train.probe_rows or 0,
        **weights,
    )
    probe = Probe(
        embeddings=embedder.outputs["embeddings"],
        examples=examples,
        transform_graph=tokens.outputs["transform_graph"],
        model_options=config.model.model_dump_json(),
        class_weights=train.class_weights,
    )
    return [embedder, probe]


def compress_stages(
    config: Config,
    settings: Settings,
    examples: BaseChannel,
    tokens: BaseNode,
    trainer: BaseNode,
    exporter: BaseNode,
    more_rows: Mapping[str, BaseChannel],
) -> list[BaseNode]:
    """The Compressor, an Exporter for its student, and the StudentGate, whose outputs take the places of the teacher's.

    Args:
        config: the task.
        settings: what the stages get when they run.
        examples: of ingestion.
        tokens: the Transform stage.
        trainer: the Trainer.
        exporter: the teacher's.
        more_rows: further training rows, by their names among inputs.
    """
    compressor = Compressor(
        teacher=trainer.outputs["weights"],
        teacher_run=trainer.outputs["model_run"],
        transform_graph=tokens.outputs["transform_graph"],
        transformed_examples=tokens.outputs["transformed_examples"],
        model_options=config.model.model_dump_json(),
        train_options=settings.sections["train"],
        options=_without_gates(settings.sections["compress"]),
        checkpoint_dir=settings.checkpoint_folder,
        **more_rows,
    )
    student = StudentExporter(
        weights=compressor.outputs["weights"],
        model_run=compressor.outputs["model_run"],
        transform_graph=tokens.outputs["transform_graph"],
        model_options=config.model.model_dump_json(),
        options=settings.sections["export"],
    )
    gate = StudentGate(
        examples=examples,
        teacher=exporter.outputs["model"],
        teacher_weights=trainer.outputs["weights"],
        teacher_run=trainer.outputs["model_run"],
        student=student.outputs["model"],
        student_weights=compressor.outputs["weights"],
        student_run=compressor.outputs["model_run"],
        options=settings.sections["compress"],
        evaluate=settings.sections["evaluate"],
        keep=json.dumps(config.data.keep),
        multi_label=int(config.data.multi_label is not None),
    )
    return [compressor, student, gate]


def _without_gates(compress: str | RuntimeParameter) -> str | RuntimeParameter:
    """The section without its gates, which would train the same student again; a cluster's parameter stays whole."""
    if isinstance(compress, RuntimeParameter):
        return compress
    return CompressOptions.model_validate_json(compress).without_gates.model_dump_json()
