"""The folders that a client may name when it reloads a server's configuration: those that the operator named first."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from bertline.serving.errors import RequestError, invalid
from bertline.serving.protos import ModelConfig, ModelServerConfig


@dataclass(frozen=True)
class Roots:
    """Folders with everything below them, links and `..` resolved.

    A SavedModel is a program that runs as the server does, and samples are files that it writes. So a client that may
    reload reaches only these.
    """

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, folders: Iterable[str | Path]) -> Roots:
        """The roots of folders, which need not be there yet."""
        return cls(tuple(Path(folder).resolve() for folder in folders))

    @classmethod
    def of_config(cls, config: ModelServerConfig) -> Roots:
        """The roots of a config of the operator's own: the models' folders, and those that it writes samples to."""
        named = []
        for entry in config.model_config_list.config:
            named.append(entry.base_path)
            if prefix := _prefix(entry):
                named.append(sampled_folder(prefix))
        return cls.of(named)

    def check(self, entries: Mapping[str, ModelConfig]) -> None:
        """Checks that every folder of a config lies below a root.

        Args:
            entries: model name -> its config.

        Raises:
            RequestError: PERMISSION_DENIED, or INVALID_ARGUMENT for what is no path; the message names the model, the
                field and the way out.
        """
        for name, entry in entries.items():
            self._check_path(name, "base_path", entry.base_path, Path(entry.base_path))
            if prefix := _prefix(entry):
                self._check_path(name, "filename_prefix", prefix, sampled_folder(prefix))

    def _check_path(self, model: str, field: str, path: str, folder: Path) -> None:
        try:
            resolved = folder.resolve()
        except (OSError, RuntimeError, ValueError):  # a zero byte, links in a circle
            raise invalid(f"model {model}: {field} {path!r} cannot be a path") from None
        if not any(resolved.is_relative_to(root) for root in self.folders):
            raise RequestError(
                grpc.StatusCode.PERMISSION_DENIED,
                f"model {model}: {field} {path} is outside the folders that a reload may name: "
                f"{', '.join(map(str, self.folders)) or 'none'}; start the server with --reload_roots=FOLDER,FOLDER",
            )


def sampled_folder(prefix: str) -> Path:
    """The folder of the files whose paths begin with a prefix; of `logs/` it is `logs`, of `logs/../` the parent."""
    return Path(os.path.dirname(prefix))


def _prefix(entry: ModelConfig) -> str:
    return entry.logging_config.log_collector_config.filename_prefix
