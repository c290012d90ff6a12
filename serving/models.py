"""The models that a server serves, by name: their folders, version policies and version labels."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from bertline.errors import UserError
from bertline.serving import storage
from bertline.serving.errors import RequestError, invalid
from bertline.serving.protos import LoggingConfig, ModelConfig, ModelServerConfig, ModelSpec
from bertline.serving.versions import Polling, Versions, VersionState

if TYPE_CHECKING:
    from bertline.serving.roots import Roots
    from bertline.serving.sampling import Sampler
    from bertline.serving.servable import Servable

log = logging.getLogger("bertline.serving")

PLATFORM = "tensorflow"

Load = Callable[[str, Path, int], "Servable"]  # model name, folder of the version, version


@dataclass
class _Model:
    """One model: its versions, its version labels, and the sampler of its requests."""

    config: ModelConfig
    versions: Versions
    labels: dict[str, int] = field(default_factory=dict)
    sampler: Sampler | None = None

    def close_sampler(self) -> None:
        """Writes the samples that wait, and closes the file."""
        if self.sampler:
            self.sampler.close()


class Models:
    """All models of a server. Usable from many threads.

    Args:
        load: makes a Servable of (model name, path, version), loaded and warm.
        polling: how often to look at the models' folders.
        labels_in_advance: whether a label may name a version that is not loaded yet.
    """

    def __init__(self, load: Load, polling: Polling, *, labels_in_advance: bool = False):
        self._load = load
        self._polling = polling
        self._labels_in_advance = labels_in_advance
        self._models: dict[str, _Model] = {}
        self._reloading = threading.Lock()
        self._swapping = threading.Lock()
        self._stopped = False

    def names(self) -> list[str]:
        """The models, whether or not a version is loaded."""
        return list(self._models)

    def is_ready(self) -> bool:
        """Whether every model has a version that answers."""
        models = list(self._models.values())
        return bool(models) and all(model.versions.loaded() for model in models)

    def loaded(self, name: str) -> list[int]:
        """The versions of a model that answer requests, ascending; none for a model that is not served."""
        model = self._models.get(name)
        return model.versions.loaded() if model else []

    def states(self, name: str) -> dict[int, VersionState]:
        """Version -> state, of a model; empty for a model that is not served."""
        model = self._models.get(name)
        return model.versions.states() if model else {}

    def version_of(self, spec: ModelSpec) -> int | None:
        """The version that a request names by number or by label; None where it names none.

        Raises:
            RequestError: INVALID_ARGUMENT for a label that the model does not have.
        """
        if spec.HasField("version"):
            return spec.version.value
        if not spec.version_label:
            return None
        model = self._models.get(spec.name)
        if model is None or spec.version_label not in model.labels:
            raise invalid(f"Unrecognized servable version label: {spec.version_label}. {self._here(spec.name)}.")
        return model.labels[spec.version_label]

    @contextmanager
    def acquire(self, spec: ModelSpec) -> Iterator[Servable]:
        """The servable that a request's model_spec names, kept loaded until the block ends.

        Raises:
            RequestError: NOT_FOUND for a model or version, INVALID_ARGUMENT for a label; the message says what is.
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
        """The sampler of a model's requests, if one is configured."""
        model = self._models.get(name)
        return model.sampler if model else None

    def reload(self, config: ModelServerConfig, roots: Roots | None = None) -> None:
        """Serves exactly the models of `config`: loads the new, changes policies and labels, unloads the others.

        Returns when every new model has a version that answers, or its folder is empty. Requests see all changes at the
        same moment: after everything is loaded and before anything is unloaded. So a label can move to a version that
        replaces the one it was on. A config that is refused changes nothing.

        Args:
            config: what to serve.
            roots: the folders that it may name; None for any.

        Raises:
            RequestError: UNAVAILABLE while another reload is under way (TF Serving lets the second one wait) or the
                server stops, INVALID_ARGUMENT for a config that makes no sense, PERMISSION_DENIED for a folder outside
                the roots, FAILED_PRECONDITION for a label on a version that is not loaded, UNKNOWN for a model of which
                no version loads.
        """
        entries = _checked(config)
        if roots is not None:
            roots.check(entries)
        if not self._reloading.acquire(blocking=False):
            raise another_reload()
        try:
            self._replace(entries)
        finally:
            self._reloading.release()

    def stop(self) -> None:
        """Unloads every model once its requests are answered. What still loads is not waited for, and dropped then."""
        with self._swapping:
            self._stopped = True
            before, self._models = self._models, {}
        for model in before.values():
            model.versions.stop()
            model.close_sampler()

    def _replace(self, entries: dict[str, ModelConfig]) -> None:
        before, after = self._models, {}
        try:
            for name, entry in entries.items():
                self._stage(name, entry, after)
        except BaseException:
            self._leave(after, before)
            raise
        with self._swapping:
            stopped = self._stopped
            if not stopped:
                self._models = after  # readers hold no lock
        if stopped:
            self._leave(after, {})
            raise RequestError(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        self._leave(before, after)

    def _stage(self, name: str, entry: ModelConfig, staged: dict[str, _Model]) -> None:
        """Adds a model to `staged`, loaded. A folder that is served already keeps both policies' versions meanwhile."""
        old, folder, policy = self._models.get(name), Path(entry.base_path), entry.model_version_policy
        if old and old.versions.folder == folder:
            model = staged[name] = _Model(entry, old.versions, dict(entry.version_labels))
            available = model.versions.prepare(policy)
        else:
            versions = Versions(folder, lambda path, version: self._load(name, path, version), self._polling, policy)
            model = staged[name] = _Model(entry, versions, dict(entry.version_labels))
            try:
                versions.start()
            except UserError as error:
                raise RequestError(grpc.StatusCode.UNKNOWN, f"model {name}: {error}") from error
            available = versions.loaded()
        self._check_labels(model, available, old.labels if old else {})
        if old and old.config.logging_config == entry.logging_config:
            model.sampler = old.sampler
        else:
            model.sampler = _sampler(entry)

    def _leave(self, left: dict[str, _Model], kept: dict[str, _Model]) -> None:
        """Drops what the models in `left` do not share with those in `kept`. Versions unload in separate threads."""
        for name, model in left.items():
            other = kept.get(name)
            if other is None or other.versions is not model.versions:
                threading.Thread(target=model.versions.stop, name="model-unloader", daemon=True).start()
            else:
                other.versions.adopt(other.config.model_version_policy)
            if other is None or other.sampler is not model.sampler:
                model.close_sampler()

    def _check_labels(self, model: _Model, available: Sequence[int], before: dict[str, int]) -> None:
        for label, version in model.labels.items():
            in_advance = self._labels_in_advance and before.get(label, version) == version
            if version not in available and not in_advance:
                raise RequestError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"Request to assign label {label} to version {version} of model {model.config.name}, which is not "
                    f"currently available for inference; available: {available}",
                )

    def _not_found(self, spec: ModelSpec) -> str:
        """The error in tensorflow_model_server's words, followed by what is there instead."""
        servable = f"Latest({spec.name})"
        if spec.HasField("version"):
            servable = f"Specific({spec.name}, {spec.version.value})"
        return f"Servable not found for request: {servable}. {self._here(spec.name)}."

    def _here(self, name: str) -> str:
        """What a caller may ask for instead."""
        model = self._models.get(name)
        if model is None:
            return f"This server has model {', '.join(sorted(self._models)) or 'none yet'}"
        words = f"Model {name} has version {', '.join(map(str, model.versions.loaded())) or 'none yet'}"
        return f"{words}, labels {', '.join(sorted(model.labels))}" if model.labels else words


def another_reload() -> RequestError:
    """The refusal of a reload while another one is under way."""
    message = "another reload of the models is under way; try again when it has ended"
    return RequestError(grpc.StatusCode.UNAVAILABLE, message)


def one_model(name: str, folder: str | Path, versions: Sequence[int] = ()) -> ModelServerConfig:
    """The config of a server with one model.

    Args:
        name: of the model.
        folder: of its versions.
        versions: to serve; without any the newest.
    """
    config = ModelServerConfig()
    entry = config.model_config_list.config.add(name=name, base_path=str(folder), model_platform=PLATFORM)
    if versions:
        entry.model_version_policy.specific.versions.extend(versions)
    return config


def _sampler(entry: ModelConfig) -> Sampler | None:
    if entry.logging_config == LoggingConfig():
        return None
    from bertline.serving.sampling import Sampler  # the masking library takes seconds to import

    try:
        return Sampler(entry.logging_config, entry.name)
    except UserError as error:
        raise invalid(f"model {entry.name}: logging_config: {error}") from error


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
        if storage.is_remote(entry.base_path):
            raise invalid(
                f"{where}: base_path of {entry.name} is remote; this server reads local folders, "
                "tensorflow_model_server both"
            )
        entries[entry.name] = entry
    return entries
