"""StudentExporter: writes the SavedModel of a student, as the Exporter does that of its teacher."""

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from bertline.components.artifacts import Weights
from bertline.components.exporter import export
from bertline.models.recipe import ExportOptions, ModelOptions


@component
def StudentExporter(
    weights: InputArtifact[Weights],
    model_run: InputArtifact[standard_artifacts.ModelRun],
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    model: OutputArtifact[standard_artifacts.Model],
    model_options: Parameter[str],
    options: Parameter[str],
) -> None:
    """Exports the student at a temperature and thresholds of its own; arguments and errors as those of the Exporter.

    A stage of its own, since the records of a run know a stage by its component.
    """
    export(
        weights.uri,
        model_run.uri,
        transform_graph.uri,
        model,
        ModelOptions.model_validate_json(model_options),
        ExportOptions.model_validate_json(options),
    )
