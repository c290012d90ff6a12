"""The one config file of a task: typed, validated, and printed complete with its defaults."""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.representer import SafeRepresenter

from bertline.components import spans, yaml_extent
from bertline.components.options import (
    CanaryOptions,
    CardOptions,
    CompressOptions,
    DataOptions,
    EvaluateOptions,
    ServeOptions,
    TrackingOptions,
    TuneOptions,
    ValidationOptions,
)
from bertline.components.tuning import space
from bertline.errors import UserError
from bertline.models import network_size
from bertline.models.recipe import (
    WITH_ADDITIONS,
    ExportOptions,
    ModelOptions,
    PretrainOptions,
    RandomBert,
    Section,
    TrainOptions,
    check_sections_are_used,
    keys_of,
    with_defaults_of_family,
)
from bertline.monitoring.options import MonitorOptions
from bertline.pipeline import metadata_store
from bertline.pipeline.beam_options import GCS, BeamOptions
from bertline.pipeline.kubeflow_options import KubeflowOptions
from bertline.pipeline.retrain_options import RetrainOptions
from bertline.serving.storage import is_remote
from bertline.streams.options import StreamOptions

# The sections that stages read when they run. On a cluster each is a parameter: a run may set it to other JSON.
RUNTIME_SECTIONS = {
    "data": "DataOptions as JSON: sources, limits, shares. The columns are compiled in.",
    "validation": "ValidationOptions as JSON. A reviewed schema is compiled in.",
    "train": "TrainOptions as JSON: epochs, learning rate, batch size ...",
    "tune": "TuneOptions as JSON: trials, time, space. Whether each run searches is compiled in.",
    "export": "ExportOptions as JSON: dtype, abstention threshold, calibration.",
    "compress": "CompressOptions as JSON: what makes the student, its gates. Whether there is one is compiled in.",
    "evaluate": "EvaluateOptions as JSON: the gates' bounds, slices.",
    "canary": "CanaryOptions as JSON.",
}
# The model is the same whatever these say.
AROUND_THE_MODEL = frozenset(
    {"root", "metadata", "serve", "monitor", "retrain", "stream", "tracking", "beam", "kubeflow"}
)


