"""Against the equations of Zhang et al. 2023, computed here with numpy."""

import numpy as np
import pytest
import tensorflow as tf
from test_methods import chosen, logits, moved
from tiny_bert import tiny_classifier

from bertline.errors import UserError

UP = {"method": "adalora", "adalora": {"rank": 2, "initial_rank": 4, "targets": ["up"], "interval": 5}}
STRATEGY = tf.distribute.get_strategy()


def adalora(model, epochs=2, steps=50, **changes):
    return chosen(model, epochs, steps, **{**UP, "adalora": {**UP["adalora"], **changes}})


def observe(method, gradients):
    watcher = method.watcher
    STRATEGY.extended.call_for_each_replica(
        lambda: tf.distribute.get_replica_context().merge_call(
            lambda strategy: watcher.before(strategy, [tf.constant(g, tf.float32) for g in gradients])
        )
    )


def share_out(method, step):
    watcher = method.watcher
    STRATEGY.extended.call_for_each_replica(
        lambda: tf.distribute.get_replica_context().merge_call(
            lambda strategy: watcher.after(strategy, tf.constant(step, tf.int64))
        )
    )


def test_it_begins_as_the_pretrained_weights_and_orthonormal():
    model = tiny_classifier()
    method = adalora(model)
    np.testing.assert_array_equal(logits(model, method.pack(tf.float32)), logits(model))
    assert float(method.penalty()) < 1e-10


def test_the_product_and_the_penalty_are_the_papers():
    """W' = W + P diag(s) Q; the squared Frobenius norms of P' P - 1 and Q Q' - 1, over both kernels, times 0.1."""
    model = tiny_classifier()
    kernel = model.backbone.transformer_layers[1]._feedforward_intermediate_dense.kernel
    before = kernel.numpy()
    method = moved(adalora(model))
    arrays = method.arrays()
    expected = 0.0
    for at in (0, 1):
        down, up = arrays[f"{at}/up/down"], arrays[f"{at}/up/up"]
        expected += np.square(down.T @ down - np.eye(4)).sum() + np.square(up @ up.T - np.eye(4)).sum()
    assert float(method.penalty()) == pytest.approx(0.1 * expected, rel=1e-4)
    kept = method.finish()
    product = kept["1/up/down"] @ np.diag(kept["1/up/singular"]) @ kept["1/up/up"]
    np.testing.assert_allclose(kernel, before + product, atol=1e-5)


def test_the_budget_falls_by_a_cube_between_warm_up_and_the_last_part():
    method = adalora(tiny_classifier(), warmup_share=0.1, settled_share=0.4)  # 100 steps, two kernels
    budget = [int(method.budget(tf.constant(step, tf.int64))) for step in (0, 10, 35, 60, 99)]
    assert budget == [8, 8, 4 + round(4 * 0.5**3), 4, 4]


def test_importance_is_the_papers():
    """Sensitivity |w g| and its uncertainty, smoothed by 0.85; of a triplet the value's and the vectors' means."""
    method = adalora(tiny_classifier())
    draw = np.random.default_rng(3)
    moved(method)
    factors = [variable.numpy() for variable in method.factor_variables]
    mean = [np.zeros_like(factor) for factor in factors]
    spread = [np.zeros_like(factor) for factor in factors]
    for _ in range(3):
        gradients = [draw.normal(size=variable.shape) for variable in method.variables]
        observe(method, gradients)
        for at, (factor, gradient) in enumerate(zip(factors, gradients, strict=False)):
            now = np.abs(factor * gradient)
            mean[at] = 0.85 * mean[at] + 0.15 * now
            spread[at] = 0.85 * spread[at] + 0.15 * np.abs(now - mean[at])
    scores = [m * s for m, s in zip(mean, spread, strict=True)]
    expected = [scores[at].mean(0) + scores[at + 1] + scores[at + 2].mean(1) for at in (0, 3)]
    np.testing.assert_allclose(method.importance(), expected, rtol=1e-4)


def test_the_least_important_are_pruned_across_kernels_and_the_places_are_fixed_at_the_end():
    method = adalora(tiny_classifier())
    values = [variable for variable in method.variables if variable.name == "adalora_singular"]

    def weigh(scores):  # only the singular values count
        for value, row in zip(values, scores, strict=True):
            place = [id(each) for each in method.factor_variables].index(id(value))
            method.state["sensitivity"][place].assign(row)
            method.state["uncertainty"][place].assign(np.ones(4))

    def left():
        return [list(np.flatnonzero(value.numpy())) for value in values]

    for value in values:
        value.assign(np.ones(4))
    weigh([[9, 8, 7, 1], [2, 6, 3, 4]])
    share_out(method, 5)  # in the warm-up nothing is pruned
    assert left() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    share_out(method, 55)  # the budget is 4 of 8, and most of it goes to the first kernel
    assert left() == [[0, 1, 2], [1]]
    for value in values:
        value.assign(np.ones(4))
    share_out(method, 57)  # between two turns what was pruned may grow again
    assert left() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    weigh([[1, 8, 7, 9], [2, 6, 3, 4]])
    share_out(method, 60)  # the last turn
    assert left() == [[1, 2, 3], [1]]
    weigh([[9, 1, 1, 1], [9, 9, 9, 9]])
    for value in values:
        value.assign(np.ones(4))
    share_out(method, 61)
    assert left() == [[1, 2, 3], [1]]
    assert method.ranks() == {"0/up": 3, "1/up": 1}


def test_a_rank_above_the_width_is_refused():
    with pytest.raises(UserError, match=r"train\.adalora\.rank: 9 at the start .* is above the backbone's width of 8"):
        adalora(tiny_classifier(), rank=6, initial_rank=None)
