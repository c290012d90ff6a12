"""Trainer: fine-tunes the classifier on the transformed Examples; what is served is made of it by the Exporter."""

import gc
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_transform as tft
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from bertline.components import pretrained, probe_head, pseudo_rows, training_record
from bertline.components.artifacts import (
    ADAPTER_FILE,
    KERAS_FOLDER,
    Backbone,
    ProbeHead,
    PseudoLabels,
    Variants,
    Weights,
)
from bertline.components.checkpoint_folders import remove_checkpoints
from bertline.components.labels import read_labels
from bertline.components.probe_head import Probed
from bertline.components.training_record import ValidationLogits
from bertline.components.transformed_labels import is_multi_label, names_of
from bertline.components.tuning import space, trials
from bertline.components.variants import made_with
from bertline.errors import UserError
from bertline.models import contrastive, ensemble, families, hardware, targets, training
from bertline.models.dataset import Rows, joined, read_rows
from bertline.models.family import Classifier
from bertline.models.features import SEGMENT_IDS
from bertline.models.recipe import ModelOptions, TrainOptions

NOT_CONTRASTIVE = ("strategy", "adapter", "keep_end")  # one device, no factors, and no ensemble to go on with
_progress = logging.getLogger("bertline.progress")


@component
def Trainer(
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    transformed_examples: InputArtifact[standard_artifacts.Examples],
    weights: OutputArtifact[Weights],
    model_run: OutputArtifact[standard_artifacts.ModelRun],
    model_options: Parameter[str],
    train_options: Parameter[str],
    checkpoint_dir: Parameter[str],
    last_blessed: InputArtifact[standard_artifacts.Model] = None,
    probe: InputArtifact[ProbeHead] = None,
    hyperparameters: InputArtifact[standard_artifacts.HyperParameters] = None,
    variants: InputArtifact[Variants] = None,
    pseudo_labels: InputArtifact[PseudoLabels] = None,
    backbone: InputArtifact[Backbone] = None,
):
    """Leaves the weights of the best epoch, and what training and the validation rows say of them.

    Of an ensemble each member is trained after the other. A run that is interrupted goes on in the member that it was
    in: those before it are restored from the end of their trainings.

    With several workers (distribution: multi_worker) all run this with the same arguments, on folders that they share.
    Only the chief writes.

    Args:
        transform_graph: Transform's graph, which says whether rows are pairs.
        transformed_examples: token ids and label ids, splits train and validation.
        weights: what `Family.load` of its family reads.
        model_run: training.json and the validation rows' logits (see training_record), and TensorBoard's event files.
        model_options: a ModelOptions as JSON.
        train_options: a TrainOptions as JSON.
        checkpoint_dir: folder, local or remote, that outlives an interrupted run. Each training has a folder of its own
            in it, which is removed when the training is done.
        last_blessed: whose weights to start from, if it has any; None for the pretrained ones.
        probe: what the head starts from, unless the last blessed model's weights are taken; None for random weights.
            With the method "probe" it is the head that is served.
        hyperparameters: the Tuner's best, which take the places of the options'; None for the options as they are.
        variants: more training rows, made of the others (see augmenter); None for none.
        pseudo_labels: more training rows, which the probe has labelled (see pseudo_labeller); None for none.
        backbone: the Pretrainer's weights; None for the configured ones.

    Raises:
        UserError: a split is empty, the loss is no longer a number, the last blessed model's weights do not fit, or the
            method needs a probe and there is none.
    """
    options = ModelOptions.model_validate_json(model_options)
    recipe = TrainOptions.model_validate_json(train_options)
    more = more_rows(recipe, variants, pseudo_labels)
    if hyperparameters:
        options, recipe = space.combined(options, recipe, trials.read_hyperparameters(hyperparameters.uri))
        model_run.set_string_custom_property(trials.TUNED, trials.sections(options, recipe))
    options = pretrained.model_of(options, backbone)
    strategy = hardware.strategy(recipe.distribution)  # first of all: workers meet before TensorFlow runs
    task = read_task(
        transform_graph.uri,
        transformed_examples.uri,
        options,
        more=more,
        start=warm_start(last_blessed) if last_blessed else None,
        probed=probe_head.read(probe.uri) if probe else None,
    )
    checkpoints = f"{checkpoint_dir}/{task.fingerprint(options, recipe)}"
    members = []
    for number in range(1, recipe.ensemble + 1):
        folder = ensemble.folder(Path(weights.uri), number, recipe.ensemble)
        logs = ensemble.folder(Path(model_run.uri), number, recipe.ensemble)
        own = task.of_member(number)
        trained, *figures = train(
            own,
            options,
            recipe.of_member(number),
            checkpoints=checkpoints if recipe.ensemble == 1 else f"{checkpoints}/{number}",
            logs=logs if recipe.tensorboard else None,
            on_progress=partial(log_progress, member=number, members=recipe.ensemble),
            strategy=strategy,
            adapter=folder / ADAPTER_FILE,
            keep_end=recipe.ensemble > 1,
        )
        members.append(Member(*figures))
        if hardware.is_chief(strategy):
            trained.write(folder, task.labels, backbone_digest=task.digest)
        del trained
        gc.collect()  # a model and its graphs are full of cycles, and the next member builds its own
    if not hardware.is_chief(strategy):
        return
    logits = mean_logits(members, multi_label=task.train.labels.ndim == 2)
    training_record.write_history(model_run.uri, [member.history for member in members])
    names = names_of(task.validation.labels, task.labels)
    training_record.write_logits(model_run.uri, ValidationLogits(names, logits))
    summary = summarise(task, recipe, members, logits)
    weights.set_string_custom_property("summary", summary)
    model_run.set_string_custom_property("summary", summary)
    remove_checkpoints(checkpoint_dir, checkpoints)


