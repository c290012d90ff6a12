"""Compressor: makes a smaller or faster student of the trained classifier, its teacher."""

from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from bertline.components import compression_report, copies
from bertline.components.artifacts import Weights
from bertline.components.compression_report import Cut, Steps
from bertline.components.options import CompressOptions
from bertline.components.trainer import read_task
from bertline.models import compression, ensemble, families
from bertline.models.recipe import ModelOptions


@component
def Compressor(
    teacher: InputArtifact[Weights],
    teacher_run: InputArtifact[standard_artifacts.ModelRun],
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    transformed_examples: InputArtifact[standard_artifacts.Examples],
    weights: OutputArtifact[Weights],
    model_run: OutputArtifact[standard_artifacts.ModelRun],
    model_options: Parameter[str],
    options: Parameter[str],
) -> None:
    """Leaves the student in the form in which the Trainer leaves the teacher.

    Args:
        teacher: the Trainer's weights.
        teacher_run: what training left beside them.
        transform_graph: Transform's graph, which says whether rows are pairs.
        transformed_examples: token ids and label ids, splits train and validation. The test rows are not opened: which
            wordpieces they use is not known here, as it is not of the texts that the model will meet.
        weights: the student, with its own vocabulary where that was trimmed, and what was done (compression_report).
        model_run: training.json and the validation rows' logits, as the Trainer has them.
        model_options: a ModelOptions as JSON.
        options: a CompressOptions as JSON.

    Raises:
        UserError: the family's vocabulary cannot be trimmed.
    """
    model, asked = ModelOptions.model_validate_json(model_options), CompressOptions.model_validate_json(options)
    task = read_task(transform_graph.uri, transformed_examples.uri, model)
    members = ensemble.load(families.of(model), Path(teacher.uri))
    folder, steps = Path(weights.uri), Steps()
    if asked.vocabulary == "used":
        trimmed = compression.trim(members, model, [task.train, task.validation], folder)
        members = trimmed.members
        steps = steps.model_copy(update={"wordpieces": Cut(before=trimmed.whole, after=len(trimmed.kept))})
    for number, member in enumerate(members, 1):
        member.write(ensemble.folder(folder, number, len(members)), task.labels, backbone_digest=task.digest)
    copies.copy(teacher_run, model_run)  # the validation rows have kept their tokens, and so their logits
    compression_report.write_steps(folder, steps)
    weights.set_string_custom_property("summary", steps.described)
