"""An artifact as another one: its files, and what later stages read of its properties."""

from tfx.types.artifact import Artifact

from bertline.components.tuning.trials import TUNED
from bertline.serving import storage

# The others are the metadata store's, or the summary of the stage that made it, which the screen would take for this
# stage's own.
_SAID = ("abstain", TUNED)


def copy(source: Artifact, target: Artifact) -> None:
    """Copies the files of an artifact, local ones as hard links, and those of its properties that later stages read."""
    for name in storage.files(source.uri):
        storage.link_or_copy(f"{source.uri}/{name}", f"{target.uri}/{name}")
    copy_properties(source, target)


def copy_properties(source: Artifact, target: Artifact) -> None:
    """Copies those properties of an artifact that later stages read."""
    for name, value in source.mlmd_artifact.custom_properties.items():
        if name in _SAID:
            target.mlmd_artifact.custom_properties[name].CopyFrom(value)
