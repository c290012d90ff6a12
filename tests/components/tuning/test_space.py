"""What is searched: the default spaces, those that a config names, and recipes with a trial's values in them."""

import pytest

from bertline.components.options import TuneOptions
from bertline.components.tuning import space
from bertline.components.tuning.space import Rows
from bertline.models.recipe import METHODS, ModelOptions, TrainOptions, usual_rate

MODEL = ModelOptions()
PRETRAINED = {"labels": 3, "layers": 6, "pretrained": True, "has_probe": True}


def keys(searched, method):
    return {each.key for each in searched.by_method[method]}


def named(wanted, recipe=None):
    return space.named(TuneOptions(space=wanted).space, MODEL, recipe or TrainOptions())


@pytest.mark.parametrize("train", [50, 4_000, 8_000, 100_000])
@pytest.mark.parametrize("labels", [2, 77])
@pytest.mark.parametrize(
    "recipe",
    [
        TrainOptions(),
        TrainOptions(epochs=1, learning_rate=0.5, batch_size=8, layer_decay=0.5),
        TrainOptions(method="lora", lora={"rank": 4}, learning_rate=1e-3),
        TrainOptions(method="top_layers", top_layers=5),
        TrainOptions(method="bitfit", head="random"),
        TrainOptions(ensemble=3, adversarial={"method": "fgm"}, average={"method": "ema"}, l2_sp=0.01),
    ],
)
def test_the_default_space_holds_the_config_itself(train, labels, recipe):
    searched = space.default(Rows(train, **{**PRETRAINED, "labels": labels}), MODEL, recipe)
    own = searched.of_config(MODEL, recipe)
    assert searched.holds(own)
    assert space.combined(MODEL, recipe, own) == (MODEL, recipe)
    assert all(each.reason for each in searched.dimensions)


def test_few_rows_try_methods_that_train_fewer_weights():
    few = space.default(Rows(500, **PRETRAINED), MODEL, TrainOptions())
    assert few.method.values == ("full", "top_layers", "lora")
    assert "train.layer_decay" in keys(few, "full") - keys(few, "lora")
    assert "train.top_layers" in keys(few, "top_layers") - keys(few, "full")
    many = space.default(Rows(30_000, **PRETRAINED), MODEL, TrainOptions())
    assert many.method is None
    (batches,) = (each.values for each in many.dimensions if each.key == "train.batch_size")
    assert batches == (32, 64)


def test_random_weights_have_no_method_that_keeps_them_and_no_probe():
    rows = Rows(500, labels=3, layers=6, pretrained=False, has_probe=False)
    searched = space.default(rows, MODEL, TrainOptions())
    assert searched.method is None and "train.head" not in keys(searched, "full")


def test_a_probe_leaves_nothing_to_search():
    with pytest.raises(ValueError, match=r"method: probe: nothing but the head is trained.*\{train.method: \[probe"):
        space.default(Rows(500, **PRETRAINED), MODEL, TrainOptions(method="probe"))


def test_a_named_key_is_tried_with_the_methods_that_take_it():
    wanted = {"train.method": ["full", "lora"], "train.lora.rank": [4, 8], "train.layer_decay": {"low": 0.8, "high": 1}}
    searched = named(wanted)
    assert (keys(searched, "full"), keys(searched, "lora")) == ({"train.layer_decay"}, {"train.lora.rank"})


