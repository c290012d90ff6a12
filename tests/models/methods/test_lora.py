import numpy as np
import pytest
import tensorflow as tf
from test_methods import LORA, SIX, chosen, logits, moved
from tiny_bert import tiny_classifier

from bertline.errors import UserError

FACTORS = ("lora_down", "lora_up")


def lora(model, **changes):
    return chosen(model, method="lora", lora={**LORA["lora"], **changes})


def test_it_begins_as_the_pretrained_weights():
    model = tiny_classifier()
    np.testing.assert_array_equal(logits(model, lora(model).pack(tf.float32)), logits(model))


@pytest.mark.parametrize("targets", [["value"], ["query", "value"], ["output", "down"], SIX], ids="+".join)
def test_merged_computes_what_it_computed_beside_the_kernels(targets):
    model = tiny_classifier()
    before = logits(model)
    method = moved(lora(model, targets=targets), names=FACTORS)
    beside = logits(model, method.pack(tf.float32))
    assert np.abs(beside - before).max() > 1e-2
    kept = method.finish()
    np.testing.assert_allclose(logits(model), beside, atol=1e-4)
    np.testing.assert_allclose(logits(model, method.pack(tf.float32)), beside, atol=1e-4)
    assert kept["scale"] == 2
    assert {name.rpartition("/")[0] for name in kept if name != "scale"} == {
        f"{layer}/{target}" for layer in (0, 1) for target in targets
    }


def test_it_is_the_papers_formula():
    """W' = W + (alpha / rank) A B, on one kernel that can be written down."""
    model = tiny_classifier()
    kernel = model.backbone.transformer_layers[1]._feedforward_intermediate_dense.kernel
    before = kernel.numpy()
    kept = moved(lora(model, targets=["up"]), names=FACTORS).finish()
    np.testing.assert_allclose(kernel, before + 6 / 3 * kept["1/up/down"] @ kept["1/up/up"], atol=1e-5)


def test_its_dropout_follows_the_seed_and_is_off_without_one():
    model = tiny_classifier()
    method = moved(lora(model, dropout=0.5), names=FACTORS)
    weights = method.pack(tf.float32)
    one, same, other = (logits(model, weights, tf.constant([1, seed], tf.int64)) for seed in (2, 2, 9))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3
    without = logits(model, weights)
    method.finish()
    np.testing.assert_allclose(logits(model), without, atol=1e-4)


def test_a_rank_above_the_width_is_refused():
    with pytest.raises(UserError, match=r"train\.lora\.rank: 9 is above the backbone's width of 8"):
        lora(tiny_classifier(), rank=9)
