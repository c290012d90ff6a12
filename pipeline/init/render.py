"""The third step of `bertline init`: writes the settings as YAML, with their reasons as comments."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from bertline.models import packages
from bertline.pipeline.init.propose import SOURCES, Proposal

HEAD = """\
Written by `bertline init` after a look at all rows. Every number is a proposal, with its reason beside it.
`bertline config FILE` shows all settings; `bertline run FILE` trains, checks and pushes a model.
"""
INDENT = 2  # ruamel's


def render(proposal: Proposal, folder: Path) -> str:
    """The config as commented YAML.

    Args:
        proposal: what to write.
        folder: of the config; a path to the data is written relative to it.
    """
    document = CommentedMap()
    document.yaml_set_start_comment(HEAD)
    for setting in proposal.settings:
        section = document
        *sections, key = setting.path
        for name in sections:
            section = section.setdefault(name, CommentedMap())
        value = _relative(setting.value, folder) if setting.path in SOURCES.values() else setting.value
        section[key] = _on_one_line(value)
        if setting.reason:
            section.yaml_add_eol_comment(setting.reason, key, column=0)
        if setting.remark:
            section.yaml_set_comment_before_after_key(key, before=setting.remark, indent=INDENT * len(sections))
    yaml = YAML()
    yaml.width = 10**9  # a value stays on one line, with its comment behind it
    yaml.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(NULL, "null"))
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


NULL = "tag:yaml.org,2002:null"


def _relative(source: str, folder: Path) -> str:
    return source if source.startswith(packages.SCHEME) else os.path.relpath(source, folder.absolute())


def _on_one_line(value: Any) -> Any:
    """Lists and mappings as YAML's flow style writes them: [a, b], {a: b}."""
    if not isinstance(value, list | dict):
        return value
    collection = CommentedSeq(value) if isinstance(value, list) else CommentedMap(value)
    collection.fa.set_flow_style()
    return collection
