"""`bertline keys`: adds, lists and removes the API keys of a server."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from bertline.pipeline.commands import console

Role = Literal["predict", "admin"]  # as in bertline.serving.keys, which is not imported until it is used

app = typer.Typer(help="API keys of a server: add, list, remove.", no_args_is_help=True)
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The server's key file, YAML.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Who uses the key: letters, digits and . _ @ -")]


@app.command()
def add(
    file: FileArgument,
    name: NameArgument,
    role: Annotated[Role, typer.Option(help="predict: ask models. admin: also change what is served.")] = "predict",
    per_second: Annotated[int | None, typer.Option(min=1, help="The most requests in a second.")] = None,
    per_minute: Annotated[int | None, typer.Option(min=1, help="The most requests in a minute.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="How many days the key is valid. Default: for ever.")] = None,
) -> None:
    """Make a key and print it, only this once: FILE keeps its hash. A running server knows it at once."""
    from bertline.serving import keys

    key = keys.add_key(file, name, role=role, per_second=per_second, per_minute=per_minute, days=days)
    print(key)
    typer.echo(f"keep it now: {file} holds only its hash", err=True)


@app.command("list")
def list_keys(file: FileArgument) -> None:
    """List the keys of FILE: names, roles, rates and dates."""
    from bertline.serving import keys

    table = Table("name", "role", "rate", "created", "expires", box=None, pad_edge=False)
    for key in keys.read_keys(file):
        rates = ", ".join(str(rate) for rate in key.rates) or "no limit"
        table.add_row(key.name, key.role, rates, f"{key.created:%Y-%m-%d}", _expiry(key.expires))
    console().print(table)


@app.command()
def remove(file: FileArgument, name: NameArgument) -> None:
    """Remove a key from FILE. A running server refuses it from the next request on."""
    from bertline.serving import keys

    keys.remove_key(file, name)
    print(f"removed {name} from {file}")


def _expiry(expires: datetime | None) -> str:
    if expires is None:
        return "never"
    return f"{expires:%Y-%m-%d}" + (", expired" if expires <= datetime.now(UTC) else "")