class Config(Section):
    """A task: its data, model, recipe, gates and serving folder."""

    name: str  # of the task: it names the served model and the folder of its runs
    # the folder of runs, metadata and the serving folder; null: runs/NAME in the current folder. Runs on this machine
    # need a local one, since logs and review pages are plain files
    root: str | None = None
    # The lineage, where a team shares it: postgresql://USER@HOST:PORT/DATABASE or mysql://..., with one database per
    # task. BERTLINE_METADATA_PASSWORD in the environment has the password. null: an SQLite file below root
    metadata: str | None = None
    data: DataOptions
    validation: ValidationOptions = ValidationOptions()
    model: ModelOptions = ModelOptions()
    # Further pre-training of the weights on your own texts, which need no labels; null goes on with the weights as they
    # are. Minutes to hours, and a gain where the texts are unlike those that the weights know
    pretrain: PretrainOptions | None = None
    train: TrainOptions = TrainOptions()
    tune: TuneOptions = TuneOptions()
    export: ExportOptions = ExportOptions()
    compress: CompressOptions = CompressOptions()
    evaluate: EvaluateOptions = EvaluateOptions()
    canary: CanaryOptions = CanaryOptions()
    serve: ServeOptions = ServeOptions()
    beam: BeamOptions = BeamOptions()
    kubeflow: KubeflowOptions = KubeflowOptions()
    monitor: MonitorOptions = MonitorOptions()
    retrain: RetrainOptions = RetrainOptions()
    stream: StreamOptions = StreamOptions()
    tracking: TrackingOptions = TrackingOptions()
    card: CardOptions = CardOptions()
    # Set by load(), not by the file: relative data paths start at the config's folder.
    folder: str = Field(default=".", exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _sections_and_defaults_of_method_and_family(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        check_sections_are_used(values)
        return with_defaults_of_family(values)

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
            raise ValueError("use letters, digits, dots, dashes and underscores: it names the model and its folder")
        return name

    @field_validator("metadata")
    @classmethod
    def _metadata_is_a_database(cls, url: str | None) -> str | None:
        if url is not None:
            metadata_store.check_address(url)
        return url

    @model_validator(mode="after")
    def _check_across_sections(self) -> Config:
        for check in (
            check_slices_are_kept,
            check_fairness_names,
            check_ranking_has_queries,
            check_some_answer_abstains,
            check_gates_fit_the_labels,
            check_schema_file_exists,
            check_dataflow_reaches_the_artifacts,
            check_workers_train,
            check_the_probe,
            check_the_method_fits_the_backbone,
            check_the_length_fits,
            check_the_devices_have_the_ops,
            check_contrastive_rows_have_one_label,
            check_what_needs_a_transformer,
            check_the_table_fits_the_backbone,
            check_pretraining,
            check_columns_of_test_rows_are_known,
            check_masked_words,
            check_pseudo_labels,
            check_unlabelled,
            check_the_space,
            check_regularity,
            check_retraining,
            check_the_student,
        ):
            check(self)
        return self

    @property
    def root_folder(self) -> Path:
        """Absolute local folder of the task's runs.

        Raises:
            UserError: `root` is remote, where no run of this machine can keep its metadata.
        """
        if self.root and is_remote(self.root):
            raise UserError(
                f"root: {self.root}: on this machine it must be a local folder, since it holds logs, review "
                "pages and artifacts. Leave root out; here only serve.folder may be remote."
            )
        return Path(self.below_root())

    def below_root(self, *names: str) -> str:
        """Absolute path, or address (gs://), of a place below the root of the task's runs."""
        return "/".join([_absolute(self.root or f"runs/{self.name}"), *names])

    @property
    def serving_folder(self) -> str:
        """Absolute path, or address (gs://), of the folder that holds one folder per pushed version."""
        return _absolute(self.serve.folder) if self.serve.folder else self.below_root("serving")

    @property
    def records_folder(self) -> Path:
        """Absolute local folder of what a server keeps of the requests."""
        return Path(_absolute(self.serve.log.folder)) if self.serve.log.folder else self.root_folder / "records"

    @property
    def shadow_records_folder(self) -> Path:
        """Absolute local folder of what a canary that shadows has answered beside the served version."""
        return self.records_folder.with_name(f"{self.records_folder.name}-shadow")

    @property
    def metadata_location(self) -> metadata_store.Location:
        """Where the lineage of the task's runs is kept.

        Raises:
            UserError: `root` is remote, and `metadata` names no database.
        """
        return metadata_store.Location(self.metadata, None if self.metadata else self.root_folder, self.name)

    @property
    def probes(self) -> bool:
        """Whether the line has a probe: to compare with, to start the head from, or as the model."""
        needed = self.head_from_probe or self.train.method == "probe" or self.train.unlabelled is not None
        return needed or self._compares_with_probe

    @property
    def trains_from_probe(self) -> bool:
        """Whether the training may need the probe; which it does, a search can decide."""
        return self.head_from_probe or self.train.method == "probe" or self.tune.every_run

    @property
    def head_from_probe(self) -> bool:
        """Whether training starts from the probe's head."""
        if self.train.method == "contrastive":
            return False  # its head comes last
        return self.starts_pretrained if self.train.head == "auto" else self.train.head == "probe"

    @property
    def unlabelled(self) -> dict[str, str]:
        """The files of rows without labels, by the key that names them."""
        named = {"train.unlabelled": self.train.unlabelled, "compress.unlabelled": self.compress.unlabelled}
        return {key: source for key, source in named.items() if source is not None}

    @property
    def starts_pretrained(self) -> bool:
        """Whether training starts from weights that know something; random ones do not."""
        return self.pretrain is not None or self.model.pretrained

    @property
    def _compares_with_probe(self) -> bool:
        return self.starts_pretrained if self.evaluate.probe is None else self.evaluate.probe

    def runtime_sections(self) -> dict[str, str]:
        """The sections of RUNTIME_SECTIONS as JSON, by name."""
        return {name: getattr(self, name).model_dump_json() for name in RUNTIME_SECTIONS}

    def digest(self) -> str:
        """See `digest_of`."""
        return digest_of(self.model_dump(mode="json"))


def digest_of(values: dict[str, Any]) -> str:
    """SHA-256 of everything in a config's JSON values that can change a model or its push, in hex."""
    changing = {name: value for name, value in values.items() if name not in AROUND_THE_MODEL}
    if not changing["tune"]["every_run"]:
        del changing["tune"]  # only `bertline tune` goes by it
    return hashlib.sha256(json.dumps(changing, sort_keys=True).encode()).hexdigest()


def _absolute(folder: str) -> str:
    """The folder without a slash at its end. Addresses are left alone, since a Path would merge their slashes."""
    return folder.rstrip("/") if is_remote(folder) else str(Path(folder).expanduser().absolute())


# === Rules that span sections ===


def check_slices_are_kept(config: Config) -> None:
    """Raises ValueError when a slice names a column that ingestion does not keep."""
    for name in config.evaluate.slices:
        if name not in config.data.keep:
            raise ValueError(f"evaluate.slices: {name!r} is not in data.keep ({config.data.keep}); add it there")


def check_some_answer_abstains(config: Config) -> None:
    """Raises ValueError when no answer can be below the threshold. The Exporter checks it by the labels of the data."""
    threshold, labels = config.export.abstain, config.data.labels
    if threshold is not None and labels and threshold <= 1 / len(labels):
        raise ValueError(
            f"export.abstain: {threshold:g} is never reached from below: with {len(labels)} labels the largest "
            f"probability is at least {1 / len(labels):.3g}; set it higher, or leave it out"
        )


def check_gates_fit_the_labels(config: Config) -> None:
    """Raises ValueError for what makes sense only with one label per row, or only with several."""
    gates, several = config.evaluate.gates, config.data.multi_label is not None
    if several and config.export.abstain is not None:
        raise ValueError(
            "export.abstain: with data.multi_label a row that is sure of no label gets none, and each label has its "
            "own threshold; leave it out"
        )
    if several and gates.accuracy is not None:
        raise ValueError(
            "evaluate.gates.accuracy: with data.multi_label say which: subset_accuracy (rows that get exactly their "
            "labels) or micro_f1"
        )
    for name in ("subset_accuracy", "micro_f1"):
        if not several and getattr(gates, name) is not None:
            raise ValueError(f"evaluate.gates.{name}: rows have one label without data.multi_label; use accuracy")
    known = config.data.known_labels
    for label in gates.label_f1:
        if known and label not in known:
            raise ValueError(f"evaluate.gates.label_f1: {label!r} is none of the labels ({known})")


def check_fairness_names(config: Config) -> None:
    """Raises ValueError when the fairness gates name a column that is not kept, or a label that is not listed."""
    fairness, data = config.evaluate.gates.fairness, config.data
    if fairness and fairness.column not in data.keep:
        key = "evaluate.gates.fairness.column"
        raise ValueError(f"{key}: {fairness.column!r} is not in data.keep ({data.keep}); add it there")
    if fairness and data.known_labels and fairness.label not in data.known_labels:
        known = f"data.labels ({data.labels})" if data.labels else f"data.multi_label.columns ({data.label_columns})"
        raise ValueError(f"evaluate.gates.fairness.label: {fairness.label!r} is not in {known}")


def check_ranking_has_queries(config: Config) -> None:
    """Raises ValueError when rows are to be ranked that are no pairs, or whose queries may be in two splits."""
    ranking, data = config.evaluate.ranking, config.data
    if not ranking:
        return
    if not data.text_pair:
        raise ValueError(
            "evaluate.ranking: rows must be a query in data.text and a candidate for it in data.text_pair; name its "
            "column there"
        )
    if data.split.group != "text":
        raise ValueError(
            "evaluate.ranking: set data.split.group: text, so that no query of the test rows is in training too"
        )
    if data.known_labels and ranking.label not in data.known_labels:
        raise ValueError(f"evaluate.ranking.label: {ranking.label!r} is none of the labels ({data.known_labels})")


def check_schema_file_exists(config: Config) -> None:
    """Raises ValueError when the reviewed schema file is missing."""
    path = config.validation.schema_file
    if path and not (Path(config.folder) / path).is_file():
        raise ValueError(f"validation.schema_file: {path!r} does not exist (looked in {config.folder})")


def check_dataflow_reaches_the_artifacts(config: Config) -> None:
    """Raises ValueError when Dataflow would get folders that its machines do not see."""
    if config.beam.runner != "dataflow":
        return
    if not (config.kubeflow.pipeline_root or "").startswith(GCS):
        raise ValueError(
            "beam.runner: dataflow reads and writes artifacts only in gs://; set kubeflow.pipeline_root to "
            "gs://BUCKET/PATH and compile the line. A run on this machine keeps them in a local root"
        )
    if (folder := config.kubeflow.data_folder) and "://" not in folder:
        raise ValueError(f"kubeflow.data_folder: Dataflow does not see {folder!r}; name a gs:// folder")


def check_workers_train(config: Config) -> None:
    """Raises ValueError when a cluster has workers, and training is not spread over them."""
    if config.kubeflow.workers and config.train.distribution != "multi_worker":
        raise ValueError("kubeflow.workers: set train.distribution to multi_worker, or each would train its own model")


def check_the_probe(config: Config) -> None:
    """Raises ValueError when the probe is asked for where there can be none, or compared with itself."""
    gate = config.evaluate.gates.beats_probe_by is not None
    asked = {
        "train.method: probe": config.train.method == "probe",
        "train.head: probe": config.train.head == "probe",
        "evaluate.probe: true": bool(config.evaluate.probe),
        "evaluate.gates.beats_probe_by": gate,
    }
    if any(asked.values()) and not config.starts_pretrained:
        keys = ", ".join(key for key, is_asked in asked.items() if is_asked)
        reason = (
            "family: static has no encoder for it to read, and is little more than a probe itself"
            if config.model.family == "static"
            else "the random weights that training starts from know nothing that it could find"
        )
        raise ValueError(f"{keys}: there is no probe here, since {reason}; leave it out")
    if gate and config.train.method == "probe":
        raise ValueError("evaluate.gates.beats_probe_by: with train.method: probe the model is the probe itself")


def check_the_method_fits_the_backbone(config: Config) -> None:
    """Raises ValueError when the method asks for more than a network has whose size can be read here.

    Of any other the Trainer checks it.
    """
    size = network_size.read(config.model)
    if size and (fault := network_size.misfit(config.train, size, config.model.max_length)):
        raise ValueError(fault)


def check_the_length_fits(config: Config) -> None:
    """Raises ValueError when texts would be longer than the backbone's positions, where its size can be read here."""
    size = network_size.read(config.model)
    if size and size.positions is not None and config.model.max_length > size.positions:
        raise ValueError(
            f"model.max_length: {config.model.max_length} is more than the {size.positions} tokens that model.backbone "
            f"can take at once; set it to {size.positions} or less"
        )


def check_the_devices_have_the_ops(config: Config) -> None:
    """Raises ValueError when a bilstm would be trained on TPUs, whose compiler XLA has no kernel of BlockLSTM."""
    named = {"model.family": config.model.family, "compress.family": config.compress.family}
    for key, family in named.items():
        if config.train.distribution == "tpu" and family == "bilstm":
            raise ValueError(
                f"train.distribution: tpu: XLA cannot compile the LSTM of {key}: bilstm; set it to one_device"
            )


def check_contrastive_rows_have_one_label(config: Config) -> None:
    """Raises ValueError when rows have several labels, and training goes by which rows have the same one."""
    for key, methods in _named_methods(config).items():
        if "contrastive" in methods and config.data.multi_label is not None:
            raise ValueError(
                f"{key}: contrastive: with data.multi_label rows share some labels and not others; use full or lora"
            )


def _named_methods(config: Config) -> dict[str, Sequence[Any]]:
    """The keys that name methods of training, and which."""
    return {"train.method": [config.train.method], "tune.space: train.method": config.tune.space.get(space.METHOD, [])}


def check_what_needs_a_transformer(config: Config) -> None:
    """Raises ValueError where a family without layers would be pre-trained further, or lose a part of them."""
    if config.model.family == "auto":
        return
    asked = {
        "pretrain": config.pretrain is not None,
        "compress": config.compress != CompressOptions(),
        "export.also": bool(config.export.also),
    }
    for key in (key for key, is_asked in asked.items() if is_asked):
        raise ValueError(
            f"{key}: model.family: {config.model.family} has no transformer that it could work on; take {key} out"
        )


def check_the_table_fits_the_backbone(config: Config) -> None:
    """Raises ValueError where token embeddings would be distilled from nothing, or wider than what they come from."""
    if config.model.family == "static" and isinstance(config.model.backbone, RandomBert):
        raise ValueError(
            "model.backbone: family: static distils pretrained weights, and random ones know nothing; name a folder"
        )
    size = network_size.of_backbone(config.model) if config.model.family == "static" else None
    if size and config.model.static.dimensions > size.hidden:
        raise ValueError(
            f"model.static.dimensions: {config.model.static.dimensions} are more than the {size.hidden} of "
            f"model.backbone's vectors, which they are distilled from; set it to {size.hidden} or less"
        )


def check_pretraining(config: Config) -> None:
    """Raises ValueError where the weights cannot be pre-trained, or nothing would be trained from them."""
    if config.pretrain and network_size.has_sentencepiece(config.model):
        raise ValueError("pretrain: only BERTs can be pre-trained further; take it out, or name another model.backbone")
    if config.pretrain and (fault := network_size.masked_lm_fault(config.model)):
        raise ValueError(f"pretrain: {fault}")
    if config.pretrain and config.train.warm_start:
        raise ValueError(
            "pretrain: with train.warm_start: true training starts from the last blessed model, and not from these "
            "weights; take one out"
        )


def check_columns_of_test_rows_are_known(config: Config) -> None:
    """Raises ValueError where texts of test rows would not be known again among those of pre-training.

    Ingestion keeps the columns of a text only joined, so what stands in its middle is not known to be a column.
    """
    text = config.pretrain.text if config.pretrain else None
    wanted = [text] if isinstance(text, str) else text or []
    columns, count = config.data.text_columns, len(wanted)
    if set(wanted) <= set(columns) and wanted and wanted not in (columns[:count], columns[-count:]):
        raise ValueError(
            f"pretrain.text: {', '.join(wanted)}: of the columns of data.text ({', '.join(columns)}), name the first "
            "or the last ones, or leave it out; others would not be known as texts of test rows, which must stay unseen"
        )


def check_masked_words(config: Config) -> None:
    """Raises ValueError where the weights cannot say which word fits."""
    augment = config.train.augment
    if not augment or "masked_lm" not in augment.operations:
        return
    if network_size.has_sentencepiece(config.model) or config.model.family != "auto":
        raise ValueError("train.augment.operations: masked_lm: only BERTs can do it; take it out")
    if fault := network_size.masked_lm_fault(config.model):
        raise ValueError(f"train.augment.operations: masked_lm: {fault}")
    if not config.starts_pretrained:
        raise ValueError(
            "train.augment.operations: masked_lm: the random weights of model.backbone know no words; add a section "
            "`pretrain`, or take masked_lm out"
        )


def check_the_space(config: Config) -> None:
    """Raises ValueError when the search would try keys that there are not, or values that they cannot have."""
    if config.tune.space:
        space.named(config.tune.space, config.model, config.train)
    if config.tune.every_run:
        check_can_be_tuned(config)


def check_can_be_tuned(config: Config) -> None:
    """Raises ValueError when trials could not train as the Trainer does, or there is nothing to search."""
    if config.train.warm_start:
        raise ValueError(
            "train.warm_start: trials start from the pretrained weights, and this config's training from those of the "
            "last model; set it to false to tune"
        )
    if config.train.distribution == "multi_worker":
        raise ValueError("train.distribution: trials run on one machine; tune with another value, such as auto")
    if config.train.method == "probe" and not config.tune.space:
        raise ValueError(
            "train.method: probe: nothing but the head is trained, and its penalty is chosen by the validation rows "
            "already; set another method, or name several: tune: {space: {train.method: [probe, full]}}"
        )


def check_regularity(config: Config) -> None:
    """Raises ValueError where a term of the loss could only be zero, or holds weights where they mean nothing."""
    train = config.train
    factors = {"lora": train.lora.dropout, "adalora": train.adalora.dropout}.get(train.method, 0)
    if train.r_drop and not (config.model.dropout or factors):
        raise ValueError(
            "train.r_drop: without model.dropout both passes of a row are the same; set one of the two to 0.1"
        )
    if train.l2_sp and not (config.starts_pretrained or config.model.family == "static"):
        raise ValueError(
            "train.l2_sp: the random weights that training starts from are nothing to stay near; leave it out"
        )
    if train.l2_sp and config.model.family == "static" and not config.model.static.train_embeddings:
        raise ValueError(
            "train.l2_sp: with model.static.train_embeddings: false the embeddings stay as they are, and nothing else "
            "came with weights; leave one out"
        )


def check_the_student(config: Config) -> None:
    """Raises ValueError where the backbone's files, if they can be read here, show that the student cannot be made."""
    size, cut = network_size.read(config.model), config.compress.cut
    if size and (misfit := network_size.student_misfit(cut, size)):
        raise ValueError(misfit)
    for key, methods in _named_methods(config).items():
        for method in methods if cut else []:
            if method in WITH_ADDITIONS:
                raise ValueError(
                    f"compress.{next(iter(cut))}: {key}: {method} leaves parts beside the teacher's layers that a "
                    "student with less of them cannot take over; use full or lora"
                )
    table = config.compress.static
    if config.compress.family == "static" and size and table.dimensions > size.hidden:
        raise ValueError(
            f"compress.static.dimensions: {table.dimensions} are more than the {size.hidden} of model.backbone, the "
            f"teacher's; set it to {size.hidden} or less"
        )
    check_the_student_is_smaller(config)
    if config.compress.family and config.export.also:
        raise ValueError(
            f"export.also: a student of the family {config.compress.family} cannot be written as ONNX; take one out"
        )
    if config.compress.vocabulary == "used" and network_size.has_sentencepiece(config.model):
        raise ValueError(
            "compress.vocabulary: used: the vocabulary of model.backbone is SentencePiece's, and how it cuts a word "
            "depends on all of its pieces; a BERT's vocab.txt can be trimmed. Leave it out"
        )


# A teacher's weights are counted without biases, LayerNorms and pooler, which are a tenth of a very small network's.
# What is less sure than this is seen when the student is built.
SURELY_LARGER = 1.25


def check_the_student_is_smaller(config: Config) -> None:
    """Raises ValueError where a student of another family would surely have more weights than its teacher."""
    compress, theirs = config.compress, network_size.weights(config.model) if config.compress.family else None
    if theirs is None:
        return
    if compress.family == "static":
        sizes = compress.static
        words = theirs.words if compress.vocabulary == "whole" else 0  # how many would stay is not known yet
        mine = words * sizes.dimensions + sizes.dimensions * sizes.hidden
    else:
        sizes = compress.bilstm
        mine = 2 * (sizes.embedding + sizes.units) * 4 * sizes.units  # nor how many words the rows have
    if mine >= SURELY_LARGER * theirs.all * config.train.ensemble:
        raise ValueError(
            f"compress.family: {compress.family}: the student would have {mine:,} weights or more, and its teacher "
            f"has about {theirs.all * config.train.ensemble:,}; make compress.{compress.family} smaller"
        )


def check_pseudo_labels(config: Config) -> None:
    """Raises ValueError where no probe can label rows."""
    if config.train.unlabelled is None:
        return
    if config.data.multi_label is not None:
        raise ValueError("train.unlabelled: with data.multi_label no one probability says that a row has its labels")
    if not config.starts_pretrained:
        reason = (
            "the random weights of model.backbone know nothing that it could find"
            if config.model.family == "auto"
            else f"model.family: {config.model.family} has none"
        )
        raise ValueError(f"train.unlabelled: the probe labels the rows, and {reason}; leave it out")


def check_unlabelled(config: Config) -> None:
    """Raises ValueError where rows without labels are the task's own."""
    where = Path(config.folder)
    own = ("test_source", "validation_source", "train_source", "source")
    sources = [(name, source) for name in own for source in getattr(config.data, name) or [] if isinstance(source, str)]
    for key, unlabelled in config.unlabelled.items():
        for name, source in sources:
            if (where / source).resolve() == (where / unlabelled).resolve():
                raise ValueError(
                    f"{key}: {unlabelled} is data.{name}: these rows have labels, and the test rows must "
                    "stay unseen; name a file of other rows"
                )


def check_retraining(config: Config, on: Sequence[str] | None = None) -> None:
    """Raises ValueError when a trigger of `retrain.on`, or of `on` in its place, could never ask for a run."""
    if "span" in (on or config.retrain.on) and not any(
        spans.PLACEHOLDER in source for source in config.data.sources if isinstance(source, str)
    ):
        raise ValueError(
            "retrain.on: span: no source has {SPAN} in it; write one such as data-{SPAN}.csv, or take span out"
        )


# Rules that look into the backbone's folder, by the sections that they read. Where the folder is on a hub, or only on
# the machine that trains, they hold from the run's start on.
_OF_THE_FOLDER = (
    check_the_method_fits_the_backbone,
    check_the_length_fits,
    check_the_table_fits_the_backbone,
    check_pretraining,
    check_masked_words,
    check_the_student,
)
_THEIR_SECTIONS = ("model", "train", "tune", "pretrain", "compress", "export")


def check_the_folder(values: Mapping[str, Any], folder: Path) -> None:
    """Checks a config against the backbone's folder once it is on this machine.

    Args:
        values: the config's sections as JSON values.
        folder: the backbone's.

    Raises:
        UserError: what the config says does not fit the backbone.
    """
    types = {name: Config.model_fields[name].annotation for name in _THEIR_SECTIONS}
    sections = {name: TypeAdapter(types[name]).validate_python(values[name]) for name in types}
    model = sections["model"].model_copy(update={"backbone": str(folder)})
    config = Config.model_construct(**{**sections, "model": model})
    for check in _OF_THE_FOLDER:
        try:
            check(config)
        except ValueError as error:
            raise UserError(str(error)) from None


# === Starting warm ===


def why_not_warm(config: Config) -> str:
    """Why training cannot start from the last blessed model's weights, as `with_warm_start` has it; "" where it can."""
    reasons = {
        "train.method: probe trains only a new head": config.train.method == "probe",
        "tune.every_run is set": config.tune.every_run,
        "with a section pretrain training starts from its weights": config.pretrain is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def with_warm_start(config: Config) -> Config:
    """The config with `train.warm_start: true`.

    Raises:
        UserError: training cannot start so.
    """
    if why := why_not_warm(config):
        raise UserError(f"--warm-start: {why}; leave it out.")
    return config.model_copy(update={"train": config.train.model_copy(update={"warm_start": True})})


# === Reading and printing ===


def load(path: str | Path) -> Config:
    """Reads a config file.

    Raises:
        UserError: the file has faults; the message names the file, and for each fault the key, the value and what is
            allowed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.{_nearest_config(path)} `bertline init FILE` writes one.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}") from error
    try:
        values = parse(text)
    except yaml_extent.TooMuch as error:
        raise UserError(f"{path}: {error}. No config is like that; `bertline init FILE` writes one.") from None
    except YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no config: expected keys such as name and data, found {type(values).__name__}.")
    if "folder" in values:
        raise UserError(f"{path}: folder: unknown key. {_known_keys(Config)}")
    try:
        return Config.model_validate({**values, "folder": str(path.parent.absolute())})
    except ValidationError as error:
        lines = [_explain(fault, values) for fault in error.errors()]
        raise UserError("\n".join(f"{path}: {line}" for line in dict.fromkeys(lines))) from None


def parse(text: str) -> Any:
    """What a config's text holds, before it is checked.

    Raises:
        YAMLError: it is no YAML, or more of it than a config can be (TooMuch).
    """
    yaml_extent.check(text)
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    return yaml.load(text)


NAMES = {"label", "labels", "label_map"}  # keys whose values are names of labels, or of their column
PLAIN_TEXT, NULL, MERGE = (f"tag:yaml.org,2002:{name}" for name in ("str", "null", "merge"))


class _Constructor(SafeConstructor):
    """Takes keys and the names of labels as they stand: TRUE is no truth value there, and 1e3 no thousand."""

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> Any:
        """A mapping as a dict."""
        for key, value in node.value:
            if isinstance(key, ScalarNode) and key.tag != MERGE:
                key.tag = PLAIN_TEXT
                if key.value in NAMES:
                    _take_as_text(value)
        return super().construct_mapping(node, deep)


def _take_as_text(node: Node) -> None:
    """Marks the scalars of a value as text, but for null."""
    if isinstance(node, SequenceNode):
        for member in node.value:
            _take_as_text(member)
    elif isinstance(node, MappingNode):
        for _, value in node.value:
            _take_as_text(value)
    elif node.tag != NULL:
        node.tag = PLAIN_TEXT


class _Representer(SafeRepresenter):
    """Quotes text with line breaks and control characters, which YAML would fold or drop."""

    def represent_text(self, text: str) -> ScalarNode:
        """A text as a node."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Representer.add_representer(str, _Representer.represent_text)


def dump(config: Config) -> str:
    """The whole config as YAML, every default written out."""
    yaml = YAML(typ="safe", pure=True)  # `load`'s own library: another would write labels such as 1e3 as it reads them
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output, yaml.width = False, False, 120
    yaml.Representer = _Representer
    text = io.StringIO()
    yaml.dump(config.model_dump(mode="json"), text)
    return text.getvalue()


def _nearest_config(path: Path) -> str:
    known = [str(other) for other in Path("configs").glob("*.yaml")]
    nearest = difflib.get_close_matches(str(path), known, n=1, cutoff=0.5)
    return f" Did you mean {nearest[0]}?" if nearest else ""


def _explain(fault: dict[str, Any], values: dict[str, Any]) -> str:
    """One of pydantic's faults in terms of the config: key, value, what is allowed."""
    location = [part for part in fault["loc"] if _is_key(part, values)]
    key = ".".join(str(part) for part in location) or "config"
    if fault["type"] == "extra_forbidden":
        section = _section_at(location[:-1])
        nearest = difflib.get_close_matches(str(location[-1]), keys_of(section), n=1, cutoff=0.5)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        return f"{key}: unknown key.{hint} {_known_keys(section)}"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        return f"{key}: missing; it has no default."
    value = fault["input"]
    shown = "" if isinstance(value, dict | BaseModel) else f"{_without_password(repr(value))}: "
    return f"{key}: {shown}{message}"


def _without_password(text: str) -> str:
    return re.sub(r"(://[^:/@\s]*:)(?!\$\{)[^@\s]*@", r"\1***@", text)


def _is_key(part: Any, values: Any) -> bool:
    # For a member of a union, pydantic's location has the type's name as well, which is no key of the file.
    return isinstance(part, int) or not re.match(
        r"^(str|RandomBert|Query$|list\[|function-|nullable|constrained)", str(part)
    )


def _section_at(location: list[Any]) -> type[BaseModel]:
    section: type[BaseModel] = Config
    for part in location:
        if part not in keys_of(section):  # an item of a list, or a name in a mapping
            continue
        members = _members(keys_of(section)[part].annotation)
        section = next(member for member in members if isinstance(member, type) and issubclass(member, BaseModel))
    return section


def _members(annotation: Any) -> Iterator[Any]:
    """A type and all that it is made of, such as list[str | Query]."""
    yield annotation
    for member in getattr(annotation, "__args__", ()):
        yield from _members(member)


def _known_keys(section: type[BaseModel]) -> str:
    return "Known here: " + ", ".join(name for name in keys_of(section) if name != "folder") + "."
