import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from factories import tiny_model_options, tokenised_reviews
from test_training import RECIPE, train
from tiny_bert import LENGTHS, SEGMENTS, TOKENS, frozen, tiny_classifier

from bertline.errors import UserError
from bertline.models import methods, training
from bertline.models.bert import classifier
from bertline.models.bert.encoder import Batch, Encoder, pack
from bertline.models.pooling import POOLER, Pooling
from bertline.models.recipe import TrainOptions

SIX = ["query", "key", "value", "output", "up", "down"]
TOP = {"method": "top_layers", "top_layers": 1}
LORA = {"method": "lora", "lora": {"rank": 3, "alpha": 6, "targets": SIX}}
ADALORA = {"method": "adalora", "adalora": {"rank": 2, "interval": 2}}
HOULSBY = {"method": "adapters", "adapters": {"kind": "houlsby", "size": 3}}
PFEIFFER = {"method": "adapters", "adapters": {"kind": "pfeiffer", "size": 3}}
PROMPT = {"method": "prompt", "prompt": {"tokens": 3}}
PREFIX = {"method": "prefix", "prefix": {"tokens": 3, "reparametrise": 5}}
EACH = {
    "full": {},
    "top_layers": TOP,
    "gradual": {"method": "gradual"},
    "bitfit": {"method": "bitfit"},
    "lora": LORA,
    "adalora": ADALORA,
    "houlsby": HOULSBY,
    "pfeiffer": PFEIFFER,
    "prompt": PROMPT,
    "prefix": PREFIX,
    "prefix-direct": {"method": "prefix", "prefix": {"tokens": 3, "reparametrise": None}},
}


def options(**changes):
    return TrainOptions(**{**RECIPE.model_dump(), **changes})


def chosen(model, epochs=2, steps=10, **changes):
    return methods.choose(model, options(**changes), methods.Length(epochs, steps))


def moved(method, seed=1, names=None):
    """The method, with what it trains far from where it began."""
    draw = np.random.default_rng(seed)
    for variable in method.variables:
        if names is None or variable.name in names:
            variable.assign(variable.numpy() + draw.normal(0, 0.3, variable.shape))
    return method


def paths(variables):
    return {variable.path for variable in variables}


def logits(model, weights=None, seed=None):
    return Encoder.of(model).logits(weights or pack(model, tf.float32), Batch(TOKENS, SEGMENTS, LENGTHS), seed).numpy()


# === What every method holds ===


@pytest.mark.parametrize("name", [name for name in EACH if name not in ("full", "gradual", "prefix-direct")])
def test_it_is_saved_and_served_as_it_was_trained(name, tmp_path):
    """Training's graph, plain and fused, the finished model, the one that is loaded and the served graph agree."""
    changes = EACH[name]
    model = tiny_classifier(pooling=Pooling("mean") if name in ("prompt", "pfeiffer") else POOLER)
    begun = logits(model)
    method = moved(chosen(model, **changes))
    trained = logits(model, method.pack(tf.float32))
    assert np.abs(trained - begun).max() > 0.1
    np.testing.assert_allclose(
        logits(model, method.pack(tf.float32), tf.constant([1, 2], tf.int64)), trained, atol=1e-5
    )
    method.finish()
    np.testing.assert_allclose(logits(model), trained, atol=1e-4)
    classifier.save(model, tmp_path, ["a", "b", "c"], backbone_digest="")
    loaded = classifier.load(tmp_path)
    np.testing.assert_array_equal(logits(loaded), logits(model))
    np.testing.assert_allclose(frozen(loaded)(TOKENS, SEGMENTS, LENGTHS), trained, atol=1e-4)


# === What is trained ===


def test_top_layers_are_the_last_ones_the_pooler_and_the_head():
    model = tiny_classifier()
    method = chosen(model, **TOP)
    top = model.backbone.transformer_layers[1]
    expected = [*top.trainable_variables, *model.backbone.pooled_dense.trainable_variables]
    assert paths(method.variables) == paths([*expected, *model.output_dense.trainable_variables])
    with pytest.raises(UserError, match="2 of 2 layers leave none frozen"):
        chosen(model, method="top_layers", top_layers=2)


def test_bitfit_trains_biases_and_the_head():
    model = tiny_classifier()
    method = chosen(model, method="bitfit")
    head = paths(model.output_dense.trainable_variables)
    assert {variable.name for variable in method.variables if variable.path not in head} == {"bias", "beta"}
    assert len(paths(method.variables) & head) == 2
    assert method.weights < sum(int(np.prod(v.shape)) for v in model.trainable_variables) / 3


