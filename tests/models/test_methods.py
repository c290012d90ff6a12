import numpy as np
import pytest
import tensorflow as tf
from factories import tiny_model_options, tokenised_reviews
from test_encoder import LENGTHS, SEGMENTS, TOKENS, tiny_classifier
from test_training import RECIPE, train

from bertline.errors import UserError
from bertline.models import lora, methods, training
from bertline.models.bert import classifier
from bertline.models.bert.encoder import Batch, Encoder, pack
from bertline.models.recipe import LoraOptions, TrainOptions

ALL = LoraOptions(rank=3, alpha=6, targets=["query", "key", "value", "output", "up", "down"])
LORA = {"method": "lora", "lora": ALL, "learning_rate": 0.01}
TOP = {"method": "top_layers", "top_layers": 1}


def options(**changes):
    return TrainOptions(**{**RECIPE.model_dump(), **changes})


def paths(variables):
    return {variable.path for variable in variables}


def logits(model, adapters=None, seed=None):
    return Encoder.of(model).logits(pack(model, tf.float32, adapters), Batch(TOKENS, SEGMENTS, LENGTHS), seed)


def with_factors(model, drawn, settings=ALL):
    """LoRA's factors of a classifier, none of them zero."""
    factors = lora.Lora(model, settings, seed=1)
    for variable in factors.variables:
        variable.assign(drawn.normal(0, 0.3, variable.shape))
    return factors


# === LoRA ===


def test_lora_begins_as_the_pretrained_weights():
    model = tiny_classifier()
    factors = lora.Lora(model, ALL, seed=1)
    np.testing.assert_array_equal(logits(model, factors.adapters(tf.float32)), logits(model))


@pytest.mark.parametrize("targets", [["value"], ["query", "value"], ["output", "down"], ALL.targets], ids="+".join)
def test_lora_merged_computes_what_it_computed_beside_the_kernels(targets):
    model = tiny_classifier()
    before = logits(model)
    factors = with_factors(model, np.random.default_rng(1), ALL.model_copy(update={"targets": targets}))
    beside = logits(model, factors.adapters(tf.float32))
    assert np.abs(beside - before).max() > 1e-2
    kept = factors.arrays()
    factors.merge()
    np.testing.assert_allclose(logits(model), beside, atol=1e-4)
    np.testing.assert_allclose(logits(model, factors.adapters(tf.float32)), beside, atol=1e-4)
    assert kept["scale"] == 2
    assert {name.rpartition("/")[0] for name in kept if name != "scale"} == {
        f"{layer}/{target}" for layer in (0, 1) for target in targets
    }


def test_lora_is_the_papers_formula():
    """W' = W + (alpha / rank) A B, on one kernel that can be written down."""
    model = tiny_classifier()
    kernel = model.backbone.transformer_layers[1]._feedforward_intermediate_dense.kernel
    before = kernel.numpy()
    factors = with_factors(model, np.random.default_rng(2), ALL.model_copy(update={"targets": ["up"]}))
    kept = factors.arrays()
    factors.merge()
    np.testing.assert_allclose(kernel, before + 6 / 3 * kept["1/up/down"] @ kept["1/up/up"], atol=1e-5)


def test_loras_dropout_follows_the_seed_and_is_off_without_one():
    model = tiny_classifier()
    factors = with_factors(model, np.random.default_rng(1), ALL.model_copy(update={"dropout": 0.5}))
    adapters = factors.adapters(tf.float32)
    one, same, other = (logits(model, adapters, tf.constant([1, seed], tf.int64)) for seed in (2, 2, 9))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3
    without = logits(model, adapters)
    factors.merge()
    np.testing.assert_allclose(logits(model), without, atol=1e-4)


def test_a_rank_above_the_width_is_refused():
    with pytest.raises(UserError, match=r"train\.lora\.rank: 9 is above the backbone's width of 8"):
        lora.Lora(tiny_classifier(), ALL.model_copy(update={"rank": 9}), seed=1)


# === What is trained ===


