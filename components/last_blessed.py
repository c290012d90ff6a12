"""LastBlessed: fetches the last blessed model that is still in service, which the new one must match."""

from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from bertline.components.artifacts import KERAS_FOLDER
from bertline.components.object_store import local_copy
from bertline.errors import UserError
from bertline.serving import releases, storage


@component
def LastBlessed(
    model: OutputArtifact[standard_artifacts.Model],
    serving_folder: Parameter[str],
    release: Parameter[str],
    weights: Parameter[int],
) -> None:
    """Copies a release's SavedModel into a Model artifact, and on request its trained Keras weights.

    The Evaluator compares the new model with the SavedModel. A warm start trains on from the weights, which lie with
    the artifacts of the run that pushed the release: for a run on a cluster in an object store.

    The artifact's int property `present` says whether there is one (1) or the folder is empty (0); its string property
    `version` names it.

    Args:
        model: the artifact to fill.
        serving_folder: where models are pushed.
        release: the version that `releases.find_last_blessed` gave when the run started, "" for none. It keys the
            cache.
        weights: whether (1) the Keras weights are wanted.

    Raises:
        UserError: the release is no longer there, or its weights are wanted and cannot be read.
    """
    model.set_int_custom_property("present", int(bool(release)))
    model.set_string_custom_property("version", release)
    if not release:
        model.set_string_custom_property("summary", "no model pushed yet")
        return
    pushed = {known.version: known for known in releases.read(serving_folder)}.get(int(release))
    if not pushed:
        source = f"{serving_folder.rstrip('/')}/{release}"
        raise UserError(f"{source}: this release is gone since the run started; run again to compare with the next one")
    copy_saved_model(pushed.path, path_utils.serving_model_dir(model.uri))
    if weights:
        _copy_weights(pushed, f"{model.uri}/{KERAS_FOLDER}")
    model.set_string_custom_property("summary", f"compared with {release}")


def _copy_weights(release: releases.Release, destination: str) -> None:
    source = release.record.get("weights")
    try:
        if not source:
            raise UserError("its release.json does not say where they are")
        with local_copy(source) as folder:
            names = storage.files(folder)
            for name in names:
                storage.link_or_copy(f"{folder}/{name}", f"{destination}/{name}")
        if not names:
            raise UserError(f"{source} is gone, with the artifacts of the run that trained them")
    except UserError as error:
        raise UserError(
            f"train.warm_start: version {release.version} has no weights to start from: {error}. Set train.warm_start: "
            "false for one run."
        ) from error


def copy_saved_model(source: str, destination: str) -> None:
    """Copies the SavedModel of a version; local files as hard links, which take no space and outlive the push.

    Args:
        source: a version's folder.
        destination: the folder to fill.
    """
    for name in storage.files(source):
        if releases.is_of_saved_model(name):
            storage.link_or_copy(f"{source}/{name}", f"{destination}/{name}")
