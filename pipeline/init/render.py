"""The third step of `bertline init`: the settings as YAML, with their reasons as comments."""

from __future__ import annotations

import io
import json
import os
import re
from functools import reduce
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from bertline.components.data.rows import printable
from bertline.components.options import Query
from bertline.errors import UserError
from bertline.models import packages
from bertline.pipeline import config
from bertline.pipeline.init.propose import SOURCES, Proposal

HEAD = """\
Written by `bertline init` after a look at all rows. Every number is a proposal, with its reason beside it.
`bertline config FILE` shows all settings; `bertline run FILE` trains, checks and pushes a model.
"""
INDENT = 2  # ruamel's


def render(proposal: Proposal, folder: Path) -> bytes:
    """The config as commented YAML in UTF-8, from which `run` reads the same values.

    Args:
        proposal: what to write.
        folder: of the config; a path to the data is written relative to it.

    Raises:
        UserError: a value cannot be written so that it is read back, such as a file's name that is not UTF-8.
    """
    values = {
        setting.path: _relative(setting.value, folder) if setting.path in SOURCES.values() else setting.value
        for setting in proposal.settings
        if not setting.proposed
    }
    text = _with_comments(proposal, values)
    _refuse_other_values(text, values)
    return text.encode()


def _with_comments(proposal: Proposal, values: dict[tuple[str, ...], Any]) -> str:
    document = CommentedMap()
    document.yaml_set_start_comment(HEAD)
    remarks: list[str] = []
    for setting in proposal.settings:
        section = document
        *sections, key = setting.path
        remarks += [setting.remark] if setting.remark else []
        if setting.proposed:
            remarks.append(_as_line(key, setting.value))
            continue
        for name in sections:
            section = section.setdefault(name, CommentedMap())
        section[key] = _as_yaml(values[setting.path])
        if setting.reason:
            section.yaml_add_eol_comment(setting.reason, key, column=0)
        if remarks:
            section.yaml_set_comment_before_after_key(key, before="\n".join(remarks), indent=INDENT * len(sections))
            remarks = []
    return _dumped(document)


def _as_line(key: str, value: Any) -> str:
    """A line that a person can take out of its comment."""
    line = _dumped(CommentedMap({key: _as_yaml(value)})).rstrip()
    _refuse_other_values(line, {(key,): value})
    return line


def _dumped(document: CommentedMap) -> str:
    yaml = YAML()
    yaml.width = 10**9  # a value stays on one line, with its comment behind it
    yaml.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(NULL, "null"))
    stream = io.StringIO()
    yaml.dump(document, stream)
    # ruamel writes some characters as they are that cannot be seen. `_as_yaml` puts them in double quotes.
    return "".join(mark if mark == "\n" or mark.isprintable() else _escape(mark) for mark in stream.getvalue())


def _escape(mark: str) -> str:
    return f"\\u{ord(mark):04X}" if ord(mark) <= 0xFFFF else f"\\U{ord(mark):08X}"


NULL = "tag:yaml.org,2002:null"


def _relative(source: str | Query, folder: Path) -> str | dict[str, str]:
    if isinstance(source, Query):
        return {"url": _relative_url(source.url, folder), "query": source.query}
    return source if source.startswith(packages.SCHEME) else os.path.relpath(source, folder.absolute())


def _relative_url(url: str, folder: Path) -> str:
    """The address; the path of an SQLite file started at the current folder, and starts at the config's in it."""
    path = re.fullmatch(r"(sqlite(?:\+\w+)?:///)(?![/~])([^?]+)", url)
    return path[1] + os.path.relpath(path[2], folder.absolute()) if path else url


def _refuse_other_values(text: str, values: dict[tuple[str, ...], Any]) -> None:
    """Raises UserError where the text is not read back as these values."""
    try:
        read = config.parse(text)
    except YAMLError as error:
        raise UserError(f"The config could not be written as YAML: {error}. Correct the names in the file.") from error
    for path, value in values.items():
        back = reduce(dict.__getitem__, path, read)
        if back != value or not _is_text(value):
            raise UserError(
                f"{'.'.join(path)}: a config cannot hold {value!r}. Rename the file, the column or the label."
            )


def _is_text(value: Any) -> bool:
    """Whether UTF-8 can write it: a file's name that is not UTF-8 holds lone surrogates."""
    written = json.dumps(value, ensure_ascii=False)
    return printable(written) == written


def _as_yaml(value: Any) -> Any:
    """Lists and mappings as YAML's flow style writes them: [a, b], {a: b}.

    Characters that are not printable are escaped: YAML takes some of them for line breaks, and allows others nowhere.
    """
    if isinstance(value, str) and not value.isprintable():
        return DoubleQuotedScalarString(value)
    if not isinstance(value, list | dict):
        return value
    collection: CommentedSeq | CommentedMap = CommentedSeq()
    if isinstance(value, list):
        collection.extend(map(_as_yaml, value))
    else:
        collection = CommentedMap({_as_yaml(key): _as_yaml(part) for key, part in value.items()})
    collection.fa.set_flow_style()
    return collection