class Member(NamedTuple):
    """What the training of one member of an ensemble leaves beside its weights; the only one where there is none."""

    history: training.History
    validation_logits: np.ndarray  # float32 [rows, labels]


class Start(NamedTuple):
    """A release to start from: its version, and the folder of its Keras weights."""

    version: str
    weights: Path

    def of_member(self, number: int) -> "Start":
        """The member of the release that a member starts from; of a release with fewer, they are taken in turns."""
        folders = ensemble.folders(self.weights)
        return Start(self.version, folders[(number - 1) % len(folders)])


@dataclass(frozen=True)
class Task:
    """What a training reads, whatever its recipe.

    Attributes:
        labels: the labels' names, in the order of their ids.
        digest: the backbone's.
        train: rows to train on.
        validation: rows that choose the best epoch.
        start: the release to start from; None for the pretrained weights.
        probed: the probe; None where the line has none.
        learned: folder of the vocabulary, where the family learns it.
    """

    labels: list[str]
    digest: str
    train: Rows
    validation: Rows
    start: Start | None = None
    probed: Probed | None = None
    learned: str | None = None

    def of_member(self, number: int) -> "Task":
        """The same for a member of an ensemble, counted from 1."""
        return replace(self, start=self.start.of_member(number)) if self.start else self

    def begins_with_probe(self, recipe: TrainOptions) -> bool:
        """Whether the head starts as the probe's."""
        begins = recipe.head != "random" and recipe.method != "contrastive"  # whose head comes last
        return begins and not self.start and self.probed is not None

    def begun_from(self, recipe: TrainOptions) -> str:
        """Where training starts, for the screen."""
        if self.start:
            return f"from {self.start.version}: "
        return "from the probe: " if self.begins_with_probe(recipe) else ""

    def build(self, options: ModelOptions, recipe: TrainOptions) -> Classifier:
        """The classifier with its initial weights.

        Raises:
            UserError: the weights of the release do not fit.
        """
        several = self.train.labels.ndim == 2
        built = families.of(options).build(
            options, len(self.labels), seed=recipe.seed, multi_label=several, learned=self.learned
        )
        if self.start:
            take_weights(built, self.start, self.labels, self.digest)
        elif self.begins_with_probe(recipe):
            built.set_head(self.probed.head.kernel, self.probed.head.bias)
        return built

    def fingerprint(self, *options: ModelOptions | TrainOptions) -> str:
        """A name made of everything that a result depends on, so that no other training takes up its checkpoints."""
        begun = self.start.version if self.start else self.probed.digest if self.probed else ""
        names = [self.digest, begun, *self.labels]
        digest = hashlib.sha256(json.dumps([names, *(section.model_dump_json() for section in options)]).encode())
        for rows in (self.train, self.validation):
            for part in (rows.token_ids, rows.segment_ids):
                if part is not None:
                    digest.update(part.flat_values.numpy().tobytes() + part.row_splits.numpy().tobytes())
            digest.update(rows.labels.tobytes())
        return digest.hexdigest()[:16]


