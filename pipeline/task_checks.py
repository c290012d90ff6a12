"""What a task's config asks of this machine: its folders, ports, database, backbone, data files, tracker and engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich import filesize

from bertline.components import trackers
from bertline.components.augmentation import operations
from bertline.components.data import sql, task_files, texts
from bertline.errors import UserError
from bertline.models.recipe import ModelOptions
from bertline.pipeline import beam_options, metadata_store
from bertline.pipeline.checks import Check, disk, ports
from bertline.serving.storage import is_remote

if TYPE_CHECKING:
    from bertline.pipeline.beam_options import BeamOptions
    from bertline.pipeline.config import Config

FETCHED = ("hf://", "kaggle://", "modelscope://")  # when a run starts


def of_task(task: Config) -> list[Check]:
    """Looks at all that a config names."""
    return [
        *folders(task),
        *ports(task.serve),
        metadata(task),
        _looked("data", lambda: data(task)),
        _looked("backbone", lambda: backbone(task.model)),
        *([_looked("pretrain", lambda: pretrain(task))] if task.pretrain else []),
        *([_looked("augment", lambda: augment(task))] if task.train.augment else []),
        *(_looked(key, partial(unlabelled, task, key)) for key in task.unlabelled),
        *([_looked("tracking", lambda: tracker(task))] if task.tracking.tool else []),
        engine(task.beam),
    ]


def _looked(name: str, look: Callable[[], str]) -> Check:
    """What a look says, or the fault that a run would end with."""
    try:
        return Check(name, look())
    except UserError as error:
        return Check(name, str(error), "fail")


# === Folders ===


def folders(task: Config) -> Iterator[Check]:
    """The disks of the runs and of the pushed versions."""
    root, serving = task.below_root(), task.serving_folder
    if is_remote(root):
        advice = "a run on this machine needs a local root; a compiled line does not"
        yield Check("root", f"{root}: not on this machine", "warn", advice)
    else:
        yield disk("root", Path(root))
    if is_remote(serving):
        yield Check("serving folder", f"{serving}: not on this machine, not looked at")
    elif not Path(serving).is_relative_to(root):
        yield disk("serving folder", Path(serving))


# === What has to answer ===


def metadata(task: Config) -> Check:
    """Where the runs are recorded, and whether a database's server answers."""
    if not task.metadata:
        return Check("metadata", task.below_root(metadata_store.FILE))
    if fault := metadata_store.unreachable(task.metadata):
        return Check("metadata", fault, "fail", "start the database, or correct `metadata`")
    password = "" if os.environ.get(metadata_store.PASSWORD) else f"; {metadata_store.PASSWORD} is not set"
    return Check("metadata", f"{task.metadata} answers{password}")


def engine(beam: BeamOptions) -> Check:
    """What runs Beam's pipelines, and whether its job server answers."""
    name = f"beam, {beam.runner}"
    if beam.runner == "dataflow":
        value = f"project {beam.dataflow.project}, {beam.dataflow.region}; not looked at: only a cluster reaches it"
        return Check(name, value)
    if not beam.job_endpoint:
        return Check(name, "on this machine")
    if fault := beam_options.unreachable(beam.job_endpoint):
        advice = "a run from here needs it: start the job server, or correct beam.job_endpoint. A cluster may reach it"
        return Check(name, f"{beam.job_endpoint} cannot be reached: {fault}", "warn", advice)
    return Check(name, f"{beam.job_endpoint} answers")


def tracker(task: Config) -> str:
    """The experiment tracker; UserError where its package or key is missing."""
    trackers.check(task.tracking)
    return f"{task.tracking.tool} is installed"


def pretrain(task: Config) -> str:
    """The files with texts for pre-training, counted; UserError where there are none."""
    files = texts.files(task.pretrain.source or [], task.folder)
    rows = ["the training rows' texts"] if task.pretrain.training_rows else []
    counted = [f"{len(files)} {'file' if len(files) == 1 else 'files'}"] if files else []
    return " and ".join([*counted, *rows])


def augment(task: Config) -> str:
    """What augmentation needs; UserError where a file, a package or a program is missing."""
    operations.check(task.train.augment, task.folder)
    return f"{', '.join(task.train.augment.operations)}: all that they need is here"


def unlabelled(task: Config, key: str) -> str:
    """The files of rows without labels, counted; UserError where there are none, or one has no texts."""
    from bertline.components import unlabelled  # it brings TensorFlow, and its messages on the screen

    files = unlabelled.check(key, task.unlabelled[key], task.data, task.folder)
    return f"{len(files)} {'file' if len(files) == 1 else 'files'} of rows without labels"


# === Files ===


def data(task: Config) -> str:
    """The data files, counted, and the queries; UserError where there are none or a database does not answer."""
    queries = task.data.queries
    for query in queries:
        sql.check(query, task.folder)
    files = [Path(file.path) for file in task_files.of_task(task.data.with_queries(lambda _: None), task.folder)]
    size = filesize.decimal(sum(file.stat().st_size for file in files))
    counted = f"{len(files)} {'file' if len(files) == 1 else 'files'}, {size}"
    asked = f"{len(queries)} {'query' if len(queries) == 1 else 'queries'}, whose database answers"
    return " and ".join([*([counted] if files else []), *([asked] if queries else [])])


def backbone(options: ModelOptions) -> str:
    """The pretrained weights' folder or the vocabulary; UserError where it is missing or differs from its pin."""
    source = options.backbone
    if isinstance(source, str) and (source.startswith(FETCHED) or not ("/" in source or Path(source).is_dir())):
        return f"{source}: fetched when a run starts, not looked at"
    from bertline.models import families  # brings Keras

    return families.of(options).source(options)
