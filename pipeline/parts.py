"""The parts of the line: each function wires the stages of one part, and hands on what later parts read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from tfx import components as tfx_components
from tfx.dsl.components.base.base_node import BaseNode
from tfx.orchestration.data_types import RuntimeParameter
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
from bertline.pipeline.config import Config
from bertline.pipeline.facts import RunFacts
from bertline.pipeline.stages import Node

Inputs = dict[str, BaseChannel]  # inputs of a stage by their names; {} where the line does not make them


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


@dataclass(frozen=True)
class Task:
    """What every part is wired by.

    Attributes:
        config: decides which stages there are, and what their graphs hold.
        facts: what the runner found out.
        settings: what the stages get when they run.
    """

    config: Config
    facts: RunFacts
    settings: Settings

    @cached_property
    def model(self) -> str:
        """The section `model` as JSON: the graphs hold what it says, so it is no parameter of a cluster's pipeline."""
        return self.config.model.model_dump_json()

    @property
    def multi_label(self) -> int:
        """Whether (1) rows have any number of labels."""
        return int(self.config.data.multi_label is not None)

    @property
    def keep(self) -> str:
        """The kept columns as JSON."""
        return json.dumps(self.config.data.keep)


# === Rows ===


class Rows(NamedTuple):
    """From the files to token ids."""

    ingest: BaseNode
    statistics: BaseNode
    schema: BaseNode
    anomalies: BaseNode
    data_gate: BaseNode
    tokens: BaseNode

    @property
    def examples(self) -> BaseChannel:
        """Raw Examples of ingestion."""
        return self.ingest.outputs["examples"]

    @property
    def graph(self) -> Inputs:
        """Transform's graph."""
        return {"transform_graph": self.tokens.outputs["transform_graph"]}

    @property
    def tokenised(self) -> Inputs:
        """The graph, and the rows through it."""
        return {**self.graph, "transformed_examples": self.tokens.outputs["transformed_examples"]}

    @property
    def reported(self) -> Inputs:
        """What the pages say of the rows."""
        return {
            "quarantine": self.ingest.outputs["quarantine"],
            "data_report": self.data_gate.outputs["report"],
        }


def rows(task: Task) -> Rows:
    """Ingestion, validation, and tokenisation, which waits for the gate between."""
    config, settings = task.config, task.settings
    ingest = ExampleGen(
        data=settings.sections["data"],
        base_folder=settings.data_folder,
        fingerprint=task.facts.fingerprint,
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
        model=task.model,
    )
    tokens = transform(examples, schema.outputs["schema"], config.model, config.data)
    tokens.add_upstream_node(data_gate)
    return Rows(ingest, statistics, schema, anomalies, data_gate, tokens)


# === What training starts from ===


@dataclass(frozen=True)
class Start:
    """What is made before training, each None or [] where the config does not ask for it.

    Attributes:
        baseline: TF-IDF.
        pretrainer: goes on with the backbone's pre-training.
        probing: the Embedder and the Probe.
        augmenter: makes variants of rows.
        pseudo_labeller: labels further texts.
    """

    baseline: BaseNode | None
    pretrainer: BaseNode | None
    probing: list[BaseNode]
    augmenter: BaseNode | None
    pseudo_labeller: BaseNode | None

    @property
    def nodes(self) -> list[BaseNode]:
        """All of them, in their order."""
        made = [self.baseline, self.pretrainer, *self.probing, self.augmenter, self.pseudo_labeller]
        return [node for node in made if node]

    @property
    def weights(self) -> Inputs:
        """The pre-trained backbone; {} for the configured one."""
        return _outputs(self.pretrainer, backbone="backbone")

    @property
    def head(self) -> Inputs:
        """The probe's head."""
        return _outputs(self.probing[-1] if self.probing else None, probe="head")

    @property
    def vectors(self) -> Inputs:
        """The frozen encoder's vectors of the rows, and the head on them."""
        if not self.probing:
            return {}
        embedder, probe = self.probing
        return {"embeddings": embedder.outputs["embeddings"], "head": probe.outputs["head"]}

    @property
    def more_rows(self) -> Inputs:
        """Further rows to train on."""
        return _outputs(self.augmenter, variants="variants") | _outputs(self.pseudo_labeller, pseudo_labels="rows")

    @property
    def compared(self) -> Inputs:
        """The test rows' answers of simpler models."""
        probe = self.probing[-1] if self.probing else None
        return _outputs(self.baseline, tfidf="answers") | _outputs(probe, probe="answers")


