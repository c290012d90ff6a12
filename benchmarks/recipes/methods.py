"""What can be tried: a recipe of `train`, written METHOD {KEY: VALUE, ...}, or one of the names below."""

from __future__ import annotations

from typing import NamedTuple

import yaml
from pydantic import ValidationError

from bertline.errors import UserError
from bertline.models.recipe import ModelOptions, TrainOptions

TFIDF, TRANSFORMERS, INIT = "tfidf", "transformers", "init"
PEERS = (TFIDF, TRANSFORMERS)
PROBE = "probe"


class Recipe(NamedTuple):
    """A recipe: `train` of a config, and `model.pooling`."""

    train: TrainOptions
    pooling: str = "auto"


def recipe_of(method: str) -> Recipe:
    """The recipe of `full {epochs: 2, learning_rate: 1e-4}`: any keys of `train`, the others at their defaults.

    The key `pooling` is that of `model`.

    Raises:
        UserError: an unknown key, or a value that the config refuses.
    """
    kind, _, keys = method.partition(" ")
    try:
        values = yaml.safe_load(keys) or {}
        pooling = ModelOptions(pooling=values.pop("pooling", "auto")).pooling
        return Recipe(TrainOptions(**{"method": kind, **values}), pooling)
    except (ValidationError, yaml.YAMLError, TypeError, AttributeError) as error:
        raise UserError(f"{method!r} is no recipe: {error}") from error


def name_of(recipe: Recipe) -> str:
    """The one way to write a recipe: the method, then the keys that differ from the defaults.

    Epochs and rate always stand there, since defaults change. The probe has none.
    """
    options = recipe.train
    always = {"epochs": options.epochs, "learning_rate": options.learning_rate}
    always = {} if options.method == PROBE else always
    without = {"method", "seed", "tensorboard", "epochs", "learning_rate", "patience" if not always else ""}
    keys = always | options.model_dump(exclude_defaults=True, exclude=without)
    if recipe.pooling != "auto":
        keys["pooling"] = recipe.pooling
    if not keys:
        return options.method
    written = yaml.safe_dump(keys, default_flow_style=True, sort_keys=False, width=10**9)
    return f"{options.method} {written.strip()}"
