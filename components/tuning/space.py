"""The space of a search: which keys of the config are tried with which values, and a recipe with such values in it."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from bertline.components.options import Range
from bertline.models import network_size
from bertline.models.recipe import ModelOptions, TrainOptions, usual_rate

METHOD = "train.method"
# Keys of `train` that no trial may change, and why.
FIXED = {
    "seed": "the best seed is luck, and luck does not last",
    "class_weights": "it changes what the validation loss measures, so trials could not be compared",
    "augment": "the rows are made before the trials",
    "unlabelled": "the rows are labelled before the trials",
    "pseudo_labels": "the rows are labelled before the trials",
    "pseudo_threshold": "the rows are labelled before the trials",
    "probe_rows": "the probe is fitted before the trials",
    "warm_start": "trials start from the pretrained weights",
    "precision": "it is the machine's",
    "distribution": "it is the machine's",
    "ensemble": "a trial trains one member; `bertline run` then trains them all",
    "checkpoint_steps": "it changes no figure",
    "tensorboard": "it changes no figure",
}
MODEL_KEYS = ("dropout",)  # the others change the rows or the probe, which are made before the trials
DIGITS = 3  # of a sampled number: more would say nothing, and a person reads them in the tuned config

# The default space. Where full fine-tuning of few rows overfits, training fewer weights can be better; beyond this many
# rows it seldom is, and each further method costs trials.
FEW_ROWS = 5_000
MANY_ROWS = 20_000  # rows enough for large batches and few epochs
FEW_LABELS = 5  # with more, the probe's head is worth points (docs/models.md), and a random one needs no trial
DEEP = 6  # layers, from which on a rate that falls with the depth makes a difference
RATE_FACTOR = 4.0  # of the config's learning rate, both ways: wider, and most trials diverge or stand still


@dataclass(frozen=True)
class Dimension:
    """One key that trials change.

    Attributes:
        key: of the config, such as train.learning_rate.
        values: the choices, or the two ends of a range.
        is_range: whether `values` are the ends of a range.
        log: whether the range is even in the logarithm.
        methods: with which methods it is tried; None: with all whose options take it.
        reason: why these values, for a person.
    """

    key: str
    values: tuple[Any, ...]
    is_range: bool = False
    log: bool = False
    methods: tuple[str, ...] | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """Its name among the search's parameters: one key can have a range for each group of methods."""
        return f"{self.key} ({', '.join(self.methods)})" if self.methods else self.key

    @property
    def is_whole(self) -> bool:
        """Whether its range holds whole numbers only."""
        return self.is_range and all(isinstance(value, int) for value in self.values)

    def holds(self, value: Any) -> bool:
        """Whether a trial could have this value."""
        if not self.is_range:
            return value in self.values
        return isinstance(value, int | float) and self.values[0] <= value <= self.values[1]

    def rounded(self, value: Any) -> Any:
        """A sampled value as a person would write it."""
        if not self.is_range or self.is_whole:
            return value
        low, high = self.values
        return min(max(float(f"{value:.{DIGITS}g}"), low), high)

    def __str__(self) -> str:
        """Such as "1e-05 to 0.0004" or "16, 32"."""
        shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in self.values]
        return " to ".join(shown) if self.is_range else ", ".join(shown)


