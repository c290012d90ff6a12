"""Runs the peers in their own environment and reads what they print."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from bertline.errors import UserError
from bertline.models import packages
from bertline.models.recipe import ModelOptions, TrainOptions

BENCHMARKS = Path(__file__).resolve().parent
PEERS = BENCHMARKS / "peers"
RESULTS = BENCHMARKS / "results"


def command_of(name: str, rows: Path, *options: str) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment that run benchmarks/peers/NAME.py on exported rows.

    Raises:
        UserError: the peers' environment is not built.
    """
    python = PEERS / ".venv" / "bin" / "python"
    if not python.exists():
        raise UserError("the peers' environment is not built; run `make bench-peers`.")
    # The peer reads only local files and must not ask a hub for newer ones.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    return [str(python), str(PEERS / f"{name}.py"), str(rows), *options], environment


def run_peer(name: str, rows: Path, *options: str) -> dict[str, Any]:
    """Runs benchmarks/peers/NAME.py on exported rows.

    Args:
        name: of the file.
        rows: folder with the splits as JSON Lines.
        options: further arguments of the peer.

    Returns:
        The object that the peer printed on its last line.

    Raises:
        UserError: the peers' environment is not built, or the peer failed; the message ends with the end of its output.
    """
    command, environment = command_of(name, rows, *options)
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise UserError(f"the peer {name} failed (exit {ran.returncode}):\n{ran.stderr.strip()[-2000:]}")
    return json.loads(ran.stdout.strip().splitlines()[-1])


def weights_folder(model: ModelOptions) -> Path:
    """The folder of the weights that the Transformers peer reads.

    Raises:
        UserError: the weights are not a local folder in the Hugging Face layout, the only one that the peer reads.
    """
    if not isinstance(model.backbone, str):
        raise UserError("model.backbone: random weights have no peer; name a folder in the Hugging Face layout.")
    weights = packages.resolve(model.backbone) if model.backbone.startswith(packages.SCHEME) else Path(model.backbone)
    if not (weights / "config.json").is_file():
        raise UserError(
            f"model.backbone: the peer reads a folder in the Hugging Face layout, and {weights} is not one."
        )
    return weights


def same_recipe(model: ModelOptions, train: TrainOptions) -> list[str]:
    """The Transformers peer's arguments for the same weights and the same recipe as ours.

    Raises:
        UserError: as `weights_folder`.
    """
    options = {
        "weights": weights_folder(model),
        "max-length": model.max_length,
        "dropout": model.dropout,
        "epochs": train.epochs,
        "batch-size": train.batch_size,
        "learning-rate": train.learning_rate,
        "warmup-share": train.warmup_share,
        "weight-decay": train.weight_decay,
        "clip-norm": train.clip_norm,
        "class-weights": train.class_weights,
        "patience": train.patience,
    }
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Writes a benchmark's figures to benchmarks/results/NAME.json and returns the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path