def start(task: Task, rows: Rows) -> Start:
    """The baseline, the backbone and the rows that training takes."""
    config = task.config
    baseline = Baseline(examples=rows.examples, multi_label=task.multi_label) if config.evaluate.baseline else None
    pretrainer = _pretrainer(task, rows) if config.pretrain else None
    weights = _outputs(pretrainer, backbone="backbone")
    probing = _probing(task, rows, weights) if config.probes else []
    common = {
        "examples": rows.examples,
        **rows.graph,
        "model_options": task.model,
        "precision": config.train.precision,
        "base_folder": task.settings.data_folder,
        **weights,
    }
    augmenter = config.train.augment and Augmenter(options=config.train.augment.model_dump_json(), **common)
    pseudo_labeller = config.train.unlabelled and PseudoLabeller(
        head=probing[-1].outputs["head"],
        source=config.train.unlabelled,
        labels=config.train.pseudo_labels,
        threshold=config.train.pseudo_threshold,
        data=task.settings.sections["data"],
        **common,
    )
    return Start(baseline, pretrainer, probing, augmenter, pseudo_labeller)


def _pretrainer(task: Task, rows: Rows) -> BaseNode:
    pretrainer = Pretrainer(
        examples=rows.examples,
        options=task.config.pretrain.model_dump_json(),
        model_options=task.model,
        data=task.settings.sections["data"],
        precision=task.config.train.precision,
        base_folder=task.settings.data_folder,
        checkpoint_dir=task.settings.checkpoint_folder,
    )
    pretrainer.add_upstream_node(rows.data_gate)
    return pretrainer


def _probing(task: Task, rows: Rows, weights: Inputs) -> list[BaseNode]:
    """The Embedder and the Probe.

    They take single options instead of the section `train`, which would make a new learning rate embed all rows again.
    """
    train = task.config.train
    embedder = Embedder(
        **rows.tokenised,
        model_options=task.model,
        precision=train.precision,
        train_rows=0 if train.method == "probe" else train.probe_rows or 0,
        **weights,
    )
    probe = Probe(
        embeddings=embedder.outputs["embeddings"],
        examples=rows.examples,
        **rows.graph,
        model_options=task.model,
        class_weights=train.class_weights,
    )
    return [embedder, probe]


# === The model ===


@dataclass(frozen=True)
class Trained:
    """A trained and exported model, and what it started from.

    Attributes:
        tuner: None where no search is a part of each run.
        last_blessed: the model before.
        trainer: of the weights.
        exporter: of the SavedModel.
    """

    tuner: BaseNode | None
    last_blessed: BaseNode
    trainer: BaseNode
    exporter: BaseNode

    @property
    def nodes(self) -> list[BaseNode]:
        """All of them, in their order."""
        return [node for node in (self.tuner, self.last_blessed, self.trainer, self.exporter) if node]


def trained(task: Task, rows: Rows, start: Start) -> Trained:
    """The search, where there is one, training and export."""
    config, settings = task.config, task.settings
    common = {
        **rows.tokenised,
        "model_options": task.model,
        "train_options": settings.sections["train"],
        **start.more_rows,
        **start.weights,
    }
    tuner = config.tune.every_run and Tuner(
        tune_options=settings.sections["tune"],
        folder=settings.tuning_folder,
        code=task.facts.cache_keys[Node.TRAINER],
        **start.head,
        **common,
    )
    last_blessed = LastBlessed(
        serving_folder=settings.serving_folder,
        release=task.facts.last_blessed,
        weights=int(config.train.warm_start),
    )
    trainer = Trainer(
        checkpoint_dir=settings.checkpoint_folder,
        **_outputs(last_blessed if config.train.warm_start else None, last_blessed="model"),
        **(start.head if config.trains_from_probe else {}),
        **_outputs(tuner, hyperparameters="best_hyperparameters"),
        **common,
    )
    exporter = Exporter(
        weights=trainer.outputs["weights"],
        model_run=trainer.outputs["model_run"],
        **rows.graph,
        model_options=task.model,
        options=settings.sections["export"],
    )
    return Trained(tuner, last_blessed, trainer, exporter)


