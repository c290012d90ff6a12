"""The models that a server serves, by name: their folders, version policies and version labels."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from serving import releases
from serving.errors import RequestError, invalid
from serving.protos import LoggingConfig, ModelConfig, ModelServerConfig, ModelSpec
from serving.versions import Polling, Versions, VersionState

if TYPE_CHECKING:
    from serving.sampling import Sampler
    from serving.servable import Servable

log = logging.getLogger("bertline.serving")

PLATFORM = "tensorflow"

Load = Callable[[str, Path, int], "Servable"]  # model name, folder of the version, version


@dataclass
class _Model:
    """One model: its versions, the labels on them, and who samples its requests."""

    config: ModelConfig
    versions: Versions
    labels: dict[str, int] = field(default_factory=dict)
    sampler: Sampler | None = None


class Models:
    """All models of a server. Usable from many threads.

    Args:
        load: makes a Servable of (model name, path, version), loaded and warm.
        polling: when the models' folders are looked at.
        labels_in_advance: a label may be given to a version that is not loaded yet.
    """

    def __init__(self, load: Load, polling: Polling, *, labels_in_advance: bool = False):
        self._load = load
        self._polling = polling
        self._labels_in_advance = labels_in_advance
        self._models: dict[str, _Model] = {}
        self._reloading = threading.Lock()

    def names(self) -> list[str]:
        """The models, whether or not a version is loaded."""
        return list(self._models)

    def is_ready(self) -> bool:
        """Whether every model has a version that answers."""
        models = list(self._models.values())
        return bool(models) and all(model.versions.loaded() for model in models)

    def states(self, name: str) -> dict[int, VersionState]:
        """Version -> state of a model; none of a model that is not there."""
        model = self._models.get(name)
        return model.versions.states() if model else {}

    def version_of(self, spec: ModelSpec) -> int | None:
        """The version that a request names by number or by label; None where it names none.

        Raises:
            RequestError: NOT_FOUND for a label that the model does not have.
        """
        if spec.HasField("version"):
            return spec.version.value
        if not spec.version_label:
            return None
        model = self._models.get(spec.name)
        if model is None or spec.version_label not in model.labels:
            raise RequestError(grpc.StatusCode.NOT_FOUND, self._not_found(spec))
        return model.labels[spec.version_label]

    @contextmanager
    def acquire(self, spec: ModelSpec) -> Iterator[Servable]:
        """The servable that a request's model_spec names, kept loaded until the block ends.

        Raises:
            RequestError: NOT_FOUND, saying what there is instead.
        """
        version = self.version_of(spec)
        model = self._models.get(spec.name)
        if model is None:
            raise RequestError(grpc.StatusCode.NOT_FOUND, self._not_found(spec))
        with model.versions.acquire(version) as servable:
            if servable is None:
                raise RequestError(grpc.StatusCode.NOT_FOUND, self._not_found(spec))
            yield servable

    def sampler(self, name: str) -> Sampler | None:
        """Who samples the requests of a model, where that is configured."""
        model = self._models.get(name)
        return model.sampler if model else None

    def reload(self, config: ModelServerConfig) -> None:
        """Serves exactly the models of `config`: loads the new, changes policies and labels, unloads the others.

        Returns when every new model has a version that answers, or its folder is empty. A config that is refused
        changes nothing but for models that it adds and that do load.

        Raises:
            RequestError: INVALID_ARGUMENT for a config that makes no sense, FAILED_PRECONDITION for a label on a
                version that is not loaded, UNKNOWN for a model of which no version loads.
        """
        with self._reloading:
            wanted = _checked(config)
            for name, entry in wanted.items():
                self._take_up(name, entry)
            self._check_labels(wanted)
            for name, entry in wanted.items():
                model = self._models[name]
                model.config, model.labels = entry, dict(entry.version_labels)
                self._sample(name, model)
            for name in [name for name in self._models if name not in wanted]:
                self._remove(name)

    def stop(self) -> None:
        """Unloads everything once its requests are answered."""
        with self._reloading:
            for name in list(self._models):
                self._remove(name)

    def _take_up(self, name: str, entry: ModelConfig) -> None:
        """Adds a model, or gives one its new policy; a new folder is loaded before the old one goes."""
        old = self._models.get(name)
        folder = Path(entry.base_path)
        if old and old.versions.folder == folder:
            old.versions.policy = entry.model_version_policy
            old.versions.refresh()
            return
        versions = Versions(
            folder, lambda path, version: self._load(name, path, version), self._polling, entry.model_version_policy
        )
        try:
            versions.start()
        except ValueError as error:
            versions.stop()
            raise RequestError(grpc.StatusCode.UNKNOWN, f"model {name}: {error}") from error
        if old:
            old.versions, stale = versions, old.versions
            threading.Thread(target=stale.stop, name="model-unloader", daemon=True).start()
        else:
            self._models = {**self._models, name: _Model(entry, versions)}  # readers hold no lock

    def _check_labels(self, wanted: dict[str, ModelConfig]) -> None:
        for name, entry in wanted.items():
            model = self._models[name]
            for label, version in entry.version_labels.items():
                known = model.labels.get(label, version) == version
                if version not in model.versions.loaded() and not (self._labels_in_advance and known):
                    raise RequestError(
                        grpc.StatusCode.FAILED_PRECONDITION,
                        f"Request to assign label to version {version} of model {name}, which is not currently "
                        f"available for inference; available: {model.versions.loaded()}",
                    )

    def _sample(self, name: str, model: _Model) -> None:
        if model.sampler:
            model.sampler.close()
            model.sampler = None
        if model.config.logging_config != LoggingConfig():
            from serving.sampling import Sampler  # the masking library takes seconds to import

            try:
                model.sampler = Sampler(model.config.logging_config, name)
            except ValueError as error:
                raise invalid(f"model {name}: logging_config: {error}") from error

    def _remove(self, name: str) -> None:
        model = self._models[name]
        self._models = {other: kept for other, kept in self._models.items() if other != name}
        model.versions.stop()
        if model.sampler:
            model.sampler.close()

    def _not_found(self, spec: ModelSpec) -> str:
        """tensorflow_model_server's words, and what there is instead."""
        wanted = f"Latest({spec.name})"
        if spec.HasField("version"):
            wanted = f"Specific({spec.name}, {spec.version.value})"
        elif spec.version_label:
            wanted = f"Label({spec.name}, {spec.version_label})"
        model = self._models.get(spec.name)
        if model is None:
            here = f"This server has model {', '.join(sorted(self._models)) or 'none yet'}"
        else:
            loaded = model.versions.loaded()
            here = f"Model {spec.name} has version {', '.join(map(str, loaded)) or 'none yet'}"
            if model.labels:
                here += f", labels {', '.join(sorted(model.labels))}"
        return f"Servable not found for request: {wanted}. {here}."


def one_model(name: str, folder: str | Path) -> ModelServerConfig:
    """The config of a server with one model and its newest version."""
    config = ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=str(folder), model_platform=PLATFORM)
    return config


def _checked(config: ModelServerConfig) -> dict[str, ModelConfig]:
    """Model name -> its config."""
    if config.WhichOneof("config") == "custom_model_config":
        raise invalid("custom_model_config is not supported; list the models in model_config_list")
    entries: dict[str, ModelConfig] = {}
    for position, entry in enumerate(config.model_config_list.config):
        where = f"model_config_list.config[{position}]"
        if not entry.name:
            raise invalid(f"{where}: the model has no name")
        if entry.name in entries:
            raise invalid(f"{where}: Illegal to list model {entry.name} multiple times in config list")
        if entry.model_platform not in ("", PLATFORM):
            raise invalid(f"{where}: model_platform of {entry.name} must be {PLATFORM}, not {entry.model_platform}")
        if not entry.base_path:
            raise invalid(f"{where}: model {entry.name} has no base_path")
        if releases.is_remote(entry.base_path):
            raise invalid(
                f"{where}: base_path of {entry.name} is remote; this server reads local folders, "
                "tensorflow_model_server both"
            )
        entries[entry.name] = entry
    return entries
