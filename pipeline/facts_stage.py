"""Facts: the first stage on a cluster, which collects there what a local run knows before it starts."""

import json
from typing import Any, ClassVar

from pydantic import ValidationError
from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from bertline.components.data import task_files
from bertline.components.object_store import local_copy
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.pipeline import cache_keys, facts, stage_files
from bertline.pipeline.config import RUNTIME_SECTIONS, Config

# Fields of bertline.pipeline.facts.RunFacts. Each cache key is an output of its own: one output for all would change
# with every one of them.
FIELDS = ("fingerprint", "last_blessed", "release")
KEY_OUTPUTS = {node: f"cache_key_{node}" for node in cache_keys.KEYED}
OUTPUTS = (*FIELDS, *KEY_OUTPUTS.values())


def look(config: str, data_folder: str, serving_folder: str, commit: str, sections: dict[str, str]) -> dict[str, str]:
    """Looks at the data, the image's code, the backbone and the serving folder.

    Args:
        config: the whole config as JSON; `sections` take the place of its own.
        data_folder: where relative sources start.
        serving_folder: where models are pushed.
        commit: the code's commit in git when the pipeline was compiled, "" for none.
        sections: the run's RUNTIME_SECTIONS as JSON, by name.

    Returns:
        The facts by their names in OUTPUTS.

    Raises:
        UserError: a section is not valid, the data or the backbone cannot be found, or a release.json cannot be read.
    """
    _check(sections)
    values = json.loads(config) | {name: json.loads(section) for name, section in sections.items()}
    options = DataOptions.model_validate_json(sections["data"])
    of_task, of_stages = task_files.paths_of_task(options), stage_files.paths(values)
    with local_copy(data_folder, lambda folder: [*of_task(folder), *of_stages(folder)]) as folder:
        fingerprint = task_files.fingerprint(task_files.of_task(options, folder))
        files = stage_files.fingerprints(values, folder)
        for section in ("train", "compress"):
            if source := values.get(section, {}).get("unlabelled"):
                from bertline.components import unlabelled  # brings TensorFlow

                unlabelled.check(f"{section}.unlabelled", source, options, folder)
    known = facts.look(values, fingerprint, serving_folder, commit or None, files)
    keys = {KEY_OUTPUTS[node]: key for node, key in known.cache_keys.items()}
    return {name: getattr(known, name) for name in FIELDS} | keys


def _check(sections: dict[str, str]) -> None:
    """Raises UserError for a section that is not valid: a person may have written it in Kubeflow's UI."""
    for name, text in sections.items():
        try:
            Config.model_fields[name].annotation.model_validate_json(text)
        except ValidationError as error:
            faults = (": ".join([*map(str, fault["loc"]), fault["msg"]]) for fault in error.errors())
            raise UserError(f"the run's parameter {name}: {'; '.join(faults)}") from None


class Executor(base_executor.BaseExecutor):
    """Makes each fact an output that other stages take as a parameter."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """See the base class."""
        sections = {name: exec_properties[name] for name in RUNTIME_SECTIONS}
        rest = {name: value for name, value in exec_properties.items() if name not in sections}
        for name, value in look(sections=sections, **rest).items():
            (artifact,) = output_dict[name]
            artifact.value = value


class FactsSpec(ComponentSpec):
    """The parameters and outputs of Facts, which @component would have us list once more."""

    PARAMETERS: ClassVar = {
        name: ExecutionParameter(type=str)
        for name in ("config", *RUNTIME_SECTIONS, "data_folder", "serving_folder", "commit")
    }
    INPUTS: ClassVar = {}
    OUTPUTS: ClassVar = {name: ChannelParameter(type=standard_artifacts.String) for name in OUTPUTS}


class Facts(base_component.BaseComponent):
    """See `look`. It runs each time, since its outputs key the cache."""

    SPEC_CLASS = FactsSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, **parameters: Any):
        """Takes the parameters of FactsSpec."""
        outputs = {name: types.Channel(type=standard_artifacts.String) for name in OUTPUTS}
        super().__init__(FactsSpec(**parameters, **outputs))