def test_values_are_those_of_the_config():
    (epochs, rate) = named({"train.epochs": {"low": 1, "high": 4}, "train.learning_rate": ["1e-5", 0.001]}).dimensions
    assert epochs.values == (1, 4) and epochs.is_whole
    assert rate.values == (1e-5, 0.001)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"train.learning_rat": [1, 2]}, r"train\.learning_rat: unknown key. Did you mean train\.learning_rate\?"),
        ({"train.lora.rnk": [1, 2]}, r"train\.lora\.rnk: unknown key. Did you mean train\.lora\.rank\?"),
        ({"train.learning_rate": {"low": 1e-5, "high": 3}}, r"train\.learning_rate: 3\.0: .*less than or equal to 1"),
        ({"train.epochs": {"low": 1, "high": 2.5}}, r"train\.epochs: 2\.5: .*valid integer"),
        ({"train.epochs": [2]}, r"train\.epochs: give two values or more"),
        ({"train.seed": [1, 2]}, r"train\.seed: no trial may change it: the best seed is luck"),
        ({"train.ensemble": [1, 3]}, r"train\.ensemble: no trial may change it: a trial trains one member"),
        ({"train.method": ["full", "fast"]}, r"train\.method: 'fast': Input should be 'full'"),
        ({"train.head": {"low": 1, "high": 2}}, r"train\.head: 1\.0: "),
        ({"train.lora": [1, 2]}, r"train\.lora: name a key that has a single value"),
        ({"train.lora.rank": [4, 8]}, r"train\.lora\.rank: 4: lora: it goes with method: lora, and method is full"),
        ({"train.method": ["full", "top_layers"]}, r"train\.method: top_layers: .*how many layers"),
        ({"train.method": ["lora", "full"], "train.lora.rank": [8, 4096]}, r"train\.lora\.rank: 4096: .*width of 384"),
        ({"model.max_length": [64, 128]}, r"model\.max_length: .*model\.dropout, and no other key"),
        ({"model.family": ["auto", "static"]}, r"model\.family: all trials read the same tokens.*bertline compare"),
        ({"model.backbone": ["a", "b"]}, r"model\.backbone: all trials read the same tokens, and each family and"),
        ({"data.labels": [1, 2]}, r"data\.labels: a trial changes keys of train"),
    ],
)
def test_a_key_or_a_value_that_cannot_be_is_named(wanted, said):
    with pytest.raises(ValueError, match=rf"^tune\.space: {said}"):
        named(wanted)


def test_a_key_that_goes_with_another_method_is_left_out():
    lora = TrainOptions(method="lora", lora={"rank": 4}, epochs=2)
    _, changed = space.combined(MODEL, lora, {"train.method": "full", "train.layer_decay": 0.9, "model.dropout": 0.2})
    assert changed == TrainOptions(method="full", layer_decay=0.9, epochs=2)
    model, back = space.combined(MODEL, lora, {"train.method": "lora", "model.dropout": 0.2})
    assert back == lora and model.dropout == 0.2


def test_only_what_the_refusals_name_leaves_however_many_keys_there_are():
    """Were sets of keys tried one after another, these would take days."""
    kept = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-4, "warmup_share": 0.2, "weight_decay": 0.1}
    kept |= {"clip_norm": 0.5, "class_weights": "balanced", "patience": 3, "seed": 5, "checkpoint_steps": 9}
    kept |= {"probe_rows": 100, "accumulate_steps": 2, "precision": "float32", "distribution": "one_device"}
    leaving = {"layer_decay": 0.9, "l2_sp": 0.01, "average": {"method": "ema"}}
    full = TrainOptions(**kept, **leaving, tensorboard=False, r_drop=0.5)
    changed = space.combined(MODEL, full, {"train.method": "adalora", "train.r_drop": 0.2})[1]
    assert changed == TrainOptions(method="adalora", **kept, tensorboard=False, r_drop=0.2)
    wanted = {f"train.{key}": [value, value * 2] for key, value in kept.items() if isinstance(value, int | float)}
    for key in ("train.seed", "train.checkpoint_steps", "train.probe_rows"):
        del wanted[key]
    methods = ["adalora", "contrastive"]
    wanted |= {"train.layer_decay": [0.8, 0.9], "train.l2_sp": [0.01, 0.1], "train.label_smoothing": [0, 0.1]}
    wanted |= {"train.lora.rank": [4, 8], "train.prompt.tokens": [4, 8], "train.adalora.rank": [4, 8]}
    with pytest.raises(ValueError, match=r"^tune\.space: train\.l2_sp: 0\.01: l2_sp: with method: adalora"):
        named({**wanted, "train.method": methods}, full)
    searched = named({**wanted, "train.method": ["full", "lora", "prompt", *methods]}, full)
    assert "train.l2_sp" in keys(searched, "full") and "train.label_smoothing" in keys(searched, "prompt")
    assert keys(searched, "contrastive") >= {"train.layer_decay", "train.epochs"}
    assert not keys(searched, "contrastive") & {"train.label_smoothing", "train.accumulate_steps", "train.lora.rank"}


