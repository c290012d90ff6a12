"""An artifact as another one: its files, and what stages say of it in its properties."""

from tfx.types.artifact import Artifact

from bertline.components.tuning.trials import TUNED
from bertline.serving import storage

_SAID = ("summary", "abstain", TUNED)  # the others are the metadata store's


def copy(source: Artifact, target: Artifact) -> None:
    """Copies an artifact's files into another one's folder, local ones as hard links, and what stages say of it."""
    for name in storage.files(source.uri):
        storage.link_or_copy(f"{source.uri}/{name}", f"{target.uri}/{name}")
    for name, value in source.mlmd_artifact.custom_properties.items():
        if name in _SAID:
            target.mlmd_artifact.custom_properties[name].CopyFrom(value)