@dataclass(frozen=True)
class Space:
    """What is searched.

    Attributes:
        dimensions: all keys.
        by_method: those that are tried with each method, without the method itself.
    """

    dimensions: tuple[Dimension, ...]
    by_method: Mapping[str, tuple[Dimension, ...]]

    @property
    def method(self) -> Dimension | None:
        """The dimension of the method; None where all trials have the config's."""
        return next((each for each in self.dimensions if each.key == METHOD), None)

    def of_method(self, method: str | None) -> tuple[Dimension, ...]:
        """The dimensions that a trial of a method has; None where the method is not searched."""
        return self.by_method[method] if self.method else next(iter(self.by_method.values()))

    def of_config(self, model: ModelOptions, recipe: TrainOptions) -> dict[str, Any]:
        """The values that the config itself has in this space."""
        keys = [each.key for each in self.by_method.get(recipe.method, ())]
        own = {key: _value(model if key.startswith("model.") else recipe, key) for key in keys}
        return {METHOD: recipe.method, **own} if self.method else own

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether a trial could have these values."""
        method = values.get(METHOD)
        if self.method and not self.method.holds(method):
            return False
        return all(each.holds(values.get(each.key)) for each in self.of_method(method))

    def identity(self) -> str:
        """A text that differs for other spaces."""
        return repr(self.dimensions)


def combined(model: ModelOptions, recipe: TrainOptions, values: Mapping[str, Any]) -> tuple[ModelOptions, TrainOptions]:
    """The config's options with a trial's values in their places.

    A key of the config that does not go with the trial's method, such as lora with full, is left out; but not
    `ensemble`, without which another model would be trained than the one that is asked for.

    Args:
        model: the config's.
        recipe: the config's.
        values: by key.

    Raises:
        ValidationError: the values do not go together.
    """
    model_values = {key.removeprefix("model."): value for key, value in values.items() if key.startswith("model.")}
    wanted = nested({key.removeprefix("train."): value for key, value in values.items() if key.startswith("train.")})
    own = recipe.own_values()
    other_method = wanted.get("method", recipe.method) != recipe.method
    may_go = {key for key in own if key not in wanted and key != "ensemble"} if other_method else set()
    while True:
        try:
            changed = TrainOptions.model_validate(merged(own, wanted))
        except ValidationError as error:
            named = may_go.intersection(own, (key.partition(".")[0] for key in _named_keys(error)))
            if not named:
                raise
            own = {key: value for key, value in own.items() if key not in named}
        else:
            return ModelOptions.model_validate({**model.model_dump(), **model_values}), changed


def _named_keys(error: ValidationError) -> list[str]:
    """The keys that the first fault is about: its place, and what the rules of a section say before the colon."""
    fault = error.errors()[0]
    place = [str(part) for part in fault["loc"]]
    if fault["type"] != "value_error":
        return [".".join(place)]
    keys = re.split(", | and ", _message(error).partition(":")[0])
    return [".".join([*place, key]) for key in keys]


def _message(error: ValidationError) -> str:
    return error.errors()[0]["msg"].removeprefix("Value error, ")


# === A space that the config names ===


def named(space: Mapping[str, Range | Sequence[Any]], model: ModelOptions, recipe: TrainOptions) -> Space:
    """The space of `tune.space`, each value as the config's own models take it.

    Raises:
        ValueError: a key is unknown or fixed, or a value is not one that the key can have; the message names the key.
    """
    dimensions = tuple(_named(key, values) for key, values in space.items())
    made = _space(dimensions, model, recipe)
    tried = {each.key for members in made.by_method.values() for each in members} | {METHOD}
    for each in dimensions:
        if each.key not in tried:
            raise ValueError(f"tune.space: {each.key}: {_why_not(each, model, recipe, list(made.by_method))}")
        if each.key == "model.dropout" and recipe.r_drop and not all(each.values):
            raise ValueError(
                "tune.space: model.dropout: with train.r_drop and no dropout both passes of a row are the same; "
                "leave 0 out"
            )
    if list(made.by_method) == ["probe"]:
        raise ValueError(
            "tune.space: with train.method: probe nothing but the head is trained, and its penalty is chosen by the "
            "validation rows already; name other methods in train.method"
        )
    return made


def _named(key: str, values: Range | Sequence[Any]) -> Dimension:
    section, _, name = key.partition(".")
    if section == "model" and name not in MODEL_KEYS:
        known = ", ".join(f"model.{each}" for each in MODEL_KEYS)
        if name in ("family", "backbone"):
            raise ValueError(
                f"tune.space: {key}: all trials read the same tokens, and each family and backbone has its own. Write "
                "a config of the same name for each, tune and run each, and `bertline compare` the runs"
            )
        raise ValueError(f"tune.space: {key}: of the section model a trial can change {known}, and no other key")
    if section not in ("model", "train"):
        raise ValueError(f"tune.space: {key}: a trial changes keys of train, such as train.learning_rate")
    fixed = FIXED.get(name.partition(".")[0])
    if fixed:
        raise ValueError(f"tune.space: {key}: no trial may change it: {fixed}")
    field = _field(key, ModelOptions if section == "model" else TrainOptions, name.split("."))
    is_range = isinstance(values, Range)
    ends = (values.low, values.high) if is_range else tuple(values)
    if len(ends) < 2:
        raise ValueError(f"tune.space: {key}: give two values or more; a single one is set in {key} itself")
    taken = tuple(_as_taken(key, field, value) for value in ends)
    if is_range and not all(isinstance(value, int | float) and not isinstance(value, bool) for value in taken):
        raise ValueError(f"tune.space: {key}: it is no number, and has no range; list its values")
    if not all(isinstance(value, str | int | float) for value in taken):
        raise ValueError(f"tune.space: {key}: a trial sets single values, and this key takes others")
    return Dimension(key, taken, is_range, is_range and values.log, reason="named in tune.space")


def _field(key: str, owner: type[BaseModel], path: list[str]) -> FieldInfo:
    """The field of a key.

    Raises:
        ValueError: there is none, or it is a section.
    """
    fields = owner.model_fields
    if path[0] not in fields:
        near = difflib.get_close_matches(path[0], fields, n=1, cutoff=0.5)
        hint = f" Did you mean {key.removesuffix('.'.join(path))}{near[0]}?" if near else ""
        raise ValueError(f"tune.space: {key}: unknown key.{hint}")
    field = fields[path[0]]
    is_section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    if is_section and len(path) > 1:
        return _field(key, field.annotation, path[1:])
    if is_section or len(path) > 1:
        raise ValueError(f"tune.space: {key}: name a key that has a single value")
    return field


def _as_taken(key: str, field: FieldInfo, value: Any) -> Any:
    """The value as its field has it; rules that span keys are for later."""
    kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"tune.space: {key}: {value!r}: {error.errors()[0]['msg']}") from None


def _why_not(each: Dimension, model: ModelOptions, recipe: TrainOptions, methods: list[str]) -> str:
    for method in methods:
        for value in each.values:
            if refusal := _refusal({METHOD: method, each.key: value}, model, recipe):
                return f"{value!r}: {refusal.message}"
    return f"it does not go with the other keys of the space and method: {', '.join(methods)}"


# === The space by the rows ===


@dataclass(frozen=True)
class Rows:
    """What the default space goes by.

    Attributes:
        train: rows to train on.
        labels: how many there are.
        layers: of the backbone.
        pretrained: whether the backbone's weights know something that a method could keep.
        has_probe: whether the head can start from a probe.
    """

    train: int
    labels: int
    layers: int
    pretrained: bool
    has_probe: bool


def default(rows: Rows, model: ModelOptions, recipe: TrainOptions) -> Space:
    """The space that suits the rows, around the config's own values.

    Raises:
        ValueError: the config's method is the probe, which leaves nothing to search.
    """
    if recipe.method == "probe":
        raise ValueError(
            "train.method: probe: nothing but the head is trained, and its penalty is chosen by the validation rows "
            "already; set another method, or name several in tune.space: {train.method: [probe, full]}"
        )
    methods = _methods(rows, recipe)
    dimensions = [
        *_what_is_trained(rows, recipe, methods),
        *_rates(rows, model, recipe, methods),
        *_steps(rows, recipe),
    ]
    if rows.has_probe and rows.labels <= FEW_LABELS and recipe.head != "probe":
        reason = f"with {rows.labels} labels a random head may do as well as the probe's"
        dimensions.append(Dimension("train.head", ("auto", "random"), reason=reason))
    most = 0.3 if rows.train < FEW_ROWS else 0.2
    reason = f"{rows.train:,} rows: {'few, so more may help' if most == 0.3 else 'the more rows, the less is needed'}"
    least = set() if recipe.r_drop else {0.0}  # R-Drop compares two passes, which dropout alone makes differ
    choices = tuple(sorted({*least, 0.1, most, model.dropout}))
    dimensions.append(Dimension("model.dropout", choices, reason=reason))
    return _space(tuple(dimensions), model, recipe)


def _methods(rows: Rows, recipe: TrainOptions) -> tuple[str, ...]:
    own = recipe.method
    few = ("top_layers", "lora") if rows.train < FEW_ROWS and rows.layers >= DEEP and rows.pretrained else ()
    return tuple(dict.fromkeys([own, "full", *few]))


def _what_is_trained(rows: Rows, recipe: TrainOptions, methods: tuple[str, ...]) -> Iterator[Dimension]:
    if len(methods) > 1:
        reason = f"{rows.train:,} rows are few, and training fewer weights may overfit less"
        if rows.train >= FEW_ROWS:
            reason = "the config's own, and all weights"
        yield Dimension(METHOD, methods, reason=reason)
    if "top_layers" in methods:
        own = recipe.top_layers or rows.layers // 2
        choices = tuple(sorted({own, rows.layers // 3, rows.layers // 2}))
        if len(choices) > 1:
            yield Dimension("train.top_layers", choices, reason=f"of {rows.layers} layers")


def _rates(rows: Rows, model: ModelOptions, recipe: TrainOptions, methods: tuple[str, ...]) -> Iterator[Dimension]:
    """The learning rates, a range for each group of methods with a usual rate in common, and the layers' decay."""
    own_usual = usual_rate(recipe.method, model.family)
    for usual, group in itertools.groupby(methods, lambda method: usual_rate(method, model.family)):
        members = tuple(group)
        middle = recipe.learning_rate if usual == own_usual else usual
        low, high = _significant(middle / RATE_FACTOR), min(_significant(middle * RATE_FACTOR), 1.0)
        whose = "the config's" if usual == own_usual else "the usual"
        reason = f"{whose} {middle:g}, and a factor of {RATE_FACTOR:g} both ways"
        reason += "" if low <= usual <= high else f", and on to the usual {usual:g}"
        ends = (min(low, usual), max(high, usual))
        limited = members if len(members) < len(methods) else None
        yield Dimension("train.learning_rate", ends, is_range=True, log=True, methods=limited, reason=reason)
    if rows.layers >= DEEP:
        low = min(0.8, recipe.layer_decay)
        reason = f"{rows.layers} layers: lower ones may keep more of what pretraining taught them"
        yield Dimension("train.layer_decay", (low, 1.0), is_range=True, reason=reason)