def test_a_key_that_the_config_rules_out_is_named():
    gradual = TrainOptions(method="gradual", epochs=4, unfreeze_epochs=3)
    with pytest.raises(ValueError, match=r"^tune\.space: train\.epochs: 2: unfreeze_epochs: 3 opens no layer in 2"):
        named({"train.epochs": [2, 4], "train.batch_size": [8, 16]}, gradual)
    assert "train.epochs" not in keys(space.default(Rows(500, **PRETRAINED), MODEL, gradual), "gradual")


def test_a_trial_of_another_method_has_its_usual_rate_unless_the_config_names_one():
    lora, slow = TrainOptions(method="lora"), TrainOptions(method="lora", learning_rate=5e-5)
    assert space.combined(MODEL, lora, {"train.method": "full"})[1] == TrainOptions()
    assert space.combined(MODEL, TrainOptions(), {"train.method": "lora"})[1] == lora
    assert space.combined(MODEL, slow, {"train.epochs": 2})[1].learning_rate == 5e-5
    prefix = space.combined(MODEL, TrainOptions(learning_rate=2e-4), {"train.method": "prefix"})[1]
    assert prefix.learning_rate == 2e-4


@pytest.mark.parametrize("method", [each for each in METHODS if each != "probe"])
@pytest.mark.parametrize("rate", [{}, *({"learning_rate": each} for each in (1e-6, 5e-5, 0.5))])
def test_the_range_of_rates_holds_the_usual_one_of_each_method(method, rate):
    recipe = TrainOptions(method=method, top_layers=2 if method == "top_layers" else None, **rate)
    searched = space.default(Rows(500, **PRETRAINED), MODEL, recipe)
    for each, dimensions in searched.by_method.items():
        (rates,) = (dimension for dimension in dimensions if dimension.key == "train.learning_rate")
        assert rates.holds(usual_rate(each, "auto")), each
        assert each != method or rates.holds(recipe.learning_rate)


def test_an_ensemble_is_not_given_up_for_a_method():
    with pytest.raises(ValueError, match=r"^tune\.space: train\.method: contrastive: ensemble: method: contrastive"):
        named({"train.method": ["full", "contrastive"]}, TrainOptions(ensemble=3))
    searched = named({"train.method": ["full", "lora"]}, TrainOptions(ensemble=3))
    assert space.combined(MODEL, TrainOptions(ensemble=3), {"train.method": "lora"})[1].ensemble == 3
    assert searched.method.values == ("full", "lora")


def test_a_trial_changes_one_key_of_a_section_and_keeps_the_others():
    lora = TrainOptions(method="lora", lora={"targets": ["key"], "dropout": 0.1})
    _, changed = space.combined(MODEL, lora, {"train.lora.rank": 16})
    assert changed == TrainOptions(method="lora", lora={"targets": ["key"], "dropout": 0.1, "rank": 16})


def test_r_drop_is_never_tried_without_dropout():
    searched = space.default(Rows(500, **PRETRAINED), MODEL, TrainOptions(r_drop=1.0))
    (dropouts,) = (each.values for each in searched.dimensions if each.key == "model.dropout")
    assert dropouts == (0.1, 0.3)
    with pytest.raises(ValueError, match=r"^tune\.space: model\.dropout: with train\.r_drop .* leave 0 out"):
        space.named({"model.dropout": [0.0, 0.1]}, MODEL, TrainOptions(r_drop=1.0))


@pytest.mark.parametrize(
    ("written", "seconds"), [("45m", 2700), ("2h", 7200), ("90s", 90), ("1h30m", 5400), ("1d2h", 93600)]
)
def test_a_time_is_written_as_people_write_it(written, seconds):
    options = TuneOptions(time=written)
    assert options.time.total_seconds() == seconds
    assert TuneOptions.model_validate_json(options.model_dump_json()) == options


@pytest.mark.parametrize("written", ["45", "0m", "soon", "m"])
def test_a_time_without_a_unit_is_refused(written):
    with pytest.raises(ValueError, match=r"90s, 45m, 2h or 1h30m|greater than"):
        TuneOptions(time=written)
