"""ReviewedSchema: the schema that a person keeps in a file, in place of the inferred one."""

from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.io import fileio
from tfx.types import standard_artifacts


@component
def ReviewedSchema(schema: OutputArtifact[standard_artifacts.Schema], contents: Parameter[str]) -> None:
    """Writes a reviewed schema. ImportSchemaGen takes a path, and so a cached run would miss that the file has changed.

    Args:
        schema: schema.pbtxt.
        contents: the schema in protobuf's text form.
    """
    with fileio.open(f"{schema.uri}/schema.pbtxt", "w") as stream:
        stream.write(contents)