@dataclass(frozen=True)
class Candidate:
    """The model that is judged: the trained one, or its student.

    Attributes:
        nodes: that make the student; [] where there is none.
        model: the SavedModel.
        weights: of the same.
        model_run: of the same.
        trade: the report of student against teacher.
    """

    nodes: list[BaseNode]
    model: BaseChannel
    weights: BaseChannel
    model_run: BaseChannel
    trade: Inputs


def candidate(task: Task, rows: Rows, start: Start, trained: Trained) -> Candidate:
    """The student, where the config asks for one and it passes its gate, else the trained model."""
    if not task.config.compress.makes_student:
        made = trained.trainer.outputs
        return Candidate([], trained.exporter.outputs["model"], made["weights"], made["model_run"], {})
    nodes = _compressing(task, rows, start, trained)
    passed_on = nodes[-1].outputs
    trade = {"compression": passed_on["report"]}
    return Candidate(nodes, passed_on["model"], passed_on["weights"], passed_on["model_run"], trade)


def _compressing(task: Task, rows: Rows, start: Start, trained: Trained) -> list[BaseNode]:
    """The Compressor, an Exporter for its student, and the StudentGate, whose outputs take the teacher's places."""
    settings, teacher, compress = task.settings, trained.trainer.outputs, task.config.compress
    reading = {"data": settings.sections["data"], "base_folder": settings.data_folder}
    compressor = Compressor(
        teacher=teacher["weights"],
        teacher_run=teacher["model_run"],
        **rows.tokenised,
        model_options=task.model,
        train_options=settings.sections["train"],
        options=_without_gates(settings.sections["compress"]),
        checkpoint_dir=settings.checkpoint_folder,
        **({"examples": rows.examples} if compress.family == "bilstm" or compress.unlabelled else {}),
        **(reading if compress.unlabelled else {}),
        **start.more_rows,
    )
    student = StudentExporter(
        weights=compressor.outputs["weights"],
        model_run=compressor.outputs["model_run"],
        **rows.graph,
        model_options=task.model,
        options=settings.sections["export"],
    )
    gate = StudentGate(
        examples=rows.examples,
        teacher=trained.exporter.outputs["model"],
        teacher_weights=teacher["weights"],
        teacher_run=teacher["model_run"],
        student=student.outputs["model"],
        student_weights=compressor.outputs["weights"],
        student_run=compressor.outputs["model_run"],
        options=settings.sections["compress"],
        evaluate=settings.sections["evaluate"],
        keep=task.keep,
        multi_label=task.multi_label,
    )
    return [compressor, student, gate]


def _without_gates(compress: str | RuntimeParameter) -> str | RuntimeParameter:
    """The section without its gates, which would train the same student again; a cluster's parameter stays whole."""
    if isinstance(compress, RuntimeParameter):
        return compress
    return CompressOptions.model_validate_json(compress).without_gates.model_dump_json()


# === From the judgement to the push ===


class Judgement(NamedTuple):
    """The evaluation with its gates, and a fresh server's exam."""

    evaluator: BaseNode
    canary: BaseNode

    @property
    def verdict(self) -> Inputs:
        """The figures, and what the gates say of them."""
        return {name: self.evaluator.outputs[name] for name in ("evaluation", "blessing")}


