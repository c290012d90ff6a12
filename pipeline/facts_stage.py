"""Facts: the first stage on a cluster, which finds out there what a local run knows before it starts."""

import json
from dataclasses import asdict
from typing import TypedDict

from tfx.dsl.component.experimental.annotations import Parameter
from tfx.dsl.component.experimental.decorators import component

from bertline.components.data import task_files
from bertline.components.object_store import local_copy
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.pipeline import facts


class Found(TypedDict):
    """See bertline.pipeline.facts.RunFacts."""

    fingerprint: str
    last_blessed: str
    release: str


@component
def Facts(
    config: Parameter[str],
    data: Parameter[str],
    validation: Parameter[str],
    train: Parameter[str],
    evaluate: Parameter[str],
    canary: Parameter[str],
    data_folder: Parameter[str],
    serving_folder: Parameter[str],
    commit: Parameter[str],
) -> Found:
    """Looks at the data, the image's code and the serving folder. It runs each time: its answers key the cache.

    Args:
        config: the whole config as JSON; the next five take the place of its sections.
        data: DataOptions as JSON.
        validation: ValidationOptions as JSON.
        train: TrainOptions as JSON.
        evaluate: EvaluateOptions as JSON.
        canary: CanaryOptions as JSON.
        data_folder: where relative sources start.
        serving_folder: where models are pushed.
        commit: what git said of the code when the pipeline was compiled, "" for nothing.

    Returns:
        `fingerprint`, `last_blessed` and `release` of RunFacts.

    Raises:
        UserError: the data cannot be found, or a release.json cannot be read.
    """
    sections = {"data": data, "validation": validation, "train": train, "evaluate": evaluate, "canary": canary}
    values = json.loads(config) | {name: json.loads(section) for name, section in sections.items()}
    options = DataOptions.model_validate_json(data)
    with local_copy(data_folder, task_files.paths_of_task(options)) as folder:
        fingerprint = task_files.fingerprint(task_files.of_task(options, folder))
    try:
        found = asdict(facts.look(values, fingerprint, serving_folder, commit or None))
    except ValueError as error:
        raise UserError(str(error)) from error
    return {name: found[name] for name in Found.__annotations__}