def _steps(rows: Rows, recipe: TrainOptions) -> Iterator[Dimension]:
    own = recipe.epochs
    most = own + 1 if rows.train >= MANY_ROWS else max(own + 2, math.ceil(1.5 * own))
    least = max(1, own // 2)
    reason = (
        f"around the config's {own}; {rows.train:,} rows are {math.ceil(rows.train / recipe.batch_size):,} steps each"
    )
    yield Dimension("train.epochs", (least, most), is_range=True, reason=reason)
    usual = (32, 64) if rows.train >= MANY_ROWS else (16, 32)
    reason = "the BERT paper's" if usual == (16, 32) else f"{rows.train:,} rows are steps enough for larger batches"
    yield Dimension("train.batch_size", tuple(sorted({*usual, recipe.batch_size})), reason=reason)


# === Which keys go with which method ===


def _space(dimensions: tuple[Dimension, ...], model: ModelOptions, recipe: TrainOptions) -> Space:
    method = next((each for each in dimensions if each.key == METHOD), None)
    methods = method.values if method else (recipe.method,)
    return Space(dimensions, {each: _fitting(each, dimensions, model, recipe) for each in methods})


def _fitting(
    method: str, dimensions: tuple[Dimension, ...], model: ModelOptions, recipe: TrainOptions
) -> tuple[Dimension, ...]:
    """The dimensions that go with a method: all but those that the options' own rules refuse, one after another.

    Raises:
        ValueError: the method needs a key that neither the config nor the space has.
    """
    kept = [each for each in dimensions if each.key != METHOD and method in (each.methods or (method,))]
    first: _Refusal | None = None
    while refusal := _refused(method, kept, model, recipe):
        first = first or refusal
        blamed = _blamed(refusal, kept, model, recipe)
        if blamed is None:
            raise ValueError(f"tune.space: train.method: {method}: {first.message}")
        kept.remove(blamed)
    return tuple(kept)


class _Refusal(NamedTuple):
    """Why a recipe cannot have these values, and the keys that the message names."""

    values: Mapping[str, Any]
    message: str
    keys: tuple[str, ...]

    def names(self, each: Dimension) -> bool:
        return any(each.key == key or each.key.startswith(f"{key}.") for key in self.keys)


def _refused(method: str, kept: Sequence[Dimension], model: ModelOptions, recipe: TrainOptions) -> _Refusal | None:
    """The first refusal of a method with one of the values; None where it goes with all."""
    first = {METHOD: method, **{each.key: each.values[0] for each in kept}}
    changed = [first, *({**first, each.key: value} for each in kept for value in each.values[1:])]
    return next((refusal for values in changed if (refusal := _refusal(values, model, recipe))), None)


def _blamed(
    refusal: _Refusal, kept: Sequence[Dimension], model: ModelOptions, recipe: TrainOptions
) -> Dimension | None:
    """The dimension that the refusal names, or else one without which it would not be made; None where none is."""
    for each in kept:
        if refusal.names(each):
            return each
    for each in kept:
        others = {key: value for key, value in refusal.values.items() if key != each.key}
        without = _refusal(others, model, recipe)
        if without is None or without.message != refusal.message:
            return each
    return None


def _refusal(values: Mapping[str, Any], model: ModelOptions, recipe: TrainOptions) -> _Refusal | None:
    """Why a recipe cannot have these values; None where it can."""
    try:
        _, changed = combined(model, recipe, values)
    except ValidationError as error:
        return _Refusal(values, _message(error), tuple(f"train.{key}" for key in _named_keys(error)))
    size = network_size.read(model)
    fault = network_size.misfit(changed, size, model.max_length) if size else None
    return _Refusal(values, fault, (fault.partition(":")[0],)) if fault else None


# === Values by key ===


def _significant(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _value(section: BaseModel, key: str) -> Any:
    for name in key.split(".")[1:]:
        section = getattr(section, name)
    return section


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as mappings within mappings."""
    whole: dict[str, Any] = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        inside = whole
        for name in sections:
            inside = inside.setdefault(name, {})
        inside[last] = value
    return whole


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above` in their places."""
    both = dict(below)
    for key, value in above.items():
        inner = both.get(key)
        both[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return both