def test_rates_decay_from_the_head_down():
    model = tiny_classifier()
    method = chosen(model, layer_decay=0.5)
    rate = {variable.path: rate for variable, rate in zip(method.variables, method.rates, strict=True)}
    network = model.backbone
    assert rate[model.output_dense.kernel.path] == rate[network.pooled_dense.kernel.path] == 1
    lower, upper = (layer._feedforward_output_dense.kernel.path for layer in network.transformer_layers)
    assert (rate[upper], rate[lower], rate[network.token_embedding.embeddings.path]) == (0.5, 0.25, 0.125)
    assert rate[network.embeddings_layer_norm.gamma.path] == 0.125


def fitted(folder, changes, **more):
    """A training whose head alone can tell which words a text has, as it pools by the mean."""
    model = tiny_model_options(folder, pooling="mean")
    rows, validation = tokenised_reviews(model, 300), tokenised_reviews(model, 30, seed=1)
    return training.fit(
        lambda: classifier.from_options(model, 3, seed=17),
        rows,
        validation,
        options(**changes),
        checkpoints=folder / "checkpoints",
        **more,
    )


SMALL = {name: EACH[name] for name in ("bitfit", "lora", "adalora", "houlsby", "prompt")}


@pytest.mark.parametrize("name", SMALL)
def test_frozen_weights_do_not_move_and_it_learns(tmp_path, monkeypatch, name):
    started = {}

    class Seen(training.Run):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            started.update({v.path: v.numpy() for v in self.model.variables})

        def finish(self, file):
            trained = paths(self.method.variables)
            for variable in self.model.variables:
                if variable.path not in trained:
                    np.testing.assert_array_equal(variable.numpy(), started[variable.path], err_msg=variable.path)
            super().finish(file)

    monkeypatch.setattr(training, "Run", Seen)
    trained = fitted(tmp_path, {**SMALL[name], "learning_rate": 0.01}, adapter=tmp_path / "kept/lora.npz")
    share = 0.8 if name in ("bitfit", "lora", "houlsby") else 0.9  # slower: adalora's budget, and the few of a prompt
    assert trained.history.best.validation_loss < share * trained.history.epochs[0].validation_loss
    assert 0 < trained.history.trained_weights < trained.history.weights / 2
    assert (tmp_path / "kept").exists() == (name in ("lora", "adalora"))
    if name in ("lora", "adalora"):
        with np.load(tmp_path / "kept/lora.npz") as kept:
            assert np.abs(kept["0/value/up"]).max() > 0
    assert bool(trained.model.additions) == (name in ("houlsby", "prompt"))


# Each has a state of its own that a resumed training must find again.
@pytest.mark.parametrize(
    "name",
    [
        *("gradual", "lora"),
        *(
            pytest.param(name, marks=pytest.mark.shipped)
            for name in ("adalora", "top_layers", "bitfit", "houlsby", "pfeiffer", "prompt", "prefix")
        ),
    ],
)
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, monkeypatch, name):
    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == 18:  # two steps after a checkpoint, in the second of three epochs
            raise Killed

    monkeypatch.setattr(training, "REPORT_SECONDS", 0)
    recipe = options(**EACH[name], layer_decay=0.5 if name == "gradual" else 1.0)
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    layers = 2 if name == "top_layers" else 1  # one of them stays as it is
    model, history, left = train(tmp_path / "whole", options=recipe, layers=layers)
    with pytest.raises(Killed):
        train(tmp_path / "cut", options=recipe, layers=layers, on_progress=kill)
    resumed, resumed_history, resumed_left = train(tmp_path / "cut", options=recipe, layers=layers)
    assert resumed_history.resumed_at == [16]
    assert resumed_history.epochs == history.epochs
    assert resumed_history.ranks == history.ranks
    np.testing.assert_array_equal(resumed_left, left)
    for one, other in zip(resumed.variables, model.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


def test_layers_that_are_opened_after_skipped_steps_are_trained(tmp_path, monkeypatch):
    """In float16 steps are skipped, and the age of a layer's moments counts from the step that opens it."""
    monkeypatch.setattr(training.LossScale, "INITIAL", 2.0**28)  # the gradients of the first open layer overflow
    recipe = options(method="gradual", precision="mixed_float16", epochs=2)
    _, history, left = train(tmp_path, options=recipe, rows=60)
    assert 2 < history.skipped_steps < history.step
    assert np.isfinite(left).all()


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["full", "lora"], id="some"),
        pytest.param([name for name in EACH if name not in ("full", "lora")], id="others", marks=pytest.mark.shipped),
    ],
)
def test_mirrored_over_two_devices_gives_what_one_gives(tmp_path, names):
    """Three steps on the same batch; each method takes some 8 s, mostly to trace its graphs."""
    script = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[at] / more) for at, more in ((0, ""), (0, "bert"), (1, ""))]!r}
