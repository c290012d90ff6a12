"""Commands for the people who label."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bertline.models.recipe import MOST_SEED
from bertline.pipeline.commands.serving import (
    AddressOption,
    CaOption,
    KeyFileOption,
    ModelOption,
    TlsOption,
    VersionOption,
)

PANEL = "More labels"

app = typer.Typer()


@app.command("to-label", rich_help_panel=PANEL)
def to_label(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[CONFIG] FILE...", help="The task's YAML file, if there is one; files as in data.source."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="How many rows to choose.")] = 200,
    format: Annotated[
        Literal["csv", "label-studio", "argilla"] | None,
        typer.Option(help="Default: by the ending, .csv or .json (Label Studio)."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="Column of the texts, where there is no CONFIG.")] = None,
    version: VersionOption = None,
    model: ModelOption = None,
    address: AddressOption = None,
    key_file: KeyFileOption = None,
    ca: CaOption = None,
    tls: TlsOption = False,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Of the clusters: the same seed chooses the same rows.")
    ] = 17,
    guard: Annotated[
        bool, typer.Option("--guard", help="CSV: an apostrophe before cells that a spreadsheet would run.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output.")] = False,
) -> None:
    """Choose the unlabelled rows whose labels would teach the most, with the model's suggestions.

    With a pushed model: rows of which it is unsure, unlike each other. Without one: typical rows. Rows that the
    config's data already have are left out.
    """
    from bertline.pipeline import predict, to_label

    connection = {"tls": ca or tls, "api_key": predict.api_key(key_file)}
    to_label.run(
        to_label.Request(
            sources=sources,
            output=output,
            rows=rows,
            format=format,
            text=text,
            version=version,
            model=model,
            address=address,
            connection=connection if address else {},
            seed=seed,
            guard=guard,
            force=force,
        )
    )