def more_rows(recipe: TrainOptions, variants: Variants | None, pseudo_labels: PseudoLabels | None) -> list[str]:
    """The folders of further training rows.

    Args:
        recipe: the config's.
        variants: made of the training rows; None for none.
        pseudo_labels: labelled by the probe; None for none.

    Raises:
        UserError: a run on a cluster asks for other rows than the line was compiled with.
    """
    if recipe.augment != (made_with(variants) if variants else None):
        raise UserError("train.augment: this line was compiled with another; compile it again, or leave it as it was")
    if pseudo_rows.asked(recipe) != (pseudo_rows.answered(pseudo_labels) if pseudo_labels else None):
        raise UserError(
            "train.unlabelled: this line was compiled with another, or another pseudo_labels or pseudo_threshold; "
            "compile it again, or leave it as it was"
        )
    return [rows.uri for rows in (variants, pseudo_labels) if rows]


def read_task(
    graph: str,
    examples: str,
    options: ModelOptions,
    *,
    more: Sequence[str] = (),
    start: Start | None = None,
    probed: Probed | None = None,
) -> Task:
    """Reads the training and validation rows; the test rows are not opened.

    Args:
        graph: folder of Transform's graph, which says whether rows are pairs.
        examples: folder of the transformed Examples.
        options: names the backbone.
        more: folders of more training rows.
        start: the release to start from.
        probed: the probe.

    Raises:
        UserError: a split is empty.
    """
    train, validation = (read_split(graph, examples, split) for split in ("train", "validation"))
    for folder in more:
        train = joined(train, read_split(graph, folder, "train"))
    digest = families.of(options).digest(options, graph)
    return Task(read_labels(graph), digest, train, validation, start, probed, learned=graph)


def read_split(graph: str, folder: str, split: str) -> Rows:
    """Reads a split of transformed Examples.

    Args:
        graph: folder of Transform's graph, which says what a row has.
        folder: of the Examples.
        split: its name.

    Raises:
        UserError: it is empty.
    """
    spec = tft.TFTransformOutput(graph).transformed_feature_spec()
    several = len(read_labels(graph)) if is_multi_label(spec) else None
    return read_rows(Path(folder) / f"Split-{split}", pair=SEGMENT_IDS in spec, labels=several)


def train(task: Task, options: ModelOptions, recipe: TrainOptions, **fitting: Any) -> training.Trained:
    """Trains by the recipe's method.

    Args:
        task: the rows and where to start.
        options: the model's.
        recipe: the training's.
        fitting: further arguments of `training.fit`; the method "probe" needs none of them, and "contrastive" not all.

    Raises:
        UserError: the loss is no longer a number, weights do not fit, or the method needs a probe and there is none.
    """

    def build() -> Classifier:
        return task.build(options, recipe)

    if recipe.method == "probe":
        return keep_probe(build, task.probed, recipe)
    if recipe.method == "contrastive":
        taken = {name: value for name, value in fitting.items() if name not in NOT_CONTRASTIVE}
        return contrastive.fit(build, task.train, task.validation, recipe, **taken)
    return training.fit(build, task.train, task.validation, recipe, **fitting)


