"""What can be tried: a recipe of `train`, written METHOD {KEY: VALUE, ...}, or one of the names below."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import yaml
from pydantic import ValidationError

from bertline.errors import UserError
from bertline.models.recipe import ModelOptions, TrainOptions
from bertline.pipeline.init.recipe import choose

TFIDF, TRANSFORMERS, INIT = "tfidf", "transformers", "init"
PEERS = (TFIDF, TRANSFORMERS)
PROBE = "probe"
Weights = Literal["english", "multilingual"]  # the default ones, and those that `bertline unpack` writes


class Recipe(NamedTuple):
    """A recipe: `train` of a config, `model.pooling`, and which weights it starts from."""

    train: TrainOptions
    pooling: str = "auto"
    weights: Weights = "english"


def recipe_of(method: str) -> Recipe:
    """The recipe of `full {epochs: 2, learning_rate: 1e-4}`: any keys of `train`, the others at their defaults.

    The key `pooling` is that of `model`, and `weights` one of Weights.

    Raises:
        UserError: an unknown key, or a value that the config refuses.
    """
    kind, _, keys = method.partition(" ")
    try:
        values = yaml.safe_load(keys) or {}
        pooling = ModelOptions(pooling=values.pop("pooling", "auto")).pooling
        weights = values.pop("weights", "english")
        if weights not in get_args(Weights):
            raise TypeError(f"weights: {weights} is none of {', '.join(get_args(Weights))}")
        return Recipe(TrainOptions(**{"method": kind, **values}), pooling, weights)
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
    if recipe.weights != "english":
        keys["weights"] = recipe.weights
    if not keys:
        return options.method
    written = yaml.safe_dump(keys, default_flow_style=True, sort_keys=False, width=10**9)
    return f"{options.method} {written.strip()}"


def by_init(rows: int, labels: int, *, foreign: bool) -> str:
    """The name of what `bertline init` writes for so many rows and labels.

    Args:
        rows: to train on.
        labels: how many.
        foreign: the texts are not English, as it seems; the multilingual weights are then taken as unpacked.
    """
    return name_of(Recipe(choose(rows, labels).options, weights=_weights(foreign)))


def probe_of(*, foreign: bool) -> str:
    """The name of the probe on the weights that `bertline init` proposes."""
    return name_of(Recipe(TrainOptions(method=PROBE), weights=_weights(foreign)))


def tunes(method: str, *, foreign: bool) -> bool:
    """Whether it trains more than a probe, from the weights that `bertline init` proposes."""
    if method in PEERS:
        return False
    recipe = recipe_of(method)
    return recipe.train.method != PROBE and recipe.weights == _weights(foreign)


def _weights(foreign: bool) -> Weights:
    return "multilingual" if foreign else "english"
