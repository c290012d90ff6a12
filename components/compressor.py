"""Compressor: makes a smaller or faster student of the trained classifier, its teacher."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from bertline.components import (
    compression_report,
    copies,
    other_family,
    spreadsheet,
    student_texts,
    trainer,
    training_record,
)
from bertline.components.artifacts import PSEUDO_FILE, PseudoLabels, Variants, Weights
from bertline.components.checkpoint_folders import remove_checkpoints
from bertline.components.compression_report import Cut, Steps
from bertline.components.options import CompressOptions, DataOptions
from bertline.components.other_family import Student
from bertline.components.student_texts import Texts
from bertline.components.trainer import Task
from bertline.components.training_record import ValidationLogits
from bertline.components.transformed_labels import names_of
from bertline.components.tuning import trials
from bertline.errors import UserError
from bertline.models import backbone_folder, compression, distillation, ensemble, families, hardware, training
from bertline.models.dataset import joined
from bertline.models.distillation import Distillation, SoftTargets
from bertline.models.family import Classifier
from bertline.models.features import ROW_ID
from bertline.models.kept import Kept
from bertline.models.recipe import ModelOptions, TrainOptions
from bertline.serving import storage


@component
def Compressor(
    teacher: InputArtifact[Weights],
    teacher_run: InputArtifact[standard_artifacts.ModelRun],
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    transformed_examples: InputArtifact[standard_artifacts.Examples],
    weights: OutputArtifact[Weights],
    model_run: OutputArtifact[standard_artifacts.ModelRun],
    model_options: Parameter[str],
    train_options: Parameter[str],
    options: Parameter[str],
    checkpoint_dir: Parameter[str],
    examples: InputArtifact[standard_artifacts.Examples] = None,
    variants: InputArtifact[Variants] = None,
    pseudo_labels: InputArtifact[PseudoLabels] = None,
    data: Parameter[str] = "",
    base_folder: Parameter[str] = "",
) -> None:
    """Leaves the student in the form in which the Trainer leaves the teacher.

    The vocabulary comes first: the teacher without the wordpieces that neither the rows nor the texts without labels
    use answers them as before, and is what a student that is cut learns from. That student is one network, also of a
    teacher that is an ensemble.

    Args:
        teacher: the Trainer's weights.
        teacher_run: what training left beside them, with the values that a search has found.
        transform_graph: Transform's graph, which says whether rows are pairs.
        transformed_examples: token ids and label ids, splits train and validation. The test rows are not opened: which
            wordpieces they use is not known here, as it is not of the texts that the model will meet.
        weights: the student, with its own vocabulary where that was trimmed, and what was done (compression_report).
        model_run: training.json and the validation rows' logits, as the Trainer has them.
        model_options: a ModelOptions as JSON.
        train_options: a TrainOptions as JSON; values that a search has found take the places of its own.
        options: a CompressOptions as JSON.
        checkpoint_dir: folder, local or remote, that outlives an interrupted run; the same as the Trainer's.
        examples: raw Examples, whose texts a student reads that learns a vocabulary, and which `compress.unlabelled` is
            not to repeat; None where neither is asked for.
        variants: more training rows of the teacher; None for none.
        pseudo_labels: as the variants.
        data: DataOptions as JSON: how the files of `compress.unlabelled` are read; "" where there are none.
        base_folder: where their relative paths start.

    Raises:
        UserError: the teacher's vocabulary cannot be trimmed, it has too little of what is to be less, the student
            would be larger, or the texts without labels are of no use.
    """
    model, compress = ModelOptions.model_validate_json(model_options), CompressOptions.model_validate_json(options)
    train = TrainOptions.model_validate_json(train_options)
    more = trainer.more_rows(train, variants, pseudo_labels)
    task = trainer.read_task(transform_graph.uri, transformed_examples.uri, model, more=more)
    members = ensemble.load(families.of(model), Path(teacher.uri))
    folder, steps, texts = Path(weights.uri), Steps(), None
    if compress.unlabelled:
        texts = texts_of(compress, data, base_folder, examples, transform_graph.uri, pseudo_labels)
        task = replace(task, train=joined(task.train, texts.rows))
        steps = steps.model_copy(update={"texts": texts.described})
    if compress.vocabulary == "used":
        trimmed = compression.trim(members, model, [task.train, task.validation], folder)
        members, words = trimmed.members, trimmed.kept
        rows = {name: compression.renumbered(getattr(task, name), words) for name in ("train", "validation")}
        task = replace(task, **rows)
        steps = steps.model_copy(update={"wordpieces": Cut(before=trimmed.whole, after=len(words))})
    if compress.trains_student:
        recipe = compress.distill.recipe(searched(teacher_run) or train)
        student = None
        if compress.family:
            named = compression.options_of(model, folder)
            student = other_family.prepare(
                task,
                members,
                named,
                compress,
                seed=recipe.seed,
                folder=folder,
                examples=examples,
                texts=texts.read if texts else [],
            )
        own = f"{checkpoint_dir}/{fingerprint(task, teacher.uri, recipe, compress, student)}"
        places = {"logs": Path(model_run.uri), "checkpoints": own}
        if student is None:
            labelled = task.train.take(np.flatnonzero(task.train.labelled))
            kept = compression.kept_of(members[0], compress.cut, labelled, recipe.seed)
            trained = distil(task, members, kept, recipe, compress, **places)
            steps = steps.model_copy(update=compression_report.cuts(members[0].size, trained.model.size))
        else:
            steps = steps.model_copy(update={"network": student.described})
            trained = distil_other(task, members, student, recipe, compress, **places)
        members = [trained.model]
        training_record.write_history(model_run.uri, [trained.history])
        names = names_of(task.validation.labels, task.labels)
        training_record.write_logits(model_run.uri, ValidationLogits(names, trained.validation_logits))
        copies.copy_properties(teacher_run, model_run)  # the card shows what a search has changed
    else:
        copies.copy(teacher_run, model_run)  # the validation rows have kept their tokens, and so their logits
    for number, member in enumerate(members, 1):
        member.write(ensemble.folder(folder, number, len(members)), task.labels, backbone_digest=task.digest)
    compression_report.write_steps(folder, steps)
    weights.set_string_custom_property("summary", steps.described)
    if compress.trains_student:
        remove_checkpoints(checkpoint_dir, own)


def texts_of(
    options: CompressOptions,
    data: str,
    base_folder: str,
    examples: standard_artifacts.Examples | None,
    graph: str,
    pseudo_labels: PseudoLabels | None,
) -> Texts:
    """The texts of `compress.unlabelled`; arguments as those of the Compressor.

    Raises:
        UserError: as student_texts.read, or the line was compiled without them.
    """
    if not data:
        raise UserError(f"{student_texts.KEY}: this line was compiled without; compile it again, or leave it out")
    # A student with a vocabulary of its own cannot read the pseudo-labelled rows.
    read = pseudo_labels if options.family != "bilstm" else None
    rows = spreadsheet.read(f"{read.uri}/{PSEUDO_FILE}") if read else []
    learned_from = frozenset(row[ROW_ID] for row in rows)
    reading = DataOptions.model_validate_json(data)
    return student_texts.read(options.unlabelled, reading, base_folder, examples, graph, learned_from)


def searched(teacher_run: standard_artifacts.ModelRun) -> TrainOptions | None:
    """The recipe that the teacher was trained by after a search; None where there was no search."""
    sections = trials.trained_sections(teacher_run)
    return TrainOptions.model_validate(sections["train"]) if sections else None


def distil(
    task: Task,
    teacher: Sequence[Classifier],
    kept: Kept,
    recipe: TrainOptions,
    options: CompressOptions,
    *,
    logs: Path,
    checkpoints: str,
) -> training.Trained:
    """Trains the student, which starts from the teacher's first member.

    Args:
        task: the rows.
        teacher: its members.
        kept: what the student has of it.
        recipe: of its training.
        options: of the distillation.
        logs: folder for TensorBoard's files.
        checkpoints: folder of this training only.
    """
    dtype = hardware.compute_dtype(recipe.precision)
    taught = Distillation(teacher, kept, options.distill, dtype)
    return _fit(lambda: teacher[0].shortened(kept), task, recipe, taught, logs=logs, checkpoints=checkpoints)


def distil_other(
    task: Task,
    teacher: Sequence[Classifier],
    student: Student,
    recipe: TrainOptions,
    options: CompressOptions,
    *,
    logs: Path,
    checkpoints: str,
) -> training.Trained:
    """Trains a student of another family, by what its teacher answers to the training rows.

    Args:
        task: the teacher's rows.
        teacher: its members.
        student: its rows and its initial weights.
        recipe: of its training.
        options: of the distillation.
        logs: folder for TensorBoard's files.
        checkpoints: folder of this training only.
    """
    rows = task.train.take(student.places)
    answers = distillation.answers(teacher, rows, hardware.compute_dtype(recipe.precision))
    taught = SoftTargets(answers, options.distill, multi_label=teacher[0].multi_label)
    return _fit(student.build, student.task, recipe, taught, logs=logs, checkpoints=checkpoints)


def _fit(
    build: Callable[[], Classifier],
    task: Task,
    recipe: TrainOptions,
    taught: Distillation | SoftTargets,
    *,
    logs: Path,
    checkpoints: str,
) -> training.Trained:
    return training.fit(
        build,
        task.train,
        task.validation,
        recipe,
        checkpoints=checkpoints,
        logs=logs if recipe.tensorboard else None,
        on_progress=trainer.log_progress,
        strategy=hardware.strategy(recipe.distribution),
        distillation=taught,
    )


def fingerprint(
    task: Task, teacher: str, recipe: TrainOptions, options: CompressOptions, student: Student | None = None
) -> str:
    """A name made of everything that the student depends on, so that no other training takes up its checkpoints.

    Args:
        task: the teacher's rows.
        teacher: folder of its weights.
        recipe: of the student's training.
        options: make the student.
        student: of another family, which may read the rows' texts by a vocabulary of its own; None for any other.
    """
    made = options.without_gates.model_dump_json()
    read = f"{student.vocabulary} {student.task.fingerprint(recipe)}" if student else ""
    digest = hashlib.sha256(f"{task.fingerprint(recipe)} {made} {read}".encode())
    for name in storage.files(teacher):
        digest.update(f"{name} {backbone_folder.sha256(Path(teacher) / name)}".encode())
    return digest.hexdigest()[:16]