def keep_probe(build: Callable[[], Classifier], probed: Probed | None, recipe: TrainOptions) -> training.Trained:
    """The classifier with the probe's head and nothing else trained, as `training.fit` would leave it.

    Raises:
        UserError: there is no probe.
    """
    if probed is None:
        raise UserError("train.method: probe: this line was compiled without a probe; compile it again")
    head = probed.head
    epoch = training.Epoch(1, head.train_loss, head.validation_loss, head.validation_accuracy)
    precision = hardware.compute_dtype(recipe.precision).name
    return training.Trained(build(), training.History([epoch], 1, precision=precision), probed.validation_logits)


def warm_start(last_blessed: standard_artifacts.Model) -> Start | None:
    """The last blessed model's weights; None where no model has been pushed yet."""
    version = last_blessed.get_string_custom_property("version")
    if not version:
        return None
    return Start(version, Path(last_blessed.uri) / KERAS_FOLDER)


def take_weights(built: Classifier, start: Start, labels: list[str], backbone_digest: str) -> None:
    """Gives the model the release's weights.

    Raises:
        UserError: they do not fit.
    """
    try:
        built.take_weights(start.weights, labels, backbone_digest=backbone_digest)
    except UserError as error:
        raise UserError(
            f"train.warm_start: version {start.version} cannot be started from: {error}. Set train.warm_start: false."
        ) from error


def mean_logits(members: Sequence[Member], *, multi_label: bool) -> np.ndarray:
    """The validation rows' logits of what is served, float32 [rows, labels]; see ensemble.mean."""
    return np.asarray(ensemble.mean([member.validation_logits for member in members], multi_label=multi_label))


def log_progress(progress: training.Progress, *, member: int = 1, members: int = 1) -> None:
    """Reports how far a training is, for the screen."""
    figures = asdict(progress) | ({"member": member, "members": members} if members > 1 else {})
    text = "epoch %d of %d, step %d of %d, loss %.4f, %.0f examples/s, %.0f s left"
    _progress.info(text, *asdict(progress).values(), extra={"progress": figures})


# === What training leaves ===


def describe_probe(probed: Probed) -> str:
    """The screen's line of the method "probe"."""
    head = probed.head
    return (
        f"the probe's head on the frozen encoder, validation loss {head.validation_loss:.2f}, "
        f"accuracy {head.validation_accuracy:.3f}"
    )


def summarise(task: Task, recipe: TrainOptions, members: Sequence[Member], logits: np.ndarray) -> str:
    """The screen's line.

    Args:
        task: what was read.
        recipe: how it was trained.
        members: of the ensemble, or the only training.
        logits: of the validation rows, by all members.
    """
    if recipe.method == "probe":
        return describe_probe(task.probed)
    begun = task.begun_from(recipe)
    if len(members) == 1:
        return begun + _summary(members[0].history, recipe.method)
    target = targets.of(task.train.labels, len(task.labels), balanced=recipe.class_weights == "balanced")
    loss, accuracy = targets.figures(target, task.validation.labels, logits)
    alone = sorted(member.history.best.validation_accuracy for member in members)
    resumed = "resumed, " if any(member.history.resumed_at for member in members) else ""
    speed = np.mean([member.history.examples_per_second for member in members])
    return (
        f"{begun}{resumed}{len(members)} members, validation loss {loss:.2f}, accuracy {accuracy:.3f} "
        f"({alone[0]:.3f} to {alone[-1]:.3f} each), {speed:.0f} examples/s"
    )


def _summary(history: training.History, method: str) -> str:
    """Such as "best epoch 2 of 2, validation loss 0.58, accuracy 0.760, 95 examples/s"."""
    best = history.best
    part = "" if method == "full" else f"{method}, {history.trained_weights:,} of {history.weights:,} weights, "
    if history.ranks:
        ranks = history.ranks.values()
        part += f"ranks {min(ranks)} to {max(ranks)}, {sum(ranks) / len(ranks):.1f} on average, "
    resumed = f"resumed at step {history.resumed_at[-1]}, " if history.resumed_at else ""
    return (
        f"{part}{resumed}best epoch {best.epoch} of {len(history.epochs)}, validation loss {best.validation_loss:.2f}, "
        f"accuracy {best.validation_accuracy:.3f}, {history.examples_per_second:.0f} examples/s"
    )
