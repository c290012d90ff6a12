"""Files that single stages read beside the task's rows. Their contents key the cache of these stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bertline.components.augmentation import operations
from bertline.components.data import task_files, texts
from bertline.components.data.reader import SourceFile
from bertline.components.options import DataOptions
from bertline.models.recipe import AugmentOptions
from bertline.pipeline.stages import Node


def of(config: dict[str, Any], folder: str) -> dict[Node, list[SourceFile]]:
    """The files of each stage that has any.

    Args:
        config: the config's sections as JSON values.
        folder: where relative paths start.

    Raises:
        UserError: a source matches no file, or a package has no such file.
    """
    data = DataOptions.model_validate(config["data"])
    augment, pretrain = config["train"].get("augment"), config.get("pretrain")
    paths = operations.files(AugmentOptions.model_validate(augment), folder) if augment else []
    files = {
        Node.AUGMENTER: [SourceFile(path, path, "txt") for path in paths],
        Node.PRETRAINER: texts.files(pretrain["source"] or [], folder) if pretrain else [],
    }
    for node, section in ((Node.PSEUDO_LABELLER, "train"), (Node.COMPRESSOR, "compress")):
        if unlabelled := config.get(section, {}).get("unlabelled"):
            from bertline.components.labelling import pool  # brings TensorFlow

            files[node] = pool.files_of(unlabelled, data, folder)
    return {node: of_node for node, of_node in files.items() if of_node}


def paths(config: dict[str, Any]) -> Callable[[str], list[str]]:
    """Finds the files of all stages in a folder, for `object_store.local_copy`."""
    return lambda folder: [file.path for files in of(config, folder).values() for file in files]


def fingerprints(config: dict[str, Any], folder: str) -> dict[Node, str]:
    """Hash of the contents of the files of each stage that has any; arguments and errors as `of`.

    Raises:
        UserError: a file is missing.
    """
    return {node: task_files.fingerprint(files) for node, files in of(config, folder).items()}