import pathlib, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import test_methods
test_methods.step_on_two_devices(pathlib.Path({str(tmp_path)!r}), {names!r})
"""
    run = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    ended = [line.split()[1:] for line in run.stdout.splitlines() if line.startswith("ENDED")]
    assert [name for name, *_ in ended] == names, run.stderr[-3000:]
    for name, moved_by, apart in ended:
        assert float(moved_by) > 1e-2, name
        assert float(apart) < 2e-3, name


def step_on_two_devices(folder, names):
    """Prints for each method how far three steps moved the logits, and how far the two strategies' are apart."""
    model = tiny_model_options(folder, dropout=0.0, pooling="mean")
    model = model.model_copy(update={"backbone": model.backbone.model_copy(update={"layers": 2, "hidden": 16})})
    rows = tokenised_reviews(model, 8)
    batch = Batch(rows.token_ids.to_tensor(), None, tf.cast(rows.token_ids.row_lengths(), tf.int32))
    # One strategy for all: a second one in a process numbers its reductions anew, and TensorFlow mixes them up.
    strategies = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for name in names:
        recipe = options(**{**EACH[name], "learning_rate": 0.01})
        seen = []
        for strategy in strategies:
            keras.utils.set_random_seed(1)  # of the backbone
            with strategy.scope():
                built = classifier.from_options(model, 3, seed=17)
                run = training.Run(strategy, built, rows, rows, recipe, folder / "none")
            seen.append(Encoder.of(built).logits(run.method.pack(tf.float32), batch).numpy())
            for _ in range(3):
                for part in strategy.experimental_distribute_dataset(run.batches.ordered()):
                    run.train_on(part)
            seen.append(Encoder.of(built).logits(run.method.pack(tf.float32), batch).numpy())
        begun, alone, _, mirrored = seen
        print("ENDED", name, np.abs(alone - begun).max(), np.abs(mirrored - alone).max())


# === What is refused ===


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "top_layers"}, "top_layers needs it"),
        ({"top_layers": 2}, "goes with method: top_layers, and method is full"),
        ({"lora": {"rank": 4}}, "goes with method: lora, and method is full"),
        ({"method": "gradual", "unfreeze_epochs": 3}, "3 opens no layer in 3 epochs"),
        ({"unfreeze_epochs": 1}, "unfreeze_epochs: it goes with method: gradual, and method is full"),
        ({"method": "lora", "adalora": {"rank": 4}}, "goes with method: adalora, and method is lora"),
        ({"method": "probe", "adapters": {"size": 4}}, "goes with method: adapters, and method is probe"),
        ({"method": "prefix", "prompt": {"tokens": 4}}, "goes with method: prompt, and method is prefix"),
        ({"method": "prompt", "prefix": {"tokens": 4}}, "goes with method: prefix, and method is prompt"),
        (
            {"method": "adalora", "adalora": {"rank": 4, "initial_rank": 3}},
            "3 is below rank .4., and ranks are only pruned",
        ),
        ({"method": "adalora", "adalora": {"warmup_share": 0.6}}, "0.6 and 0.4 leave no steps"),
        ({"method": "adalora", "adalora": {"targets": ["up", "up"]}}, "each at most once, not up, up"),
        ({"method": "probe", "layer_decay": 0.9}, "no layer's own weights are trained"),
        ({"method": "adapters", "layer_decay": 0.9}, "no layer's own weights are trained"),
        ({"method": "lora", "lora": {"targets": ["query", "query"]}}, "each at most once, not query, query"),
        ({"method": "lora", "lora": {"targets": []}}, "at least 1 item"),
        ({"method": "lora", "lora": {"dropout": 1.0}}, "less than 1"),
        ({"layer_decay": 1.5}, "less than or equal to 1"),
    ],
)
def test_keys_that_do_not_go_together(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainOptions(**changes)


def test_the_options_survive_json():
    for changes in EACH.values():
        made = TrainOptions(**changes)
        assert TrainOptions.model_validate_json(made.model_dump_json()) == made