def test_top_layers_are_the_last_ones_the_pooler_and_the_head():
    model = tiny_classifier()
    chosen = methods.choose(model, options(**TOP))
    top = model.backbone.transformer_layers[1]
    expected = [*top.trainable_variables, *model.backbone.pooled_dense.trainable_variables]
    assert paths(chosen.variables) == paths([*expected, *model.output_dense.trainable_variables])
    with pytest.raises(UserError, match="2 of 2 layers leave none frozen"):
        methods.choose(model, options(method="top_layers", top_layers=2))


def test_bitfit_trains_biases_and_the_head():
    model = tiny_classifier()
    chosen = methods.choose(model, options(method="bitfit"))
    head = paths(model.output_dense.trainable_variables)
    assert {variable.name for variable in chosen.variables if variable.path not in head} == {"bias", "beta"}
    assert len(paths(chosen.variables) & head) == 2
    assert chosen.weights < sum(int(np.prod(v.shape)) for v in model.trainable_variables) / 3


def test_rates_decay_from_the_head_down():
    model = tiny_classifier()
    chosen = methods.choose(model, options(layer_decay=0.5))
    rate = {variable.path: rate for variable, rate in zip(chosen.variables, chosen.rates, strict=True)}
    network = model.backbone
    assert rate[model.output_dense.kernel.path] == rate[network.pooled_dense.kernel.path] == 1
    lower, upper = (layer._feedforward_output_dense.kernel.path for layer in network.transformer_layers)
    assert (rate[upper], rate[lower], rate[network.token_embedding.embeddings.path]) == (0.5, 0.25, 0.125)
    assert rate[network.embeddings_layer_norm.gamma.path] == 0.125


@pytest.mark.parametrize("changes", [LORA, {"method": "bitfit", "learning_rate": 0.01}], ids=["lora", "bitfit"])
def test_frozen_weights_do_not_move_and_it_learns(tmp_path, changes):
    started = {}

    class Seen(training.Run):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            started.update({v.path: v.numpy() for v in self.model.variables})

        def merge(self, file):
            trained = paths(self.method.variables)
            for variable in self.model.variables:
                if variable.path not in trained:
                    np.testing.assert_array_equal(variable.numpy(), started[variable.path], err_msg=variable.path)
            super().merge(file)

    model = tiny_model_options(tmp_path, pooling="mean")  # whose head alone can tell which words a text has
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Run", Seen)
        trained = training.fit(
            lambda: classifier.from_options(model, 3, seed=17),
            tokenised_reviews(model, 300),
            tokenised_reviews(model, 30, seed=1),
            options(**changes),
            checkpoints=tmp_path / "checkpoints",
            adapter=tmp_path / "kept/lora.npz",
        )
    assert trained.history.best.validation_loss < 0.8 * trained.history.epochs[0].validation_loss
    assert 0 < trained.history.trained_weights < trained.history.weights / 2
    if changes is LORA:
        with np.load(tmp_path / "kept/lora.npz") as kept:
            assert np.abs(kept["0/value/up"]).max() > 0
    else:
        assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("changes", [LORA, {"layer_decay": 0.5}], ids=["lora", "layer_decay"])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, monkeypatch, changes):
    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == 18:  # two steps after a checkpoint
            raise Killed

    monkeypatch.setattr(training, "REPORT_SECONDS", 0)
    recipe = options(**changes)
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    model, history, left = train(tmp_path / "whole", options=recipe)
    with pytest.raises(Killed):
        train(tmp_path / "cut", options=recipe, on_progress=kill)
    resumed, resumed_history, resumed_left = train(tmp_path / "cut", options=recipe)
    assert resumed_history.resumed_at == [16]
    assert resumed_history.epochs == history.epochs
    np.testing.assert_array_equal(resumed_left, left)
    for one, other in zip(resumed.variables, model.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


# === What is refused ===


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "top_layers"}, "top_layers needs it"),
        ({"top_layers": 2}, "goes with method: top_layers, and method is full"),
        ({"lora": {"rank": 4}}, "goes with method: lora, and method is full"),
        ({"method": "probe", "layer_decay": 0.9}, "no layer's own weights are trained"),
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
    for changes in ({}, TOP, {"method": "lora", "lora": {"rank": 4}}):
        made = TrainOptions(**changes)
        assert TrainOptions.model_validate_json(made.model_dump_json()) == made
