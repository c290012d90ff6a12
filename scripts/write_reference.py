"""Writes docs/configuration.md and docs/commands.md from the code: `make docs`. With --check it compares instead.

The configuration's page comes from the pydantic models of the config and the comments beside their keys; the commands'
page comes from typer.
"""

from __future__ import annotations

import ast
import difflib
import html
import inspect
import io
import json
import re
import sys
import textwrap
import tokenize
from datetime import timedelta
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.cli import get_docs_for_click

from bertline.components.options import SET_BY_THE_RUN, duration_text
from bertline.pipeline import cli
from bertline.pipeline.config import Config

DOCS = Path(__file__).resolve().parents[1] / "docs"
GENERATED = "<!-- Written by `make docs`. Change the code, not this page. -->\n\n"

CONFIGURATION = """# Configuration

A task has one YAML file. `bertline init FILE` writes it, `bertline config CONFIG` prints it with every default filled
in, and each command that takes a CONFIG reads it. The only keys without a default are `name` and, under `data`,
`source`. An unknown key or a wrong value is refused before anything runs, with the key, the value and what is allowed.

Relative paths in `data` and `validation` start at the config's folder. `package://NAME/PATH` names a file inside an
installed Python package.

"""

EXIT_CODES = """A command ends with one of these codes:

| code | meaning |
|---|---|
| 0 | done; for `run`: a version is in service, new or the one before |
| 1 | failed; the last line says what, where and the way out. For `doctor`: a check failed |
| 2 | called wrongly; `--help` says how |
| 3 | the gates blocked the model, or the model was rolled back: nothing was pushed |
| 4 | `predict`, `score`: texts without an answer; `feedback`, `stream`: something is in quarantine |
| 5 | `monitor`: the last window has an alarm; `stream`: there was a surge |
| 128 + N | only `watch` and `tune`: signal N ended it, such as 130 for Ctrl-C; `tune` has written the best so far |

[troubleshooting.md](troubleshooting.md) lists the errors and their ways out.
"""


# === The configuration ===


def configuration() -> str:
    """The page on all keys of a config."""
    return GENERATED + CONFIGURATION + "\n".join(_section(Config, "", {}))


def _section(model: type[BaseModel], key: str, anchors: dict[type[BaseModel], str]) -> list[str]:
    """Lines on a model of the config and, after it, on the models below it that have none yet.

    Args:
        model: of the section.
        key: its dotted path in the file, "" for the whole file.
        anchors: model -> the anchor of its lines on the page; grows.
    """
    properties = model.model_json_schema()["properties"]
    reasons = comments_by_key(inspect.getsource(model))
    title = f"{'#' * min(key.count('.') + 2, 4)} {key or 'The file'}"
    lines = [title, "", inspect.getdoc(model), "", "| key | type | default | meaning and reason |", "|---|---|---|---|"]
    below = []
    for own_name, field in model.model_fields.items():
        name = field.alias or own_name
        if field.exclude or field.json_schema_extra == SET_BY_THE_RUN:  # set by the code, not by the file
            continue
        path = f"{key}.{name}".lstrip(".")
        nested = _nested_model(field.annotation)
        if nested and nested not in anchors:
            anchors[nested] = _anchor(path)
            below += _section(nested, path, anchors)
        kind = re.sub(r"(sections?)", rf"[\1](#{anchors.get(nested)})", _type(properties[name]))
        cells = (f"`{name}`", kind, _default(field), reasons.get(own_name, ""))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return [*lines, "", *below]


def _anchor(title: str) -> str:
    return re.sub(r"[^\w-]", "", title.lower())


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    """The model of a key whose value, or whose items, are a section of their own."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    members = (_nested_model(member) for member in getattr(annotation, "__args__", ()))
    return next((member for member in members if member), None)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, timedelta):
        value = duration_text(value)
    return f"`{value}`" if value and isinstance(value, str) else f"`{json.dumps(value)}`"


def _type(schema: dict[str, Any]) -> str:
    """The JSON schema of a value, in words."""
    if "$ref" in schema:
        return "section"
    if members := schema.get("anyOf") or schema.get("oneOf"):
        kinds = [_type(member) for member in members if member.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_plural(_type(schema['items']))}"
    if kind == "object":
        return f"name: {_type(schema['additionalProperties'])}"
    names = {"string": "text", "boolean": "true or false", "integer": "whole number", "number": "number"}
    return names[kind] + _bounds(schema)


def _plural(kind: str) -> str:
    return re.sub(r"^(text|whole number|section)\b", r"\1s", kind)


def _bounds(schema: dict[str, Any]) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f", {_number(least)} to {_number(most)}"
    words = {"at least": least, "above": above, "at most": most, "below": below}
    if schema.get("type") == "integer" and above is not None:
        words = {"at least": above + 1, "at most": most, "below": below}
    said = [f"{word} {_number(limit)}" for word, limit in words.items() if limit is not None]
    return f", {', '.join(said)}" if said else ""


def _number(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


def comments_by_key(source: str) -> dict[str, str]:
    """The comments on a class's attributes: on the lines above each, and behind it on its own line.

    Args:
        source: of the class.
    """
    source = textwrap.dedent(source)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    lines = source.splitlines()
    reasons = {}
    for node in ast.parse(source).body[0].body:
        if not isinstance(node, ast.AnnAssign):
            continue
        first = node.lineno
        while first - 1 in comments and lines[first - 2].lstrip().startswith("#"):
            first -= 1
        said = [comments[line] for line in range(first, node.end_lineno + 1) if line in comments]
        reasons[node.target.id] = " ".join(said)
    return reasons


# === The commands ===


def commands() -> str:
    """The page on all commands, from typer's own documentation."""
    command = typer.main.get_command(cli.app)
    context = typer.Context(command, info_name="bertline")
    page = html.unescape(get_docs_for_click(obj=command, ctx=context, name="bertline", title="Commands"))
    for name, group in {"": command, "keys ": command.commands["keys"]}.items():
        for each in group.commands.values():
            # typer cuts the first sentence in its lists after 45 characters
            cut = f"* `{each.name}`: {each.get_short_help_str()}"
            anchor = f"bertline {name}{each.name}".replace(" ", "-")
            page = page.replace(cut, f"* [`{each.name}`](#{anchor}): {each.help.splitlines()[0]}")
    head, title, rest = page.partition("\n**Commands**:\n")
    return f"{GENERATED}{head}\n{EXIT_CODES}{title}{rest.rstrip()}\n"


# === Writing ===


def main() -> None:
    """Writes the pages, or with --check says where they differ and exits with 1."""
    differences = []
    for file, page in {DOCS / "configuration.md": configuration(), DOCS / "commands.md": commands()}.items():
        if "--check" not in sys.argv:
            file.write_text(page, encoding="utf-8")
        else:
            before = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
            differences += difflib.unified_diff(before, page.splitlines(), f"docs/{file.name}", "the code", lineterm="")
    if differences:
        sys.exit("\n".join([*differences, "Run `make docs`."]))


if __name__ == "__main__":
    main()