def judgement(task: Task, rows: Rows, start: Start, trained: Trained, candidate: Candidate) -> Judgement:
    """Evaluates the candidate, and tries it in a server."""
    sections, compared = task.settings.sections, dict(start.compared)
    if task.config.train.method == "probe":  # it would be compared with itself
        compared.pop("probe", None)
    evaluator = Evaluator(
        examples=rows.examples,
        model=candidate.model,
        last_blessed=trained.last_blessed.outputs["model"],
        options=sections["evaluate"],
        keep=task.keep,
        multi_label=task.multi_label,
        **compared,
    )
    canary = Canary(
        model=candidate.model,
        evaluation=evaluator.outputs["evaluation"],
        blessing=evaluator.outputs["blessing"],
        options=sections["canary"],
    )
    return Judgement(evaluator, canary)


class Release(NamedTuple):
    """The model card, and the push."""

    model_card: BaseNode
    pusher: BaseNode


def release(
    task: Task, rows: Rows, start: Start, trained: Trained, candidate: Candidate, judgement: Judgement
) -> Release:
    """Writes the candidate's card, and pushes it if it was blessed."""
    config, facts = task.config, task.facts
    sections = {name: task.settings.sections[name] for name in ("data", "train", "compress")}
    model_card = ModelCard(
        **judgement.verdict,
        model_run=candidate.model_run,
        model=candidate.model,
        **rows.reported,
        config=config.model_dump_json(include={"name", "model", "card"}),
        **sections,
        release=facts.release,
        **candidate.trade,
        **start.weights,
    )
    pusher = Pusher(
        model=candidate.model,
        weights=trained.trainer.outputs["weights"],  # for warm starts, which train a teacher
        model_blessing=judgement.verdict["blessing"],
        infra_blessing=judgement.canary.outputs["canary"],
        evaluation=judgement.verdict["evaluation"],
        model_card=model_card.outputs["model_card"],
        serving_folder=task.settings.serving_folder,
        release=facts.release,
        vanished=facts.vanished,
        withdrawn=facts.withdrawn,
        keep_versions=config.serve.keep_versions,
        warmup_rows=config.serve.warmup_rows,
        **candidate.trade,
        **start.weights,
    )
    return Release(model_card, pusher)


# === What a person reads of the run ===


def reports(
    task: Task, rows: Rows, start: Start, candidate: Candidate, judgement: Judgement, release: Release
) -> list[BaseNode]:
    """Doubtful labels, explanations, the review page, and what an experiment tracker gets, where there is one."""
    evaluation = {"evaluation": judgement.verdict["evaluation"]}
    label_quality = LabelQuality(
        examples=rows.examples,
        model_run=candidate.model_run,
        model=candidate.model,
        **evaluation,
        **start.vectors,
        **start.more_rows,
    )
    explainer = Explainer(
        weights=candidate.weights, model=candidate.model, **rows.graph, model_options=task.model, **evaluation
    )
    for reporting in (label_quality, explainer):
        reporting.add_upstream_node(
            release.pusher
        )  # a cluster starts nothing after a lost pod, so the push comes first
    outcome = {
        **judgement.verdict,
        "canary": judgement.canary.outputs["canary"],
        "pushed_model": release.pusher.outputs["pushed_model"],
        "model_run": candidate.model_run,
        "release": task.facts.release,
    }
    review = Review(
        **outcome,
        model_card=release.model_card.outputs["model_card"],
        model=candidate.model,
        label_report=label_quality.outputs["report"],
        **rows.reported,
        anomalies=rows.anomalies.outputs["anomalies"],
        attributions=explainer.outputs["attributions"],
        history=task.facts.history,
        **candidate.trade,
    )
    if not task.config.tracking.tool:
        return [label_quality, explainer, review]
    track = Track(
        **outcome,
        review=review.outputs["review"],
        options=task.config.tracking.model_dump_json(),
        model=task.model,
        **{name: task.settings.sections[name] for name in ("data", "train", "export", "evaluate")},
        folder=task.settings.tracking_folder,
        untracked=task.facts.untracked,
    )
    return [label_quality, explainer, review, track]


def _outputs(node: BaseNode | None, **outputs: str) -> Inputs:
    """A stage's outputs by the names that they have among another's inputs; {} where there is no such stage."""
    return {name: node.outputs[output] for name, output in outputs.items()} if node else {}
